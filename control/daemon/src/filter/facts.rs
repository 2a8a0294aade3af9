//! What filters ask about a frame.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use culvert_frame::MacAddress;
use etherparse::{LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket};

use super::{SCTP, TCP, UDP};

/// A frame, taken apart. Of two ends the source is the first.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) stations: [MacAddress; 2],
    /// Behind the tags.
    pub(super) ether_type: u16,
    pub(super) vlans: ArrayVec<u16, { LaxSlicedPacket::LINK_EXTS_CAP }>,
    /// Of IP, and of ARP.
    pub(super) addresses: Option<[IpAddr; 2]>,
    /// Of IP, behind extension headers.
    pub(super) protocol: Option<u8>,
    pub(super) ports: Option<[u16; 2]>,
    pub(super) length: u32,
}

impl Facts {
    /// What is known of a frame by its first bytes; `None` for one that has not even an Ethernet header.
    pub(super) fn of(head: &[u8], length: u32) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(head).ok()?;
        let (destination, rest) = head.split_first_chunk::<6>()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let mut ether_type = u16::from_be_bytes(*rest.first_chunk()?);
        let mut vlans = ArrayVec::new();
        for extension in &packet.link_exts {
            if let LaxLinkExtSlice::Vlan(tag) = extension {
                ether_type = tag.ether_type().0;
                // There is room for as many as there are.
                let _ = vlans.try_push(tag.vlan_identifier().value());
            }
        }
        let (addresses, protocol) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let ends = [IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr())];
                (Some(ends), Some(ip.payload().ip_number.0))
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let ends = [IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr())];
                (Some(ends), Some(ip.payload().ip_number.0))
            }
            Some(LaxNetSlice::Arp(arp)) => {
                let address = |bytes: &[u8]| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)));
                let ends = address(arp.sender_protocol_addr()).zip(address(arp.target_protocol_addr()));
                (ends.map(|(sender, target)| [sender, target]), None)
            }
            None => (None, None),
        };
        let ports = packet.net.as_ref().and_then(ports);
        let stations = [MacAddress(*source), MacAddress(*destination)];
        Some(Self { stations, ether_type, vlans, addresses, protocol, ports, length })
    }
}

/// The ports of a packet that has some: all such protocols begin with them. Fragments but the first one have none.
fn ports(net: &LaxNetSlice<'_>) -> Option<[u16; 2]> {
    let payload = match net {
        LaxNetSlice::Ipv4(ip) if ip.header().fragments_offset().value() == 0 => ip.payload(),
        LaxNetSlice::Ipv6(ip) if !ip.is_payload_fragmented() => ip.payload(),
        _ => return None,
    };
    let (source, rest) = payload.payload.split_first_chunk::<2>()?;
    let ports = [u16::from_be_bytes(*source), u16::from_be_bytes(*rest.first_chunk()?)];
    [TCP, UDP, SCTP].contains(&payload.ip_number.0).then_some(ports)
}
