//! What the guest is told of its network, and what its addresses mean on the host's side.
//!
//! Filled once at start, from the pod's interface and the command line; the protocol cores only read it. What changes
//! while the translator runs is elsewhere: forwards in `forward`, what was learned of the guest in `guest`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;
use ipnet::Ipv4Net;

/// Our own MAC address unless another is asked for: that of the guest's gateway, resolver and every other host.
pub const DEFAULT_MAC: MacAddress = MacAddress([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);

/// The MTU that is advertised unless another is asked for, in bytes: the largest for which an IPv4 packet and a
/// virtio-net header fit in 64 KiB.
pub const DEFAULT_MTU: u16 = 65_520;

/// Everything that was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address that our frames come from.
    pub mac: MacAddress,
    /// What is advertised by DHCP and router advertisements, in bytes; `None`: nothing.
    pub mtu: Option<u16>,
    /// `None`: the guest has no IPv4.
    pub v4: Option<Ipv4>,
    /// `None`: the guest has no IPv6.
    pub v6: Option<Ipv6>,
    /// Domains that resolvers are to search, without final dots.
    pub search: Vec<String>,
    /// DHCP option 12.
    pub hostname: Option<String>,
    /// DHCP option 81, DHCPv6 option 39.
    pub fqdn: Option<String>,
    /// Which protocols and services there are.
    pub services: Services,
}

/// IPv4 of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// The address that is assigned, with its prefix; the pod's own unless configured.
    pub address: Ipv4Net,
    /// The default gateway, perhaps outside of the prefix (169.254.1.1 with some CNIs).
    pub gateway: Ipv4Addr,
    /// The address of ours from which we speak DHCP and answer: the gateway's, or another where the gateway is told
    /// apart.
    pub ours: Ipv4Addr,
    /// Resolvers that the guest is told of.
    pub resolvers: Vec<Ipv4Addr>,
    /// Which addresses mean others on the host's side.
    pub mapping: Mapping<Ipv4Addr>,
}

/// IPv6 of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// The address that is assigned; its prefix is 64 bits.
    pub address: Ipv6Addr,
    /// The default gateway, as the host knows it.
    pub gateway: Ipv6Addr,
    /// Our link-local address: the router that advertises, the server of DHCPv6.
    pub link_local: Ipv6Addr,
    /// The pod's interface: the zone of link-local addresses.
    pub interface_index: u32,
    /// Resolvers that the guest is told of.
    pub resolvers: Vec<Ipv6Addr>,
    /// Which addresses mean others on the host's side.
    pub mapping: Mapping<Ipv6Addr>,
}

impl Settings {
    /// Whether an address is ours on the guest's link: the router's. No guest may have it.
    pub fn is_ours(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.as_ref().is_some_and(|v4| v4.ours == ip),
            IpAddr::V6(ip) => self.v6.as_ref().is_some_and(|v6| v6.link_local == ip),
        }
    }
}

/// Which addresses of the guest's mean others on the host's side, and where sockets are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping<A> {
    /// Leads to the host's loopback address, and what comes from there seems to come from it.
    pub host_loopback: Option<A>,
    /// Leads to the host's own address that the guest has, too.
    pub guest_address: Option<A>,
    /// DNS sent here (ports 53 and 853, UDP and TCP) goes to `dns_host`.
    pub dns_forward: Option<A>,
    /// The resolver of the host that `dns_forward` leads to.
    pub dns_host: Option<A>,
    /// Sockets towards the world are bound to this address.
    pub outbound_address: Option<A>,
    /// Sockets towards the world are bound to this interface (SO_BINDTODEVICE).
    pub outbound_interface: Option<String>,
    /// Whether the host's loopback and own addresses, and those of metadata services, are refused where no rule leads to
    /// them.
    pub host_refused: bool,
    /// The host's own addresses at the start, for `host_refused`; it may get others.
    pub host_addresses: Vec<A>,
    /// Addresses that are not refused in spite of `host_refused`.
    pub allowed: Vec<A>,
}

impl<A> Default for Mapping<A> {
    /// Every address stays as it is.
    fn default() -> Self {
        Self {
            host_loopback: None,
            guest_address: None,
            dns_forward: None,
            dns_host: None,
            outbound_address: None,
            outbound_interface: None,
            host_refused: false,
            host_addresses: Vec::new(),
            allowed: Vec::new(),
        }
    }
}

/// What was not switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// TCP.
    pub tcp: bool,
    /// UDP, DHCP apart.
    pub udp: bool,
    /// ICMP and ICMPv6 echo, and errors.
    pub icmp: bool,
    /// DHCP.
    pub dhcp: bool,
    /// DHCP tells of resolvers.
    pub dhcp_dns: bool,
    /// DHCP tells of search domains.
    pub dhcp_search: bool,
    /// DHCPv6.
    pub dhcpv6: bool,
    /// Neighbour discovery.
    pub ndp: bool,
    /// Router advertisements.
    pub ra: bool,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            tcp: true,
            udp: true,
            icmp: true,
            dhcp: true,
            dhcp_dns: true,
            dhcp_search: true,
            dhcpv6: true,
            ndp: true,
            ra: true,
        }
    }
}
