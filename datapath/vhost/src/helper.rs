//! The thread that may wait: it maps memory, has the workers change rings, and drops memory that is out of use.
//!
//! [`crate::server`]'s loop hands it jobs and never waits for it; results come back through a channel and a waker. Jobs
//! are done one after the other, so a [`Backend`] sees the changes and states of a port in their order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};

use crate::backend::{Backend, PortKey, SocketState};
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
    /// Stop all rings of a session whose connection is gone, then drop it and its memory.
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

/// The result of a job.
#[derive(Debug)]
pub enum JobResult {
    /// Of [`Job::Work`].
    Done {
        /// Of the port.
        slot: usize,
        /// For [`Session::complete`].
        done: Done,
    },
    /// Of [`Job::End`]: the rings are stopped and the memory is given back.
    Ended {
        /// Of the port.
        slot: usize,
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

/// Does jobs until there can be no more. `wake` is called after each result.
pub fn run(backend: &Arc<dyn Backend>, jobs: &Receiver<Job>, results: &Sender<JobResult>, wake: impl Fn()) {
    for job in jobs {
        let result = match job {
            Job::Work { slot, port, work } => {
                let change = |changes| backend.change_rings(port, changes);
                JobResult::Done { slot, done: work_done(work, change, |mac| backend.announce(port, mac)) }
            }
            Job::End { slot, port, session } => end(backend, slot, port, session),
            Job::State { port, state } => {
                backend.state(port, state);
                continue;
            }
        };
        if results.send(result).is_err() {
            break;
        }
        wake();
    }
}

/// Does what a session asked for.
pub fn work_done(
    work: Work,
    change_rings: impl FnOnce(Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive>,
    announce: impl FnOnce(MacAddress),
) -> Done {
    match work {
        Work::Map(update) => Done::Mapped(update.map()),
        Work::Change { changes, retired } => {
            let result = if changes.is_empty() { Ok(Vec::new()) } else { change_rings(changes) };
            Done::Changed(match result {
                Ok(stopped) => {
                    drop(retired);
                    Ok(stopped)
                }
                Err(error) => Err(Unchanged { error, retired }),
            })
        }
        Work::Announce(mac) => {
            announce(mac);
            Done::Announced
        }
    }
}

fn end(backend: &Arc<dyn Backend>, slot: usize, port: PortKey, mut session: Box<Session>) -> JobResult {
    let changes = session.stop_all();
    let result = if changes.is_empty() { Ok(Vec::new()) } else { backend.change_rings(port, changes) };
    match result {
        Ok(_) => JobResult::Ended { slot },
        Err(error) => JobResult::NotEnded { slot, session, error },
    }
}
