//! Faults that tests wish for. Only compiled with the feature `inject`, which no released program has.
//!
//! The environment variable `CULVERT_INJECT` is a list of faults, separated by commas, some with an argument:
//! `frames,block-control=10`. [`wished`] looks one up, for whoever has a fault to offer.
//!
//! This file has those of workers. With `frames` in the list, a guest brings a fault about by a frame of EtherType 0x88b7
//! whose payload begins with `inject ` and one of the names in [`Fault::ALL`]: so a test chooses the moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use culvert_guest::ReceiveQueue;
use culvert_switch::port::Egress;
use culvert_switch::{Burst, PortId, Topology};

/// What a frame can bring about in the worker that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A panic in the turn of the frame's port.
    Panic,
    /// The same, while the worker holds the receive queues of all other guests.
    PanicHolding,
    /// A panic after the turn, where it is nobody's.
    PanicWorker,
    /// The turn never ends, and uses CPU time.
    Stuck,
    /// The turn takes 3 s, and uses no CPU time: the core was taken by others.
    Doze,
    /// All packet buffers are taken away for 2 s.
    NoBuffers,
    /// Somebody else holds the receive queues of all guests until [`let_go`].
    Hold,
    /// The process aborts, as after a second panic during a first.
    Abort,
}

impl Fault {
    /// Every fault with its name in frames.
    pub const ALL: [(&'static str, Self); 8] = [
        ("panic", Self::Panic),
        ("panic-holding", Self::PanicHolding),
        ("panic-worker", Self::PanicWorker),
        ("stuck", Self::Stuck),
        ("doze", Self::Doze),
        ("no-buffers", Self::NoBuffers),
        ("hold", Self::Hold),
        ("abort", Self::Abort),
    ];

    /// The fault that some frame of the burst wishes for.
    pub(crate) fn of(burst: &Burst<'_>) -> Option<Self> {
        static FRAMES: LazyLock<bool> = LazyLock::new(|| wished("frames").is_some());
        if !*FRAMES {
            return None;
        }
        (0..burst.len()).find_map(|index| Self::of_frame(burst.frame(index).ok()?.head))
    }

    fn of_frame(head: &[u8]) -> Option<Self> {
        let text = head.get(12..)?.strip_prefix(b"\x88\xb7inject ")?;
        let name = text.split(|byte| !byte.is_ascii_lowercase() && *byte != b'-').next()?;
        Self::ALL.into_iter().find_map(|(of, fault)| (of.as_bytes() == name).then_some(fault))
    }

    /// Lets it happen.
    pub(crate) fn happen(self, topology: &Topology, port: PortId) {
        match self {
            Self::Panic => panic(),
            Self::PanicHolding => panic_holding(topology, port),
            Self::PanicWorker => LATER.store(true, Ordering::Relaxed),
            Self::Stuck => loop {
                std::hint::spin_loop();
            },
            Self::Doze => {
                let start = Instant::now();
                while start.elapsed() < DOZE {
                    std::thread::sleep(DOZE.saturating_sub(start.elapsed()));
                }
            }
            Self::NoBuffers => take_buffers(topology),
            Self::Hold => hold(topology),
            Self::Abort => std::process::abort(),
        }
    }
}

/// [`Fault::PanicWorker`] was wished for.
static LATER: AtomicBool = AtomicBool::new(false);

/// Lets happen what was to wait for the end of the turn.
pub(crate) fn after_turn() {
    if LATER.swap(false, Ordering::Relaxed) {
        panic();
    }
}

/// With `late-worker=MILLISECONDS` in the list, each worker begins so late: its core has other work.
pub(crate) fn begin_late() {
    let late = wished("late-worker").and_then(|argument| argument.parse().ok());
    late.into_iter().for_each(|milliseconds| std::thread::sleep(Duration::from_millis(milliseconds)));
}

/// With `no-dirty-log` in the list, nothing is logged while a guest moves.
pub(crate) fn forgets_writes() -> bool {
    wished("no-dirty-log").is_some()
}

/// How long [`Fault::Doze`] lasts.
pub const DOZE: Duration = Duration::from_secs(3);

/// Offers these faults in the place of those in `CULVERT_INJECT`: for tests in the same process. The first call holds.
pub fn offer(faults: &str) {
    OFFERED.get_or_init(|| faults.to_owned());
}

static OFFERED: OnceLock<String> = OnceLock::new();

/// The argument of a fault that is in `CULVERT_INJECT`; empty where it has none.
pub fn wished(name: &str) -> Option<String> {
    let list = OFFERED.get_or_init(|| std::env::var("CULVERT_INJECT").unwrap_or_default());
    list.split(',').find_map(|fault| match fault.split_once('=') {
        Some((of, argument)) => (of == name).then(|| argument.to_owned()),
        None => (fault == name).then(String::new),
    })
}

#[expect(clippy::panic, reason = "the fault that was wished for")]
pub(crate) fn panic() {
    panic!("a test wished for this");
}

fn take_buffers(topology: &Topology) {
    let mut taken = Vec::new();
    for port in topology.ports() {
        if let Egress::Nic(_, _, pool) = &port.egress {
            taken.extend(std::iter::from_fn(|| pool.allocate(1514)));
        }
    }
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        drop(taken);
    });
}

fn panic_holding(topology: &Topology, port: PortId) {
    let queues: Vec<_> = receive_queues(topology, Some(port)).collect();
    let _held: Vec<_> = queues.iter().map(|queue| queue.lock()).collect();
    panic();
}

/// Who holds the receive queues waits here.
static HOLDER: Mutex<Option<Thread>> = Mutex::new(None);

fn hold(topology: &Topology) {
    let queues: Vec<_> = receive_queues(topology, None).cloned().collect();
    std::thread::spawn(move || {
        let _held: Vec<_> = queues.iter().map(|queue| queue.lock()).collect();
        *HOLDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        while is_held() {
            std::thread::park();
        }
    });
}

/// Whether [`Fault::Hold`] has come about, and [`let_go`] has not been called since.
pub fn is_held() -> bool {
    HOLDER.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Ends [`Fault::Hold`].
pub fn let_go() {
    let holder = HOLDER.lock().unwrap_or_else(PoisonError::into_inner).take();
    holder.iter().for_each(Thread::unpark);
}

/// Those of all guests but that of one port.
fn receive_queues(topology: &Topology, but: Option<PortId>) -> impl Iterator<Item = &Arc<Mutex<ReceiveQueue>>> {
    topology.ports().filter(move |port| Some(port.id) != but).flat_map(|port| match &port.egress {
        Egress::Guest(queues, _) => queues.as_ref(),
        _ => &[],
    })
}
