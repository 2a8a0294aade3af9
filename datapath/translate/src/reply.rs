//! Whole frames of our own for the guest: headers and checksums around a payload, and what of a guest's frame an answer
//! needs.
//!
//! For address configuration ([`crate::arp`], [`crate::ndp`], [`crate::dhcp`], [`crate::dhcpv6`]): rare frames, each in
//! memory of its own. Flows build their heads elsewhere, without allocating.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use culvert_frame::MacAddress;
use etherparse::{LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// The source of an untagged Ethernet frame, and the packet in it. `None`: it cannot be read, or has a VLAN tag.
pub fn read(frame: &[u8]) -> Option<(MacAddress, SlicedPacket<'_>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match &packet.link {
        Some(LinkSlice::Ethernet2(ethernet)) if packet.link_exts.is_empty() => {
            let source = MacAddress(ethernet.source());
            (!source.is_group()).then_some((source, packet))
        }
        _ => None,
    }
}

/// A UDP datagram in IPv4: the source of the frame, both addresses, the payload. Checksums are not looked at: they may
/// have been left to us.
pub fn read_udp_v4(frame: &[u8]) -> Option<(MacAddress, SocketAddrV4, SocketAddrV4, &[u8])> {
    let (mac, packet) = read(frame)?;
    match (packet.net, packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => Some((
            mac,
            SocketAddrV4::new(ip.header().source_addr(), udp.source_port()),
            SocketAddrV4::new(ip.header().destination_addr(), udp.destination_port()),
            udp.payload(),
        )),
        _ => None,
    }
}

/// The same of IPv6.
pub fn read_udp_v6(frame: &[u8]) -> Option<(MacAddress, SocketAddrV6, SocketAddrV6, &[u8])> {
    let (mac, packet) = read(frame)?;
    match (packet.net, packet.transport) {
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => Some((
            mac,
            SocketAddrV6::new(ip.header().source_addr(), udp.source_port(), 0, 0),
            SocketAddrV6::new(ip.header().destination_addr(), udp.destination_port(), 0, 0),
            udp.payload(),
        )),
        _ => None,
    }
}

/// Where a frame comes from and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Ours.
    pub source: MacAddress,
    /// The guest's, or a group.
    pub destination: MacAddress,
}

/// A UDP datagram in IPv4. `None`: the payload is too long for one.
pub fn udp_v4(link: Link, source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(link.source.0, link.destination.0)
        .ipv4(source.ip().octets(), destination.ip().octets(), HOP_LIMIT)
        .udp(source.port(), destination.port());
    let mut frame = Vec::with_capacity(packet.size(payload.len()));
    packet.write_to_vec(&mut frame, payload).ok()?;
    Some(frame)
}

/// A UDP datagram in IPv6. `None`: the payload is too long for one.
pub fn udp_v6(link: Link, source: SocketAddrV6, destination: SocketAddrV6, payload: &[u8]) -> Option<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(link.source.0, link.destination.0)
        .ipv6(source.ip().octets(), destination.ip().octets(), HOP_LIMIT)
        .udp(source.port(), destination.port());
    let mut frame = Vec::with_capacity(packet.size(payload.len()));
    packet.write_to_vec(&mut frame, payload).ok()?;
    Some(frame)
}

/// A message of neighbour discovery (RFC 4861): code 0, hop limit 255. `rest` is what follows its type, code and
/// checksum: four bytes, then `body`.
pub fn neighbour_discovery(
    link: Link,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message_type: u8,
    rest: [u8; 4],
    body: &[u8],
) -> Option<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(link.source.0, link.destination.0)
        .ipv6(source.octets(), destination.octets(), 255)
        .icmpv6_raw(message_type, 0, rest);
    let mut frame = Vec::with_capacity(packet.size(body.len()));
    packet.write_to_vec(&mut frame, body).ok()?;
    Some(frame)
}

/// The Ethernet address of a multicast group (RFC 2464, section 7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddress {
    let [.., a, b, c, d] = group.octets();
    MacAddress([0x33, 0x33, a, b, c, d])
}

/// The broadcast or guest's own Ethernet address for an IPv4 address.
pub fn mac_for(destination: Ipv4Addr, guest: MacAddress) -> MacAddress {
    if destination.is_broadcast() { MacAddress::BROADCAST } else { guest }
}

/// Time to live of what is no neighbour discovery.
const HOP_LIMIT: u8 = 64;
