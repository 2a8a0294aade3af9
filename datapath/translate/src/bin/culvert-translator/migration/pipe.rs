//! The pipe through which a frontend takes or gives a state. The event loop waits for it; nothing here does.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// A frontend's pipe, of which the event loop hears.
#[derive(Debug)]
pub struct Pipe {
    file: OwnedFd,
    registry: Registry,
}

impl Pipe {
    /// Events of `file` come as `token` from now on.
    ///
    /// # Errors
    /// It is no pipe.
    pub fn new(file: OwnedFd, registry: &Registry, token: Token, interest: Interest) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
        let registry = registry.try_clone()?;
        // A plain file is ready always: only a pipe is handed over.
        registry.register(&mut SourceFd(&file.as_raw_fd()), token, interest).context("the state's file is no pipe")?;
        Ok(Self { file, registry })
    }

    /// Writes what it takes of `bytes` behind the first `written`. `None`: there is more to write, later.
    pub fn write_some(&self, bytes: &[u8], written: &mut usize) -> Option<Result<(), Errno>> {
        loop {
            let rest = bytes.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                return Some(Ok(()));
            }
            match rustix::io::write(&self.file, rest) {
                Ok(count) => *written += count,
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Adds what there is to `bytes`, which never get more than `most`. Whether that was the end.
    ///
    /// # Errors
    /// The kernel's, or there is more than that.
    pub fn read_some(&self, bytes: &mut Vec<u8>, most: usize) -> Result<bool, Errno> {
        let mut part = vec![0; 65_536];
        loop {
            match rustix::io::read(&self.file, &mut part) {
                Ok(0) => return Ok(true),
                Ok(count) if count > most.saturating_sub(bytes.len()) => return Err(Errno::FBIG),
                Ok(count) => bytes.extend_from_slice(part.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Pipe {
    /// The frontend may have kept its end, of which nobody is to hear any more.
    fn drop(&mut self) {
        let _ = self.registry.deregister(&mut SourceFd(&self.file.as_raw_fd()));
    }
}
