//! Whether a port may send a frame: the addresses that a guest may use as its own.
//!
//! The MAC address holds for the Ethernet source. IP addresses, once any is listed, hold for whatever says where a frame
//! comes from: IPv4 and IPv6 sources, ARP's and RARP's sender, neighbour discovery's source, target and link-layer
//! options. Such a port speaks IPv4, IPv6, ARP and RARP only, behind any number of VLAN tags, and is no router: router
//! advertisements, redirects, and queries for groups are refused, and so is everything that cannot be parsed.
//!
//! Without an address, a guest may ask for one: DHCP from 0.0.0.0, router solicitations, duplicate address detection and
//! ARP probes for addresses that it may use, reports of groups. The IPv6 link-local address made of the frame's Ethernet
//! source (RFC 4291, appendix A) needs no listing; others do (`fe80::/10` lists all of them, and with them those of the
//! network's routers: who may use these can pose as the router).
//!
//! Not a firewall: it looks at who sends, never at what for. Called by `forward` for guarded ports, with a frame's head.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::{DropReason, EthernetHeader, MacAddress};
use ipnet::IpNet;

use crate::ip::{self, Content, Packet};

/// What a port may use as source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The only Ethernet source address, if it is bound to one.
    pub mac: Option<MacAddress>,
    /// The IP addresses and networks that it may use; empty: any, unchecked.
    pub addresses: Box<[IpNet]>,
}

impl Guard {
    /// Whether it lets every frame pass, so that [`Self::check`] need not be called.
    #[inline]
    pub const fn is_open(&self) -> bool {
        self.mac.is_none() && self.addresses.is_empty()
    }

    /// Whether a frame may pass. `head` is the frame's first bytes, with its VLAN tags: all of it, or at least 128.
    ///
    /// # Errors
    /// [`DropReason::Runt`] without an Ethernet header, [`DropReason::SpoofedSource`] for its source address,
    /// [`DropReason::SpoofedAddress`] for what lies behind it.
    #[inline(never)]
    pub fn check(&self, head: &[u8]) -> Result<(), DropReason> {
        let header = EthernetHeader::parse(head)?;
        if self.mac.is_some_and(|mac| mac != header.source) {
            return Err(DropReason::SpoofedSource);
        }
        if self.addresses.is_empty() || self.passes(head, header.source) {
            Ok(())
        } else {
            Err(DropReason::SpoofedAddress)
        }
    }

    fn passes(&self, head: &[u8], station: MacAddress) -> bool {
        let Some((ether_type, bytes)) = ip::behind_tags(head) else { return false };
        match ether_type {
            ARP => Arp::parse(bytes).is_some_and(|arp| self.arp_passes(&arp, station)),
            RARP => Arp::parse(bytes).is_some_and(|arp| self.rarp_passes(&arp, station)),
            _ => Packet::parse(ether_type, bytes).is_some_and(|packet| self.packet_passes(&packet, station)),
        }
    }

    /// RFC 826. The sender is the port's own; only a request may leave its address open, to probe for one (RFC 5227,
    /// 2.1.1), and then for one that the port may have: a probe for another's keeps that one from using it.
    fn arp_passes(&self, arp: &Arp, station: MacAddress) -> bool {
        let probes = arp.operation == 1 && arp.sender_address.is_unspecified() && self.lists(arp.target_address);
        arp.sender == station && matches!(arp.operation, 1 | 2) && (probes || self.lists(arp.sender_address))
    }

    /// RFC 903: a request for one's own address, which hypervisors send to announce where a guest is now.
    fn rarp_passes(&self, arp: &Arp, station: MacAddress) -> bool {
        let sender_passes = arp.sender_address.is_unspecified() || self.lists(arp.sender_address);
        arp.sender == station && arp.operation == 3 && sender_passes
    }

    fn packet_passes(&self, packet: &Packet<'_>, station: MacAddress) -> bool {
        let is_own = self.owns(packet.source, station);
        let Content::Message { protocol, bytes, whole, fragmented } = packet.content else {
            // The first fragment has been or will be looked at. What is hidden could be neighbour discovery (RFC 7113).
            return is_own && packet.content == Content::LaterFragment;
        };
        let asks = packet.source.is_unspecified() && !fragmented;
        match (protocol, packet.source) {
            (ip::PIM, _) => false,
            (ip::IGMP, IpAddr::V4(_)) => {
                let reports = matches!(bytes.first(), Some(0x12 | 0x16 | 0x17 | 0x22));
                reports && (is_own || asks && packet.destination.is_multicast())
            }
            (ip::UDP, IpAddr::V4(_)) if asks && !is_own => {
                // RFC 2131, 4.1.
                packet.destination == IpAddr::V4(Ipv4Addr::BROADCAST) && bytes.starts_with(&[0, 68, 0, 67])
            }
            (ip::ICMPV6, IpAddr::V6(_)) => {
                let message = if whole && !fragmented { Some(bytes) } else { None };
                match bytes.first() {
                    Some(131 | 132 | 143) => is_own || asks,
                    Some(133) => (is_own || asks) && options_pass(message, 8, station, asks),
                    // Whoever has no address yet asks whether another one has it (RFC 4862, 5.4.2).
                    Some(135) => {
                        let sender_passes = is_own || asks && self.owns_target(bytes, station);
                        sender_passes && options_pass(message, 24, station, asks)
                    }
                    Some(136) => {
                        is_own && self.owns_target(bytes, station) && options_pass(message, 24, station, false)
                    }
                    // A router's (queries for groups, advertisements, redirects, renumbering, certification paths, multicast
                    // router discovery), and inverse discovery, whose claims nobody needs.
                    Some(130 | 134 | 137 | 138 | 141 | 142 | 149 | 151 | 153) | None => false,
                    Some(_) => is_own,
                }
            }
            _ => is_own,
        }
    }

    /// Whether an address is listed, or is the link-local one of a station.
    fn owns(&self, address: IpAddr, station: MacAddress) -> bool {
        self.lists(address) || address == link_local(station)
    }

    fn owns_target(&self, message: &[u8], station: MacAddress) -> bool {
        let target = message.get(8..).and_then(|rest| rest.first_chunk::<16>());
        target.is_some_and(|target| self.owns(Ipv6Addr::from(*target).into(), station))
    }

    fn lists(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        self.addresses.iter().any(|network| network.contains(&address))
    }
}

/// A packet of RFC 826 for Ethernet and IPv4.
struct Arp {
    operation: u16,
    sender: MacAddress,
    sender_address: Ipv4Addr,
    target_address: Ipv4Addr,
}

impl Arp {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[0, 1, 8, 0, 6, 4, o0, o1, h0, h1, h2, h3, h4, h5, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] =
            bytes.first_chunk()?
        else {
            return None;
        };
        Some(Self {
            operation: u16::from_be_bytes([o0, o1]),
            sender: MacAddress([h0, h1, h2, h3, h4, h5]),
            sender_address: Ipv4Addr::new(s0, s1, s2, s3),
            target_address: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }
}

/// The link-local address with a modified EUI-64 interface identifier (RFC 4291, appendix A).
fn link_local(station: MacAddress) -> IpAddr {
    let [a, b, c, d, e, f] = station.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]).into()
}

/// Whether the options of a neighbour discovery message (RFC 4861, 4.6), from the byte `start` on, tell of no other
/// link-layer address than the sender's, and of none at all where `source_open`: the message then has no source address.
/// The message must be at hand as a whole, in one packet (RFC 6980).
fn options_pass(message: Option<&[u8]>, start: usize, station: MacAddress, source_open: bool) -> bool {
    let Some(mut options) = message.and_then(|message| message.get(start..)) else { return false };
    while let Some((option, rest)) = take_option(options) {
        if let [SOURCE_LINK_LAYER | TARGET_LINK_LAYER, _, address @ ..] = option
            && (source_open || address != station.0)
        {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}

/// The first option, if it is well-formed, and what follows it.
fn take_option(options: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, units @ 1..=255, ..] = *options else { return None };
    options.split_at_checked(usize::from(units) * 8)
}

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;

/// Options of neighbour discovery (RFC 4861, 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::build::*;

    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
    const ALL: [u8; 6] = [0xff; 6];
    /// Of [`GUEST`].
    const LINK_LOCAL: &str = "fe80::ff:fe00:a";

    fn guard(addresses: &[&str]) -> Guard {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Guard { mac: Some(MacAddress(GUEST)), addresses }
    }

    fn listed() -> Guard {
        guard(&["10.0.0.5/32", "192.168.7.0/24", "2001:db8::5/128"])
    }

    fn passes(ether_type: u16, payload: &[u8]) -> bool {
        let frame = ethernet(ALL, GUEST, ether_type, payload);
        let result = listed().check(&frame);
        // Tags hide nothing and change nothing.
        let tagged = tagged(&tagged(&frame, 0x8100), 0x88a8);
        assert_eq!(listed().check(&tagged), result);
        // And no cut makes a bad frame pass.
        if result.is_err() {
            (14..frame.len()).for_each(|length| assert!(listed().check(&frame[..length]).is_err(), "{length}"));
        }
        assert!(matches!(result, Ok(()) | Err(DropReason::SpoofedAddress)));
        result.is_ok()
    }

    fn udp(source: &str) -> Vec<u8> {
        ipv4(source, "10.0.0.9", 64, ip::UDP, &[], &[0; 8])
    }

    fn arp(operation: u8, sender: [u8; 6], sender_address: [u8; 4], target_address: [u8; 4]) -> Vec<u8> {
        [&[0, 1, 8, 0, 6, 4, 0, operation], &sender[..], &sender_address, &[0; 6], &target_address].concat()
    }

    fn icmpv6(source: &str, body: &[u8]) -> Vec<u8> {
        ipv6(source, "ff02::1", 255, ip::ICMPV6, body)
    }

    fn neighbour(kind: u8, target: &str, options: &[u8]) -> Vec<u8> {
        let target = target.parse::<Ipv6Addr>().unwrap().octets();
        [&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..], options].concat()
    }

    fn link_layer(kind: u8, address: [u8; 6]) -> Vec<u8> {
        [&[kind, 1], &address[..]].concat()
    }

    #[test]
    fn an_open_guard_lets_all_pass() {
        let open = Guard::default();
        assert!(open.is_open() && !listed().is_open());
        assert!(!Guard { mac: Some(MacAddress(GUEST)), ..Guard::default() }.is_open());
        assert!(!Guard { mac: None, ..listed() }.is_open());
        assert_eq!(open.check(&ethernet(ALL, OTHER, 0x1234, b"")), Ok(()));
        assert_eq!(open.check(&[0; 13]), Err(DropReason::Runt));
    }

    #[test]
    fn a_mac_alone_holds_for_the_ethernet_source_alone() {
        let guard = guard(&[]);
        assert_eq!(guard.check(&ethernet(ALL, OTHER, ip::IPV4, &udp("10.0.0.5"))), Err(DropReason::SpoofedSource));
        assert_eq!(guard.check(&ethernet(ALL, GUEST, ip::IPV4, &udp("10.9.9.9"))), Ok(()));
        assert_eq!(guard.check(&ethernet(ALL, GUEST, ARP, &arp(2, OTHER, [10, 0, 0, 1], [10, 0, 0, 5]))), Ok(()));
        assert_eq!(guard.check(&ethernet(ALL, GUEST, 0x1234, b"")), Ok(()));
    }

    #[test]
    fn addresses_hold_without_a_mac() {
        let guard = Guard { mac: None, ..listed() };
        let announced =
            |station, sender| guard.check(&ethernet(ALL, station, ARP, &arp(1, sender, [10, 0, 0, 5], [0; 4])));
        assert_eq!(announced(OTHER, OTHER), Ok(()));
        assert_eq!(announced(OTHER, GUEST), Err(DropReason::SpoofedAddress));
        let from = |source| guard.check(&ethernet(ALL, OTHER, ip::IPV6, &icmpv6(source, &[128, 0, 0, 0])));
        assert_eq!(from("fe80::ff:fe00:b"), Ok(()));
        assert_eq!(from(LINK_LOCAL), Err(DropReason::SpoofedAddress));
    }

    #[test]
    fn ipv4_sources_are_listed_ones() {
        assert!(passes(ip::IPV4, &udp("10.0.0.5")));
        assert!(passes(ip::IPV4, &udp("192.168.7.200")));
        for source in ["10.0.0.6", "192.168.8.1", "0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.1"] {
            assert!(!passes(ip::IPV4, &udp(source)), "{source}");
        }
        let mut fragment = udp("10.0.0.5");
        fragment[7] = 1;
        assert!(passes(ip::IPV4, &fragment));
        fragment[15] = 6;
        assert!(!passes(ip::IPV4, &fragment), "a later fragment from another address");
    }

    #[test]
    fn what_is_no_ip_is_refused() {
        let good = udp("10.0.0.5");
        for length in 0..20 {
            assert!(!passes(ip::IPV4, &good[..length]), "{length}");
        }
        for first in [0x44, 0x4f, 0x05, 0x65] {
            assert!(!passes(ip::IPV4, &[&[first], &good[1..]].concat()), "{first:#x}");
        }
        assert!(!passes(ip::IPV6, &good), "IPv4 by the name of IPv6");
        assert!(!passes(ip::IPV4, &ipv6("2001:db8::5", "ff02::1", 64, ip::UDP, &[0; 8])), "IPv6 by the name of IPv4");
    }

    #[test]
    fn other_protocols_are_refused() {
        // LLC, an old tag, MPLS, PPPoE, EAPOL, MACsec, local experiments.
        for ether_type in [0, 46, 0x05ff, 0x9100, 0x8847, 0x8863, 0x8864, 0x888e, 0x88e5, 0x88b5, 0xffff] {
            assert!(!passes(ether_type, &udp("10.0.0.5")), "{ether_type:#x}");
        }
        let llc = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &udp("10.0.0.9")].concat();
        assert!(!passes(36, &llc), "IPv4 behind LLC and SNAP");
    }

    #[test]
    fn dhcp_may_be_asked_without_an_address() {
        let dhcp = |source, destination, ports: [u8; 4]| {
            ipv4(source, destination, 64, ip::UDP, &[], &[&ports, &[0; 12][..]].concat())
        };
        let ask = dhcp("0.0.0.0", "255.255.255.255", [0, 68, 0, 67]);
        assert!(passes(ip::IPV4, &ask));
        assert!(passes(ip::IPV4, &dhcp("10.0.0.5", "10.0.0.1", [0, 68, 0, 67])));
        assert!(!passes(ip::IPV4, &dhcp("0.0.0.0", "10.0.0.9", [0, 68, 0, 67])), "to a single host");
        assert!(!passes(ip::IPV4, &dhcp("0.0.0.0", "255.255.255.255", [0, 67, 0, 68])), "a server's reply");
        let mut fragment = ask.clone();
        fragment[6] = 0x20;
        assert!(!passes(ip::IPV4, &fragment));
        assert!(!passes(ip::IPV4, &ask[..23]), "cut off within the ports");
    }

    #[test]
    fn arp_tells_of_the_sender_only() {
        let own = [10, 0, 0, 5];
        assert!(passes(ARP, &arp(1, GUEST, own, [10, 0, 0, 1])));
        assert!(passes(ARP, &arp(2, GUEST, own, [10, 0, 0, 1])));
        assert!(passes(ARP, &arp(1, GUEST, own, own)), "gratuitous");
        assert!(passes(ARP, &arp(1, GUEST, [0; 4], own)), "a probe for the own address");
        assert!(!passes(ARP, &arp(1, GUEST, [0; 4], [10, 0, 0, 1])), "a probe for another's");
        assert!(!passes(ARP, &arp(2, GUEST, [0; 4], own)), "a reply from nowhere");
        assert!(!passes(ARP, &arp(1, OTHER, own, own)), "another station");
        assert!(!passes(ARP, &arp(1, GUEST, [10, 0, 0, 1], own)), "another address");
        for operation in [0, 3, 8, 9] {
            assert!(!passes(ARP, &arp(operation, GUEST, own, own)), "operation {operation}");
        }
        let good = arp(1, GUEST, own, own);
        for length in 0..good.len() {
            assert!(!passes(ARP, &good[..length]), "{length}");
        }
        for at in 0..6 {
            let mut other_kind = good.clone();
            other_kind[at] ^= 0x10;
            assert!(!passes(ARP, &other_kind), "byte {at}");
        }
    }

    /// What hypervisors and Culvert send for a guest that has moved.
    #[test]
    fn announcements_by_rarp_pass() {
        assert!(passes(RARP, &arp(3, GUEST, [0; 4], [0; 4])));
        assert!(passes(RARP, &arp(3, GUEST, [10, 0, 0, 5], [0; 4])));
        assert!(!passes(RARP, &arp(3, OTHER, [0; 4], [0; 4])));
        assert!(!passes(RARP, &arp(3, GUEST, [10, 0, 0, 1], [0; 4])));
        assert!(!passes(RARP, &arp(4, GUEST, [0; 4], [0; 4])), "a server's reply");
    }

    #[test]
    fn ipv6_sources_are_listed_ones_and_the_stations_link_local() {
        let echo = [128, 0, 0, 0, 0, 1, 0, 1];
        let from = |source| passes(ip::IPV6, &icmpv6(source, &echo));
        assert!(from("2001:db8::5"));
        assert!(from(LINK_LOCAL));
        for source in ["2001:db8::6", "fe80::1", "fe80::ff:fe00:b", "::", "ff02::1", "::1", "::ffff:10.0.0.5"] {
            assert!(!from(source), "{source}");
        }
        // Where the operator lists them, others of the link.
        let guard = guard(&["fe80::/10"]);
        assert_eq!(guard.check(&ethernet(ALL, GUEST, ip::IPV6, &icmpv6("fe80::1", &echo))), Ok(()));
        let udp = |source| ipv6(source, "ff02::1:2", 1, ip::UDP, &[2, 34, 2, 35, 0, 8, 0, 0]);
        assert!(passes(ip::IPV6, &udp(LINK_LOCAL)), "DHCPv6");
        assert!(!passes(ip::IPV6, &udp("::")));
    }

    #[test]
    fn solicitations_tell_of_the_sender_only() {
        let solicit =
            |source, target, options: &[u8]| passes(ip::IPV6, &icmpv6(source, &neighbour(135, target, options)));
        assert!(solicit("2001:db8::5", "2001:db8::1", &link_layer(1, GUEST)));
        assert!(solicit(LINK_LOCAL, "fe80::1", &[]));
        assert!(solicit(LINK_LOCAL, "fe80::1", &[&link_layer(1, GUEST)[..], &[14, 1, 9, 9, 9, 9, 9, 9]].concat()));
        assert!(!solicit("2001:db8::5", "2001:db8::1", &link_layer(1, OTHER)));
        assert!(!solicit(
            "2001:db8::5",
            "2001:db8::1",
            &[&[14, 1, 9, 9, 9, 9, 9, 9], &link_layer(1, OTHER)[..]].concat()
        ));
        assert!(!solicit("2001:db8::1", "2001:db8::5", &link_layer(1, GUEST)));
        // Two link-layer addresses in one option, an option of no length, one that goes on beyond the end.
        assert!(!solicit(LINK_LOCAL, "fe80::1", &[&[1, 2], &GUEST[..], &[0; 8]].concat()));
        assert!(!solicit(LINK_LOCAL, "fe80::1", &[14, 0, 9, 9, 9, 9, 9, 9]));
        assert!(!solicit(LINK_LOCAL, "fe80::1", &[14, 2, 9, 9, 9, 9, 9, 9]));
        assert!(!solicit(LINK_LOCAL, "fe80::1", &[14]));
        // Duplicate address detection, for one's own only.
        assert!(solicit("::", "2001:db8::5", &[]));
        assert!(solicit("::", LINK_LOCAL, &[14, 1, 9, 9, 9, 9, 9, 9]));
        assert!(!solicit("::", "2001:db8::5", &link_layer(1, GUEST)), "RFC 4861, 7.1.1");
        assert!(!solicit("::", "fe80::1", &[]), "it would keep the router from its address");
    }

    #[test]
    fn advertisements_tell_of_the_sender_only() {
        let advertise =
            |source, target, options: &[u8]| passes(ip::IPV6, &icmpv6(source, &neighbour(136, target, options)));
        assert!(advertise("2001:db8::5", "2001:db8::5", &link_layer(2, GUEST)));
        assert!(advertise(LINK_LOCAL, "2001:db8::5", &link_layer(2, GUEST)));
        assert!(advertise(LINK_LOCAL, LINK_LOCAL, &[]));
        assert!(!advertise(LINK_LOCAL, "fe80::1", &link_layer(2, GUEST)));
        assert!(!advertise(LINK_LOCAL, LINK_LOCAL, &link_layer(2, OTHER)));
        assert!(!advertise("fe80::1", LINK_LOCAL, &link_layer(2, GUEST)));
        assert!(!advertise("::", LINK_LOCAL, &[]));
        assert!(
            !passes(ip::IPV6, &icmpv6(LINK_LOCAL, &[136, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80])),
            "cut off in the target"
        );
    }

    #[test]
    fn a_port_with_addresses_is_no_router() {
        for kind in [130, 134, 137, 138, 141, 142, 149, 151, 153] {
            for source in [LINK_LOCAL, "2001:db8::5", "::"] {
                assert!(!passes(ip::IPV6, &icmpv6(source, &neighbour(kind, "::", &[]))), "{kind} from {source}");
            }
        }
        assert!(passes(
            ip::IPV6,
            &icmpv6(LINK_LOCAL, &[&[133, 0, 0, 0, 0, 0, 0, 0], &link_layer(1, GUEST)[..]].concat())
        ));
        assert!(passes(ip::IPV6, &icmpv6("::", &[133, 0, 0, 0, 0, 0, 0, 0])));
        assert!(!passes(ip::IPV6, &icmpv6("::", &[&[133, 0, 0, 0, 0, 0, 0, 0], &link_layer(1, GUEST)[..]].concat())));
        let igmp = |source, kind| {
            passes(ip::IPV4, &ipv4(source, "224.0.0.1", 1, ip::IGMP, &ROUTER_ALERT, &[kind, 0, 0, 0, 0, 0, 0, 0]))
        };
        for source in ["10.0.0.5", "0.0.0.0"] {
            assert!([0x12, 0x16, 0x17, 0x22].into_iter().all(|kind| igmp(source, kind)));
            assert!([0x11, 0x13, 0x30, 0x32].into_iter().all(|kind| !igmp(source, kind)));
        }
        assert!(!igmp("10.0.0.6", 0x16));
        assert!(!passes(ip::IPV4, &ipv4("10.0.0.5", "224.0.0.13", 1, ip::PIM, &[], &[0x20, 0, 0, 0])));
        assert!(!passes(ip::IPV6, &ipv6(LINK_LOCAL, "ff02::d", 1, ip::PIM, &[0x20, 0, 0, 0])));
    }

    #[test]
    fn reports_of_groups_pass_from_no_address_too() {
        for kind in [131, 132, 143] {
            for source in [LINK_LOCAL, "::", "2001:db8::5"] {
                let report = alerting(ip::ICMPV6, &neighbour(kind, "ff05::7", &[]));
                assert!(
                    passes(ip::IPV6, &ipv6(source, "ff02::16", 1, ip::HOP_BY_HOP, &report)),
                    "{kind} from {source}"
                );
            }
            assert!(!passes(ip::IPV6, &icmpv6("fe80::1", &neighbour(kind, "ff05::7", &[]))));
        }
    }

    #[test]
    fn discovery_cannot_be_hidden() {
        let advertisement = neighbour(134, "::", &[]);
        // Behind extension headers; behind so many that they do not end in the first 128 bytes; in fragments.
        assert!(!passes(
            ip::IPV6,
            &ipv6(LINK_LOCAL, "ff02::1", 255, ip::HOP_BY_HOP, &alerting(ip::ICMPV6, &advertisement))
        ));
        let padding = [&[60, 9, 1, 76][..], &[0; 76]].concat();
        let long = [&padding[..], &[ip::ICMPV6, 0, 1, 4, 0, 0, 0, 0], &advertisement].concat();
        let frame = ethernet(ALL, GUEST, ip::IPV6, &ipv6(LINK_LOCAL, "ff02::1", 255, 60, &long));
        assert_eq!(listed().check(&frame[..128]), Err(DropReason::SpoofedAddress));

        let fragment = |next: u8, offset: u8, more: u8, body: &[u8]| {
            let body = [&[next, 0, 0, offset << 3 | more, 0, 0, 0, 1], body].concat();
            passes(ip::IPV6, &ipv6(LINK_LOCAL, "ff02::1", 255, 44, &body))
        };
        assert!(!fragment(ip::ICMPV6, 0, 1, &advertisement), "in a first fragment");
        assert!(
            !fragment(ip::ICMPV6, 0, 0, &neighbour(136, LINK_LOCAL, &[])),
            "options may follow in another one (RFC 6980)"
        );
        assert!(!fragment(60, 0, 1, &[ip::ICMPV6, 1, 1, 4, 0, 0, 0, 0]), "the chain goes on in another one");
        assert!(!fragment(ip::ICMPV6, 0, 1, &[]), "the type follows in another one");
        assert!(fragment(ip::ICMPV6, 0, 1, &[128, 0, 0, 0, 0, 1, 0, 1]), "a long ping");
        assert!(fragment(ip::ICMPV6, 1, 0, &[0; 8]), "its end");
        // Longer than what is at hand.
        let options = [&[14, 6][..], &[0; 46], &link_layer(2, OTHER)].concat();
        let frame = ethernet(ALL, GUEST, ip::IPV6, &icmpv6(LINK_LOCAL, &neighbour(136, LINK_LOCAL, &options)));
        assert_eq!(listed().check(&frame[..128]), Err(DropReason::SpoofedAddress));
    }

    #[test]
    fn payload_passes_whatever_its_length() {
        // The head of a large TCP segment, and of one whose length was left to the device.
        let mut long = ipv4("10.0.0.5", "10.0.0.9", 64, 6, &[], &[0; 94]);
        (long[2], long[3]) = (0xff, 0xff);
        assert!(passes(ip::IPV4, &long));
        (long[2], long[3]) = (0, 0);
        assert!(passes(ip::IPV4, &long));
        let mut long = ipv6("2001:db8::5", "2001:db8::9", 64, 6, &[0; 74]);
        (long[4], long[5]) = (0xff, 0xff);
        assert!(passes(ip::IPV6, &long));
        (long[4], long[5]) = (0, 0);
        assert!(passes(ip::IPV6, &long));
    }
}
