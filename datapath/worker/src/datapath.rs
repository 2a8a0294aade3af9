//! Control's handle on the workers.
//!
//! Control keeps the wanted state here: networks, ports, running rings. Each change makes a new [`Plan`](crate::plan::Plan), hands it to
//! every worker, and returns when all have taken it up; what the change removed is in nobody's hands then. A worker that
//! does not answer within [`ACKNOWLEDGE_TIME`] fails the change, and nothing that it might still use is freed.

mod rebalance;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, RawFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, RingSetup, StoppedRing, Unresponsive};
use culvert_guest::thread_clock::ThreadClock;
use culvert_guest::unblock::Unblocker;
use culvert_guest::{ReceiveQueue, RingLog, TransmitQueue};
use culvert_nic::{Eal, Pool, RxQueue, TxQueue};
use culvert_switch::burst::LocalFrame;
use culvert_switch::groups::Groups;
use culvert_switch::limits::Limiter;
use culvert_switch::mac_table::MacEntry;
use culvert_switch::port::MAX_PORTS;
use culvert_switch::rates::Meter;
use culvert_switch::trace::{self, Trace};
use culvert_switch::{Latency, MacTable, NetworkId, PortCounters, PortId, PortTotals, Rules, Tap};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token, Waker};

pub use self::rebalance::{Moved, Proposal};
use crate::announce;
use crate::handover::{HandOver, Slot};
use crate::input;
use crate::load::Work;
use crate::poll_loop::Worker;
use crate::shared::{Breadcrumb, Event, Shared, WAKER, WorkerCounters, WorkerTotals};
use crate::snoop_queue::SnoopQueue;
use crate::state::{Device, Mirror, NetworkState, NicQueue, Place, PortState, Queue, Ring, State};
use crate::watch::{Verdict, Watch};

/// How often [`Datapath::update_groups`] is to be called, and [`Datapath::watch_workers`] while all workers sleep.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// As [`WATCH_INTERVAL`] while a worker has something to do: a frontend that holds it up costs others not much more than this.
const BUSY_WATCH_INTERVAL: Duration = Duration::from_millis(5);

/// How long a worker may take to take up a plan.
pub const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(1);

/// The same while frames are held, and when DPDK starts: nobody is served while it is waited for, and to give up ends the daemon.
pub const START_TIME: Duration = Duration::from_secs(10);

/// What the workers run on.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// The cores to bind one worker each to; at least one.
    pub cores: Vec<usize>,
    /// How long nothing may arrive before a worker sleeps; `None`: it never does.
    pub idle_sleep: Option<Duration>,
}

/// Why something could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// No cores were given.
    #[error("no worker cores: give at least one")]
    NoCores,
    /// The kernel refused a thread or an epoll set.
    #[error("worker on core {core} cannot start: {reason}")]
    Worker {
        /// The core.
        core: usize,
        /// The kernel's reason.
        reason: String,
    },
    /// There are [`MAX_PORTS`] ports already.
    #[error("there are {MAX_PORTS} ports already: remove one first")]
    TooManyPorts,
    /// There are 65535 networks already.
    #[error("there are too many networks already: remove one first")]
    TooManyNetworks,
    /// The network's address table has no place for the port's own address.
    #[error("the network's address table is full: lower `mac_limit` of its ports, or wait until addresses age")]
    TableFull,
    /// A worker did not take up the change.
    #[error("a worker does not answer: its core is taken by other work, or it hangs; see `worker_cores`")]
    Unresponsive,
}

/// What holds for a network; can be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// How long an address is known after it was last seen.
    pub mac_age: Duration,
    /// Whether multicast frames go to those only who listen, as IGMP and MLD tell.
    pub snooping: bool,
}

/// The queues of a NIC.
#[derive(Debug)]
pub struct NicQueues {
    /// Queues to poll; shared out among the workers.
    pub rx: Vec<RxQueue>,
    /// Queues to send by.
    pub tx: Vec<TxQueue>,
    /// Where packet buffers come from.
    pub pool: Pool,
}

/// A worker that uses its core, and comes to no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its number.
    pub worker: usize,
    /// The port that it works for, if it works for one.
    pub port: Option<PortId>,
}

/// An address that was learned at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedAddress {
    /// The port.
    pub port: PortId,
    /// The VLAN; 0 for ports without VLANs.
    pub vlan: u16,
    /// The address.
    pub address: MacAddress,
    /// When it was last seen as a source: seconds of the kernel's monotonic clock, which are the same for all processes.
    pub seen: u32,
}

/// The running datapath. Dropping it stops the workers.
#[derive(Debug)]
pub struct Datapath {
    state: Mutex<State>,
    workers: Vec<WorkerHandle>,
    events: Mutex<Option<Receiver<Event>>>,
    send_event: SyncSender<Event>,
    /// Times are counted from here.
    start: Instant,
}

#[derive(Debug)]
struct WorkerHandle {
    core: usize,
    shared: Arc<Shared>,
    registry: Registry,
    unblocker: Unblocker,
    clock: Option<ThreadClock>,
    watch: Mutex<Watch>,
    thread: Option<JoinHandle<()>>,
}

impl Datapath {
    /// Starts one worker on each core. NIC ports can be added with `eal`, or after [`Self::use_dpdk`].
    ///
    /// # Errors
    /// [`DatapathError::NoCores`], [`DatapathError::Worker`], [`DatapathError::Unresponsive`].
    pub fn start(config: &DatapathConfig, eal: Option<&Arc<Eal>>) -> Result<Self, DatapathError> {
        if config.cores.is_empty() {
            return Err(DatapathError::NoCores);
        }
        let start = beginning();
        let (send_event, events) = sync_channel(1024);
        let workers = config.cores.iter().enumerate().map(|(index, &core)| {
            WorkerHandle::start(index, core, config.idle_sleep, send_event.clone(), start)
                .map_err(|error| DatapathError::Worker { core, reason: error.to_string() })
        });
        let workers = workers.collect::<Result<_, _>>()?;
        let state = Mutex::new(State { next_token: 1, ..State::default() });
        let datapath = Self { state, workers, events: Mutex::new(Some(events)), send_event, start };
        eal.map_or(Ok(()), |eal| datapath.use_dpdk(eal))?;
        Ok(datapath)
    }

    /// Makes the workers known to DPDK, which may start later than they do: guests need it not. NIC ports can be added
    /// after this.
    ///
    /// # Errors
    /// [`DatapathError::Worker`], [`DatapathError::Unresponsive`].
    pub fn use_dpdk(&self, eal: &Arc<Eal>) -> Result<(), DatapathError> {
        for worker in &self.workers {
            // It is there already: DPDK is started once.
            let _ = worker.shared.dpdk.set(Arc::clone(eal));
        }
        self.publish_within(&mut self.state(), START_TIME)?;
        for worker in &self.workers {
            if let Some(Err(reason)) = worker.shared.registered.get() {
                return Err(DatapathError::Worker { core: worker.core, reason: reason.clone() });
            }
        }
        Ok(())
    }

    /// Where workers tell of faults. The first caller gets it.
    pub fn take_events(&self) -> Option<Receiver<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a network.
    ///
    /// # Errors
    /// [`DatapathError::TooManyNetworks`], [`DatapathError::Unresponsive`].
    pub fn add_network(&self, settings: NetworkSettings) -> Result<NetworkId, DatapathError> {
        let mut state = self.state();
        let free = state.networks.iter().position(Option::is_none).unwrap_or(state.networks.len());
        let id = u16::try_from(free).map_err(|_| DatapathError::TooManyNetworks)?;
        let table = Arc::new(MacTable::new(seconds(settings.mac_age)));
        let network = Some(NetworkState { table, groups: groups(settings) });
        match state.networks.get_mut(free) {
            Some(place) => *place = network,
            None => state.networks.push(network),
        }
        self.publish(&mut state)?;
        Ok(NetworkId(id))
    }

    /// Changes what holds for a network; what it has learned stays.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn set_network(&self, network: NetworkId, settings: NetworkSettings) -> Result<(), DatapathError> {
        let mut state = self.state();
        let Some(network) = state.network_mut(network) else { return Ok(()) };
        network.table.set_age(seconds(settings.mac_age));
        if network.groups.is_some() != settings.snooping {
            network.groups = groups(settings);
        }
        self.publish(&mut state)
    }

    /// Takes a network away. Its ports must be gone.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn remove_network(&self, network: NetworkId) -> Result<(), DatapathError> {
        let mut state = self.state();
        if let Some(place) = state.networks.get_mut(usize::from(network.0)) {
            *place = None;
        }
        self.publish(&mut state)
    }

    /// Leaves frames where they arrive until [`Self::release`], so that the first ones find all ports that are added
    /// meanwhile.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn hold(&self) -> Result<(), DatapathError> {
        self.set_held(true)
    }

    /// Ends [`Self::hold`].
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn release(&self) -> Result<(), DatapathError> {
        self.set_held(false)
    }

    /// Makes a guest port, which is down until its rings start.
    ///
    /// # Errors
    /// [`DatapathError::TooManyPorts`], [`DatapathError::TableFull`], [`DatapathError::Unresponsive`].
    pub fn add_guest_port(&self, network: NetworkId, rules: Rules) -> Result<PortId, DatapathError> {
        self.add_port(network, rules, |_, _| Device::Guest(BTreeMap::new()))
    }

    /// Makes a NIC port.
    ///
    /// # Errors
    /// [`DatapathError::TooManyPorts`], [`DatapathError::TableFull`], [`DatapathError::Unresponsive`].
    pub fn add_nic_port(&self, network: NetworkId, rules: Rules, queues: NicQueues) -> Result<PortId, DatapathError> {
        let NicQueues { rx, tx, pool } = queues;
        self.add_port(network, rules, |datapath, state| {
            let queues = rx.into_iter().map(|queue| {
                let place = datapath.place(state);
                // The queue keeps the descriptor open, and the slot keeps the queue.
                let descriptor = queue.interrupt_descriptor();
                let wakes = descriptor.is_some_and(|descriptor| datapath.watch(place.worker, place.token, descriptor));
                NicQueue { slot: Slot::new(queue), place, wakes }
            });
            let rx = queues.collect();
            let offloads = tx.first().map(TxQueue::offloads).unwrap_or_default();
            Device::Nic { rx, tx: tx.into_iter().map(|queue| Arc::new(Mutex::new(queue))).collect(), offloads, pool }
        })
    }

    /// Changes what holds for a port's frames; none is lost over it. Addresses learned at the port are forgotten when its
    /// VLANs or its own address change.
    ///
    /// # Errors
    /// [`DatapathError::TableFull`]: nothing is changed then. [`DatapathError::Unresponsive`].
    pub fn set_port(&self, id: PortId, rules: Rules) -> Result<(), DatapathError> {
        let mut state = self.state();
        let Some(port) = state.port_mut(id) else { return Ok(()) };
        let before = std::mem::replace(&mut port.rules, Arc::new(rules));
        let (after, network, is_bound) = (port.rules.clone(), port.network, port.is_bound);
        let moves = before.vlans != after.vlans || before.mac() != after.mac();
        let table = state.table(network).filter(|_| moves);
        if let Some(table) = &table
            && !(if is_bound { bind(table, &after, id) } else { can_bind(table, &after) })
        {
            if let Some(port) = state.port_mut(id) {
                port.rules = before.clone();
            }
            if is_bound {
                table.forget(id);
                bind(table, &before, id);
            }
            return Err(DatapathError::TableFull);
        }
        if let Some(port) = state.port_mut(id) {
            if before.limits != after.limits {
                port.limiter = Arc::new(Limiter::new(&after.limits));
            }
            if before.rates != after.rates {
                port.meter = Arc::new(Meter::new(&after.rates));
            }
        }
        self.publish(&mut state)?;
        if let Some(table) = table {
            // No worker learns by the old rules any more.
            table.forget(id);
            let _ = is_bound && bind(&table, &after, id);
            if let Some(network) = state.network_mut(network) {
                network.forget(id);
                network.welcome(id, self.start.elapsed());
            }
        }
        Ok(())
    }

    /// Says which ports get copies of which others' frames, in place of what was said before.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn set_mirrors(&self, mirrors: Vec<Mirror>) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.mirrors = mirrors;
        self.publish(&mut state)
    }

    /// What the workers would do with a frame that arrived at `port` now; `name` gives names to ports. `None` when there is
    /// no such port.
    pub fn trace(&self, port: PortId, frame: &[u8], name: &dyn Fn(PortId) -> String) -> Option<Trace> {
        let plan = self.state().plans.last().cloned()?;
        trace::trace(&plan.topology, port, LocalFrame::from(frame), self.start.elapsed(), name)
    }

    /// Takes a port away. Its queues are free when this returns.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn remove_port(&self, port: PortId) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.mirrors.retain(|mirror| mirror.target != port);
        state.mirrors.iter_mut().for_each(|mirror| mirror.sources.retain(|source| *source != port));
        let Some(mut gone) = state.ports.get_mut(port.index()).and_then(Option::take) else { return Ok(()) };
        let published = self.publish(&mut state);
        // What it said last is not to be taken for the next port's of its number.
        self.take_snooped(&mut state);
        state.ports.iter().flatten().flat_map(|other| &other.latencies).for_each(|latency| latency.forget(port));
        if let Some(network) = state.network_mut(gone.network) {
            network.table.forget(port);
            network.forget(port);
        }
        if let Device::Guest(rings) = &mut gone.device {
            rings.values().for_each(|ring| self.unwatch_ring(ring));
            if published.is_err() {
                state.stuck.extend(std::mem::take(rings).into_values());
            }
        }
        published
    }

    /// Stops, starts, enables and disables rings of a guest port; returns where the stopped ones stand. Every worker has
    /// taken up the change when this returns; a ring that did not run stands at 0. A ring that cannot start is told as [`Event::NotStarted`].
    ///
    /// # Errors
    /// [`Unresponsive`] when a worker does not answer: nothing that a stopped ring uses may be freed.
    pub fn change_rings(&self, port: PortId, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        let mut state = self.state();
        let (mut stopped, mut started, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut logs = Vec::new();
        for change in changes {
            match change {
                RingChange::Stop { ring } => match state.rings(port).and_then(|rings| rings.remove(&ring)) {
                    Some(taken) => stopped.push((ring, taken)),
                    None => positions.push(StoppedRing { ring, position: 0 }),
                },
                RingChange::Start { ring, setup } => started.push((ring, setup)),
                RingChange::Enable { ring, enabled } => {
                    if let Some(ring) = state.rings(port).and_then(|rings| rings.get_mut(&ring)) {
                        ring.enabled = enabled;
                    }
                }
                RingChange::Log { ring, log } => logs.push((ring, log)),
            }
        }
        if !stopped.is_empty() {
            stopped.iter().for_each(|(_, ring)| self.unwatch_ring(ring));
            if self.publish(&mut state).is_err() {
                state.stuck.extend(stopped.into_iter().map(|(_, ring)| ring));
                return Err(Unresponsive);
            }
            positions
                .extend(stopped.iter().map(|(ring, taken)| StoppedRing { ring: *ring, position: taken.position() }));
            let has_left = started.is_empty() && stopped.iter().any(|(_, ring)| ring.log.is_some());
            drop(stopped);
            if has_left {
                forget_guest(&mut state, port);
            }
        }
        if !logs.is_empty() {
            self.log_writes(&mut state, port, &logs)?;
        }
        // A device that starts anew: what its guest broke before is forgotten.
        let attachment = state.next_attachment();
        if !started.is_empty()
            && let Some(guest) = state.port_mut(port)
            && matches!(&guest.device, Device::Guest(rings) if rings.is_empty())
        {
            guest.quarantined = false;
            guest.attachment = attachment;
            guest.is_bound = true;
            let (network, rules) = (guest.network, guest.rules.clone());
            // It may be another guest, which gets all groups until it has said which it wants. What the one before had learned
            // here would leave no room for it, and lead others' frames astray.
            if let Some(network) = state.network_mut(network) {
                network.welcome(port, self.start.elapsed());
                network.table.forget_learned(port);
                // Where other ports' own addresses leave no room for it, it is learned from its frames.
                let _ = bind(&network.table, &rules, port);
            }
        }
        for (number, setup) in started {
            match self.start_ring(&mut state, number, &setup) {
                Ok(ring) => {
                    state.rings(port).and_then(|rings| rings.insert(number, ring));
                }
                Err(error) => {
                    let attachment = state.attachment(port);
                    let _ = self.send_event.try_send(Event::NotStarted { port, attachment, error });
                }
            }
        }
        self.publish(&mut state).map_err(|_| Unresponsive)?;
        Ok(positions)
    }

    /// Takes a guest port out of service until its rings have been stopped and started again. `false` when that was done
    /// already, or the guest of that `attachment` is there no more.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn quarantine(&self, port: PortId, attachment: u32) -> Result<bool, DatapathError> {
        let mut state = self.state();
        match state.ports.get_mut(port.index()) {
            Some(Some(port)) if !port.quarantined && port.attachment == attachment => port.quarantined = true,
            _ => return Ok(false),
        }
        self.publish(&mut state).map(|()| true)
    }

    /// When [`Self::watch_workers`] is to be called next.
    pub fn watch_interval(&self) -> Duration {
        let all_sleep = self.workers.iter().all(|worker| worker.shared.handover.is_asleep());
        if all_sleep { WATCH_INTERVAL } else { BUSY_WATCH_INTERVAL }
    }

    /// Frees workers that stand still in a system call, which a frontend can bring about, and tells of those that will
    /// never go round again; to be called every [`Self::watch_interval`].
    pub fn watch_workers(&self) -> Vec<Stuck> {
        let stuck = self.workers.iter().enumerate().filter_map(|(number, worker)| {
            let (shared, now) = (&worker.shared, Instant::now());
            let mut watch = worker.watch.lock().unwrap_or_else(PoisonError::into_inner);
            let cpu = worker.clock.and_then(|clock| clock.read());
            match watch.look(now, shared.counters.rounds(), shared.handover.is_asleep(), cpu) {
                Verdict::Runs => {}
                Verdict::Stands => worker.unblocker.unblock(),
                Verdict::Stuck => return Some(Stuck { worker: number, port: shared.at.port() }),
            }
            None
        });
        stuck.collect()
    }

    /// Whether all workers run what was published last. It may take as long as a change that is under way.
    pub fn is_up_to_date(&self) -> bool {
        let generation = self.state().generation;
        self.workers.iter().all(|worker| worker.shared.handover.has_acknowledged(generation))
    }

    /// The guest ports whose memory was truncated, with their attachments.
    pub fn ports_with_lost_memory(&self) -> Vec<(PortId, u32)> {
        let state = self.state();
        let lost = state.ports.iter().zip(0..).filter_map(|(port, id)| match port.as_ref()? {
            PortState { device: Device::Guest(rings), attachment, .. } => {
                rings.values().any(Ring::has_lost_memory).then_some((PortId(id), *attachment))
            }
            PortState { device: Device::Nic { .. }, .. } => None,
        });
        lost.collect()
    }

    /// Sends a reverse ARP frame in the name of a guest that came to `port`.
    pub fn announce(&self, port: PortId, address: MacAddress) {
        if let Some(worker) = self.workers.first() {
            // A full queue means that 64 announcements wait: this one is lost, as any frame may be.
            let _ = worker.shared.announcements.push((port, announce::rarp(address)));
            let _ = worker.shared.waker.wake();
        }
    }

    /// A port's counters.
    pub fn totals(&self, port: PortId) -> Option<PortTotals> {
        let (counters, before) = {
            let state = self.state();
            let port = state.port(port)?;
            (port.counters.clone(), port.before.clone())
        };
        let mut totals = PortTotals::sum(&counters);
        totals.add(&before);
        Some(totals)
    }

    /// Has a port's counters go on from what an earlier process has counted.
    pub fn restore_totals(&self, port: PortId, before: PortTotals) {
        if let Some(port) = self.state().port_mut(port) {
            port.before = before;
        }
    }

    /// How many of a guest's receive and transmit queues are running and enabled.
    pub fn running_queues(&self, port: PortId) -> (usize, usize) {
        let mut state = self.state();
        let Some(rings) = state.rings(port) else { return (0, 0) };
        let running = |receive| rings.iter().filter(|(id, ring)| (*id % 2 == 0) == receive && ring.enabled).count();
        (running(true), running(false))
    }

    /// The addresses known in a network.
    pub fn macs(&self, network: NetworkId) -> Vec<MacEntry> {
        let table = self.state().table(network);
        table.map_or_else(Vec::new, |table| table.entries(self.now()))
    }

    /// The addresses that were learned in a network.
    pub fn learned(&self, network: NetworkId) -> Vec<LearnedAddress> {
        let Some(table) = self.state().table(network) else { return Vec::new() };
        let now = self.now();
        let learned = table.entries(now).into_iter().filter_map(|entry| {
            let MacEntry { address, vlan, port, age_seconds } = entry;
            Some(LearnedAddress { port, vlan, address, seen: now.saturating_sub(age_seconds?) })
        });
        learned.collect()
    }

    /// Which guest is at a port: another number than before is another guest, 0 none so far. See [`Self::restore_learned`].
    pub fn attachment(&self, port: PortId) -> u32 {
        self.state().attachment(port)
    }

    /// Learns what an earlier process had learned, as far as the rules of its port permit by now, and nothing newer is known. Returns how
    /// many addresses. None, if at `port`, whose all of them are, another guest is than that of `attachment`.
    pub fn restore_learned(&self, port: PortId, attachment: u32, addresses: &[LearnedAddress]) -> usize {
        let state = self.state();
        let Some(PortState { network, rules, .. }) = state.port(port).filter(|port| port.attachment == attachment)
        else {
            return 0;
        };
        let (Some(table), now) = (state.table(*network), self.now()) else { return 0 };
        let is_permitted = |learned: &&LearnedAddress| {
            let LearnedAddress { vlan, address, .. } = **learned;
            !address.is_group() && rules.vlans.carries(vlan) && rules.mac().is_none_or(|mac| mac == address)
        };
        let restored = addresses.iter().filter(is_permitted).filter(|learned| {
            let LearnedAddress { vlan, address, seen, .. } = **learned;
            table.restore(vlan, address, port, rules.mac_limit, seen, now)
        });
        restored.count()
    }

    /// Forgets addresses that were not seen for too long; to be called now and then.
    pub fn sweep(&self) {
        let state = self.state();
        let tables: Vec<_> = state.networks.iter().flatten().map(|network| network.table.clone()).collect();
        drop(state);
        tables.iter().for_each(|table| table.sweep(self.now()));
    }

    /// Takes note of what guests said about multicast groups, and lets memberships expire; to be called every
    /// [`WATCH_INTERVAL`].
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn update_groups(&self) -> Result<(), DatapathError> {
        let now = self.start.elapsed();
        let mut state = self.state();
        self.take_snooped(&mut state);
        let mut changed = false;
        for (groups, map) in state.networks.iter_mut().flatten().filter_map(|network| network.groups.as_mut()) {
            groups.expire(now);
            let new = groups.snapshot();
            if new != **map {
                *map = Arc::new(new);
                changed = true;
            }
        }
        if changed { self.publish(&mut state) } else { Ok(()) }
    }

    /// Takes note of what workers have heard about multicast groups from ports that are there.
    fn take_snooped(&self, state: &mut State) {
        let now = self.start.elapsed();
        for worker in &self.workers {
            // A bounded number: workers add to them meanwhile.
            for (port, vlan, snooped) in (0..worker.shared.snooped.len()).map_while(|_| worker.shared.snooped.pop()) {
                let network = state.port(port).map(|port| port.network);
                let groups = network.and_then(|network| state.network_mut(network)?.groups.as_mut());
                if let Some((groups, _)) = groups {
                    groups.apply(vlan, port, &snooped, now);
                }
            }
        }
    }

    /// Starts to copy a port's frames into a tap.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn add_tap(&self, port: PortId, tap: Arc<Tap>) -> Result<(), DatapathError> {
        self.change_port(port, |port| port.taps.push(tap))
    }

    /// Ends what [`Self::add_tap`] started: no frame comes into the tap any more.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn remove_tap(&self, port: PortId, tap: &Arc<Tap>) -> Result<(), DatapathError> {
        self.change_port(port, |port| port.taps.retain(|other| !Arc::ptr_eq(other, tap)))
    }

    /// Starts to count how long frames of a port stay.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn add_latency(&self, port: PortId, latency: Arc<Latency>) -> Result<(), DatapathError> {
        self.change_port(port, |port| port.latencies.push(latency))
    }

    /// Ends what [`Self::add_latency`] started.
    ///
    /// # Errors
    /// [`DatapathError::Unresponsive`].
    pub fn remove_latency(&self, port: PortId, latency: &Arc<Latency>) -> Result<(), DatapathError> {
        self.change_port(port, |port| port.latencies.retain(|other| !Arc::ptr_eq(other, latency)))
    }

    /// The ports whose frames' times are counted, each with what was counted for longest.
    pub fn latencies(&self) -> Vec<(PortId, Arc<Latency>)> {
        let state = self.state();
        let ports = (0..).zip(&state.ports).filter_map(|(id, port)| Some((PortId(id), port.as_ref()?)));
        ports.filter_map(|(id, port)| Some((id, Arc::clone(port.latencies.first()?)))).collect()
    }

    /// What each worker did.
    pub fn workers(&self) -> Vec<WorkerTotals> {
        self.workers.iter().map(|worker| worker.shared.counters.totals(worker.core)).collect()
    }

    fn set_held(&self, held: bool) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.held = held;
        self.publish_within(&mut state, START_TIME)
    }

    fn now(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_port(
        &self,
        network: NetworkId,
        rules: Rules,
        device: impl FnOnce(&Self, &mut State) -> Device,
    ) -> Result<PortId, DatapathError> {
        let mut state = self.state();
        let free = state.ports.iter().position(Option::is_none).unwrap_or(state.ports.len());
        let id = u16::try_from(free).ok().filter(|_| free < MAX_PORTS).ok_or(DatapathError::TooManyPorts)?;
        let table = state.table(network);
        if table.as_ref().is_some_and(|table| !can_bind(table, &rules)) {
            return Err(DatapathError::TableFull);
        }
        let device = device(self, &mut state);
        // A guest that has not come may run on another machine meanwhile, and be known there.
        let is_bound = matches!(device, Device::Nic { .. });
        if is_bound && let Some(table) = table {
            bind(&table, &rules, PortId(id));
        }
        let counters = self.workers.iter().map(|_| PortCounters::default()).collect();
        let port = PortState {
            network,
            limiter: Arc::new(Limiter::new(&rules.limits)),
            meter: Arc::new(Meter::new(&rules.rates)),
            rules: Arc::new(rules),
            counters,
            before: PortTotals::default(),
            taps: Vec::new(),
            latencies: Vec::new(),
            quarantined: false,
            attachment: 0,
            is_bound,
            device,
        };
        match state.ports.get_mut(free) {
            Some(place) => *place = Some(port),
            None => state.ports.push(Some(port)),
        }
        if let Err(error) = self.publish(&mut state) {
            // Nobody learns its number: it may not stay.
            if let Some(place) = state.ports.get_mut(free) {
                *place = None;
            }
            if let Some(table) = state.table(network) {
                table.forget(PortId(id));
            }
            return Err(error);
        }
        Ok(PortId(id))
    }

    fn change_port(&self, port: PortId, change: impl FnOnce(&mut PortState)) -> Result<(), DatapathError> {
        let mut state = self.state();
        if let Some(Some(port)) = state.ports.get_mut(port.index()) {
            change(port);
        }
        self.publish(&mut state)
    }

    fn start_ring(
        &self,
        state: &mut State,
        number: u16,
        setup: &RingSetup,
    ) -> Result<Ring, culvert_guest::split::StartError> {
        let (memory, enabled) = (setup.memory.clone(), setup.enabled);
        let log = setup.log.as_ref().map(|log| log.log.clone());
        if number.is_multiple_of(2) {
            let queue = ReceiveQueue::start(setup)?;
            let takes = queue.takes();
            return Ok(Ring { memory, log, enabled, queue: Queue::Receive(Arc::new(Mutex::new(queue)), takes) });
        }
        let queue = TransmitQueue::start(setup)?;
        let place = self.place(state);
        // A descriptor that epoll does not take cannot wake us: the ring is polled.
        let kick = setup.kick.clone().filter(|kick| self.watch(place.worker, place.token, input::raw(kick.as_fd())));
        Ok(Ring { memory, log, enabled, queue: Queue::Transmit { slot: Slot::new(queue), kick, place } })
    }

    /// Has the writes of running rings logged from now on, or not. A queue that is polled is in nobody's hands meanwhile, and keeps its place:
    /// what its guest sends waits in the ring.
    fn log_writes(&self, state: &mut State, port: PortId, logs: &[(u16, Option<RingLog>)]) -> Result<(), Unresponsive> {
        let rings = state.rings(port).into_iter().flatten();
        let polled = rings.filter(|(number, _)| logs.iter().any(|(ring, _)| ring == *number));
        state.away = polled.filter_map(|(_, ring)| Some(ring.place()?.token)).collect();
        let left = if state.away.is_empty() { Ok(()) } else { self.publish(state) };
        state.away = BTreeSet::new();
        // The caller publishes again.
        left.map_err(|_| Unresponsive)?;
        for (number, log) in logs {
            if let Some(ring) = state.rings(port).and_then(|rings| rings.get_mut(number)) {
                ring.log(log.as_ref());
            }
        }
        Ok(())
    }

    /// A place at the worker with the fewest inputs.
    fn place(&self, state: &mut State) -> Place {
        let inputs = |worker| state.polled().filter(|polled| polled.place.worker == worker).count();
        let worker = (0..self.workers.len()).min_by_key(|&worker| inputs(worker)).unwrap_or(0);
        Place { worker, token: state.token(), work: Work::new() }
    }

    /// Has a descriptor wake a worker. `false` when it cannot.
    fn watch(&self, worker: usize, token: usize, descriptor: RawFd) -> bool {
        self.workers.get(worker).is_some_and(|worker| {
            worker.registry.register(&mut SourceFd(&descriptor), Token(token), Interest::READABLE).is_ok()
        })
    }

    /// Ends what [`Self::watch`] did.
    fn unwatch(&self, place: &Place, descriptor: RawFd) {
        if let Some(worker) = self.workers.get(place.worker) {
            let _ = worker.registry.deregister(&mut SourceFd(&descriptor));
        }
    }

    fn unwatch_ring(&self, ring: &Ring) {
        if let Queue::Transmit { kick: Some(kick), place, .. } = &ring.queue {
            self.unwatch(place, input::raw(kick.as_fd()));
        }
    }

    /// Hands the present state to all workers and waits until they run it.
    fn publish(&self, state: &mut State) -> Result<(), DatapathError> {
        let limit = if state.held { START_TIME } else { ACKNOWLEDGE_TIME };
        self.publish_within(state, limit)
    }

    fn publish_within(&self, state: &mut State, limit: Duration) -> Result<(), DatapathError> {
        state.generation += 1;
        let generation = state.generation;
        let plan = Arc::new(state.plan(generation, self.workers.len()));
        state.plans.push(plan.clone());
        for worker in &self.workers {
            worker.shared.handover.publish(generation, plan.clone());
            let _ = worker.shared.waker.wake();
        }
        let start = Instant::now();
        let acknowledged = |worker: &WorkerHandle| worker.shared.handover.has_acknowledged(generation);
        while !self.workers.iter().all(acknowledged) {
            if start.elapsed() > limit {
                return Err(DatapathError::Unresponsive);
            }
            if start.elapsed() > WATCH_INTERVAL {
                self.watch_workers();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        // Nobody runs an older plan: free those, and what was stopped with them, here and not in a worker.
        plan.free_left();
        state.plans.retain(|plan| plan.generation == generation);
        state.stuck.clear();
        Ok(())
    }
}

/// Forgets where the guest of a port was found, once all of its rings have stopped: it goes on elsewhere, and others shall find it there.
fn forget_guest(state: &mut State, port: PortId) {
    let Some(guest) =
        state.port_mut(port).filter(|guest| matches!(&guest.device, Device::Guest(rings) if rings.is_empty()))
    else {
        return;
    };
    guest.is_bound = false;
    let network = guest.network;
    if let Some(network) = state.network_mut(network) {
        network.table.forget(port);
        network.forget(port);
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.shared.handover.stop();
            let _ = worker.shared.waker.wake();
        }
        for worker in &mut self.workers {
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}

impl WorkerHandle {
    fn start(
        index: usize,
        core: usize,
        idle_sleep: Option<Duration>,
        events: SyncSender<Event>,
        start: Instant,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let shared = Arc::new(Shared {
            handover: HandOver::new(),
            waker: Waker::new(&registry, WAKER)?,
            announcements: ArrayQueue::new(64),
            snooped: SnoopQueue::new(),
            counters: WorkerCounters::default(),
            at: Breadcrumb::default(),
            dpdk: OnceLock::new(),
            registered: OnceLock::new(),
        });
        let worker = Worker::new(index, shared.clone(), poll, events, idle_sleep, start);
        let (ready, is_ready) = sync_channel(1);
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || match bind_to_core(core) {
                Ok(()) => {
                    let _ = ready.send(Ok((Unblocker::for_this_thread(), ThreadClock::of_this_thread())));
                    worker.run();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?;
        let (unblocker, clock) = is_ready.recv().map_err(std::io::Error::other)??;
        let watch = Mutex::new(Watch::new(Instant::now()));
        Ok(Self { core, shared, registry, unblocker, clock, watch, thread: Some(thread) })
    }
}

/// What is kept of a network's groups, if that is wanted.
fn groups(settings: NetworkSettings) -> Option<(Groups, Arc<culvert_switch::groups::GroupMap>)> {
    settings.snooping.then(|| {
        let groups = Groups::default();
        let map = Arc::new(groups.snapshot());
        (groups, map)
    })
}

/// Binds a port's own address, if it has one, in its VLANs. `false` when the table has no room for it.
fn bind(table: &MacTable, rules: &Rules, port: PortId) -> bool {
    rules.mac().is_none_or(|mac| rules.vlans.bound().into_iter().all(|vlan| table.bind(vlan, mac, port)))
}

/// Whether there is room for that; nothing is bound.
fn can_bind(table: &MacTable, rules: &Rules) -> bool {
    rules.mac().is_none_or(|mac| rules.vlans.bound().into_iter().all(|vlan| table.can_bind(vlan, mac)))
}

fn seconds(age: Duration) -> u32 {
    u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
}

/// When the kernel's monotonic clock began.
fn beginning() -> Instant {
    // By the C library: rustix asks the kernel where its clock is, which this process may not any more.
    let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    // It is the clock of `Instant`.
    let now = Instant::now();
    now.checked_sub(since).unwrap_or(now)
}

fn bind_to_core(core: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::Error::other(format!("core {core} does not exist")));
    }
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
