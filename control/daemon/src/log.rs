//! culvertd's log: lines on standard error, which a thread of its own writes.
//!
//! Standard error is a pipe to somebody else: kubelet's runtime, journald, a shell. When that one stops reading, a write waits for
//! ever; when it has gone, or the disk behind it is full, a write fails. Neither may hold up or end a thread that serves guests
//! or clients. So whoever logs hands its line to a queue of bounded length and goes on; a line that finds the queue full is
//! left out and counted, and lines that cannot be written are gone.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::arguments::{Arguments, LogFormat};

/// The log of the process. Dropping it waits a moment for the lines that are still in the queue.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
}

/// What takes lines.
#[derive(Clone, Debug)]
struct Queue {
    pieces: SyncSender<Piece>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Piece {
    Line(Vec<u8>),
    /// All lines before it are written when the other end of this channel is gone.
    End {
        _written: SyncSender<()>,
    },
}

/// Starts the log of the process.
///
/// # Errors
/// `--log-level` cannot be read, or there can be no further thread.
pub fn start(arguments: &Arguments) -> Result<Log> {
    let filter = arguments.log_level.as_str();
    let parsed = parse(filter).map_err(|problem| anyhow::anyhow!("--log-level {problem}"))?;
    let (queue, waiting) = queue();
    let left_out = Arc::clone(&queue.left_out);
    let writer = std::thread::Builder::new().name("log".to_owned());
    writer.spawn(move || write(&waiting, &left_out, io::stderr())).context("a thread cannot start")?;
    let colours = io::stderr().is_terminal();
    // What it says of its own errors goes to standard error by eprintln, which panics where that is broken.
    let lines = fmt::layer().with_ansi(colours).log_internal_errors(false).with_writer(queue.clone());
    let lines = match arguments.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let (levels, handle) = reload::Layer::new(parsed);
    tracing_subscriber::registry().with(levels).with(lines).init();
    let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
    let _ = QUEUE.set(queue.clone());
    let now = Mutex::new(filter.to_owned());
    let _ = LEVEL.set(Level { at_start: filter.to_owned(), now, set: Box::new(set) });
    Ok(Log { queue })
}

/// What the log has, and what it had when it was started; `None` for a process without a log.
pub fn level() -> Option<(String, String)> {
    let level = LEVEL.get()?;
    Some((level.now.lock().unwrap_or_else(PoisonError::into_inner).clone(), level.at_start.clone()))
}

/// Changes what the log has; to what it had when it was started if `filter` is empty. Returns what it has now.
///
/// # Errors
/// A sentence: `filter` cannot be read, or there is no log.
pub fn set_level(filter: &str) -> Result<String, String> {
    let level = LEVEL.get().ok_or("this process has no log")?;
    let filter = if filter.is_empty() { level.at_start.as_str() } else { filter };
    // Alone it would be the name of a part of the program, of which there is to be everything: a slip of the pen.
    let is_level = |part: &str| LEVELS.contains(&part.to_ascii_lowercase().as_str());
    if let Some(part) = filter.split(',').find(|part| !part.contains(['=', '[']) && !is_level(part)) {
        return Err(format!("{part} is no level; write {}", LEVELS.join(", ")));
    }
    let parsed = parse(filter)?;
    let mut now = level.now.lock().unwrap_or_else(PoisonError::into_inner);
    (level.set)(parsed)?;
    filter.clone_into(&mut now);
    Ok(filter.to_owned())
}

/// Levels as they were written, beside those that hold in any case.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    if filter.len() > MAX_FILTER_BYTES || filter.chars().any(|c| c.is_control()) {
        return Err(format!(
            "has more than {MAX_FILTER_BYTES} bytes, or control characters; write a level, such as debug"
        ));
    }
    // What these say is of clients' mistakes, as often as a client likes.
    EnvFilter::try_new(format!("h2=error,hyper=error,tonic=error,tower=error,{filter}"))
        .map_err(|error| format!("{filter} cannot be read: {error}; write error, warn, info, debug or trace"))
}

/// Waits a moment for the lines that are still in the queue: for whoever ends the process at once.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish();
    }
}

/// That of the process.
static QUEUE: OnceLock<Queue> = OnceLock::new();
/// What it has.
static LEVEL: OnceLock<Level> = OnceLock::new();

/// What a log has.
struct Level {
    at_start: String,
    now: Mutex<String>,
    /// Makes it have another level.
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Says something on standard error if that takes it: the last words of a process that has no log, or none any more.
pub fn say(text: &str) {
    // There is nobody left to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

fn queue() -> (Queue, Receiver<Piece>) {
    let (pieces, waiting) = sync_channel(MAX_WAITING);
    (Queue { pieces, left_out: Arc::default() }, waiting)
}

/// Writes lines until all of those that log have gone.
fn write(waiting: &Receiver<Piece>, left_out: &AtomicU64, mut to: impl Write) {
    while let Ok(piece) = waiting.recv() {
        let Piece::Line(line) = piece else { continue };
        // A line that cannot be written has nowhere else to go.
        let _ = to.write_all(&line);
        let missing = left_out.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(to, "{missing} lines of the log are missing here: standard error was not read");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.finish();
    }
}

impl Queue {
    fn finish(&self) {
        let (written, all) = sync_channel(1);
        if self.pieces.try_send(Piece::End { _written: written }).is_ok() {
            // Whether they are written or the time is over, the process goes on to its end.
            let _ = all.recv_timeout(FAREWELL);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    /// Takes a whole line, which is what `tracing_subscriber` writes at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.pieces.try_send(Piece::Line(line.to_vec())).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From the fewest lines to the most.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// What levels may take.
const MAX_FILTER_BYTES: usize = 1024;
/// Lines that may wait for standard error. With the longest ones, of a few KiB, they take some MiB.
const MAX_WAITING: usize = 1024;
/// How long the end of the process may wait for the queue.
const FAREWELL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes nothing as long as it is locked.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_told() {
        let (mut queue, waiting) = queue();
        let (slow, left_out) = (Slow::default(), Arc::clone(&queue.left_out));
        let held = slow.0.lock().unwrap();
        let to = slow.clone();
        let writer = std::thread::spawn(move || write(&waiting, &left_out, to));
        // One of them may be on its way already.
        let lines = MAX_WAITING + 3;
        for number in 0..lines {
            assert_eq!(queue.write(format!("line {number}\n").as_bytes()).unwrap(), format!("line {number}\n").len());
        }
        drop(held);
        drop(queue);
        writer.join().unwrap();
        let text = String::from_utf8(slow.0.lock().unwrap().clone()).unwrap();
        let written = text.lines().filter(|line| line.starts_with("line ")).count();
        let told: usize = text
            .lines()
            .filter_map(|line| line.split_once(" lines of the log are missing")?.0.parse::<usize>().ok())
            .sum();
        assert!(written >= MAX_WAITING && told >= 2, "{written} lines, {told} missing");
        assert_eq!(written + told, lines);
    }

    #[test]
    fn levels_that_cannot_be_read() {
        for filter in ["a=loud", "a=b=c", "info\nx", "\0", &"x".repeat(2000)] {
            assert!(parse(filter).is_err(), "{filter}");
        }
        assert!(parse("info,culvert_vhost=debug").is_ok());
    }

    #[test]
    fn a_writer_that_fails_ends_nothing() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut queue, waiting) = queue();
        queue.write_all(b"a line\n").unwrap();
        let left_out = Arc::clone(&queue.left_out);
        drop(queue);
        write(&waiting, &left_out, Full);
    }

    #[test]
    fn the_end_waits_for_what_is_in_the_queue() {
        let (mut queue, waiting) = queue();
        let (slow, left_out) = (Slow::default(), Arc::clone(&queue.left_out));
        let to = slow.clone();
        let writer = std::thread::spawn(move || write(&waiting, &left_out, to));
        queue.write_all(b"last words\n").unwrap();
        drop(Log { queue });
        writer.join().unwrap();
        assert_eq!(slow.0.lock().unwrap().as_slice(), b"last words\n");
    }
}
