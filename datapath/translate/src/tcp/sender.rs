//! Our data on its way to the guest: what may be sent, what has to be sent again, and when.
//!
//! The data itself lies in the socket's receive queue, whose first byte is [`Sender::una`]. Whether there is more than
//! was sent is known only by asking: [`Sender::next`] proposes a chunk, and whoever reads the queue tells what came of
//! it.
//!
//! There is no congestion on a ring, so the window alone limits what is sent, until something is lost (a queue behind
//! the ring overflowed): from then on there is a congestion window as well (RFC 5681). What is sent again is clocked by
//! what the guest acknowledges (the idea of RFC 6937): `credit` grows with that, so that a loss is not answered with a
//! burst.

mod moving;

use std::time::Duration;

use super::config::Config;
use super::options::SackBlocks;
use super::rtt::Rtt;
use super::scoreboard::Scoreboard;
use super::seq::Seq;
use crate::time::Instant;
pub use moving::SavedSender;

/// One direction's state: towards the guest.
#[derive(Debug)]
pub(super) struct Sender {
    /// The first that is not acknowledged; once SYN is, the head of the receive queue.
    una: Seq,
    /// The first that was never sent.
    nxt: Seq,
    /// What the guest takes behind `una`, in bytes.
    window: u32,
    window_largest: u32,
    /// The segment that `window` is from: its number and acknowledgement (RFC 9293, SND.WL1 and SND.WL2).
    window_from: (Seq, Seq),
    /// The most payload of a segment.
    mss: u16,
    ending: Ending,
    /// There may be data behind `nxt`.
    readable: bool,
    /// The window is closed, and a byte is to be sent nevertheless (RFC 9293, 3.8.6.1).
    probing: bool,
    duplicates: u8,
    /// How often in a row something was sent again without an answer.
    retries: u8,
    rtt: Rtt,
    /// What is being timed, where there are no timestamps: the byte behind it, and when it was sent.
    timed: Seq,
    timed_at: Option<Instant>,
    /// Retransmission, or a probe of a closed window. Before, the handshake; and after, the end.
    timer: Option<Instant>,
    /// Since something was lost or marked, until that has no effect any more.
    loss: Option<Box<Loss>>,
}

/// Whether there is a FIN, which is the last that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not known yet.
    Open,
    /// It comes next.
    Next,
    /// It was sent: it is right before `nxt`.
    Sent,
}

/// What follows a loss.
#[derive(Debug)]
struct Loss {
    congestion_window: u32,
    slow_start_until: u32,
    recovery: Recovery,
    /// The next that is to be sent again.
    cursor: Seq,
    /// How many bytes may be sent during recovery.
    credit: u32,
    /// What the guest told that it has behind a hole.
    sacked: Option<Scoreboard>,
    /// Up to where congestion was answered (RFC 3168, 6.1.2).
    slowed: Seq,
}

/// What is going on after a loss: everything below `until` is to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    None,
    /// Something arrived behind a hole (RFC 6582, RFC 6675).
    Fast {
        until: Seq,
    },
    /// Nothing arrived (RFC 5681, 3.1).
    Timeout {
        until: Seq,
    },
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Data that was sent before.
    Again {
        seq: Seq,
        length: u32,
    },
    Fin,
    /// Data that was not; perhaps there is none.
    New {
        length: u32,
    },
}

/// What an acknowledgement tells, besides its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement<'a> {
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    /// Scaled.
    pub(super) window: u32,
    /// It travels with data, SYN or FIN.
    pub(super) is_loaded: bool,
    pub(super) sack: &'a SackBlocks,
    /// Since when what it answers was on its way, by timestamps (RFC 7323, 4).
    pub(super) rtt: Option<Duration>,
}

/// The guest does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered;

impl Sender {
    /// Before SYN was sent.
    pub(super) fn new(isn: Seq) -> Self {
        Self {
            una: isn,
            nxt: isn,
            window: 0,
            window_largest: 0,
            window_from: (isn, isn),
            mss: SMALLEST_MSS,
            ending: Ending::Open,
            readable: true,
            probing: false,
            duplicates: 0,
            retries: 0,
            rtt: Rtt::default(),
            timed: isn,
            timed_at: None,
            timer: None,
            loss: None,
        }
    }

    fn loss(&mut self) -> &mut Loss {
        self.loss.get_or_insert_with(|| {
            Box::new(Loss {
                congestion_window: UNLIMITED,
                slow_start_until: UNLIMITED,
                recovery: Recovery::None,
                cursor: self.una,
                credit: 0,
                sacked: None,
                slowed: self.una,
            })
        })
    }

    fn recovery(&self) -> Recovery {
        self.loss.as_deref().map_or(Recovery::None, |loss| loss.recovery)
    }

    /// How many bytes the guest has behind a hole.
    fn sacked_bytes(&self) -> u32 {
        self.loss.as_deref().and_then(|loss| loss.sacked.as_ref()).map_or(0, Scoreboard::bytes)
    }

    pub(super) const fn una(&self) -> Seq {
        self.una
    }

    pub(super) const fn nxt(&self) -> Seq {
        self.nxt
    }

    /// The number of a segment without data: behind all that was sent, but not behind the guest's window, where a probe of a
    /// closed one is. A guest may take nothing from there, not even an acknowledgement (RFC 9293, 3.10.7.4).
    pub(super) fn acceptable(&self) -> Seq {
        if self.window_largest == 0 { self.nxt } else { self.nxt.min(self.una + self.window) }
    }

    pub(super) const fn mss(&self) -> u16 {
        self.mss
    }

    pub(super) const fn timer(&self) -> Option<Instant> {
        self.timer
    }

    /// Of the handshake or of the end.
    pub(super) fn set_timer(&mut self, timer: Option<Instant>) {
        self.timer = timer;
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.nxt - self.una
    }

    /// Where FIN is, once it is known.
    fn end(&self) -> Option<Seq> {
        match self.ending {
            Ending::Open => None,
            Ending::Next => Some(self.nxt),
            Ending::Sent => Some(self.nxt - 1),
        }
    }

    /// Where FIN is, or would be.
    pub(super) fn fin_seq(&self) -> Seq {
        self.end().unwrap_or(self.nxt)
    }

    /// FIN was sent.
    pub(super) fn is_ending(&self) -> bool {
        self.ending == Ending::Sent
    }

    /// FIN was acknowledged.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ending() && self.una == self.nxt
    }

    /// There is something that the guest has to take before it is done.
    pub(super) fn is_pending(&self) -> bool {
        // A probe of its window may wait for room among its frames.
        self.in_flight() > 0 || self.timer.is_some() || self.probing
    }

    /// The largest window that there was, in bytes.
    pub(super) const fn window_largest(&self) -> u32 {
        self.window_largest
    }

    /// SYN was sent: it is in flight, but its timer is not ours.
    pub(super) fn syn_sent(&mut self) {
        self.nxt = self.una + 1;
    }

    /// The handshake is over: SYN is acknowledged. `guest_mss` is what the guest said, `options` what options take of
    /// it, in bytes.
    pub(super) fn open(
        &mut self,
        seq: Seq,
        ack: Seq,
        window: u32,
        guest_mss: u16,
        options: u16,
        rtt: Option<Duration>,
    ) {
        self.una = ack;
        self.nxt = ack;
        self.mss = guest_mss.max(SMALLEST_MSS) - options;
        self.window_from = (seq, ack);
        self.set_window(window);
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
    }

    fn set_window(&mut self, window: u32) {
        self.window = window;
        self.window_largest = self.window_largest.max(window);
    }

    pub(super) fn on_readable(&mut self) {
        self.readable = self.ending == Ending::Open;
    }

    pub(super) fn on_drained(&mut self) {
        self.readable = false;
        self.probing = false;
    }

    /// The far end sends no more than was sent already.
    pub(super) fn on_end(&mut self) {
        self.readable = false;
        self.probing = false;
        if self.ending == Ending::Open {
            self.ending = Ending::Next;
        }
    }

    /// What is to be sent now.
    pub(super) fn next(&mut self, now: Instant, config: &Config) -> Option<Chunk> {
        let chunk = self.again(config).or_else(|| self.new_data(config));
        let waits = self.readable || self.ending == Ending::Next;
        if chunk.is_none() && waits && self.timer.is_none() && self.in_flight() == 0 {
            // A closed window is opened by a segment that may be lost: it is asked for (RFC 9293, 3.8.6.1).
            self.timer = Some(now + self.rtt.timeout(config));
        }
        chunk
    }

    /// The next hole that is to be filled.
    fn again(&self, config: &Config) -> Option<Chunk> {
        let loss = self.loss.as_deref()?;
        let from = loss.cursor.max(self.una);
        let (seq, behind) = match loss.recovery {
            Recovery::None => return None,
            Recovery::Fast { until } => match &loss.sacked {
                Some(sacked) => sacked.hole(from)?,
                // Without SACK only the first segment is known to be missing (RFC 6582).
                None => (from, until.min(self.una + u32::from(self.mss))),
            },
            Recovery::Timeout { until } => match &loss.sacked {
                Some(sacked) => sacked.hole(from).unwrap_or_else(|| (sacked.skip(from), until)),
                None => (from, until),
            },
        };
        if self.end() == Some(seq) && behind.is_after(seq) {
            return Some(Chunk::Fin);
        }
        let behind = self.end().map_or(behind, |end| behind.min(end)).min(self.una + self.window.max(1));
        let length = behind.since(seq).min(loss.credit).min(self.most(config));
        (length > 0).then_some(Chunk::Again { seq, length })
    }

    fn new_data(&self, config: &Config) -> Option<Chunk> {
        let edge = self.una + self.window;
        if self.ending == Ending::Next {
            // A FIN alone is taken by guests even where no byte would be.
            return (self.probing || !self.nxt.is_after(edge)).then_some(Chunk::Fin);
        }
        if !self.readable {
            return None;
        }
        let mss = u32::from(self.mss);
        let in_flight = self.in_flight() - self.sacked_bytes().min(self.in_flight());
        let allowed = match self.loss.as_deref() {
            None => UNLIMITED,
            Some(Loss { recovery: Recovery::None, congestion_window, .. }) => {
                congestion_window.saturating_sub(in_flight)
            }
            Some(Loss { credit, .. }) => *credit,
        };
        let length = edge.since(self.nxt).min(allowed);
        // No small segments because of a small window (RFC 9293, 3.8.6.2.1).
        let is_worth_it = length >= mss || (length > 0 && length >= self.window_largest / 2);
        if !is_worth_it {
            return self.probing.then_some(Chunk::New { length: length.clamp(1, mss) });
        }
        let length = length.min(self.most(config));
        Some(Chunk::New { length: if length > mss { length - length % mss } else { length } })
    }

    /// The most that goes in one chunk, in bytes.
    fn most(&self, config: &Config) -> u32 {
        config.burst.min(u32::from(self.mss).saturating_mul(SEGMENTS))
    }

    /// A chunk is on its way, with that many bytes. `has_timestamps`: its round trip is measured by those.
    pub(super) fn on_sent(&mut self, now: Instant, chunk: Chunk, bytes: u32, has_timestamps: bool, config: &Config) {
        self.probing = false;
        let fresh = match chunk {
            Chunk::Again { seq, length } => {
                let bytes = bytes.min(length);
                let loss = self.loss();
                loss.cursor = seq + bytes;
                loss.credit = loss.credit.saturating_sub(bytes);
                self.timed_at = None;
                if seq == self.una {
                    self.timer = None;
                }
                0
            }
            Chunk::Fin => {
                let (seq, is_first) = (self.fin_seq(), self.ending == Ending::Next);
                if let Some(loss) = self.recovering() {
                    loss.cursor = seq + 1;
                }
                if is_first {
                    self.ending = Ending::Sent;
                }
                u32::from(is_first)
            }
            Chunk::New { length } => {
                let bytes = bytes.min(length);
                if let Some(loss) = self.recovering() {
                    loss.credit = loss.credit.saturating_sub(bytes);
                }
                bytes
            }
        };
        self.nxt = self.nxt + fresh;
        if fresh > 0 && self.timed_at.is_none() && !has_timestamps && self.recovery() == Recovery::None {
            (self.timed, self.timed_at) = (self.nxt, Some(now));
        }
        if self.timer.is_none() && self.in_flight() > 0 {
            self.timer = Some(now + self.rtt.timeout(config));
        }
    }

    /// An acknowledgement of something that was sent, or of nothing new. Returns how many bytes of data it is for.
    pub(super) fn on_ack(&mut self, now: Instant, told: &Acknowledgement<'_>, config: &Config) -> u32 {
        if told.ack.is_before(self.una) {
            return 0;
        }
        let was_in_flight = self.in_flight();
        let newly_sacked = self.on_sack(told);
        let window_changed = self.update_window(told);
        let newly = told.ack - self.una;
        if newly > 0 {
            self.advance(now, told, newly, newly_sacked, config)
        } else {
            let duplicate = !told.is_loaded && !window_changed;
            if was_in_flight > 0 && (duplicate || newly_sacked > 0) {
                self.on_duplicate(newly_sacked);
            }
            if self.window == 0 {
                // It answers, so it lives: a closed window may stay closed for long.
                self.retries = 0;
            }
            0
        }
    }

    fn on_sack(&mut self, told: &Acknowledgement<'_>) -> u32 {
        let (una, in_flight) = (self.una, self.in_flight());
        let mut newly = 0;
        for (first, end) in told.sack.iter() {
            let (from, to) = (first - una, end - una);
            if from < to && to <= in_flight && from > 0 {
                newly += self.loss().sacked.get_or_insert_default().add(una, first, end);
            }
        }
        newly
    }

    /// RFC 9293, 3.10.7.4: the window of the newest segment counts.
    fn update_window(&mut self, told: &Acknowledgement<'_>) -> bool {
        let (seq, ack) = self.window_from;
        if told.seq.is_before(seq) || (told.seq == seq && told.ack.is_before(ack)) {
            return false;
        }
        let changed = self.window != told.window;
        if self.window == 0 && told.window > 0 {
            self.probing = false;
            self.rtt.undouble();
            if self.in_flight() == 0 {
                self.timer = None;
            }
            let (una, mss) = (self.una, u32::from(self.mss));
            if let Some(loss) = self.recovering() {
                loss.credit = loss.credit.max(mss);
                loss.cursor = una;
            }
        }
        self.window_from = (told.seq, told.ack);
        self.set_window(told.window);
        changed
    }

    /// Something new was acknowledged.
    fn advance(
        &mut self,
        now: Instant,
        told: &Acknowledgement<'_>,
        newly: u32,
        newly_sacked: u32,
        config: &Config,
    ) -> u32 {
        let had_ended = self.is_ended();
        self.una = told.ack;
        self.retries = 0;
        self.duplicates = 0;
        if let Some(rtt) = told.rtt.or_else(|| self.timed_rtt(now)) {
            self.rtt.sample(rtt);
        }
        self.rtt.undouble();
        self.timer = (self.in_flight() > 0).then(|| now + self.rtt.timeout(config));
        let (una, mss, window_largest) = (self.una, u32::from(self.mss), self.window_largest);
        if let Some(loss) = self.loss.as_deref_mut() {
            loss.advance(una, newly, newly_sacked, mss);
            if loss.is_over(una, window_largest) {
                self.loss = None;
            }
        }
        newly - u32::from(self.is_ended() && !had_ended)
    }

    fn timed_rtt(&mut self, now: Instant) -> Option<Duration> {
        let sent = self.timed_at?;
        if self.una.is_before(self.timed) {
            return None;
        }
        self.timed_at = None;
        Some(now.saturating_duration_since(sent))
    }

    /// Something behind a hole arrived, or the same was acknowledged again.
    fn on_duplicate(&mut self, newly_sacked: u32) {
        let mss = u32::from(self.mss);
        match self.recovery() {
            Recovery::None => {
                self.duplicates = self.duplicates.saturating_add(1);
                if self.duplicates >= DUPLICATES || self.sacked_bytes() >= u32::from(DUPLICATES) * mss {
                    let (una, nxt) = (self.una, self.nxt);
                    let loss = self.reduce();
                    loss.congestion_window = loss.slow_start_until;
                    loss.recovery = Recovery::Fast { until: nxt };
                    loss.cursor = una;
                    loss.credit = newly_sacked.max(mss);
                }
            }
            Recovery::Fast { .. } => self.loss().earn(newly_sacked.max(mss), mss),
            Recovery::Timeout { .. } => self.loss().earn(newly_sacked, mss),
        }
    }

    /// What follows a loss, while what was lost is sent again.
    fn recovering(&mut self) -> Option<&mut Loss> {
        self.loss.as_deref_mut().filter(|loss| loss.recovery != Recovery::None)
    }

    /// RFC 5681, equation 4.
    fn reduce(&mut self) -> &mut Loss {
        self.timed_at = None;
        let half = (self.in_flight() / 2).max(2 * u32::from(self.mss));
        let loss = self.loss();
        loss.slow_start_until = half;
        loss
    }

    /// The guest tells that a segment of ours was marked (RFC 3168, 6.1.2). Whether we slow down: once per window.
    pub(super) fn on_congestion(&mut self) -> bool {
        let is_slowed = self.loss.as_deref().is_some_and(|loss| self.una.is_before(loss.slowed));
        if self.recovery() != Recovery::None || is_slowed || self.in_flight() == 0 {
            return false;
        }
        let nxt = self.nxt;
        let loss = self.reduce();
        loss.congestion_window = loss.slow_start_until;
        loss.slowed = nxt;
        true
    }

    /// The timer may have run out; `is_blocked`: the guest has no room for frames, so that it has nothing to answer.
    ///
    /// # Errors
    /// [`Unanswered`]: it ran out too often.
    pub(super) fn on_timer(&mut self, now: Instant, is_blocked: bool, config: &Config) -> Result<(), Unanswered> {
        if self.timer.is_none_or(|timer| now < timer) {
            return Ok(());
        }
        if is_blocked {
            self.timer = Some(now + self.rtt.timeout(config));
            return Ok(());
        }
        self.rtt.double();
        if self.in_flight() == 0 {
            self.probing = true;
            self.timer = None;
            return Ok(());
        }
        if self.retries >= config.retries {
            return Err(Unanswered);
        }
        self.retries += 1;
        if self.recovery() == Recovery::None {
            self.reduce();
        }
        self.timed_at = None;
        self.duplicates = 0;
        let (una, nxt, mss) = (self.una, self.nxt, u32::from(self.mss));
        let loss = self.loss();
        loss.recovery = Recovery::Timeout { until: nxt };
        loss.cursor = una;
        // Two segments rather than one: one would wait for the guest's delayed acknowledgement.
        loss.credit = 2 * mss;
        // The guest may have dropped what it told to have (RFC 2018, 8).
        loss.sacked = None;
        self.timer = Some(now + self.rtt.timeout(config));
        Ok(())
    }
}

impl Loss {
    /// Something new was acknowledged: all before `una`.
    fn advance(&mut self, una: Seq, newly: u32, newly_sacked: u32, mss: u32) {
        if let Some(sacked) = &mut self.sacked {
            sacked.acknowledge(una);
        }
        match self.recovery {
            Recovery::None => self.grow(newly, mss),
            Recovery::Fast { until } | Recovery::Timeout { until } if !una.is_before(until) => {
                self.recovery = Recovery::None;
                self.congestion_window = self.slow_start_until;
                self.credit = 0;
            }
            Recovery::Fast { .. } => self.earn(newly.saturating_add(newly_sacked).max(mss), mss),
            Recovery::Timeout { .. } => self.earn(newly.saturating_mul(2).max(mss), mss),
        }
        if self.recovery == Recovery::None && self.sacked.as_ref().is_some_and(Scoreboard::is_empty) {
            self.sacked = None;
        }
    }

    fn earn(&mut self, bytes: u32, mss: u32) {
        self.credit = self.credit.saturating_add(bytes).min(self.slow_start_until.max(2 * mss));
    }

    /// RFC 5681, 3.1, counting bytes (RFC 3465). Nothing grows before something was lost.
    fn grow(&mut self, newly: u32, mss: u32) {
        if self.congestion_window == UNLIMITED {
            return;
        }
        let more = if self.congestion_window < self.slow_start_until {
            newly
        } else {
            let more = u64::from(mss) * u64::from(newly) / u64::from(self.congestion_window.max(1));
            u32::try_from(more).unwrap_or(u32::MAX).max(1)
        };
        self.congestion_window = self.congestion_window.saturating_add(more);
    }

    /// It has no effect any more: the guest's window is what limits.
    fn is_over(&self, una: Seq, window_largest: u32) -> bool {
        self.recovery == Recovery::None
            && self.sacked.is_none()
            && !una.is_before(self.slowed)
            && self.congestion_window / 2 > window_largest
    }
}

/// No guest has a smaller MSS: 68 bytes are the least MTU of IPv4 (RFC 791), and options take some.
const SMALLEST_MSS: u16 = 48;

/// How many segments there are in a chunk at most.
const SEGMENTS: u32 = 64;

/// How many duplicates tell of a loss (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;

/// No congestion window: nothing was lost so far.
const UNLIMITED: u32 = u32::MAX;
