//! A child of the supervisor's: this program again, as another part of culvertd.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

/// This program with this process's own arguments and `option`. It is to be started on the first thread: the kernel ends the child
/// when the thread that started it ends.
pub(super) fn again(option: &str, stdin: Stdio) -> Command {
    // The same program as this one, also when there is a newer one in its place.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("culvertd").args(std::env::args_os().skip(1)).arg(option).stdin(stdin);
    // Whoever started us is told by the supervisor alone.
    command.env_remove("NOTIFY_SOCKET");
    command
}

/// Starts it.
///
/// # Errors
/// The kernel's.
pub(super) fn start(command: &mut Command) -> io::Result<Pid> {
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sends a child a signal. It is not reaped yet, so the process id is its own.
pub(super) fn signal(pid: Pid, signal: Signal) {
    if let Err(errno) = rustix::process::kill_process(pid, signal) {
        tracing::error!("process {} cannot be sent a signal: {errno}", pid.as_raw_nonzero());
    }
}
