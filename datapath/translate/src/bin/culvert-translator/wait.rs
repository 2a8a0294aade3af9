//! How a thread waits for what comes next: it looks for it for a while ([`Patience`]), or sleeps.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_translate::time::Instant;
use mio::{Events, Poll};

use crate::patience::{Patience, SPAN};

/// Waits until something has come, or until `deadline`. `moved`: bytes from and to the guest since the start; `has_frames`
/// tells whether the guest has left some.
///
/// # Errors
/// The kernel's.
pub fn wait(
    poll: &mut Poll,
    events: &mut Events,
    patience: &mut Patience,
    deadline: Instant,
    moved: u64,
    mut has_frames: impl FnMut() -> bool,
) -> Result<()> {
    let begin = Instant::now();
    let looks = deadline > begin && patience.is_worth_it();
    let timeout = if looks { Duration::ZERO } else { deadline.saturating_duration_since(begin) };
    loop {
        match poll.poll(events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot wait for events (epoll_wait)"),
        }
        if !events.is_empty() || has_frames() {
            patience.came(Instant::now(), moved);
            return Ok(());
        }
        if !looks {
            return Ok(());
        }
        let now = Instant::now();
        if now >= begin + SPAN {
            patience.was_in_vain();
            return Ok(());
        }
        if now >= deadline {
            return Ok(());
        }
    }
}
