//! A guest and a kernel socket with a connection between them, in simulated time.
//!
//! The link to the guest can lose, repeat, delay and reorder, and be full. What must always hold is checked on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etherparse::TcpHeader;

use super::super::{Action, Config, Connection, Failure, Flags, Segment, Seq, Transmit};
use super::guest::{self, Frame, Guest};
use super::kernel::{self, Kernel, Peek};
use crate::time::Instant;

/// What goes wrong on the way, each in thousandths of the segments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) lost_to_guest: u32,
    pub(super) lost_to_us: u32,
    pub(super) repeated: u32,
    pub(super) reordered: u32,
    /// The guest has no room.
    pub(super) full: u32,
    /// Marked "congestion experienced".
    pub(super) marked: u32,
}

/// How the socket's `connect` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    Succeeds,
    Fails(Failure),
    Never,
}

pub(super) struct Pair {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) config: Arc<Config>,
    pub(super) connection: Option<Connection>,
    pub(super) guest: Guest,
    pub(super) kernel: Kernel,
    pub(super) connect: Connect,
    connected_at: Option<Instant>,
    pub(super) delay: Duration,
    pub(super) faults: Faults,
    /// Segments with new data that are lost on their way to the guest, counted from now on.
    pub(super) lost_places: Vec<u64>,
    place: u64,
    /// How many frames the guest's ring holds.
    pub(super) ring: usize,
    /// The guest takes none: its ring stays full.
    pub(super) is_ring_closed: bool,
    is_blocked: bool,
    to_guest: VecDeque<(Instant, Frame)>,
    to_us: VecDeque<(Instant, Frame)>,
    random: u64,
    /// The action that ended the connection.
    pub(super) over: Option<Action>,
    pub(super) is_listening: bool,
    edge: Option<Seq>,
    /// What was sent to the guest, and when.
    pub(super) transmitted: Vec<(Instant, Transmit)>,
    pub(super) sent_again: u64,
    highest: Option<Seq>,
}

impl Pair {
    pub(super) fn new(guest: guest::Kind, kernel: kernel::Kind, to_far: Vec<u8>, to_guest: Vec<u8>) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            config: Arc::new(Config::default()),
            connection: None,
            guest: Guest::new(start, 0xffff_f000, guest, to_far),
            kernel: Kernel::new(kernel, to_guest),
            connect: Connect::Succeeds,
            connected_at: None,
            delay: Duration::from_micros(30),
            faults: Faults::default(),
            lost_places: Vec::new(),
            place: 0,
            ring: 256,
            is_ring_closed: false,
            is_blocked: false,
            to_guest: VecDeque::new(),
            to_us: VecDeque::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            over: None,
            is_listening: true,
            edge: None,
            transmitted: Vec::new(),
            sent_again: 0,
            highest: None,
        }
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random ^= seed.wrapping_mul(0xd134_2543_de82_ef95) | 1;
    }

    /// The guest opens.
    pub(super) fn open_from_guest(&mut self) {
        self.guest.connect();
    }

    /// The far end opens.
    pub(super) fn open_from_host(&mut self) {
        let info = self.kernel.info();
        self.connected_at = Some(self.now);
        self.connection = Some(Connection::from_host(self.now, OUR_ISN, &info, Arc::clone(&self.config)));
        self.drive();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Runs until `is_enough` or nothing happens any more; at most for `limit` of simulated time. Whether it was
    /// enough.
    pub(super) fn run(&mut self, limit: Duration, is_enough: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        let mut rounds = 0;
        for _ in 0..STEPS {
            self.settle();
            if is_enough(self) {
                return true;
            }
            let Some(next) = self.next_event() else { return false };
            if next > end {
                self.now = end;
                self.settle();
                return is_enough(self);
            }
            rounds = if next > self.now { 0 } else { rounds + 1 };
            assert!(rounds < 1000, "nothing but work, and time stands still: {:?}", self.connection);
            self.now = self.now.max(next);
        }
        panic!("too much happens: {}", self.describe());
    }

    /// Until both ends and the connection are through, and the kernel has delivered what it was left with.
    pub(super) fn run_to_the_end(&mut self, limit: Duration) {
        let ended = self.run(limit, |pair| pair.over.is_some() && (pair.kernel.is_reset || pair.kernel.far_got_end()));
        assert!(ended, "it ends within {limit:?}: {}", self.describe());
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "at {:?} the guest is {:?}, has sent {} of {}, received {} ({}); the far end has received {} and sent {} of {}; {:?}",
            self.elapsed(),
            self.guest.state,
            self.guest.una,
            self.guest.stream.len(),
            self.guest.received.len(),
            self.guest.got_end,
            self.kernel.far_received.len(),
            self.kernel.discarded,
            self.kernel.stream.len(),
            self.connection
        )
    }

    /// Both directions arrived whole.
    pub(super) fn assert_delivered(&self) {
        assert!(self.guest.received == self.kernel.stream, "to the guest: {}", self.describe());
        assert!(self.guest.got_end, "{}", self.describe());
        assert!(self.kernel.far_received == self.guest.stream, "to the far end: {}", self.describe());
        assert!(self.kernel.far_got_end(), "{}", self.describe());
        assert_eq!(self.over, Some(Action::Close), "{}", self.describe());
    }

    /// A connection that is open on both sides, with nothing to do, because neither end closes.
    pub(super) fn opened(guest: guest::Kind, kernel: kernel::Kind, to_far: Vec<u8>, to_guest: Vec<u8>) -> Self {
        Self::new(guest, kernel, to_far, to_guest).open()
    }

    /// See [`Self::opened`].
    pub(super) fn open(self) -> Self {
        let mut pair = self;
        pair.guest.closes = false;
        pair.kernel.far_closes = false;
        pair.open_from_guest();
        pair.run(Duration::from_secs(60), |_| false);
        assert_eq!(pair.guest.state, guest::State::Open);
        assert!(pair.guest.received == pair.kernel.stream && pair.kernel.far_received == pair.guest.stream);
        pair.transmitted.clear();
        pair
    }

    /// A forged segment arrives from the guest: numbers are as far from what the guest would send next and acknowledge
    /// as `seq` and `ack` say. What is sent in answer, at once.
    pub(super) fn forge(
        &mut self,
        seq: i32,
        ack: i32,
        payload: &[u8],
        change: impl FnOnce(&mut TcpHeader),
    ) -> Vec<Transmit> {
        let mut header = TcpHeader::new(2, 1, self.guest.seq(self.guest.nxt).wrapping_add_signed(seq), 1000);
        header.ack = true;
        header.acknowledgment_number = self.guest.peer_seq(self.guest.received.len()).wrapping_add_signed(ack);
        change(&mut header);
        let sent = self.transmitted.len();
        self.on_frame(&Frame { header: header.to_bytes().to_vec(), payload: payload.to_vec(), is_marked: false });
        self.drive();
        self.transmitted[sent..].iter().map(|(_, transmit)| *transmit).collect()
    }

    /// Data of the guest's arrives, marked "congestion experienced". What is answered.
    pub(super) fn forge_marked(&mut self, payload: &[u8]) -> Transmit {
        self.guest.stream.extend(payload);
        let now = self.now;
        self.guest.advance(now);
        let mut frame = self.guest.out.pop().unwrap();
        frame.is_marked = true;
        self.on_frame(&frame);
        self.drive();
        self.run(Duration::from_millis(20), |_| false);
        self.transmitted.last().unwrap().1
    }

    /// A number below `limit`.
    fn dice(&mut self, limit: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random >> 40).unwrap() % limit
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.dice(1000) < thousandths
    }

    fn next_event(&self) -> Option<Instant> {
        [
            self.to_guest.iter().map(|(at, _)| *at).min().filter(|_| !self.is_ring_closed),
            self.to_us.iter().map(|(at, _)| *at).min(),
            self.connection.as_ref().and_then(Connection::deadline),
            self.guest.deadline(),
            self.kernel.deadline(),
            self.connected_at.filter(|at| *at > self.now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Everything that is due now.
    fn settle(&mut self) {
        let now = self.now;
        if !self.is_ring_closed {
            while let Some(frame) = due(&mut self.to_guest, now) {
                self.guest.on_frame(now, &frame);
                self.guest.advance(now);
            }
        }
        self.guest.advance(now);
        for frame in std::mem::take(&mut self.guest.out) {
            if !self.happens(self.faults.lost_to_us) {
                self.put_to_us(frame);
            }
        }
        let mut is_touched = false;
        while let Some(frame) = due(&mut self.to_us, now) {
            self.on_frame(&frame);
            is_touched = true;
        }
        let connects = self.connect != Connect::Never && self.connected_at.is_some_and(|at| now >= at);
        if connects && self.kernel_connects() {
            is_touched = true;
        }
        if self.connected_at.is_some_and(|at| now >= at) {
            self.kernel.advance(now);
        }
        if let Some(connection) = self.connection.as_mut() {
            if std::mem::take(&mut self.kernel.readable) {
                connection.on_readable();
                is_touched = true;
            }
            if std::mem::take(&mut self.kernel.writable) {
                connection.on_writable();
                is_touched = true;
            }
            if self.is_blocked && self.to_guest.len() < self.ring && !self.is_ring_closed {
                self.is_blocked = false;
                connection.on_unblocked();
                is_touched = true;
            }
            if connection.deadline().is_some_and(|deadline| now >= deadline) {
                connection.on_timer(now);
                is_touched = true;
            }
        }
        if is_touched {
            self.drive();
        }
    }

    fn kernel_connects(&mut self) -> bool {
        let info = self.kernel.info();
        match (self.connection.as_mut(), std::mem::replace(&mut self.connect, Connect::Never)) {
            (Some(connection), Connect::Succeeds) => connection.on_connected(self.now, &info),
            (Some(connection), Connect::Fails(failure)) => connection.on_failed(self.now, failure),
            _ => return false,
        }
        true
    }

    pub(super) fn put_to_us(&mut self, frame: Frame) {
        put(&mut self.to_us, self.now + self.delay, frame);
    }

    /// A frame of the guest's, as the translator gets it.
    pub(super) fn on_frame(&mut self, frame: &Frame) {
        let length = u32::try_from(frame.payload.len()).unwrap();
        let mut segment = Segment::parse(&frame.header, length).expect("the guest's header is whole");
        segment.congested = frame.is_marked;
        if self.connection.as_ref().is_some_and(|connection| connection.is_superseded_by(&segment)) {
            self.connection = None;
            self.over = None;
        }
        if self.connection.is_none() {
            if segment.is_opening() && self.is_listening {
                let config = Arc::clone(&self.config);
                self.connection = Some(Connection::from_guest(self.now, OUR_ISN, &segment, config));
                self.connected_at = Some(self.now + self.kernel.kind.rtt);
            } else if let Some(answer) = super::super::refusal(&segment) {
                put(&mut self.to_guest, self.now + self.delay, header_of(&answer));
            }
            return;
        }
        let connection = self.connection.as_mut().unwrap();
        if let Some(range) = connection.on_segment(self.now, &segment) {
            let payload = &frame.payload[range.start as usize..range.end as usize];
            assert!(!payload.is_empty());
            let taken = self.kernel.write(payload);
            connection.on_written(self.now, &range, u32::try_from(taken).unwrap());
        }
    }

    /// Does what the connection says.
    pub(super) fn drive(&mut self) {
        for _ in 0..100_000 {
            let Some(connection) = self.connection.as_mut() else { return };
            let Some(action) = connection.poll(self.now) else { return };
            match action {
                Action::AskInfo => {
                    let info = self.kernel.info();
                    connection.on_info(self.now, &info);
                }
                Action::AwaitWritable => self.kernel.await_writable(),
                Action::Discard(bytes) => {
                    assert!(bytes > 0);
                    self.kernel.discard(bytes);
                }
                Action::ShutdownWrite => {
                    assert!(!self.kernel.is_shut_down);
                    self.kernel.is_shut_down = true;
                }
                Action::CloseSocket => {
                    assert!(!self.kernel.is_closed);
                    self.kernel.is_closed = true;
                }
                Action::Close | Action::Reset => {
                    self.kernel.is_reset = action == Action::Reset;
                    self.kernel.is_closed = true;
                    self.over = Some(action);
                    self.connection = None;
                }
                Action::Transmit(transmit) => self.transmit(&transmit),
            }
        }
        panic!("it never stops");
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let connection = self.connection.as_mut().unwrap();
        let payload = match transmit.payload {
            None => Vec::new(),
            Some(payload) => match self.kernel.peek(payload.offset, payload.max) {
                Peek::Data(bytes) => bytes,
                Peek::End => return connection.on_end(transmit),
                Peek::Nothing => return connection.on_drained(transmit),
            },
        };
        let is_full = self.to_guest.len() >= self.ring || self.is_ring_closed;
        if is_full || self.happens(self.faults.full) {
            self.is_blocked = true;
            return self.connection.as_mut().unwrap().on_blocked();
        }
        let length = u32::try_from(payload.len()).unwrap();
        let sent_again = self.sent_again;
        self.check(transmit, length);
        let is_new = sent_again == self.sent_again;
        let mut frame = header_of(transmit);
        frame.payload = payload;
        frame.is_marked = self.faults.marked > 0 && transmit.ect;
        self.connection.as_mut().unwrap().on_transmitted(self.now, transmit, length);
        self.transmitted.push((self.now, *transmit));
        let is_lost = self.happens(self.faults.lost_to_guest) || self.loses_place(is_new && length > 0);
        if is_lost {
            return;
        }
        if self.happens(self.faults.repeated) {
            put(&mut self.to_guest, self.now + self.delay, frame.clone());
        }
        let mut at = self.now + self.delay;
        if self.happens(self.faults.reordered) {
            at += self.delay * self.dice(8);
            self.to_guest.push_back((at, frame));
        } else {
            put(&mut self.to_guest, at, frame);
        }
    }

    fn loses_place(&mut self, is_new: bool) -> bool {
        if !is_new || self.lost_places.is_empty() {
            return false;
        }
        self.place += 1;
        self.lost_places.contains(&(self.place - 1))
    }

    /// What holds for every segment.
    fn check(&mut self, transmit: &Transmit, length: u32) {
        let most = transmit.payload.map_or(0, |payload| payload.max);
        assert!(most <= self.config.burst, "{most} bytes at once, for which nobody has room");
        assert!(length <= 65_535 - 40 && transmit.mss <= self.guest.kind.mss.max(536));
        if transmit.flags.contains(Flags::RST) || transmit.flags.contains(Flags::SYN) {
            return;
        }
        let scale = self.kernel_scale();
        let edge = transmit.ack.expect("acknowledges") + (u32::from(transmit.window) << scale);
        if let Some(before) = self.edge {
            assert!(before.since(edge) < 1 << scale, "no window is taken back: {edge:?} before {before:?}");
        }
        self.edge = Some(self.edge.map_or(edge, |before| before.max(edge)));
        if length > 0 {
            if self.highest.is_some_and(|highest| transmit.seq.is_before(highest)) {
                self.sent_again += 1;
            }
            let end = transmit.seq + length;
            self.highest = Some(self.highest.map_or(end, |highest| highest.max(end)));
        }
    }

    fn kernel_scale(&self) -> u8 {
        if self.guest.kind.scale.is_some() { 8 } else { 0 }
    }
}

fn header_of(transmit: &Transmit) -> Frame {
    let mut header = [0; 60];
    let length = transmit.write_header(1, 2, &mut header);
    Frame { header: header[..length].to_vec(), payload: Vec::new(), is_marked: false }
}

/// In order.
fn put(queue: &mut VecDeque<(Instant, Frame)>, at: Instant, frame: Frame) {
    let at = queue.back().map_or(at, |(last, _)| at.max(*last));
    queue.push_back((at, frame));
}

fn due(queue: &mut VecDeque<(Instant, Frame)>, now: Instant) -> Option<Frame> {
    let place = queue.iter().position(|(at, _)| *at <= now)?;
    queue.remove(place).map(|(_, frame)| frame)
}

/// How many times something may happen in one run.
const STEPS: u32 = 300_000;

/// Where our numbers begin: they wrap soon.
pub(super) const OUR_ISN: Seq = Seq(0xffff_8000);
