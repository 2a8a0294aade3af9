//! One port's socket: waiting for a frontend in one of the two roles, serving it, ending with it.
//!
//! Owned and called by [`crate::server`]'s loop; never waits. A port has at most one frontend. What came before it is
//! wholly gone (rings stopped, memory unmapped) before the next one is served.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use culvert_guest::Memory;
use culvert_guest::device::{DeviceConfig, Unresponsive};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token, Waker};

use crate::aside::Aside;
use crate::backend::{Bar, Connection, Peer, PortKey, SocketState};
use crate::connect::{self, ConnectError};
use crate::helper::{Job, JobResult};
use crate::listen::{BindError, Listener};
use crate::log_limit::{Kind, LogLimits};
use crate::message::MAX_BODY_BYTES;
use crate::place::Place;
use crate::rate::Rate;
use crate::server::States;
use crate::session::{CloseReason, Done, Next, Outcome, Session, Work};
use crate::socket::{self, Received};

/// How often a port in the connect role looks for its socket.
pub const RETRY: Duration = Duration::from_millis(100);

/// How soon it looks again when something appeared in the folder.
const RETRY_AFTER_EVENT: Duration = Duration::from_millis(10);

/// How often a port in the listen role whose folder is somebody else's looks whether its socket is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long a guest that broke its rings has to wait for its next connection, and how often workers that did not
/// acknowledge the end of a session are asked again.
const PENALTY: Duration = Duration::from_secs(1);

/// Connections that a port accepts in one second.
const ACCEPTS_PER_SECOND: u32 = 128;

/// Pieces of messages, two for most messages, that a port reads in one second. A guest with 128 queue pairs needs 4,000
/// to start; who sends more is slowed down.
const READS_PER_SECOND: u32 = 16_384;

/// Changes of rings that a port may cause in one second: each one involves all workers. A guest with 128 queue pairs
/// needs 512 to start.
const CHANGES_PER_SECOND: u32 = 512;

/// How long an interrupt may keep its port waiting.
const INTERRUPT: Duration = Duration::from_millis(100);

/// Things that may wait to be closed before a port reads on.
const LEFTOVERS: usize = 16;

/// What people are told when that takes long.
const KEPT_WAITING: &str =
    "a descriptor that the last frontend handed over cannot be closed; end the process that the frontend had it from";

/// Pieces that a port may read before others have their turn.
const TURN: usize = 64;

/// Who creates a port's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We do, and the frontend connects.
    Listen,
    /// The frontend does, and we connect.
    Connect,
}

/// A port's socket as configured.
#[derive(Clone, Debug)]
pub struct PortSocket {
    /// The daemon's number for the port.
    pub port: PortKey,
    /// Its name, for the log.
    pub name: String,
    /// Where the socket is.
    pub place: Place,
    /// Who creates it.
    pub role: Role,
    /// What is offered to the guest.
    pub device: DeviceConfig,
}

/// What a port needs of the loop.
pub struct Loop<'a> {
    /// To register sockets with.
    pub registry: &'a Registry,
    /// To hand jobs to.
    pub jobs: &'a Sender<Job>,
    /// Where results come from threads; none: everything is done in this one.
    pub results: Option<&'a Results>,
    /// What people see.
    pub states: &'a States,
    /// The time of this turn.
    pub now: Instant,
}

/// Where threads of the server's put results.
#[derive(Clone, Debug)]
pub struct Results {
    /// The results.
    pub sender: Sender<JobResult>,
    /// Tells the loop that there is one.
    pub waker: Arc<Waker>,
}

impl Results {
    /// Puts one.
    pub fn put(&self, result: JobResult) {
        // If the loop has ended nobody needs it.
        let _ = self.sender.send(result);
        let _ = self.waker.wake();
    }
}

/// A port's socket at work.
#[derive(Debug)]
pub struct Port {
    config: PortSocket,
    slot: usize,
    tokens: Tokens,
    listener: Option<Listener>,
    link: Link,
    /// When to accept or connect next, while there is no frontend; none: when an event tells.
    next_try: Option<Instant>,
    last_try: Option<Instant>,
    /// When to look after the listener's name next, while there is no frontend.
    next_look: Option<Instant>,
    looked: bool,
    accepts: Rate,
    reads: Rate,
    changes: Rate,
    /// Where nobody but this port waits for what its frontends have left.
    aside: Aside,
    removed: bool,
    /// People have been told that the last frontend keeps us waiting.
    is_late: bool,
    /// It is to have no frontend for the present.
    suspended: bool,
    /// It is to have another frontend than the last one.
    barred: Option<Bar>,
    reported: Option<SocketState>,
    log: LogLimits,
}

/// The loop's names for a port's two sockets.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Of the listener.
    pub listener: Token,
    /// Of the connection.
    pub stream: Token,
}

#[derive(Debug)]
enum Link {
    /// No frontend.
    Idle,
    /// A frontend.
    Open(Box<Open>),
    /// The rings of the last frontend are being stopped.
    Ending,
    /// What it handed over is being closed. From then on people are told, for it may last.
    Closing(Instant),
    /// It could not; it is asked again.
    Stuck(Box<Session>, Instant),
}

#[derive(Debug)]
struct Open {
    stream: UnixStream,
    peer: Peer,
    session: Session,
    /// Bytes of a reply that did not fit into the socket yet. Nothing is read meanwhile.
    output: Vec<u8>,
    /// Whether the helper works for the session.
    parked: bool,
    /// Not to be read before, because it sends too much.
    slowed: Option<Instant>,
    /// To be closed for this reason when the helper is done.
    condemned: Option<CloseReason>,
}

impl Port {
    /// Sets a port up; its first connection is tried at the next [`Self::on_time`].
    ///
    /// # Errors
    /// The listening socket cannot be created.
    pub fn new(config: PortSocket, slot: usize, tokens: Tokens, in_loop: &Loop) -> Result<Self, BindError> {
        let listener = match config.role {
            Role::Connect => None,
            Role::Listen => Some(listen(&config.place, tokens, in_loop)?),
        };
        let mut port = Self::without_socket(config, slot, tokens, in_loop);
        if listener.is_some() && port.config.place.root.is_some() {
            port.next_look = in_loop.now.checked_add(LOOK);
        }
        port.listener = listener;
        port.next_try = Some(in_loop.now);
        Ok(port)
    }

    /// A port that waits for nobody: its one connection is handed to [`Self::attach`].
    pub fn without_socket(config: PortSocket, slot: usize, tokens: Tokens, in_loop: &Loop) -> Self {
        let mut port = Self {
            config,
            slot,
            tokens,
            listener: None,
            link: Link::Idle,
            next_try: None,
            last_try: None,
            next_look: None,
            looked: false,
            accepts: Rate::default(),
            reads: Rate::default(),
            changes: Rate::default(),
            aside: if in_loop.results.is_some() { Aside::in_thread() } else { Aside::at_once() },
            removed: false,
            is_late: false,
            suspended: false,
            barred: None,
            reported: None,
            log: LogLimits::default(),
        };
        port.report(in_loop, SocketState::Waiting);
        port
    }

    /// The configuration.
    pub fn config(&self) -> &PortSocket {
        &self.config
    }

    /// Whether the port was removed and nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.removed && matches!(self.link, Link::Idle)
    }

    /// Whether the port has looked for a socket in its folder, in vain, since the last call.
    pub fn has_looked(&mut self) -> bool {
        std::mem::take(&mut self.looked)
    }

    fn is_looking(&self) -> bool {
        self.config.role == Role::Connect && matches!(self.link, Link::Idle) && !self.removed && !self.suspended
    }

    /// When [`Self::on_time`] has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.link {
            Link::Idle => [self.next_try, self.next_look].into_iter().flatten().min(),
            // While the helper works for a message its time does not count.
            Link::Open(open) => [open.session.deadline(), open.slowed, self.next_try].into_iter().flatten().min(),
            Link::Ending => None,
            Link::Closing(told) => (!self.is_late).then_some(*told),
            Link::Stuck(_, again) => Some(*again),
        }
    }

    /// Does what is due. Returns whether the port has more to do at once.
    pub fn on_time(&mut self, in_loop: &Loop) -> bool {
        let mut more = false;
        match &mut self.link {
            Link::Stuck(_, again) if *again <= in_loop.now => {
                if let Link::Stuck(session, _) = std::mem::replace(&mut self.link, Link::Ending) {
                    self.end(in_loop, session);
                }
            }
            Link::Open(open) => {
                if open.slowed.is_some_and(|until| until <= in_loop.now) {
                    open.slowed = None;
                    more = true;
                } else if let Some(reason) = open.session.expire(in_loop.now) {
                    self.close(in_loop, reason);
                }
            }
            Link::Closing(told) if *told <= in_loop.now && !self.is_late => {
                self.is_late = true;
                if self.removed {
                    // Its rings are stopped: the rest does not concern us.
                    self.link = Link::Idle;
                } else {
                    self.fail(in_loop, KEPT_WAITING.to_owned());
                }
            }
            Link::Idle | Link::Ending | Link::Closing(_) | Link::Stuck(..) => {}
        }
        if matches!(self.link, Link::Idle) && self.next_look.is_some_and(|at| at <= in_loop.now) {
            self.look_after_listener(in_loop);
        }
        if self.next_try.is_some_and(|at| at <= in_loop.now) {
            more |= self.find_frontend(in_loop);
        }
        more
    }

    /// Something happened at the listener. Returns whether the port has more to do at once.
    pub fn on_listener(&mut self, in_loop: &Loop) -> bool {
        if self.next_try.is_none() { self.find_frontend(in_loop) } else { false }
    }

    /// Something appeared in the folder of the socket.
    pub fn on_folder(&mut self) {
        if self.is_looking() {
            let soon = self.last_try.and_then(|last| last.checked_add(RETRY_AFTER_EVENT));
            self.next_try = match (soon, self.next_try) {
                (Some(soon), Some(next)) => Some(soon.min(next)),
                (soon, next) => soon.or(next),
            };
        }
    }

    /// Something happened at the connection, or it is the port's turn again. Returns whether there is more to do.
    pub fn on_stream(&mut self, in_loop: &Loop) -> bool {
        for _ in 0..TURN {
            let Link::Open(open) = &mut self.link else { return false };
            let reads = self.reads.exhausted(READS_PER_SECOND, in_loop.now);
            let left = (self.aside.waiting() > LEFTOVERS).then(|| in_loop.now.checked_add(RETRY)).flatten();
            if let Some(until) = self.changes.exhausted(CHANGES_PER_SECOND, in_loop.now).or(reads).or(left) {
                if open.slowed.replace(until).is_none() {
                    self.warn(in_loop, "the frontend sends too many messages and is slowed down");
                }
                return false;
            }
            self.reads.count(in_loop.now);
            let step = open.step(in_loop.now);
            self.finish_leftovers();
            match step {
                Ok(None) => return false,
                Ok(Some(outcome)) => self.follow(in_loop, outcome),
                Err(reason) => self.close(in_loop, reason),
            }
        }
        true
    }

    /// The helper is done with a session's work. Returns whether there is more to do.
    pub fn on_done(&mut self, in_loop: &Loop, done: Done, unused: Option<Arc<Memory>>) -> bool {
        if unused.is_some() {
            self.aside.end(unused);
        }
        let Link::Open(open) = &mut self.link else { return false };
        open.parked = false;
        let outcome = open.session.complete(done);
        let condemned = open.condemned.take();
        self.finish_leftovers();
        if let Some(reason) = condemned {
            // Nobody waits for the answer.
            self.aside.end(outcome);
            self.close(in_loop, reason);
            return false;
        }
        self.follow(in_loop, outcome);
        self.on_stream(in_loop)
    }

    /// The rings of the last session are stopped: gives back what it had.
    pub fn on_ended(&mut self, in_loop: &Loop, session: Box<Session>) {
        self.link = Link::Closing(in_loop.now.checked_add(PENALTY).unwrap_or(in_loop.now));
        self.is_late = false;
        let (slot, results) = (self.slot, in_loop.results.cloned());
        self.aside.run(move || {
            drop(session);
            if let Some(results) = results {
                results.put(JobResult::Gone { slot });
            }
        });
    }

    /// Nothing is left of the last session. Returns whether there is more to do.
    pub fn on_gone(&mut self, in_loop: &Loop) -> bool {
        self.link = Link::Idle;
        self.after_end(in_loop)
    }

    /// The helper could not end the last session.
    pub fn on_not_ended(&mut self, in_loop: &Loop, session: Box<Session>, error: Unresponsive) {
        self.warn(in_loop, &format!("the rings of the last connection are not stopped: {error}"));
        self.report(in_loop, SocketState::Failed { reason: error.to_string() });
        self.link = Link::Stuck(session, in_loop.now.checked_add(PENALTY).unwrap_or(in_loop.now));
    }

    /// Leaves the name of the socket behind: see [`Listener::leave_name`].
    pub fn leave_name(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.leave_name();
        }
    }

    /// The guest broke its rings: closes the connection.
    pub fn quarantine(&mut self, in_loop: &Loop, reason: String) {
        if let Link::Open(_) = self.link {
            self.close(in_loop, CloseReason::Quarantined(reason));
        }
    }

    /// Keeps frontends away, or lets them come again. Whoever connects meanwhile is closed at once, for a frontend that
    /// nobody answers would wait in its dialogue.
    pub fn suspend(&mut self, in_loop: &Loop, suspended: bool) {
        if self.suspended == suspended || self.removed {
            return;
        }
        self.suspended = suspended;
        if suspended {
            self.close(in_loop, CloseReason::Suspended);
        } else if self.is_looking() {
            self.next_try = Some(in_loop.now);
        }
    }

    /// Keeps a guest away, or lets it come again.
    pub fn bar(&mut self, in_loop: &Loop, bar: Option<Bar>) {
        if let (Link::Open(open), Some(bar)) = (&self.link, &bar)
            && bar.holds_for(open.peer)
        {
            self.close(in_loop, CloseReason::Quarantined(bar.reason.clone()));
        } else if let (Link::Idle, Some(bar)) = (&self.link, &bar) {
            self.report(in_loop, SocketState::Quarantined { reason: bar.reason.clone() });
        } else if self.barred.is_some() && bar.is_none() && !matches!(self.link, Link::Open(_)) {
            self.report(in_loop, SocketState::Waiting);
        }
        self.barred = bar;
    }

    /// Whether a new frontend is to be closed again, as it is the barred one; another one lifts the bar.
    fn is_barred(&mut self, in_loop: &Loop, peer: Peer) -> bool {
        let Some(bar) = &self.barred else { return false };
        if bar.holds_for(peer) {
            let state = SocketState::Quarantined { reason: bar.reason.clone() };
            self.report(in_loop, state);
            return true;
        }
        self.barred = None;
        false
    }

    /// Removes the port: its socket's path at once, the rest when the rings are stopped.
    pub fn remove(&mut self, in_loop: &Loop) {
        self.removed = true;
        (self.next_try, self.next_look) = (None, None);
        self.drop_listener(in_loop);
        match self.link {
            Link::Open(_) => self.close(in_loop, CloseReason::Removed),
            // See `on_time`.
            Link::Closing(_) if self.is_late => self.link = Link::Idle,
            Link::Idle | Link::Ending | Link::Closing(_) | Link::Stuck(..) => {}
        }
    }

    /// Looks for a frontend in the port's role. Returns whether there is more to do at once.
    fn find_frontend(&mut self, in_loop: &Loop) -> bool {
        self.next_try = None;
        self.last_try = Some(in_loop.now);
        match self.config.role {
            Role::Listen => self.accept(in_loop),
            Role::Connect if self.is_looking() => self.connect(in_loop),
            Role::Connect => false,
        }
    }

    fn connect(&mut self, in_loop: &Loop) -> bool {
        match connect::connect(&self.config.place) {
            Ok(stream) => return self.attach(in_loop, stream),
            // After a guest's fault the state stays until the next connection.
            Err(ConnectError::Absent(_)) if matches!(self.reported, Some(SocketState::Quarantined { .. })) => {}
            Err(ConnectError::Absent(_)) => self.report(in_loop, SocketState::Waiting),
            Err(error) => self.fail(in_loop, error.to_string()),
        }
        self.looked = true;
        self.next_try = in_loop.now.checked_add(RETRY);
        false
    }

    /// Makes the socket anew where nobody can reach it any more: the folder was removed or replaced, or the socket was.
    fn look_after_listener(&mut self, in_loop: &Loop) {
        self.next_look = in_loop.now.checked_add(LOOK);
        if self.listener.as_ref().is_some_and(|listener| listener.is_at(&self.config.place)) {
            return;
        }
        self.drop_listener(in_loop);
        match listen(&self.config.place, self.tokens, in_loop) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.info(in_loop, "the socket was gone and is made anew");
                if matches!(self.reported, Some(SocketState::Failed { .. })) {
                    self.report(in_loop, SocketState::Waiting);
                }
            }
            Err(error) => self.fail(in_loop, error.to_string()),
        }
    }

    fn accept(&mut self, in_loop: &Loop) -> bool {
        loop {
            let occupied = match &self.link {
                Link::Idle => false,
                // Its end will be found when its socket is read; the next frontend waits for that.
                Link::Open(open) if open.condemned.is_some() || socket::is_hung_up(&open.stream) => return false,
                Link::Open(_) => true,
                // The end of the session accepts.
                Link::Ending | Link::Closing(_) | Link::Stuck(..) => return false,
            };
            if self.aside.waiting() > LEFTOVERS {
                self.next_try = in_loop.now.checked_add(RETRY);
                return false;
            }
            if let Some(until) = self.accepts.exhausted(ACCEPTS_PER_SECOND, in_loop.now) {
                self.next_try = Some(until);
                return false;
            }
            self.accepts.count(in_loop.now);
            let Some(listener) = &self.listener else { return false };
            match listener.accept() {
                Ok(None) => return false,
                Ok(Some(stream)) if self.suspended => self.hang_up(stream),
                Ok(Some(stream)) if occupied => {
                    let peer = socket::peer(&stream);
                    self.hang_up(stream);
                    self.warn(in_loop, &format!("a second frontend ({peer}) was refused, the port has one already"));
                }
                Ok(Some(stream)) => {
                    if self.attach(in_loop, stream) {
                        return true;
                    }
                }
                Err(error) => {
                    self.warn(in_loop, &format!("cannot accept a frontend: {error}; see `ulimit -n`"));
                    self.next_try = in_loop.now.checked_add(RETRY);
                    return false;
                }
            }
        }
    }

    /// Takes up a connection. Returns whether there is more to do.
    pub fn attach(&mut self, in_loop: &Loop, mut stream: UnixStream) -> bool {
        let peer = socket::peer(&stream);
        if self.is_barred(in_loop, peer) {
            self.hang_up(stream);
            self.next_try = in_loop.now.checked_add(PENALTY);
            return false;
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = in_loop.registry.register(&mut stream, self.tokens.stream, interest) {
            self.warn(in_loop, &format!("cannot wait on a connection: {error}"));
            self.next_try = in_loop.now.checked_add(RETRY);
            return false;
        }
        let session = Session::new(self.config.device);
        let (output, parked, slowed, condemned) = (Vec::new(), false, None, None);
        self.link = Link::Open(Box::new(Open { stream, peer, session, output, parked, slowed, condemned }));
        self.info(in_loop, &format!("frontend connected: {peer}"));
        self.report_session(in_loop);
        self.on_stream(in_loop)
    }

    fn follow(&mut self, in_loop: &Loop, outcome: Outcome) {
        let Link::Open(open) = &mut self.link else { return };
        open.output.extend(outcome.reply.into_iter().flatten());
        match outcome.next {
            Next::Read => {}
            Next::Work(work) => {
                open.parked = true;
                self.changes.count(in_loop.now);
                let work = match (work, in_loop.results.cloned()) {
                    // A frontend's file may keep us waiting.
                    (Work::Map(update), Some(results)) => {
                        let slot = self.slot;
                        self.aside.run(move || {
                            let done = Done::Mapped(update.map());
                            results.put(JobResult::Done { slot, done, unused: None });
                        });
                        return;
                    }
                    (work, _) => work,
                };
                // The helper lives as long as the loop.
                let _ = in_loop.jobs.send(Job::Work { slot: self.slot, port: self.config.port, work });
                return;
            }
            Next::Close(reason) => {
                let _ = open.flush();
                self.close(in_loop, reason);
                return;
            }
        }
        if let Some(refused) = outcome.refused {
            self.warn(in_loop, &refused.to_string());
        }
        self.report_session(in_loop);
    }

    /// Closes the connection; while the helper works for its session, only later.
    fn close(&mut self, in_loop: &Loop, reason: CloseReason) {
        if let Link::Open(open) = &mut self.link
            && open.parked
        {
            open.condemned.get_or_insert(reason);
            return;
        }
        let Link::Open(open) = std::mem::replace(&mut self.link, Link::Idle) else { return };
        let Open { mut stream, session, .. } = *open;
        let _ = in_loop.registry.deregister(&mut stream);
        self.hang_up(stream);
        match &reason {
            CloseReason::HungUp | CloseReason::Removed | CloseReason::Suspended => {
                self.info(in_loop, &reason.to_string())
            }
            CloseReason::Quarantined(_) => {
                self.tell(in_loop, Kind::Quarantine, &format!("connection closed: {reason}"));
            }
            _ => self.warn(in_loop, &format!("connection closed: {reason}")),
        }
        if let CloseReason::Quarantined(reason) = reason {
            self.report(in_loop, SocketState::Quarantined { reason });
            self.next_try = in_loop.now.checked_add(PENALTY);
        } else {
            self.report(in_loop, SocketState::Waiting);
        }
        self.link = Link::Ending;
        self.end(in_loop, Box::new(session));
    }

    /// Closes a connection; what lies in its queue may keep us waiting, but the other side knows at once.
    fn hang_up(&self, stream: UnixStream) {
        let _ = stream.shutdown(Shutdown::Both);
        self.aside.end(stream);
    }

    /// Takes the listener's name away; connections that nobody accepted may keep us waiting.
    fn drop_listener(&mut self, in_loop: &Loop) {
        if let Some(listener) = self.listener.take() {
            let mut socket = listener.into_socket();
            let _ = in_loop.registry.deregister(&mut socket);
            self.aside.end(socket);
        }
    }

    /// Has everything done aside that the session has left.
    fn finish_leftovers(&mut self) {
        if let Link::Open(open) = &mut self.link {
            for leftover in open.session.take_leftovers() {
                let limit = self.aside.has_thread().then_some(INTERRUPT);
                self.aside.run(move || leftover.finish(limit));
            }
        }
    }

    fn end(&mut self, in_loop: &Loop, session: Box<Session>) {
        let _ = in_loop.jobs.send(Job::End { slot: self.slot, port: self.config.port, session });
    }

    fn after_end(&mut self, in_loop: &Loop) -> bool {
        if self.removed {
            return false;
        }
        if matches!(self.reported, Some(SocketState::Failed { .. })) {
            self.report(in_loop, SocketState::Waiting);
        }
        if self.next_try.is_none() {
            // Not at once to a frontend that accepts and closes; a listener's rate is bounded elsewhere.
            self.next_try = match self.config.role {
                Role::Listen => Some(in_loop.now),
                Role::Connect => self.last_try.and_then(|last| last.checked_add(RETRY)).or(Some(in_loop.now)),
            };
        }
        self.on_time(in_loop)
    }

    fn report_session(&mut self, in_loop: &Loop) {
        if let Link::Open(open) = &self.link {
            let connection = Connection { peer: open.peer, session: open.session.status() };
            self.report(in_loop, SocketState::Connected(connection));
        }
    }

    fn report(&mut self, in_loop: &Loop, state: SocketState) {
        if self.reported.as_ref() != Some(&state) {
            self.reported = Some(state.clone());
            in_loop.states.set(self.config.port, state.clone());
            let _ = in_loop.jobs.send(Job::State { port: self.config.port, state });
        }
    }

    /// The socket cannot be used at present.
    fn fail(&mut self, in_loop: &Loop, reason: String) {
        let state = SocketState::Failed { reason };
        if self.reported.as_ref() != Some(&state)
            && let SocketState::Failed { reason } = &state
        {
            self.warn(in_loop, reason);
        }
        self.report(in_loop, state);
    }

    fn warn(&mut self, in_loop: &Loop, text: &str) {
        self.tell(in_loop, Kind::Warning, text);
    }

    fn info(&mut self, in_loop: &Loop, text: &str) {
        self.tell(in_loop, Kind::Info, text);
    }

    fn tell(&mut self, in_loop: &Loop, kind: Kind, text: &str) {
        let Some(left_out) = self.log.permit(kind, in_loop.now) else { return };
        match kind {
            Kind::Info => tracing::info!(port = self.config.name, left_out, "{text}"),
            Kind::Warning | Kind::Quarantine => tracing::warn!(port = self.config.name, left_out, "{text}"),
        }
    }
}

/// Creates the socket of a port and waits on it.
fn listen(place: &Place, tokens: Tokens, in_loop: &Loop) -> Result<Listener, BindError> {
    let mut listener = Listener::bind(place)?;
    let registered = in_loop.registry.register(listener.source(), tokens.listener, Interest::READABLE);
    registered.map_err(|error| BindError::Kernel {
        what: "wait on",
        path: place.path.clone(),
        errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
    })?;
    Ok(listener)
}

impl Open {
    /// Sends what is to be sent, then reads and handles at most one piece of a message. None: nothing can be done now.
    fn step(&mut self, now: Instant) -> Result<Option<Outcome>, CloseReason> {
        if !self.flush().map_err(CloseReason::Socket)? {
            return Ok(None);
        }
        let wanted = self.session.wanted();
        let mut buffer = [0; MAX_BODY_BYTES];
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(None) };
        match socket::receive(&self.stream, buffer).map_err(CloseReason::Socket)? {
            Received::Nothing => Ok(None),
            Received::End if self.session.is_inside_message() => Err(CloseReason::HungUpInside),
            Received::End => Err(CloseReason::HungUp),
            Received::LostDescriptors(descriptors) => {
                self.session.leave(descriptors);
                Err(CloseReason::LostDescriptors)
            }
            Received::Bytes(count, descriptors) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                Ok(Some(self.session.receive(bytes, descriptors, now)))
            }
        }
    }

    /// Whether all output was sent.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            let sent = socket::send(&self.stream, &self.output)?;
            if sent == 0 {
                return Ok(false);
            }
            self.output.drain(..sent);
        }
        Ok(true)
    }
}
