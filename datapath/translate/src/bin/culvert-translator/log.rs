//! The log: to a file of limited size, or to standard error, or to the system's log; which one the command line says.
//!
//! A line is `12.3456: WARNING: what happened`, with seconds since the start. While the process starts, everything goes
//! to standard error as well: whoever started it should see why it fails. What a guest can cause is limited: below
//! `--debug`, at most [`MAX_LINES`] lines a second. [`LogFile`] keeps the size, `start` installs the whole.

mod file;
mod syslog;

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_translate::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

pub use file::LogFile;
pub use syslog::Syslog;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// A file of limited size.
    File(LogFile),
    /// The system's log.
    Syslog(Syslog),
    /// Standard error alone.
    Stderr,
}

/// The log of the process; a clone is the same log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    level: Level,
    /// Whether lines go to standard error.
    stderr: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sink: Sink,
    limit: Limit,
}

/// How many lines were logged in the second that `since` is the start of.
#[derive(Debug)]
struct Limit {
    most: u32,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Log {
    /// A log of everything up to `level`, to `sink` and to standard error.
    pub fn new(sink: Sink, level: Level, now: Instant) -> Self {
        let most = if level > Level::INFO { u32::MAX } else { MAX_LINES };
        let limit = Limit { most, since: now, lines: 0, left_out: 0 };
        let state = Mutex::new(State { sink, limit });
        Self { shared: Arc::new(Shared { start: now, level, stderr: AtomicBool::new(true), state }) }
    }

    /// Makes this the log of the whole process, for panics as well: in the background nobody reads standard error. Has
    /// an effect once.
    pub fn install(&self) {
        if tracing::subscriber::set_global_default(self.clone()).is_ok() {
            std::panic::set_hook(Box::new(|panic| {
                tracing::error!("this is a fault of the program, please report it: {panic}")
            }));
        }
    }

    /// The start is over: standard error is left alone, unless it is the sink.
    pub fn started(&self) {
        self.shared.stderr.store(false, Ordering::Relaxed);
    }

    fn write(&self, now: Instant, level: Level, message: &str) {
        let shared = &*self.shared;
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { sink, limit } = &mut *state;
        let Some(left_out) = limit.take(now) else { return };
        let elapsed = now.saturating_duration_since(shared.start).as_secs_f64();
        let mut line = String::new();
        if left_out > 0 {
            let _ = writeln!(line, "{elapsed:.4}: WARNING: {left_out} lines were left out");
        }
        // What comes from outside must not forge lines.
        let text = message.replace(|c: char| c.is_control(), " ");
        let _ = writeln!(line, "{elapsed:.4}: {}{text}", prefix(level));
        let to_stderr = match sink {
            Sink::Stderr => true,
            Sink::File(file) => {
                file.write(line.as_bytes());
                shared.stderr.load(Ordering::Relaxed)
            }
            Sink::Syslog(syslog) => {
                syslog.write(level, &text);
                shared.stderr.load(Ordering::Relaxed)
            }
        };
        if to_stderr {
            // There is nobody left to tell.
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

impl Limit {
    /// Room for one line, and how many had none before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since).as_secs() >= 1 {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= self.most {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.shared.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.shared.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        // Before the lock is taken: what formats may log as well.
        let mut message = String::new();
        event.record(&mut Text(&mut message));
        self.write(Instant::now(), *event.metadata().level(), &message);
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then the other fields as `name=value`.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail; a value that cannot be shown is left out.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR: ",
        Level::WARN => "WARNING: ",
        Level::INFO => "",
        Level::DEBUG => "DEBUG: ",
        Level::TRACE => "TRACE: ",
    }
}

/// Lines in one second, unless more was asked for.
pub const MAX_LINES: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn log(level: Level) -> (tempfile::TempDir, Log, Instant) {
        let folder = tempfile::tempdir().unwrap();
        let file = LogFile::create(&folder.path().join("log"), 1 << 20).unwrap();
        let now = Instant::now();
        let log = Log::new(Sink::File(file), level, now);
        log.started();
        (folder, log, now)
    }

    fn lines(folder: &tempfile::TempDir) -> Vec<String> {
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn lines_have_time_level_message_and_fields() {
        let (folder, log, _) = log(Level::INFO);
        tracing::subscriber::with_default(log, || {
            tracing::warn!(port = 22, error = %"no\nroom", "a {} failed", "forward");
            tracing::info!("done");
            tracing::debug!("not this");
        });
        let lines = lines(&folder);
        let texts: Vec<_> = lines.iter().map(|line| line.split_once(": ").unwrap()).collect();
        assert!(texts.iter().all(|(time, _)| time.parse::<f64>().is_ok_and(|seconds| seconds < 100.0)));
        assert_eq!(texts[0].1, "WARNING: a forward failed port=22 error=no room");
        assert_eq!((texts.len(), texts[1].1), (2, "done"));
    }

    #[test]
    fn floods_are_cut_and_told() {
        let (folder, log, start) = log(Level::INFO);
        for _ in 0..MAX_LINES + 5 {
            log.write(start, Level::INFO, "x");
        }
        log.write(start + Duration::from_secs(1), Level::INFO, "y");
        let lines = lines(&folder);
        assert_eq!(lines.len(), MAX_LINES as usize + 2);
        assert_eq!(lines[MAX_LINES as usize..], ["1.0000: WARNING: 5 lines were left out", "1.0000: y"]);
    }

    #[test]
    fn who_debugs_gets_everything() {
        let (folder, log, start) = log(Level::DEBUG);
        for _ in 0..1000 {
            log.write(start, Level::INFO, "x");
        }
        assert_eq!(lines(&folder).len(), 1000);
    }
}
