//! Statistics on standard error, at intervals (`--stats`): the same as the control socket tells. Called by the event
//! loop.

use std::io::{self, Write};
use std::time::Duration;

use culvert_translate::request::Controlled;
use culvert_translate::time::Instant;

/// Prints statistics at intervals, when there is something new.
#[derive(Debug)]
pub struct Statistics {
    interval: Duration,
    next: Instant,
    printed: Vec<(&'static str, u64)>,
}

impl Statistics {
    /// None were printed yet.
    pub fn every(interval: Duration) -> Self {
        Self { interval, next: Instant::now() + interval, printed: Vec::new() }
    }

    /// When they are to be printed next.
    pub const fn deadline(&self) -> Instant {
        self.next
    }

    /// Prints those of `source`, if it is time.
    pub fn print(&mut self, now: Instant, source: &impl Controlled) {
        if now < self.next {
            return;
        }
        self.next = now + self.interval;
        let statistics = source.statistics();
        if statistics != self.printed {
            let mut text = String::new();
            for (name, value) in &statistics {
                text.push_str(&format!("{name} {value}\n"));
            }
            text.push('\n');
            // Nobody may be reading any more.
            let _ = io::stderr().write_all(text.as_bytes());
            self.printed = statistics;
        }
    }
}
