//! A guest's interrupt: the descriptor from SET_VRING_CALL, which may change or vanish while the ring runs.
//!
//! The frontend shares the open file with us. It can make an eventfd block again at any time, and fill it: so we look
//! before we write, and a worker that was caught in between is freed by [`unblock`](crate::unblock).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::unblock;

/// Where to tell the guest that a ring has used buffers. Shared between the ring and its session.
#[derive(Debug, Default)]
pub struct Call {
    target: ArcSwapOption<Target>,
}

/// A descriptor that is not signalled any more. A worker may still be about to.
#[derive(Debug)]
pub struct Replaced(Arc<Target>);

impl Replaced {
    /// Closes it, once a signal in progress is done: whoever comes last closes it, and that shall not be a worker. May take as
    /// long as the frontend likes.
    pub fn close(self) {
        let mut target = self.0;
        while let Err(shared) = Arc::try_unwrap(target) {
            target = shared;
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[derive(Debug)]
struct Target {
    descriptor: OwnedFd,
    is_socket: bool,
}

/// The frontend made its call descriptor block, and held us up with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked;

impl Call {
    /// A call to `descriptor`; `None` for a guest that polls.
    pub fn new(descriptor: Option<OwnedFd>) -> Self {
        Self { target: ArcSwapOption::from(descriptor.map(Target::new)) }
    }

    /// Replaces the descriptor and returns the old one.
    #[must_use = "closing it may take long, and must not be left to a worker"]
    pub fn set(&self, descriptor: Option<OwnedFd>) -> Option<Replaced> {
        self.target.swap(descriptor.map(Target::new)).map(Replaced)
    }

    /// A copy of the descriptor, if there is one.
    ///
    /// # Errors
    /// The kernel's, when too many are open.
    pub fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        self.target.load().as_ref().map(|target| target.descriptor.try_clone()).transpose()
    }

    /// Interrupts the guest. A full counter means that an interrupt is pending already; a closed or broken
    /// descriptor is the guest's own loss. Neither is an error.
    ///
    /// # Errors
    /// [`Blocked`]: the port is to be quarantined.
    pub fn signal(&self) -> Result<(), Blocked> {
        match &*self.target.load() {
            Some(target) => target.signal(),
            None => Ok(()),
        }
    }

    /// As [`Self::signal`], for threads that nobody watches: a descriptor that blocks holds them up for `limit` at most.
    ///
    /// # Errors
    /// [`Blocked`]: the port is to be quarantined.
    pub fn signal_within(&self, limit: Duration) -> Result<(), Blocked> {
        unblock::within(limit, || self.signal())
    }
}

impl Target {
    fn new(descriptor: OwnedFd) -> Arc<Self> {
        let is_socket =
            fstat(&descriptor).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Socket);
        Arc::new(Self { descriptor, is_socket })
    }

    fn signal(&self) -> Result<(), Blocked> {
        let one = 1_u64.to_ne_bytes();
        if self.is_socket {
            let _ = rustix::net::send(&self.descriptor, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            return Ok(());
        }
        let mut writable = [PollFd::new(&self.descriptor, PollFlags::OUT)];
        if poll(&mut writable, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(1) {
            return Ok(());
        }
        if rustix::io::write(&self.descriptor, &one) == Err(Errno::INTR) { Err(Blocked) } else { Ok(()) }
    }
}
