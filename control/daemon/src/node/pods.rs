//! A thread that looks after the pods' translators once a second: see [`crate::pods::help`].

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::live::LiveNode;
use crate::name::Name;
use crate::pods::help::{Helper, PodHelp};

/// How the pods are helped, as it was seen last.
#[derive(Clone, Debug, Default)]
pub struct Helped(Arc<Mutex<BTreeMap<Name, PodHelp>>>);

impl Helped {
    /// How one pod is helped.
    pub fn of(&self, pod: &Name) -> PodHelp {
        self.lock().get(pod).cloned().unwrap_or_default()
    }

    /// Puts what is seen now in the place of what was seen before; the log has each problem once.
    fn set(&self, new: BTreeMap<Name, PodHelp>) {
        let mut seen = self.lock();
        for (name, help) in &new {
            let before = seen.get(name);
            let known = |problem: &&String| before.is_some_and(|before| before.problems.contains(problem));
            for problem in help.problems.iter().filter(|problem| !known(problem)) {
                tracing::warn!(pod = name.as_str(), "{problem}");
            }
            for socket in help.helped.iter().filter(|socket| before.is_none_or(|b| !b.helped.contains(socket))) {
                tracing::info!(pod = name.as_str(), "the translator of {socket} has the tap's packet socket");
            }
        }
        *seen = new;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, PodHelp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when the other end of `end` is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn start(end: Receiver<()>, helped: Helped, node: Weak<LiveNode>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("pods".to_owned()).spawn(move || {
        let mut helper = Helper::default();
        while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let Some(node) = node.upgrade() else { return };
            let pods = node.running().pods.clone();
            // Nobody waits for this thread's node.
            drop(node);
            helped.set(helper.turn(&pods));
        }
    })
}

const INTERVAL: Duration = Duration::from_secs(1);
