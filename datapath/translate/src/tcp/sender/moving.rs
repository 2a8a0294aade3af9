//! What of a [`Sender`] moves to another machine with the guest. What follows a loss begins anew there, and so does the
//! measuring of round trips.

use super::{Ending, SMALLEST_MSS, Sender};
use crate::migration::fields::fields;
use crate::tcp::config::Config;
use crate::tcp::seq::Seq;
use crate::time::Instant;

/// A sender that moves; its fields are those of [`Sender`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedSender {
    una: Seq,
    nxt: Seq,
    window: u32,
    window_largest: u32,
    window_from: (Seq, Seq),
    mss: u16,
    end: Option<Seq>,
}

fields!(SavedSender { una, nxt, window, window_largest, window_from, mss, end });

impl SavedSender {
    /// Bytes of data that were sent and not acknowledged.
    pub(in crate::tcp) fn in_flight(&self) -> u32 {
        let end = self.end.map_or(self.nxt, |end| self.nxt.min(end));
        end.since(self.una)
    }

    /// Whether so many bytes can wait in the socket: up to the far end's FIN, if that is known.
    pub(in crate::tcp) fn can_end_behind(&self, waiting: u32, has_ended: bool) -> bool {
        self.end.is_none_or(|end| has_ended && end.since(self.una) == waiting)
    }

    /// The far end's FIN is known.
    pub(in crate::tcp) const fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// Whether its windows can be some.
    pub(in crate::tcp) fn has_windows(&self) -> bool {
        self.window <= self.window_largest && self.window_largest <= 0xffff << 14
    }

    /// Whether it can be one whose handshake is over.
    pub(in crate::tcp) fn is_whole(&self) -> bool {
        let has_end = self.end.is_none_or(|end| self.nxt == end || self.nxt == end + 1);
        self.nxt - self.una < 1 << 30 && has_end && self.mss >= SMALLEST_MSS - MOST_OPTIONS && self.has_windows()
    }
}

impl Sender {
    pub(in crate::tcp) fn saved(&self) -> SavedSender {
        let Self { una, nxt, window, window_largest, window_from, mss, .. } = *self;
        SavedSender { una, nxt, window, window_largest, window_from, mss, end: self.end() }
    }

    /// It goes on here. `is_open`: the handshake is over, and what is in flight may have to be sent again.
    pub(in crate::tcp) fn from_saved(now: Instant, saved: &SavedSender, is_open: bool, config: &Config) -> Self {
        let SavedSender { una, nxt, window, window_largest, window_from, mss, end } = *saved;
        let ending = match end {
            None => Ending::Open,
            Some(end) if end == nxt => Ending::Next,
            Some(_) => Ending::Sent,
        };
        let mut sender = Self { nxt, window, window_largest, window_from, mss, ending, ..Self::new(una) };
        sender.readable = ending == Ending::Open;
        if is_open && sender.in_flight() > 0 {
            sender.timer = Some(now + sender.rtt.timeout(config));
        }
        sender
    }
}

/// Bytes of options that were taken off the guest's MSS at most.
const MOST_OPTIONS: u16 = 12;
