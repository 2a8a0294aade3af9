//! Descriptors that are kept for the time when there is none left.
//!
//! A client whose connection cannot be accepted waits without a word, and can do nothing about what uses them up. With what is
//! given up here one client is let in, and the journal can be written for him: he may remove a port, and look.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// Descriptors to give up.
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    /// A full one.
    ///
    /// # Errors
    /// The kernel's, when there are too few already.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self((0..DESCRIPTORS).map(|_| spare()).collect::<io::Result<_>>()?))
    }

    /// Gives them up if an accept failed for want of them. Whether there were any.
    pub(super) fn give_up(&mut self, error: &io::Error) -> bool {
        let lacking = matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE));
        lacking && !std::mem::take(&mut self.0).is_empty()
    }

    /// Takes what is missing of it, if the process has so many to spare. Whether it is full.
    pub(super) fn refill(&mut self) -> bool {
        if self.0.len() < DESCRIPTORS
            && let Ok(full) = Self::new()
        {
            *self = full;
        }
        self.0.len() == DESCRIPTORS
    }
}

fn spare() -> io::Result<File> {
    File::open("/dev/null")
}

/// One for the connection, the others for what a request opens meanwhile.
const DESCRIPTORS: usize = 8;
