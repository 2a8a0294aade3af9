//! What each input takes of its worker: counted by the worker, looked at by control over the last minute.
//!
//! Only turns that had frames count, as in [`WorkerTotals::busy`](crate::WorkerTotals::busy): a worker that looks in vain does nothing that
//! another one could do for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use culvert_guest::cycle_clock;
use culvert_switch::PortId;

use crate::shared::add;

/// The time over which loads are measured.
pub const LOAD_TIME: Duration = Duration::from_secs(60);

/// How far apart the looks are that this takes.
const LOOKS_APART: Duration = Duration::from_secs(5);

/// What an input has taken since it started. The worker that has the input is the only writer.
#[derive(Debug)]
pub struct Work(CachePadded<Counters>);

#[derive(Debug)]
struct Counters {
    frames: AtomicU64,
    /// Ticks of the processor's clock in turns that had frames.
    busy_ticks: AtomicU64,
    started: Instant,
}

impl Work {
    /// Of an input that starts now.
    pub fn new() -> Arc<Self> {
        let (frames, busy_ticks) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self(CachePadded::new(Counters { frames, busy_ticks, started: Instant::now() })))
    }

    /// Worker: notes a turn that had frames.
    #[inline]
    pub fn note(&self, frames: u64, ticks: u64) {
        add(&self.0.frames, frames);
        add(&self.0.busy_ticks, ticks);
    }

    fn frames(&self) -> u64 {
        self.0.frames.load(Ordering::Relaxed)
    }

    fn busy_ticks(&self) -> u64 {
        self.0.busy_ticks.load(Ordering::Relaxed)
    }
}

/// One input, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputTotals {
    /// The port that its frames come from.
    pub port: PortId,
    /// The number of the queue among those of its port from which frames come.
    pub queue: u16,
    /// The number of the worker that polls it.
    pub worker: usize,
    /// Frames since it started.
    pub frames: u64,
    /// Time of workers that went to turns with frames, since it started.
    pub busy: Duration,
    /// The same over the last [`LOAD_TIME`], or since it started: nanoseconds a second.
    pub load: u32,
}

impl InputTotals {
    /// Of an input that has done that work.
    pub(crate) fn of(port: PortId, queue: u16, worker: usize, work: &Work, load: u32) -> Self {
        let busy = Duration::from_nanos(cycle_clock::nanoseconds(work.busy_ticks()));
        Self { port, queue, worker, frames: work.frames(), busy, load }
    }
}

/// What inputs had taken at times within the last [`LOAD_TIME`].
#[derive(Debug, Default)]
pub(crate) struct Looks(VecDeque<Look>);

#[derive(Debug)]
struct Look {
    at: Instant,
    /// Busy ticks, by the input's name in epoll sets.
    ticks: BTreeMap<usize, u64>,
}

impl Looks {
    /// Whether it is time for another look.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.0.back().is_none_or(|last| now.saturating_duration_since(last.at) >= LOOKS_APART)
    }

    /// Takes a look, and forgets those that are too old: one that is [`LOAD_TIME`] ago, or a little more, is kept.
    pub(crate) fn look<'a>(&mut self, now: Instant, inputs: impl Iterator<Item = (usize, &'a Work)>) {
        self.0.push_back(Look { at: now, ticks: inputs.map(|(token, work)| (token, work.busy_ticks())).collect() });
        while self.0.get(1).is_some_and(|second| now.saturating_duration_since(second.at) >= LOAD_TIME) {
            self.0.pop_front();
        }
    }

    /// What an input has taken in the last [`LOAD_TIME`], or since it started: nanoseconds a second.
    pub(crate) fn load(&self, now: Instant, token: usize, work: &Work) -> u32 {
        let started = work.0.started;
        let is_old = now.saturating_duration_since(started) >= LOAD_TIME;
        let first = self.0.iter().filter(|_| is_old).find_map(|look| Some((look.at, *look.ticks.get(&token)?)));
        let (since, ticks) = first.unwrap_or((started, 0));
        let busy = cycle_clock::nanoseconds(work.busy_ticks().saturating_sub(ticks));
        // Of an input that has just started nothing can be said.
        let time = now.saturating_duration_since(since).max(SHORTEST_TIME);
        let load = u128::from(busy) * 1_000_000_000 / time.as_nanos();
        u32::try_from(load).unwrap_or(u32::MAX).min(1_000_000_000)
    }
}

/// The shortest time that a load is told of.
const SHORTEST_TIME: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks of so much time.
    fn ticks(time: Duration) -> u64 {
        cycle_clock::start();
        let one = u128::from(cycle_clock::nanoseconds(1_000_000_000)).max(1);
        u64::try_from(time.as_nanos() * 1_000_000_000 / one).unwrap()
    }

    /// The load of an input that takes half of its worker, looked at for so many seconds, and nothing in the last so many.
    fn load_after(busy: u32, idle: u32) -> u32 {
        // The processor's clock is compared with time for a while first.
        cycle_clock::start();
        std::thread::sleep(Duration::from_millis(20));
        let (work, start, mut looks) = (Work::new(), Instant::now(), Looks::default());
        let mut now = start;
        for second in 0..busy + idle {
            if looks.is_due(now) {
                looks.look(now, [(7, &*work)].into_iter());
            }
            now = start + Duration::from_secs(1) * (second + 1);
            if second < busy {
                work.note(1, ticks(Duration::from_millis(500)));
            }
        }
        assert!(looks.0.len() <= 13);
        looks.load(now, 7, &work)
    }

    #[test]
    fn a_load_is_that_of_the_last_minute() {
        for (busy, idle, percent) in [(1, 0, 50), (30, 30, 25), (300, 0, 50), (300, 30, 25), (300, 65, 0)] {
            let load = load_after(busy, idle) / 10_000_000;
            // Looks are five seconds apart.
            assert!(load.abs_diff(percent) <= 4, "{load} % of {busy} and {idle} seconds, not {percent} %");
        }
    }

    #[test]
    fn an_input_that_was_never_looked_at_is_measured_from_its_start() {
        let (looks, work) = (Looks::default(), Work::new());
        assert_eq!(looks.load(Instant::now(), 7, &work), 0);
        work.note(5, ticks(Duration::from_secs(1)));
        let load = looks.load(work.0.started + Duration::from_secs(10), 7, &work);
        assert!(load.abs_diff(100_000_000) < 20_000_000, "{load}");
    }
}
