//! One worker: polls its inputs, forwards what arrives, sleeps when nothing does.
//!
//! Theory of operation. In each round every polled input gives one burst. An input that had no frame for `idle_sleep` is
//! *armed*: its guest is asked to kick, and it is not polled until it does; kicks are looked for every 50 us while other
//! inputs are busy. When nothing arrived for `idle_sleep` at all, the worker arms everything and sleeps in epoll. Inputs
//! that cannot wake us (PMDs without interrupts, guests without a kick) are then polled at a low rate.
//!
//! A new plan is taken up between two rounds: one relaxed load a round tells that there is one. Only then, and in the
//! interrupt to a guest and the looks for kicks, are there system calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use culvert_frame::DropReason;
use culvert_guest::split::StartError;
use culvert_guest::{RingFault, TransmitBurst, bus_fault};
use culvert_switch::burst::LocalFrame;
use culvert_switch::port::MAX_PORTS;
use culvert_switch::{Burst, Forwarder, PortId, Topology};
use mio::{Events, Poll, Token, Waker};

use crate::handover::HandOver;
use crate::input::{Arrival, Input, State};
use crate::plan::Plan;
use crate::snoop_queue::SnoopQueue;

/// How often a busy worker looks for kicks of armed inputs.
pub const KICK_INTERVAL: Duration = Duration::from_micros(50);

/// How often a sleeping worker polls inputs that cannot wake it, at first and after a second without a frame.
pub const SLOW_POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];

/// The token of the worker's own waker.
pub(crate) const WAKER: Token = Token(0);

/// How many rounds a busy worker goes by one reading of the clock.
const ROUNDS_PER_TIME: u32 = 8;

/// What a worker tells control. `attachment` is the port's at that time: what comes late is not held against the next
/// guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A guest broke its ring; the worker does not poll it any more.
    Fault {
        /// The guest's port.
        port: PortId,
        /// Which of its guests.
        attachment: u32,
        /// What it did.
        fault: RingFault,
    },
    /// A guest's ring cannot be started where its frontend put it, or with the indices that are in it.
    NotStarted {
        /// The guest's port.
        port: PortId,
        /// Which of its guests.
        attachment: u32,
        /// What is wrong.
        error: StartError,
    },
    /// Some guest's memory file was truncated: look at all ports.
    MemoryLost,
    /// Our own code panicked over this port's frames: a bug. The frames of that burst are lost, the worker goes on; a
    /// guest's queue is not polled any more.
    Panicked {
        /// The port that the frames came from.
        port: PortId,
        /// Which of its guests.
        attachment: u32,
    },
}

/// What control and one worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) handover: HandOver<Plan>,
    pub(crate) waker: Waker,
    /// Frames to send in a guest's name.
    pub(crate) announcements: ArrayQueue<(PortId, [u8; 60])>,
    pub(crate) snooped: SnoopQueue,
    pub(crate) counters: WorkerCounters,
}

/// One worker's own counters; the worker is the only writer.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    rounds: AtomicU64,
    busy_rounds: AtomicU64,
    frames: AtomicU64,
    sleeps: AtomicU64,
}

/// What a worker did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTotals {
    /// The core that it is bound to.
    pub core: usize,
    /// Rounds over all inputs.
    pub rounds: u64,
    /// Rounds in which at least one frame arrived.
    pub busy_rounds: u64,
    /// Frames that arrived.
    pub frames: u64,
    /// How often it slept.
    pub sleeps: u64,
}

impl WorkerCounters {
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    pub(crate) fn totals(&self, core: usize) -> WorkerTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerTotals {
            core,
            rounds: get(&self.rounds),
            busy_rounds: get(&self.busy_rounds),
            frames: get(&self.frames),
            sleeps: get(&self.sleeps),
        }
    }
}

#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// A worker's own state.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    poll: Poll,
    events: Events,
    reports: Reports,
    idle_sleep: Option<Duration>,
    start: Instant,
    plan: Option<Arc<Plan>>,
    inputs: Vec<Input>,
    storage: TransmitBurst,
    forwarder: Forwarder,
    bus_faults: u64,
    now: Instant,
    last_frame: Instant,
    last_look: Instant,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        poll: Poll,
        events: SyncSender<Event>,
        idle_sleep: Option<Duration>,
        start: Instant,
    ) -> Self {
        let now = Instant::now();
        Self {
            index,
            shared,
            poll,
            events: Events::with_capacity(256),
            reports: Reports { events, reported: Vec::with_capacity(MAX_PORTS) },
            idle_sleep,
            start,
            plan: None,
            inputs: Vec::new(),
            storage: TransmitBurst::default(),
            forwarder: Forwarder::new(index),
            bus_faults: bus_fault::count(),
            now,
            last_frame: now,
            last_look: now,
        }
    }

    /// Runs until control says to stop. All inputs are back in their slots then.
    pub(crate) fn run(mut self) {
        let mut rounds = 0_u32;
        while !self.shared.handover.is_stopped() {
            if self.has_new_plan() {
                self.take_up_plan();
            }
            let frames = self.round();
            rounds = rounds.wrapping_add(1);
            add(&self.shared.counters.rounds, 1);
            if frames > 0 {
                add(&self.shared.counters.busy_rounds, 1);
                add(&self.shared.counters.frames, frames as u64);
                self.last_frame = self.now;
            }
            if frames == 0 || rounds.is_multiple_of(ROUNDS_PER_TIME) {
                self.now = Instant::now();
                self.rest(frames > 0);
            }
        }
        self.inputs.iter_mut().for_each(Input::give_back);
    }

    #[inline]
    fn has_new_plan(&self) -> bool {
        self.shared.handover.has_other_than(self.plan.as_ref().map_or(0, |plan| plan.generation))
    }

    /// Whether control left something that must not wait until the next frame.
    fn control_waits(&self) -> bool {
        self.has_new_plan() || self.shared.handover.is_stopped() || !self.shared.announcements.is_empty()
    }

    fn take_up_plan(&mut self) {
        let Some(plan) = self.shared.handover.newest() else { return };
        self.now = Instant::now();
        if self.inputs.iter().any(Input::has_pending) {
            self.round();
        }
        self.inputs.iter_mut().for_each(Input::give_back);
        plan.exchange(self.index, &mut self.inputs);
        for input in &mut self.inputs {
            input.take(self.now);
        }
        let generation = plan.generation;
        // Control keeps every plan until all workers have acknowledged a later one: this never frees it.
        self.plan = Some(plan);
        self.reports.reported.clear();
        self.last_frame = self.now;
        self.shared.handover.acknowledge(generation);
    }

    /// Takes one burst from every polled input; returns how many frames that were.
    #[inline]
    fn round(&mut self) -> usize {
        let Some(plan) = &self.plan else { return 0 };
        let now = self.now - self.start;
        let mut frames = 0;
        for input in &mut self.inputs {
            if input.state() != State::Polled {
                continue;
            }
            let turn = AssertUnwindSafe(|| turn(&mut self.forwarder, &plan.topology, input, &mut self.storage, now));
            match catch_unwind(turn) {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => {
                    frames += count;
                    input.touch(self.now);
                }
                Ok(Err(fault)) => {
                    if self.reports.fault(plan, input.port, fault) {
                        input.break_off();
                    }
                }
                Err(_) => {
                    self.forwarder = Forwarder::new(self.index);
                    if self.reports.panic(plan, input.port) && input.is_guest() {
                        input.break_off();
                    }
                }
            }
        }
        #[cfg(feature = "inject")]
        crate::inject::after_turn();
        if !self.shared.announcements.is_empty() {
            while let Some((port, frame)) = self.shared.announcements.pop() {
                self.forwarder.forward(&plan.topology, port, &mut Burst::Local(&[LocalFrame::from(&frame[..])]), now);
            }
        }
        for snooped in self.forwarder.take_snooped() {
            self.shared.snooped.push(snooped);
        }
        for (port, fault) in self.forwarder.take_faults() {
            self.reports.fault(plan, port, fault);
        }
        if bus_fault::count() != self.bus_faults && self.reports.events.try_send(Event::MemoryLost).is_ok() {
            self.bus_faults = bus_fault::count();
        }
        frames
    }

    /// Between rounds: looks for kicks, arms what is idle, sleeps if everything is.
    fn rest(&mut self, busy: bool) {
        let Some(idle_sleep) = self.idle_sleep else {
            std::hint::spin_loop();
            return;
        };
        if self.now - self.last_look >= KICK_INTERVAL {
            self.last_look = self.now;
            self.arm_idle(idle_sleep);
            if self.inputs.iter().any(|input| input.state() == State::Armed) {
                self.wait(Some(Duration::ZERO));
            }
        }
        if !busy && self.now - self.last_frame >= idle_sleep {
            self.sleep();
        }
    }

    fn arm_idle(&mut self, idle_sleep: Duration) {
        for input in &mut self.inputs {
            let idle = input.idle_since().is_none_or(|since| self.now.saturating_duration_since(since) >= idle_sleep);
            if input.state() == State::Polled && idle && input.can_wake() {
                input.arm();
            }
        }
    }

    fn sleep(&mut self) {
        let mut slow = false;
        for input in &mut self.inputs {
            if input.state() == State::Polled && !input.arm() {
                if input.can_wake() {
                    // It has a frame already.
                    return;
                }
                slow = true;
            }
        }
        // The waker's event may have been taken by a look for kicks: look at what control left once more.
        if self.control_waits() {
            return;
        }
        add(&self.shared.counters.sleeps, 1);
        let [fast, slower] = SLOW_POLL;
        let rate = if self.now - self.last_frame < Duration::from_secs(1) { fast } else { slower };
        self.shared.handover.set_asleep(true);
        self.wait(slow.then_some(rate));
        self.shared.handover.set_asleep(false);
        self.now = Instant::now();
    }

    /// Waits for kicks and for control, and polls the inputs that kicked from now on.
    fn wait(&mut self, timeout: Option<Duration>) {
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return;
        }
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            for input in self.inputs.iter_mut().filter(|input| input.token == event.token().0) {
                input.disarm();
                input.touch(self.now);
                self.last_frame = self.now;
            }
        }
    }
}

/// What a worker has told control under the present plan: each port's trouble once.
struct Reports {
    events: SyncSender<Event>,
    reported: Vec<PortId>,
}

impl Reports {
    /// Tells of a guest's fault. `false` when control cannot be told now: it will be at the next one.
    fn fault(&mut self, plan: &Plan, port: PortId, fault: RingFault) -> bool {
        self.report(plan, port, |attachment| Event::Fault { port, attachment, fault })
    }

    /// Tells of a bug of ours.
    fn panic(&mut self, plan: &Plan, port: PortId) -> bool {
        self.report(plan, port, |attachment| Event::Panicked { port, attachment })
    }

    fn report(&mut self, plan: &Plan, port: PortId, event: impl FnOnce(u32) -> Event) -> bool {
        if self.reported.contains(&port) {
            return true;
        }
        let attachment = plan.topology.port(port).map_or(0, |port| port.attachment);
        let told = self.events.try_send(event(attachment)).is_ok();
        if told && self.reported.len() < self.reported.capacity() {
            self.reported.push(port);
        }
        told
    }
}

/// One burst from one input, forwarded.
#[inline]
fn turn(
    forwarder: &mut Forwarder,
    topology: &Topology,
    input: &mut Input,
    storage: &mut TransmitBurst,
    now: Duration,
) -> Result<usize, RingFault> {
    let port = input.port;
    match input.receive(storage) {
        None => Ok(0),
        Some(Arrival::Frames(mut burst)) => {
            #[cfg(feature = "inject")]
            if let Some(fault) = crate::inject::Fault::of(&burst) {
                fault.happen(topology, port);
            }
            let count = burst.len();
            forwarder.forward(topology, port, &mut burst, now);
            Ok(count)
        }
        Some(Arrival::Disabled(burst)) => {
            forwarder.refuse_burst(topology, port, &burst, DropReason::QueueDisabled);
            Ok(burst.len())
        }
        Some(Arrival::Fault(fault)) => Err(fault),
    }
}
