//! The daemon as the supervisor's child: this program again, with `--supervised` and the broker's socket as its standard input.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal};

/// How the C library keeps memory that is free again, mallopt(3): control has a dozen threads, of which each would keep what its
/// clients' captures and changes once took. Workers take none.
const MALLOC: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// A daemon that was started.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    socket: OwnedFd,
}

impl Daemon {
    /// Starts it, with this process's own arguments. Must be called on the first thread: the kernel ends the daemon when the thread
    /// that started it ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // The same program as this one, also when there is a newer one in its place.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("culvertd").args(std::env::args_os().skip(1)).arg("--supervised").stdin(Stdio::from(its));
        command.envs(MALLOC);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, socket: ours })
    }

    /// Its process id, and the broker's socket.
    pub fn into_parts(self) -> (Pid, OwnedFd) {
        (self.pid, self.socket)
    }
}

/// Sends the daemon a signal. It is not reaped yet, so the process id is its own.
pub fn signal(pid: Pid, signal: Signal) {
    if let Err(errno) = rustix::process::kill_process(pid, signal) {
        tracing::error!("the daemon cannot be sent a signal: {errno}");
    }
}
