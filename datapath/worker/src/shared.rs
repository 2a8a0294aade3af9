//! What control and one worker share: plans, events, messages, counters, and where the worker is just now.
//!
//! The worker writes the counters and is the only one to do so; control reads them, to show them and to see whether the worker goes
//! round ([`watch`](crate::watch)).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use culvert_guest::split::StartError;
use culvert_guest::{RingFault, cycle_clock};
use culvert_nic::Eal;
use culvert_switch::PortId;
use mio::{Token, Waker};

use crate::handover::HandOver;
use crate::plan::Plan;
use crate::snoop_queue::SnoopQueue;

/// The token of the worker's own waker.
pub(crate) const WAKER: Token = Token(0);

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
    /// Our own code panicked over this port's frames, or over its receive buffers: a bug. The frames of that burst are lost,
    /// the worker goes on; a guest's queue is not polled any more.
    Panicked {
        /// The port to blame.
        port: PortId,
        /// Which of its guests.
        attachment: u32,
    },
    /// Our own code panicked where it worked for no port in particular, or for this one: a bug. The worker has put its queues
    /// in order and goes on.
    WorkerFailed {
        /// The worker's number.
        worker: usize,
    },
    /// That happened for the second time within [`FAILURES_APART`](crate::poll_loop::FAILURES_APART): the worker has given its
    /// queues back and has ended. The process is to be started again.
    WorkerEnded {
        /// The worker's number.
        worker: usize,
        /// For which port it worked, if for one.
        port: Option<PortId>,
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
    pub(crate) at: Breadcrumb,
    /// DPDK, once it has started.
    pub(crate) dpdk: OnceLock<Arc<Eal>>,
    /// Whether DPDK knows the worker's thread; missing until the worker has seen a plan after `dpdk` was set.
    pub(crate) registered: OnceLock<Result<(), String>>,
}

/// For which port a worker works just now: tells whom to blame when it comes to no end.
#[derive(Debug, Default)]
pub(crate) struct Breadcrumb(AtomicU32);

impl Breadcrumb {
    /// The worker begins to work for a port.
    #[inline]
    pub(crate) fn drop_at(&self, port: PortId) {
        self.0.store(u32::from(port.0) + 1, Ordering::Relaxed);
    }

    /// The worker works for nobody in particular.
    #[inline]
    pub(crate) fn pick_up(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// For which port the worker works.
    pub(crate) fn port(&self) -> Option<PortId> {
        let number = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        u16::try_from(number).ok().map(PortId)
    }
}

/// One worker's own counters; the worker is the only writer.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) rounds: AtomicU64,
    pub(crate) busy_rounds: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    /// Ticks of the processor's clock in turns that had frames.
    pub(crate) busy_ticks: AtomicU64,
    gaps: AtomicU64,
    long_gaps: AtomicU64,
    last_long_gap_us: AtomicU64,
    longest_gap_us: AtomicU64,
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
    /// How long its turns took that had frames: what it did not spend on looking for some.
    pub busy: Duration,
    /// How often it polled nothing for longer than [`GAP`], though it did not sleep: its core was taken by other work.
    pub gaps: u64,
    /// How often for longer than [`LONG_GAP`].
    pub long_gaps: u64,
    /// The last time of those.
    pub last_long_gap: Duration,
    /// The longest time for which it did so.
    pub longest_gap: Duration,
}

/// A worker that polls nothing for longer than this has a gap: guests' rings of 256 frames overflow at 13,000 frames a second.
pub const GAP: Duration = Duration::from_millis(20);

/// A gap that people are told of.
pub const LONG_GAP: Duration = Duration::from_secs(1);

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
            busy: Duration::from_nanos(cycle_clock::nanoseconds(get(&self.busy_ticks))),
            gaps: get(&self.gaps),
            long_gaps: get(&self.long_gaps),
            last_long_gap: Duration::from_micros(get(&self.last_long_gap_us)),
            longest_gap: Duration::from_micros(get(&self.longest_gap_us)),
        }
    }

    /// Notes that nothing was polled for so long.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_gap(&self, gap: Duration) {
        let micros = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        self.longest_gap_us.fetch_max(micros, Ordering::Relaxed);
        if gap >= LONG_GAP {
            self.last_long_gap_us.store(micros, Ordering::Relaxed);
            add(&self.long_gaps, 1);
        }
        add(&self.gaps, 1);
    }
}

/// Adds to a counter; for its only writer.
#[inline]
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before, a short gap right after a long one hid it from the log.
    #[test]
    fn a_long_gap_is_told_of_after_a_short_one() {
        let counters = WorkerCounters::default();
        counters.note_gap(3 * LONG_GAP);
        counters.note_gap(2 * GAP);
        let totals = counters.totals(0);
        assert_eq!((totals.gaps, totals.long_gaps, totals.last_long_gap), (2, 1, 3 * LONG_GAP));
    }
}
