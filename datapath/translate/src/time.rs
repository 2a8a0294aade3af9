//! The translator's clock: moments of eight bytes, of which every flow holds a dozen.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, in nanoseconds of CLOCK_MONOTONIC: half as long as [`std::time::Instant`], also where there may be none.
/// Computing with it saturates, which happens after 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
        Self::of(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }

    /// How long it is since `earlier`: no time where that is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// The same moment as libraries know it.
    #[must_use]
    pub fn to_std(self) -> std::time::Instant {
        let (ours, theirs) = *SAME;
        (theirs + self.saturating_duration_since(ours))
            .checked_sub(ours.saturating_duration_since(self))
            .unwrap_or(theirs)
    }

    /// A moment of a library's.
    #[must_use]
    pub fn from_std(moment: std::time::Instant) -> Self {
        let (ours, theirs) = *SAME;
        ours + moment.saturating_duration_since(theirs) - theirs.saturating_duration_since(moment)
    }

    fn of(nanoseconds: u64) -> Self {
        Self(NonZeroU64::new(nanoseconds).unwrap_or(NonZeroU64::MIN))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(after)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, after: Duration) {
        *self = *self + after;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        Self::of(self.0.get().saturating_sub(nanoseconds(before)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// As [`Self::saturating_duration_since`].
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// One moment in both.
static SAME: LazyLock<(Instant, std::time::Instant)> = LazyLock::new(|| (Instant::now(), std::time::Instant::now()));

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_as_the_standard_librarys() {
        let (ours, theirs) = (Instant::now(), std::time::Instant::now());
        let step = Duration::new(3, 999_999_999);
        assert_eq!((ours + step) - ours, (theirs + step) - theirs);
        assert_eq!((ours + step - step) - ours, Duration::ZERO);
        assert_eq!(ours - (ours + step), Duration::ZERO);
        assert!(ours + step > ours && ours - step < ours);
        assert!(Instant::now() - ours <= theirs.elapsed() + Duration::from_secs(1));
    }

    #[test]
    fn is_converted_both_ways() {
        let (ours, theirs) = (Instant::now(), std::time::Instant::now());
        let apart = ours.to_std().max(theirs) - ours.to_std().min(theirs);
        assert!(apart < Duration::from_secs(1), "{apart:?}");
        let hour = Duration::from_secs(3600);
        for moment in [ours, ours + hour, ours - hour / 3600] {
            assert_eq!(Instant::from_std(moment.to_std()), moment);
        }
    }

    #[test]
    fn ends_where_numbers_do() {
        let now = Instant::now();
        assert_eq!(now + Duration::MAX, now + Duration::MAX + Duration::from_secs(1));
        assert_eq!(now - Duration::MAX, now - Duration::MAX - Duration::from_secs(1));
        assert_eq!(size_of::<Option<Instant>>(), 8);
    }
}
