//! The processor's time stamp counter: a clock that costs the load a few nanoseconds to read.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Ticks of the counter since some moment.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks in a nanosecond, measured once in the life of the program.
pub fn ticks_per_nanosecond() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(50));
        (ticks() - first) as f64 / start.elapsed().as_nanos() as f64
    })
}

/// Ticks in a time.
pub fn ticks_of(time: Duration) -> u64 {
    (time.as_nanos() as f64 * ticks_per_nanosecond()) as u64
}

/// Microseconds in ticks.
pub fn microseconds(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_nanosecond() / 1e3
}
