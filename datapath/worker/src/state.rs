//! What control wants the workers to run, and how that becomes a plan. Pure data: no threads, no descriptors.
//!
//! [`Datapath`](crate::Datapath) changes it under its lock and publishes a [`Plan`] of it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_frame::MacAddress;
use culvert_guest::{Memory, ReceiveQueue, TransmitQueue};
use culvert_nic::{Pool, RxQueue, TxQueue};
use culvert_switch::network::NetworkId;
use culvert_switch::{Egress, MacTable, Port, PortCounters, PortId, Tap, Topology};

use crate::input::{Input, Slot};
use crate::plan::Plan;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) ports: Vec<Option<PortState>>,
    pub(crate) tables: Vec<Option<Arc<MacTable>>>,
    pub(crate) next_token: usize,
    /// Plans that some worker may still run.
    pub(crate) plans: Vec<Arc<Plan>>,
    /// Rings whose stop was not acknowledged: kept until a later plan is.
    pub(crate) stuck: Vec<Ring>,
    /// No worker takes frames: ports are still being added.
    pub(crate) held: bool,
}

#[derive(Debug)]
pub(crate) struct PortState {
    pub(crate) network: NetworkId,
    pub(crate) source: Option<MacAddress>,
    pub(crate) mtu: u16,
    pub(crate) mac_limit: u32,
    pub(crate) counters: Arc<[PortCounters]>,
    pub(crate) taps: Vec<Arc<Tap>>,
    pub(crate) quarantined: bool,
    /// Counts the guests that started rings here.
    pub(crate) attachment: u32,
    pub(crate) device: Device,
}

#[derive(Debug)]
pub(crate) enum Device {
    /// Running rings by their number: even ones are the guest's receive queues, odd ones its transmit queues.
    Guest(BTreeMap<u16, Ring>),
    Nic {
        rx: Vec<NicQueue>,
        tx: Box<[Arc<Mutex<TxQueue>>]>,
        pool: Pool,
    },
}

#[derive(Debug)]
pub(crate) struct NicQueue {
    pub(crate) slot: Slot<RxQueue>,
    pub(crate) worker: usize,
    pub(crate) token: usize,
    pub(crate) wakes: bool,
}

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) memory: Arc<Memory>,
    pub(crate) enabled: bool,
    pub(crate) queue: Queue,
}

#[derive(Debug)]
pub(crate) enum Queue {
    Receive(Arc<Mutex<ReceiveQueue>>),
    Transmit { slot: Slot<TransmitQueue>, kick: Option<Arc<OwnedFd>>, worker: usize, token: usize },
}

impl State {
    pub(crate) fn table(&self, network: NetworkId) -> Option<Arc<MacTable>> {
        self.tables.get(usize::from(network.0))?.clone()
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
        for (worker, input) in self.inputs().filter(|_| !self.held) {
            if let Some(inputs) = inputs.get_mut(worker) {
                inputs.push(input);
            }
        }
        let ports = self.ports.iter().zip(0..).map(|(port, id)| port.as_ref().map(|port| port.for_switch(PortId(id))));
        Plan::new(generation, Topology::new(ports.collect(), self.tables.clone()), inputs)
    }

    /// Every queue that is polled, with its worker.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (usize, Input)> + '_ {
        let ports = self.ports.iter().zip(0..).filter_map(|(port, id)| Some((port.as_ref()?, PortId(id))));
        ports.filter(|(port, _)| !port.quarantined).flat_map(|(port, id)| port.inputs(id))
    }
}

impl PortState {
    pub(crate) fn inputs(&self, id: PortId) -> Vec<(usize, Input)> {
        match &self.device {
            Device::Guest(rings) => rings.values().filter_map(|ring| ring.input(id)).collect(),
            Device::Nic { rx, .. } => rx
                .iter()
                .map(|queue| (queue.worker, Input::nic(id, queue.token, queue.slot.clone(), queue.wakes)))
                .collect(),
        }
    }

    pub(crate) fn for_switch(&self, id: PortId) -> Port {
        let Self { network, attachment, source, mac_limit, mtu, .. } = *self;
        let (taps, counters) = (self.taps.as_slice().into(), self.counters.clone());
        Port { id, network, attachment, source, mac_limit, mtu, egress: self.egress(), taps, counters }
    }

    pub(crate) fn egress(&self) -> Egress {
        match &self.device {
            _ if self.quarantined => Egress::Quarantined,
            Device::Nic { tx, pool, .. } if !tx.is_empty() => Egress::Nic(tx.clone(), pool.clone()),
            Device::Nic { .. } => Egress::Down,
            Device::Guest(rings) => {
                let queues: Box<[_]> = rings.values().filter_map(Ring::receive_queue).collect();
                if queues.is_empty() { Egress::Down } else { Egress::Guest(queues) }
            }
        }
    }
}

impl Ring {
    /// The queue to deliver to, if this is one and it is enabled.
    pub(crate) fn receive_queue(&self) -> Option<Arc<Mutex<ReceiveQueue>>> {
        match &self.queue {
            Queue::Receive(queue) if self.enabled => Some(queue.clone()),
            Queue::Receive(_) | Queue::Transmit { .. } => None,
        }
    }

    /// The input to poll, if this is one, and who polls it.
    pub(crate) fn input(&self, port: PortId) -> Option<(usize, Input)> {
        match &self.queue {
            Queue::Transmit { slot, kick, worker, token } => {
                Some((*worker, Input::guest(port, *token, slot.clone(), self.enabled, kick.is_some())))
            }
            Queue::Receive(_) => None,
        }
    }

    /// Where the ring stands; the worker has given it back.
    pub(crate) fn position(&self) -> u16 {
        match &self.queue {
            Queue::Receive(queue) => queue.lock().unwrap_or_else(PoisonError::into_inner).position(),
            Queue::Transmit { slot, .. } => {
                let queue = slot.lock().unwrap_or_else(PoisonError::into_inner);
                queue.as_ref().map_or(0, |queue| queue.position())
            }
        }
    }
}
