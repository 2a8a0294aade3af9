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
