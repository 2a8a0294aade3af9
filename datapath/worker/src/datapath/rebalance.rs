//! Queues that go from one worker to another, so that each has about as much to do.
//!
//! Theory of operation. A queue has one owner at a time, so it goes in two plans: in the first one it is in nobody's, and when all workers
//! run that, its old one has put it back and is done with all frames that came from it; in the second one it is its new worker's. What arrives
//! meanwhile waits in its ring. So no frame is lost, and none overtakes another one of its queue. All other queues stay where they are.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, RawFd};
use std::time::Instant;

use culvert_nic::RxQueue;
use culvert_switch::PortId;

use super::{Datapath, DatapathError};
use crate::balance::{Balance, Move, Share, balance};
use crate::input;
use crate::load::InputTotals;
use crate::state::{Device, NicQueue, Place, Polled, Queue, State};

/// One queue that has moved, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The port that its frames come from.
    pub port: PortId,
    /// The number of the queue among those of its port from which frames come.
    pub queue: u16,
    /// The number of the worker that it comes from.
    pub from: usize,
    /// The number of the worker that it goes to.
    pub to: usize,
    /// What it takes of a worker, by estimate: nanoseconds a second.
    pub load: u32,
}

/// What would make workers' loads more alike, as [`Datapath::balance`] tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What should move; nothing if that is worth too little.
    pub moves: Vec<Moved>,
    /// By how many percent the variance of the workers' loads would become smaller by all that could be done.
    pub improvement: u8,
    /// The load of each worker as it is, and as it would be then, by estimate: nanoseconds a second.
    pub loads: Vec<(u64, u64)>,
}

impl Datapath {
    /// What each queue that is polled takes of its worker.
    pub fn inputs(&self) -> Vec<InputTotals> {
        let (state, now) = (self.state(), Instant::now());
        state.polled().map(|polled| state.totals(now, polled)).collect()
    }

    /// Notes what queues have taken so far; to be called every second or so.
    pub fn measure_loads(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.looks.is_due(now) {
            let mut looks = std::mem::take(&mut state.looks);
            looks.look(now, state.polled().map(|Polled { place, .. }| (place.token, &*place.work)));
            state.looks = looks;
        }
    }

    /// Which queues should go to other workers, if the variance of the workers' loads becomes smaller by `least_improvement` percent or
    /// more by that.
    pub fn balance(&self, least_improvement: u8) -> Proposal {
        let inputs = self.inputs();
        let shares: Vec<_> = inputs.iter().map(|&InputTotals { worker, load, .. }| Share { worker, load }).collect();
        let Balance { moves, improvement, loads } = balance(self.workers.len(), &shares, least_improvement);
        let moves = moves.into_iter().filter_map(|Move { input, from, to }| {
            let &InputTotals { port, queue, load, .. } = inputs.get(input)?;
            Some(Moved { port, queue, from, to, load })
        });
        Proposal { moves: moves.collect(), improvement, loads }
    }

    /// Moves queues between workers, each once at most, and returns those that have moved. No frame is lost over it. One that is not where
    /// it is to come from stays.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`]: all queues are where they were, or all where they were to go.
    pub fn move_queues(&self, moves: &[Moved]) -> Result<Vec<Moved>, DatapathError> {
        let mut state = self.state();
        let is_there = |moved: &&Moved, Polled { port, queue, place }: &Polled<'_>| {
            (moved.port, moved.queue, moved.from) == (*port, *queue, place.worker) && moved.to < self.workers.len()
        };
        let found =
            state.polled().filter_map(|of| Some((of.place.token, *moves.iter().find(|moved| is_there(moved, &of))?)));
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        state.away = found.iter().map(|(token, _)| *token).collect();
        let left = self.publish(&mut state);
        state.away = BTreeSet::new();
        if left.is_ok() {
            found.iter().for_each(|(token, moved)| self.put_at(&mut state, *token, moved));
        }
        // Otherwise their workers still have them, or get them back.
        let arrived = self.publish(&mut state);
        left.and(arrived)?;
        Ok(found.into_iter().map(|(_, moved)| moved).collect())
    }

    /// Gives a queue, which nobody has, to its new worker.
    fn put_at(&self, state: &mut State, token: usize, &Moved { port, to, .. }: &Moved) {
        match state.port_mut(port).map(|port| &mut port.device) {
            Some(Device::Guest(rings)) => {
                for ring in rings.values_mut() {
                    if let Queue::Transmit { kick, place, .. } = &mut ring.queue
                        && place.token == token
                    {
                        let descriptor = kick.as_ref().map(|kick| input::raw(kick.as_fd()));
                        *kick = kick.take().filter(|_| self.watch_at(place, descriptor, to));
                        place.worker = to;
                    }
                }
            }
            Some(Device::Nic { rx, .. }) => {
                for NicQueue { slot, place, wakes } in rx.iter_mut().filter(|queue| queue.place.token == token) {
                    let descriptor = slot.look(RxQueue::interrupt_descriptor).flatten().filter(|_| *wakes);
                    *wakes = self.watch_at(place, descriptor, to);
                    place.worker = to;
                }
            }
            None => {}
        }
    }

    /// Has the descriptor of a queue, if it has one, wake another worker than it did. `false` when it cannot: the queue is polled then.
    fn watch_at(&self, place: &Place, descriptor: Option<RawFd>, worker: usize) -> bool {
        descriptor.is_some_and(|descriptor| {
            self.unwatch(place, descriptor);
            self.watch(worker, place.token, descriptor)
        })
    }
}
