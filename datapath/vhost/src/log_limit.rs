//! A bound on the log lines that an outsider can cause at one port.

use std::time::{Duration, Instant};

/// Lines that may be written in each [`WINDOW`].
const LINES: u32 = 5;

const WINDOW: Duration = Duration::from_secs(10);

/// Counts the lines of one port.
#[derive(Debug, Default)]
pub struct LogLimit {
    window: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether a line may be written now, and if so, how many were left out since the last one.
    pub fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|start| now.saturating_duration_since(start) >= WINDOW) {
            self.window = Some(now);
            self.written = 0;
        }
        if self.written < LINES {
            self.written += 1;
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_limit_are_counted_and_told_with_the_next() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(limit.permit(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(limit.permit(start + WINDOW / 2), None);
        }
        assert_eq!(limit.permit(start + WINDOW), Some(7));
        assert_eq!(limit.permit(start + WINDOW), Some(0));
    }
}
