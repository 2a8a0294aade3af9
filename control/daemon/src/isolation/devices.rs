//! The families of DPDK devices by what they need of the kernel: capabilities, files, kinds of sockets.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use crate::config::{Attachment, Config};

/// Devices that need the same. Those that need nothing (capture files, rings, vhost-user) are in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// A kernel interface by a packet socket.
    AfPacket,
    /// A kernel interface by AF_XDP.
    AfXdp,
    /// A PCI card.
    Pci,
    /// A kernel interface by libpcap.
    Pcap,
    /// A kernel interface of our own making, also by /dev/vhost-net.
    Tap,
}

impl Family {
    /// All.
    pub const ALL: [Self; 5] = [Self::AfPacket, Self::AfXdp, Self::Pci, Self::Pcap, Self::Tap];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AfPacket => "net_af_packet",
            Self::AfXdp => "net_af_xdp",
            Self::Pci => "pci",
            Self::Pcap => "net_pcap",
            Self::Tap => "net_tap",
        }
    }

    /// The capabilities without which no device of the family works.
    pub fn needs(self) -> CapabilitySet {
        match self {
            Self::AfPacket => CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN,
            Self::AfXdp => CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN | CapabilitySet::BPF,
            Self::Pcap => CapabilitySet::NET_RAW,
            Self::Tap => CapabilitySet::NET_ADMIN,
            // Access to /dev/vfio is by its owner.
            Self::Pci => CapabilitySet::empty(),
        }
    }

    /// Those that some device of the family, or some kernel, needs besides.
    pub fn may_need(self) -> CapabilitySet {
        match self {
            // Memory for frames beyond the limit of locked memory. libxdp loads a program that compares pointers, and asks for
            // programs by their number.
            Self::AfXdp => CapabilitySet::IPC_LOCK | CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN,
            // mlx4 and mlx5 use their kernel driver.
            Self::Pci => CapabilitySet::IPC_LOCK | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW,
            Self::AfPacket | Self::Pcap | Self::Tap => CapabilitySet::empty(),
        }
    }

    /// The files that it writes to.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::AfXdp => &["/sys/fs/bpf"],
            Self::Pci => &["/dev/vfio", "/dev/infiniband", "/sys/bus/pci", "/sys/devices", "/sys/class"],
            Self::Tap => &["/dev/net/tun", "/dev/vhost-net"],
            Self::AfPacket | Self::Pcap => &[],
        }
    }

    /// Whether a device, or an argument of DPDK's, is of it.
    fn is(self, device: &str) -> bool {
        let has = |text: &str| device.contains(text);
        match self {
            Self::AfPacket => has("af_packet"),
            Self::AfXdp => has("af_xdp"),
            Self::Pcap => has("pcap") && has("iface="),
            Self::Tap => has("net_tap") || has("net_tun") || has("/dev/vhost-net"),
            Self::Pci => device.split([',', '=']).any(is_pci_address),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The families of all devices of a configuration, and of those that clients may add.
pub fn families(config: &Config) -> BTreeSet<Family> {
    let devices = config.objects.ports.iter().filter_map(|port| match &port.wanted.attachment {
        Attachment::Nic { device, .. } => Some(device),
        Attachment::Guest { .. } => None,
    });
    let named = devices.chain(&config.datapath.eal_args).flat_map(|device| families_of(device));
    named.chain(config.daemon.isolation.kinds.iter().copied()).collect()
}

/// The families of a device and its members.
pub fn families_of(device: &str) -> Vec<Family> {
    Family::ALL.into_iter().filter(|family| family.is(device)).collect()
}

/// The files of its own that a device's arguments name: capture files, sockets.
pub fn paths_of(device: &str) -> Vec<PathBuf> {
    let arguments = device.split(',').filter_map(|argument| argument.split_once('='));
    let is_path = |key: &str, value: &str| value.starts_with('/') || key.ends_with("_pcap");
    let paths = arguments.filter(|(key, value)| is_path(key, value) && !value.starts_with("/dev/"));
    paths.map(|(_, value)| Path::new(value).to_owned()).collect()
}

/// 0000:03:00.0, or without the domain.
fn is_pci_address(text: &str) -> bool {
    let is_hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some((device, function)) = text.rsplit_once('.') else { return false };
    let parts: Vec<&str> = device.split(':').collect();
    let is_device = match parts.as_slice() {
        [bus, device] => is_hex(bus, 2) && is_hex(device, 2),
        [domain, bus, device] => (4..=8).any(|digits| is_hex(domain, digits)) && is_hex(bus, 2) && is_hex(device, 2),
        _ => false,
    };
    is_device && is_hex(function, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_the_device() {
        let families = [
            ("net_null0", &[][..]),
            ("net_pcap0,rx_pcap=in.pcap,tx_pcap=/srv/out.pcap", &[]),
            ("net_pcap0,iface=eth0", &[Family::Pcap]),
            ("net_af_packet0,iface=eth1", &[Family::AfPacket]),
            ("net_af_xdp0,iface=eth1", &[Family::AfXdp]),
            ("net_tap0,iface=culvert0", &[Family::Tap]),
            ("net_virtio_user0,path=/dev/vhost-net", &[Family::Tap]),
            ("net_virtio_user0,path=/run/x.sock", &[]),
            ("0000:3b:00.0", &[Family::Pci]),
            ("3b:00.1,representor=0", &[Family::Pci]),
            ("net_bonding0,mode=1,member=0000:03:00.0,member=net_tap1", &[Family::Pci, Family::Tap]),
            ("net_null0,size=1:2.3", &[]),
        ];
        for (device, expected) in families {
            assert_eq!(families_of(device), expected, "{device}");
        }
    }

    #[test]
    fn files_are_known_by_the_arguments() {
        let paths =
            |device: &str| paths_of(device).into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths("net_pcap0,rx_pcap=in.pcap,tx_pcap=/srv/out.pcap"), ["in.pcap", "/srv/out.pcap"]);
        assert_eq!(paths("net_vhost0,iface=/run/x.sock,queues=1"), ["/run/x.sock"]);
        assert!(paths("net_virtio_user0,path=/dev/vhost-net").is_empty() && paths("net_tap0,iface=a").is_empty());
    }
}
