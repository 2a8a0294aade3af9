//! Which ends of the daemon are followed by another start, and after how long. Decisions only: no process, no clock.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::arguments::{EXIT_AGAIN, EXIT_FAILED, EXIT_PANIC};

/// How the daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exit(u8),
    /// By a signal.
    Signal(i32),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The supervisor ends with this code.
    Pass(u8),
    /// The daemon is started again after this time.
    Again(Duration),
}

/// The daemon's ends so far.
#[derive(Debug, Default)]
pub struct Restarts {
    last: Option<Instant>,
    pause: Duration,
}

impl Restarts {
    /// What follows an end at `now`. `stopping`: the daemon was told to.
    pub fn decide(&mut self, end: End, stopping: bool, now: Instant) -> Verdict {
        match end {
            // A signal that came before it could be handled.
            End::Signal(signal) if stopping && STOP.contains(&signal) => return Verdict::Pass(0),
            End::Signal(signal) if stopping => return Verdict::Pass(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            End::Exit(code) if stopping => return Verdict::Pass(code),
            // After a crash it cannot start: the one before could, and what it lacks may come.
            End::Exit(EXIT_FAILED) if self.last.is_some() => {}
            End::Exit(code) if ![EXIT_AGAIN, EXIT_PANIC].contains(&code) => return Verdict::Pass(code),
            End::Exit(_) | End::Signal(_) => {}
        }
        let is_soon = self.last.is_some_and(|last| now.saturating_duration_since(last) < SOON);
        self.last = Some(now);
        self.pause = if is_soon { (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { Duration::ZERO };
        Verdict::Again(self.pause)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match NAMES.iter().find(|(signal, _)| signal.as_raw() == *number) {
                Some((_, name)) => write!(f, "signal {number} ({name})"),
                None => write!(f, "signal {number}"),
            },
        }
    }
}

const STOP: [i32; 2] = [Signal::TERM.as_raw(), Signal::INT.as_raw()];
/// Those that end a process in practice.
const NAMES: [(Signal, &str); 13] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::TERM, "SIGTERM"),
    (Signal::SYS, "SIGSYS"),
];
/// An end so soon after the one before is not the last.
const SOON: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: End = End::Signal(9);

    #[test]
    fn the_first_crash_costs_no_pause_and_a_loop_of_them_longer_and_longer_ones() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let Verdict::Again(pause) = restarts.decide(KILL, false, now) else { panic!() };
            pauses.push(pause.as_millis());
            now += pause + Duration::from_millis(20);
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        // A daemon that lived long enough is like the first.
        now += SOON;
        assert_eq!(restarts.decide(End::Exit(EXIT_AGAIN), false, now), Verdict::Again(Duration::ZERO));
        assert_eq!(restarts.decide(End::Exit(EXIT_PANIC), false, now), Verdict::Again(FIRST_PAUSE));
    }

    #[test]
    fn other_ends_are_passed_on() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for code in [0, 1, 2, 64] {
            assert_eq!(restarts.decide(End::Exit(code), false, now), Verdict::Pass(code));
        }
    }

    #[test]
    fn after_a_crash_a_daemon_that_cannot_start_is_tried_again() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        assert_eq!(restarts.decide(KILL, false, now), Verdict::Again(Duration::ZERO));
        assert_eq!(restarts.decide(End::Exit(EXIT_FAILED), false, now), Verdict::Again(FIRST_PAUSE));
        assert_eq!(restarts.decide(End::Exit(EXIT_FAILED), false, now), Verdict::Again(2 * FIRST_PAUSE));
        assert_eq!(restarts.decide(End::Exit(64), false, now), Verdict::Pass(64));
    }

    #[test]
    fn what_was_told_to_stop_is_not_started_again() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for (end, code) in [(End::Signal(15), 0), (End::Signal(2), 0), (KILL, 137), (End::Exit(75), 75)] {
            assert_eq!(restarts.decide(end, true, now), Verdict::Pass(code));
        }
    }

    #[test]
    fn ends_are_told_by_name() {
        assert_eq!(End::Exit(75).to_string(), "exit 75");
        assert_eq!(KILL.to_string(), "signal 9 (SIGKILL)");
        assert_eq!(End::Signal(40).to_string(), "signal 40");
    }
}
