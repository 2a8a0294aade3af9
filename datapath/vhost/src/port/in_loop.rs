//! What a port needs of the loop that serves it: where to register, where work goes and results come from, what time it is.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::Instant;

use mio::{Registry, Token, Waker};

use super::PortSocket;
use crate::helper::{Job, JobResult};
use crate::keep::KeeperJob;
use crate::server::States;

/// What a port needs of the loop.
pub struct Loop<'a> {
    /// To register sockets with.
    pub registry: &'a Registry,
    /// To hand jobs to.
    pub jobs: &'a Sender<Job>,
    /// Where results come from threads; none: everything is done in this one.
    pub results: Option<&'a Results>,
    /// Whoever keeps connections for the next process is asked by this; none: nobody does.
    pub keeper: Option<&'a Sender<KeeperJob>>,
    /// How many connections of the last process are being taken up.
    pub taking_up: &'a AtomicUsize,
    /// What people see.
    pub states: &'a States,
    /// The time of this turn.
    pub now: Instant,
}

impl Loop<'_> {
    /// Has the keeper close what it has for a port.
    pub fn forget(&self, port: &PortSocket) {
        if let Some(keeper) = self.keeper {
            // Its thread lives as long as the loop.
            let _ = keeper.send(KeeperJob::Forget { port: port.name.clone() });
        }
    }
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

/// The loop's names for a port's two sockets.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Of the listener.
    pub listener: Token,
    /// Of the connection.
    pub stream: Token,
}
