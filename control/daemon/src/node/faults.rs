//! What workers tell of guests: a port whose guest broke its rings is quarantined, in the datapath and at its socket.
//! The same thread lets learned addresses age, watches that no worker is held up by a frontend, takes note of multicast
//! groups, looks at the links that guests follow, and tells of refused frames.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_api::v1::EventKind;
use culvert_guest::RingFault;
use culvert_switch::PortId;
use culvert_worker::datapath::WATCH_INTERVAL;
use culvert_worker::{Event, WorkerTotals};

use super::links;
use super::live::LiveNode;
use super::refused::{self, Refused};
use super::watch::Watch;
use crate::arguments::EXIT_AGAIN;
use crate::log;

/// Starts the thread. It ends when the node is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn watch(events: Receiver<Event>, node: Weak<LiveNode>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
        let (mut swept, mut looked) = (Instant::now(), Instant::now());
        let (mut refused, mut told) = (Refused::default(), Instant::now());
        let (mut gaps, mut groups) = (Gaps::default(), Instant::now());
        let mut watch = Watch::default();
        let mut interval = WATCH_INTERVAL;
        loop {
            let event = events.recv_timeout(interval);
            if event == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(node) = node.upgrade() else { return };
            // A mistake in one of these must not keep the others from being done.
            let look = AssertUnwindSafe(|| {
                if let Ok(event) = event {
                    handle(&node, event);
                }
                for stuck in node.watch_workers() {
                    start_again(&node, stuck.worker, stuck.port, "comes to no end");
                }
                if node.server.has_failed() {
                    exit_again(&node, "the threads of the vhost-user sockets failed");
                }
                if groups.elapsed() >= WATCH_INTERVAL {
                    groups = Instant::now();
                    gaps.look(&node.datapath.workers());
                    node.update_groups();
                }
                if looked.elapsed() >= LINKS {
                    looked = Instant::now();
                    links::follow(&node);
                    watch.look(&node);
                }
                if told.elapsed() >= refused::INTERVAL {
                    told = Instant::now();
                    refused.look(&node);
                }
                if swept.elapsed() >= SWEEP {
                    swept = Instant::now();
                    node.sweep();
                }
            });
            interval = node.datapath.watch_interval();
            if catch_unwind(look).is_err() {
                tracing::error!("the thread that watches workers goes on after a failure");
            }
        }
    })
}

fn handle(node: &LiveNode, event: Event) {
    // Memory that is gone reads as zeros: the rings in it look broken, but that is not what happened.
    let lost = node.ports_with_lost_memory();
    let is_lost = |port| lost.iter().any(|(lost, _)| *lost == port);
    match event {
        Event::Fault { port, attachment, .. } | Event::NotStarted { port, attachment, .. } if is_lost(port) => {
            node.quarantine(port, attachment, &format!("{}; {REMEDY}", RingFault::MemoryLost));
        }
        Event::Fault { port, attachment, fault } => {
            node.quarantine(port, attachment, &format!("the guest broke a ring: {fault}; {REMEDY}"));
        }
        Event::NotStarted { port, attachment, error } => {
            node.quarantine(port, attachment, &format!("a ring of the guest cannot start: {error}; {REMEDY}"));
        }
        Event::MemoryLost => {
            for (port, attachment) in lost {
                node.quarantine(port, attachment, &format!("{}; {REMEDY}", RingFault::MemoryLost));
            }
        }
        Event::Panicked { port, attachment } => {
            let reason =
                "culvertd failed over a frame of this port, which is a mistake in culvertd; report it with the log";
            node.quarantine(port, attachment, reason);
        }
        Event::WorkerFailed { worker } => {
            let text = format!("worker {worker} failed, has put its queues in order, and goes on");
            tracing::error!("{text}");
            node.events.tell(EventKind::Worker, "", text);
        }
        Event::WorkerEnded { worker, port } => start_again(node, worker, port, "failed twice within a minute"),
    }
}

/// Ends the process, because of a worker that holds queues and will not give them back. Whoever runs it starts it again.
fn start_again(node: &LiveNode, worker: usize, port: Option<PortId>, what: &str) {
    if let Some(port) = port.and_then(|port| node.port_name(port)) {
        let reason = format!(
            "worker {worker} {what} over this port, which is a mistake in culvertd; report it with the log; {LIFT}"
        );
        node.bar(&port, &reason);
    }
    exit_again(node, &format!("worker {worker} {what}"));
}

/// Ends the process; the supervisor starts it again.
fn exit_again(node: &LiveNode, reason: &str) {
    tracing::error!("{reason}: culvertd starts again");
    // It knows the exit code in any case.
    let _ = node.broker.because(reason);
    log::finish();
    // Not in order: what would have to end may wait for what has failed.
    std::process::exit(EXIT_AGAIN.into());
}

/// What the log has of times in which workers looked at no port.
#[derive(Default)]
struct Gaps {
    /// By worker: how many long ones there were.
    seen: Vec<u64>,
    told: Option<Instant>,
}

impl Gaps {
    /// Tells of a new long gap, and once a minute at the most.
    fn look(&mut self, workers: &[WorkerTotals]) {
        self.seen.resize(workers.len(), 0);
        for (number, (worker, seen)) in workers.iter().zip(&mut self.seen).enumerate() {
            let new = std::mem::replace(seen, worker.long_gaps) != worker.long_gaps;
            if new && self.told.is_none_or(|told| told.elapsed() >= GAPS_APART) {
                self.told = Some(Instant::now());
                let WorkerTotals { last_long_gap, core, .. } = worker;
                tracing::warn!(
                    "worker {number} looked at no port for {last_long_gap:?}: other work had core {core}, or culvertd was stopped; \
                     see `worker_cores`, and GAPS of culvertctl status"
                );
            }
        }
    }
}

/// How often the log tells of a long gap.
const GAPS_APART: Duration = Duration::from_secs(60);

/// How a port is served again.
const LIFT: &str = "start the guest anew, or set the port (culvertctl port set), to try again";

const REMEDY: &str = "restart the guest, and update its driver if it happens again";
/// How often learned addresses are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(5);
/// How often links are looked at.
const LINKS: Duration = Duration::from_millis(200);
