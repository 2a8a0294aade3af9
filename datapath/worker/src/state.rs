//! What control wants the workers to run, and how that becomes a plan. Pure data: no threads, no descriptors.
//!
//! [`Datapath`](crate::Datapath) changes it under its lock and publishes a [`Plan`] of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_frame::Offloads;
use culvert_guest::{DirtyLog, Memory, ReceiveQueue, RingLog, TransmitQueue};
use culvert_nic::{NicOffloads, Pool, RxQueue, TxQueue};
use culvert_switch::groups::{GroupMap, Groups};
use culvert_switch::limits::Limiter;
use culvert_switch::port::MirrorTo;
use culvert_switch::rates::Meter;
use culvert_switch::{
    Bridge, Egress, Latency, MacTable, NetworkId, Port, PortCounters, PortId, PortTotals, Rules, Tap, Topology,
};

use crate::handover::Slot;
use crate::input::Input;
use crate::load::{InputTotals, Looks, Work};
use crate::plan::Plan;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) ports: Vec<Option<PortState>>,
    pub(crate) networks: Vec<Option<NetworkState>>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) next_token: usize,
    /// Counts the guests that started rings at any port.
    pub(crate) attachments: u32,
    /// Plans that some worker may still run.
    pub(crate) plans: Vec<Arc<Plan>>,
    /// Rings whose stop was not acknowledged: kept until a later plan is.
    pub(crate) stuck: Vec<Ring>,
    /// No worker takes frames: ports are still being added.
    pub(crate) held: bool,
    /// The inputs, by their tokens, that are on their way from one worker to another: in no plan.
    pub(crate) away: BTreeSet<usize>,
    /// What inputs had taken of their workers at earlier times.
    pub(crate) looks: Looks,
}

/// Where a queue that frames come from is polled.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) worker: usize,
    /// Names the queue in epoll sets, for as long as it runs.
    pub(crate) token: usize,
    pub(crate) work: Arc<Work>,
}

/// One such queue, in control's eyes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polled<'a> {
    pub(crate) port: PortId,
    /// Its number among those of its port that frames come from.
    pub(crate) queue: u16,
    pub(crate) place: &'a Place,
}

#[derive(Debug)]
pub(crate) struct NetworkState {
    pub(crate) table: Arc<MacTable>,
    /// Who listens to which multicast group, where that is looked at; and what workers know of it.
    pub(crate) groups: Option<(Groups, Arc<GroupMap>)>,
}

/// Copies of ports' frames for another port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The ports whose frames are copied.
    pub sources: Vec<PortId>,
    /// Whether frames that arrive at them are.
    pub rx: bool,
    /// Whether frames that are to leave them are.
    pub tx: bool,
    /// The port that gets the copies, and takes no other part in its network.
    pub target: PortId,
}

#[derive(Debug)]
pub(crate) struct PortState {
    pub(crate) network: NetworkId,
    pub(crate) rules: Arc<Rules>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) counters: Arc<[PortCounters]>,
    /// What an earlier process has counted.
    pub(crate) before: PortTotals,
    pub(crate) taps: Vec<Arc<Tap>>,
    pub(crate) latencies: Vec<Arc<Latency>>,
    pub(crate) quarantined: bool,
    /// Which guest last started rings here; no two have had the same number, at whatever port.
    pub(crate) attachment: u32,
    /// Its own address is bound to it: there is no guest that could be elsewhere, or one has come, and has not gone elsewhere.
    pub(crate) is_bound: bool,
    pub(crate) device: Device,
}

#[derive(Debug)]
pub(crate) enum Device {
    /// Running rings by their number: even ones are the guest's receive queues, odd ones its transmit queues.
    Guest(BTreeMap<u16, Ring>),
    Nic {
        rx: Vec<NicQueue>,
        tx: Box<[Arc<Mutex<TxQueue>>]>,
        offloads: NicOffloads,
        pool: Pool,
    },
}

#[derive(Debug)]
pub(crate) struct NicQueue {
    pub(crate) slot: Slot<RxQueue>,
    pub(crate) place: Place,
    pub(crate) wakes: bool,
}

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) memory: Arc<Memory>,
    /// Where its writes are logged: its guest is about to go elsewhere.
    pub(crate) log: Option<Arc<DirtyLog>>,
    pub(crate) enabled: bool,
    pub(crate) queue: Queue,
}

#[derive(Debug)]
pub(crate) enum Queue {
    /// With what its guest takes undone: workers have the queue, and a frame is lost where they wait for it.
    Receive(Arc<Mutex<ReceiveQueue>>, Offloads),
    Transmit {
        slot: Slot<TransmitQueue>,
        kick: Option<Arc<OwnedFd>>,
        place: Place,
    },
}

impl State {
    pub(crate) fn table(&self, network: NetworkId) -> Option<Arc<MacTable>> {
        Some(self.network(network)?.table.clone())
    }

    pub(crate) fn network(&self, network: NetworkId) -> Option<&NetworkState> {
        self.networks.get(usize::from(network.0))?.as_ref()
    }

    pub(crate) fn network_mut(&mut self, network: NetworkId) -> Option<&mut NetworkState> {
        self.networks.get_mut(usize::from(network.0))?.as_mut()
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&PortState> {
        self.ports.get(port.index())?.as_ref()
    }

    pub(crate) fn port_mut(&mut self, port: PortId) -> Option<&mut PortState> {
        self.ports.get_mut(port.index())?.as_mut()
    }

    pub(crate) fn next_attachment(&mut self) -> u32 {
        self.attachments = self.attachments.wrapping_add(1);
        self.attachments
    }

    pub(crate) fn token(&mut self) -> usize {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    pub(crate) fn attachment(&self, port: PortId) -> u32 {
        self.ports.get(port.index()).and_then(Option::as_ref).map_or(0, |port| port.attachment)
    }

    pub(crate) fn rings(&mut self, port: PortId) -> Option<&mut BTreeMap<u16, Ring>> {
        match self.ports.get_mut(port.index())?.as_mut()? {
            PortState { device: Device::Guest(rings), .. } => Some(rings),
            PortState { device: Device::Nic { .. }, .. } => None,
        }
    }

    pub(crate) fn plan(&self, generation: u64, workers: usize) -> Plan {
        let mut inputs: Vec<Vec<Input>> = std::iter::repeat_with(Vec::new).take(workers).collect();
        let is_away = |input: &Input| self.held || self.away.contains(&input.token);
        for (worker, input) in self.inputs().filter(|(_, input)| !is_away(input)) {
            if let Some(inputs) = inputs.get_mut(worker) {
                inputs.push(input);
            }
        }
        Plan::new(generation, self.topology(), inputs)
    }

    fn topology(&self) -> Topology {
        let port = |(port, id): (&Option<PortState>, u16)| {
            let (port, id) = (port.as_ref()?, PortId(id));
            let is_target = self.mirrors.iter().any(|mirror| mirror.target == id);
            Some(port.for_switch(id, self.mirrors_of(id), is_target))
        };
        let bridge = |network: &Option<NetworkState>| {
            let NetworkState { table, groups } = network.as_ref()?;
            Some(Bridge { table: table.clone(), groups: groups.as_ref().map(|(_, map)| map.clone()) })
        };
        Topology::new(self.ports.iter().zip(0..).map(port).collect(), self.networks.iter().map(bridge).collect())
    }

    fn mirrors_of(&self, port: PortId) -> Box<[MirrorTo]> {
        let mirrors = self.mirrors.iter().filter(|mirror| mirror.sources.contains(&port));
        mirrors.map(|&Mirror { rx, tx, target, .. }| MirrorTo { target, rx, tx }).collect()
    }

    /// Every queue that is polled, with its worker.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (usize, Input)> + '_ {
        self.served_ports().flat_map(|(port, id)| port.inputs(id))
    }

    /// The same, without what a worker needs to poll it.
    pub(crate) fn polled(&self) -> impl Iterator<Item = Polled<'_>> {
        self.served_ports().flat_map(|(port, id)| port.polled(id))
    }

    /// What such a queue takes of its worker.
    pub(crate) fn totals(&self, now: Instant, Polled { port, queue, place }: Polled<'_>) -> InputTotals {
        let Place { worker, token, work } = place;
        InputTotals::of(port, queue, *worker, work, self.looks.load(now, *token, work))
    }

    fn served_ports(&self) -> impl Iterator<Item = (&PortState, PortId)> {
        let ports = self.ports.iter().zip(0..).filter_map(|(port, id)| Some((port.as_ref()?, PortId(id))));
        ports.filter(|(port, _)| !port.quarantined)
    }
}

impl NetworkState {
    /// Forgets which groups a port listens to.
    pub(crate) fn forget(&mut self, port: PortId) {
        if let Some((groups, _)) = &mut self.groups {
            groups.forget(port);
        }
    }

    /// Gives a port all groups until it had time to say which it wants.
    pub(crate) fn welcome(&mut self, port: PortId, now: Duration) {
        if let Some((groups, _)) = &mut self.groups {
            groups.welcome(port, now);
        }
    }
}

impl PortState {
    pub(crate) fn inputs(&self, id: PortId) -> Vec<(usize, Input)> {
        match &self.device {
            Device::Guest(rings) => rings.values().filter_map(|ring| ring.input(id)).collect(),
            Device::Nic { rx, .. } => rx.iter().map(|queue| queue.input(id)).collect(),
        }
    }

    fn polled(&self, port: PortId) -> Vec<Polled<'_>> {
        match &self.device {
            Device::Guest(rings) => {
                let places = rings.iter().filter_map(|(ring, of)| Some((ring / 2, of.place()?)));
                places.map(|(queue, place)| Polled { port, queue, place }).collect()
            }
            Device::Nic { rx, .. } => {
                rx.iter().zip(0..).map(|(of, queue)| Polled { port, queue, place: &of.place }).collect()
            }
        }
    }

    fn for_switch(&self, id: PortId, mirrors: Box<[MirrorTo]>, is_mirror_target: bool) -> Port {
        let Self { network, attachment, .. } = *self;
        let (rules, limiter, meter) = (self.rules.clone(), self.limiter.clone(), self.meter.clone());
        let (taps, latencies) = (self.taps.as_slice().into(), self.latencies.as_slice().into());
        let counters = self.counters.clone();
        let egress = self.egress();
        let is_guest = matches!(self.device, Device::Guest(_));
        Port {
            id,
            network,
            attachment,
            rules,
            limiter,
            meter,
            is_guest,
            egress,
            mirrors,
            is_mirror_target,
            taps,
            latencies,
            counters,
        }
    }

    pub(crate) fn egress(&self) -> Egress {
        match &self.device {
            _ if self.quarantined => Egress::Quarantined,
            Device::Nic { tx, offloads, pool, .. } if !tx.is_empty() => {
                Egress::Nic(tx.clone(), *offloads, pool.clone())
            }
            Device::Nic { .. } => Egress::Down,
            Device::Guest(rings) => {
                let queues: Box<[_]> = rings.values().filter_map(Ring::receive_queue).collect();
                let takes = rings.values().filter_map(Ring::takes).next();
                takes.map_or(Egress::Down, |takes| Egress::Guest(queues, takes))
            }
        }
    }
}

impl NicQueue {
    fn input(&self, port: PortId) -> (usize, Input) {
        let Place { worker, token, work } = &self.place;
        (*worker, Input::nic(port, *token, work.clone(), self.slot.clone(), self.wakes))
    }
}

impl Ring {
    /// Has its writes logged from now on, or not; nobody polls it.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        #[cfg(feature = "inject")]
        let log = log.filter(|_| !crate::inject::forgets_writes());
        self.log = log.map(|log| log.log.clone());
        match &self.queue {
            // Whoever delivers has it for a burst only.
            Queue::Receive(queue, _) => queue.lock().unwrap_or_else(PoisonError::into_inner).log(log),
            Queue::Transmit { slot, .. } => slot.change(|queue| queue.log(log)),
        }
    }

    /// Whether memory of its guest's is gone.
    pub(crate) fn has_lost_memory(&self) -> bool {
        self.memory.faulted() || self.log.as_ref().is_some_and(|log| log.faulted())
    }

    /// The queue to deliver to, if this is one and it is enabled.
    pub(crate) fn receive_queue(&self) -> Option<Arc<Mutex<ReceiveQueue>>> {
        match &self.queue {
            Queue::Receive(queue, _) if self.enabled => Some(queue.clone()),
            Queue::Receive(..) | Queue::Transmit { .. } => None,
        }
    }

    /// Which frames the guest takes undone, if this is an enabled receive queue.
    fn takes(&self) -> Option<Offloads> {
        match &self.queue {
            Queue::Receive(_, takes) if self.enabled => Some(*takes),
            Queue::Receive(..) | Queue::Transmit { .. } => None,
        }
    }

    /// The input to poll, if this is one, and who polls it.
    pub(crate) fn input(&self, port: PortId) -> Option<(usize, Input)> {
        match &self.queue {
            Queue::Transmit { slot, kick, place: Place { worker, token, work } } => {
                let input = Input::guest(port, *token, work.clone(), slot.clone(), self.enabled, kick.is_some());
                Some((*worker, input))
            }
            Queue::Receive(..) => None,
        }
    }

    /// Where it is polled, if it is.
    pub(crate) fn place(&self) -> Option<&Place> {
        match &self.queue {
            Queue::Transmit { place, .. } => Some(place),
            Queue::Receive(..) => None,
        }
    }

    /// Where the ring stands; the worker has given it back.
    pub(crate) fn position(&self) -> u16 {
        match &self.queue {
            Queue::Receive(queue, _) => queue.lock().unwrap_or_else(PoisonError::into_inner).position(),
            Queue::Transmit { slot, .. } => slot.look(TransmitQueue::position).unwrap_or(0),
        }
    }
}
