//! What workers tell of guests: a port whose guest broke its rings is quarantined, in the datapath and at its socket.
//! The same thread lets learned addresses age.

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_switch::PortId;
use culvert_worker::Event;

use super::live::LiveNode;

/// Starts the thread. It ends when the node is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn watch(events: Receiver<Event>, node: Weak<LiveNode>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
        let mut swept = Instant::now();
        loop {
            let event = events.recv_timeout(SWEEP);
            if event == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(node) = node.upgrade() else { return };
            if let Ok(event) = event {
                handle(&node, event);
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
        Event::Fault(port, fault) => node.quarantine(port, &format!("the guest broke a ring: {fault}; {REMEDY}")),
        Event::NotStarted(port, error) => {
            node.quarantine(port, &format!("a ring of the guest cannot start: {error}; {REMEDY}"));
        }
        Event::MemoryLost => lost_memory(node, &node.ports_with_lost_memory()),
        Event::Panicked(port) => {
            let reason =
                "culvertd failed over a frame of this guest, which is a mistake in culvertd; report it with the log";
            node.quarantine(port, reason);
        }
    }
}

fn lost_memory(node: &LiveNode, ports: &[PortId]) {
    for port in ports {
        node.quarantine(*port, &format!("the file of the guest's memory was truncated; {REMEDY}"));
    }
}

const REMEDY: &str = "restart the guest, and update its driver if it happens again";
/// How often learned addresses are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(5);
