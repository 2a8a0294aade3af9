//! The daemon as the supervisor's child: this program again, with `--supervised` and the broker's socket as its standard input.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;

use super::child;

/// How the C library keeps memory that is free again, mallopt(3): control has a dozen threads, of which each would keep what its
/// clients' captures and changes once took. Workers take none.
const MALLOC: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// Where the daemon finds how often it is to tell, in milliseconds.
pub const HEARTBEAT: &str = "CULVERT_HEARTBEAT_MS";

/// A daemon that was started.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    socket: OwnedFd,
}

impl Daemon {
    /// Starts it with further options. `interval`: how often it is to tell that all goes its way. Must be called on the first thread, see [`child::again`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(options: &[&str], interval: Option<Duration>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let pid = child::start(
            child::again("--supervised", Stdio::from(its))
                .args(options)
                .envs(MALLOC)
                .envs(interval.map(|interval| (HEARTBEAT, interval.as_millis().to_string()))),
        )?;
        Ok(Self { pid, socket: ours })
    }

    /// Its process id, and the broker's socket.
    pub fn into_parts(self) -> (Pid, OwnedFd) {
        (self.pid, self.socket)
    }
}
