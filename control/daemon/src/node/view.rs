//! Objects as clients see them: what is wanted, who wants it, and what became of it.

use culvert_api::v1;
use culvert_vhost::{Role, Server, SocketState};
use culvert_worker::Datapath;

use super::ports::{Opened, Port, key};
use crate::config::{Attachment, Object, Origin, Pod, Port as Config, Rates, Vlans, rate_text};
use crate::pods::help::PodHelp;
use culvert_switch::PortId;

/// Who wants an object.
pub fn origin(origin: Origin) -> v1::Origin {
    match origin {
        Origin::File { .. } => v1::Origin::File,
        Origin::Client => v1::Origin::Client,
    }
}

/// A port; `running` is what became of it, `None` while it is being opened.
pub fn port(object: &Object<Config>, running: Option<&Port>, datapath: &Datapath, server: &Server) -> v1::Port {
    let config = &object.wanted;
    let opening = (v1::PortState::Down, "the port is being opened".to_owned());
    let ((state, reason), attachment) = match &config.attachment {
        Attachment::Guest { socket, role, mac, addresses, offloads, follow_link } => {
            let mut guest = v1::GuestAttachment {
                socket: socket.path.display().to_string(),
                socket_root: socket.root.as_ref().map(|root| root.display().to_string()).unwrap_or_default(),
                owner: socket.owner.map(|owner| owner.to_string()).unwrap_or_default(),
                label: socket.label.clone().unwrap_or_default(),
                role: role_view(*role).into(),
                mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
                addresses: addresses.iter().map(crate::config::address_text).collect(),
                offloads: *offloads,
                follow_link: follow_link.as_ref().map(ToString::to_string).unwrap_or_default(),
                ..v1::GuestAttachment::default()
            };
            let state = match running.map(|port| &port.opened) {
                None | Some(Opened::Nic(..)) => opening,
                Some(Opened::Failed(failure)) => (v1::PortState::Failed, failure.reason.clone()),
                Some(Opened::Guest { suspended: true, .. }) => {
                    (v1::PortState::Down, format!("the link of {} is down", guest.follow_link))
                }
                Some(Opened::Guest { id, .. }) => guest_state(*id, datapath, server, &mut guest),
            };
            (state, v1::port::Attachment::Guest(guest))
        }
        Attachment::Nic { device, promiscuous } => {
            let mut nic =
                v1::NicAttachment { device: device.clone(), promiscuous: *promiscuous, ..v1::NicAttachment::default() };
            let state = match running.map(|port| &port.opened) {
                None | Some(Opened::Guest { .. }) => opening,
                Some(Opened::Failed(failure)) => (v1::PortState::Failed, failure.reason.clone()),
                Some(Opened::Nic(_, open)) => (nic_state(&open.device, &mut nic), String::new()),
            };
            (state, v1::port::Attachment::Nic(nic))
        }
    };
    let Rates { rx, tx } = &config.rates;
    let mut view = v1::Port {
        name: config.name.to_string(),
        network: config.network.to_string(),
        state: state.into(),
        reason,
        mtu: config.mtu.into(),
        queues: config.queues.into(),
        mac_limit: config.mac_limit,
        attachment: Some(attachment),
        origin: origin(object.origin).into(),
        broadcast_limit: config.broadcast_limit,
        unknown_limit: config.unknown_limit,
        rx_rate: rx.bits.map(rate_text),
        rx_burst: rx.burst,
        rx_frame_rate: rx.frames,
        rx_frame_burst: rx.frame_burst,
        tx_rate: tx.bits.map(rate_text),
        tx_burst: tx.burst,
        tx_frame_rate: tx.frames,
        tx_frame_burst: tx.frame_burst,
        isolated: config.isolated,
        description: config.description.clone().unwrap_or_default(),
        ..v1::Port::default()
    };
    match &config.vlans {
        Vlans::Transparent => {}
        Vlans::Access { vlan, qinq } => (view.vlan, view.qinq) = (Some((*vlan).into()), *qinq),
        Vlans::Trunk { allowed, native } => (view.trunk, view.native) = (allowed.texts(), native.map(u32::from)),
    }
    view
}

/// A pod.
pub fn pod(object: &Object<Pod>, PodHelp { helped, problems }: PodHelp) -> v1::Pod {
    let Pod { name, folders, netns, tap, description } = &object.wanted;
    v1::Pod {
        name: name.to_string(),
        folders: folders.iter().map(|folder| folder.display().to_string()).collect(),
        netns: netns.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        tap: tap.clone().unwrap_or_default(),
        description: description.clone().unwrap_or_default(),
        origin: origin(object.origin).into(),
        helped,
        problems,
    }
}

/// The state of a guest's port and its reason; fills in what only a connected guest has.
fn guest_state(
    id: PortId,
    datapath: &Datapath,
    server: &Server,
    view: &mut v1::GuestAttachment,
) -> (v1::PortState, String) {
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

/// The state of an open NIC; fills in what only such a one has.
fn nic_state(nic: &culvert_nic::Port, view: &mut v1::NicAttachment) -> v1::PortState {
    let link = nic.link();
    nic.driver().clone_into(&mut view.driver);
    view.mac = culvert_frame::MacAddress(nic.mac()).to_string();
    view.speed_mbps = link.speed_mbps.unwrap_or(0);
    view.link = if link.up { v1::Link::Up } else { v1::Link::Down }.into();
    if link.up { v1::PortState::Up } else { v1::PortState::Down }
}

fn role_view(role: Role) -> v1::Role {
    match role {
        Role::Listen => v1::Role::Listen,
        Role::Connect => v1::Role::Connect,
    }
}
