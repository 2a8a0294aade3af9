//! How much has gone which way, and how fast it goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Counts the bytes of one direction.
#[derive(Debug)]
pub struct Meter {
    bytes: AtomicU64,
    /// Of the last two looks, which are a second apart at least: when, and how many bytes there were.
    looks: Mutex<[(Instant, u64); 2]>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), looks: Mutex::new([(Instant::now(), 0); 2]) }
    }
}

impl Meter {
    /// So many bytes more.
    pub fn add(&self, bytes: usize) {
        let all = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
        let now = Instant::now();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, last] = *looks;
        if now.duration_since(last.0) >= APART {
            *looks = [last, (now, all)];
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bits a second, over the last second or two.
    pub fn rate(&self) -> u64 {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let [before, last] = *looks;
        let now = Instant::now();
        // For a while nothing has come: then the time since counts.
        let since = if now.duration_since(last.0) >= APART { last } else { before };
        let bits = u128::from(self.bytes().saturating_sub(since.1)).saturating_mul(8_000_000);
        let microseconds = now.duration_since(since.0).as_micros().max(1);
        u64::try_from(bits / microseconds).unwrap_or(u64::MAX)
    }
}

const APART: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_that_of_the_last_seconds() {
        let meter = Meter::default();
        for (bytes, rate) in [(1_000_000, 80_000_000), (500_000, 40_000_000), (0, 0)] {
            for _ in 0..50 {
                tokio::time::advance(Duration::from_millis(100)).await;
                if bytes > 0 {
                    meter.add(bytes);
                }
            }
            let seen = meter.rate();
            assert!(seen.abs_diff(rate) <= rate / 10, "{seen}, {rate}");
        }
        assert_eq!(meter.bytes(), 75_000_000);
    }
}
