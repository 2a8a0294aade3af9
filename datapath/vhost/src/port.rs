//! One port's socket: waiting for a frontend in one of the two roles, serving it, ending with it.
//!
//! Owned and called by [`crate::server`]'s loop; never waits. A port has at most one frontend. What came before it is
//! wholly gone (rings stopped, memory unmapped) before the next one is served. Here is what happens to a port and in which state it is;
//! in parts of their own are:
//! - `arrival`: how it comes by a frontend; `departure`: how it gets rid of it;
//! - `open`: the connection at work; `keeping`: that it outlives the process;
//! - `standstill`: what another process gets of it that takes over;
//! - `in_loop`: what a port needs of the loop; `telling`: what others hear of it.

mod arrival;
mod departure;
mod in_loop;
mod keeping;
mod open;
mod standstill;
mod telling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_guest::Memory;
use culvert_guest::device::DeviceConfig;

use crate::aside::Aside;
use crate::backend::{Bar, PortKey, SocketState};
use crate::helper::{Job, JobResult};
use crate::listen::{BindError, Listener};
use crate::log_limit::LogLimits;
use crate::place::Place;
use crate::rate::Rate;
use crate::session::{Done, Next, Outcome, Session, Work};
use arrival::{LOOK, listen};
pub use in_loop::{Loop, Results, Tokens};
use keeping::Keeping;
use open::Open;
pub use standstill::{HandedListener, Standstill};

/// How often a port in the connect role looks for its socket.
pub const RETRY: Duration = Duration::from_millis(100);

/// How long a guest that broke its rings has to wait for its next connection, and how often workers that did not
/// acknowledge the end of a session are asked again.
const PENALTY: Duration = Duration::from_secs(1);

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
    /// The file in which it is noted where packed rings stand, for the next process; none: nowhere.
    pub records: Option<PathBuf>,
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
    keeping: Keeping,
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

impl Port {
    /// Sets a port up; its first connection is tried at the next [`Self::on_time`].
    ///
    /// # Errors
    /// The listening socket cannot be created. `inherited`: it listens already.
    pub fn new(
        config: PortSocket,
        slot: usize,
        tokens: Tokens,
        inherited: Option<Listener>,
        in_loop: &Loop,
    ) -> Result<Self, BindError> {
        let listener = match config.role {
            Role::Connect => None,
            Role::Listen => Some(listen(&config.place, tokens, inherited, in_loop)?),
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
            keeping: Keeping::default(),
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

    /// When [`Self::on_time`] has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.link {
            Link::Idle => [self.next_try, self.next_look].into_iter().flatten().min(),
            // While the helper works for a message its time does not count.
            Link::Open(open) => {
                let times = [open.session.deadline(), open.slowed, self.next_try, self.keeping.deadline()];
                times.into_iter().flatten().min()
            }
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
                } else if self.keeping.is_due(in_loop) {
                    self.keep(in_loop);
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
            let step = open.step(&self.config, &mut self.keeping, in_loop);
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

    fn follow(&mut self, in_loop: &Loop, outcome: Outcome) {
        let Link::Open(open) = &mut self.link else { return };
        let unkept = (!open.told_unkept).then(|| open.session.unkept().map(ToString::to_string)).flatten();
        open.told_unkept |= unkept.is_some();
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
                    (Work::MapLog(update), Some(results)) => {
                        let slot = self.slot;
                        self.aside.run(move || {
                            let done = Done::LogMapped(update.map());
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
        if let Some(reason) = unkept {
            let sentence =
                format!("packed rings will stand still after a crash, for where they are cannot be noted: {reason}");
            self.warn(in_loop, &sentence);
        }
        self.report_session(in_loop);
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
}
