//! A bound on how often in a second something may happen at one port.

use std::time::{Duration, Instant};

/// Counts, from the first time on, in windows of one second.
#[derive(Debug, Default)]
pub struct Rate {
    since: Option<Instant>,
    used: u32,
}

impl Rate {
    /// Counts one more.
    pub fn count(&mut self, now: Instant) {
        if self.end().is_none_or(|end| end <= now) {
            self.since = Some(now);
            self.used = 0;
        }
        self.used = self.used.saturating_add(1);
    }

    /// If there have been `limit` in this second: when it ends.
    pub fn exhausted(&self, limit: u32, now: Instant) -> Option<Instant> {
        self.end().filter(|&end| end > now && self.used >= limit)
    }

    fn end(&self) -> Option<Instant> {
        self.since?.checked_add(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_limit_and_the_next_one_again() {
        let (mut rate, start, half) = (Rate::default(), Instant::now(), Duration::from_millis(500));
        assert_eq!(rate.exhausted(0, start), None);
        for now in [start, start + half] {
            assert_eq!(rate.exhausted(2, now), None);
            rate.count(now);
        }
        assert_eq!(rate.exhausted(2, start + half), Some(start + 2 * half));
        assert_eq!(rate.exhausted(3, start + half), None);
        assert_eq!(rate.exhausted(2, start + 2 * half), None);
        rate.count(start + 2 * half);
        assert_eq!(rate.exhausted(1, start + 3 * half), Some(start + 4 * half));
    }
}
