//! The node on the real datapath: starts its parts in their order, and answers the questions of clients. Changes are in
//! [`changes`](super::changes).

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use culvert_api::v1;
use culvert_api::v1::EventKind;
use culvert_frame::{Direction, DropReason};
use culvert_guest::bus_fault;
use culvert_nic::{Eal, EalConfig, HugepageUse, Hugepages, Pool, PoolConfig};
use culvert_switch::port::MAX_PORTS;
use culvert_switch::{NetworkId, PortId, PortTotals};
use culvert_vhost::{PortKey, Server};
use culvert_worker::{Datapath, DatapathConfig, Stuck};
use tokio::sync::{Semaphore, mpsc, watch};

use super::addresses;
use super::backend::Rings;
use super::bars::Bars;
use super::capture::{self, MAX_CAPTURES};
use super::connections::Connections;
use super::latency::{self, MAX_MEASUREMENTS};
use super::pods::Helped;
use super::ports::{Opened, Port, key};
use super::ring_records::RingRecords;
use super::standstill::{self, Inherited};
use super::{CaptureError, ChangeError, MeasureError, Node, faults, trace, upkeep, view};
use crate::broker::Broker;
use crate::bugs;
use crate::change::{Change, admit};
use crate::config::{Config, Fixed, Machine, Mirror, Network, Objects, Pod};
use crate::device_plugin::{self, Offer, Problems, Times};
use crate::events::Events;
use crate::filter::Choice;
use crate::isolation::{Isolation, Kind};
use crate::journal::disk::{StateFolder, StateFolderError};
use crate::journal::{self, Journal, Restored};
use crate::listening_socket::ListeningSocket;
use crate::name::Name;
use crate::process;
use crate::removals::Removals;
use crate::takeover::state::LOCK;
use crate::takeover::{VERSION, step};

/// The node on the real datapath. The fields end in their order: first the sockets, so that guests are told; then the
/// workers; then the devices, whose queues the workers had.
#[derive(Debug)]
pub struct LiveNode {
    pub(super) server: Server,
    pub(super) datapath: Arc<Datapath>,
    running: Arc<Mutex<Running>>,
    /// Missing while culvertd starts.
    dpdk: OnceLock<Dpdk>,
    wanted: Mutex<Arc<Objects>>,
    journal: Mutex<Keeper>,
    /// Guests that may not come back.
    pub(super) bars: Bars,
    /// Guests' connections, which outlive the process.
    pub(super) connections: Arc<Connections>,
    /// Where their packed rings stand.
    pub(super) ring_records: RingRecords,
    /// What the last daemon has told, if this one has taken over.
    pub(super) inherited: Inherited,
    /// Since when it was its turn to take over, if it has.
    takes_over_since: Option<Instant>,
    /// Learned addresses, which outlive it as well.
    pub(super) addresses: addresses::Kept,
    /// What happens.
    pub(super) events: Events,
    captures: Arc<Semaphore>,
    measurements: Arc<Semaphore>,
    pub(super) config_file: PathBuf,
    pub(super) machine: Machine,
    /// What was configured when culvertd started, and holds until it ends.
    pub(super) fixed: Fixed,
    warnings: Mutex<Warnings>,
    started: Instant,
    /// What was given up.
    isolation: Arc<Isolation>,
    /// What the supervisor is asked by.
    pub(super) broker: Arc<Broker>,
    /// How often the supervisor has started a daemon again, and how the one before this ended.
    restarts: u64,
    last_end: String,
    /// What kubelet is offered. The device plugin ends with it.
    pub(super) offers: watch::Sender<Vec<Offer>>,
    device_plugin: Problems,
    /// How pods are helped.
    helped: Helped,
    /// How often somebody has looked whether workers go round.
    looks: AtomicU64,
    _upkeep_ends: Sender<()>,
    _pods_end: Sender<()>,
}

/// DPDK, started.
#[derive(Debug)]
pub(super) struct Dpdk {
    /// Where devices get packet buffers.
    pub(super) pool: Pool,
    pub(super) eal: Arc<Eal>,
}

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) networks: Vec<(Network, NetworkId)>,
    pub(super) ports: Vec<Port>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) pods: Vec<Pod>,
}

/// What clients want besides the file, on the disk; or why it cannot be kept.
#[derive(Debug)]
pub(super) struct Keeper(Result<Journal<StateFolder>, String>);

/// What is wrong with the node as a whole.
#[derive(Debug, Default)]
struct Warnings {
    /// Found when culvertd started.
    at_start: Vec<String>,
    /// That the file has mistakes, and an earlier one holds.
    stale_file: Option<String>,
    /// Keys that are different in the file.
    waiting: Option<String>,
    /// What is wanted and could not be brought about yet.
    failed: Vec<String>,
}

/// How a daemon starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// By itself, or in the place of one that has crashed.
    #[default]
    Anew,
    /// In the place of one that runs, when the supervisor says so. `hugepages`: that one's memory is in hugepages.
    TakeOver {
        /// Whether it must have hugepages.
        hugepages: bool,
    },
}

/// A node that has started.
pub struct Started {
    /// The node.
    pub node: Arc<LiveNode>,
    /// Threads that end after it.
    pub threads: Vec<JoinHandle<()>>,
    /// The control socket, if it has taken over: that of the daemon before.
    pub control_socket: Option<ListeningSocket>,
}

impl LiveNode {
    /// Starts the workers, DPDK, and every port that can be opened. `machine` is what the configuration was checked
    /// against.
    ///
    /// # Errors
    /// When another daemon uses the state folder, or DPDK, its memory or a worker cannot start. A port that cannot be
    /// opened is no error.
    pub fn start(
        config: Config,
        config_file: &Path,
        machine: Machine,
        main_core: usize,
        broker: Arc<Broker>,
        isolation: Arc<Isolation>,
        start: Start,
    ) -> Result<Started> {
        let (fixed, file) =
            (Fixed { daemon: config.daemon, datapath: config.datapath, migration: config.migration }, config.objects);
        // Before DPDK's own handlers, which it takes back when it has its memory.
        bus_fault::install();
        let workers =
            DatapathConfig { cores: fixed.datapath.worker_cores.clone(), idle_sleep: fixed.datapath.idle_sleep };
        let prepared = if let Start::TakeOver { hugepages } = start {
            let datapath = Arc::new(isolation.confined(Kind::Worker, || Datapath::start(&workers, None))??);
            let clients = journal::peek(&fixed.daemon.state_dir);
            let (wanted, _) = admit(file.clone(), clients, &fixed.daemon.control_socket);
            let dpdk = start_dpdk(&fixed, &isolation, &datapath, &wanted, main_core, hugepages)?;
            step::reached("new-daemon-prepared");
            broker.wait_for_turn().context("the culvertd that runs does not hand over")?;
            step::reached("new-daemon-turn");
            Some((datapath, dpdk))
        } else {
            None
        };
        let takes_over_since = prepared.is_some().then(Instant::now);
        let takes_over = takes_over_since.is_some();
        let (restarts, last_end) = broker.history().context("the supervisor does not answer")?;
        let inherited = if takes_over { Inherited::take(&broker) } else { Inherited::default() };
        let (path, group) = (&fixed.daemon.control_socket, fixed.daemon.clients.socket_group);
        let control_socket =
            takes_over.then(|| standstill::control_socket(&broker, &inherited, path, group)).transpose()?;
        let lock = broker.take(LOCK).unwrap_or_default().pop();
        let (mut keeper, mut restored) = Keeper::open(&fixed.daemon.state_dir, lock)?;
        let removals = Removals::read(&fixed.daemon.state_dir);
        let kept = if removals.take_out_of(&mut restored.objects) { keeper.store(&restored.objects) } else { Ok(()) };
        // What cannot be kept is asked for again at the next start.
        if kept.is_ok() {
            removals.finish();
        }
        let (wanted, dropped) = admit(file, restored.objects, &fixed.daemon.control_socket);
        let damage = restored.damage.map(|damage| {
            format!(
                "what was added at run time is lost: the journal in {} is damaged: {damage}",
                fixed.daemon.state_dir.display()
            )
        });
        let unkept = keeper.0.as_ref().err().map(|reason| format!("nothing can be changed at run time: {reason}"));
        let at_start: Vec<_> = damage.into_iter().chain(unkept).chain(kept.err()).chain(dropped).collect();
        at_start.iter().for_each(|warning| tracing::error!("{warning}"));

        let (datapath, dpdk) = match prepared {
            Some((datapath, dpdk)) => (datapath, OnceLock::from(dpdk)),
            None => {
                let start = || Datapath::start(&workers, None);
                (Arc::new(isolation.confined(Kind::Worker, start)??), OnceLock::new())
            }
        };
        let events = datapath.take_events().context("the workers' events are taken already")?;
        let rings = Arc::new(Rings::new(Arc::clone(&datapath)));
        let connections = Arc::new(Connections::new(Arc::clone(&broker), restarts > 0 || takes_over));
        let start_server = || Server::start(rings, Some(Arc::clone(&connections) as _));
        let server = isolation.confined(Kind::Vhost, start_server)?.context("the vhost-user server cannot start")?;

        let ports = wanted.ports.iter().map(|port| port.wanted.name.as_str()).collect();
        let ring_records = RingRecords::open(&fixed.daemon.control_socket, &ports);
        let (upkeep_ends, end) = std::sync::mpsc::channel();
        let (pods_end, pods_ended) = std::sync::mpsc::channel();
        let node = Arc::new(Self {
            server,
            datapath,
            running: Arc::default(),
            dpdk,
            wanted: Mutex::new(Arc::new(wanted)),
            journal: Mutex::new(keeper),
            bars: Bars::read(&fixed.daemon.state_dir),
            connections,
            ring_records,
            inherited,
            takes_over_since,
            addresses: addresses::Kept::default(),
            events: Events::default(),
            captures: Arc::new(Semaphore::new(MAX_CAPTURES)),
            measurements: Arc::new(Semaphore::new(MAX_MEASUREMENTS)),
            config_file: config_file.to_owned(),
            machine,
            fixed,
            warnings: Mutex::new(Warnings { at_start, ..Warnings::default() }),
            started: Instant::now(),
            isolation,
            broker,
            restarts,
            last_end,
            offers: watch::Sender::default(),
            device_plugin: Problems::default(),
            helped: Helped::default(),
            looks: AtomicU64::new(0),
            _upkeep_ends: upkeep_ends,
            _pods_end: pods_end,
        });
        let again = format!("culvertd has started again, after {}", node.last_end);
        node.events.tell(EventKind::Started, "", if restarts > 0 { again } else { "culvertd has started".to_owned() });
        // Its connections are the other daemon's until this one may go on: if it comes to nothing, nobody hangs up.
        let spared = takes_over.then(|| ManuallyDrop::new(Arc::clone(&node)));
        if takes_over {
            node.take_over()?
        } else {
            node.open(main_core)?
        }
        spared.into_iter().for_each(|node| drop(ManuallyDrop::into_inner(node)));
        // Of ports that are not there any more.
        node.broker.forget_others().context("the supervisor does not answer")?;
        let (daemon, offers) = (&node.fixed.daemon, node.offers.subscribe());
        let start = || device_plugin::start(daemon, offers, node.device_plugin.clone(), Times::default());
        let device_plugin = node.isolation.confined(Kind::DevicePlugin, start)?.context("a thread cannot start")?;
        // All threads of other kinds are there.
        node.isolation.narrow(Kind::Control)?;
        let threads = node.start_threads(events, end, pods_ended).context("a thread cannot start")?;
        Ok(Started { threads: threads.into_iter().chain(device_plugin).collect(), node, control_socket })
    }

    /// Takes up what the daemon before has left, and goes on when that one has ended. Devices, which only one can have, come last.
    fn take_over(&self) -> Result<()> {
        let start = Instant::now();
        self.datapath.hold()?;
        self.bring_about_guests();
        let mut addresses = self.addresses.take(&self.broker);
        self.server.wait_taken_up(TAKE_UP_LIMIT);
        self.restore_addresses(&mut addresses);
        step::reached("new-daemon-taken");
        let taken = start.elapsed();
        self.broker.wait_for_go().context("the culvertd that runs does not end")?;
        step::reached("new-daemon-go");
        let addresses = &mut addresses;
        std::thread::scope(|scope| -> Result<()> {
            let (opened, is_opened) = std::sync::mpsc::channel::<()>();
            let release = std::thread::Builder::new().name("release".to_owned()).spawn_scoped(scope, move || {
                self.isolation.narrow_here(Kind::Control);
                if self.wanted().use_devices() {
                    let _ = is_opened.recv_timeout(TAKE_OVER_HOLD);
                    self.restore_addresses(addresses);
                }
                let released = self.datapath.release().map(|()| addresses);
                tracing::info!(?taken, after = ?start.elapsed(), "this culvertd has taken over");
                released
            });
            let release = release.context("a thread cannot start")?;
            if self.wanted().use_devices() {
                self.broker.wait_until_alone().context("the daemon before does not end")?;
                tracing::debug!(after = ?start.elapsed(), "the daemon before has ended");
            }
            self.bring_about();
            drop(opened);
            tracing::debug!(after = ?start.elapsed(), "devices were opened");
            self.addresses.begin(&self.broker);
            let addresses =
                release.join().map_err(|_| anyhow!("the thread that releases frames failed; see the log"))??;
            self.restore_addresses(addresses);
            Ok(())
        })?;
        step::reached("new-daemon-free");
        self.forget_handed_over();
        self.tell_hugepages();
        Ok(())
    }

    /// Opens what is wanted: guests' ports first. Their frontends wait for us, if we are here again after an end, and DPDK takes
    /// its time.
    fn open(&self, main_core: usize) -> Result<()> {
        // The first frames are to find all ports.
        self.datapath.hold()?;
        self.bring_about_guests();
        let mut addresses =
            if self.restarts > 0 { self.addresses.take(&self.broker) } else { addresses::Snapshot::default() };
        self.addresses.begin(&self.broker);
        let addresses = &mut addresses;
        std::thread::scope(|scope| {
            let (opened, is_opened) = std::sync::mpsc::channel::<()>();
            let release = std::thread::Builder::new().name("release".to_owned()).spawn_scoped(scope, move || {
                self.isolation.narrow_here(Kind::Control);
                self.server.wait_taken_up(TAKE_UP_LIMIT);
                // Both end with an error when all is opened.
                match (self.wanted().use_devices(), self.restarts) {
                    (false, _) => {}
                    (true, 0) => drop(is_opened.recv()),
                    // After a crash guests talk with each other again before a slow device is there.
                    (true, _) => drop(is_opened.recv_timeout(HOLD_LIMIT)),
                }
                self.restore_addresses(addresses);
                self.datapath.release().map(|()| addresses)
            });
            let release = release.context("a thread cannot start")?;
            self.start_dpdk(main_core)?;
            self.bring_about();
            drop(opened);
            let addresses =
                release.join().map_err(|_| anyhow!("the thread that releases frames failed; see the log"))??;
            // Of devices that took longer than guests wait.
            self.restore_addresses(addresses);
            Ok(())
        })
    }

    fn start_dpdk(&self, main_core: usize) -> Result<()> {
        let dpdk = start_dpdk(&self.fixed, &self.isolation, &self.datapath, &self.wanted(), main_core, false)?;
        // It is set here only.
        let _ = self.dpdk.set(dpdk);
        self.tell_hugepages();
        Ok(())
    }

    /// Whoever takes over later must not have less.
    fn tell_hugepages(&self) {
        let are_used = self.dpdk().is_some_and(|dpdk| matches!(dpdk.eal.hugepages(), HugepageUse::Used { .. }));
        if are_used && let Err(error) = self.broker.hugepages() {
            tracing::warn!("the supervisor does not know of hugepages: {error}");
        }
    }

    /// DPDK, once it has started.
    pub(super) fn dpdk(&self) -> Option<&Dpdk> {
        self.dpdk.get()
    }

    /// Starts the threads that look after the node.
    fn start_threads(
        self: &Arc<Self>,
        events: std::sync::mpsc::Receiver<culvert_worker::Event>,
        end: std::sync::mpsc::Receiver<()>,
        pods_end: std::sync::mpsc::Receiver<()>,
    ) -> io::Result<[JoinHandle<()>; 3]> {
        let pods = super::pods::start(pods_end, self.helped.clone(), Arc::downgrade(self), Arc::clone(&self.broker));
        Ok([faults::watch(events, Arc::downgrade(self))?, upkeep::start(end, Arc::downgrade(self))?, pods?])
    }

    /// What was given up.
    pub(super) fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// How many ports there are, and how many of them could not be opened.
    pub fn port_counts(&self) -> (usize, usize) {
        let running = self.running();
        (running.ports.len(), running.ports.iter().filter(|port| port.failure().is_some()).count())
    }

    /// What runs. Never to be held while something is opened or closed.
    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted.
    pub(super) fn wanted(&self) -> Arc<Objects> {
        Arc::clone(&self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// To be called by whoever holds the journal's lock.
    pub(super) fn set_wanted(&self, objects: Objects) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(objects);
    }

    /// The journal; whoever holds its lock may change what is wanted and what runs.
    pub(super) fn journal(&self) -> MutexGuard<'_, Keeper> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal, if nobody has it.
    pub(super) fn try_journal(&self) -> Option<MutexGuard<'_, Keeper>> {
        match self.journal.try_lock() {
            Ok(journal) => Some(journal),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The configuration file's name, for messages.
    pub(super) fn file_name(&self) -> String {
        self.config_file.display().to_string()
    }

    /// Notes which keys take effect at the next start only.
    pub(super) fn set_waiting(&self, keys: &[String]) {
        let waiting = (!keys.is_empty())
            .then(|| format!("{} changed in {}; restart culvertd", keys.join(" and "), self.file_name()));
        if let Some(waiting) = &waiting {
            tracing::warn!("{waiting}");
        }
        self.warnings().waiting = waiting;
    }

    /// Notes that the file has mistakes and an earlier one holds, or that it does not.
    pub fn set_stale_file(&self, sentence: Option<String>) {
        self.warnings().stale_file = sentence;
    }

    /// Notes what could not be brought about.
    pub(super) fn set_failed(&self, failed: &[String]) {
        let mut warnings = self.warnings();
        // It is tried again every second: the log has each of them once.
        let new = failed.iter().filter(|sentence| !warnings.failed.contains(sentence));
        new.for_each(|sentence| tracing::error!("{sentence}"));
        warnings.failed = failed.to_vec();
    }

    /// Whether something that is wanted could not be brought about yet.
    pub(super) fn has_failed(&self) -> bool {
        !self.warnings().failed.is_empty()
    }

    fn warnings(&self) -> MutexGuard<'_, Warnings> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps guests away from a port, or lets them come again.
    pub(super) fn suspend(&self, port: PortKey, suspended: bool) {
        self.server.suspend(port, suspended);
    }

    /// The number of the port of that name, if it is open.
    pub(super) fn open_port(&self, name: &str) -> Option<PortId> {
        self.running().ports.iter().find(|port| port.config.name.as_str() == name).and_then(Port::id)
    }

    /// Takes a port out of service because of its guest, until one connects anew. A NIC stays; the log has the reason.
    pub(super) fn quarantine(&self, port: PortId, attachment: u32, reason: &str) {
        let running = self.running();
        let name = running.name(port).to_owned();
        let is_nic = running.ports.iter().any(|other| matches!(&other.opened, Opened::Nic(id, _) if *id == port));
        drop(running);
        if is_nic {
            tracing::error!(port = name, "{reason}");
            return;
        }
        match self.datapath.quarantine(port, attachment) {
            Ok(true) => {}
            // It is done already, or that guest has gone.
            Ok(false) => return,
            Err(error) => tracing::error!(port = name, "the port cannot be quarantined: {error}"),
        }
        self.events.tell(EventKind::Quarantined, &name, reason);
        self.server.quarantine(key(port), reason.to_owned());
    }

    /// The ports whose guest's memory was truncated.
    pub(super) fn ports_with_lost_memory(&self) -> Vec<(PortId, u32)> {
        self.datapath.ports_with_lost_memory()
    }

    /// Since when it was its turn to take over, if it has.
    pub(super) fn takes_over_since(&self) -> Option<Instant> {
        self.takes_over_since
    }

    /// What each open port has counted so far, by names.
    pub(super) fn all_totals(&self) -> Vec<(String, PortTotals)> {
        let running = self.running();
        running.totals(&self.datapath).map(|(port, totals)| (port.config.name.to_string(), totals)).collect()
    }

    /// What each open port has refused so far, by reasons.
    pub(super) fn refused(&self) -> Vec<(String, Vec<(DropReason, u64)>)> {
        let running = self.running();
        let ports = running.totals(&self.datapath).map(|(port, totals)| {
            let counts = totals.drops.iter().map(|drops| (drops.reason, drops.count)).collect();
            (port.config.name.to_string(), counts)
        });
        ports.collect()
    }

    /// Frees workers that a frontend holds up; returns those that come to no end.
    pub(super) fn watch_workers(&self) -> Vec<Stuck> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.datapath.watch_workers()
    }

    /// How often somebody has looked whether workers go round.
    pub fn looks_at_workers(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Tells the supervisor that all goes its way.
    ///
    /// # Errors
    /// It does not answer.
    pub fn tell_alive(&self) -> io::Result<()> {
        self.broker.alive()
    }

    /// The name of an open port.
    pub(super) fn port_name(&self, port: PortId) -> Option<String> {
        let running = self.running();
        running.ports.iter().find(|other| other.id() == Some(port)).map(|port| port.config.name.to_string())
    }

    /// Takes note of what guests said about multicast groups.
    pub(super) fn update_groups(&self) {
        if let Err(error) = self.datapath.update_groups() {
            tracing::error!("multicast groups are not up to date: {error}");
        }
    }

    /// Forgets the addresses that were not seen for too long.
    pub(super) fn sweep(&self) {
        self.datapath.sweep();
    }
}

impl Running {
    /// The number of a network.
    pub(super) fn network(&self, name: &Name) -> Option<NetworkId> {
        self.networks.iter().find(|(network, _)| network.name == *name).map(|(_, id)| *id)
    }

    /// The port of that name.
    pub(super) fn port(&self, name: &Name) -> Option<&Port> {
        self.ports.iter().find(|port| port.config.name == *name)
    }

    /// The name of a port by its number; `-` for one that is not there.
    pub(super) fn name(&self, id: PortId) -> &str {
        self.ports.iter().find(|port| port.id() == Some(id)).map_or("-", |port| port.config.name.as_str())
    }

    /// The counters of each port that is open.
    fn totals(&self, datapath: &Datapath) -> impl Iterator<Item = (&Port, PortTotals)> {
        self.ports.iter().filter_map(|port| Some((port, datapath.totals(port.id()?)?)))
    }
}

impl Keeper {
    /// Opens the state folder and what it holds. Without one culvertd runs all the same.
    fn open(path: &Path, inherited_lock: Option<OwnedFd>) -> Result<(Self, Restored)> {
        let inherited_lock = inherited_lock.as_ref();
        let open = || {
            let lock = inherited_lock.map(OwnedFd::try_clone).transpose();
            let lock = lock.map_err(|error| StateFolderError::Kernel { path: path.to_owned(), error })?;
            StateFolder::open_with(path, lock)
        };
        // The daemon of a supervisor that was killed may be about to end.
        let is_taken = |error: &StateFolderError| matches!(error, StateFolderError::InUse { .. });
        let folder = match process::patiently(open, is_taken) {
            Ok(folder) => folder,
            Err(error @ StateFolderError::InUse { .. }) => return Err(error.into()),
            Err(error @ StateFolderError::Kernel { .. }) => {
                return Ok((Self(Err(error.to_string())), Restored::default()));
            }
        };
        Ok(match Journal::open(folder) {
            Ok((journal, restored)) => (Self(Ok(journal)), restored),
            Err(error) => {
                let reason = format!("the journal in {} cannot be read: {error}; correct that", path.display());
                (Self(Err(reason)), Restored::default())
            }
        })
    }

    /// A copy of the state folder's lock; `None`: there is none.
    pub(super) fn copy_lock(&self) -> Option<io::Result<OwnedFd>> {
        self.0.as_ref().ok().map(|journal| journal.disk().copy_lock())
    }

    /// Keeps these objects in the place of those before.
    ///
    /// # Errors
    /// Why not, as a sentence; those before are kept.
    pub(super) fn store(&mut self, objects: &Objects) -> Result<(), String> {
        let journal = self.0.as_mut().map_err(|reason| reason.clone())?;
        let sentence = |error: io::Error| format!("the journal cannot be written: {error}; see daemon.state_dir");
        journal.store(objects).map_err(sentence)
    }
}

impl Node for LiveNode {
    fn status(&self) -> v1::GetStatusResponse {
        let workers = self.datapath.workers().into_iter().map(|worker| v1::Worker {
            core: u32::try_from(worker.core).unwrap_or(u32::MAX),
            loops: worker.rounds,
            busy_loops: worker.busy_rounds,
            sleeps: worker.sleeps,
            frames: worker.frames,
            poll_gaps: worker.gaps,
            longest_gap_us: u64::try_from(worker.longest_gap.as_micros()).unwrap_or(u64::MAX),
            busy_ns: u64::try_from(worker.busy.as_nanos()).unwrap_or(u64::MAX),
        });
        let (ports, wanted, eal) = (self.ports(), self.wanted(), self.dpdk().map(|dpdk| &dpdk.eal));
        let warnings = self.warnings();
        let warnings = warnings
            .at_start
            .iter()
            .chain(&warnings.stale_file)
            .chain(&warnings.waiting)
            .chain(&warnings.failed)
            .cloned();
        v1::GetStatusResponse {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config_file: self.file_name(),
            memory_mb: eal.map_or(0, |eal| eal.memory_mb()),
            hugepages: eal.is_some_and(|eal| matches!(eal.hugepages(), HugepageUse::Used { .. })),
            pages: eal.map_or("DPDK has not started yet".to_owned(), |eal| eal.hugepages().to_string()),
            workers: workers.collect(),
            networks: count(wanted.networks.len()),
            ports: count(ports.len()),
            ports_max: count(MAX_PORTS),
            ports_up: count(ports.iter().filter(|port| port.state() == v1::PortState::Up).count()),
            mirrors: count(wanted.mirrors.len()),
            pods: count(wanted.pods.len()),
            bugs: bugs::count(),
            warnings: warnings.chain(self.device_plugin.list()).collect(),
            // They are no part of the node: the service finds them.
            translators: Vec::new(),
            supervisor_pid: self.broker.supervisor(),
            restarts: self.restarts,
            last_end: self.last_end.clone(),
        }
    }

    fn networks(&self) -> Vec<v1::Network> {
        let (wanted, running) = (self.wanted(), self.running());
        let networks = wanted.networks.iter().map(|object| {
            let network = &object.wanted;
            let members = wanted.ports.iter().filter(|port| port.wanted.network == network.name);
            v1::Network {
                name: network.name.to_string(),
                mac_age_seconds: network.mac_age.as_secs(),
                ports: members.map(|port| port.wanted.name.to_string()).collect(),
                macs: running.network(&network.name).map_or(0, |id| count(self.datapath.macs(id).len())),
                snooping: network.snooping,
                origin: view::origin(object.origin).into(),
                guest_ports: network.guest_ports,
            }
        });
        networks.collect()
    }

    fn ports(&self) -> Vec<v1::Port> {
        let (wanted, running) = (self.wanted(), self.running());
        let by_name: BTreeMap<_, _> = running.ports.iter().map(|port| (&port.config.name, port)).collect();
        let view = |object| view::port(object, by_name.get(&object.wanted.name).copied(), &self.datapath, &self.server);
        wanted.ports.iter().map(view).collect()
    }

    fn mirrors(&self) -> Vec<v1::Mirror> {
        let (wanted, running) = (self.wanted(), self.running());
        let is_open = |name: &Name| running.port(name).is_some_and(|port| port.failure().is_none());
        let mirrors = wanted.mirrors.iter().map(|object| {
            let Mirror { name, from, to, rx, tx } = &object.wanted;
            v1::Mirror {
                name: name.to_string(),
                from: from.iter().map(ToString::to_string).collect(),
                to: to.to_string(),
                rx: *rx,
                tx: *tx,
                origin: view::origin(object.origin).into(),
                active: from.iter().chain([to]).all(is_open),
            }
        });
        mirrors.collect()
    }

    fn pods(&self) -> Vec<v1::Pod> {
        self.wanted().pods.iter().map(|pod| view::pod(pod, self.helped.of(&pod.wanted.name))).collect()
    }

    fn macs(&self) -> Vec<v1::Mac> {
        let running = self.running();
        let running = &running;
        let macs = running.networks.iter().flat_map(|(network, id)| {
            self.datapath.macs(*id).into_iter().map(move |entry| v1::Mac {
                network: network.name.to_string(),
                mac: entry.address.to_string(),
                port: running.name(entry.port).to_owned(),
                age_seconds: entry.age_seconds.map(u64::from),
                vlan: entry.vlan.into(),
            })
        });
        macs.collect()
    }

    fn stats(&self) -> Vec<v1::PortStats> {
        let latencies = self.datapath.latencies();
        let running = self.running();
        let stats = running.totals(&self.datapath).map(|(port, totals)| {
            let nic = match &port.opened {
                Opened::Nic(_, nic) => nic.device.statistics(),
                Opened::Guest { .. } | Opened::Failed(_) => culvert_nic::Statistics::default(),
            };
            v1::PortStats {
                port: port.config.name.to_string(),
                rx_frames: totals.rx_frames,
                rx_bytes: totals.rx_bytes,
                rx_forwarded: totals.forwarded,
                rx_copies: totals.copies,
                rx_dropped: totals.dropped(Direction::Rx),
                rx_in_flight: totals.rx_in_flight(),
                rx_not_learned: totals.not_learned,
                rx_held: totals.held,
                tx_offered: totals.offered,
                tx_frames: totals.tx_frames,
                tx_bytes: totals.tx_bytes,
                tx_dropped: totals.dropped(Direction::Tx),
                tx_in_flight: totals.tx_in_flight(),
                nic_missed: nic.rx_missed.saturating_add(nic.rx_no_buffer),
                nic_rx_errors: nic.rx_errors,
                nic_tx_errors: nic.tx_errors,
                latency: latencies.iter().find(|(id, _)| port.id() == Some(*id)).map(|(_, times)| v1::PortLatency {
                    rx: latency::view(&times.all(Direction::Rx)),
                    tx: latency::view(&times.all(Direction::Tx)),
                }),
            }
        });
        stats.collect()
    }

    fn drops(&self) -> Vec<v1::PortDrop> {
        let running = self.running();
        let drops = running.totals(&self.datapath).flat_map(|(port, totals)| {
            totals.drops.into_iter().map(|drops| v1::PortDrop {
                port: port.config.name.to_string(),
                direction: capture::direction(drops.reason.direction()).into(),
                reason: drops.reason.name().to_owned(),
                count: drops.count,
                remedy: drops.reason.remedy().to_owned(),
                last_header: drops.last_header,
                last_length: drops.last_length,
            })
        });
        drops.collect()
    }

    fn workers(&self) -> Vec<v1::WorkerQueues> {
        self.worker_queues()
    }

    fn rebalance(&self, least_improvement: Option<u8>, dry_run: bool) -> Result<v1::RebalanceResponse, ChangeError> {
        self.rebalance_queues(least_improvement, dry_run)
    }

    fn capture(&self, request: &v1::CaptureRequest) -> Result<mpsc::Receiver<v1::CaptureResponse>, CaptureError> {
        let choice = Choice::of(request).map_err(CaptureError::Filter)?;
        let running = self.running();
        let is_meant = |port: &&Port| {
            let config = &port.config;
            if request.network.is_empty() {
                config.name.as_str() == request.port
            } else {
                config.network.as_str() == request.network
            }
        };
        let open =
            running.ports.iter().filter(is_meant).filter_map(|port| Some((port.id()?, port.config.name.to_string())));
        let ports: Vec<_> = open.collect();
        drop(running);
        if ports.is_empty() {
            return Err(CaptureError::PortNotOpen);
        }
        let place = Arc::clone(&self.captures)
            .try_acquire_owned()
            .map_err(|_| CaptureError::TooMany { limit: MAX_CAPTURES })?;
        capture::start(Arc::clone(&self.datapath), ports, request, choice, place).map_err(CaptureError::Datapath)
    }

    fn measure_latency(
        &self,
        port: &str,
        interval: Duration,
    ) -> Result<mpsc::Receiver<v1::MeasureLatencyResponse>, MeasureError> {
        let id = self.open_port(port).ok_or(MeasureError::PortNotOpen)?;
        let place = Arc::clone(&self.measurements)
            .try_acquire_owned()
            .map_err(|_| MeasureError::TooMany { limit: MAX_MEASUREMENTS })?;
        let (datapath, running) = (Arc::clone(&self.datapath), Arc::downgrade(&self.running));
        latency::start(datapath, running, (id, port.to_owned()), interval, place).map_err(MeasureError::Datapath)
    }

    fn change(&self, change: &Change) -> Result<v1::ChangeResponse, ChangeError> {
        self.change_objects(change)
    }

    fn reload(&self) -> Result<v1::ReloadResponse, ChangeError> {
        self.reload_file()
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn trace(&self, request: &v1::TraceRequest) -> Option<v1::TraceResponse> {
        let port = self.open_port(&request.port)?;
        let running = self.running();
        let name = |port: PortId| running.name(port).to_owned();
        Some(trace::view(self.datapath.trace(port, &request.frame, &name)?, &name))
    }
}

/// Starts DPDK as configured. `needs_hugepages`: it may not do without.
fn start_dpdk(
    fixed: &Fixed,
    isolation: &Isolation,
    datapath: &Datapath,
    wanted: &Objects,
    main_core: usize,
    needs_hugepages: bool,
) -> Result<Dpdk> {
    let settings = &fixed.datapath;
    let hugepages = match settings.hugepages {
        Hugepages::Auto if needs_hugepages => Hugepages::Always,
        other => other,
    };
    let eal = EalConfig {
        memory_mb: settings.memory_mb,
        hugepages,
        main_core,
        pci: wanted.use_pci(),
        extra_args: settings.eal_args.clone(),
    };
    let eal = Arc::new(isolation.confined(Kind::Dpdk, || Eal::start(&eal))??);
    let largest_mtu = wanted.ports.iter().map(|port| port.wanted.mtu).max().unwrap_or(0).max(1500);
    let pool = Pool::create(&eal, &PoolConfig { largest_mtu, ..PoolConfig::default() })?;
    datapath.use_dpdk(&eal)?;
    Ok(Dpdk { pool, eal })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// How long guests' frames wait at most until all connections of the last daemon are taken up.
const TAKE_UP_LIMIT: Duration = Duration::from_millis(500);
/// How long guests' frames wait at most for devices when this culvertd has taken over.
const TAKE_OVER_HOLD: Duration = Duration::from_millis(50);
/// How long guests' frames wait at most for devices that are being opened when culvertd starts again after a crash.
const HOLD_LIMIT: Duration = Duration::from_millis(500);
