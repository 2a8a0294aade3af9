//! What the switch reads of a frame's first bytes.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::{DropReason, ETHERNET_HEADER_BYTES, MacAddress};

/// The Ethernet header of a frame (IEEE 802.3-2022, 3.1.1), copied out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Where the frame goes.
    pub destination: MacAddress,
    /// Where it says that it comes from.
    pub source: MacAddress,
    /// EtherType, or a length when below 1536.
    pub ether_type: u16,
}

impl EthernetHeader {
    /// Reads the header at the start of a frame.
    ///
    /// # Errors
    /// [`DropReason::Runt`] when `frame` is shorter than 14 bytes.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let start = Start::of(frame).ok_or(DropReason::Runt)?;
        Ok(Self {
            destination: MacAddress::from_u64(start.destination()),
            source: MacAddress::from_u64(start.source()),
            ether_type: u16::from_be_bytes(*start.back.to_be_bytes().last_chunk().unwrap_or(&[0; 2])),
        })
    }
}

/// The same 14 bytes as two numbers, highest byte first, to be compared at once: bytes 0 to 7, and 6 to 13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    front: u64,
    back: u64,
}

impl Start {
    /// The start of a frame; `None` when it is shorter.
    #[inline]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let bytes = frame.first_chunk::<ETHERNET_HEADER_BYTES>()?;
        let (front, back) = (bytes.first_chunk()?, bytes.last_chunk()?);
        Some(Self { front: u64::from_be_bytes(*front), back: u64::from_be_bytes(*back) })
    }

    /// Where the frame goes, as [`MacAddress::to_u64`] has it.
    #[inline]
    pub const fn destination(self) -> u64 {
        self.front >> 16
    }

    /// Where it says that it comes from.
    #[inline]
    pub const fn source(self) -> u64 {
        self.back >> 16
    }
}

/// Bytes of the VLAN tags behind a frame's addresses (IEEE 802.1Q-2022, 9.6): 0, 4, or 8 where there are two or more.
pub fn vlan_tags_bytes(head: &[u8]) -> u32 {
    let is_tag = |at: usize| matches!(head.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    match (is_tag(12), is_tag(16)) {
        (false, _) => 0,
        (true, false) => 4,
        (true, true) => 8,
    }
}

/// A hash that is the same for all frames of one flow in one direction: addresses, protocol and ports where the frame
/// has them, MAC addresses otherwise; behind VLAN tags and IPv6 extension headers as well, as far as `head` has them. Fragments of a
/// datagram hash alike (without ports). Spreads flows over the queues of a guest; not meant to withstand an opponent.
pub fn flow_hash(head: &[u8]) -> u32 {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(head) else { return 0 };
    let mut hash = Fnv::new();
    let fragmented = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            hash.add(&ip.header().source());
            hash.add(&ip.header().destination());
            hash.add(&[ip.header().protocol().0]);
            ip.header().is_fragmenting_payload()
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            hash.add(&ip.header().source());
            hash.add(&ip.header().destination());
            ip.is_payload_fragmented()
        }
        _ => {
            hash.add(head.get(..12).unwrap_or_default());
            true
        }
    };
    if !fragmented {
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => hash.add(tcp.slice().get(..4).unwrap_or_default()),
            Some(TransportSlice::Udp(udp)) => hash.add(udp.slice().get(..4).unwrap_or_default()),
            _ => {}
        }
    }
    hash.finish()
}

/// FNV-1a with a final mix, for the few dozen bytes of [`flow_hash`].
struct Fnv(u32);

impl Fnv {
    const fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }

    const fn finish(self) -> u32 {
        let mixed = (self.0 ^ (self.0 >> 16)).wrapping_mul(0x85eb_ca6b);
        mixed ^ (mixed >> 13)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp(source_port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(source_port, 53);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn header_is_read_and_runts_are_refused() {
        let frame = udp(1, b"x");
        let header = EthernetHeader::parse(&frame).unwrap();
        assert_eq!(header.source, MacAddress([2, 0, 0, 0, 0, 1]));
        assert_eq!(header.destination, MacAddress([2, 0, 0, 0, 0, 2]));
        assert_eq!(header.ether_type, 0x0800);
        for length in 0..ETHERNET_HEADER_BYTES {
            assert_eq!(EthernetHeader::parse(&frame[..length]), Err(DropReason::Runt));
        }
    }

    #[test]
    fn vlan_tags_are_counted_up_to_two() {
        let mut frame = udp(1, b"x");
        assert_eq!(vlan_tags_bytes(&frame), 0);
        frame.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(vlan_tags_bytes(&frame), 4);
        frame.splice(12..12, [0x88, 0xa8, 0, 9]);
        assert_eq!(vlan_tags_bytes(&frame), 8);
        frame.splice(12..12, [0x88, 0xa8, 0, 9]);
        assert_eq!(vlan_tags_bytes(&frame), 8);
        assert_eq!(vlan_tags_bytes(&frame[..13]), 0);
    }

    #[test]
    fn a_flow_keeps_its_hash_and_flows_spread() {
        assert_eq!(flow_hash(&udp(7, b"one")), flow_hash(&udp(7, b"another payload")));
        let low_bits: std::collections::HashSet<_> = (0..64).map(|port| flow_hash(&udp(port, b"")) % 4).collect();
        assert_eq!(low_bits.len(), 4);
    }

    #[test]
    fn fragments_of_a_datagram_hash_alike() {
        let mut first = udp(7, &[0; 32]);
        first[20] |= 0x20; // more fragments
        let mut second = first.clone();
        (second[20], second[21]) = (0, 4);
        assert_eq!(flow_hash(&first), flow_hash(&second));
    }

    /// The hash of a frame with so many tags before its EtherType, cut to what the switch sees of it.
    fn hash_behind(tags: usize, mut frame: Vec<u8>) -> u32 {
        (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0, 0, 7])));
        frame.truncate(128);
        flow_hash(&frame)
    }

    #[test]
    fn tags_hide_no_flow() {
        for tags in 0..=2 {
            assert_eq!(hash_behind(tags, udp(7, b"one")), hash_behind(tags, udp(7, &[1; 500])));
            let some: std::collections::HashSet<_> =
                (0..64).map(|port| hash_behind(tags, udp(port, b"")) % 4).collect();
            assert_eq!(some.len(), 4, "behind {tags} tags");
        }
    }

    /// UDP in IPv6 behind a hop-by-hop header, destination options and, with an offset and "more fragments", a fragment header.
    fn udp6(source_port: u16, fragment: Option<u16>) -> Vec<u8> {
        let (hop_by_hop, options) = (0, 60);
        let kind = if fragment.is_some() { 44 } else { 17 };
        let mut packet = [&[0x60, 0, 0, 0, 0, 0, hop_by_hop, 64][..], &[0xfd; 16], &[0xfe; 16]].concat();
        packet.extend([options, 0, 1, 4, 0, 0, 0, 0, kind, 0, 1, 4, 0, 0, 0, 0]);
        if let Some(offset) = fragment {
            packet.extend([[17, 0], offset.to_be_bytes(), [0, 0], [0, 9]].concat());
        }
        packet.extend([source_port.to_be_bytes(), [0, 53], [0, 16], [0, 0]].concat());
        packet.extend([0x5a; 8]);
        let length = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd], &packet[..]].concat()
    }

    #[test]
    fn extension_headers_hide_no_flow_and_fragments_hash_alike() {
        let some: std::collections::HashSet<_> = (0..64).map(|port| flow_hash(&udp6(port, None)) % 4).collect();
        assert_eq!(some.len(), 4);
        // The first one has the ports, the second one something else in their place.
        assert_eq!(flow_hash(&udp6(7, Some(1))), flow_hash(&udp6(8, Some(16 << 3))));
        assert_eq!(flow_hash(&udp6(7, Some(1))), hash_behind(0, udp6(9, Some(1))));
    }

    #[test]
    fn any_bytes_hash() {
        for length in 0..64 {
            flow_hash(&vec![0x5a; length]);
        }
    }
}
