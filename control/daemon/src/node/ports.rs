//! The configured ports: each is opened by itself, and one that cannot be opened is kept with the reason while the
//! others run.

use culvert_api::v1;
use culvert_guest::device::DeviceConfig;
use culvert_nic::{Eal, Pool, PortConfig};
use culvert_switch::PortId;
use culvert_switch::network::NetworkId;
use culvert_vhost::{PortKey, PortSocket, Role, Server, SocketState};
use culvert_worker::{Datapath, GuestPort, NicPort};

use crate::config::{Attachment, Port as Config};

/// What ports are opened with.
pub struct Opener<'a> {
    /// DPDK, for devices.
    pub eal: &'a Eal,
    /// Where devices get packet buffers.
    pub pool: &'a Pool,
    /// The workers.
    pub datapath: &'a Datapath,
    /// The vhost-user sockets.
    pub server: &'a Server,
}

/// A configured port and what became of it.
#[derive(Debug)]
pub struct Port {
    /// As it stands in the file.
    pub config: Config,
    /// What became of it.
    pub opened: Opened,
}

/// What became of a configured port.
#[derive(Debug)]
pub enum Opened {
    /// Its socket is served.
    Guest(PortId),
    /// Its device runs.
    Nic(PortId, culvert_nic::Port),
    /// It could not be opened.
    Failed {
        /// Why, with the remedy.
        reason: String,
    },
}

impl Opener<'_> {
    /// Opens a port in its network.
    pub fn open(&self, config: Config, network: NetworkId) -> Port {
        let opened = match &config.attachment {
            Attachment::Guest { .. } => self.open_guest(&config, network),
            Attachment::Nic { device, promiscuous } => self.open_nic(&config, device, *promiscuous, network),
        };
        let opened = opened.unwrap_or_else(|error| {
            let reason = format!("{error:#}");
            tracing::error!(port = config.name.as_str(), "the port cannot be opened: {reason}");
            Opened::Failed { reason }
        });
        Port { config, opened }
    }

    fn open_guest(&self, config: &Config, network: NetworkId) -> anyhow::Result<Opened> {
        let Attachment::Guest { socket, role, mac, .. } = &config.attachment else {
            anyhow::bail!("the port has no socket; add `socket`");
        };
        let (mac, mtu) = (*mac, config.mtu);
        let port = GuestPort { network, source: mac, mtu, mac_limit: config.mac_limit };
        let id = self.datapath.add_guest_port(&port)?;
        let socket = PortSocket {
            port: key(id),
            name: config.name.to_string(),
            path: socket.clone(),
            role: *role,
            device: DeviceConfig { queue_pairs: config.queues, mtu, mac },
        };
        if let Err(error) = self.server.add(socket) {
            self.datapath.remove_port(id)?;
            return Err(error.into());
        }
        Ok(Opened::Guest(id))
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
        let mut nic = culvert_nic::Port::open(self.eal, self.pool, &wanted)
            .map_err(|error| anyhow::anyhow!("{device}: {}; {}", error.reason, error.remedy))?;
        let (rx, tx) = nic.take_queues();
        let (mtu, mac_limit, pool) = (nic.mtu(), config.mac_limit, self.pool.clone());
        let id = self.datapath.add_nic_port(NicPort { network, mtu, mac_limit, rx, tx, pool })?;
        Ok(Opened::Nic(id, nic))
    }
}

impl Port {
    /// Its number in the datapath; `None` when it could not be opened.
    pub fn id(&self) -> Option<PortId> {
        match self.opened {
            Opened::Guest(id) | Opened::Nic(id, _) => Some(id),
            Opened::Failed { .. } => None,
        }
    }

    /// The port as clients see it.
    pub fn view(&self, datapath: &Datapath, server: &Server) -> v1::Port {
        let (state, reason, attachment) = match (&self.config.attachment, &self.opened) {
            (Attachment::Guest { socket, role, mac, .. }, opened) => {
                let mut guest = v1::GuestAttachment {
                    socket: socket.display().to_string(),
                    role: role_view(*role).into(),
                    mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
                    ..v1::GuestAttachment::default()
                };
                let (state, reason) = guest_state(opened, datapath, server, &mut guest);
                (state, reason, v1::port::Attachment::Guest(guest))
            }
            (Attachment::Nic { device, .. }, opened) => {
                let mut nic = v1::NicAttachment { device: device.clone(), ..v1::NicAttachment::default() };
                let (state, reason) = nic_state(opened, &mut nic);
                (state, reason, v1::port::Attachment::Nic(nic))
            }
        };
        v1::Port {
            name: self.config.name.to_string(),
            network: self.config.network.to_string(),
            state: state.into(),
            reason,
            mtu: self.config.mtu.into(),
            queues: self.config.queues.into(),
            mac_limit: self.config.mac_limit,
            attachment: Some(attachment),
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

/// The state of a guest's port and its reason; fills in what only a connected guest has.
fn guest_state(
    opened: &Opened,
    datapath: &Datapath,
    server: &Server,
    view: &mut v1::GuestAttachment,
) -> (v1::PortState, String) {
    let id = match opened {
        Opened::Guest(id) => *id,
        Opened::Failed { reason } => return (v1::PortState::Failed, reason.clone()),
        Opened::Nic(..) => return (v1::PortState::Unspecified, String::new()),
    };
    match server.state(key(id)) {
        None | Some(SocketState::Waiting) => (v1::PortState::Waiting, String::new()),
        Some(SocketState::Failed { reason }) => (v1::PortState::Failed, reason),
        Some(SocketState::Quarantined { reason }) => (v1::PortState::Quarantined, reason),
        Some(SocketState::Connected(connection)) => {
            let (receive, transmit) = datapath.running_queues(id);
            view.peer_pid = connection.peer.pid;
            view.features = connection.session.features;
            view.rings = u32::try_from(receive.saturating_add(transmit)).unwrap_or(u32::MAX);
            let runs = receive > 0 && transmit > 0;
            (if runs { v1::PortState::Up } else { v1::PortState::Down }, String::new())
        }
    }
}

/// The state of a NIC's port and its reason; fills in what only an open device has.
fn nic_state(opened: &Opened, view: &mut v1::NicAttachment) -> (v1::PortState, String) {
    match opened {
        Opened::Nic(_, nic) => {
            let link = nic.link();
            nic.driver().clone_into(&mut view.driver);
            view.mac = culvert_frame::MacAddress(nic.mac()).to_string();
            view.speed_mbps = link.speed_mbps.unwrap_or(0);
            (if link.up { v1::PortState::Up } else { v1::PortState::Down }, String::new())
        }
        Opened::Failed { reason } => (v1::PortState::Failed, reason.clone()),
        Opened::Guest(_) => (v1::PortState::Unspecified, String::new()),
    }
}

fn role_view(role: Role) -> v1::Role {
    match role {
        Role::Listen => v1::Role::Listen,
        Role::Connect => v1::Role::Connect,
    }
}

/// Descriptors wanted for each queue of a NIC.
const DESCRIPTORS: u16 = 1024;
