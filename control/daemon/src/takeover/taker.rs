//! The new supervisor's end of a takeover: finds the one that runs, and has its daemon go on in that one's place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::message::{self, Greeting, Message};
use super::{FREEZING, GREETING, MARGIN, PARTING, PREPARATION, TAKING, process, step};
use crate::broker::Desk;

/// The new supervisor's end.
#[derive(Debug)]
pub struct Taker {
    socket: AsyncFd<OwnedFd>,
    stage: Stage,
    until: Instant,
    hugepages: bool,
    /// The old supervisor.
    supervisor: OwnedFd,
    /// Its daemon, when that stands still.
    daemon: Option<OwnedFd>,
    names: usize,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Our daemon prepares.
    Preparing,
    /// The old one hands over.
    Receiving,
    /// Our daemon takes up what there is.
    Taking,
    /// The old one ends its daemon.
    Waiting,
    /// Nothing becomes of it.
    Failed,
}

/// A message with its descriptors, or what came instead of one.
pub type Heard = io::Result<(Message, Vec<OwnedFd>)>;

/// What is to be done.
#[derive(Debug)]
pub enum Event {
    /// Nothing, for the present.
    Nothing,
    /// Our daemon is the one that serves.
    Ours,
    /// Nothing becomes of it, and the old one goes on: we end.
    Failed(String),
}

impl Taker {
    /// Greets the culvertd that runs. `None`: none runs. To be called within a tokio runtime.
    ///
    /// # Errors
    /// One runs, and there can be no takeover.
    pub fn connect(path: &Path, control_socket: &Path) -> Result<Option<Self>> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // The folder's name may be longer than a socket's address.
        let folder = path.parent().context("the control socket has no folder")?;
        let folder =
            rustix::fs::open(folder, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let connected = folder.and_then(|folder| {
            let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
            let address = SocketAddrUnix::new(Path::new(&short).join(path.file_name().unwrap_or_default()))?;
            rustix::net::connect(&socket, &address)
        });
        match connected {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => {
                // One without takeover, or that could not listen for it.
                if UnixStream::connect(control_socket).is_ok() {
                    bail!(
                        "the culvertd that runs offers no takeover: {} is missing; stop it, then start this one without --takeover",
                        path.display()
                    );
                }
                return Ok(None);
            }
            Err(errno) => bail!("{}: the culvertd that runs cannot be reached: {errno}", path.display()),
        }
        let peer = socket_peercred(&socket)?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            bail!("{} belongs to a process of user {}", path.display(), peer.uid.as_raw());
        }
        let Welcome { supervisor, hugepages, version } =
            greet(&socket).with_context(|| format!("{}: no takeover", path.display()))?;
        tracing::info!(version, "takes over from the culvertd that runs");
        rustix::io::ioctl_fionbio(&socket, true)?;
        #[expect(deprecated, reason = "an OwnedFd is always the same descriptor; `register` is unsafe")]
        let socket = AsyncFd::new(socket)?;
        step::reached("new-supervisor-greeted");
        let until = Instant::now() + PREPARATION;
        Ok(Some(Self { socket, stage: Stage::Preparing, until, hugepages, supervisor, daemon: None, names: 0 }))
    }

    /// Whether the daemon that runs has hugepages.
    pub fn has_hugepages(&self) -> bool {
        self.hugepages
    }

    /// Our daemon has said something to `desk`. `daemon`: its process.
    pub fn follow(&mut self, desk: &Desk, daemon: Pid) -> Event {
        let said = match self.stage {
            Stage::Preparing if desk.turn.is_prepared() => {
                step::reached("new-supervisor-prepared");
                self.enter(Stage::Receiving, FREEZING + MARGIN);
                self.ask(daemon)
            }
            Stage::Taking if desk.turn.is_taken() => {
                step::reached("new-supervisor-taken");
                self.enter(Stage::Waiting, PARTING + MARGIN);
                message::send(self.socket.get_ref(), &Message::Taken, &[])
            }
            _ => return Event::Nothing,
        };
        match said {
            Ok(()) => Event::Nothing,
            // What became of it is read next.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Event::Nothing
            }
            Err(error) => Event::Failed(error.to_string()),
        }
    }

    fn ask(&self, daemon: Pid) -> io::Result<()> {
        message::send(self.socket.get_ref(), &Message::HandOver, &[process::own()?, process::of(daemon)?])
    }

    /// Our daemon is ended: whatever the old one says, nothing becomes of it.
    pub fn give_up(&mut self) {
        self.stage = Stage::Failed;
    }

    /// What the old one says next.
    pub async fn next(&mut self) -> Heard {
        if self.stage == Stage::Failed {
            return std::future::pending().await;
        }
        tokio::time::timeout_at(self.until, message::next(&self.socket))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What is to be done about it.
    pub fn hear(&mut self, heard: Heard, desk: &mut Desk) -> Event {
        let (message, descriptors) = match heard {
            Ok(received) => received,
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof => return self.alone(desk),
                io::ErrorKind::TimedOut => return Event::Failed("it lasts too long".to_owned()),
                _ => return Event::Failed(format!("what the culvertd that runs says is no use: {error}")),
            },
        };
        match (self.stage, message) {
            (_, Message::Refused(reason)) => Event::Failed(reason),
            (Stage::Receiving, Message::Still) if self.daemon.is_none() => {
                self.daemon = process::named(descriptors).map(|[daemon]| daemon);
                match &self.daemon {
                    Some(_) => Event::Nothing,
                    None => Event::Failed("the culvertd that runs does not say which daemon it has".to_owned()),
                }
            }
            (Stage::Receiving, Message::Kept(name)) => match desk.inherit(name, descriptors) {
                Ok(()) => {
                    self.names += 1;
                    step::reached("new-supervisor-receiving");
                    Event::Nothing
                }
                Err(sentence) => Event::Failed(sentence),
            },
            (Stage::Receiving, Message::All { names, restarts, last_reason }) => {
                if names != self.names || self.daemon.is_none() {
                    return Event::Failed("the culvertd that runs has not handed over everything".to_owned());
                }
                desk.inherit_history(restarts, last_reason);
                desk.turn.let_take();
                self.enter(Stage::Taking, TAKING + MARGIN);
                step::reached("new-supervisor-received");
                Event::Nothing
            }
            (Stage::Waiting, Message::Go) => {
                step::reached("new-supervisor-go");
                // Before our daemon moves anything: the old one takes it back if this does not arrive.
                if let Err(error) = message::send(self.socket.get_ref(), &Message::Serving, &[]) {
                    tracing::debug!(%error, "the old supervisor has gone already");
                }
                self.go(desk)
            }
            (_, other) => Event::Failed(format!("the culvertd that runs says {:?}, out of turn", other.text())),
        }
    }

    /// The old supervisor has gone without a word, and so has its daemon, which the kernel ends with it.
    fn alone(&mut self, desk: &mut Desk) -> Event {
        let have_ended = [Some(&self.supervisor), self.daemon.as_ref()]
            .into_iter()
            .flatten()
            .all(|process| process::wait_for_end(process, ENDING));
        if !have_ended {
            return Event::Failed("the culvertd that runs has hung up, and is still there".to_owned());
        }
        tracing::warn!("the culvertd that ran has ended in the middle of the takeover: this one goes on alone");
        desk.turn.let_take();
        self.go(desk)
    }

    fn go(&mut self, desk: &mut Desk) -> Event {
        desk.turn.set_before(self.daemon.take());
        desk.turn.let_go();
        Event::Ours
    }

    fn enter(&mut self, stage: Stage, limit: Duration) {
        (self.stage, self.until) = (stage, Instant::now() + limit);
    }
}

/// What the old supervisor tells of itself.
struct Welcome {
    supervisor: OwnedFd,
    /// Its daemon has them.
    hugepages: bool,
    version: String,
}

fn greet(socket: impl AsFd) -> Result<Welcome> {
    set_socket_timeout(&socket, Timeout::Recv, Some(GREETING))?;
    set_socket_timeout(&socket, Timeout::Send, Some(GREETING))?;
    let own = Greeting::own(super::VERSION);
    message::send(&socket, &Message::Hello(own.clone()), &[])?;
    match message::receive(&socket, RecvFlags::empty()) {
        Ok((Message::Welcome { greeting, hugepages }, descriptors)) => {
            if let Some(obstacle) = own.obstacle(&greeting) {
                bail!("{obstacle}");
            }
            let [supervisor] =
                process::named(descriptors).context("the culvertd that runs does not say which process it is")?;
            Ok(Welcome { supervisor, hugepages, version: greeting.version })
        }
        Ok((Message::Refused(reason), _)) => bail!("{reason}"),
        Ok((other, _)) => bail!("the culvertd that runs says {:?} in the place of a greeting", other.text()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!("the culvertd that runs does not answer; perhaps another one is just taking over")
        }
        Err(error) => Err(error).context("the culvertd that runs does not answer"),
    }
}

/// How long the kernel may take to end a process with its memory.
const ENDING: Duration = Duration::from_secs(5);
