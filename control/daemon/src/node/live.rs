//! The node on the real datapath: starts its parts in their order, and answers the questions of clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use culvert_api::v1;
use culvert_nic::{Eal, EalConfig, HugepageUse, Pool, PoolConfig};
use culvert_switch::network::NetworkId;
use culvert_switch::{PortId, PortTotals};
use culvert_vhost::Server;
use culvert_worker::{Datapath, DatapathConfig};
use tokio::sync::{Semaphore, mpsc};

use super::backend::Rings;
use super::capture::{self, MAX_CAPTURES};
use super::faults;
use super::ports::{Opened, Opener, Port, key};
use super::{CaptureError, Node};
use crate::config::{Config, Network, Object};

/// The node on the real datapath. The fields end in their order: first the sockets, so that guests are told; then the
/// workers; then the devices, whose queues the workers had.
#[derive(Debug)]
pub struct LiveNode {
    server: Server,
    datapath: Arc<Datapath>,
    ports: Vec<Port>,
    networks: Vec<(Network, NetworkId)>,
    eal: Arc<Eal>,
    captures: Arc<Semaphore>,
    config_file: String,
    started: Instant,
}

impl LiveNode {
    /// Starts DPDK, the workers, and every port that can be opened. Returns the node and the thread that ends after it.
    ///
    /// # Errors
    /// When DPDK, its memory or a worker cannot start. A port that cannot be opened is no error.
    pub fn start(config: Config, config_file: &Path, main_core: usize) -> Result<(Arc<Self>, JoinHandle<()>)> {
        let eal = EalConfig {
            memory_mb: config.datapath.memory_mb,
            hugepages: config.datapath.hugepages,
            main_core,
            pci: config.objects.use_pci(),
            extra_args: config.datapath.eal_args.clone(),
        };
        let eal = Arc::new(Eal::start(&eal)?);
        let largest_mtu = config.objects.ports.iter().map(|port| port.wanted.mtu).max().unwrap_or(0).max(1500);
        let pool = Pool::create(&eal, &PoolConfig { largest_mtu, ..PoolConfig::default() })?;
        let workers =
            DatapathConfig { cores: config.datapath.worker_cores.clone(), idle_sleep: config.datapath.idle_sleep };
        let datapath = Arc::new(Datapath::start(&workers, Some(&eal))?);
        let rings = Arc::new(Rings::new(Arc::clone(&datapath)));
        let server = Server::start(rings).context("the vhost-user server cannot start")?;

        let mut networks = Vec::new();
        let mut by_name = BTreeMap::new();
        for Object { wanted: network, .. } in config.objects.networks {
            let id = datapath.add_network(network.mac_age)?;
            by_name.insert(network.name.clone(), id);
            networks.push((network, id));
        }
        datapath.hold()?;
        let opener = Opener { eal: &eal, pool: &pool, datapath: &datapath, server: &server };
        let ports = config.objects.ports.into_iter().map(|port| port.wanted).filter_map(|port| {
            // The configuration was checked: every port names a network that is there.
            let network = *by_name.get(&port.network)?;
            Some(opener.open(port, network))
        });
        let ports = ports.collect();
        datapath.release()?;

        let events = datapath.take_events().context("the workers' events are taken already")?;
        let node = Arc::new(Self {
            server,
            datapath,
            ports,
            networks,
            eal,
            captures: Arc::new(Semaphore::new(MAX_CAPTURES)),
            config_file: config_file.display().to_string(),
            started: Instant::now(),
        });
        let faults = faults::watch(events, Arc::downgrade(&node)).context("a thread cannot start")?;
        Ok((node, faults))
    }

    /// How many ports there are, and how many of them could not be opened.
    pub fn port_counts(&self) -> (usize, usize) {
        (self.ports.len(), self.ports.iter().filter(|port| port.id().is_none()).count())
    }

    /// Takes a port out of service because of its guest, until one connects anew. A NIC stays; the log has the reason.
    pub(super) fn quarantine(&self, port: PortId, attachment: u32, reason: &str) {
        if self.ports.iter().any(|other| matches!(&other.opened, Opened::Nic(id, _) if *id == port)) {
            tracing::error!(port = self.name(port), "{reason}");
            return;
        }
        match self.datapath.quarantine(port, attachment) {
            Ok(true) => {}
            // It is done already, or that guest has gone.
            Ok(false) => return,
            Err(error) => tracing::error!(port = self.name(port), "the port cannot be quarantined: {error}"),
        }
        self.server.quarantine(key(port), reason.to_owned());
    }

    /// The ports whose guest's memory was truncated.
    pub(super) fn ports_with_lost_memory(&self) -> Vec<(PortId, u32)> {
        self.datapath.ports_with_lost_memory()
    }

    /// Frees workers that a frontend holds up.
    pub(super) fn watch_workers(&self) {
        self.datapath.watch_workers();
    }

    /// Forgets the addresses that were not seen for too long.
    pub(super) fn sweep(&self) {
        self.datapath.sweep();
    }

    /// The name of a port by its number; `-` for one that is not there.
    fn name(&self, id: PortId) -> &str {
        self.ports.iter().find(|port| port.id() == Some(id)).map_or("-", |port| port.config.name.as_str())
    }

    /// The counters of each port that is open.
    fn totals(&self) -> impl Iterator<Item = (&Port, PortTotals)> {
        self.ports.iter().filter_map(|port| Some((port, self.datapath.totals(port.id()?)?)))
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
        });
        let ports = self.ports();
        v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config_file: self.config_file.clone(),
            memory_mb: self.eal.memory_mb(),
            hugepages: matches!(self.eal.hugepages(), HugepageUse::Used { .. }),
            pages: self.eal.hugepages().to_string(),
            workers: workers.collect(),
            networks: count(self.networks.len()),
            ports: count(ports.len()),
            ports_up: count(ports.iter().filter(|port| port.state() == v1::PortState::Up).count()),
        }
    }

    fn networks(&self) -> Vec<v1::Network> {
        let view = |(network, id): &(Network, NetworkId)| {
            let members = self.ports.iter().filter(|port| port.config.network == network.name);
            v1::Network {
                name: network.name.to_string(),
                mac_age_seconds: network.mac_age.as_secs(),
                ports: members.map(|port| port.config.name.to_string()).collect(),
                macs: count(self.datapath.macs(*id).len()),
            }
        };
        self.networks.iter().map(view).collect()
    }

    fn ports(&self) -> Vec<v1::Port> {
        self.ports.iter().map(|port| port.view(&self.datapath, &self.server)).collect()
    }

    fn macs(&self) -> Vec<v1::Mac> {
        let macs = self.networks.iter().flat_map(|(network, id)| {
            self.datapath.macs(*id).into_iter().map(|entry| v1::Mac {
                network: network.name.to_string(),
                mac: entry.address.to_string(),
                port: self.name(entry.port).to_owned(),
                age_seconds: entry.age_seconds.map(u64::from),
            })
        });
        macs.collect()
    }

    fn stats(&self) -> Vec<v1::PortStats> {
        let stats = self.totals().map(|(port, totals)| {
            let nic = match &port.opened {
                Opened::Nic(_, nic) => nic.statistics(),
                Opened::Guest(_) | Opened::Failed { .. } => culvert_nic::Statistics::default(),
            };
            v1::PortStats {
                port: port.config.name.to_string(),
                rx_frames: totals.rx_frames,
                rx_bytes: totals.rx_bytes,
                rx_forwarded: totals.forwarded,
                rx_copies: totals.copies,
                rx_dropped: totals.dropped(culvert_frame::Direction::Rx),
                rx_in_flight: totals.rx_in_flight(),
                rx_not_learned: totals.not_learned,
                tx_offered: totals.offered,
                tx_frames: totals.tx_frames,
                tx_bytes: totals.tx_bytes,
                tx_dropped: totals.dropped(culvert_frame::Direction::Tx),
                tx_in_flight: totals.tx_in_flight(),
                nic_missed: nic.rx_missed.saturating_add(nic.rx_no_buffer),
                nic_rx_errors: nic.rx_errors,
                nic_tx_errors: nic.tx_errors,
            }
        });
        stats.collect()
    }

    fn drops(&self) -> Vec<v1::PortDrop> {
        let drops = self.totals().flat_map(|(port, totals)| {
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

    fn capture(&self, request: &v1::CaptureRequest) -> Result<mpsc::Receiver<v1::CaptureResponse>, CaptureError> {
        let port = self.ports.iter().find(|port| port.config.name.as_str() == request.port);
        let port = port.and_then(Port::id).ok_or(CaptureError::PortNotOpen)?;
        let place = Arc::clone(&self.captures)
            .try_acquire_owned()
            .map_err(|_| CaptureError::TooMany { limit: MAX_CAPTURES })?;
        capture::start(Arc::clone(&self.datapath), port, request, place).map_err(CaptureError::Datapath)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
