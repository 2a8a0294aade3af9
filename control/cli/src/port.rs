//! `culvertctl port list`, `show`, `add`, `set` and `del`.

use std::fmt::Write;

use anyhow::{Result, anyhow};
use culvert_api::v1;
use culvert_api::v1::port::Attachment;
use serde::Serialize;

use crate::arguments::{Format, PortCommand, Unset};
use crate::change::{self, outcome};
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{origin, pairs, present, table, yes_or_no};

#[derive(Serialize)]
struct Port {
    name: String,
    network: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    mtu: u32,
    queues: u32,
    mac_limit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    qinq: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trunk: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broadcast_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_limit: Option<u32>,
    #[serde(flatten)]
    rates: Rates,
    isolated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    origin: &'static str,
    #[serde(flatten)]
    end: End,
}

/// What may arrive and leave, as the configuration says it.
#[derive(Serialize)]
struct Rates {
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_rate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_frame_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_frame_burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_rate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_frame_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_frame_burst: Option<u32>,
}

/// What is at the other end.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum End {
    Guest {
        socket: String,
        role: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_pid: Option<u32>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
        offloads: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        follow_link: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        socket_root: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        features: Vec<String>,
        rings: u32,
    },
    Nic {
        device: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        driver: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        link: &'static str,
        speed_mbps: u32,
        promiscuous: bool,
    },
    Unknown {},
}

/// Does what the command says.
pub async fn run(client: &mut Client, command: PortCommand, format: Format) -> Result<String> {
    match command {
        PortCommand::List => list(client, format).await,
        PortCommand::Show { port } => show(client, port, format).await,
        PortCommand::Add { port, keys } => {
            let request = v1::AddPortRequest { name: port.clone(), port: Some(change::port(*keys)) };
            outcome(client.add_port(request).await, &format!("port {port} added"), format)
        }
        PortCommand::Set { port, keys, unset: Unset { unset } } => {
            let request = v1::SetPortRequest { name: port.clone(), port: Some(change::port(*keys)), unset };
            outcome(client.set_port(request).await, &format!("port {port} changed"), format)
        }
        PortCommand::Del { port } => {
            let request = v1::RemoveRequest { name: port.clone() };
            outcome(client.remove_port(request).await, &format!("port {port} removed"), format)
        }
    }
}

/// All ports, and below them the reasons of those that were stopped.
async fn list(client: &mut Client, format: Format) -> Result<String> {
    let ports = ask(client, String::new()).await?;
    if let Some(data) = format.data() {
        return data.text(&ports);
    }
    let mut columns = vec![
        ("PORT", Left),
        ("NETWORK", Left),
        ("STATE", Left),
        ("KIND", Left),
        ("QUEUES", Right),
        ("MTU", Right),
        ("SOCKET OR DEVICE", Left),
    ];
    let described = ports.iter().any(|port| port.description.is_some());
    if described {
        columns.push(("DESCRIPTION", Left));
    }
    let rows = ports.iter().map(|port| {
        let (kind, place) = port.end.kind_and_place();
        let (queues, mtu) = (port.queues.to_string(), port.mtu.to_string());
        let mut row =
            vec![port.name.clone(), port.network.clone(), port.state.into(), kind.into(), queues, mtu, place.into()];
        if described {
            row.push(port.description.clone().unwrap_or_default());
        }
        row
    });
    let mut text = table(&columns, rows);
    let mut separator = "\n";
    for port in &ports {
        if let Some(reason) = &port.reason {
            writeln!(text, "{separator}{} {}: {reason}", port.name, port.state)?;
            separator = "";
        }
    }
    Ok(text)
}

async fn show(client: &mut Client, name: String, format: Format) -> Result<String> {
    let port = ask(client, name).await?.pop().ok_or_else(|| anyhow!("culvertd's answer names no port; see its log"))?;
    match format.data() {
        Some(data) => data.text(&port),
        None => Ok(port.text()),
    }
}

async fn ask(client: &mut Client, port: String) -> Result<Vec<Port>> {
    let answer = client.list_ports(v1::ListPortsRequest { port }).await.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner().ports.into_iter().map(Port::from).collect())
}

impl Port {
    fn text(self) -> String {
        let mut lines = vec![("name", self.name), ("network", self.network), ("state", self.state.to_owned())];
        lines.extend(self.reason.map(|reason| ("reason", reason)));
        lines.extend([
            ("mtu", self.mtu.to_string()),
            ("queues", self.queues.to_string()),
            ("mac limit", self.mac_limit.to_string()),
        ]);
        if let Some(vlan) = self.vlan {
            let inner = if self.qinq { ", with the guest's tags inside" } else { "" };
            lines.push(("vlan", format!("{vlan}{inner}")));
        }
        if !self.trunk.is_empty() {
            lines.push(("trunk", self.trunk.join(", ")));
            lines.push(("native", self.native.map_or_else(|| "none".to_owned(), |vlan| vlan.to_string())));
        }
        let limits = [("broadcast limit", self.broadcast_limit), ("unknown limit", self.unknown_limit)];
        lines.extend(limits.into_iter().filter_map(|(key, limit)| Some((key, format!("{} frames/s", limit?)))));
        lines.extend(self.rates.lines());
        if self.isolated {
            lines.push(("isolated", yes_or_no(true)));
        }
        lines.extend(self.description.map(|description| ("description", description)));
        lines.push(("origin", self.origin.to_owned()));
        match self.end {
            End::Guest {
                socket,
                socket_root,
                role,
                owner,
                label,
                mac,
                peer_pid,
                addresses,
                offloads,
                follow_link,
                features,
                rings,
            } => {
                lines.push(("socket", socket));
                lines.extend(socket_root.map(|root| ("socket root", root)));
                lines.push(("role", role.to_owned()));
                lines.extend(owner.map(|owner| ("owner", owner)));
                lines.extend(label.map(|label| ("label", label)));
                lines.extend([
                    ("mac", mac.unwrap_or_else(|| "any".to_owned())),
                    ("addresses", if addresses.is_empty() { "any".to_owned() } else { addresses.join(", ") }),
                    ("offloads", yes_or_no(offloads)),
                    ("follows link", follow_link.unwrap_or_else(|| "none".to_owned())),
                    ("peer", peer_pid.map_or_else(|| "none".to_owned(), |pid| format!("process {pid}"))),
                    ("features", if features.is_empty() { "none".to_owned() } else { features.join(", ") }),
                    ("rings", format!("{rings} running")),
                ]);
            }
            End::Nic { device, driver, mac, link, speed_mbps, promiscuous } => lines.extend([
                ("device", device),
                ("driver", driver.unwrap_or_else(|| "none".to_owned())),
                ("mac", mac.unwrap_or_else(|| "unknown".to_owned())),
                ("link", link.to_owned()),
                ("speed", if speed_mbps == 0 { "unknown".to_owned() } else { format!("{speed_mbps} Mbit/s") }),
                ("promiscuous", yes_or_no(promiscuous)),
            ]),
            End::Unknown {} => {}
        }
        pairs(lines)
    }
}

impl Rates {
    fn lines(self) -> impl Iterator<Item = (&'static str, String)> {
        let frames = |frames: Option<u32>| frames.map(|frames| format!("{frames} frames/s"));
        let rate = |rate: Option<String>, burst: Option<u64>| {
            Some(rate? + &burst.map(|bytes| format!(", {bytes} bytes at once")).unwrap_or_default())
        };
        let frame_rate = |rate: Option<u32>, burst: Option<u32>| {
            Some(frames(rate)? + &burst.map(|burst| format!(", {burst} at once")).unwrap_or_default())
        };
        let lines = [
            ("rx rate", rate(self.rx_rate, self.rx_burst)),
            ("rx frame rate", frame_rate(self.rx_frame_rate, self.rx_frame_burst)),
            ("tx rate", rate(self.tx_rate, self.tx_burst)),
            ("tx frame rate", frame_rate(self.tx_frame_rate, self.tx_frame_burst)),
        ];
        lines.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

impl End {
    fn kind_and_place(&self) -> (&'static str, &str) {
        match self {
            Self::Guest { socket, .. } => ("guest", socket),
            Self::Nic { device, .. } => ("nic", device),
            Self::Unknown {} => ("unknown", "-"),
        }
    }
}

impl From<v1::Port> for Port {
    fn from(port: v1::Port) -> Self {
        let state = match port.state() {
            v1::PortState::Waiting => "waiting",
            v1::PortState::Up => "up",
            v1::PortState::Down => "down",
            v1::PortState::Quarantined => "quarantined",
            v1::PortState::Failed => "failed",
            v1::PortState::Unspecified => "unknown",
        };
        let origin = origin(port.origin());
        let end = match port.attachment {
            Some(Attachment::Guest(guest)) => End::Guest {
                role: match guest.role() {
                    v1::Role::Listen => "listen",
                    v1::Role::Connect => "connect",
                    v1::Role::Unspecified => "unknown",
                },
                socket: guest.socket,
                mac: present(guest.mac),
                peer_pid: (guest.peer_pid != 0).then_some(guest.peer_pid),
                addresses: guest.addresses,
                offloads: guest.offloads,
                follow_link: present(guest.follow_link),
                socket_root: present(guest.socket_root),
                owner: present(guest.owner),
                label: present(guest.label),
                features: feature_names(guest.features),
                rings: guest.rings,
            },
            Some(Attachment::Nic(nic)) => End::Nic {
                link: match nic.link() {
                    v1::Link::Up => "up",
                    v1::Link::Down => "down",
                    v1::Link::Unspecified => "unknown",
                },
                promiscuous: nic.promiscuous,
                device: nic.device,
                driver: present(nic.driver),
                mac: present(nic.mac),
                speed_mbps: nic.speed_mbps,
            },
            None => End::Unknown {},
        };
        Self {
            name: port.name,
            network: port.network,
            state,
            reason: present(port.reason),
            mtu: port.mtu,
            queues: port.queues,
            mac_limit: port.mac_limit,
            vlan: port.vlan,
            qinq: port.qinq,
            trunk: port.trunk,
            native: port.native,
            broadcast_limit: port.broadcast_limit,
            unknown_limit: port.unknown_limit,
            rates: Rates {
                rx_rate: port.rx_rate,
                rx_burst: port.rx_burst,
                rx_frame_rate: port.rx_frame_rate,
                rx_frame_burst: port.rx_frame_burst,
                tx_rate: port.tx_rate,
                tx_burst: port.tx_burst,
                tx_frame_rate: port.tx_frame_rate,
                tx_frame_burst: port.tx_frame_burst,
            },
            isolated: port.isolated,
            description: present(port.description),
            origin,
            end,
        }
    }
}

/// For what JSON leaves out.
fn is_false(value: &bool) -> bool {
    !value
}

/// The names of feature bits, lowest first; `bit N` for those without a name here.
fn feature_names(features: u64) -> Vec<String> {
    let name = |bit: u32| FEATURES.iter().find(|(known, _)| *known == bit).map(|(_, name)| (*name).to_owned());
    (0..64)
        .filter(|bit| features >> bit & 1 != 0)
        .map(|bit| name(bit).unwrap_or_else(|| format!("bit {bit}")))
        .collect()
}

/// virtio 1.3, 5.1.3 (network device), 6 and 6.3 (all and legacy devices); 30 is vhost-user's.
const FEATURES: [(u32, &str); 33] = [
    (0, "csum"),
    (1, "guest_csum"),
    (2, "ctrl_guest_offloads"),
    (3, "mtu"),
    (5, "mac"),
    (7, "guest_tso4"),
    (8, "guest_tso6"),
    (9, "guest_ecn"),
    (10, "guest_ufo"),
    (11, "host_tso4"),
    (12, "host_tso6"),
    (13, "host_ecn"),
    (14, "host_ufo"),
    (15, "mrg_rxbuf"),
    (16, "status"),
    (17, "ctrl_vq"),
    (18, "ctrl_rx"),
    (19, "ctrl_vlan"),
    (21, "guest_announce"),
    (22, "mq"),
    (23, "ctrl_mac_addr"),
    (24, "notify_on_empty"),
    (26, "log_all"),
    (27, "any_layout"),
    (28, "indirect_desc"),
    (29, "event_idx"),
    (30, "protocol_features"),
    (32, "version_1"),
    (33, "access_platform"),
    (34, "ring_packed"),
    (35, "in_order"),
    (54, "guest_uso4"),
    (56, "host_uso"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_names() {
        assert_eq!(feature_names(0), [""; 0]);
        assert_eq!(feature_names(1 << 15 | 1 << 32 | 1 << 63), ["mrg_rxbuf", "version_1", "bit 63"]);
    }
}
