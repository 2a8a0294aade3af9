//! A load at a rate, for scenarios in which nothing may be lost.
//!
//! Frames are sent when they are due. Where the load itself lost its core for a while its schedule moves on by that: it
//! never sends in one burst what it has missed, which would be lost by any switch. What a switch does not take is not
//! forgotten, though: who is behind by more than a ring has lost.

use std::time::Duration;

use anyhow::Result;

use crate::clock::{ticks, ticks_of, ticks_per_nanosecond};
use crate::load::LoadGuest;

/// The schedule of one sender.
pub struct Pace {
    start: u64,
    last: u64,
    per_tick: f64,
    sent: u64,
    longest_gap: u64,
    gaps: u64,
}

impl Pace {
    /// So many frames a second from now on.
    pub fn new(rate: f64) -> Self {
        let now = ticks();
        Self {
            start: now,
            last: now,
            per_tick: rate / ticks_per_nanosecond() / 1e9,
            sent: 0,
            longest_gap: ticks_of(GAP),
            gaps: 0,
        }
    }

    /// How many frames are due and not sent.
    #[inline]
    pub fn due(&mut self, now: u64) -> u64 {
        let gap = now.saturating_sub(self.last);
        if gap > self.longest_gap {
            self.start += gap;
            self.gaps += 1;
        }
        self.last = now;
        let due = (now.saturating_sub(self.start) as f64 * self.per_tick) as u64;
        due.saturating_sub(self.sent)
    }

    /// How often so far the load had lost its core: it neither sent what was due nor took what came.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Sends what is due, a burst at most; returns how many frames remain due.
    #[inline]
    pub fn send(&mut self, guest: &mut LoadGuest, now: u64) -> Result<u64> {
        let due = self.due(now);
        if due == 0 {
            return Ok(0);
        }
        let sent = u64::from(guest.send(due.min(BURST) as u16)?);
        self.sent += sent;
        Ok(due - sent)
    }
}

/// Frames that are sent at once, at most.
const BURST: u64 = 32;

/// Who looks at its schedule after longer than this had lost its core.
const GAP: Duration = Duration::from_micros(20);
