//! Kubelet's device plugin: each network with `guest_ports` is a resource `culvert.dev/<network>` of the node, with that
//! many devices. The scheduler counts them, kubelet gives them to containers, and each container gets one folder of the
//! node for its sockets, mounted at `/var/run/culvert/<network>`. It adds no port: culvert-cni does.
//!
//! - this file: the thread, and which resources there are;
//! - [`resource`]: one resource's socket, and its registration with kubelet, again and again;
//! - [`service`]: what kubelet asks; [`folders`], [`groups`], [`trash`]: the folders that containers get, which devices
//!   share one, and what becomes of old ones;
//! - [`info_files`]: what Multus is told of each device; [`kubelet_folder`]: when to look at kubelet's folder again.
//!
//! All of it runs in a thread of its own with a tokio runtime of its own, so that neither a kubelet that stalls nor a slow
//! disk holds up clients or frames. It is told what to offer by a channel, and ends when the node does.

pub mod folders;
pub mod groups;
pub mod info_files;
mod kubelet_folder;
mod resource;
pub mod service;
pub mod trash;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::Daemon;
use crate::name::Name;
use crate::server::Limits;
use folders::Folders;
use info_files::InfoFiles;
use kubelet_folder::KubeletFolder;
use resource::Resource;

/// What kubelet is to be offered of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The network.
    pub network: Name,
    /// How many ports.
    pub ports: u32,
    /// Whether they would work at present.
    pub healthy: bool,
}

impl Offer {
    /// The name of the resource.
    pub fn resource(&self) -> String {
        resource_name(&self.network)
    }

    /// The device ids.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        (0..self.ports).map(device_id)
    }
}

/// The name of a network's resource.
pub fn resource_name(network: &Name) -> String {
    format!("culvert.dev/{network}")
}

/// The id of a device by its number.
pub fn device_id(number: u32) -> String {
    format!("port-{number}")
}

/// The number of a device by its id, if that is one: `port-` and the number as [`device_id`] writes it.
pub fn device_number(id: &str) -> Option<u32> {
    let number = id.strip_prefix("port-")?.parse().ok()?;
    (device_id(number) == id).then_some(number)
}

/// What keeps the device plugin from doing its work: one sentence for each resource that has a problem, to be shown.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<String, String>>>);

impl Problems {
    /// All sentences.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Notes what is wrong with `what`, or that nothing is. The log has each sentence once.
    fn set(&self, what: &str, problem: Option<String>) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => drop(problems.remove(what)),
            Some(problem) if problems.get(what) == Some(&problem) => {}
            Some(problem) => {
                tracing::warn!("{problem}");
                problems.insert(what.to_owned(), problem);
            }
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Kubelet's folder is looked at this often even if nothing is told of it.
    pub look: Duration,
    /// How long kubelet may take to answer, and to send a request.
    pub patience: Duration,
    /// After a failure: until the next attempt; doubled each time, up to `look`.
    pub retry: Duration,
    /// How long kubelet may take from its registration of a resource until it asks for the devices; then it is registered
    /// again.
    pub interest: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            retry: Duration::from_millis(200),
            interest: Duration::from_secs(10),
        }
    }
}

/// Starts the thread, unless the configuration names no folder of kubelet's. It ends when the other end of `offers` is gone.
///
/// # Errors
/// The kernel's, when there can be no further thread.
pub fn start(
    daemon: &Daemon,
    offers: watch::Receiver<Vec<Offer>>,
    problems: Problems,
    times: Times,
) -> io::Result<Option<JoinHandle<()>>> {
    let devices = &daemon.devices;
    let Some(kubelet) = devices.kubelet_device_plugins.clone() else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (folders, sweeper) = Folders::start(devices, &daemon.state_dir)?;
    let info_files = InfoFiles::new(&devices.device_info_folder);
    let thread = std::thread::Builder::new().name("device-plugin".to_owned()).spawn(move || {
        runtime.block_on(run(&kubelet, offers, Arc::new(folders), info_files, problems, times));
        // The last one that has to do with folders.
        drop(runtime);
        if sweeper.join().is_err() {
            tracing::error!("the thread that removes old folders failed; see the log");
        }
    })?;
    Ok(Some(thread))
}

/// Offers what there is to offer until `offers` ends.
async fn run(
    kubelet: &Path,
    mut offers: watch::Receiver<Vec<Offer>>,
    folders: Arc<Folders>,
    mut info_files: InfoFiles,
    problems: Problems,
    times: Times,
) {
    let mut folder = KubeletFolder::new(kubelet);
    let mut resources: BTreeMap<Name, Running> = BTreeMap::new();
    let (look, looks) = watch::channel(());
    loop {
        let now = offers.borrow_and_update().clone();
        problems.set("device-info", info_files.publish(&now).err());
        resources.retain(|network, running| {
            let stays = now.iter().any(|offer| offer.network == *network);
            if !stays {
                running.task.abort();
                problems.set(network.as_str(), None);
            }
            stays
        });
        for offer in now {
            if let Some(running) = resources.get(&offer.network) {
                running.offer.send_if_modified(|old| std::mem::replace(old, offer.clone()) != offer);
                continue;
            }
            let network = offer.network.clone();
            let (sender, receiver) = watch::channel(offer);
            let resource = Resource::new(kubelet, receiver, Arc::clone(&folders), problems.clone(), times);
            let task = tokio::spawn(resource.keep(looks.clone())).abort_handle();
            resources.insert(network, Running { offer: sender, task });
        }
        // Until there is something new to offer; meanwhile resources are told of changes in kubelet's folder.
        loop {
            tokio::select! {
                changed = offers.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => {
                        info_files.remove();
                        return;
                    }
                },
                () = folder.changed(times.look) => drop(look.send(())),
            }
        }
    }
}

/// A resource that is kept. Dropping it ends kubelet's stream of devices.
struct Running {
    offer: watch::Sender<Offer>,
    task: AbortHandle,
}

/// What kubelet may ask at a time.
fn limits(times: Times) -> Limits {
    Limits { patience: times.patience, connections: 8, of_one_process: 8 }
}
