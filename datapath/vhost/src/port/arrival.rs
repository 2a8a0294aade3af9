//! How a port comes by its frontend, in the two roles; how its listening socket is looked after; how a connection begins, be it a new one
//! or one that an earlier process has kept.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_guest::record::Records;
use mio::Interest;
use mio::net::UnixStream;

use super::open::Open;
use super::{LEFTOVERS, Link, Loop, PENALTY, Port, RETRY, Role, Tokens};
use crate::backend::SocketState;
use crate::connect::{self, ConnectError};
use crate::keep::{self, Kept, TakenUp};
use crate::listen::{BindError, Listener};
use crate::place::Place;
use crate::session::Session;
use crate::socket;
use crate::transcript::Replay;

/// How soon it looks again when something appeared in the folder.
const RETRY_AFTER_EVENT: Duration = Duration::from_millis(10);

/// How often a port in the listen role whose folder is somebody else's looks whether its socket is still there.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Connections that a port accepts in one second.
const ACCEPTS_PER_SECOND: u32 = 128;

impl Port {
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

    /// Leaves the name of the socket behind: see [`Listener::leave_name`].
    pub fn leave_name(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.leave_name();
        }
    }

    pub(super) fn is_looking(&self) -> bool {
        self.config.role == Role::Connect && matches!(self.link, Link::Idle) && !self.removed && !self.suspended
    }

    /// Looks for a frontend in the port's role. Returns whether there is more to do at once.
    pub(super) fn find_frontend(&mut self, in_loop: &Loop) -> bool {
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

    /// Makes the socket anew where nobody can reach it any more: the folder was removed or replaced, or the socket was.
    pub(super) fn look_after_listener(&mut self, in_loop: &Loop) {
        self.next_look = in_loop.now.checked_add(LOOK);
        if self.listener.as_ref().is_some_and(|listener| listener.is_at(&self.config.place)) {
            return;
        }
        self.drop_listener(in_loop);
        match listen(&self.config.place, self.tokens, None, in_loop) {
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

    /// Takes the listener's name away; connections that nobody accepted may keep us waiting.
    pub(super) fn drop_listener(&mut self, in_loop: &Loop) {
        if let Some(listener) = self.listener.take() {
            let mut socket = listener.into_socket();
            let _ = in_loop.registry.deregister(&mut socket);
            self.aside.end(socket);
        }
    }

    /// Takes up what an earlier process has kept for this port, if it is to be had. Returns whether there is more to do.
    pub fn take_up(&mut self, in_loop: &Loop, mut descriptors: Vec<OwnedFd>) -> bool {
        let taken = keep::take_up(&self.config, &mut descriptors);
        self.aside.end(descriptors);
        match taken {
            Some(taken) if !socket::is_hung_up(&taken.stream) => {
                self.next_try = None;
                let TakenUp { kept, stream, replay } = taken;
                self.begin(in_loop, stream, Some((kept, replay)))
            }
            unusable => {
                // The frontend must see the end of it.
                if let Some(TakenUp { stream, replay, .. }) = unusable {
                    self.hang_up(stream);
                    self.aside.end(replay.into_rest());
                }
                in_loop.forget(&self.config);
                self.on_time(in_loop)
            }
        }
    }

    /// Takes up a connection. Returns whether there is more to do.
    pub fn attach(&mut self, in_loop: &Loop, stream: UnixStream) -> bool {
        self.begin(in_loop, stream, None)
    }

    fn begin(&mut self, in_loop: &Loop, mut stream: UnixStream, taken: Option<(Kept, Replay)>) -> bool {
        let peer = socket::peer(&stream);
        let (kept, replay) = taken.unzip();
        let refused = if self.is_barred(in_loop, peer) {
            Some(PENALTY)
        } else {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered = in_loop.registry.register(&mut stream, self.tokens.stream, interest);
            registered.err().map(|error| {
                self.warn(in_loop, &format!("cannot wait on a connection: {error}"));
                RETRY
            })
        };
        if let Some(pause) = refused {
            self.hang_up(stream);
            self.aside.end(replay);
            if let Some(kept) = kept {
                kept.end(&self.config.name, in_loop.keeper);
            }
            self.next_try = in_loop.now.checked_add(pause);
            return false;
        }
        let device = self.config.device;
        let records = self.config.records.clone();
        let session = Session::with_records(device, records.map(|path| Records::new(Some(path), device.rings())));
        // Who serves its port itself looks after what is beside the rings.
        let session = if in_loop.results.is_none() && device.migrates { session.with_state() } else { session };
        let (output, parked, slowed, condemned) = (Vec::new(), false, None, None);
        let how = if replay.is_some() { "is connected still" } else { "connected" };
        in_loop.taking_up.fetch_add(usize::from(replay.is_some()), Ordering::Relaxed);
        self.keeping.begin(kept);
        let open = Open { stream, peer, session, output, parked, slowed, condemned, replay, told_unkept: false };
        self.link = Link::Open(Box::new(open));
        self.info(in_loop, &format!("frontend {how}: {peer}"));
        self.report_session(in_loop);
        self.on_stream(in_loop)
    }
}

/// Creates the socket of a port, unless it is inherited, and waits on it.
pub(super) fn listen(
    place: &Place,
    tokens: Tokens,
    inherited: Option<Listener>,
    in_loop: &Loop,
) -> Result<Listener, BindError> {
    let mut listener = inherited.map_or_else(|| Listener::bind(place), Ok)?;
    let registered = in_loop.registry.register(listener.source(), tokens.listener, Interest::READABLE);
    registered.map_err(|error| BindError::Kernel {
        what: "wait on",
        path: place.path.clone(),
        errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
    })?;
    Ok(listener)
}
