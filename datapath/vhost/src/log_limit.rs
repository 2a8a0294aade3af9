//! A bound on the log lines that an outsider can cause at one port.

use std::time::{Duration, Instant};

/// Lines that may be written in each [`WINDOW`].
const LINES: u32 = 5;

const WINDOW: Duration = Duration::from_secs(10);

/// What a line tells of a port. Each kind has a bound of its own, so that many lines of one do not hide those of another: a frontend could
/// come and go until nobody is told of its quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who comes and goes.
    Info,
    /// What was refused.
    Warning,
    /// Why the port was taken out of service.
    Quarantine,
}

/// Counts the lines of one port, by their kinds.
#[derive(Debug, Default)]
pub struct LogLimits([LogLimit; 3]);

impl LogLimits {
    /// As [`LogLimit::permit`], for a line of a kind.
    pub fn permit(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        let Self([info, warning, quarantine]) = self;
        match kind {
            Kind::Info => info.permit(now),
            Kind::Warning => warning.permit(now),
            Kind::Quarantine => quarantine.permit(now),
        }
    }
}

/// Counts lines of one kind.
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

    #[test]
    fn lines_of_one_kind_do_not_hide_those_of_another() {
        let mut limits = LogLimits::default();
        let now = Instant::now();
        while limits.permit(Kind::Info, now).is_some() {}
        while limits.permit(Kind::Warning, now).is_some() {}
        assert_eq!(limits.permit(Kind::Quarantine, now), Some(0));
    }
}
