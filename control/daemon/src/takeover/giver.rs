//! The old supervisor's end of a takeover: listens, checks who comes, and says what is said. What is done about it, and when, is
//! [`crate::supervisor`]'s.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{SocketFlags, UCred};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::message::{self, Greeting, Message};
use super::{FREEZING, GREETING, PARTING, PREPARATION, TAKING, process, step};
use crate::broker::Desk;
use crate::listening_socket::{BindError, ListeningSocket, Purpose};

/// The old supervisor's end. By default nobody is listened to yet.
#[derive(Debug, Default)]
pub struct Giver {
    listener: Option<(ListeningSocket, AsyncFd<std::os::unix::net::UnixListener>)>,
    talk: Option<Talk>,
}

/// A conversation with another culvertd.
#[derive(Debug)]
struct Talk {
    socket: AsyncFd<OwnedFd>,
    stage: Stage,
    /// When the stage is to be over.
    until: Instant,
    /// The other supervisor, and its daemon.
    processes: Option<[OwnedFd; 2]>,
}

/// How far a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Somebody has connected.
    Greeting,
    /// The other one prepares.
    Preparing,
    /// Our daemon is to stand still.
    Freezing,
    /// The other one has what there is.
    Given,
    /// Our daemon is ended.
    Gone,
}

/// What the other one wants, or what became of it.
#[derive(Debug)]
pub enum Event {
    /// It is prepared: our daemon is to stand still.
    HandOver,
    /// It has taken everything up: our daemon is to end.
    Taken,
    /// It serves.
    Serving,
    /// It has gone, has said something else, or was too late. It was at this stage.
    Lost(Stage, String),
}

impl Giver {
    /// Listens at `path`, if it does not yet.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn listen(&mut self, path: &Path) -> Result<(), BindError> {
        if self.listener.is_some() {
            return Ok(());
        }
        let socket = ListeningSocket::bind(path, Purpose::Takeover, None)?;
        #[expect(deprecated, reason = "the descriptor is always the same; `register` is unsafe")]
        let waits = socket.listener().and_then(AsyncFd::new);
        match waits {
            Ok(waits) => self.listener = Some((socket, waits)),
            Err(error) => tracing::error!("no other culvertd can take over: {error}"),
        }
        Ok(())
    }

    /// Whether it listens.
    pub fn listens(&self) -> bool {
        self.listener.is_some()
    }

    /// How far a conversation is, if there is one.
    pub fn stage(&self) -> Option<Stage> {
        self.talk.as_ref().map(|talk| talk.stage)
    }

    /// What the other one wants. `own`: processes that can want nothing; `hugepages`: of our daemon's memory.
    pub async fn next(&mut self, own: &[i32], hugepages: bool) -> Event {
        loop {
            let Some(talk) = &mut self.talk else {
                let Some((_, listener)) = &self.listener else { return std::future::pending().await };
                self.talk = accept(listener, own).await;
                continue;
            };
            let received = tokio::time::timeout_at(talk.until, message::next(&talk.socket)).await;
            let (message, descriptors) = match received {
                Ok(Ok(received)) => received,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return self.lose("it has ended"),
                Ok(Err(error)) => return self.lose(&error.to_string()),
                Err(_late) => return self.lose("it does not answer in time"),
            };
            match (talk.stage, message) {
                (Stage::Greeting, Message::Hello(greeting)) => {
                    let own = Greeting::own(super::VERSION);
                    if let Some(obstacle) = own.obstacle(&greeting) {
                        self.refuse(&obstacle);
                        continue;
                    }
                    tracing::info!(version = greeting.version, "another culvertd prepares to take over");
                    let welcome = Message::Welcome { greeting: own, hugepages };
                    if let Err(error) = process::own().and_then(|process| talk.say(&welcome, &[process])) {
                        return self.lose(&error.to_string());
                    }
                    talk.enter(Stage::Preparing, PREPARATION);
                    step::reached("old-supervisor-greeted");
                }
                (Stage::Preparing, Message::HandOver) => {
                    talk.processes = process::named(descriptors);
                    if talk.processes.is_none() {
                        return self.lose("it does not say which processes it has");
                    }
                    talk.enter(Stage::Freezing, FREEZING);
                    step::reached("old-supervisor-asked");
                    return Event::HandOver;
                }
                (Stage::Given, Message::Taken) => return Event::Taken,
                (Stage::Gone, Message::Serving) => return Event::Serving,
                (_, other) => return self.lose(&format!("it says {:?}, out of turn", other.text())),
            }
        }
    }

    /// Tells the other one that nothing becomes of it.
    pub fn refuse(&mut self, reason: &str) {
        if let Some(talk) = self.talk.take() {
            tracing::warn!("another culvertd does not take over: {reason}");
            // It may have gone.
            let _ = talk.say(&Message::Refused(reason.replace(char::is_control, " ")), &[]);
        }
    }

    /// Gives the other one all that is kept. `daemon`: ours, which stands still.
    ///
    /// # Errors
    /// The kernel's: it has gone, or does not read.
    pub fn give(&mut self, desk: &Desk, daemon: Pid) -> io::Result<()> {
        let talk = self.talk.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        talk.say(&Message::Still, &[process::of(daemon)?])?;
        let mut names = 0;
        for (name, descriptors) in desk.kept() {
            talk.say(&Message::Kept(name.to_owned()), descriptors)?;
            names += 1;
            step::reached("old-supervisor-giving");
        }
        let (restarts, last_reason) = desk.history();
        talk.say(&Message::All { names, restarts, last_reason: last_reason.to_owned() }, &[])?;
        talk.enter(Stage::Given, TAKING);
        step::reached("old-supervisor-given");
        Ok(())
    }

    /// Our daemon is ended: permits the other one to go on.
    ///
    /// # Errors
    /// The kernel's: it has gone.
    pub fn permit(&mut self) -> io::Result<()> {
        let talk = self.talk.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        talk.enter(Stage::Gone, PARTING);
        step::reached("old-supervisor-before-go");
        talk.say(&Message::Go, &[])
    }

    /// Ends the other one's daemon, and the conversation; with `both`, its supervisor as well. When this returns it moves nothing any more.
    pub fn take_back(&mut self, both: bool, reason: &str) {
        let Some(Talk { processes: Some([supervisor, daemon]), .. }) = &self.talk else { return self.refuse(reason) };
        let gone = (!both || process::end(supervisor, ENDING)) & process::end(daemon, ENDING);
        if !gone {
            tracing::error!("the culvertd that was to take over does not end; end it");
        }
        self.refuse(reason);
    }

    fn lose(&mut self, reason: &str) -> Event {
        let stage = self.stage().unwrap_or(Stage::Greeting);
        Event::Lost(stage, reason.to_owned())
    }
}

impl Talk {
    /// Every message is small, and the other one reads: it is no culvertd, or stopped, if there is no room for it.
    fn say(&self, message: &Message, descriptors: &[OwnedFd]) -> io::Result<()> {
        let start = std::time::Instant::now();
        loop {
            match message::send(self.socket.get_ref(), message, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < SENDING => {
                    std::thread::sleep(PAUSE);
                }
                sent => return sent,
            }
        }
    }

    fn enter(&mut self, stage: Stage, limit: Duration) {
        (self.stage, self.until) = (stage, Instant::now() + limit);
    }
}

/// The next one who comes, if it may.
async fn accept(listener: &AsyncFd<std::os::unix::net::UnixListener>, own: &[i32]) -> Option<Talk> {
    let mut ready = listener.readable().await.ok()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let accepted = ready.try_io(|listener| Ok(rustix::net::accept_with(listener.get_ref(), flags)?)).ok()?;
    let socket = accepted.inspect_err(|error| tracing::warn!("another culvertd cannot connect: {error}")).ok()?;
    let UCred { pid, uid, .. } = socket_peercred(socket.as_fd()).ok()?;
    // Its mode says the same. Our daemon, whoever has it, has nothing to say here.
    // 0: it is in another namespace.
    let pid = pid.as_raw_pid();
    if (!uid.is_root() && uid != rustix::process::geteuid()) || own.contains(&pid) {
        tracing::warn!("process {pid} of user {} may not take over", uid.as_raw());
        return None;
    }
    #[expect(deprecated, reason = "an OwnedFd is always the same descriptor; `register` is unsafe")]
    let socket = AsyncFd::new(socket).ok()?;
    Some(Talk { socket, stage: Stage::Greeting, until: Instant::now() + GREETING, processes: None })
}

/// How long the other one may have no room for a message.
const SENDING: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(100);
/// How long the kernel may take to end a process with its memory; and longer than a daemon waits that nobody permits to go on.
const ENDING: Duration = Duration::from_secs(15);
