//! Processes of the other culvertd, by descriptors that name them for good: their numbers may be others' by now, and of another
//! namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A descriptor of a process.
///
/// # Errors
/// The kernel's: there is no such process.
pub fn of(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A descriptor of this process.
///
/// # Errors
/// The kernel's.
pub fn own() -> io::Result<OwnedFd> {
    of(rustix::process::getpid())
}

/// Descriptors of so many processes; `None`: of another number, or of something else, which whoever handed them over may have taken.
pub fn named<const COUNT: usize>(descriptors: Vec<OwnedFd>) -> Option<[OwnedFd; COUNT]> {
    <[OwnedFd; COUNT]>::try_from(descriptors).ok().filter(|descriptors| descriptors.iter().all(is_one))
}

fn is_one(descriptor: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(descriptor)));
    link.is_ok_and(|link| ["anon_inode:[pidfd]", "pidfd:"].iter().any(|kind| link.to_string_lossy().starts_with(kind)))
}

/// Ends it by force, and waits until it has gone, `limit` at most. Whether it has.
pub fn end(process: &OwnedFd, limit: Duration) -> bool {
    // Fails when it has gone, or belongs to a namespace that we do not see: then it ends by itself, as long as nobody permits it to go on.
    let _ = pidfd_send_signal(process, Signal::KILL);
    wait_for_end(process, limit)
}

/// Waits until it has gone, `limit` at most. Whether it has.
pub fn wait_for_end(process: &OwnedFd, limit: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(1), tv_nsec: left.subsec_nanos().into() };
        let mut look = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        match poll(&mut look, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok_and(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_ended_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let process = of(Pid::from_child(&child)).unwrap();
        assert!(is_one(&process));
        assert!(!wait_for_end(&process, Duration::from_millis(1)));
        assert!(end(&process, Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(end(&process, Duration::from_secs(10)));
        assert!(!is_one(&std::fs::File::open("/dev/null").unwrap().into()));
    }
}
