//! The daemon's end of the broker's socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_steer::Steering;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::process::{Pid, Signal};

use super::message::{self, Reply, Request, Wish};

/// What the daemon asks its supervisor by. Any thread may; each waits for the one before.
#[derive(Debug)]
pub struct Broker {
    socket: Mutex<Numbered>,
    supervisor: Pid,
}

#[derive(Debug)]
struct Numbered {
    socket: OwnedFd,
    /// That of the last request.
    number: u64,
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
        Ok(Self { socket: Mutex::new(Numbered { socket, number: 0 }), supervisor })
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
        self.done(&Request::Ready, &[])
    }

    /// Tells that the ports were opened and all goes its way.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn alive(&self) -> io::Result<()> {
        self.done(&Request::Alive, &[])
    }

    /// How often the daemon was started again, and why the last time; empty when it was not.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn history(&self) -> io::Result<(u64, String)> {
        match self.ask(&Request::History, &[])? {
            (Reply::History(restarts, reason), _) => Ok((restarts, reason)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Tells why this process is about to end with [`EXIT_AGAIN`](crate::arguments::EXIT_AGAIN).
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn because(&self, reason: &str) -> io::Result<()> {
        self.done(&Request::Because(reason.replace(char::is_control, " ")), &[])
    }

    /// Gives copies of descriptors into the supervisor's keeping, at most [`message::MAX_DESCRIPTORS`]: the next daemon can take
    /// them. `name` has no control characters.
    ///
    /// # Errors
    /// The supervisor does not answer, or keeps too many.
    pub fn store(&self, name: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.done(&Request::Store(name.to_owned()), descriptors)
    }

    /// Copies of the descriptors that the supervisor keeps under this name; none when there are none.
    ///
    /// # Errors
    /// The supervisor does not answer, or this process has no room for them.
    pub fn take(&self, name: &str) -> io::Result<Vec<OwnedFd>> {
        match self.ask(&Request::Take(name.to_owned()), &[])? {
            (Reply::Descriptors, descriptors) => Ok(descriptors),
            (Reply::None, _) => Ok(Vec::new()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends the keeping of what has this name.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.done(&Request::Forget(name.to_owned()), &[])
    }

    /// Ends the keeping of all descriptors that this process has neither stored nor taken.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn forget_others(&self) -> io::Result<()> {
        self.done(&Request::ForgetOthers, &[])
    }

    /// A packet socket on the interface `tap` of the network namespace at `netns`, as [`packets::open`](crate::pods::packets::open)
    /// opens it.
    ///
    /// # Errors
    /// A sentence.
    pub fn packets(&self, netns: &Path, tap: &str) -> Result<OwnedFd, String> {
        let request = Request::Packets { tap: tap.to_owned(), netns: netns.to_owned() };
        match self.ask(&request, &[]) {
            Ok((Reply::Descriptors, mut descriptors)) if descriptors.len() == 1 => Ok(descriptors.remove(0)),
            Ok((other, _)) => Err(unexpected(&other).to_string()),
            Err(error) => Err(format!("the supervisor does not answer: {error}; restart culvertd")),
        }
    }

    /// What steers the ports of the network namespace at `netns` to two sockets, as
    /// [`steering::open`](crate::pods::steering::open) opens it.
    ///
    /// # Errors
    /// A sentence.
    pub fn steer(&self, netns: &Path, sockets: &[OwnedFd]) -> Result<Steering, String> {
        match self.ask(&Request::Steer(netns.to_owned()), sockets) {
            Ok((Reply::Descriptors, descriptors)) => match <[OwnedFd; 2]>::try_from(descriptors) {
                Ok([link, table]) => Ok(Steering { link, table }),
                Err(_) => Err("the supervisor gives something else; restart culvertd".to_owned()),
            },
            Ok((other, _)) => Err(unexpected(&other).to_string()),
            Err(error) => Err(format!("the supervisor does not answer: {error}; restart culvertd")),
        }
    }

    /// Switches sockets of the network namespace at `netns` to repair mode or back, as
    /// [`Namespace::repair`](crate::pods::packets::Namespace::repair) does.
    ///
    /// # Errors
    /// A sentence.
    pub fn repair(&self, netns: &Path, sockets: &[OwnedFd], on: bool) -> Result<(), String> {
        let request = Request::Repair { on, netns: netns.to_owned() };
        self.done(&request, sockets).map_err(|error| error.to_string())
    }

    /// Tells that DPDK's memory is in hugepages.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn hugepages(&self) -> io::Result<()> {
        self.done(&Request::Hugepages, &[])
    }

    /// What the supervisor wants, which has sent a signal.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn asked(&self) -> io::Result<Wish> {
        match self.ask(&Request::Asked, &[])? {
            (Reply::Wish(wish), _) => Ok(wish),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Tells whether this process stands still, with everything that the next one needs in keeping; or why not.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub fn frozen(&self, outcome: Result<(), String>) -> io::Result<()> {
        let request = match outcome {
            Ok(()) => Request::Frozen,
            Err(reason) => Request::NotFrozen(reason.replace(char::is_control, " ")),
        };
        self.done(&request, &[])
    }

    /// Waits until it is this process's turn to take everything up, which is prepared.
    ///
    /// # Errors
    /// The supervisor does not answer, or the turn does not come.
    pub fn wait_for_turn(&self) -> io::Result<()> {
        self.wait_for(&Request::Prepared)
    }

    /// Waits until this process may move frames, which has taken everything up.
    ///
    /// # Errors
    /// The supervisor does not answer, or it does not come to that.
    pub fn wait_for_go(&self) -> io::Result<()> {
        self.wait_for(&Request::Taken)
    }

    /// Waits until the daemon before has gone, whose devices nobody else can open.
    ///
    /// # Errors
    /// The supervisor does not answer, or it does not go.
    pub fn wait_until_alone(&self) -> io::Result<()> {
        self.wait_for(&Request::Alone)
    }

    fn wait_for(&self, request: &Request) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match self.ask(request, &[])? {
                (Reply::Done, _) => return Ok(()),
                (Reply::None, _) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                (Reply::None, _) => return Err(io::ErrorKind::TimedOut.into()),
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    fn done(&self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<()> {
        match self.ask(request, descriptors)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let mut asking = self.lock();
        asking.number = asking.number.wrapping_add(1);
        let Numbered { socket, number: wanted } = &*asking;
        message::send(socket, &message::numbered(*wanted, &request.text()), descriptors)?;
        loop {
            let received = match message::receive(socket, RecvFlags::empty()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let (number, text) = message::number(&received.text).ok_or(io::ErrorKind::InvalidData)?;
            // The answer to a request that was given up must not be taken for this one's.
            if number != *wanted {
                continue;
            }
            if received.lost {
                return Err(io::Error::other("too many open files, see `ulimit -n`"));
            }
            let reply = Reply::parse(text).ok_or(io::ErrorKind::InvalidData)?;
            return Ok((reply, received.descriptors));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
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
/// How often it is asked whether this process may go on: each time costs the supervisor some microseconds.
const PAUSE: Duration = Duration::from_micros(200);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The daemon's end, without a supervisor's process.
    pub fn broker(socket: OwnedFd) -> Broker {
        Broker::new(socket, rustix::process::getpid()).unwrap()
    }

    #[test]
    fn a_late_answer_is_nobodys() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let broker = broker(near);
        // The first request is given up, and answered after all, just before the second.
        set_socket_timeout(&broker.lock().socket, Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
        assert_eq!(broker.take("a").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        set_socket_timeout(&broker.lock().socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        message::send(&far, "1 descriptors", &[file]).unwrap();
        message::send(&far, "2 none", &[]).unwrap();
        assert!(broker.take("b").unwrap().is_empty());
    }
}
