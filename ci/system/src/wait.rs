//! Waiting for what comes by itself, on a busy machine late.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Waits until something holds.
///
/// # Errors
/// It does not within the limit, or cannot be asked.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(60);
