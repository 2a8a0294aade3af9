//! The thread that may wait for workers: it has them change rings.
//!
//! [`crate::server`]'s loop hands it jobs and never waits for it; results come back through a channel and a waker. Jobs
//! are done one after the other, so a [`Backend`] sees the changes and states of a port in their order.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use culvert_frame::MacAddress;
use culvert_guest::Memory;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};

use crate::backend::{Backend, PortKey, SocketState};
use crate::port::Results;
use crate::session::{Done, Session, Unchanged, Work};

/// Something to do for a port. `slot` is the server's number for the port, returned with the result.
#[derive(Debug)]
pub enum Job {
    /// What a session asked for.
    Work {
        /// Of the port.
        slot: usize,
        /// Of the port.
        port: PortKey,
        /// To be done.
        work: Work,
    },
    /// Stop all rings of a session whose connection is gone.
    End {
        /// Of the port.
        slot: usize,
        /// Of the port.
        port: PortKey,
        /// To be ended.
        session: Box<Session>,
    },
    /// Tell the backend.
    State {
        /// Of the port.
        port: PortKey,
        /// Its new state.
        state: SocketState,
    },
}

/// The result of a job, or of one that another thread of the server's has done.
#[derive(Debug)]
pub enum JobResult {
    /// Of [`Job::Work`].
    Done {
        /// Of the port.
        slot: usize,
        /// For [`Session::complete`].
        done: Done,
        /// Memory that is out of use.
        unused: Option<Arc<Memory>>,
    },
    /// Of [`Job::End`]: the rings are stopped.
    Ended {
        /// Of the port.
        slot: usize,
        /// To be dropped, and its memory with it.
        session: Box<Session>,
    },
    /// The last session of a port is dropped, and its memory is given back.
    Gone {
        /// Of the port.
        slot: usize,
    },
    /// Of [`KeeperJob::Keep`](crate::keep::KeeperJob::Keep).
    Kept {
        /// Of the port.
        slot: usize,
        /// The keeper's answer.
        answer: io::Result<()>,
    },
    /// Of [`Job::End`]: the workers did not acknowledge. To be tried again.
    NotEnded {
        /// Of the port.
        slot: usize,
        /// As it was.
        session: Box<Session>,
        /// Why.
        error: Unresponsive,
    },
}

/// Does jobs until there can be no more.
pub fn run(backend: &Arc<dyn Backend>, jobs: &Receiver<Job>, results: &Results) {
    for job in jobs {
        let result = match job {
            Job::Work { slot, port, work } => {
                let change = |changes| backend.change_rings(port, changes);
                let (done, unused) = work_done(work, change, |mac| backend.announce(port, mac));
                JobResult::Done { slot, done, unused }
            }
            Job::End { slot, port, session } => end(backend, slot, port, session),
            Job::State { port, state } => {
                backend.state(port, state);
                continue;
            }
        };
        results.put(result);
    }
}

/// Does what a session asked for; also returns memory that is out of use then.
pub fn work_done(
    work: Work,
    change_rings: impl FnOnce(Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive>,
    announce: impl FnOnce(MacAddress),
) -> (Done, Option<Arc<Memory>>) {
    match work {
        Work::Map(update) => (Done::Mapped(update.map()), None),
        Work::MapLog(update) => (Done::LogMapped(update.map()), None),
        Work::Change { changes, retired } => {
            let result = if changes.is_empty() { Ok(Vec::new()) } else { change_rings(changes) };
            match result {
                Ok(stopped) => (Done::Changed(Ok(stopped)), retired),
                Err(error) => (Done::Changed(Err(Unchanged { error, retired })), None),
            }
        }
        Work::Announce(mac) => {
            announce(mac);
            (Done::Announced, None)
        }
        // It is offered by none that this is called for.
        Work::State(_) => (Done::State(false), None),
    }
}

fn end(backend: &Arc<dyn Backend>, slot: usize, port: PortKey, mut session: Box<Session>) -> JobResult {
    let changes = session.stop_all();
    let result = if changes.is_empty() { Ok(Vec::new()) } else { backend.change_rings(port, changes) };
    match result {
        Ok(_) => JobResult::Ended { slot, session },
        Err(error) => JobResult::NotEnded { slot, session, error },
    }
}
