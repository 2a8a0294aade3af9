//! The pod's network as the kernel and /etc/resolv.conf describe it, and what the guest is told of it.
//!
//! The guest resembles the pod: it gets the pod's addresses, routes and resolvers, unless the command line says
//! otherwise. [`read`] asks the kernel, once at start; [`settings()`] decides, and makes no system call. Called by the
//! binary's `main` before anything is isolated.

mod netlink;
mod settings;
mod summary;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;
use culvert_translate::resolv_conf::ResolvConf;
use culvert_translate::settings::Services;

use netlink::{Address, Route};

pub use settings::settings;
pub use summary::Summary;

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
    /// `--allow-address`.
    pub allowed_addresses: Vec<IpAddr>,
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
            allowed_addresses: Vec::new(),
            hostname: None,
            fqdn: None,
            services: Services::default(),
        }
    }
}

/// What the kernel and /etc/resolv.conf say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The interface that IPv4 is taken from; `None`: none has a route and an address.
    pub v4: Option<Uplink<Ipv4Addr>>,
    /// The interface that IPv6 is taken from; `None`: none has a route and an address.
    pub v6: Option<Uplink<Ipv6Addr>>,
    /// All addresses of all interfaces but loopback ones.
    pub addresses: Vec<IpAddr>,
    /// The resolvers of /etc/resolv.conf, in its order.
    pub resolvers: Vec<IpAddr>,
    /// The search domains of /etc/resolv.conf, without final dots.
    pub search: Vec<String>,
}

/// An interface, as one family sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink<A> {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// The address that it speaks to the world from.
    pub address: A,
    /// The length of that address's prefix, in bits.
    pub prefix: u8,
    /// Its own link-local address, if it has one besides.
    pub link_local: Option<A>,
    /// The next hop of its default route, if it has such a route, and that a next hop.
    pub gateway: Option<A>,
}

/// Why the pod's network cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The kernel did not answer.
    #[error("cannot read addresses and routes: permit this process an AF_NETLINK socket")]
    Netlink(#[source] io::Error),
    /// An interface was asked for that is not there.
    #[error("there is no interface {name:?} to take addresses from: see `ip link`, or leave the option out")]
    NoInterface {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Reads the network of the namespace that this process is in, and /etc/resolv.conf (a missing one is an empty one).
///
/// # Errors
/// [`ReadError`]: rtnetlink is refused, or an interface that was asked for is not there.
pub fn read(wanted: &Wanted) -> Result<Pod, ReadError> {
    let addresses = netlink::addresses().map_err(ReadError::Netlink)?;
    let routes = netlink::routes().map_err(ReadError::Netlink)?;
    let resolv_conf = match std::fs::read("/etc/resolv.conf") {
        Ok(bytes) => ResolvConf::parse(&String::from_utf8_lossy(&bytes)),
        Err(error) => {
            tracing::info!("the guest is told of no resolvers: cannot read /etc/resolv.conf: {error}");
            ResolvConf::default()
        }
    };
    let asked_v4 = index_of(wanted.interface.as_ref().or(wanted.outbound_interface4.as_ref()))?;
    let asked_v6 = index_of(wanted.interface.as_ref().or(wanted.outbound_interface6.as_ref()))?;
    Ok(Pod {
        v4: uplink(false, asked_v4, &addresses, &routes)
            .map(|found| found.named(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None }))
            .transpose()?
            .flatten(),
        v6: uplink(true, asked_v6, &addresses, &routes)
            .map(|found| found.named(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None }))
            .transpose()?
            .flatten(),
        addresses: addresses.iter().map(|address| address.net.addr()).filter(|ip| !ip.is_loopback()).collect(),
        resolvers: resolv_conf.resolvers,
        search: resolv_conf.search,
    })
}

fn index_of(name: Option<&String>) -> Result<Option<u32>, ReadError> {
    name.map(|name| {
        netlink::interface_index(name).map_err(|source| ReadError::NoInterface { name: name.clone(), source })
    })
    .transpose()
}

/// The interface that a family's addresses and routes are taken from, and what it has of them.
fn uplink(is_v6: bool, asked: Option<u32>, addresses: &[Address], routes: &[Route]) -> Option<Found> {
    let routes: Vec<&Route> = routes.iter().filter(|route| route.is_v6 == is_v6).collect();
    let of_asked = |route: &&&Route| asked.is_none_or(|asked| asked == route.interface);
    // The first one of the best, as the kernel would take.
    let default = routes.iter().filter(of_asked).filter(|route| route.is_default).min_by_key(|route| route.metric);
    let index = asked.or(default.map(|route| route.interface)).or_else(|| only_one(&routes))?;
    let own = addresses.iter().filter(|address| address.interface == index && address.net.addr().is_ipv6() == is_v6);
    let is_link_local = |address: &Address| matches!(address.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let candidates: Vec<&Address> = own.clone().filter(|address| !is_link_local(address)).collect();
    let preferred = default.and_then(|route| route.source);
    let address = candidates
        .iter()
        .find(|address| Some(address.net.addr()) == preferred)
        .or_else(|| first_fit(&candidates))
        .or_else(|| candidates.first())?;
    Some(Found {
        index,
        address: address.net.addr(),
        prefix: address.net.prefix_len(),
        link_local: own.clone().find(|address| is_link_local(address)).map(|address| address.net.addr()),
        gateway: default.and_then(|route| route.gateway),
    })
}

/// The first address that is fit for new connections to the world. One that IPv6 was assigned stands alone, without a
/// prefix, and comes before those that the host has made up for itself.
fn first_fit<'a, 'b>(candidates: &'a [&'b Address]) -> Option<&'a &'b Address> {
    let mut fit = candidates.iter().filter(|address| address.global && !address.unfit);
    let assigned = |address: &&&Address| address.net.addr().is_ipv6() && address.net.prefix_len() == 128;
    fit.clone().find(assigned).or_else(|| fit.next())
}

/// The interface that all routes lead through.
fn only_one(routes: &[&Route]) -> Option<u32> {
    let first = routes.first()?.interface;
    routes.iter().all(|route| route.interface == first).then_some(first)
}

/// An [`Uplink`] without a name, of either family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    index: u32,
    address: IpAddr,
    prefix: u8,
    link_local: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Found {
    /// `family` takes addresses of the one family that all of these are of.
    fn named<A>(self, family: impl Fn(IpAddr) -> Option<A>) -> Result<Option<Uplink<A>>, ReadError> {
        let Some(address) = family(self.address) else { return Ok(None) };
        Ok(Some(Uplink {
            interface: netlink::interface_name(self.index).map_err(ReadError::Netlink)?,
            index: self.index,
            address,
            prefix: self.prefix,
            link_local: self.link_local.and_then(&family),
            gateway: self.gateway.and_then(&family),
        }))
    }
}

#[cfg(test)]
mod tests;
