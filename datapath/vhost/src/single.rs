//! One port, served by its caller's own loop and thread: for a process that has one guest and runs its rings itself.
//!
//! The same port as in [`server`](crate::server). What the server leaves to its helper thread is done at once: nobody
//! has to be waited for, since whoever calls is the only one that uses the rings, and memory is mapped and unmapped
//! between two of its bursts.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use culvert_guest::device::{RingChange, StoppedRing};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::backend::SocketState;
use crate::connect::FolderWatch;
use crate::helper::{self, Job};
use crate::listen::BindError;
use crate::port::{Loop, Port, PortSocket, Role, Tokens};
use crate::server::States;
use crate::session::{Done, StateWish, Work};

/// How many tokens a port uses.
pub const TOKENS: usize = 3;

/// The rings' owner.
pub trait Rings {
    /// Changes rings, in the order given; each `Stop` is answered by one [`StoppedRing`], also of a ring that did not run
    /// (with position 0). Nothing of a stopped ring may be used when this returns.
    fn change(&mut self, changes: Vec<RingChange>) -> Vec<StoppedRing>;
}

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// Its socket cannot be created.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel cannot watch its descriptors.
    #[error("cannot wait on the vhost-user socket: {0}")]
    Watch(#[from] io::Error),
}

/// The port. Dropping it drops the connection and the memory: stop using its rings first.
#[derive(Debug)]
pub struct SinglePort {
    port: Port,
    registry: Registry,
    first: Token,
    /// Missing where the node has no inotify instance left; then the socket is looked for at intervals.
    folders: Option<FolderWatch>,
    jobs: Sender<Job>,
    to_do: Receiver<Job>,
    states: States,
    state: SocketState,
    counts: Counts,
    /// There is more to do without a further event.
    busy: bool,
    /// What the frontend wants of the device's state and is to be answered.
    wish: Option<StateWish>,
}

/// What came and went since the start: a frontend may have followed another between two looks at [`SinglePort::state`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that began.
    pub begun: u64,
    /// Connections whose end is dealt with: nothing is left of their rings and memory.
    pub ended: u64,
}

impl SinglePort {
    /// Creates the socket, or prepares to connect to it, or takes up `connected`, a connection that exists already; then
    /// there is never another one. Uses [`TOKENS`] tokens of `registry` from `first` on.
    ///
    /// # Errors
    /// [`SingleError`].
    pub fn new(
        socket: PortSocket,
        connected: Option<UnixStream>,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, SingleError> {
        let registry = registry.try_clone()?;
        let tokens = Tokens { listener: first, stream: Token(first.0 + 1) };
        let (jobs, to_do) = mpsc::channel();
        let states = States::default();
        let mut folders = None;
        if socket.role == Role::Connect && connected.is_none() {
            folders = FolderWatch::new().ok();
            if let Some(folders) = &folders {
                let token = Token(first.0 + 2);
                registry.register(&mut SourceFd(&folders.descriptor()), token, Interest::READABLE)?;
            }
        }
        let in_loop = in_loop(&registry, &jobs, &states, Instant::now());
        let mut busy = false;
        let port = match connected {
            None => Port::new(socket, SLOT, tokens, None, &in_loop)?,
            Some(stream) => {
                stream.set_nonblocking(true)?;
                let socket = PortSocket { role: Role::Listen, ..socket };
                let mut port = Port::without_socket(socket, SLOT, tokens, &in_loop);
                busy = port.attach(&in_loop, mio::net::UnixStream::from_std(stream));
                port
            }
        };
        let (state, counts) = (SocketState::Waiting, Counts::default());
        Ok(Self { port, registry, first, folders, jobs, to_do, states, state, counts, busy, wish: None })
    }

    /// Something happened at one of the port's tokens.
    pub fn event(&mut self, token: Token, rings: &mut impl Rings, now: Instant) {
        match token.0.wrapping_sub(self.first.0) {
            0 => self.busy |= self.port.on_listener(&in_loop(&self.registry, &self.jobs, &self.states, now)),
            1 => self.busy |= self.port.on_stream(&in_loop(&self.registry, &self.jobs, &self.states, now)),
            _ => {
                if self.folders.as_mut().is_some_and(|folders| !folders.take().is_empty()) {
                    self.port.on_folder();
                }
            }
        }
        self.work(rings, now);
    }

    /// Does what is due: to be called at [`Self::deadline`], or at any other time.
    pub fn turn(&mut self, rings: &mut impl Rings, now: Instant) {
        if self.port.deadline().is_some_and(|at| at <= now) {
            self.busy |= self.port.on_time(&in_loop(&self.registry, &self.jobs, &self.states, now));
        }
        if std::mem::take(&mut self.busy) {
            self.busy = self.port.on_stream(&in_loop(&self.registry, &self.jobs, &self.states, now));
        }
        self.work(rings, now);
    }

    /// When [`Self::turn`] is to be called next, if nothing happens before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.busy { Some(now) } else { self.port.deadline() }
    }

    /// What the frontend wants of what is beside the rings: to be answered by [`Self::answer_state`], and nothing else is
    /// heard of it before.
    pub fn take_state_wish(&mut self) -> Option<StateWish> {
        self.wish.take()
    }

    /// Whether what the frontend wanted is done, or has begun.
    pub fn answer_state(&mut self, done: bool, rings: &mut impl Rings, now: Instant) {
        let in_loop = in_loop(&self.registry, &self.jobs, &self.states, now);
        self.busy |= self.port.on_done(&in_loop, Done::State(done), None);
        self.work(rings, now);
    }

    /// Leaves the name of the socket behind: see [`SocketName::leave`](crate::listen::SocketName::leave).
    pub fn leave_name(&mut self) {
        self.port.leave_name();
    }

    /// Closes the connection because the guest broke its rings; all of them are stopped. The next connection clears it.
    pub fn quarantine(&mut self, reason: String, rings: &mut impl Rings, now: Instant) {
        self.port.quarantine(&in_loop(&self.registry, &self.jobs, &self.states, now), reason);
        self.work(rings, now);
    }

    /// Whether there is a frontend, and what is agreed with it.
    pub const fn state(&self) -> &SocketState {
        &self.state
    }

    /// How many connections there were.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// What the server has its helper do.
    fn work(&mut self, rings: &mut impl Rings, now: Instant) {
        while let Ok(job) = self.to_do.try_recv() {
            match job {
                Job::State { state, .. } => {
                    let was = std::mem::replace(&mut self.state, state);
                    let is_new = !matches!(was, SocketState::Connected(_));
                    self.counts.begun += u64::from(is_new && matches!(self.state, SocketState::Connected(_)));
                }
                Job::Work { work: Work::State(wish), .. } => self.wish = Some(wish),
                Job::Work { work, .. } => {
                    let (done, unused) = helper::work_done(work, |changes| Ok(rings.change(changes)), |_| {});
                    let in_loop = in_loop(&self.registry, &self.jobs, &self.states, now);
                    self.busy |= self.port.on_done(&in_loop, done, unused);
                }
                Job::End { mut session, .. } => {
                    rings.change(session.stop_all());
                    drop(session);
                    self.counts.ended += 1;
                    self.busy |= self.port.on_gone(&in_loop(&self.registry, &self.jobs, &self.states, now));
                }
            }
        }
        if self.port.has_looked()
            && let Some(folders) = &mut self.folders
        {
            folders.watch(&self.port.config().place, SLOT);
        }
    }
}

/// Its connection does not outlive it.
static NONE: AtomicUsize = AtomicUsize::new(0);

/// The port's number, for what is shared with the server of many.
const SLOT: usize = 0;

fn in_loop<'a>(registry: &'a Registry, jobs: &'a Sender<Job>, states: &'a States, now: Instant) -> Loop<'a> {
    Loop { registry, jobs, results: None, keeper: None, taking_up: &NONE, states, now }
}
