//! One worker: polls its inputs, forwards what arrives, sleeps when nothing does.
//!
//! Theory of operation. In each round every polled input gives one burst, unless its guest has taken more than its
//! [share](crate::shares) already, or its port's [rate](culvert_switch::rates) holds it back: then it is not looked at before some of its
//! frames may come in, which wait in its ring meanwhile. An input that had no frame for `idle_sleep` is
//! *armed*: its guest is asked to kick, and it is not polled until it does; kicks are looked for every 50 us while other
//! inputs are busy. Those that are polled stand before all others, which cost a round nothing. When nothing arrived for `idle_sleep`
//! at all, the worker arms everything and sleeps in epoll. Inputs that cannot wake us (PMDs without interrupts, guests without a kick)
//! are then polled at a low rate.
//!
//! A panic in an input's turn costs the frames of that burst and stops the port to blame. One anywhere else is caught as well: the
//! worker puts its queues back, counts what was on its way, takes its queues up again, and goes on with the same plan.
//!
//! A new plan is taken up between two rounds: one relaxed load a round tells that there is one. Only then, and in the
//! interrupt to a guest and the looks for kicks, are there system calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use culvert_frame::DropReason;
use culvert_guest::{RingFault, TransmitBurst, cycle_clock};
use culvert_nic::WorkerThread;
use culvert_switch::burst::LocalFrame;
use culvert_switch::{Burst, Forwarder, Topology};
use mio::{Events, Poll};

use crate::input::{Arrival, Input, State};
use crate::plan::Plan;
use crate::reports::Reports;
use crate::shared::{Event, GAP, Shared, WAKER, add};
use crate::shares::Shares;

/// How often a busy worker looks for kicks of armed inputs.
pub const KICK_INTERVAL: Duration = Duration::from_micros(50);

/// How often a sleeping worker polls inputs that cannot wake it, at first and after a second without a frame.
pub const SLOW_POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];

/// How long a worker sleeps at most: it is to notice when it gets no core.
pub const LONGEST_SLEEP: Duration = Duration::from_millis(250);

/// A worker that fails for the second time within this time ends.
pub const FAILURES_APART: Duration = Duration::from_secs(60);

/// How many rounds a worker goes by one reading of the clock: a round that finds nothing takes less time than the reading.
const ROUNDS_PER_TIME: u32 = 8;

/// After how many turns without a frame the processor's clock is read again: so much of others' time at most is taken for that of a turn
/// that has frames.
const TURNS_PER_TIME: u32 = 8;

/// What a burst of a disabled queue costs, which is counted only.
const BURST_COST: u32 = 4096;

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
    /// How many of them are [`State::Polled`] or [`State::Held`]: these stand before the others, see [`Self::sort_out`].
    polled: usize,
    storage: TransmitBurst,
    forwarder: Forwarder,
    shares: Shares,
    /// Which of those that are polled has the first turn of the next round.
    first: usize,
    /// When it failed last, outside of any input's turn.
    failed: Option<Instant>,
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
        cycle_clock::start();
        Self {
            index,
            shared,
            poll,
            events: Events::with_capacity(256),
            reports: Reports::new(events),
            idle_sleep,
            start,
            plan: None,
            inputs: Vec::new(),
            polled: 0,
            storage: TransmitBurst::default(),
            forwarder: Forwarder::new(index),
            shares: Shares::new(),
            first: 0,
            failed: None,
            now,
            last_frame: now,
            last_look: now,
        }
    }

    /// Runs until control says to stop, or until it has failed too often. All inputs are back in their slots then.
    pub(crate) fn run(mut self) {
        #[cfg(feature = "inject")]
        crate::inject::begin_late();
        // Of this thread with DPDK: ends after all of its queues were given back.
        let mut registration = None;
        while catch_unwind(AssertUnwindSafe(|| self.poll_until_stopped(&mut registration))).is_err() {
            if !self.recover() {
                break;
            }
        }
        self.inputs.iter_mut().for_each(Input::give_back);
    }

    fn poll_until_stopped(&mut self, registration: &mut Option<WorkerThread>) {
        let (mut rounds, mut busy) = (0_u32, false);
        while !self.shared.handover.is_stopped() {
            if self.has_new_plan() {
                if registration.is_none() {
                    *registration = self.register();
                }
                self.take_up_plan();
            }
            let frames = self.round();
            rounds = rounds.wrapping_add(1);
            add(&self.shared.counters.rounds, 1);
            if frames > 0 {
                add(&self.shared.counters.busy_rounds, 1);
                add(&self.shared.counters.frames, frames as u64);
                busy = true;
            }
            if rounds.is_multiple_of(ROUNDS_PER_TIME) {
                let before = std::mem::replace(&mut self.now, Instant::now());
                if self.now.saturating_duration_since(before) > GAP {
                    self.shared.counters.note_gap(self.now.saturating_duration_since(before));
                }
                // Any of the rounds since the last look at the clock.
                let was_busy = std::mem::take(&mut busy);
                if was_busy {
                    self.last_frame = self.now;
                }
                self.rest(was_busy);
            }
        }
    }

    /// Makes this thread known to DPDK, which must be before it has a NIC's queue, if DPDK has started.
    fn register(&self) -> Option<WorkerThread> {
        // The plan's generation was read relaxed; DPDK was set before it.
        fence(Ordering::Acquire);
        let registered = self.shared.dpdk.get().map(|eal| WorkerThread::register(eal))?;
        let told = registered.as_ref().map(drop).map_err(ToString::to_string);
        // Set already by an earlier try.
        let _ = self.shared.registered.set(told);
        registered.ok()
    }

    /// After a panic outside of any turn: puts everything in order, so that the loop can go on. `false` when that is not to be: it
    /// happened before, or again meanwhile.
    #[cold]
    fn recover(&mut self) -> bool {
        let (worker, port, now) = (self.index, self.shared.at.port(), Instant::now());
        self.shared.at.pick_up();
        let last = self.failed.replace(now);
        let recovered = catch_unwind(AssertUnwindSafe(|| self.put_in_order())).is_ok();
        if recovered && last.is_none_or(|last| now.saturating_duration_since(last) >= FAILURES_APART) {
            self.reports.tell(Event::WorkerFailed { worker });
            if let (Some(port), Some(plan)) = (port, &self.plan) {
                self.reports.panic(plan, port);
                self.inputs
                    .iter_mut()
                    .filter(|input| input.port == port && input.is_guest())
                    .for_each(Input::break_off);
            }
            return true;
        }
        // What cannot be put back is lost to everybody until the process ends.
        for input in &mut self.inputs {
            let _ = catch_unwind(AssertUnwindSafe(|| input.give_back()));
        }
        self.inputs.clear();
        while !self.reports.tell(Event::WorkerEnded { worker, port }) && !self.shared.handover.is_stopped() {
            std::thread::sleep(SLOW_POLL[1]);
        }
        false
    }

    /// Takes the queues of the present plan up anew, and acknowledges it, which may have been left undone.
    fn put_in_order(&mut self) {
        self.inputs.iter_mut().for_each(Input::give_back);
        self.now = Instant::now();
        let Some(plan) = &self.plan else { return };
        self.forwarder.recover(&plan.topology);
        for input in &mut self.inputs {
            input.take(self.now);
        }
        self.last_frame = self.now;
        self.shared.handover.acknowledge(plan.generation);
        self.sort_out();
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
        let generation = plan.generation;
        plan.exchange(self.index, &mut self.inputs);
        // At once, since they belong to it: see `put_in_order`. Control keeps every plan until all workers have acknowledged a
        // later one: this never frees the last one.
        self.plan = Some(plan);
        for input in &mut self.inputs {
            input.take(self.now);
        }
        self.reports.begin_plan();
        self.last_frame = self.now;
        self.shared.handover.acknowledge(generation);
        self.sort_out();
    }

    /// Puts those inputs that are polled before the others: to be called whenever one was armed or kicked. One that breaks off may stay
    /// among them.
    fn sort_out(&mut self) {
        self.polled = 0;
        for place in 0..self.inputs.len() {
            let state = self.inputs.get(place).map(Input::state);
            if matches!(state, Some(State::Polled | State::Held)) {
                self.inputs.swap(self.polled, place);
                self.polled += 1;
            }
        }
    }

    /// Those that are polled.
    fn polled(&mut self) -> &mut [Input] {
        self.inputs.get_mut(..self.polled).unwrap_or_default()
    }

    /// Takes one burst from every polled input; returns how many frames that were.
    #[inline]
    fn round(&mut self) -> usize {
        let Some(plan) = &self.plan else { return 0 };
        let now = self.now - self.start;
        let mut frames = 0;
        self.shares.begin_round();
        let polled = self.inputs.get_mut(..self.polled).unwrap_or_default();
        self.first = if self.first < polled.len() { self.first } else { 0 };
        let (later, sooner) = polled.split_at_mut(self.first);
        let (mut ticks, mut busy_ticks, mut in_vain) = (cycle_clock::ticks(), 0, 0_u32);
        for input in sooner.iter_mut().chain(later) {
            if !input.is_polled(self.now) || !self.shares.may_take(input.port) {
                continue;
            }
            self.shared.at.drop_at(input.port);
            let turn = AssertUnwindSafe(|| {
                turn(&mut self.forwarder, &plan.topology, input, &mut self.storage, self.start, now)
            });
            let outcome = catch_unwind(turn);
            if matches!(outcome, Ok(Ok((0, _)))) {
                in_vain = in_vain.wrapping_add(1);
                if in_vain.is_multiple_of(TURNS_PER_TIME) {
                    ticks = cycle_clock::ticks();
                }
                continue;
            }
            let before = std::mem::replace(&mut ticks, cycle_clock::ticks());
            match outcome {
                Ok(Ok((count, cost))) => {
                    frames += count;
                    let taken = ticks.saturating_sub(before);
                    busy_ticks += taken;
                    input.work.note(count as u64, taken);
                    input.touch(self.now);
                    if input.is_guest() {
                        self.shares.charge(input.port, cost);
                    }
                }
                Ok(Err(fault)) => {
                    if self.reports.fault(plan, input.port, fault) {
                        input.break_off();
                    }
                }
                Err(_) => {
                    let to_blame = self.forwarder.recover(&plan.topology).unwrap_or(input.port);
                    if self.reports.panic(plan, to_blame) && to_blame == input.port && input.is_guest() {
                        input.break_off();
                    }
                }
            }
        }
        self.shared.at.pick_up();
        if frames > 0 {
            // A guest with several queues that may not take them all in one round takes them by turns.
            self.first = self.first.wrapping_add(1);
        }
        if busy_ticks > 0 {
            add(&self.shared.counters.busy_ticks, busy_ticks);
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
        self.reports.look_at_memory();
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
                self.wait(Duration::ZERO);
            }
            // Where rates hold back what there is, and nobody else is polled, there is nothing to look at meanwhile.
            if !busy
                && self.inputs.iter().any(|input| input.state() == State::Held)
                && self.inputs.iter().all(|input| input.state() != State::Polled)
            {
                return self.sleep();
            }
        }
        if !busy && self.now - self.last_frame >= idle_sleep {
            self.sleep();
        }
    }

    fn arm_idle(&mut self, idle_sleep: Duration) {
        let mut changed = false;
        for input in self.inputs.get_mut(..self.polled).unwrap_or_default() {
            let idle = input.idle_since().is_none_or(|since| self.now.saturating_duration_since(since) >= idle_sleep);
            if input.state() == State::Polled && idle && input.can_wake() {
                self.shared.at.drop_at(input.port);
                changed |= input.arm();
            }
        }
        self.shared.at.pick_up();
        if changed {
            self.sort_out();
        }
    }

    fn sleep(&mut self) {
        let (mut slow, mut has_frame) = (false, false);
        for input in self.polled() {
            if input.state() == State::Polled && !input.arm() {
                if input.can_wake() {
                    has_frame = true;
                    break;
                }
                slow = true;
            }
        }
        self.sort_out();
        if has_frame {
            return;
        }
        // The waker's event may have been taken by a look for kicks: look at what control left once more.
        if self.control_waits() {
            return;
        }
        add(&self.shared.counters.sleeps, 1);
        let [fast, slower] = SLOW_POLL;
        let rate = if self.now - self.last_frame < Duration::from_secs(1) { fast } else { slower };
        let timeout = if slow { rate } else { LONGEST_SLEEP };
        // What a rate holds back goes on in time.
        let held = self.inputs.iter().filter_map(Input::held_until).min();
        let timeout = held.map_or(timeout, |until| timeout.min(until.saturating_duration_since(self.now)));
        self.shared.handover.set_asleep(true);
        self.wait(timeout);
        self.shared.handover.set_asleep(false);
        let late = self.now.elapsed().saturating_sub(timeout);
        self.now = Instant::now();
        if late > GAP {
            self.shared.counters.note_gap(late);
        }
    }

    /// Waits for kicks and for control, and polls the inputs that kicked from now on.
    fn wait(&mut self, timeout: Duration) {
        if self.poll.poll(&mut self.events, Some(timeout)).is_err() {
            return;
        }
        let mut kicked = false;
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            for input in self.inputs.iter_mut().filter(|input| input.token == event.token().0) {
                input.disarm();
                input.touch(self.now);
                self.last_frame = self.now;
                kicked = true;
            }
        }
        if kicked {
            self.sort_out();
        }
    }
}

/// One burst from one input, forwarded; returns how many frames it had, and what it has cost.
#[inline]
fn turn(
    forwarder: &mut Forwarder,
    topology: &Topology,
    input: &mut Input,
    storage: &mut TransmitBurst,
    start: Instant,
    now: Duration,
) -> Result<(usize, u32), RingFault> {
    let taken = take_burst(forwarder, topology, input, storage, now);
    if let Some(until) = forwarder.take_held() {
        input.hold(start + until);
    }
    taken
}

#[inline]
fn take_burst(
    forwarder: &mut Forwarder,
    topology: &Topology,
    input: &mut Input,
    storage: &mut TransmitBurst,
    now: Duration,
) -> Result<(usize, u32), RingFault> {
    let port = input.port;
    forwarder.begin(topology);
    match input.receive(storage) {
        None => Ok((0, 0)),
        Some(Arrival::Frames(mut burst)) => {
            #[cfg(feature = "inject")]
            if let Some(fault) = crate::inject::Fault::of(&burst) {
                fault.happen(topology, port);
            }
            forwarder.forward(topology, port, &mut burst, now);
            let taken = (burst.len(), forwarder.cost());
            burst.release();
            Ok(taken)
        }
        Some(Arrival::Disabled(burst)) => {
            forwarder.refuse_burst(topology, port, &burst, DropReason::QueueDisabled);
            Ok((burst.len(), BURST_COST))
        }
        Some(Arrival::Fault(fault)) => Err(fault),
    }
}
