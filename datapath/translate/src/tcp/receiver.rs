//! The guest's data on its way to the socket: what is taken, what is acknowledged when, and how much more may come.
//!
//! Data is written to the socket in order and at once, or not taken. What was written belongs to the kernel, which
//! sends it again as needed, so it is acknowledged: nothing depends on a timer, and the guest fills the socket's buffer
//! as an ordinary program would. Acknowledgements that follow the far end's own would be closer to one connection from
//! end to end, but slower: the guest's congestion control then works on top of the kernel's, with a round trip that our
//! questions make uneven (measured at 100 ms: 26 to 141 Mbit/s of 170 that the kernel alone and immediate
//! acknowledgements reach).
//!
//! The window is what the socket has room for. The far end's own window is in that: the kernel fills it without asking
//! us, and a far end that takes nothing makes the socket full. A window is never taken back.

mod moving;

use std::ops::Range;
use std::time::Duration;

use super::action::SocketInfo;
use super::config::Config;
use super::seq::Seq;
use crate::time::Instant;
pub use moving::SavedReceiver;

/// One direction's state: from the guest.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The next byte that is to be written to the socket.
    nxt: Seq,
    /// What the guest was told last (RFC 9293: what follows RCV.NXT in most texts).
    acked: Seq,
    /// The window's right edge, as the guest was told.
    edge: Seq,
    /// What the socket has room for behind `nxt`, as far as is known.
    room: u32,
    /// The most that it had room for lately.
    room_largest: u32,
    /// The last byte's successor, where FIN is, if there is one.
    fin: Seq,
    has_fin: bool,
    /// FIN was taken: `nxt` is behind it.
    is_closed: bool,
    /// The guest is to get an acknowledgement now.
    is_due: bool,
    /// Or when it has waited for data of ours, from `data_at` on.
    is_waiting: bool,
    /// When data was taken: what came last, or while an acknowledgement waits, the first that it is for.
    data_at: Option<Instant>,
    /// Data of ours follows the guest's soon: acknowledgements may travel with it.
    is_interactive: bool,
    /// Ask the socket now.
    ask: bool,
    /// Ask it then.
    ask_at: Option<Instant>,
    /// How long after the last time, in microseconds; 0: it took something since.
    ask_after: u32,
    /// Ask to be told when there is room.
    await_writable: bool,
    /// That was done; not again before the next timed question, because a socket may call itself writable at once.
    is_awaiting: bool,
    shutdown: bool,
    /// By how many bits our windows are shifted.
    scale: u8,
}

/// What a header says of our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) ack: Seq,
    /// Scaled.
    pub(super) window: u16,
    edge: Seq,
}

impl Receiver {
    /// `irs` is the guest's initial sequence number; not known yet when we open, then [`Self::synchronise`] follows.
    pub(super) fn new(irs: Seq, config: &Config) -> Self {
        let nxt = irs + 1;
        Self {
            nxt,
            acked: nxt,
            edge: nxt,
            room: 0,
            room_largest: 0,
            fin: nxt,
            has_fin: false,
            is_closed: false,
            is_due: false,
            is_waiting: false,
            data_at: None,
            is_interactive: false,
            ask: false,
            ask_at: None,
            ask_after: 0,
            await_writable: false,
            is_awaiting: false,
            shutdown: false,
            scale: scale(config.window),
        }
    }

    /// The guest's SYN came.
    pub(super) fn synchronise(&mut self, irs: Seq) {
        self.nxt = irs + 1;
        (self.acked, self.edge) = (self.nxt, self.nxt);
    }

    /// The guest does not scale windows, so neither do we.
    pub(super) fn disable_scale(&mut self) {
        self.scale = 0;
    }

    pub(super) const fn scale(&self) -> u8 {
        self.scale
    }

    pub(super) const fn nxt(&self) -> Seq {
        self.nxt
    }

    pub(super) const fn acked(&self) -> Seq {
        self.acked
    }

    pub(super) const fn edge(&self) -> Seq {
        self.edge
    }

    /// The guest's FIN was taken.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// And acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.is_closed && self.acked == self.nxt
    }

    /// The guest may want to send, but has no window to speak of.
    pub(super) fn is_stalled(&self, config: &Config) -> bool {
        !self.is_closed && self.edge.since(self.nxt) < self.least_step(config)
    }

    /// When [`Self::on_timer`] has something to do.
    pub(super) fn timer(&self, config: &Config) -> Option<Instant> {
        self.due_at(config).into_iter().chain(self.ask_at).min()
    }

    fn due_at(&self, config: &Config) -> Option<Instant> {
        self.data_at.filter(|_| self.is_waiting).map(|at| at + config.delayed_ack)
    }

    pub(super) fn on_timer(&mut self, now: Instant, config: &Config) {
        if self.due_at(config).is_some_and(|at| now >= at) {
            self.acknowledge_now();
            // Nothing came along to travel with.
            self.is_interactive = false;
        }
        if self.ask_at.is_some_and(|at| now >= at) {
            self.ask_at = None;
            self.ask = true;
            self.is_awaiting = false;
        }
    }

    /// Which part of a segment's payload is to be written now. The caller has checked that some of it is at or before
    /// the window's edge.
    pub(super) fn place(&mut self, seq: Seq, length: u32, has_fin: bool) -> Option<Range<u32>> {
        let end = seq + length;
        let is_old = !end.is_after(self.nxt);
        if seq.is_after(self.nxt) || self.is_closed {
            if length > 0 || has_fin {
                self.acknowledge_now();
            }
            return None;
        }
        if has_fin && !self.has_fin && !end.is_before(self.nxt) {
            (self.fin, self.has_fin) = (end, true);
        }
        let limit = if self.has_fin { self.fin.min(self.edge.max(self.nxt)) } else { self.edge };
        let (first, last) = (self.nxt - seq, limit.since(seq).min(length));
        if last < length || (length > 0 && is_old) {
            self.acknowledge_now();
            self.ask = true;
        }
        if first < last {
            return Some(first..last);
        }
        None
    }

    /// The socket took that many bytes of what [`Self::place`] offered. Returns how many of them there were.
    pub(super) fn on_written(&mut self, now: Instant, offered: u32, bytes: u32, config: &Config) -> u32 {
        let bytes = bytes.min(offered);
        if bytes < offered {
            self.room = 0;
            self.await_writable = true;
            self.is_awaiting = true;
            self.acknowledge_now();
        }
        if bytes > 0 {
            self.ask_after = 0;
            self.nxt = self.nxt + bytes;
            self.room = self.room.saturating_sub(bytes);
            if !self.is_waiting {
                self.data_at = Some(now);
            }
            self.schedule(now, config);
        }
        self.ask |= self.room < self.room_largest / 2;
        bytes
    }

    /// Takes FIN once everything before it is written. Whether it did.
    pub(super) fn take_fin(&mut self) -> bool {
        if self.is_closed || !self.has_fin || self.fin != self.nxt {
            return false;
        }
        self.nxt = self.nxt + 1;
        self.is_closed = true;
        self.shutdown = true;
        self.edge = self.edge.max(self.nxt);
        self.acknowledge_now();
        true
    }

    pub(super) fn acknowledge_now(&mut self) {
        self.is_due = true;
        self.is_waiting = false;
    }

    /// Ask the socket how much room it has: the guest wants to know, or it has more.
    pub(super) fn ask(&mut self) {
        self.ask = true;
    }

    /// The socket has room. It says so with whatever else it tells: nothing is asked unless room was waited for.
    pub(super) fn on_writable(&mut self) {
        self.ask |= self.is_awaiting;
    }

    /// What the socket tells.
    pub(super) fn on_info(&mut self, now: Instant, info: &SocketInfo, config: &Config) {
        self.room = info.send_room.min(config.window).min(u32::from(u16::MAX) << self.scale);
        // It is remembered for long, not for ever: a socket's buffer can shrink.
        self.room_largest = (self.room_largest - self.room_largest / 16).max(self.room);
        if self.acked != self.nxt || self.is_update_due(config) {
            self.schedule(now, config);
        }
        let is_short = !self.is_closed && self.room < self.least_step(config);
        if is_short && !self.is_awaiting {
            self.await_writable = true;
            self.is_awaiting = true;
        }
        if is_short {
            let shortest = u32::try_from(info.rtt.as_micros() / 8).unwrap_or(u32::MAX).clamp(SHORTEST_WAIT, 20_000);
            self.ask_after = self.ask_after.saturating_mul(2).clamp(shortest, LONGEST_WAIT);
            self.ask_at = Some(now + Duration::from_micros(self.ask_after.into()));
        } else {
            self.ask_at = None;
            self.is_awaiting = false;
        }
    }

    /// Decides when the guest gets its acknowledgement.
    fn schedule(&mut self, now: Instant, config: &Config) {
        let news = self.nxt.since(self.acked);
        if self.is_update_due(config) || (news > 0 && !self.is_interactive) || news >= 2 * u32::from(config.mss) {
            self.acknowledge_now();
        } else if news > 0 && !self.is_due {
            self.is_waiting = true;
            self.data_at.get_or_insert(now);
        }
    }

    /// Whether the guest waits for an acknowledgement that should go now.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// What the next segment says. In a SYN windows are not scaled: `shift` is 0.
    pub(super) fn announce(&self, shift: u8, config: &Config) -> Announcement {
        let ack = self.nxt;
        let mut edge = self.edge;
        let open = self.open_to();
        if open.since(edge) >= self.least_step(config) {
            edge = open;
        }
        // Rounded down (RFC 7323, 2.4): with many acknowledgements, rounding up would creep beyond what there is room
        // for.
        let window = u16::try_from(edge.since(ack) >> shift).unwrap_or(u16::MAX);
        Announcement { ack, window, edge: self.edge.max(ack + (u32::from(window) << shift)) }
    }

    /// The guest was told; `has_data`: by a segment with data of ours.
    pub(super) fn on_announced(&mut self, now: Instant, announced: &Announcement, has_data: bool, config: &Config) {
        self.acked = announced.ack;
        self.edge = announced.edge;
        if has_data && self.data_at.is_some_and(|at| now.saturating_duration_since(at) < config.delayed_ack) {
            self.is_interactive = true;
        }
        self.is_due = false;
        self.is_waiting = false;
    }

    pub(super) fn take_ask(&mut self) -> bool {
        std::mem::take(&mut self.ask)
    }

    pub(super) fn take_await_writable(&mut self) -> bool {
        std::mem::take(&mut self.await_writable)
    }

    pub(super) fn take_shutdown(&mut self) -> bool {
        std::mem::take(&mut self.shutdown)
    }

    /// A window update is worth a segment of its own: the guest has used half of what there is.
    fn is_update_due(&self, config: &Config) -> bool {
        let (told, open) = (self.edge.since(self.nxt), self.open_to());
        told < open.since(self.nxt) / 2 && open.since(self.edge) >= self.least_step(config)
    }

    /// Up to where the guest may send.
    fn open_to(&self) -> Seq {
        if self.is_closed { self.nxt } else { self.nxt + self.room }
    }

    /// The edge moves by no less (RFC 9293, 3.8.6.2.2), so that windows are not cut into crumbs; also where the
    /// socket's buffer is smaller than a segment.
    fn least_step(&self, config: &Config) -> u32 {
        u32::from(config.mss).min(self.room_largest / 2).max(1)
    }
}

/// The shift with which 16 bits hold a window (RFC 7323, 2.2): at most 14.
fn scale(window: u32) -> u8 {
    (0..14).find(|shift| window >> shift <= u32::from(u16::MAX)).unwrap_or(14)
}

/// In microseconds.
const SHORTEST_WAIT: u32 = 500;
const LONGEST_WAIT: u32 = 5_000_000;
