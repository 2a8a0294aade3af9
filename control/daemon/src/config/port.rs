//! A port as it is wanted: its keys, read and written.

use std::path::{Path, PathBuf};

use culvert_frame::MacAddress;
use culvert_vhost::{Place, Role};
use ipnet::IpNet;

use super::rate::Rates;
use super::section::{Found, Report, Section};
use super::value::{self, Wrong};
use super::vlan::Vlans;
use crate::name::Name;

/// One `[[port]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, unique among ports.
    pub name: Name,
    /// The network that it belongs to.
    pub network: Name,
    /// What is at its other end.
    pub attachment: Attachment,
    /// Queue pairs, 1 to [`MAX_QUEUES`]; 1 by default.
    pub queues: u16,
    /// Largest payload of a frame in bytes, without the Ethernet header; 1500 by default.
    pub mtu: u16,
    /// How many addresses may be learned on this port; [`GUEST_MAC_LIMIT`] or [`NIC_MAC_LIMIT`] by default.
    pub mac_limit: u32,
    /// Its VLANs.
    pub vlans: Vlans,
    /// Group-addressed frames a second that it may send; any number when `None`.
    pub broadcast_limit: Option<u32>,
    /// Frames a second to addresses that its network does not know; otherwise as `broadcast_limit`.
    pub unknown_limit: Option<u32>,
    /// How much it may send and receive.
    pub rates: Rates,
    /// Whether it exchanges frames only with ports that are not isolated.
    pub isolated: bool,
    /// What somebody wrote about it, for people.
    pub description: Option<String>,
}

/// What a port leads to: the keys `socket` and `device`, and those that go with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A guest, through vhost-user.
    Guest {
        /// The vhost-user socket.
        socket: Place,
        /// Who creates the socket; culvertd by default.
        role: Role,
        /// The only source address that the guest may use; any when `None`.
        mac: Option<MacAddress>,
        /// The only IPv4 and IPv6 sources that the guest may use; any when empty.
        addresses: Vec<IpNet>,
        /// Whether checksum and segmentation offloads are offered to the guest; they are by default.
        offloads: bool,
        /// The device port whose link the guest's connection follows.
        follow_link: Option<Name>,
    },
    /// A device that DPDK drives: a PCI address, or a virtual device with its arguments.
    Nic {
        /// `0000:03:00.0`, or `net_pcap0,rx_pcap=in.pcap`; a PCI address has its domain.
        device: String,
        /// Whether it takes frames to any address; it does by default.
        promiscuous: bool,
    },
}

/// Most queue pairs of a port.
pub const MAX_QUEUES: u16 = 16;
/// Smallest `mtu` (virtio 1.3, 5.1.4.1) and largest, in bytes.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=9216;
/// Default `mac_limit` of a port with `socket`.
pub const GUEST_MAC_LIMIT: u32 = 64;
/// Largest `mac_limit`: all that a network's table holds.
pub const MAX_MAC_LIMIT: u32 = 32_768;
/// Default `mac_limit` of a port with `device`: an eighth of the table, so that the outside cannot take the guests' places.
pub const NIC_MAC_LIMIT: u32 = 4096;
/// Most entries of `addresses`.
pub const MAX_ADDRESSES: usize = 64;
/// Largest `broadcast_limit` and `unknown_limit`, in frames a second.
pub const MAX_FRAME_LIMIT: u32 = 100_000_000;

impl Port {
    /// A port with the defaults.
    pub fn new(name: Name, network: Name, attachment: Attachment) -> Self {
        let mac_limit = match attachment {
            Attachment::Guest { .. } => GUEST_MAC_LIMIT,
            Attachment::Nic { .. } => NIC_MAC_LIMIT,
        };
        Self {
            name,
            network,
            attachment,
            queues: 1,
            mtu: 1500,
            mac_limit,
            vlans: Vlans::Transparent,
            broadcast_limit: None,
            unknown_limit: None,
            rates: Rates::default(),
            isolated: false,
            description: None,
        }
    }

    /// Whether `other` can take this port's place while it runs: the guest stays connected and the device open.
    pub fn stays_open_as(&self, other: &Self) -> bool {
        // What may change is put in, the rest must be equal already.
        let Self { mac_limit, vlans, broadcast_limit, unknown_limit, rates, isolated, description, .. } = other.clone();
        let mut changed =
            Self { mac_limit, vlans, broadcast_limit, unknown_limit, rates, isolated, description, ..self.clone() };
        match (&mut changed.attachment, &other.attachment) {
            (
                Attachment::Guest { addresses, follow_link, .. },
                Attachment::Guest { addresses: new_addresses, follow_link: new_link, .. },
            ) => {
                addresses.clone_from(new_addresses);
                follow_link.clone_from(new_link);
            }
            (Attachment::Guest { .. } | Attachment::Nic { .. }, _) => {}
        }
        changed == *other
    }

    /// Reads a section. `None` when it says not what the port is, where it belongs or what it leads to.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Self> {
        let name = section.required(report, "name", "\"vm-a\"", value::name);
        let network = section.required(report, "network", "\"blue\"", value::name);
        let attachment = Attachment::read(report, section);
        let queues = section.optional(report, "queues", |value| value::number(value, 1..=MAX_QUEUES));
        let mtu = section.optional(report, "mtu", |value| value::number(value, MTU_RANGE));
        let mac_limit = section.optional(report, "mac_limit", |value| value::number(value, 1..=MAX_MAC_LIMIT));
        let vlans = Vlans::read(report, section);
        let frames = 1..=MAX_FRAME_LIMIT;
        let broadcast_limit = section.optional(report, "broadcast_limit", |value| value::number(value, frames.clone()));
        let unknown_limit = section.optional(report, "unknown_limit", |value| value::number(value, frames.clone()));
        let rates = Rates::read(report, section);
        let isolated = section.optional(report, "isolated", value::boolean);
        let description = section.optional(report, "description", value::description);

        let mut port = Self::new(name?.value, network?.value, attachment?);
        value::set(&mut port.queues, queues);
        value::set(&mut port.mtu, mtu);
        value::set(&mut port.mac_limit, mac_limit);
        port.vlans = vlans;
        port.broadcast_limit = broadcast_limit.map(|found| found.value);
        port.unknown_limit = unknown_limit.map(|found| found.value);
        port.rates = rates;
        value::set(&mut port.isolated, isolated);
        port.description = description.map(|found| found.value);
        Some(port)
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML; those with their default are left out.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let default = Self::new(self.name.clone(), self.network.clone(), self.attachment.clone());
        let mut keys =
            vec![("name", value::toml_text(self.name.as_str())), ("network", value::toml_text(self.network.as_str()))];
        keys.extend(self.attachment.keys());
        let numbers = [
            ("queues", (self.queues != default.queues).then(|| self.queues.into())),
            ("mtu", (self.mtu != default.mtu).then(|| self.mtu.into())),
            ("mac_limit", (self.mac_limit != default.mac_limit).then_some(self.mac_limit)),
            ("broadcast_limit", self.broadcast_limit),
            ("unknown_limit", self.unknown_limit),
        ];
        keys.extend(numbers.into_iter().filter_map(|(key, number)| Some((key, number?.to_string()))));
        keys.extend(self.rates.keys());
        keys.extend(self.vlans.keys());
        if self.isolated {
            keys.push(("isolated", "true".to_owned()));
        }
        keys.extend(self.description.as_ref().map(|text| ("description", value::toml_text(text))));
        keys
    }
}

impl Attachment {
    /// Reads the keys that say what a port leads to. `None` when there is a mistake in `socket` or `device`.
    fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Self> {
        let example = "\"/run/culvert/ports/vm-a/vhost.sock\"";
        let socket = section.optional(report, "socket", |value| value::socket_path(value, example));
        let device = section.optional(report, "device", value::device);
        let roles = [("listen", Role::Listen), ("connect", Role::Connect)];
        let role = section.optional(report, "role", |value| value::choice(value, &roles));
        let mac = section.optional(report, "mac", value::station_address);
        let addresses = section.list(report, "addresses", "[\"10.0.0.5\", \"fd00::/64\"]", value::addresses);
        let offloads = section.optional(report, "offloads", value::boolean);
        let follow_link = section.optional(report, "follow_link", value::name);
        let socket_root =
            section.optional(report, "socket_root", |value| value::absolute_path(value, "\"/run/culvert/ports/vm-a\""));
        let owner = section.optional(report, "owner", value::owner);
        let label = section.optional(report, "label", value::label);
        let promiscuous = section.optional(report, "promiscuous", value::boolean);
        if section.is_empty_list("addresses") {
            let wrong = Wrong::new("names no address", "write at least one, or remove the key to allow any");
            section.refuse(report, "addresses", wrong);
        }
        let mut distinct = Vec::new();
        for found in addresses.into_iter().flat_map(|addresses| addresses.value) {
            if distinct.contains(&found.value) {
                let wrong = Wrong::new("is there twice", "write each address once");
                report.value(section.path("addresses"), &found.span, wrong);
            } else {
                distinct.push(found.value);
            }
        }
        if distinct.len() > MAX_ADDRESSES {
            let wrong =
                Wrong::new(format!("has more than {MAX_ADDRESSES} entries"), "write prefixes for many addresses");
            section.refuse(report, "addresses", wrong);
        }
        match (section.has("socket"), section.has("device")) {
            (true, true) => {
                let wrong = Wrong::new("stands beside socket", "keep device for a NIC or socket for a guest, not both");
                section.refuse(report, "device", wrong);
                None
            }
            (false, false) => {
                let remedy = format!("add socket = {example} for a guest or device = \"0000:03:00.0\" for a NIC");
                section.missing(report, "socket or device", &remedy);
                None
            }
            (true, false) => {
                section.refuse(report, "promiscuous", Wrong::new("works only with device", "remove it"));
                let path = socket?.value;
                if let Some(root) = &socket_root {
                    check_root(report, section, &path, root);
                }
                Some(Self::Guest {
                    socket: Place {
                        path,
                        root: socket_root.map(|found| found.value),
                        owner: owner.map(|found| found.value),
                        label: label.map(|found| found.value),
                    },
                    role: role.map_or(Role::Listen, |found| found.value),
                    mac: mac.map(|found| found.value),
                    addresses: distinct,
                    offloads: offloads.is_none_or(|found| found.value),
                    follow_link: follow_link.map(|found| found.value),
                })
            }
            (false, true) => {
                for key in ["role", "mac", "addresses", "offloads", "follow_link", "socket_root", "owner", "label"] {
                    section.refuse(report, key, Wrong::new("works only with socket", "remove it"));
                }
                let promiscuous = promiscuous.is_none_or(|found| found.value);
                Some(Self::Nic { device: device?.value, promiscuous })
            }
        }
    }

    fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = Vec::new();
        match self {
            Self::Guest { socket, role, mac, addresses, offloads, follow_link } => {
                let Place { path, root, owner, label } = socket;
                // Paths were read from text: nothing is lost.
                keys.push(("socket", value::toml_text(&path.to_string_lossy())));
                keys.extend(root.as_ref().map(|root| ("socket_root", value::toml_text(&root.to_string_lossy()))));
                keys.extend(owner.map(|owner| ("owner", value::toml_text(&owner.to_string()))));
                keys.extend(label.as_ref().map(|label| ("label", value::toml_text(label))));
                if *role == Role::Connect {
                    keys.push(("role", value::toml_text("connect")));
                }
                keys.extend(mac.map(|mac| ("mac", value::toml_text(&mac.to_string()))));
                if !addresses.is_empty() {
                    let texts: Vec<_> =
                        addresses.iter().map(|net| value::toml_text(&value::address_text(net))).collect();
                    keys.push(("addresses", format!("[{}]", texts.join(", "))));
                }
                if !offloads {
                    keys.push(("offloads", "false".to_owned()));
                }
                keys.extend(follow_link.as_ref().map(|port| ("follow_link", value::toml_text(port.as_str()))));
            }
            Self::Nic { device, promiscuous } => {
                keys.push(("device", value::toml_text(device)));
                if !promiscuous {
                    keys.push(("promiscuous", "false".to_owned()));
                }
            }
        }
        keys
    }
}

/// A root that is not above the socket.
fn check_root(report: &mut Report<'_>, section: &Section<'_>, socket: &Path, root: &Found<PathBuf>) {
    if socket == root.value || !socket.starts_with(&root.value) {
        let problem = format!("is no folder above the socket {}", socket.display());
        let remedy = "name the folder that holds all that is not to be trusted, such as the pod's volume";
        report.value(section.path("socket_root"), &root.span, Wrong::new(problem, remedy));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mac_limit_is_the_size_of_a_table() {
        assert_eq!(usize::try_from(super::MAX_MAC_LIMIT).unwrap(), culvert_switch::mac_table::TABLE_ENTRIES);
    }
}
