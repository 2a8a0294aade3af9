//! A token bucket (RFC 2697 without its colours) in one atomic word.
//!
//! The word is the number of units (frames, bytes) that have passed since the start, raised where that is needed so that no
//! more than a full bucket is left unspent. What may have passed by now is computed from the time, so nothing is refilled and
//! no remainder gets lost. Time is an argument: the time since any fixed moment. Workers share a bucket, and their clocks may
//! differ: the one that is behind is refused where the other has spent already what it does not see yet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many units a second, and so many at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    depth: u64,
    passed: AtomicU64,
}

impl Bucket {
    /// A full bucket. One of the depth 0 lets nothing pass.
    pub(crate) const fn new(per_second: u64, depth: u64) -> Self {
        Self { per_second, depth, passed: AtomicU64::new(0) }
    }

    /// Whether one more thing may pass; if so, it is counted as `units`. One that has more than are left passes, and what
    /// follows waits for it.
    #[inline]
    pub(crate) fn take(&self, units: u64, now: Duration) -> bool {
        let earned = self.earned(now);
        self.add(units, earned, |spent| spent < earned.saturating_add(self.depth))
    }

    /// Counts `units` that have passed, whether they were left or not.
    #[inline]
    pub(crate) fn spend(&self, units: u64, now: Duration) {
        self.add(units, self.earned(now), |_| true);
    }

    /// Units that are left now.
    #[inline]
    pub(crate) fn room(&self, now: Duration) -> u64 {
        let earned = self.earned(now);
        earned.saturating_add(self.depth).saturating_sub(self.passed.load(Ordering::Relaxed).max(earned))
    }

    /// How long it takes until `units` are left, or a full bucket where that is less; one that never fills takes
    /// [`Duration::MAX`].
    pub(crate) fn wait(&self, units: u64, now: Duration) -> Duration {
        let earned = self.earned(now);
        let spent = self.passed.load(Ordering::Relaxed).max(earned);
        let needed = spent.saturating_add(units.min(self.depth));
        let missing = u128::from(needed.saturating_sub(earned.saturating_add(self.depth)));
        match (missing, u128::from(self.per_second)) {
            _ if self.depth == 0 => Duration::MAX,
            (0, _) => Duration::ZERO,
            (_, 0) => Duration::MAX,
            (missing, rate) => {
                let nanos = (missing * u128::from(NANOS_PER_SECOND)).div_ceil(rate);
                u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
            }
        }
    }

    /// Counts `units` if `may` says so of what has passed.
    #[inline]
    fn add(&self, units: u64, earned: u64, may: impl Fn(u64) -> bool) -> bool {
        let mut passed = self.passed.load(Ordering::Relaxed);
        loop {
            let spent = passed.max(earned);
            if !may(spent) {
                return false;
            }
            let after = spent.saturating_add(units);
            match self.passed.compare_exchange_weak(passed, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                // Another worker has taken some: that many workers are the bound of these rounds.
                Err(current) => passed = current,
            }
        }
    }

    /// Units that a steady sender may have sent since the start. 11 years of 400 Gbit/s in bytes fit; of frames, more.
    #[inline]
    fn earned(&self, now: Duration) -> u64 {
        let (rate, nanos) = (self.per_second, u64::from(now.subsec_nanos()));
        // In two parts, neither of which overflows.
        let fraction = nanos * (rate / NANOS_PER_SECOND) + nanos * (rate % NANOS_PER_SECOND) / NANOS_PER_SECOND;
        now.as_secs().saturating_mul(rate).saturating_add(fraction)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// 400 Gbit/s in bytes a second.
    const FASTEST: u64 = 50_000_000_000;

    #[test]
    fn room_shrinks_and_grows_up_to_the_depth() {
        let bucket = Bucket::new(1000, 500);
        assert_eq!(bucket.room(SECOND), 500);
        bucket.spend(200, SECOND);
        assert_eq!([bucket.room(SECOND), bucket.room(SECOND + SECOND / 10)], [300, 400]);
        assert_eq!(bucket.room(2 * SECOND), 500);
        // More than was left is a debt that is paid first.
        bucket.spend(1300, 2 * SECOND);
        assert_eq!([bucket.room(2 * SECOND), bucket.room(2 * SECOND + SECOND * 8 / 10)], [0, 0]);
        assert_eq!(bucket.room(3 * SECOND), 200);
    }

    #[test]
    fn the_wait_is_the_shortest_one() {
        for rate in [1, 3, 1000, 1_250_000, 12_345_678_901, FASTEST] {
            let bucket = Bucket::new(rate, 100_000);
            let now = SECOND / 3;
            assert_eq!(bucket.wait(100_000, now), Duration::ZERO);
            bucket.spend(250_000, now);
            for units in [1, 1000, 100_000, 200_000] {
                let wait = bucket.wait(units, now);
                assert!(bucket.room(now + wait) >= units.min(100_000), "{rate} {units}");
                // What was earned is a whole number: one unit's time too much at most.
                let unit = Duration::from_nanos(NANOS_PER_SECOND.div_ceil(rate) + 1);
                let sooner = wait.saturating_sub(unit);
                assert!(wait <= unit || bucket.room(now + sooner) < units.min(100_000), "{rate} {units}");
            }
        }
        assert_eq!([Bucket::new(0, 0), Bucket::new(9, 0)].map(|it| it.wait(1, SECOND)), [Duration::MAX; 2]);
        let empty = Bucket::new(0, 1);
        empty.spend(1, SECOND);
        assert_eq!(empty.wait(1, SECOND), Duration::MAX);
    }
}
