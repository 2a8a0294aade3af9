//! What workers tell of guests: a port whose guest broke its rings is quarantined, in the datapath and at its socket.
//! The same thread lets learned addresses age, watches that no worker is held up by a frontend, takes note of multicast
//! groups, looks at the links that guests follow, and tells of refused frames.

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_worker::Event;
use culvert_worker::datapath::WATCH_INTERVAL;

use super::links;
use super::live::LiveNode;
use super::refused::{self, Refused};

/// Starts the thread. It ends when the node is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn watch(events: Receiver<Event>, node: Weak<LiveNode>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
        let (mut swept, mut looked) = (Instant::now(), Instant::now());
        let (mut refused, mut told) = (Refused::default(), Instant::now());
        loop {
            let event = events.recv_timeout(WATCH_INTERVAL);
            if event == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(node) = node.upgrade() else { return };
            if let Ok(event) = event {
                handle(&node, event);
            }
            node.watch_workers();
            node.update_groups();
            if looked.elapsed() >= LINKS {
                links::follow(&node);
                looked = Instant::now();
            }
            if told.elapsed() >= refused::INTERVAL {
                refused.look(&node);
                told = Instant::now();
            }
            if swept.elapsed() >= SWEEP {
                node.sweep();
                swept = Instant::now();
            }
        }
    })
}

fn handle(node: &LiveNode, event: Event) {
    match event {
        Event::Fault { port, attachment, fault } => {
            node.quarantine(port, attachment, &format!("the guest broke a ring: {fault}; {REMEDY}"));
        }
        Event::NotStarted { port, attachment, error } => {
            node.quarantine(port, attachment, &format!("a ring of the guest cannot start: {error}; {REMEDY}"));
        }
        Event::MemoryLost => {
            for (port, attachment) in node.ports_with_lost_memory() {
                let reason = format!("the file of the guest's memory was truncated; {REMEDY}");
                node.quarantine(port, attachment, &reason);
            }
        }
        Event::Panicked { port, attachment } => {
            let reason =
                "culvertd failed over a frame of this port, which is a mistake in culvertd; report it with the log";
            node.quarantine(port, attachment, reason);
        }
    }
}

const REMEDY: &str = "restart the guest, and update its driver if it happens again";
/// How often learned addresses are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(5);
/// How often links are looked at.
const LINKS: Duration = Duration::from_millis(200);
