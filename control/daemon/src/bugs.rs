//! Panics are bugs of ours: each is counted, and the log has it, as long as it does not have too many.
//!
//! A panic ends what a thread was about to do, and mostly not the thread: a worker stops the port that it worked for, a request of
//! a client is answered with an error.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Lines about bugs that the log gets at the most; who finds a way to one finds it a million times.
const LINES: u64 = 100;

/// Counts panics from now on, and tells them by the log in the place of the standard error, which might block.
pub fn watch() {
    std::panic::set_hook(Box::new(note));
}

/// How many panics there were.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn note(panic: &PanicHookInfo<'_>) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    if count > LINES {
        return;
    }
    let what = panic.payload_as_str().unwrap_or("a panic without words");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("a thread");
    tracing::error!("{thread} failed at {place}: {what}; this is a mistake in culvertd: report it with the log");
    if count == LINES {
        tracing::error!("further failures are counted and not logged: see culvertctl status");
    }
}
