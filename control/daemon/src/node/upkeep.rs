//! What is done now and then: ports that could not be opened, and changes that a worker did not take up, are tried again; learned addresses
//! are kept for the next daemon; what queues take of workers is measured, and they move if that is wanted.
//!
//! A thread of its own, since to open a device may take seconds.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::balance::Balancer;
use super::live::LiveNode;

/// Starts the thread. It ends when the other end of `end` is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn start(end: Receiver<()>, node: Weak<LiveNode>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
        let mut balancer = Balancer::default();
        while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let Some(node) = node.upgrade() else { return };
            if catch_unwind(AssertUnwindSafe(|| node.keep_addresses())).is_err() {
                tracing::error!("learned addresses are not kept, for this daemon has a mistake");
            }
            if catch_unwind(AssertUnwindSafe(|| balancer.look(&node))).is_err() {
                tracing::error!("queues stay at their workers, for this daemon has a mistake");
            }
            // While a client's change is under way the next turn will do.
            let Some(journal) = node.try_journal() else { continue };
            let turn = AssertUnwindSafe(|| {
                node.settle();
                node.retry_failed_ports(Some(Instant::now()));
                node.offer_ports();
                node.forget_bars();
            });
            if catch_unwind(turn).is_err() {
                tracing::error!("the thread that tries again goes on after a failure");
            }
            drop(journal);
        }
    })
}

const INTERVAL: Duration = Duration::from_secs(1);
