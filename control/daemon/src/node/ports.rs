//! Opening and closing ports. Each is opened by itself, and one that cannot be opened is kept with the reason while the
//! others run.

use std::time::{Duration, Instant};

use anyhow::Context;
use culvert_guest::device::DeviceConfig;
use culvert_nic::PortConfig;
use culvert_switch::{NetworkId, PortId, Rules};
use culvert_vhost::{Keeper, Listener, Place, PortKey, PortSocket, Server};
use culvert_worker::{Datapath, NicQueues};

use super::bars::Bars;
use super::connections::Connections;
use super::live::Dpdk;
use super::ring_records::RingRecords;
use super::rules::rules;
use super::standstill::Inherited;
use crate::config::{Attachment, Port as Config};
use crate::isolation::Isolation;

/// What ports are opened with.
#[derive(Clone, Copy)]
pub(super) struct Opener<'a> {
    /// For devices.
    pub dpdk: Option<&'a Dpdk>,
    /// The workers.
    pub datapath: &'a Datapath,
    /// The vhost-user sockets.
    pub server: &'a Server,
    /// Guests that may not come back.
    pub bars: &'a Bars,
    /// What was given up.
    pub isolation: &'a Isolation,
    /// What the last daemon's guests have left.
    pub connections: &'a Connections,
    /// Where packed rings stand.
    pub ring_records: &'a RingRecords,
    /// What the last daemon has told.
    pub inherited: &'a Inherited,
}

/// A port and what became of it.
#[derive(Debug)]
pub struct Port {
    /// As it is wanted.
    pub config: Config,
    /// What became of it.
    pub opened: Opened,
}

/// What became of a port.
#[derive(Debug)]
pub enum Opened {
    /// Its socket is served.
    Guest {
        /// Its number.
        id: PortId,
        /// Whether it is to have no guest, since the link that it follows is down.
        suspended: bool,
    },
    /// Its device runs.
    Nic(PortId, Box<Nic>),
    /// It could not be opened.
    Failed(Failure),
}

/// An open device.
#[derive(Debug)]
pub struct Nic {
    /// The device.
    pub device: culvert_nic::Port,
    /// The addresses that it was last told to take frames for, besides its own.
    pub filter: Vec<[u8; 6]>,
}

/// Why a port could not be opened, and when it is tried again.
#[derive(Debug)]
pub struct Failure {
    /// Why, with the remedy.
    pub reason: String,
    /// When the next attempt is due.
    pub retry_at: Instant,
    /// How long after that one the next is.
    pub wait: Duration,
}

impl Opener<'_> {
    /// Opens a port in its network.
    pub fn open(&self, config: Config, network: NetworkId) -> Port {
        let permitted = self.isolation.check(&config).map_err(anyhow::Error::msg);
        let opened = permitted.and_then(|()| match &config.attachment {
            Attachment::Guest { .. } => self.open_guest(&config, network),
            Attachment::Nic { device, promiscuous } => self.open_nic(&config, device, *promiscuous, network),
        });
        let opened = opened.unwrap_or_else(|error| {
            let reason = format!("{error:#}");
            Opened::Failed(Failure { reason, retry_at: after(FIRST_RETRY), wait: FIRST_RETRY })
        });
        Port { config, opened }
    }

    /// Takes a port from its guest or device and from the workers. A device is closed when the port and the last queue of it
    /// are dropped after that.
    ///
    /// # Errors
    /// The guest's rings are not stopped: the port must be kept.
    pub fn close(&self, port: &Port) -> anyhow::Result<()> {
        if let Opened::Guest { id, .. } = port.opened {
            self.server.remove(key(id))?;
        }
        // When a worker does not answer, the port is gone all the same with the next plan.
        if let Some(id) = port.id()
            && let Err(error) = self.datapath.remove_port(id)
        {
            tracing::error!(port = port.config.name.as_str(), "the port is closed late: {error}");
        }
        Ok(())
    }

    fn open_guest(&self, config: &Config, network: NetworkId) -> anyhow::Result<Opened> {
        let Attachment::Guest { socket, role, mac, offloads, .. } = &config.attachment else {
            anyhow::bail!("the port has no socket; add `socket`");
        };
        let id = self.datapath.add_guest_port(network, rules(config))?;
        let device = DeviceConfig {
            queue_pairs: config.queues,
            mtu: config.mtu,
            mac: *mac,
            offloads: *offloads,
            migrates: true,
        };
        let (port, name, place, role) = (key(id), config.name.to_string(), socket.clone(), *role);
        let records = self.ring_records.of(&name);
        let socket = PortSocket { port, name, place, role, device, records };
        let bar = self.bars.of(&config.name);
        // What ended the last daemon is not taken up again.
        let kept = if bar.is_none() { self.connections.take(&config.name) } else { Vec::new() };
        if bar.is_some() {
            self.connections.forget(config.name.as_str());
        }
        self.restore_totals(config, id);
        let listener = self.inherited_listener(config, &socket.place);
        if let Err(error) = self.server.add_inherited(socket, kept, listener) {
            self.datapath.remove_port(id)?;
            return Err(error.into());
        }
        if let Some(bar) = bar {
            self.server.bar(key(id), Some(bar));
        }
        Ok(Opened::Guest { id, suspended: false })
    }

    fn open_nic(&self, config: &Config, device: &str, promiscuous: bool, network: NetworkId) -> anyhow::Result<Opened> {
        let wanted = PortConfig {
            name: config.name.to_string(),
            device: device.to_owned(),
            rx_queues: config.queues,
            tx_queues: config.queues,
            mtu: config.mtu,
            descriptors: DESCRIPTORS,
            promiscuous,
            ..PortConfig::default()
        };
        let Dpdk { eal, pool } = self.dpdk.context("DPDK has not started yet")?;
        let mut nic = culvert_nic::Port::open(eal, pool, &wanted)
            .map_err(|error| anyhow::anyhow!("{device}: {}; {}", error.reason, error.remedy))?;
        let (rx, tx) = nic.take_queues();
        let rules = Rules { mtu: nic.mtu(), ..rules(config) };
        let id = self.datapath.add_nic_port(network, rules, NicQueues { rx, tx, pool: pool.clone() })?;
        self.restore_totals(config, id);
        Ok(Opened::Nic(id, Box::new(Nic { device: nic, filter: Vec::new() })))
    }

    /// Has a port's counters go on where the last daemon's were.
    fn restore_totals(&self, config: &Config, id: PortId) {
        if let Some(before) = self.inherited.totals(&config.name) {
            self.datapath.restore_totals(id, before);
        }
    }

    /// The port's socket, if the last daemon has handed it over.
    fn inherited_listener(&self, config: &Config, place: &Place) -> Option<Listener> {
        let identity = self.inherited.listener(&config.name)?;
        let socket = self.connections.take_listener(&config.name)?;
        match Listener::adopt(place, socket, identity) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!(port = config.name.as_str(), "{error}; the socket is made anew");
                None
            }
        }
    }
}

impl Port {
    /// Its number in the datapath; `None` when it could not be opened.
    pub fn id(&self) -> Option<PortId> {
        match self.opened {
            Opened::Guest { id, .. } | Opened::Nic(id, _) => Some(id),
            Opened::Failed(_) => None,
        }
    }

    /// Why it could not be opened.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.opened {
            Opened::Failed(failure) => Some(failure),
            Opened::Guest { .. } | Opened::Nic(..) => None,
        }
    }

    /// Notes that this port failed again after it had failed as `before`: the next attempt takes longer to come.
    pub fn failed_after(&mut self, before: Duration) {
        if let Opened::Failed(failure) = &mut self.opened {
            failure.wait = before.saturating_mul(2).min(LAST_RETRY);
            failure.retry_at = after(failure.wait);
        }
    }
}

/// The vhost-user server's number of a port, which is the datapath's.
pub fn key(port: PortId) -> PortKey {
    PortKey(port.0.into())
}

/// The reverse of [`key`]; `None` for a number that [`key`] does not give.
pub fn id(port: PortKey) -> Option<PortId> {
    u16::try_from(port.0).ok().map(PortId)
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}

/// Descriptors wanted for each queue of a NIC.
const DESCRIPTORS: u16 = 1024;
/// How long after a failure a port is tried again, the first time and at most.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(60);
