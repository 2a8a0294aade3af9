//! How many flooded frames a second a port may send: group-addressed ones, and those to addresses that nobody knows.
//!
//! Each kind has a token [bucket](crate::bucket) that holds a hundredth of a second's worth: all of it at once
//! must leave room in the receive rings of others, which mostly have 256 buffers.
//!
//! Time is an argument. Workers share a [`Limiter`] through an `Arc`; `forward` asks it before it floods.

use std::time::Duration;

use crate::bucket::Bucket;

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
        Self { broadcast: limits.broadcast.map(bucket), unknown: limits.unknown.map(bucket) }
    }

    /// Whether one more frame may pass; if so, it is counted as the `frames` that it makes on the wire. One that makes more
    /// than are left passes, and what follows waits for it. `now` is the time since any fixed moment.
    #[inline]
    pub fn take(&self, kind: Flooded, frames: u32, now: Duration) -> bool {
        let bucket = match kind {
            Flooded::Broadcast => &self.broadcast,
            Flooded::Unknown => &self.unknown,
        };
        bucket.as_ref().is_none_or(|bucket| bucket.take(frames.into(), now))
    }
}

impl Limiter {
    /// Whether [`Self::take`] would let one more frame pass.
    pub fn would_take(&self, kind: Flooded, now: Duration) -> bool {
        let bucket = match kind {
            Flooded::Broadcast => &self.broadcast,
            Flooded::Unknown => &self.unknown,
        };
        bucket.as_ref().is_none_or(|bucket| bucket.room(now) > 0)
    }
}

/// Frames that a bucket of a low limit holds: what a guest sends at once when its link comes up (ARP, DHCP, router
/// solicitations, reports of groups) does not meet the limit.
const LEAST_DEPTH: u64 = 32;

fn bucket(per_second: u32) -> Bucket {
    let depth = if per_second == 0 { 0 } else { u64::from(per_second / 100).max(LEAST_DEPTH) };
    Bucket::new(per_second.into(), depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(per_second: u32) -> Limiter {
        Limiter::new(&Limits { broadcast: Some(per_second), unknown: None })
    }

    fn passed(limiter: &Limiter, times: impl Iterator<Item = Duration>) -> usize {
        times.filter(|&now| limiter.take(Flooded::Broadcast, 1, now)).count()
    }

    #[test]
    fn each_kind_has_its_own_limit_or_none() {
        let limiter = Limiter::new(&Limits { broadcast: Some(100), unknown: Some(0) });
        assert!(!limiter.take(Flooded::Unknown, 1, SECOND));
        assert!(limiter.take(Flooded::Broadcast, 1, SECOND));
        let open = Limits::default();
        assert!(open.is_none() && !Limits { unknown: Some(0), ..open }.is_none());
        assert!((0..1000).all(|_| Limiter::new(&open).take(Flooded::Unknown, 1, SECOND)));
    }

    #[test]
    fn a_burst_is_a_hundredth_of_a_seconds_worth_and_32_at_least() {
        for (per_second, burst) in [(0, 0), (1, 32), (3200, 32), (3300, 33), (100_000, 1000)] {
            let limiter = limiter(per_second);
            for now in [Duration::ZERO, 100 * SECOND] {
                assert_eq!(passed(&limiter, std::iter::repeat_n(now, 5000)), burst, "{per_second} at {now:?}");
            }
        }
    }

    /// A remainder that got lost at each frame would add up.
    #[test]
    fn long_runs_are_exact() {
        for per_second in [1, 3, 7, 999, 1_000, 1_001, 65_537] {
            let limiter = limiter(per_second);
            let steps = u64::from(per_second) * 50;
            // Five times the limit for ten seconds, in steps that do not divide a second.
            let times = (0..=steps).map(|step| Duration::from_nanos(step * 10_000_000_000 / steps));
            let burst = u64::from(per_second / 100).max(LEAST_DEPTH);
            assert_eq!(passed(&limiter, times) as u64, u64::from(per_second) * 10 + burst, "{per_second}");
        }
    }

    #[test]
    fn a_steady_sender_at_the_limit_loses_nothing() {
        for per_second in [1, 7, 1000, 12_345] {
            let limiter = limiter(per_second);
            let frames = u64::from(per_second) * 20;
            let times = (0..frames).map(|frame| Duration::from_nanos(frame * 1_000_000_000 / u64::from(per_second)));
            assert_eq!(passed(&limiter, times) as u64, frames);
        }
    }

    #[test]
    fn time_that_stands_still_or_jumps_is_no_harm() {
        let limiter = limiter(10_000);
        let much = || std::iter::repeat_n((), 1000);
        assert_eq!(passed(&limiter, much().map(|()| SECOND)), 100);
        assert_eq!(passed(&limiter, much().map(|()| SECOND)), 0);
        // Ten years later there is a full bucket, not ten years' worth.
        let later = 315_360_000 * SECOND;
        assert_eq!(passed(&limiter, much().map(|()| later)), 100);
        // A worker that is behind sees what was spent, and goes on when it has caught up.
        assert_eq!(passed(&limiter, much().map(|()| later - SECOND / 2)), 0);
        assert_eq!(passed(&limiter, much().map(|()| later + SECOND / 200)), 50);
        assert_eq!(
            passed(&Limiter::new(&Limits { broadcast: Some(u32::MAX), unknown: None }), [Duration::MAX].into_iter()),
            0
        );
    }

    #[test]
    fn a_frame_counts_as_what_it_makes() {
        let limiter = limiter(10_000);
        let take = |frames, now| limiter.take(Flooded::Broadcast, frames, now);
        assert!(take(60, SECOND) && take(60, SECOND) && !take(1, SECOND));
        assert!(!take(1, SECOND + SECOND / 500) && take(1, SECOND + SECOND / 400));
        assert!(take(1000, 3 * SECOND) && !take(1, 3 * SECOND + SECOND / 12) && take(1, 3 * SECOND + SECOND / 10));
    }

    #[test]
    fn two_workers_share_one_limit() {
        let limiter = limiter(10_000);
        let worker = || passed(&limiter, (0..=100_000).map(|step| Duration::from_micros(step * 20)));
        let both = std::thread::scope(|scope| {
            let threads = [scope.spawn(worker), scope.spawn(worker)];
            threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
        });
        // Two seconds and a full bucket, of the 200,002 that they tried.
        assert_eq!(both, 20_100);
    }
}
