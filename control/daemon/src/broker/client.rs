//! The daemon's end of the broker's socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::process::{Pid, Signal};

use super::message::{self, Reply, Request};

/// What the daemon asks its supervisor by. Any thread may; each waits for the one before.
#[derive(Debug)]
pub struct Broker {
    socket: Mutex<OwnedFd>,
    supervisor: Pid,
}

impl Broker {
    /// Takes the socket that the supervisor has given this process as its standard input, and has the kernel end this process when
    /// the supervisor ends. To be called on the first thread, before there is another.
    ///
    /// # Errors
    /// Standard input is no such socket, or the supervisor has gone already.
    pub fn from_stdin() -> io::Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let foreign = || io::Error::other("--supervised is for culvertd itself; start it without");
        let supervisor = socket_peercred(&socket).map_err(|_| foreign())?.pid;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before that was asked for.
        if rustix::process::getppid() != Some(supervisor) {
            return Err(foreign());
        }
        Self::new(socket, supervisor)
    }

    fn new(socket: OwnedFd, supervisor: Pid) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket: Mutex::new(socket), supervisor })
    }

    /// The supervisor's process id.
    pub fn supervisor(&self) -> u32 {
        self.supervisor.as_raw_nonzero().get().unsigned_abs()
    }

    /// Tells that signals reach this process from now on.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn ready(&self) -> io::Result<()> {
        self.done(&Request::Ready, None)
    }

    /// How often the daemon was started again, and why the last time; empty when it was not.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn history(&self) -> io::Result<(u64, String)> {
        match self.ask(&Request::History, None)? {
            (Reply::History(restarts, reason), _) => Ok((restarts, reason)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Tells why this process is about to end with [`EXIT_AGAIN`](crate::arguments::EXIT_AGAIN).
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn because(&self, reason: &str) -> io::Result<()> {
        self.done(&Request::Because(reason.replace(char::is_control, " ")), None)
    }

    /// Gives a descriptor into the supervisor's keeping: the next daemon can take it. `name` has no control characters.
    ///
    /// # Errors
    /// The supervisor does not answer, or keeps too many.
    pub fn store(&self, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
        self.done(&Request::Store(name.to_owned()), Some(descriptor))
    }

    /// A copy of the descriptor that the supervisor keeps under this name.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        match self.ask(&Request::Take(name.to_owned()), None)? {
            (Reply::Descriptor, Some(descriptor)) => Ok(Some(descriptor)),
            (Reply::None, None) => Ok(None),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends the keeping of a descriptor.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.done(&Request::Forget(name.to_owned()), None)
    }

    /// Ends the keeping of all descriptors that this process has neither stored nor taken.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn forget_others(&self) -> io::Result<()> {
        self.done(&Request::ForgetOthers, None)
    }

    fn done(&self, request: &Request, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        match self.ask(request, descriptor)? {
            (Reply::Done, None) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request, descriptor: Option<&OwnedFd>) -> io::Result<(Reply, Option<OwnedFd>)> {
        let socket = self.lock();
        message::send(&*socket, &request.text(), descriptor)?;
        let (text, descriptor) = loop {
            match message::receive(&*socket, RecvFlags::empty()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let reply = Reply::parse(&text).ok_or(io::ErrorKind::InvalidData)?;
        Ok((reply, descriptor))
    }

    fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    match reply {
        Reply::Refused(reason) => io::Error::other(reason.clone()),
        _ => io::ErrorKind::InvalidData.into(),
    }
}

/// How long the supervisor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The daemon's end, without a supervisor's process.
    pub fn broker(socket: OwnedFd) -> Broker {
        Broker::new(socket, rustix::process::getpid()).unwrap()
    }
}
