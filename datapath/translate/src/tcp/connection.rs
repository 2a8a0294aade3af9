//! One connection: what happens on either side goes in, what is to be done comes out.

mod moving;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Failure, Payload, SocketInfo, Transmit};
use super::config::Config;
use super::options::{Options, Timestamps};
use super::receiver::{Announcement, Receiver};
use super::rtt;
use super::segment::{Flags, Segment};
use super::sender::{Acknowledgement, Chunk, Sender};
use super::seq::Seq;
use crate::time::Instant;
pub use moving::{SavedConnection, Stage};

/// TCP with the guest, for one flow.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    state: State,
    sender: Sender,
    receiver: Receiver,
    /// The guest's clock (RFC 7323, TS.Recent), where timestamps are used.
    clock: u32,
    has_clock: bool,
    /// What the guest's SYN said, and ours says.
    offer: Offer,
    retries: u8,
    /// When the guest was heard last.
    heard_at: Instant,
    /// When data moved last, in either direction.
    moved_at: Instant,
    /// When a segment that did not fit was answered last, by our clock.
    challenged_at: u32,
    probes: u8,
    /// To be dropped from the receive queue.
    discard: u32,
    /// What is to be answered with RST.
    refuse: Seq,
    wants_refusal: bool,
    /// The guest's numbers are known.
    is_synchronised: bool,
    /// SYN is to be sent, or SYN and ACK.
    wants_syn: bool,
    wants_probe: bool,
    wants_close_socket: bool,
    /// The guest has no room for frames.
    is_blocked: bool,
    /// The guest's FIN came before ours was sent: it is the one to wait (RFC 9293, figure 12).
    guest_closed_first: bool,
    /// ECE is sent until CWR comes (RFC 3168, 6.1.3).
    echoes_congestion: bool,
    /// CWR is sent with the next new data.
    slowed_down: bool,
}

/// Where the connection stands. Open stands for ESTABLISHED and, by what each direction has closed, for FIN-WAIT-1 and
/// 2, CLOSE-WAIT, CLOSING and LAST-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest's SYN waits until the socket is connected.
    Connecting,
    SynSent,
    SynReceived,
    Open,
    TimeWait,
    /// The guest gets a RST, then the socket's end follows.
    Refusing {
        then: Ending,
    },
    /// The last action is due.
    Ending(Ending),
    Over,
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Close,
    Reset,
}

/// What both ends agreed on or may yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    mss: u16,
    /// `None`: windows are not scaled.
    scale: Option<u8>,
    sack: bool,
    ecn: bool,
}

/// What a proposed segment is, for when it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposed {
    kind: Kind,
    announced: Announcement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Acknowledgement,
    Chunk(Chunk),
    Probe,
    Refusal,
    Rst,
    Syn,
}

impl Connection {
    /// The guest opens: `syn` came in, and a socket is connecting. `isn` is our initial sequence number (RFC 9293,
    /// 3.4.1).
    #[must_use]
    pub fn from_guest(now: Instant, isn: Seq, syn: &Segment, config: Arc<Config>) -> Self {
        let mut connection = Self::new(now, isn, State::Connecting, config);
        connection.synchronise(syn);
        connection
    }

    /// The far end opened: a socket was accepted, and the guest gets a SYN.
    #[must_use]
    pub fn from_host(now: Instant, isn: Seq, info: &SocketInfo, config: Arc<Config>) -> Self {
        let mut connection = Self::new(now, isn, State::SynSent, config);
        connection.receiver.on_info(now, info, &connection.config);
        connection.start_handshake(now);
        connection
    }

    fn new(now: Instant, isn: Seq, state: State, config: Arc<Config>) -> Self {
        let receiver = Receiver::new(Seq(0), &config);
        let offer = Offer { mss: config.default_mss, scale: Some(0), sack: true, ecn: config.ecn };
        let challenged_at = config.clock(now).wrapping_sub(CHALLENGE_INTERVAL);
        Self {
            config,
            state,
            sender: Sender::new(isn),
            receiver,
            clock: 0,
            has_clock: true,
            offer,
            retries: 0,
            heard_at: now,
            moved_at: now,
            challenged_at,
            probes: 0,
            discard: 0,
            refuse: isn,
            wants_refusal: false,
            is_synchronised: false,
            wants_syn: false,
            wants_probe: false,
            wants_close_socket: false,
            is_blocked: false,
            guest_closed_first: false,
            echoes_congestion: false,
            slowed_down: false,
        }
    }

    /// The number of the guest's SYN, until data follows.
    #[must_use]
    pub fn guest_isn(&self) -> Seq {
        self.receiver.nxt() - 1
    }

    /// A segment of the guest. Tells which part of its payload is to be written to the socket now; then
    /// [`Self::on_written`] or [`Self::on_failed`] must be called before any other method.
    pub fn on_segment(&mut self, now: Instant, segment: &Segment) -> Option<Range<u32>> {
        match self.state {
            State::Connecting => self.on_segment_connecting(segment),
            State::SynSent => self.on_segment_syn_sent(now, segment),
            State::SynReceived | State::Open | State::TimeWait => return self.on_segment_synchronised(now, segment),
            State::Refusing { .. } | State::Ending(_) | State::Over => {}
        }
        None
    }

    /// The socket took the first `bytes` of `part`, which [`Self::on_segment`] named: 0 where it had no room.
    pub fn on_written(&mut self, now: Instant, part: &Range<u32>, bytes: u32) {
        let offered = part.end.saturating_sub(part.start);
        if self.receiver.on_written(now, offered, bytes, &self.config) > 0 {
            self.moved_at = now;
        }
        self.take_fin(now);
    }

    /// The socket is connected.
    pub fn on_connected(&mut self, now: Instant, info: &SocketInfo) {
        if self.state == State::Connecting {
            self.state = State::SynReceived;
            self.receiver.on_info(now, info, &self.config);
            self.start_handshake(now);
        }
    }

    /// The socket failed: connecting, or later.
    pub fn on_failed(&mut self, now: Instant, failure: Failure) {
        match (self.state, failure) {
            (State::TimeWait | State::Refusing { .. } | State::Ending(_) | State::Over, _) => {}
            (_, Failure::Unreachable) => self.state = State::Ending(Ending::Close),
            (_, Failure::Reset) => self.refuse_guest(now, Ending::Close),
        }
    }

    /// There may be something to read: data, or the end.
    pub fn on_readable(&mut self) {
        self.sender.on_readable();
    }

    /// The socket has room again.
    pub fn on_writable(&mut self) {
        self.receiver.on_writable();
    }

    /// The answer to [`Action::AskInfo`].
    pub fn on_info(&mut self, now: Instant, info: &SocketInfo) {
        if self.state == State::Open {
            // What the guest does not take waits since before, however often the socket is asked.
            let was_moving = self.is_moving();
            self.receiver.on_info(now, info, &self.config);
            if !was_moving {
                self.moved_at = self.moved_at.max(now);
            }
        }
    }

    /// [`Self::deadline`] is reached. Too early is harmless.
    pub fn on_timer(&mut self, now: Instant) {
        if self.state == State::Open {
            return self.on_timer_open(now);
        }
        if self.sender.timer().is_none_or(|timer| now < timer) {
            return;
        }
        self.sender.set_timer(None);
        match self.state {
            State::SynSent | State::SynReceived => self.repeat_handshake(now),
            State::TimeWait => self.state = State::Ending(Ending::Close),
            // The guest has had no room for its RST all the time.
            State::Refusing { then } => self.state = State::Ending(then),
            State::Connecting | State::Open | State::Ending(_) | State::Over => {}
        }
    }

    /// When [`Self::on_timer`] is to be called; may change with every other call.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.state != State::Open {
            return self.sender.timer();
        }
        [self.sender.timer(), self.receiver.timer(&self.config), Some(self.lost_at())].into_iter().flatten().min()
    }

    /// What to do next; to be called until `None` after one or more events. A [`Action::Transmit`] is answered by one
    /// of [`Self::on_transmitted`], [`Self::on_blocked`], [`Self::on_drained`], [`Self::on_end`] before the next call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.state {
            State::Ending(Ending::Reset) => {
                self.state = State::Over;
                return Some(Action::Reset);
            }
            State::Over => return None,
            _ => {}
        }
        if self.discard > 0 {
            return Some(Action::Discard(std::mem::take(&mut self.discard)));
        }
        if self.receiver.take_shutdown() {
            return Some(Action::ShutdownWrite);
        }
        if self.state == State::Ending(Ending::Close) {
            self.state = State::Over;
            return Some(Action::Close);
        }
        if std::mem::take(&mut self.wants_close_socket) {
            return Some(Action::CloseSocket);
        }
        if self.state == State::Open {
            if self.receiver.take_ask() {
                return Some(Action::AskInfo);
            }
            if self.receiver.take_await_writable() {
                return Some(Action::AwaitWritable);
            }
        }
        if self.is_blocked {
            return None;
        }
        self.propose(now).map(Action::Transmit)
    }

    /// `transmit` is on its way, with that many bytes of payload: at most what it asked for, and 0 where it asked for
    /// none.
    pub fn on_transmitted(&mut self, now: Instant, transmit: &Transmit, payload_bytes: u32) {
        let Some(Proposed { kind, announced }) = transmit.proposed else { return };
        let mut has_data = false;
        match kind {
            Kind::Chunk(chunk) => {
                has_data = true;
                self.sender.on_sent(now, chunk, payload_bytes, self.has_clock, &self.config);
                if !matches!(chunk, Chunk::Again { .. }) {
                    self.moved_at = now;
                    self.slowed_down = false;
                }
            }
            Kind::Probe => self.wants_probe = false,
            Kind::Refusal => {
                self.wants_refusal = false;
                return;
            }
            Kind::Rst => {
                if let State::Refusing { then } = self.state {
                    self.state = State::Ending(then);
                }
                return;
            }
            Kind::Syn => {
                self.wants_syn = false;
                self.sender.syn_sent();
            }
            Kind::Acknowledgement => {}
        }
        if self.state != State::SynSent {
            self.receiver.on_announced(now, &announced, has_data, &self.config);
        }
        self.finish(now);
    }

    /// The guest has no room: nothing was sent. No segment is asked for until [`Self::on_unblocked`].
    pub fn on_blocked(&mut self) {
        self.is_blocked = true;
    }

    /// The guest has room again.
    pub fn on_unblocked(&mut self) {
        self.is_blocked = false;
    }

    /// What was transmitted is all that the socket has at present. What is sent again tells nothing of that.
    pub fn on_all_transmitted(&mut self, transmit: &Transmit) {
        if let Some(Kind::Chunk(Chunk::New { .. })) = transmit.proposed.map(|proposed| proposed.kind) {
            self.sender.on_drained();
        }
    }

    /// Nothing was sent, because nothing is in the receive queue at that offset (EAGAIN); [`Self::on_readable`] tells
    /// of more.
    pub fn on_drained(&mut self, transmit: &Transmit) {
        match transmit.proposed.map(|proposed| proposed.kind) {
            Some(Kind::Chunk(Chunk::Again { .. })) => self.on_lost(),
            _ => self.sender.on_drained(),
        }
    }

    /// Nothing was sent, because at that offset the far end's data ends: a read into a buffer that is not empty gave 0
    /// bytes.
    pub fn on_end(&mut self, transmit: &Transmit) {
        match transmit.proposed.map(|proposed| proposed.kind) {
            Some(Kind::Chunk(Chunk::New { .. })) => self.sender.on_end(),
            Some(Kind::Chunk(Chunk::Again { .. })) => self.on_lost(),
            _ => {}
        }
    }

    /// What is to be sent again is not in the queue any more. That cannot be, and must not be tried for ever.
    fn on_lost(&mut self) {
        self.refuse_guest(self.moved_at, Ending::Reset);
    }

    /// Whether `segment`, a SYN, opens a new connection in this one's place (RFC 9293, 3.10.7.4, TIME-WAIT; RFC 6191):
    /// forget this one, and go on as if it were not there.
    #[must_use]
    pub fn is_superseded_by(&self, segment: &Segment) -> bool {
        if !segment.is_opening() {
            return false;
        }
        match self.state {
            State::Connecting => segment.seq + 1 != self.receiver.nxt(),
            State::TimeWait => {
                let timestamps = segment.options.timestamps.filter(|_| self.has_clock);
                let is_later = timestamps.is_some_and(|stamps| Seq(stamps.value).is_after(Seq(self.clock)));
                is_later || !segment.seq.is_before(self.receiver.nxt())
            }
            State::Refusing { .. } | State::Ending(_) | State::Over => true,
            State::SynSent | State::SynReceived | State::Open => false,
        }
    }

    /// What the guest's SYN says.
    fn synchronise(&mut self, syn: &Segment) {
        self.is_synchronised = true;
        self.receiver.synchronise(syn.seq);
        let options = &syn.options;
        self.offer.mss = options.mss.unwrap_or(self.config.default_mss);
        self.offer.scale = options.window_scale.map(|shift| shift.min(14));
        if self.offer.scale.is_none() {
            self.receiver.disable_scale();
        }
        self.offer.sack = options.sack_permitted;
        self.has_clock = options.timestamps.is_some();
        self.clock = options.timestamps.map_or(0, |timestamps| timestamps.value);
        // RFC 3168, 6.1.1: a SYN offers with both bits, and is answered with one.
        let asked = Flags::ECE | Flags::CWR;
        let offered = Flags(syn.flags.0 & asked.0);
        let expected = if syn.is_opening() { asked } else { Flags::ECE };
        self.offer.ecn &= offered == expected;
    }

    fn start_handshake(&mut self, now: Instant) {
        self.wants_syn = true;
        self.retries = 0;
        self.sender.set_timer(Some(now + rtt::INITIAL));
    }

    /// SYN was not answered. This goes on also while the guest's ring is full, so that a guest that never came up is
    /// given up.
    fn repeat_handshake(&mut self, now: Instant) {
        if self.retries >= self.config.syn_retries {
            return self.refuse_guest(now, Ending::Reset);
        }
        self.retries += 1;
        self.wants_syn = true;
        let doublings = self.retries.saturating_sub(self.config.syn_linear).min(16);
        self.sender.set_timer(Some(now + (rtt::INITIAL * (1 << doublings)).min(self.config.rto_max)));
    }

    /// The guest gets a RST, and the socket ends.
    fn refuse_guest(&mut self, now: Instant, then: Ending) {
        self.state = State::Refusing { then };
        self.sender.set_timer(Some(now + RST_WAIT));
    }

    fn on_segment_connecting(&mut self, segment: &Segment) {
        if segment.flags.contains(Flags::RST) && self.is_reset_by(segment) {
            self.state = State::Ending(Ending::Reset);
        }
    }

    /// RFC 9293, 3.10.7.3.
    fn on_segment_syn_sent(&mut self, now: Instant, segment: &Segment) {
        let acknowledges = segment.ack == Some(self.sender.nxt()) && self.sender.in_flight() > 0;
        if let Some(ack) = segment.ack
            && !acknowledges
        {
            if !segment.flags.contains(Flags::RST) {
                self.refuse(ack);
            }
            return;
        }
        if segment.flags.contains(Flags::RST) {
            if acknowledges {
                self.state = State::Ending(Ending::Reset);
            }
            return;
        }
        if !segment.flags.contains(Flags::SYN) {
            return;
        }
        self.synchronise(segment);
        if acknowledges {
            self.open(now, segment);
            self.receiver.acknowledge_now();
        } else {
            self.state = State::SynReceived;
            self.start_handshake(now);
        }
    }

    /// The handshake is over.
    fn open(&mut self, now: Instant, segment: &Segment) {
        let options = if self.has_clock { TIMESTAMP_BYTES } else { 0 };
        let mss = self.offer.mss.min(self.config.mss);
        let window = self.window_of(segment);
        let ack = segment.ack.unwrap_or(self.sender.nxt());
        let rtt = self.measured_rtt(now, segment).filter(|_| self.retries == 0);
        self.sender.open(segment.seq, ack, window, mss, options, rtt);
        self.state = State::Open;
        self.sender.set_timer(None);
        self.wants_syn = false;
        self.heard_at = now;
        self.moved_at = now;
    }

    /// In bytes; that of a SYN is not scaled (RFC 7323, 2.2).
    fn window_of(&self, segment: &Segment) -> u32 {
        let scale = self.offer.scale.filter(|_| !segment.flags.contains(Flags::SYN));
        u32::from(segment.window) << scale.unwrap_or(0)
    }

    /// RFC 9293, 3.10.7.4, in its order.
    fn on_segment_synchronised(&mut self, now: Instant, segment: &Segment) -> Option<Range<u32>> {
        let is_reset = segment.flags.contains(Flags::RST);
        if !is_reset && !self.passes_clock(now, segment) {
            return None;
        }
        if self.state == State::SynReceived && segment.is_opening() && segment.seq + 1 == self.receiver.nxt() {
            self.wants_syn = true;
            return None;
        }
        if !self.is_acceptable(segment) {
            if !is_reset {
                self.answer_misfit(now, segment);
            }
            return None;
        }
        if is_reset {
            if self.is_reset_by(segment) {
                // RFC 1337: a TIME-WAIT is not cut short.
                if self.state != State::TimeWait {
                    self.state = State::Ending(Ending::Reset);
                }
            } else {
                self.challenge(now);
            }
            return None;
        }
        if segment.flags.contains(Flags::SYN) {
            // Of a simultaneous open: the guest's answer to our SYN (RFC 9293, figure 7).
            let is_answer = self.state == State::SynReceived && segment.seq + 1 == self.receiver.nxt();
            if !is_answer || segment.ack != Some(self.sender.nxt()) {
                self.challenge(now);
                return None;
            }
        }
        let ack = segment.ack?;
        if self.state == State::SynReceived {
            if ack != self.sender.nxt() || self.sender.in_flight() == 0 {
                self.refuse(ack);
                return None;
            }
            self.open(now, segment);
        }
        let una = self.sender.una();
        if ack.is_after(self.sender.nxt()) || una.since(ack) > self.sender.window_largest().max(1) {
            // RFC 5961, 5.2.
            self.challenge(now);
            return None;
        }
        self.heard_at = now;
        self.probes = 0;
        self.wants_probe = false;
        // In TIME-WAIT all was acknowledged, and the timer is no longer the sender's.
        if self.state != State::TimeWait {
            self.on_ack(now, segment, ack);
        }
        if self.state == State::TimeWait {
            self.on_segment_time_wait(now, segment);
            return None;
        }
        self.on_congestion(segment);
        let seq = if segment.flags.contains(Flags::SYN) { segment.seq + 1 } else { segment.seq };
        let part = self.receiver.place(seq, segment.length, segment.flags.contains(Flags::FIN));
        if part.is_none() {
            self.take_fin(now);
        }
        part
    }

    /// The ACK field and what belongs to it.
    fn on_ack(&mut self, now: Instant, segment: &Segment, ack: Seq) {
        let told = Acknowledgement {
            seq: segment.seq,
            ack,
            window: self.window_of(segment),
            is_loaded: segment.span() > 0,
            sack: &segment.options.sack,
            rtt: self.measured_rtt(now, segment),
        };
        let bytes = self.sender.on_ack(now, &told, &self.config);
        if bytes > 0 {
            self.discard += bytes;
            self.moved_at = now;
        }
        self.finish(now);
    }

    /// RFC 3168, 6.1.2 and 6.1.3.
    fn on_congestion(&mut self, segment: &Segment) {
        if !self.offer.ecn {
            return;
        }
        if segment.flags.contains(Flags::CWR) {
            self.echoes_congestion = false;
        }
        if segment.congested && segment.length > 0 {
            self.echoes_congestion = true;
        }
        if segment.flags.contains(Flags::ECE) && self.sender.on_congestion() {
            self.slowed_down = true;
        }
    }

    fn on_segment_time_wait(&mut self, now: Instant, segment: &Segment) {
        if segment.span() > 0 {
            self.receiver.acknowledge_now();
        }
        if segment.flags.contains(Flags::FIN) {
            self.sender.set_timer(Some(now + self.config.time_wait));
        }
    }

    fn take_fin(&mut self, now: Instant) {
        if self.receiver.take_fin() {
            self.moved_at = now;
            self.guest_closed_first = !self.sender.is_ending();
            self.finish(now);
        }
    }

    /// RFC 7323, 5.3 (PAWS) and 4.3 (what is echoed).
    fn passes_clock(&mut self, now: Instant, segment: &Segment) -> bool {
        if !self.has_clock {
            return true;
        }
        // Those that negotiated timestamps send them always (RFC 7323, 3.2).
        let Some(timestamps) = segment.options.timestamps else { return false };
        let is_older = Seq(timestamps.value).is_before(Seq(self.clock));
        if is_older && now.saturating_duration_since(self.heard_at) < CLOCK_LIFE {
            self.answer_misfit(now, segment);
            return false;
        }
        if !segment.seq.is_after(self.receiver.acked()) {
            self.clock = timestamps.value;
        }
        true
    }

    /// The round trip of what a segment answers (RFC 7323, 4.1).
    fn measured_rtt(&self, now: Instant, segment: &Segment) -> Option<Duration> {
        let echo = segment.options.timestamps.filter(|_| self.has_clock)?.echo;
        let elapsed = self.time(now).wrapping_sub(echo);
        (elapsed < 1 << 31).then(|| Duration::from_millis(u64::from(elapsed)))
    }

    /// Our clock, in milliseconds; it wraps.
    fn time(&self, now: Instant) -> u32 {
        self.config.clock(now)
    }

    /// RFC 9293, 3.10.7.4, first: some of it lies in the window; or just before it, in what was acknowledged last,
    /// because what we dropped for want of room makes the guest's numbers run ahead and ours stay behind.
    fn is_acceptable(&self, segment: &Segment) -> bool {
        let end = segment.seq + segment.span();
        !end.is_before(self.receiver.acked()) && !segment.seq.is_after(self.receiver.edge())
    }

    /// RFC 5961, 3.2: the exact number. The guest may know less than we wrote: what it was told is as good.
    fn is_reset_by(&self, segment: &Segment) -> bool {
        segment.seq == self.receiver.nxt() || segment.seq == self.receiver.acked()
    }

    /// A segment outside of the window is answered, with data at once, otherwise as a challenge.
    fn answer_misfit(&mut self, now: Instant, segment: &Segment) {
        if self.state == State::SynReceived {
            return;
        }
        self.receiver.ask();
        if segment.length > 0 { self.receiver.acknowledge_now() } else { self.challenge(now) }
    }

    /// RFC 5961, 7: not too often, so that two ends that disagree do not keep each other busy.
    fn challenge(&mut self, now: Instant) {
        let time = self.time(now);
        if time.wrapping_sub(self.challenged_at) >= CHALLENGE_INTERVAL {
            self.challenged_at = time;
            self.receiver.acknowledge_now();
        }
    }

    /// RFC 9293, 3.10.7.3 and 3.10.7.4, fifth: what is acknowledged there was never sent.
    fn refuse(&mut self, ack: Seq) {
        (self.refuse, self.wants_refusal) = (ack, true);
    }

    /// Both directions may be through.
    fn finish(&mut self, now: Instant) {
        if self.state != State::Open || !self.sender.is_ended() || !self.receiver.is_closed() {
            return;
        }
        if !self.receiver.is_done() {
            return;
        }
        if self.guest_closed_first {
            self.state = State::Ending(Ending::Close);
        } else {
            self.state = State::TimeWait;
            self.sender.set_timer(Some(now + self.config.time_wait));
            self.wants_close_socket = true;
        }
    }

    fn on_timer_open(&mut self, now: Instant) {
        self.receiver.on_timer(now, &self.config);
        if self.sender.on_timer(now, self.is_blocked, &self.config).is_err() {
            return self.refuse_guest(now, Ending::Reset);
        }
        if now < self.lost_at() {
            return;
        }
        if self.is_moving() || self.probes >= self.config.keep_alive_probes {
            return self.refuse_guest(now, Ending::Reset);
        }
        // However long it has been silent while there was data to move: it has its time for each answer.
        let since_due = now.saturating_duration_since(self.lost_at());
        self.heard_at += since_due;
        self.probes += 1;
        self.wants_probe = true;
    }

    /// There is data to move, in one direction at least.
    fn is_moving(&self) -> bool {
        self.sender.is_pending() || self.receiver.is_stalled(&self.config)
    }

    /// When the guest is probed, or given up.
    fn lost_at(&self) -> Instant {
        if self.is_moving() {
            return self.moved_at + self.config.stall;
        }
        let idle = if self.receiver.is_closed() { self.config.keep_alive_half_closed } else { self.config.keep_alive };
        self.heard_at + idle.min(self.config.keep_alive) + self.config.keep_alive_interval * u32::from(self.probes)
    }

    /// The next segment.
    fn propose(&mut self, now: Instant) -> Option<Transmit> {
        if self.wants_refusal {
            let announced = self.receiver.announce(0, &self.config);
            let proposed = Some(Proposed { kind: Kind::Refusal, announced });
            return Some(Transmit { proposed, ..Transmit::bare(self.refuse, None, Flags::RST) });
        }
        let kind = match self.state {
            State::SynSent | State::SynReceived => self.wants_syn.then_some(Kind::Syn)?,
            State::Open => self.propose_open(now)?,
            State::TimeWait => self.receiver.is_due().then_some(Kind::Acknowledgement)?,
            State::Refusing { .. } => Kind::Rst,
            State::Connecting | State::Ending(_) | State::Over => return None,
        };
        let shift = if kind == Kind::Syn { 0 } else { self.receiver.scale() };
        let announced = self.receiver.announce(shift, &self.config);
        let proposed = Some(Proposed { kind, announced });
        Some(Transmit { proposed, ..self.segment(now, kind, &announced) })
    }

    fn propose_open(&mut self, now: Instant) -> Option<Kind> {
        let was_pending = self.sender.is_pending();
        if let Some(chunk) = self.sender.next(now, &self.config) {
            return Some(Kind::Chunk(chunk));
        }
        if !was_pending && self.sender.is_pending() {
            self.moved_at = now;
        }
        if self.wants_probe {
            return Some(Kind::Probe);
        }
        self.receiver.is_due().then_some(Kind::Acknowledgement)
    }

    fn segment(&self, now: Instant, kind: Kind, announced: &Announcement) -> Transmit {
        let ack = (self.state != State::SynSent).then_some(announced.ack);
        let una = self.sender.una();
        let mut flags = Flags::default();
        let mut options = Options::default();
        let mut payload = None;
        let mut is_new = false;
        let seq = match kind {
            Kind::Acknowledgement | Kind::Refusal | Kind::Rst => self.sender.acceptable(),
            // What the guest has already makes it answer (RFC 9293, 3.8.4).
            Kind::Probe => una - 1,
            Kind::Chunk(Chunk::Again { seq, length }) => {
                payload = Some(Payload { offset: seq - una, max: length });
                flags |= Flags::PSH;
                seq
            }
            Kind::Chunk(Chunk::Fin) => {
                flags |= Flags::FIN;
                self.sender.fin_seq()
            }
            Kind::Chunk(Chunk::New { length }) => {
                is_new = true;
                payload = Some(Payload { offset: self.sender.in_flight(), max: length });
                flags |= Flags::PSH;
                self.sender.nxt()
            }
            Kind::Syn => {
                flags |= Flags::SYN | self.ecn_offer();
                options.mss = Some(self.config.mss);
                options.window_scale = self.offer.scale.map(|_| self.receiver.scale());
                options.sack_permitted = self.offer.sack;
                una
            }
        };
        if kind == Kind::Rst {
            let ack = self.is_synchronised.then_some(self.receiver.acked());
            return Transmit::bare(seq, ack, Flags::RST);
        }
        if self.offer.ecn && kind != Kind::Syn {
            if self.echoes_congestion {
                flags |= Flags::ECE;
            }
            if is_new && self.slowed_down {
                flags |= Flags::CWR;
            }
        }
        if self.has_clock {
            options.timestamps = Some(Timestamps { value: self.time(now), echo: self.clock });
        }
        let ect = self.offer.ecn && is_new;
        let window = announced.window;
        Transmit { window, options, payload, mss: self.sender.mss(), ect, ..Transmit::bare(seq, ack, flags) }
    }

    /// RFC 3168, 6.1.1; without it after the first try, for what cannot bear it (6.1.1.1).
    const fn ecn_offer(&self) -> Flags {
        match (self.offer.ecn, self.state) {
            (true, State::SynSent) if self.retries == 0 => Flags(Flags::ECE.0 | Flags::CWR.0),
            (true, State::SynReceived) => Flags::ECE,
            _ => Flags(0),
        }
    }
}

/// Bytes of a timestamps option, padded.
const TIMESTAMP_BYTES: u16 = 12;

/// How far apart challenges are, in milliseconds.
const CHALLENGE_INTERVAL: u32 = 100;

/// For how long the guest's clock counts (RFC 7323, 5.5).
const CLOCK_LIFE: Duration = Duration::from_secs(24 * 24 * 3600);

/// For how long a guest without room is waited for with a RST.
const RST_WAIT: Duration = Duration::from_secs(10);
