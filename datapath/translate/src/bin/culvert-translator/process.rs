//! What this process does to itself and its descriptors, and std has no safe call for.
//!
//! The only unsafe code of the program's frame. Called by `main`, [`crate::isolation`] and [`crate::background`],
//! before there is a second thread.

#![expect(unsafe_code, reason = "fork, and descriptors known by their number")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// Which of the two processes one is in after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// The one that was there; the number of the new one, as seen from here.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a second process. There may be one thread only.
///
/// # Errors
/// The kernel's reason, usually a limit on processes.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: fork() in a process of one thread leaves a child that may do everything: no lock is held by a thread that
    // is not there. That there is one thread is what the callers promise.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Forked::Parent).ok_or_else(io::Error::last_os_error),
    }
}

/// Takes a descriptor that this process was started with. It is the caller's from now on.
///
/// # Errors
/// There is no such descriptor.
pub fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD has no argument and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nothing here owns it: `main` takes the numbers of the command line before it opens
    // anything.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes all descriptors from 3 on but `kept`.
///
/// # Errors
/// The kernel's reason; before Linux 5.9 there is no such call.
pub fn close_others(kept: Option<RawFd>) -> io::Result<()> {
    let close = |first: u32, last: u32| {
        if first > last {
            return Ok(());
        }
        // SAFETY: nothing owns these: this runs before anything was opened.
        match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    match kept.and_then(|kept| u32::try_from(kept).ok()).filter(|kept| *kept > 2) {
        None => close(3, u32::MAX),
        Some(kept) => {
            close(3, kept - 1).and_then(|()| kept.checked_add(1).map_or(Ok(()), |next| close(next, u32::MAX)))
        }
    }
}
