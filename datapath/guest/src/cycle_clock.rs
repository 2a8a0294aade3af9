//! The processor's own clock: reading it takes a few nanoseconds, so a worker can do that for each poll.

#![expect(unsafe_code, reason = "the instruction that reads it")]

use std::sync::OnceLock;
use std::time::Instant;

/// Ticks since some moment; on one core they never go back.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this architecture has the instruction.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    u64::try_from(start().0.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// How many nanoseconds so many ticks are, by what has passed since the first call of this or of [`start`].
pub fn nanoseconds(count: u64) -> u64 {
    let (instant, first) = start();
    let (passed, elapsed) = (ticks().saturating_sub(*first).max(1), instant.elapsed().as_nanos());
    u64::try_from(u128::from(count) * elapsed / u128::from(passed)).unwrap_or(u64::MAX)
}

/// Begins to compare the clock with time, once in the life of the process.
pub fn start() -> &'static (Instant, u64) {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    START.get_or_init(|| {
        let now = Instant::now();
        #[cfg(target_arch = "x86_64")]
        return (now, ticks());
        #[cfg(not(target_arch = "x86_64"))]
        (now, 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ticks_become_nanoseconds() {
        start();
        let (instant, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let (told, elapsed) = (nanoseconds(ticks() - first), instant.elapsed());
        let difference = Duration::from_nanos(told).abs_diff(elapsed);
        assert!(difference < elapsed / 4, "{told} ns, not {elapsed:?}");
    }
}
