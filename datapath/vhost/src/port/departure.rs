//! How a port gets rid of its frontend: why, and what is done until nothing of it is left and another may come.

use std::net::Shutdown;
use std::sync::atomic::Ordering;

use culvert_guest::device::Unresponsive;
use mio::net::UnixStream;

use super::open::Open;
use super::{Link, Loop, PENALTY, Port, RETRY, Role};
use crate::backend::{Bar, Peer, SocketState};
use crate::helper::{Job, JobResult};
use crate::log_limit::Kind;
use crate::session::{CloseReason, Session};

impl Port {
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
    pub(super) fn is_barred(&mut self, in_loop: &Loop, peer: Peer) -> bool {
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

    /// Closes the connection; while the helper works for its session, only later.
    pub(super) fn close(&mut self, in_loop: &Loop, reason: CloseReason) {
        if let Link::Open(open) = &mut self.link
            && open.parked
        {
            open.condemned.get_or_insert(reason);
            return;
        }
        let Link::Open(open) = std::mem::replace(&mut self.link, Link::Idle) else { return };
        let Open { mut stream, session, replay, .. } = *open;
        self.keeping.end(&self.config.name, in_loop);
        if let Some(replay) = replay {
            in_loop.taking_up.fetch_sub(1, Ordering::Relaxed);
            self.aside.end(replay.into_rest());
        }
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
    pub(super) fn hang_up(&self, stream: UnixStream) {
        let _ = stream.shutdown(Shutdown::Both);
        self.aside.end(stream);
    }

    pub(super) fn end(&mut self, in_loop: &Loop, session: Box<Session>) {
        let _ = in_loop.jobs.send(Job::End { slot: self.slot, port: self.config.port, session });
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

    /// The helper could not end the last session.
    pub fn on_not_ended(&mut self, in_loop: &Loop, session: Box<Session>, error: Unresponsive) {
        self.warn(in_loop, &format!("the rings of the last connection are not stopped: {error}"));
        self.report(in_loop, SocketState::Failed { reason: error.to_string() });
        self.link = Link::Stuck(session, in_loop.now.checked_add(PENALTY).unwrap_or(in_loop.now));
    }

    /// Nothing is left of the last session. Returns whether there is more to do.
    pub fn on_gone(&mut self, in_loop: &Loop) -> bool {
        self.link = Link::Idle;
        self.after_end(in_loop)
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
}
