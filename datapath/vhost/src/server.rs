//! All vhost-user sockets of the daemon, served by one thread that never waits for anything but events.
//!
//! Control calls [`Server`]; its methods post a command to the loop and wake it. What may take long is done by a second
//! thread (`helper`), which calls the [`Backend`], and a third one, which asks the [`Keeper`], if there is one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use culvert_guest::device::Unresponsive;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::aside::Aside;
use crate::backend::{Backend, Bar, PortKey, SocketState};
use crate::connect::FolderWatch;
use crate::helper::{self, Job, JobResult};
use crate::keep::{self, Keeper, KeeperJob};
use crate::listen::{BindError, Listener};
use crate::port::{Loop, Port, PortSocket, Results, Standstill, Tokens};

/// How long [`Server`]'s drop waits for rings to be stopped.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// How often it is looked whether all is at rest, when the server is to stand still.
const SETTLING: Duration = Duration::from_millis(1);

/// Why a port was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its number is in use.
    #[error("port {0:?} has a socket already; remove it first")]
    Duplicate(PortKey),
    /// Its socket cannot be created.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The server's thread is gone.
    #[error("the vhost-user server has ended; restart culvertd")]
    Ended,
}

/// The server. Dropping it removes all ports and ends its threads.
#[derive(Debug)]
pub struct Server {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    states: States,
    taking_up: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts the threads. `keeper` has connections outlive the process.
    ///
    /// # Errors
    /// The kernel's reason, usually a limit on open files or threads.
    pub fn start(backend: Arc<dyn Backend>, keeper: Option<Arc<dyn Keeper>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let folders = FolderWatch::new().and_then(|folders| {
            poll.registry().register(&mut SourceFd(&folders.descriptor()), FOLDERS, Interest::READABLE)?;
            Ok(folders)
        });
        let folders = folders.inspect_err(|error| {
            tracing::warn!(%error, "cannot watch folders, sockets are looked for at intervals; see fs.inotify.max_user_instances");
        });
        let (commands, to_do) = mpsc::channel();
        let (jobs, jobs_to_do) = mpsc::channel();
        let (results, done) = mpsc::channel();
        let states = States::default();

        let results = Results { sender: results, waker: Arc::clone(&waker) };
        let of_helper = results.clone();
        let helper = thread::Builder::new().name("vhost-helper".to_owned()).spawn(move || {
            helper::run(&backend, &jobs_to_do, &of_helper);
        })?;
        let mut threads = vec![helper];
        let mut asks_keeper = None;
        if let Some(keeper) = keeper {
            let (sender, jobs) = mpsc::channel();
            asks_keeper = Some(sender);
            let keeping = thread::Builder::new().name("vhost-keeper".to_owned());
            let of_keeper = results.clone();
            threads.push(keeping.spawn(move || keep::run(&*keeper, &jobs, &of_keeper))?);
        }
        let taking_up = Arc::<AtomicUsize>::default();
        let registry = poll.registry().try_clone()?;
        let (counted, told) = (Arc::clone(&taking_up), states.clone());
        let shared = Shared { registry, jobs, results, keeper: asks_keeper, taking_up: counted, states: told };
        let serving = thread::Builder::new().name("vhost-server".to_owned()).spawn(move || {
            let ports = BTreeMap::new();
            let mut server = Serving {
                poll,
                folders: folders.ok(),
                commands: to_do,
                done,
                shared,
                ports,
                next_slot: 0,
                stop_at: None,
                stands_still: None,
            };
            server.run();
        })?;
        threads.insert(0, serving);
        Ok(Self { commands, waker, states, taking_up, threads })
    }

    /// Adds a port. In the connect role its socket need not exist yet.
    ///
    /// # Errors
    /// Any [`AddError`]; the other ports never notice.
    pub fn add(&self, socket: PortSocket) -> Result<(), AddError> {
        self.add_kept(socket, Vec::new())
    }

    /// Adds a port that goes on with the connection that an earlier process had kept (see [`Keeper`]), if that is to be had; if not,
    /// it is closed, and the frontend comes again as after any other end. `descriptors` may be empty: nothing was kept.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_kept(&self, socket: PortSocket, descriptors: Vec<OwnedFd>) -> Result<(), AddError> {
        self.add_inherited(socket, descriptors, None)
    }

    /// As [`Self::add_kept`]; the port's own socket listens already, if it is one that listens.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_inherited(
        &self,
        socket: PortSocket,
        descriptors: Vec<OwnedFd>,
        listener: Option<Listener>,
    ) -> Result<(), AddError> {
        let socket = Box::new(socket);
        self.ask(|answer| Command::Add { socket, descriptors, listener, answer }).unwrap_or(Err(AddError::Ended))
    }

    /// Stands still: nothing more is read from frontends, and nobody is accepted, until the returned guard is dropped. What another
    /// process needs to go on is there then. What frontends say meanwhile waits in their sockets. Dialogues that are under way may come to
    /// their end first, within `limit`.
    pub fn stand_still(&self, limit: Duration) -> Option<(Standstill, Still)> {
        let (go_on, goes_on) = mpsc::channel();
        let standstill = self.ask(|answer| Command::StandStill { limit, answer, goes_on })?;
        Some((standstill, Still { _go_on: go_on }))
    }

    /// Waits until all connections of the last process are taken up or closed, `limit` at most.
    pub fn wait_taken_up(&self, limit: Duration) {
        let start = Instant::now();
        while self.taking_up.load(Ordering::Relaxed) > 0 && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes a port and returns when its rings are stopped and its memory is given back.
    ///
    /// # Errors
    /// The workers did not acknowledge; they are asked again until they do.
    pub fn remove(&self, port: PortKey) -> Result<(), Unresponsive> {
        self.ask(|answer| Command::Remove { port, answer }).unwrap_or(Ok(()))
    }

    /// Closes a port's connection because its guest broke its rings. The next connection clears it.
    pub fn quarantine(&self, port: PortKey, reason: String) {
        self.post(Command::Quarantine { port, reason });
    }

    /// Closes a port's connection and keeps frontends away, or lets them come again: the only way to tell a guest that its
    /// link is down, without VIRTIO_NET_F_STATUS. QEMU shows the guest no carrier until it has connected again. A port that
    /// is added is not suspended. When this returns, the next frontend meets the new state.
    pub fn suspend(&self, port: PortKey, suspended: bool) {
        let _ = self.ask(|answer| Command::Suspend { port, suspended, answer });
    }

    /// Keeps a guest away from a port, and closes its connection, if it has one: `None` lets it come again, and so does another
    /// frontend than the barred one. When this returns, the next frontend meets the new state.
    pub fn bar(&self, port: PortKey, bar: Option<Bar>) {
        let _ = self.ask(|answer| Command::Bar { port, bar, answer });
    }

    /// Whether one of its threads has ended, which is a mistake of ours: no frontend is served any more.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// The state of a port's socket.
    pub fn state(&self, port: PortKey) -> Option<SocketState> {
        self.states.get(port)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = mpsc::channel();
        self.post(command(answer));
        answered.recv().ok()
    }

    fn post(&self, command: Command) {
        // If the loop has ended nobody will answer, and `ask` tells that.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

/// While it is there the server stands still.
#[derive(Debug)]
pub struct Still {
    _go_on: Sender<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.post(Command::Shutdown);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The last state of each port, as told to the backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct States(Arc<Mutex<HashMap<PortKey, SocketState>>>);

impl States {
    /// Notes a port's state.
    pub(crate) fn set(&self, port: PortKey, state: SocketState) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port, state);
    }

    fn get(&self, port: PortKey) -> Option<SocketState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
    }

    fn remove(&self, port: PortKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }
}

#[derive(Debug)]
enum Command {
    Add {
        socket: Box<PortSocket>,
        descriptors: Vec<OwnedFd>,
        listener: Option<Listener>,
        answer: Sender<Result<(), AddError>>,
    },
    StandStill {
        limit: Duration,
        answer: Sender<Standstill>,
        goes_on: Receiver<()>,
    },
    Remove {
        port: PortKey,
        answer: Sender<Result<(), Unresponsive>>,
    },
    Quarantine {
        port: PortKey,
        reason: String,
    },
    Suspend {
        port: PortKey,
        suspended: bool,
        answer: Sender<()>,
    },
    Bar {
        port: PortKey,
        bar: Option<Bar>,
        answer: Sender<()>,
    },
    Shutdown,
}

const WAKER: Token = Token(0);
const FOLDERS: Token = Token(1);

/// Each port has two tokens, from this one on.
const FIRST_PORT: usize = 2;

fn tokens(slot: usize) -> Tokens {
    let first = FIRST_PORT + slot * 2;
    Tokens { listener: Token(first), stream: Token(first + 1) }
}

/// The loop.
struct Serving {
    poll: Poll,
    /// Missing where the node has no inotify instance left.
    folders: Option<FolderWatch>,
    commands: Receiver<Command>,
    done: Receiver<JobResult>,
    shared: Shared,
    ports: BTreeMap<usize, Entry>,
    /// Never used twice, so that late events and results find nothing.
    next_slot: usize,
    stop_at: Option<Instant>,
    stands_still: Option<StandsStill>,
}

/// The server is to stand still.
struct StandsStill {
    /// Whatever is under way then.
    at: Instant,
    answer: Sender<Standstill>,
    /// Ends with an error when it is to go on.
    goes_on: Receiver<()>,
}

/// What all ports need of it.
struct Shared {
    registry: Registry,
    jobs: Sender<Job>,
    results: Results,
    keeper: Option<Sender<KeeperJob>>,
    taking_up: Arc<AtomicUsize>,
    states: States,
}

struct Entry {
    port: Port,
    /// Who waits for the removal.
    removal: Vec<Sender<Result<(), Unresponsive>>>,
    /// It has more to do without a further event.
    busy: bool,
}

impl Serving {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        while self.stop_at.is_none_or(|at| !self.ports.is_empty() && Instant::now() < at) {
            let timeout = self.timeout(Instant::now());
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot wait for events of vhost-user sockets");
                thread::sleep(Duration::from_millis(100));
            }
            let now = Instant::now();
            for entry in self.ports.values_mut() {
                // What was left over is done below, once for each turn of the loop.
                if entry.port.deadline().is_some_and(|at| at <= now) {
                    entry.busy |= entry.port.on_time(&self.shared.in_loop(now));
                }
                if std::mem::take(&mut entry.busy) {
                    entry.busy = entry.port.on_stream(&self.shared.in_loop(now));
                }
            }
            for event in &events {
                self.event(event.token(), now);
            }
            loop {
                match self.done.try_recv() {
                    Ok(result) => self.result(result, now),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        tracing::error!("the thread that changes rings has died: vhost-user ends; restart culvertd");
                        return;
                    }
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.command(command, now);
            }
            self.sweep();
            self.stand_still();
        }
    }

    /// Stands still if that is wanted, and returns when it goes on.
    fn stand_still(&mut self) {
        let is_time = |still: &mut StandsStill| {
            still.at <= Instant::now() || self.ports.values().all(|entry| !entry.busy && entry.port.is_still())
        };
        let Some(StandsStill { answer, goes_on, .. }) = self.stands_still.take_if(is_time) else { return };
        let mut standstill = Standstill::default();
        for entry in self.ports.values_mut() {
            entry.port.hand_over(&mut standstill);
        }
        if answer.send(standstill).is_ok() {
            let _ = goes_on.recv();
        }
        let now = Instant::now();
        for entry in self.ports.values_mut() {
            entry.port.go_on(&self.shared.in_loop(now));
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.ports.values().any(|entry| entry.busy) {
            return Some(Duration::ZERO);
        }
        if self.stands_still.is_some() {
            return Some(SETTLING);
        }
        let deadlines = self.ports.values().filter_map(|entry| entry.port.deadline());
        deadlines.chain(self.stop_at).min().map(|at| at.saturating_duration_since(now))
    }

    fn event(&mut self, token: Token, now: Instant) {
        match token {
            WAKER => {}
            FOLDERS => {
                for slot in self.folders.as_mut().map(FolderWatch::take).unwrap_or_default() {
                    if let Some(entry) = self.ports.get_mut(&slot) {
                        entry.port.on_folder();
                    }
                }
            }
            Token(number) => {
                let slot = number.saturating_sub(FIRST_PORT) / 2;
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                let in_loop = self.shared.in_loop(now);
                entry.busy |= if token == tokens(slot).listener {
                    entry.port.on_listener(&in_loop)
                } else {
                    entry.port.on_stream(&in_loop)
                };
            }
        }
    }

    fn result(&mut self, result: JobResult, now: Instant) {
        let in_loop = self.shared.in_loop(now);
        match result {
            JobResult::Done { slot, done, unused } => {
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                entry.busy |= entry.port.on_done(&in_loop, done, unused);
            }
            JobResult::Ended { slot, session } => {
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                entry.port.on_ended(&in_loop, session);
            }
            JobResult::Gone { slot } => {
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                entry.busy |= entry.port.on_gone(&in_loop);
            }
            JobResult::Kept { slot, answer } => {
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                entry.port.on_kept(&in_loop, &answer);
            }
            JobResult::NotEnded { slot, session, error } => {
                let Some(entry) = self.ports.get_mut(&slot) else { return };
                for waiting in entry.removal.drain(..) {
                    let _ = waiting.send(Err(error));
                }
                entry.port.on_not_ended(&in_loop, session, error);
            }
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Add { socket, descriptors, listener, answer } => {
                let added = self.add(*socket, descriptors, listener, now);
                let _ = answer.send(added);
            }
            Command::StandStill { limit, answer, goes_on } => {
                let at = now.checked_add(limit).unwrap_or(now);
                self.stands_still = Some(StandsStill { at, answer, goes_on });
            }
            Command::Remove { port, answer } => {
                let in_loop = self.shared.in_loop(now);
                let entry = self.ports.values_mut().find(|entry| entry.port.config().port == port);
                if let Some(entry) = entry {
                    entry.port.remove(&in_loop);
                    entry.removal.push(answer);
                } else {
                    let _ = answer.send(Ok(()));
                }
            }
            Command::Quarantine { port, reason } => {
                let in_loop = self.shared.in_loop(now);
                let entry = self.ports.values_mut().find(|entry| entry.port.config().port == port);
                if let Some(entry) = entry {
                    entry.port.quarantine(&in_loop, reason);
                }
            }
            Command::Suspend { port, suspended, answer } => {
                let in_loop = self.shared.in_loop(now);
                let entry = self.ports.values_mut().find(|entry| entry.port.config().port == port);
                if let Some(entry) = entry {
                    entry.port.suspend(&in_loop, suspended);
                }
                let _ = answer.send(());
            }
            Command::Bar { port, bar, answer } => {
                let in_loop = self.shared.in_loop(now);
                let entry = self.ports.values_mut().find(|entry| entry.port.config().port == port);
                if let Some(entry) = entry {
                    entry.port.bar(&in_loop, bar);
                }
                let _ = answer.send(());
            }
            Command::Shutdown => {
                self.stop_at = now.checked_add(SHUTDOWN).or(Some(now));
                let in_loop = self.shared.in_loop(now);
                for entry in self.ports.values_mut() {
                    entry.port.remove(&in_loop);
                }
            }
        }
    }

    fn add(
        &mut self,
        socket: PortSocket,
        descriptors: Vec<OwnedFd>,
        listener: Option<Listener>,
        now: Instant,
    ) -> Result<(), AddError> {
        let in_loop = self.shared.in_loop(now);
        if self.ports.values().any(|entry| entry.port.config().port == socket.port) {
            Aside::in_thread().end(descriptors);
            return Err(AddError::Duplicate(socket.port));
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        let copy = socket.clone();
        let mut port = Port::new(socket, slot, tokens(slot), listener, &in_loop).inspect_err(|_| in_loop.forget(&copy));
        let busy = match &mut port {
            Ok(port) if descriptors.is_empty() => port.on_time(&in_loop),
            Ok(port) => port.take_up(&in_loop, descriptors),
            Err(_) => {
                Aside::in_thread().end(descriptors);
                false
            }
        };
        self.ports.insert(slot, Entry { port: port?, removal: Vec::new(), busy });
        Ok(())
    }

    /// Drops ports that are gone; keeps watching the folders of those that look for a socket.
    fn sweep(&mut self) {
        for (&slot, entry) in &mut self.ports {
            if entry.port.has_looked()
                && let Some(folders) = &mut self.folders
            {
                folders.watch(&entry.port.config().place, slot);
            }
        }
        let gone: Vec<_> = self.ports.iter().filter(|(_, entry)| entry.port.is_gone()).map(|(&slot, _)| slot).collect();
        for slot in gone {
            if let Some(folders) = &mut self.folders {
                folders.forget(slot);
            }
            if let Some(entry) = self.ports.remove(&slot) {
                self.shared.states.remove(entry.port.config().port);
                for waiting in entry.removal {
                    let _ = waiting.send(Ok(()));
                }
            }
        }
    }
}

impl Shared {
    fn in_loop(&self, now: Instant) -> Loop<'_> {
        Loop {
            registry: &self.registry,
            jobs: &self.jobs,
            results: Some(&self.results),
            keeper: self.keeper.as_ref(),
            taking_up: &self.taking_up,
            states: &self.states,
            now,
        }
    }
}
