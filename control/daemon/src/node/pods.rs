//! Threads that look after the pods' translators once a second, each after one pod's: see [`crate::pods::help`].
//!
//! Whoever talks to a pod may have to wait for it, even where no call waits: descriptors that come with a message are closed before
//! the message is read, and the kernel closes a socket only after it has lingered. So each pod has a thread of its own, for which
//! nobody waits.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_vhost::log_limit::LogLimit;

use super::live::LiveNode;
use crate::broker::Broker;
use crate::config::Pod;
use crate::name::Name;
use crate::pods::help::{Helper, PodHelp};
use crate::pods::repair::Repairs;

/// How the pods are helped, as it was seen last.
#[derive(Clone, Debug, Default)]
pub struct Helped(Arc<Mutex<BTreeMap<Name, Seen>>>);

/// How one pod is helped, and how much of it the log has had lately.
#[derive(Debug, Default)]
struct Seen {
    help: PodHelp,
    log: LogLimit,
}

impl Helped {
    /// How one pod is helped.
    pub fn of(&self, pod: &Name) -> PodHelp {
        self.lock().get(pod).map(|seen| seen.help.clone()).unwrap_or_default()
    }

    /// Puts what is seen now in the place of what was seen before; the log has what is new, though a pod may change its mind
    /// as often as it likes.
    fn set(&self, pod: &Name, help: PodHelp) {
        let mut all = self.lock();
        let seen = all.entry(pod.clone()).or_default();
        let name = pod.as_str();
        for problem in help.problems.iter().filter(|problem| !seen.help.problems.contains(problem)) {
            if let Some(left_out) = seen.log.permit(Instant::now()) {
                tracing::warn!(pod = name, left_out, "{problem}");
            }
        }
        for socket in help.helped.iter().filter(|socket| !seen.help.helped.contains(socket)) {
            if let Some(left_out) = seen.log.permit(Instant::now()) {
                tracing::info!(pod = name, left_out, "the translator of {socket} has what it has asked for");
            }
        }
        seen.help = help;
    }

    /// Forgets pods that are not among these.
    fn retain(&self, pods: &[Pod]) {
        self.lock().retain(|name, _| pods.iter().any(|pod| pod.name == *name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that gives each pod its own. It ends when the other end of `end` is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn start(
    end: Receiver<()>,
    helped: Helped,
    node: Weak<LiveNode>,
    broker: Arc<Broker>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("pods".to_owned()).spawn(move || {
        let mut looking: BTreeMap<Name, Sender<Pod>> = BTreeMap::new();
        while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let Some(node) = node.upgrade() else { return };
            let pods = node.running().pods.clone();
            // Nobody waits for this thread's node.
            drop(node);
            look_after(&mut looking, pods, &helped, &broker);
        }
    })
}

/// Tells each pod's thread what is registered for it; those of pods that are gone end by themselves.
fn look_after(looking: &mut BTreeMap<Name, Sender<Pod>>, pods: Vec<Pod>, helped: &Helped, broker: &Arc<Broker>) {
    let pods: Vec<_> = pods.into_iter().filter(|pod| pod.netns.is_some()).collect();
    looking.retain(|name, _| pods.iter().any(|pod| pod.name == *name));
    helped.retain(&pods);
    for pod in pods {
        let name = pod.name.clone();
        let told = looking.get(&name).map(|thread| thread.send(pod.clone()));
        if told.is_some_and(|told| told.is_ok()) {
            continue;
        }
        // The next turn tries again if it cannot start.
        match start_one(pod, helped.clone(), Arc::clone(broker)) {
            Ok(thread) => drop(looking.insert(name, thread)),
            Err(error) => {
                tracing::warn!(pod = name.as_str(), "the pod cannot be helped, a thread cannot start: {error}")
            }
        }
    }
}

/// Starts the thread of one pod. It ends when the sender is gone, as soon as the pod lets it.
fn start_one(pod: Pod, helped: Helped, broker: Arc<Broker>) -> io::Result<Sender<Pod>> {
    let (sender, registered) = std::sync::mpsc::channel::<Pod>();
    let _ = sender.send(pod);
    std::thread::Builder::new().name("pod".to_owned()).spawn(move || {
        let (steering, repairing) = (Arc::clone(&broker), Arc::clone(&broker));
        let mut repairs = Repairs::new(move |netns, sockets, on| repairing.repair(netns, sockets, on));
        let mut helper = Helper::new(move |netns, tap| broker.packets(netns, tap))
            .with_steering(move |netns, sockets| steering.steer(netns, sockets));
        while let Ok(pod) = registered.recv() {
            // While this one waited for its pod more have come: the last one holds.
            let pod = registered.try_iter().last().unwrap_or(pod);
            repairs.turn(&pod);
            for (name, help) in helper.turn(&[pod]) {
                helped.set(&name, help);
            }
        }
    })?;
    Ok(sender)
}

const INTERVAL: Duration = Duration::from_secs(1);
