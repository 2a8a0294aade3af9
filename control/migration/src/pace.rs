//! Keeping to a rate: whoever is about to send waits until it is its bytes' turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A rate that some connections share.
#[derive(Debug)]
pub struct Pace {
    /// Bits a second; 0: as fast as it goes.
    rate: AtomicU64,
    /// When the next bytes are due.
    next: Mutex<Instant>,
}

impl Pace {
    /// Bits a second; `None`: as fast as it goes. Must be called within a tokio runtime.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: AtomicU64::new(rate.unwrap_or(0)), next: Mutex::new(Instant::now()) }
    }

    /// Bits a second.
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Holds from the next bytes on.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.rate.store(rate.unwrap_or(0), Ordering::Relaxed);
    }

    /// How many bytes to take at a time, at most `most`: those of a hundredth of a second, so that connections take turns.
    pub fn portion(&self, most: usize) -> usize {
        let Some(rate) = self.rate() else { return most };
        usize::try_from(rate / 800).unwrap_or(usize::MAX).clamp(LEAST_PORTION.min(most), most)
    }

    /// Waits for the turn of `bytes`. Whoever was late catches up, by a tenth of a second at most.
    pub async fn turn(&self, bytes: usize) {
        let Some(rate) = self.rate() else { return };
        let turn = self.book(bytes, rate, Instant::now());
        tokio::time::sleep_until(turn).await;
    }

    /// When it is the turn of `bytes`.
    fn book(&self, bytes: usize, rate: u64, now: Instant) -> Instant {
        let takes = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(8_000_000_000) / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.checked_sub(CATCH_UP).map_or(*next, |earliest| earliest.max(*next));
        *next = turn.checked_add(takes).unwrap_or(turn);
        turn
    }
}

const LEAST_PORTION: usize = 1024;
const CATCH_UP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Some connections that have always something to send.
    async fn bytes_in(pace: &Arc<Pace>, connections: usize, time: Duration) -> Vec<u64> {
        let end = Instant::now() + time;
        let senders = (0..connections).map(|_| {
            let pace = Arc::clone(pace);
            tokio::spawn(async move {
                let mut sent = 0;
                while Instant::now() < end {
                    let portion = pace.portion(65_536);
                    pace.turn(portion).await;
                    sent += portion as u64;
                }
                sent
            })
        });
        let mut all = Vec::new();
        for sender in senders.collect::<Vec<_>>() {
            all.push(sender.await.unwrap());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_shared() {
        for rate in [1_000_000, 200_000_000] {
            let pace = Arc::new(Pace::new(Some(rate)));
            for connections in [1, 3, 100] {
                let each = bytes_in(&pace, connections, Duration::from_secs(100)).await;
                let seen = each.iter().sum::<u64>() as f64 * 8.0 / 100.0 / rate as f64;
                assert!((0.98..1.02).contains(&seen), "{seen} of {rate} by {connections}");
                let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
                assert!(most - least <= most / 3, "{each:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_not_saved_up() {
        let pace = Arc::new(Pace::new(Some(8_000_000)));
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let seen: u64 = bytes_in(&pace, 1, Duration::from_secs(1)).await.iter().sum();
        assert!((1_000_000..=1_120_000).contains(&seen), "{seen}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_changes_and_goes() {
        let pace = Arc::new(Pace::new(None));
        pace.turn(usize::MAX).await;
        assert_eq!((pace.rate(), pace.portion(65_536)), (None, 65_536));
        pace.set_rate(Some(80_000_000));
        let seen: u64 = bytes_in(&pace, 2, Duration::from_secs(10)).await.iter().sum();
        assert!((98_000_000..=103_000_000).contains(&seen), "{seen}");
    }
}
