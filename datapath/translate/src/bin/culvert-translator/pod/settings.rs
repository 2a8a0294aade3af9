//! What the guest is told: the pod's network, changed by what the command line wants.
//!
//! Pure: the same pod and the same wishes give the same settings. The rules and defaults are those of passt(1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_translate::settings::{DEFAULT_MAC, DEFAULT_MTU, Ipv4, Ipv6, Mapping, Settings};
use ipnet::Ipv4Net;

use super::{Pod, Uplink, Wanted};

/// Why the guest cannot have what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Neither IPv4 nor IPv6 is left.
    #[error("--ipv4-only and --ipv6-only leave no network: give one of them, or neither")]
    NoFamily,
    /// An address that no host can have.
    #[error("{option} {address}: no host can have this address; give a unicast address that is not a loopback one")]
    NotAHost {
        /// Which option.
        option: &'static str,
        /// What it said.
        address: IpAddr,
    },
    /// A prefix longer than the address.
    #[error("--address {address}/{prefix}: a prefix of IPv4 has 0 to 32 bits, one of IPv6 0 to 128")]
    PrefixTooLong {
        /// The address.
        address: IpAddr,
        /// The length of its prefix.
        prefix: u8,
    },
    /// Two ways to say the same.
    #[error("--netmask and --address {address}/{prefix} both give a prefix: leave one of them out")]
    TwoPrefixes {
        /// The address.
        address: IpAddr,
        /// The length of its prefix.
        prefix: u8,
    },
    /// The guest and its gateway are the same.
    #[error("{0} is both the guest's address and its gateway: change --address or --gateway")]
    OwnGateway(IpAddr),
    /// A MAC address of a group.
    #[error("--mac-addr {0}: frames cannot come from a group's address; the lowest bit of the first byte must be 0")]
    GroupMac(culvert_frame::MacAddress),
    /// A name that cannot travel.
    #[error("{option} {name:?}: not a domain name; labels have 1 to 63 bytes, with dots between them, 253 in all")]
    NotADomain {
        /// Which option.
        option: &'static str,
        /// What it said.
        name: String,
    },
    /// A host name that is too long for its option.
    #[error("--hostname {0:?}: a host name has 1 to 255 bytes")]
    NotAHostname(String),
}

/// What the guest is told.
///
/// # Errors
/// [`SettingsError`]: what was asked for contradicts itself, or cannot be.
pub fn settings(pod: &Pod, wanted: &Wanted) -> Result<Settings, SettingsError> {
    if !wanted.ipv4 && !wanted.ipv6 {
        return Err(SettingsError::NoFamily);
    }
    let mac = wanted.mac.unwrap_or(DEFAULT_MAC);
    if mac.is_group() {
        return Err(SettingsError::GroupMac(mac));
    }
    if let Some(name) = wanted.hostname.as_ref().filter(|name| !(1..=255).contains(&name.len())) {
        return Err(SettingsError::NotAHostname(name.clone()));
    }
    if let Some(name) = &wanted.fqdn {
        check_domain("--fqdn", name)?;
    }
    wanted.search.iter().flatten().try_for_each(|name| check_domain("--search", name))?;
    let search = wanted.search.as_ref().unwrap_or(&pod.search);
    Ok(Settings {
        mac,
        mtu: Some(wanted.mtu.unwrap_or(DEFAULT_MTU)).filter(|mtu| *mtu != 0),
        v4: if wanted.ipv4 { Some(ipv4(pod, wanted)?) } else { None },
        v6: if wanted.ipv6 { Some(ipv6(pod, wanted)?) } else { None },
        search: search.iter().map(|name| name.trim_end_matches('.').to_owned()).collect(),
        hostname: wanted.hostname.clone(),
        fqdn: wanted.fqdn.clone(),
        services: wanted.services,
    })
}

fn ipv4(pod: &Pod, wanted: &Wanted) -> Result<Ipv4, SettingsError> {
    let address = ipv4_address(pod, wanted)?;
    let uplink = pod.v4.as_ref();
    let asked = wanted.gateways.iter().copied().filter_map(v4).next_back();
    check_hosts("--gateway", asked)?;
    // Without a next hop nothing stands for the host, and the guest gets a gateway that it need not tell apart.
    let nameless = asked.is_none() && uplink.is_some_and(|uplink| uplink.gateway.is_none());
    let gateway = asked.or(uplink.and_then(|uplink| uplink.gateway)).unwrap_or(LOCAL_GATEWAY_V4);
    if gateway == address.addr() {
        return Err(SettingsError::OwnGateway(gateway.into()));
    }
    let (resolvers, mapping) = names_and_mapping(pod, wanted, (!nameless).then_some(gateway), v4)?;
    Ok(Ipv4 { address, gateway, ours: gateway, resolvers, mapping })
}

fn ipv6(pod: &Pod, wanted: &Wanted) -> Result<Ipv6, SettingsError> {
    let uplink = pod.v6.as_ref();
    let asked = wanted.addresses.iter().filter_map(|(address, prefix)| Some((v6(*address)?, *prefix))).next_back();
    if let Some((address, Some(prefix @ 129..))) = asked {
        return Err(SettingsError::PrefixTooLong { address: address.into(), prefix });
    }
    check_hosts("--address", asked.map(|(address, _)| address))?;
    let address = asked.map(|(address, _)| address).or(uplink.map(|uplink| uplink.address));
    let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED);
    let asked = wanted.gateways.iter().copied().filter_map(v6).next_back();
    check_hosts("--gateway", asked)?;
    let nameless = asked.is_none() && uplink.is_some_and(|uplink| uplink.gateway.is_none());
    let gateway = asked.or(uplink.and_then(|uplink| uplink.gateway)).unwrap_or(LOCAL_GATEWAY_V6);
    if gateway == address {
        return Err(SettingsError::OwnGateway(gateway.into()));
    }
    // Routers advertise from link-local addresses only (RFC 4861, section 4.2).
    let link_local = Some(gateway)
        .filter(Ipv6Addr::is_unicast_link_local)
        .or(uplink.and_then(|uplink| uplink.link_local))
        .unwrap_or(LOCAL_GATEWAY_V6);
    let (resolvers, mapping) = names_and_mapping(pod, wanted, (!nameless).then_some(gateway), v6)?;
    let interface_index = uplink.map_or(0, |uplink| uplink.index);
    Ok(Ipv6 { address, gateway, link_local, interface_index, resolvers, mapping })
}

/// The address of `--address`, or the pod's, or a link-local one; with the prefix asked for, or that of the pod's
/// address, or that of an address's class.
fn ipv4_address(pod: &Pod, wanted: &Wanted) -> Result<Ipv4Net, SettingsError> {
    let asked = wanted.addresses.iter().filter_map(|(address, prefix)| Some((v4(*address)?, *prefix))).next_back();
    check_hosts("--address", asked.map(|(address, _)| address))?;
    let (address, prefix) = match (asked, &pod.v4) {
        (Some((address, Some(prefix))), _) if wanted.netmask.is_some() => {
            return Err(SettingsError::TwoPrefixes { address: address.into(), prefix });
        }
        (Some((address, Some(prefix))), _) => (address, prefix),
        (Some((address, None)), _) => (address, wanted.netmask.unwrap_or_else(|| class_prefix(address))),
        (None, Some(Uplink { address, prefix, .. })) => (*address, wanted.netmask.unwrap_or(*prefix)),
        (None, None) => (LOCAL_ADDRESS_V4, wanted.netmask.unwrap_or(LOCAL_PREFIX_V4)),
    };
    Ipv4Net::new(address, prefix).map_err(|_| SettingsError::PrefixTooLong { address: address.into(), prefix })
}

/// Classes A, B and C (RFC 791, section 3.2); none has one address.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..=127, ..] => 8,
        [128..=191, ..] => 16,
        [192..=223, ..] => 24,
        _ => 32,
    }
}

/// What resolvers a family's guest is told of, and what its addresses mean. `family` takes addresses of the family;
/// `gateway` is the one that by default stands for the host.
fn names_and_mapping<A>(
    pod: &Pod,
    wanted: &Wanted,
    gateway: Option<A>,
    family: impl Fn(IpAddr) -> Option<A>,
) -> Result<(Vec<A>, Mapping<A>), SettingsError>
where
    A: Copy + PartialEq + Into<IpAddr> + Family,
{
    let last = |addresses: &[IpAddr]| addresses.iter().copied().filter_map(&family).next_back();
    // "none" counts for both families and until an address is given again.
    let mapped = |given: &[Option<IpAddr>], default: Option<A>| {
        given.iter().fold(default, |mapped, given| match given {
            None => None,
            Some(address) => family(*address).or(mapped),
        })
    };
    let default = gateway.filter(|_| !wanted.no_map_gateway);
    let host_loopback = mapped(&wanted.map_host_loopback, default);
    let guest_address = mapped(&wanted.map_guest_address, None);
    let outbound_address = last(&wanted.outbound_addresses);
    check_hosts("--map-host-loopback", host_loopback)?;
    check_hosts("--map-guest-addr", guest_address)?;

    let hosts: Vec<A> = pod.resolvers.iter().copied().filter_map(&family).collect();
    let asked_forward = last(&wanted.dns_forward);
    // A resolver on the host's loopback, or one that the mapped address hides, is reached at the mapped address.
    let hidden = hosts.iter().copied().find(|host| (*host).into().is_loopback() || Some(*host) == host_loopback);
    let dns_forward = asked_forward.or(hidden.and(host_loopback));
    let implied = if asked_forward.is_some() { hosts.first().copied() } else { hidden };
    let mapping = Mapping {
        host_loopback,
        guest_address,
        dns_forward,
        dns_host: last(&wanted.dns_host).or(implied).filter(|_| dns_forward.is_some()),
        outbound_address,
        outbound_interface: A::outbound_interface(wanted),
        host_refused: wanted.no_map_gateway || wanted.map_host_loopback.contains(&None),
        host_addresses: pod.addresses.iter().copied().filter_map(&family).collect(),
        allowed: wanted.allowed_addresses.iter().copied().filter_map(&family).collect(),
    };
    let resolvers = match &wanted.dns {
        Some(asked) => asked.iter().copied().filter_map(&family).collect(),
        None => {
            let mut told: Vec<A> = Vec::new();
            for host in hosts {
                let seen = if host.into().is_loopback() { dns_forward } else { Some(host) };
                told.extend(seen.filter(|seen| !told.contains(seen)));
            }
            told.truncate(MAX_RESOLVERS);
            told
        }
    };
    Ok((resolvers, mapping))
}

/// What differs between families.
trait Family {
    fn outbound_interface(wanted: &Wanted) -> Option<String>;
}

impl Family for Ipv4Addr {
    fn outbound_interface(wanted: &Wanted) -> Option<String> {
        wanted.outbound_interface4.clone()
    }
}

impl Family for Ipv6Addr {
    fn outbound_interface(wanted: &Wanted) -> Option<String> {
        wanted.outbound_interface6.clone()
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(v4) = address { Some(v4) } else { None }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(v6) = address { Some(v6) } else { None }
}

fn check_hosts<A: Into<IpAddr>>(option: &'static str, address: Option<A>) -> Result<(), SettingsError> {
    let Some(address) = address.map(Into::into) else { return Ok(()) };
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast {
        return Err(SettingsError::NotAHost { option, address });
    }
    Ok(())
}

/// RFC 1035, section 2.3.4.
fn check_domain(option: &'static str, name: &str) -> Result<(), SettingsError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() <= 253 && bare.split('.').all(|label| (1..=63).contains(&label.len())) {
        return Ok(());
    }
    Err(SettingsError::NotADomain { option, name: name.to_owned() })
}

/// Where no interface is to be resembled: link-local addresses (RFC 3927; RFC 4291, section 2.5.6).
const LOCAL_ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
const LOCAL_PREFIX_V4: u8 = 16;
const LOCAL_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
const LOCAL_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// As many as resolv.conf(5) has (MAXNS).
const MAX_RESOLVERS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// 192.0.2.2/24 behind .1, 2001:db8::2 behind 2001:db8::1.
    fn pod() -> Pod {
        Pod {
            v4: Some(Uplink {
                interface: "eth0".to_owned(),
                index: 2,
                address: [192, 0, 2, 2].into(),
                prefix: 24,
                link_local: None,
                gateway: Some([192, 0, 2, 1].into()),
            }),
            v6: Some(Uplink {
                interface: "eth0".to_owned(),
                index: 2,
                address: ip6("2001:db8::2"),
                prefix: 64,
                link_local: Some(ip6("fe80::aa")),
                gateway: Some(ip6("2001:db8::1")),
            }),
            addresses: vec![[192, 0, 2, 2].into(), ip6("2001:db8::2").into()],
            resolvers: vec![[192, 0, 2, 53].into(), ip6("2001:db8::53").into()],
            search: vec!["example.org".to_owned()],
        }
    }

    fn ip6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn made(pod: &Pod, wanted: Wanted) -> (Ipv4, Ipv6) {
        let settings = settings(pod, &wanted).unwrap();
        (settings.v4.unwrap(), settings.v6.unwrap())
    }

    fn refused(wanted: Wanted) -> String {
        settings(&pod(), &wanted).unwrap_err().to_string()
    }

    #[test]
    fn the_guest_resembles_the_pod() {
        let settings = settings(&pod(), &Wanted::default()).unwrap();
        assert_eq!((settings.mac, settings.mtu), (DEFAULT_MAC, Some(65_520)));
        assert_eq!((settings.search, settings.hostname, settings.fqdn), (vec!["example.org".to_owned()], None, None));
        let v4 = settings.v4.unwrap();
        assert_eq!(v4.address, "192.0.2.2/24".parse().unwrap());
        assert_eq!((v4.gateway, v4.ours), ([192, 0, 2, 1].into(), [192, 0, 2, 1].into()));
        assert_eq!(v4.resolvers, [Ipv4Addr::new(192, 0, 2, 53)]);
        assert_eq!(v4.mapping.host_loopback, Some([192, 0, 2, 1].into()));
        assert_eq!((v4.mapping.guest_address, v4.mapping.dns_forward, v4.mapping.dns_host), (None, None, None));
        assert!(!v4.mapping.host_refused);
        let v6 = settings.v6.unwrap();
        assert_eq!((v6.address, v6.gateway), (ip6("2001:db8::2"), ip6("2001:db8::1")));
        assert_eq!((v6.link_local, v6.interface_index), (ip6("fe80::aa"), 2));
        assert_eq!(v6.mapping.host_loopback, Some(ip6("2001:db8::1")));
    }

    #[test]
    fn without_a_network_addresses_are_local() {
        let (v4, v6) = made(&Pod::default(), Wanted::default());
        assert_eq!(v4.address, "169.254.2.1/16".parse().unwrap());
        assert_eq!((v4.gateway, v4.mapping.host_loopback), ([169, 254, 2, 2].into(), Some([169, 254, 2, 2].into())));
        assert_eq!((v6.address, v6.gateway, v6.link_local), (Ipv6Addr::UNSPECIFIED, ip6("fe80::1"), ip6("fe80::1")));
        assert_eq!(v6.mapping.host_loopback, Some(ip6("fe80::1")));
    }

    #[test]
    fn a_route_without_a_next_hop_stands_for_no_host() {
        let mut pod = pod();
        pod.v4.as_mut().unwrap().gateway = None;
        let (v4, _) = made(&pod, Wanted::default());
        assert_eq!((v4.gateway, v4.mapping.host_loopback), ([169, 254, 2, 2].into(), None));
        let (v4, _) = made(&pod, Wanted { gateways: vec![ip("192.0.2.7")], ..Wanted::default() });
        assert_eq!((v4.gateway, v4.mapping.host_loopback), ([192, 0, 2, 7].into(), Some([192, 0, 2, 7].into())));
    }

    #[test]
    fn a_link_local_gateway_is_ours() {
        let mut pod = pod();
        pod.v6.as_mut().unwrap().gateway = Some(ip6("fe80::9"));
        let (_, v6) = made(&pod, Wanted::default());
        assert_eq!((v6.gateway, v6.link_local), (ip6("fe80::9"), ip6("fe80::9")));
    }

    #[test]
    fn prefixes_as_given_by_the_pod_and_by_class() {
        let prefix = |addresses: &[(&str, Option<u8>)], netmask| {
            let addresses = addresses.iter().map(|(address, prefix)| (ip(address), *prefix)).collect();
            made(&pod(), Wanted { addresses, netmask, ..Wanted::default() }).0.address.to_string()
        };
        assert_eq!(prefix(&[], Some(28)), "192.0.2.2/28");
        assert_eq!(prefix(&[("10.1.2.3", None)], None), "10.1.2.3/8");
        assert_eq!(prefix(&[("172.16.2.3", None)], None), "172.16.2.3/16");
        assert_eq!(prefix(&[("192.168.2.3", None)], None), "192.168.2.3/24");
        assert_eq!(prefix(&[("10.1.2.3", None)], Some(30)), "10.1.2.3/30");
        assert_eq!(prefix(&[("10.1.2.3", Some(31))], None), "10.1.2.3/31");
        assert_eq!(
            prefix(&[("10.1.2.3", Some(31)), ("fd00::1", Some(48)), ("10.1.2.4", Some(32))], None),
            "10.1.2.4/32"
        );
    }

    #[test]
    fn no_map_gw_and_none_leave_the_loopback_alone() {
        let all = Wanted { no_map_gateway: true, ..Wanted::default() };
        let none = Wanted { map_host_loopback: vec![None], ..Wanted::default() };
        for wanted in [all, none] {
            let (v4, v6) = made(&pod(), wanted);
            assert_eq!((v4.mapping.host_loopback, v6.mapping.host_loopback), (None, None));
            assert!(v4.mapping.host_refused && v6.mapping.host_refused);
            assert_eq!(v4.mapping.host_addresses, [Ipv4Addr::new(192, 0, 2, 2)]);
        }
        let given = vec![Some(ip("192.0.2.9")), None, Some(ip("192.0.2.8"))];
        let (v4, v6) = made(&pod(), Wanted { map_host_loopback: given, ..Wanted::default() });
        assert_eq!((v4.mapping.host_loopback, v6.mapping.host_loopback), (Some([192, 0, 2, 8].into()), None));
        let guest = vec![Some(ip("192.0.2.9")), Some(ip("fd00::9"))];
        let (v4, v6) = made(&pod(), Wanted { map_guest_address: guest, ..Wanted::default() });
        assert_eq!(v4.mapping.guest_address, Some([192, 0, 2, 9].into()));
        assert_eq!(v6.mapping.guest_address, Some(ip6("fd00::9")));
    }

    #[test]
    fn a_resolver_on_the_loopback_is_told_as_the_mapped_address() {
        let mut pod = pod();
        pod.resolvers = vec![ip("127.0.0.53"), ip("192.0.2.53"), ip("127.0.0.54"), ip("192.0.2.54"), ip("::1")];
        let (v4, v6) = made(&pod, Wanted::default());
        assert_eq!(v4.resolvers, [[192, 0, 2, 1].into(), Ipv4Addr::new(192, 0, 2, 53), [192, 0, 2, 54].into()]);
        assert_eq!(v4.mapping.dns_forward, Some([192, 0, 2, 1].into()));
        assert_eq!(v4.mapping.dns_host, Some([127, 0, 0, 53].into()));
        assert_eq!((v6.resolvers, v6.mapping.dns_host), (vec![ip6("2001:db8::1")], Some(Ipv6Addr::LOCALHOST)));
        // Where nothing stands for the loopback, such a resolver cannot be told of.
        let (v4, _) = made(&pod, Wanted { no_map_gateway: true, ..Wanted::default() });
        assert_eq!(v4.resolvers, [[192, 0, 2, 53].into(), Ipv4Addr::new(192, 0, 2, 54)]);
        assert_eq!((v4.mapping.dns_forward, v4.mapping.dns_host), (None, None));
        // Unless DNS has an address of its own.
        let dns_forward = vec![ip("192.0.2.9")];
        let (v4, _) = made(&pod, Wanted { no_map_gateway: true, dns_forward, ..Wanted::default() });
        assert_eq!(v4.resolvers, [[192, 0, 2, 9].into(), [192, 0, 2, 53].into(), Ipv4Addr::new(192, 0, 2, 54)]);
        assert_eq!(v4.mapping.dns_host, Some([127, 0, 0, 53].into()));
    }

    #[test]
    fn a_gateway_that_is_a_resolver_stays_one() {
        let mut pod = pod();
        pod.resolvers = vec![ip("192.0.2.53"), ip("192.0.2.1")];
        let (v4, _) = made(&pod, Wanted::default());
        assert_eq!(v4.resolvers, [[192, 0, 2, 53].into(), Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(v4.mapping.dns_forward, Some([192, 0, 2, 1].into()));
        assert_eq!(v4.mapping.dns_host, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn names_as_asked_for() {
        let wanted = Wanted {
            dns: Some(vec![ip("127.0.0.1"), ip("fd00::53")]),
            search: Some(vec!["a.example.".to_owned()]),
            dns_forward: vec![ip("192.0.2.1")],
            dns_host: vec![ip("198.51.100.53")],
            hostname: Some("guest".to_owned()),
            fqdn: Some("guest.example".to_owned()),
            ..Wanted::default()
        };
        let settings = settings(&pod(), &wanted).unwrap();
        assert_eq!(settings.search, ["a.example"]);
        assert_eq!((settings.hostname.as_deref(), settings.fqdn.as_deref()), (Some("guest"), Some("guest.example")));
        let (v4, v6) = (settings.v4.unwrap(), settings.v6.unwrap());
        assert_eq!((v4.resolvers, v6.resolvers), (vec![Ipv4Addr::LOCALHOST], vec![ip6("fd00::53")]));
        assert_eq!(v4.mapping.dns_host, Some([198, 51, 100, 53].into()));
        let none = Wanted { dns: Some(Vec::new()), search: Some(Vec::new()), mtu: Some(0), ..Wanted::default() };
        let settings = super::settings(&pod(), &none).unwrap();
        assert_eq!((settings.v4.unwrap().resolvers, settings.search, settings.mtu), (Vec::new(), Vec::new(), None));
    }

    #[test]
    fn one_family_and_outbound_choices() {
        let wanted = Wanted {
            ipv6: false,
            outbound_addresses: vec![ip("fd00::1"), ip("192.0.2.3"), ip("192.0.2.4")],
            outbound_interface4: Some("eth0".to_owned()),
            ..Wanted::default()
        };
        let settings = settings(&pod(), &wanted).unwrap();
        assert_eq!(settings.v6, None);
        let mapping = settings.v4.unwrap().mapping;
        assert_eq!(mapping.outbound_address, Some([192, 0, 2, 4].into()));
        assert_eq!(mapping.outbound_interface.as_deref(), Some("eth0"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let addresses = |address: &str, prefix| vec![(ip(address), prefix)];
        let cases = [
            (Wanted { ipv4: false, ipv6: false, ..Wanted::default() }, "--ipv4-only and --ipv6-only leave no network"),
            (Wanted { addresses: addresses("127.0.0.2", None), ..Wanted::default() }, "--address 127.0.0.2: no host"),
            (Wanted { addresses: addresses("ff02::1", None), ..Wanted::default() }, "--address ff02::1: no host"),
            (
                Wanted { addresses: addresses("10.0.0.1", Some(33)), ..Wanted::default() },
                "--address 10.0.0.1/33: a prefix",
            ),
            (
                Wanted { addresses: addresses("fd00::1", Some(129)), ..Wanted::default() },
                "--address fd00::1/129: a prefix",
            ),
            (
                Wanted { addresses: addresses("10.0.0.1", Some(8)), netmask: Some(8), ..Wanted::default() },
                "--netmask and --address 10.0.0.1/8 both",
            ),
            (Wanted { gateways: vec![ip("192.0.2.2")], ..Wanted::default() }, "192.0.2.2 is both the guest's address"),
            (Wanted { gateways: vec![ip("0.0.0.0")], ..Wanted::default() }, "--gateway 0.0.0.0: no host"),
            (
                Wanted { map_host_loopback: vec![Some(ip("127.0.0.1"))], ..Wanted::default() },
                "--map-host-loopback 127.0.0.1: no host",
            ),
            (Wanted { mac: Some("01:00:5e:00:00:01".parse().unwrap()), ..Wanted::default() }, "--mac-addr 01:00:5e:"),
            (Wanted { fqdn: Some("a..b".to_owned()), ..Wanted::default() }, "--fqdn \"a..b\": not a domain name"),
            (Wanted { search: Some(vec!["x".repeat(64)]), ..Wanted::default() }, "--search \"xxxx"),
            (Wanted { hostname: Some(String::new()), ..Wanted::default() }, "--hostname \"\": a host name has"),
        ];
        for (wanted, expected) in cases {
            let error = refused(wanted);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
