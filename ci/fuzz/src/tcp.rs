//! A TCP connection of the translator's: any events in any order, and segments of a guest that knows the numbers or makes them up.
//!
//! Checked: what is written to the socket is the guest's data in order, once, and nothing behind its end; what is read of it is in
//! reach; what is discarded was sent; windows are not taken back, and nothing is acknowledged that did not come; it always stops
//! saying what to do, and no time of its own stands still; and when the guest falls silent the connection ends by itself.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_translate::tcp::{Action, Config, Connection, Failure, Flags, Segment, Seq, SocketInfo, Transmit, refusal};
use culvert_translate::time::Instant;

#[derive(Arbitrary, Debug)]
struct Input {
    is_from_host: bool,
    has_timestamps: bool,
    syn_options: Vec<u8>,
    window: u16,
    isn: u32,
    guest_isn: u32,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// The socket connects.
    Connect,
    /// The far end sends that many bytes.
    Arrive(u16),
    /// The far end sends no more.
    End,
    /// The socket fails.
    Fail {
        is_reset: bool,
    },
    /// What the socket takes and tells from now on.
    Socket {
        takes: u16,
        room: u32,
        rtt_micros: u32,
    },
    Writable,
    /// The guest's ring is full, or has room.
    Ring {
        is_full: bool,
    },
    Pass {
        millis: u16,
    },
    PassLong {
        minutes: u8,
    },
    /// The guest's next segment, as it should be.
    Proper {
        length: u16,
        window: u16,
        is_last: bool,
        is_congested: bool,
    },
    /// A segment whose numbers are somewhere about the right ones.
    Near {
        flags: u8,
        seq: i16,
        ack: i16,
        window: u16,
        length: u16,
        timestamp: Option<i16>,
        options: Vec<u8>,
    },
    /// Any header at all.
    Any {
        header: Vec<u8>,
        length: u32,
    },
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut bench = Bench::new(&input);
    for operation in input.operations.iter().take(300) {
        if bench.connection.is_none() {
            return;
        }
        bench.operate(operation);
        bench.drive();
    }
    bench.outlast();
}

/// A connection, and a socket and a guest as far as numbers go.
struct Bench {
    connection: Option<Connection>,
    now: Instant,
    start: Instant,
    has_timestamps: bool,
    /// The guest's next byte that the socket has not got yet; `None` until it is known where the guest begins.
    expected: Option<Seq>,
    /// The guest's next, if it behaved.
    next: Seq,
    /// One behind the last that was sent to the guest.
    highest: Seq,
    acked: Option<Seq>,
    edge: Option<Seq>,
    is_shut_down: bool,
    arrived: u64,
    discarded: u64,
    /// How far into what arrived was sent to the guest.
    sent: u64,
    has_end: bool,
    takes: u32,
    info: SocketInfo,
    is_full: bool,
    /// The guest scales windows.
    has_scale: bool,
    /// And so do we, by that many bits.
    scale: u8,
}

impl Bench {
    fn new(input: &Input) -> Self {
        let now = Instant::now();
        let config = Arc::new(Config::default());
        let info = SocketInfo { send_room: 60_000, rtt: Duration::from_millis(5) };
        let isn = Seq(input.isn);
        let mut syn_options = input.syn_options.clone();
        if input.has_timestamps {
            syn_options = [8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1].to_vec();
        }
        let syn = header(Seq(input.guest_isn), Seq(0), Flags::SYN, input.window, &syn_options);
        let syn = Segment::parse(&syn, 0).ok();
        let mut bench = Self {
            connection: None,
            now,
            start: now,
            has_timestamps: input.has_timestamps,
            expected: None,
            next: Seq(input.guest_isn),
            highest: isn,
            acked: None,
            edge: None,
            is_shut_down: false,
            arrived: 0,
            discarded: 0,
            sent: 0,
            has_end: false,
            takes: u32::MAX,
            info,
            is_full: false,
            has_scale: false,
            scale: 0,
        };
        match syn.filter(|_| !input.is_from_host) {
            Some(syn) => {
                bench.connection = Some(Connection::from_guest(now, isn, &syn, config));
                bench.has_scale = syn.options.window_scale.is_some();
                bench.expected = Some(syn.seq + 1);
                bench.next = syn.seq + 1;
            }
            None => bench.connection = Some(Connection::from_host(now, isn, &info, config)),
        }
        bench
    }

    fn operate(&mut self, operation: &Operation) {
        let (now, info) = (self.now, self.info);
        let Some(connection) = self.connection.as_mut() else { return };
        match operation {
            Operation::Connect => connection.on_connected(now, &info),
            Operation::Arrive(bytes) => {
                if !self.has_end {
                    self.arrived += u64::from(*bytes);
                }
                connection.on_readable();
            }
            Operation::End => {
                self.has_end = true;
                connection.on_readable();
            }
            Operation::Fail { is_reset } => {
                connection.on_failed(now, if *is_reset { Failure::Reset } else { Failure::Unreachable });
            }
            Operation::Socket { takes, room, rtt_micros } => {
                self.takes = u32::from(*takes);
                self.info.send_room = *room;
                self.info.rtt = Duration::from_micros((*rtt_micros).into());
            }
            Operation::Writable => connection.on_writable(),
            Operation::Ring { is_full } => {
                self.is_full = *is_full;
                if !is_full {
                    connection.on_unblocked();
                }
            }
            Operation::Pass { millis } => self.pass(Duration::from_millis((*millis).into())),
            Operation::PassLong { minutes } => self.pass(Duration::from_secs(60 * u64::from(*minutes))),
            Operation::Proper { length, window, is_last, is_congested } => {
                self.proper(u32::from(*length), *window, *is_last, *is_congested);
            }
            Operation::Near { flags, seq, ack, window, length, timestamp, options } => {
                let mut bytes = options.clone();
                bytes.truncate(28);
                if let Some(shift) = timestamp {
                    bytes.splice(0..0, self.timestamps(i32::from(*shift)));
                }
                let seq = Seq(self.next.0.wrapping_add_signed((*seq).into()));
                let ack = Seq(self.highest.0.wrapping_add_signed((*ack).into()));
                self.segment(&header(seq, ack, Flags(*flags), *window, &bytes), (*length).into(), false);
            }
            Operation::Any { header, length } => self.segment(header, *length, false),
        }
    }

    /// A guest that follows the rules, as far as it is one at all: SYN first, then data in order.
    fn proper(&mut self, length: u32, window: u16, is_last: bool, is_congested: bool) {
        let options = if self.has_timestamps { self.timestamps(0) } else { Vec::new() };
        if self.expected.is_none() {
            let syn = header(self.next, self.highest, Flags::SYN | Flags::ACK, window, &options);
            return self.segment(&syn, 0, false);
        }
        let flags = if is_last { Flags::ACK | Flags::FIN } else { Flags::ACK };
        self.segment(&header(self.next, self.highest, flags, window, &options), length, is_congested);
    }

    fn timestamps(&self, shift: i32) -> Vec<u8> {
        let millis = u32::try_from((self.now - self.start).as_millis()).unwrap_or(0);
        let value = millis.wrapping_add_signed(shift).to_be_bytes();
        [&[8, 10], &value[..], &millis.to_be_bytes(), &[1, 1]].concat()
    }

    fn segment(&mut self, header: &[u8], length: u32, is_congested: bool) {
        let Ok(mut segment) = Segment::parse(header, length) else { return };
        segment.congested = is_congested;
        if let Some(answer) = refusal(&segment) {
            assert!(answer.flags.contains(Flags::RST) && !segment.flags.contains(Flags::RST));
        }
        if self.expected.is_none() && segment.flags.contains(Flags::SYN) {
            if self.is_full {
                // It would not be seen at once which SYN counted.
                return;
            }
            self.has_scale = segment.options.window_scale.is_some();
        }
        let Some(connection) = self.connection.as_mut() else { return };
        if connection.is_superseded_by(&segment) {
            assert!(segment.is_opening());
        }
        let part = connection.on_segment(self.now, &segment);
        let Some(part) = part else { return };
        assert!(part.start < part.end && part.end <= segment.length, "{part:?} of {segment:?}");
        assert!(!self.is_shut_down, "nothing is written behind the end");
        let first = if segment.flags.contains(Flags::SYN) { segment.seq + 1 } else { segment.seq };
        let expected = self.expected.expect("data comes once both ends are known");
        assert_eq!(first + part.start, expected, "in order, and once");
        let taken = self.takes.min(part.end - part.start);
        connection.on_written(self.now, &part, taken);
        self.expected = Some(expected + taken);
        self.next = expected + taken;
    }

    /// Time passes, with all that is due on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..STEPS {
            self.drive();
            let Some(connection) = self.connection.as_mut() else { return };
            let Some(deadline) = connection.deadline().filter(|deadline| *deadline <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(deadline);
            connection.on_timer(self.now);
            self.drive();
            let Some(connection) = self.connection.as_ref() else { return };
            assert!(connection.deadline().is_none_or(|next| next > self.now), "time stands still: {connection:?}");
        }
        panic!("it is never idle: {:?}", self.connection);
    }

    /// The guest says nothing more, and the far end neither.
    fn outlast(&mut self) {
        self.has_end = true;
        if let Some(connection) = self.connection.as_mut() {
            connection.on_readable();
        }
        self.pass(Duration::from_secs(24 * 3600));
        if let Some(connection) = self.connection.as_mut() {
            // Only what waits for the socket may still be there.
            connection.on_failed(self.now, Failure::Reset);
            self.pass(Duration::from_secs(60));
        }
        assert!(self.connection.is_none(), "it never ends: {:?}", self.connection);
    }

    fn drive(&mut self) {
        for _ in 0..STEPS {
            let info = self.info;
            let Some(connection) = self.connection.as_mut() else { return };
            let Some(action) = connection.poll(self.now) else { return };
            match action {
                Action::AskInfo => connection.on_info(self.now, &info),
                Action::AwaitWritable | Action::CloseSocket => {}
                Action::Discard(bytes) => {
                    assert!(bytes > 0);
                    self.discarded += u64::from(bytes);
                    assert!(self.discarded <= self.sent, "only what was sent is discarded");
                }
                Action::ShutdownWrite => {
                    assert!(!self.is_shut_down, "once");
                    self.is_shut_down = true;
                    self.next = self.next + 1;
                }
                Action::Close | Action::Reset => {
                    assert_eq!(connection.poll(self.now), None, "that was the last");
                    self.connection = None;
                }
                Action::Transmit(transmit) => self.transmit(&transmit),
            }
        }
        panic!("it never stops: {:?}", self.connection);
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let Some(connection) = self.connection.as_mut() else { return };
        let mut bytes = 0;
        if let Some(payload) = transmit.payload {
            assert!(payload.max > 0 && payload.max <= 65_535 - 100 && transmit.mss >= 36);
            let from = self.discarded + u64::from(payload.offset);
            assert!(from <= self.sent, "nothing is left out");
            bytes = self.arrived.saturating_sub(from).min(u64::from(payload.max));
            if bytes == 0 {
                assert_eq!(from, self.sent, "what was sent is still there");
                return if self.has_end { connection.on_end(transmit) } else { connection.on_drained(transmit) };
            }
            if !self.is_full {
                self.sent = self.sent.max(from + bytes);
            }
        }
        if self.is_full {
            return connection.on_blocked();
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        connection.on_transmitted(self.now, transmit, bytes);
        self.check(transmit, bytes);
    }

    fn check(&mut self, transmit: &Transmit, bytes: u32) {
        let mut header = [0; 60];
        let length = transmit.write_header(1, 2, &mut header);
        let read = Segment::parse(&header[..length], bytes).expect("a header of ours can be read");
        assert_eq!((read.seq, read.ack, read.flags), (transmit.seq, transmit.ack, transmit.flags));
        assert_eq!(read.options, transmit.options);
        if transmit.flags.contains(Flags::RST) {
            return;
        }
        let is_syn = transmit.flags.contains(Flags::SYN);
        if is_syn {
            self.scale = transmit.options.window_scale.unwrap_or(0);
        }
        let end = transmit.seq + read.span();
        if end.is_after(self.highest) {
            self.highest = end;
        }
        let Some(ack) = transmit.ack else { return };
        let expected = *self.expected.get_or_insert_with(|| {
            self.next = ack;
            ack
        });
        // With FIN.
        assert!(!ack.is_after(expected + 1), "what did not come is not acknowledged");
        let scale = if is_syn || !self.has_scale { 0 } else { self.scale };
        let edge = ack + (u32::from(transmit.window) << scale);
        if let (Some(acked), Some(before)) = (self.acked, self.edge) {
            assert!(!ack.is_before(acked), "no acknowledgement is taken back");
            assert!(before.since(edge) < 1 << scale, "no window is taken back");
        }
        self.acked = Some(ack);
        self.edge = Some(self.edge.map_or(edge, |before| before.max(edge)));
    }
}

fn header(seq: Seq, ack: Seq, flags: Flags, window: u16, options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    let offset = u8::try_from((20 + options.len()) * 4).unwrap_or(0xf0);
    let mut header = vec![0, 2, 0, 1];
    header.extend(seq.0.to_be_bytes());
    header.extend(ack.0.to_be_bytes());
    header.extend([offset, flags.0]);
    header.extend(window.to_be_bytes());
    header.extend([0; 4]);
    header.extend(options);
    header
}

/// How many things may happen at once, or in a day.
const STEPS: u32 = 200_000;
