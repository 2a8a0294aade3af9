//! How many flooded frames a second a port may send: group-addressed ones, and those to addresses that nobody knows.
//!
//! Each kind has a token bucket (RFC 2697 without its colours) that holds one second's worth. It is a single atomic word:
//! the number of frames passed since the start, raised where that is needed so that no more than a full bucket is left
//! unspent. What may have passed by now is computed from the time, so nothing is refilled and no remainder gets lost.
//!
//! Time is an argument. Workers share a [`Limiter`] through an `Arc`; `forward` asks it before it floods.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The limits of a port, in frames per second; `None` is no limit, 0 lets nothing pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of frames to group addresses, broadcast among them.
    pub broadcast: Option<u32>,
    /// Of frames to a station that is not in the address table.
    pub unknown: Option<u32>,
}

/// Which limit a frame falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flooded {
    /// It is for a group.
    Broadcast,
    /// It is for a station that is not in the address table.
    Unknown,
}

/// A port's limits and what was spent of them.
#[derive(Debug)]
pub struct Limiter {
    broadcast: Option<Bucket>,
    unknown: Option<Bucket>,
}

impl Limits {
    /// Whether there is none, so that [`Limiter::take`] need not be called.
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.broadcast.is_none() && self.unknown.is_none()
    }
}

impl Limiter {
    /// Full buckets for these limits.
    pub fn new(limits: &Limits) -> Self {
        Self { broadcast: limits.broadcast.map(Bucket::new), unknown: limits.unknown.map(Bucket::new) }
    }

    /// Whether one more frame may pass; if so, it is counted. `now` is the time since any fixed moment. Workers' clocks may
    /// differ: the one that is behind is refused where the other has spent already what it does not see yet.
    #[inline]
    pub fn take(&self, kind: Flooded, now: Duration) -> bool {
        let bucket = match kind {
            Flooded::Broadcast => &self.broadcast,
            Flooded::Unknown => &self.unknown,
        };
        bucket.as_ref().is_none_or(|bucket| bucket.take(now))
    }
}

/// Frames that a bucket of a low limit holds: what a guest sends at once when its link comes up (ARP, DHCP, router
/// solicitations, reports of groups) does not meet the limit.
const LEAST_DEPTH: u64 = 32;

#[derive(Debug)]
struct Bucket {
    per_second: u32,
    passed: AtomicU64,
}

impl Bucket {
    const fn new(per_second: u32) -> Self {
        Self { per_second, passed: AtomicU64::new(0) }
    }

    #[inline]
    fn take(&self, now: Duration) -> bool {
        let depth = if self.per_second == 0 { 0 } else { u64::from(self.per_second).max(LEAST_DEPTH) };
        let earned = self.earned(now);
        let mut passed = self.passed.load(Ordering::Relaxed);
        loop {
            let spent = passed.max(earned);
            if spent >= earned.saturating_add(depth) {
                return false;
            }
            match self.passed.compare_exchange_weak(passed, spent + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                // Another worker has taken one: that many workers are the bound of these rounds.
                Err(current) => passed = current,
            }
        }
    }

    /// Frames that a steady sender may have sent since the start. Up to 136 years of the highest limit fit.
    #[inline]
    fn earned(&self, now: Duration) -> u64 {
        let rate = u64::from(self.per_second);
        let fraction = u64::from(now.subsec_nanos()) * rate / NANOS_PER_SECOND;
        now.as_secs().saturating_mul(rate).saturating_add(fraction)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
