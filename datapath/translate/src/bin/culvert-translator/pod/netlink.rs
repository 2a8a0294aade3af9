//! Addresses and routes of this network namespace, by rtnetlink (rtnetlink(7)).
//!
//! Two questions, each answered with everything there is; nothing is changed and nothing watched. What the answers mean
//! for the guest is decided in [`super`]. Names of interfaces come from the kernel as well.

use std::io;
use std::net::IpAddr;

use culvert_steer::netlink;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub interface: u32,
    /// With the length of its prefix.
    pub net: IpNet,
    /// Beyond this link, and beyond this host.
    pub global: bool,
    /// Not for new connections, or not at all yet: deprecated, tentative, or a duplicate; or temporary (RFC 8981).
    pub unfit: bool,
}

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether it is one of IPv6.
    pub is_v6: bool,
    /// Whether it leads everywhere.
    pub is_default: bool,
    /// Index of the interface.
    pub interface: u32,
    /// The next hop, if there is one of the same family.
    pub gateway: Option<IpAddr>,
    /// The source address that it prefers.
    pub source: Option<IpAddr>,
    /// The lower, the better.
    pub metric: u32,
}

/// All addresses, in the kernel's order.
pub fn addresses() -> io::Result<Vec<Address>> {
    let messages = dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(messages.into_iter().filter_map(address).collect())
}

/// All unicast routes of the main table, in the kernel's order.
pub fn routes() -> io::Result<Vec<Route>> {
    let messages = dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    Ok(messages.into_iter().filter_map(route).collect())
}

/// The name of an interface.
pub fn interface_name(index: u32) -> io::Result<String> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(socket, index)?)
}

/// The index of an interface.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
}

/// Asks, and collects all parts of the answer.
fn dump(question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut parts = Vec::new();
    netlink::dump(&netlink::open(NETLINK_ROUTE)?, question, &mut |part| parts.push(part))?;
    Ok(parts)
}

fn address(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let mut local = None;
    let mut peer = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            // On point-to-point links both are there, and `Address` is the peer's.
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => peer = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    Some(Address {
        interface: message.header.index,
        net: IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?,
        global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
        // IPv6 calls temporary what IPv4 calls secondary.
        unfit: flags.intersects(
            AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Secondary,
        ),
    })
}

fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = message.header;
    let is_v6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut hop = Hop::default();
    let mut best = Hop::default();
    let mut best_weight = None;
    let mut source = None;
    let mut metric = 0;
    let mut is_link_local = false;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => is_link_local = address_of(&to).is_some_and(stays_on_link),
            RouteAttribute::PrefSource(address) => source = address_of(&address),
            RouteAttribute::Priority(priority) => metric = priority,
            RouteAttribute::MultiPath(hops) => {
                // The first one of those with the highest weight.
                for next in hops {
                    if best_weight.is_none_or(|weight| next.hops > weight) {
                        best_weight = Some(next.hops);
                        best = Hop { interface: Some(next.interface_index), gateway: None };
                        next.attributes.iter().for_each(|attribute| best.learn(attribute));
                    }
                }
            }
            attribute => hop.learn(&attribute),
        }
    }
    let interface = hop.interface.or(best.interface)?;
    let gateway = hop.gateway.or(best.gateway);
    // Every interface has these.
    if is_v6 && is_link_local {
        return None;
    }
    Some(Route {
        is_v6,
        is_default: header.destination_prefix_length == 0,
        interface,
        gateway: gateway.filter(|gateway| gateway.is_ipv6() == is_v6),
        source,
        metric,
    })
}

/// Where a route leads next.
#[derive(Default)]
struct Hop {
    interface: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Hop {
    fn learn(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.interface = Some(*index),
            RouteAttribute::Gateway(address) => self.gateway = address_of(address),
            _ => {}
        }
    }
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn stays_on_link(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use culvert_steer::netlink::read;
    use netlink_packet_core::NLM_F_MULTIPART;

    use super::*;

    /// A default route as the kernel tells of it, and the end of its answer.
    fn answer() -> Vec<u8> {
        let route = [
            // 60 bytes, RTM_NEWROUTE, of several.
            &60_u32.to_ne_bytes()[..],
            &24_u16.to_ne_bytes(),
            &NLM_F_MULTIPART.to_ne_bytes(),
            &[0; 8],
            // IPv4, to everywhere, table main, unicast.
            &[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
            &attribute(15, 254_u32.to_ne_bytes()),
            &attribute(5, [192, 0, 2, 1]),
            &attribute(4, 7_u32.to_ne_bytes()),
            &attribute(6, 100_u32.to_ne_bytes()),
        ]
        .concat();
        [&route[..], &route, &20_u32.to_ne_bytes(), &3_u16.to_ne_bytes(), &[0; 14]].concat()
    }

    fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
    }

    fn ignore(_: RouteNetlinkMessage) {}

    #[test]
    fn an_answer_of_several_messages() {
        let mut parts = Vec::new();
        assert!(read(&answer(), &mut |part| parts.push(part)).unwrap());
        let expected = Route {
            is_v6: false,
            is_default: true,
            interface: 7,
            gateway: Some(IpAddr::from([192, 0, 2, 1])),
            source: None,
            metric: 100,
        };
        assert_eq!(parts.into_iter().filter_map(route).collect::<Vec<_>>(), [expected; 2]);
    }

    #[test]
    fn answers_that_are_cut_off_end_or_go_on() {
        let whole = answer();
        for length in 0..whole.len() {
            match read(&whole[..length], &mut ignore) {
                Ok(ended) => assert!(!ended && (length % 60 < 4), "{length} bytes"),
                Err(error) => assert_eq!(error.to_string(), "a message of the kernel's over netlink is cut off"),
            }
        }
        // Lengths that lead nowhere.
        for length in [0_u32, 1, 15, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(read(&bytes, &mut ignore).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_not_understood_is_passed_over_and_refusals_are_told() {
        let mut bytes = answer();
        // An attribute longer than the message.
        bytes[28..30].copy_from_slice(&200_u16.to_ne_bytes());
        let mut parts = Vec::new();
        assert!(read(&bytes, &mut |part| parts.push(part)).unwrap());
        assert_eq!(parts.into_iter().filter_map(route).count(), 1);
        let eperm = -1_i32;
        let refused =
            [&36_u32.to_ne_bytes()[..], &2_u16.to_ne_bytes(), &[0; 10], &eperm.to_ne_bytes(), &[0; 16]].concat();
        let error = read(&refused, &mut ignore).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
