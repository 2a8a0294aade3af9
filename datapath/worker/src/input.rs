//! What one worker polls.
//!
//! A queue has one owner at a time. Between plans it lies in its [`Slot`]; the worker whose plan has it takes it out, and
//! puts it back before it takes up the next plan. So a queue that is in no plan, once every worker has acknowledged that
//! plan, is control's.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use culvert_guest::{RingFault, TransmitBurst, TransmitQueue};
use culvert_nic::{Batch, RxQueue};
use culvert_switch::{Burst, PortId};

use crate::handover::Slot;
use crate::load::Work;

/// One queue in one worker's plan.
#[derive(Debug)]
pub struct Input {
    /// The port that its frames come from.
    pub port: PortId,
    /// Names the input in the worker's epoll set, for as long as the queue runs.
    pub token: usize,
    /// What it takes of its worker.
    pub work: Arc<Work>,
    source: Source,
    state: State,
    /// When it last had a frame.
    last_frame: Option<Instant>,
    /// Until when it is [`State::Held`].
    held_until: Option<Instant>,
}

#[derive(Debug)]
enum Source {
    Guest {
        slot: Slot<TransmitQueue>,
        queue: Option<Box<TransmitQueue>>,
        enabled: bool,
        kick: bool,
    },
    /// `pending`: the batch has frames that arrived while the queue was being armed.
    Nic {
        slot: Slot<RxQueue>,
        queue: Option<Box<RxQueue>>,
        batch: Box<Batch>,
        pending: bool,
        wakes: bool,
    },
}

/// Who looks for the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// We do.
    Polled,
    /// The guest or the NIC tells us by its descriptor.
    Armed,
    /// Nobody before some time: by its port's rate nothing more may come in. What the guest sends stays in its ring.
    Held,
    /// Nobody: the guest broke it.
    Broken,
}

/// What [`Input::receive`] found.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// Frames to forward.
    Frames(Burst<'a>),
    /// Frames from a queue that its guest disabled: to be counted and dropped.
    Disabled(Burst<'a>),
    /// The guest broke its ring.
    Fault(RingFault),
}

impl Input {
    /// A guest's transmit queue. `enabled`: its frames go on. `kick`: it has a descriptor that wakes us.
    pub fn guest(
        port: PortId,
        token: usize,
        work: Arc<Work>,
        slot: Slot<TransmitQueue>,
        enabled: bool,
        kick: bool,
    ) -> Self {
        Self::new(port, token, work, Source::Guest { slot, queue: None, enabled, kick })
    }

    /// A NIC's receive queue. `wakes`: its descriptor is watched.
    pub fn nic(port: PortId, token: usize, work: Arc<Work>, slot: Slot<RxQueue>, wakes: bool) -> Self {
        Self::new(port, token, work, Source::Nic { slot, queue: None, batch: Box::default(), pending: false, wakes })
    }

    fn new(port: PortId, token: usize, work: Arc<Work>, source: Source) -> Self {
        Self { port, token, work, source, state: State::Polled, last_frame: None, held_until: None }
    }

    /// Takes the queue out of its slot. `false` when it is not there.
    pub fn take(&mut self, now: Instant) -> bool {
        self.last_frame = Some(now);
        self.state = State::Polled;
        match &mut self.source {
            Source::Guest { slot, queue, .. } => {
                *queue = slot.take();
                queue.iter().for_each(|queue| queue.disarm());
                queue.is_some()
            }
            Source::Nic { slot, queue, .. } => {
                *queue = slot.take();
                queue.is_some()
            }
        }
    }

    /// Puts the queue back into its slot.
    pub fn give_back(&mut self) {
        self.disarm();
        match &mut self.source {
            Source::Guest { slot, queue, .. } => queue.take().into_iter().for_each(|queue| slot.put(queue)),
            Source::Nic { slot, queue, .. } => queue.take().into_iter().for_each(|queue| slot.put(queue)),
        }
    }

    /// Who looks for its next frame.
    #[inline]
    pub const fn state(&self) -> State {
        self.state
    }

    /// How long it has been without a frame.
    pub fn idle_since(&self) -> Option<Instant> {
        self.last_frame
    }

    /// Notes that it had a frame.
    #[inline]
    pub fn touch(&mut self, now: Instant) {
        self.last_frame = Some(now);
    }

    /// Not polled before `until`.
    pub fn hold(&mut self, until: Instant) {
        (self.state, self.held_until) = (State::Held, Some(until));
    }

    /// Until when it is not polled, if that is for its port's rate.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until.filter(|_| self.state == State::Held)
    }

    /// Whether it is to be polled: one that is held, again once its time has come.
    #[inline]
    pub fn is_polled(&mut self, now: Instant) -> bool {
        self.state == State::Polled || (self.state == State::Held && self.resume(now))
    }

    #[cold]
    fn resume(&mut self, now: Instant) -> bool {
        let is_over = self.held_until.is_none_or(|until| until <= now);
        if is_over {
            // It had frames all the while.
            (self.state, self.last_frame) = (State::Polled, Some(now));
        }
        is_over
    }

    /// Takes a burst of frames.
    #[inline]
    pub fn receive<'a>(&'a mut self, storage: &'a mut TransmitBurst) -> Option<Arrival<'a>> {
        match &mut self.source {
            Source::Guest { queue, enabled, .. } => match queue.as_mut()?.receive(storage) {
                Ok(received) if received.is_empty() => None,
                Ok(received) if *enabled => Some(Arrival::Frames(Burst::Guest(received))),
                Ok(received) => Some(Arrival::Disabled(Burst::Guest(received))),
                Err(fault) => Some(Arrival::Fault(fault)),
            },
            Source::Nic { queue, batch, pending, .. } => {
                if !std::mem::take(pending) {
                    batch.clear();
                    queue.as_mut()?.receive(batch);
                }
                (!batch.is_empty()).then_some(Arrival::Frames(Burst::Nic(batch)))
            }
        }
    }

    /// Asks to be woken for its next frame. `true` when it will wake us; otherwise it must be polled on.
    pub fn arm(&mut self) -> bool {
        let armed = match &mut self.source {
            // A fault shows at the next poll.
            Source::Guest { queue: Some(queue), kick: true, .. } => queue.arm().unwrap_or(false),
            Source::Nic { queue: Some(queue), batch, pending, wakes: true, .. } => {
                if queue.arm().is_ok() {
                    // What arrived before the interrupt was on does not interrupt.
                    batch.clear();
                    *pending = queue.receive(batch) > 0;
                    if *pending {
                        let _ = queue.disarm();
                    }
                    !*pending
                } else {
                    false
                }
            }
            Source::Guest { .. } | Source::Nic { .. } => false,
        };
        if armed {
            self.state = State::Armed;
        } else {
            self.disarm();
        }
        armed
    }

    /// Goes back to polling.
    pub fn disarm(&mut self) {
        match &mut self.source {
            Source::Guest { queue: Some(queue), .. } => queue.disarm(),
            Source::Nic { queue: Some(queue), .. } if self.state == State::Armed => {
                let _ = queue.disarm();
            }
            Source::Guest { .. } | Source::Nic { .. } => {}
        }
        if self.state == State::Armed {
            self.state = State::Polled;
        }
    }

    /// Whether it can wake us at all.
    pub fn can_wake(&self) -> bool {
        match &self.source {
            Source::Guest { kick, .. } => *kick,
            Source::Nic { wakes, .. } => *wakes,
        }
    }

    /// Whether it holds frames that are to be forwarded before it is given back.
    pub fn has_pending(&self) -> bool {
        matches!(self.source, Source::Nic { pending: true, .. })
    }

    /// Whether its frames come from a guest.
    pub fn is_guest(&self) -> bool {
        matches!(self.source, Source::Guest { .. })
    }

    /// Never polled again under this plan.
    pub fn break_off(&mut self) {
        self.state = State::Broken;
    }
}

/// The raw number of a descriptor that mio is to watch; the owner keeps it open until it is taken out again.
pub(crate) fn raw(descriptor: BorrowedFd<'_>) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&descriptor)
}
