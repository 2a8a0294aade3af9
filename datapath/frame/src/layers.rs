//! Where the headers of an IP frame lie: Ethernet, up to two VLAN tags, IPv4 or IPv6 with extension headers, TCP or
//! UDP.
//!
//! Only what checksums and segmentation need, and what a NIC is told about a frame; it judges nothing else of the
//! headers. Called by [`offload`](crate::offload) and [`checksum`](crate::checksum), and by whoever fills a NIC's
//! offload fields (`l2_len` = network, `l3_len` = transport - network, `l4_len` = header bytes - transport).

use crate::ETHERNET_HEADER_BYTES;
use crate::header::vlan_tags_bytes;

/// Headers are looked for in the first bytes of a frame only: as many as are copied of a frame that lies in a guest,
/// and two VLAN tags that may have been pushed onto it.
pub const MAX_HEADER_BYTES: usize = 128 + 8;

/// Protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// Protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;

/// Which Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// The headers of an unfragmented IP frame, as offsets from the frame's start, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// Version of the (outermost) IP header.
    pub version: IpVersion,
    /// What lies at `transport`: the protocol number behind IPv6's hop-by-hop, routing and destination options. A
    /// routing header that still has segments left is not looked behind (43): the addresses in the IP header are not
    /// those of the packet's ends then (RFC 8200, 8.1).
    pub protocol: u8,
    /// Where the IP header starts.
    pub network: u16,
    /// Where the header behind IP and its extensions starts.
    pub transport: u16,
    /// Where the payload of TCP or UDP starts, as TCP's data offset tells, perhaps beyond the bytes at hand;
    /// `transport` with other protocols.
    pub header_bytes: u16,
    /// Where the IP packet ends, by its length field, perhaps beyond the frame; `None` where that is 0, as in packets
    /// of more than 64 KiB.
    pub packet_end: Option<u32>,
}

impl Layers {
    /// Finds the headers in `head`, the first bytes of a frame. `None` when it is not IP, when it is a fragment, or
    /// when a header before the payload of IP is malformed or ends beyond `head`.
    #[inline]
    pub fn parse(head: &[u8]) -> Option<Self> {
        match Content::parse(head) {
            Content::Ip(layers) => Some(layers),
            Content::Other { .. } | Content::Unreadable => None,
        }
    }
}

/// What lies behind a frame's Ethernet header and tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Ip(Layers),
    /// Another EtherType (or a length), whose content starts at `start`.
    Other {
        ether_type: u16,
        start: u16,
    },
    /// A fragment, or headers that are malformed or end beyond the bytes at hand.
    Unreadable,
}

impl Content {
    pub(crate) fn parse(head: &[u8]) -> Self {
        Self::find(head).unwrap_or(Self::Unreadable)
    }

    /// `None` is [`Content::Unreadable`].
    fn find(head: &[u8]) -> Option<Self> {
        let head = head.get(..MAX_HEADER_BYTES).unwrap_or(head);
        let network = ETHERNET_HEADER_BYTES + usize::try_from(vlan_tags_bytes(head)).ok()?;
        match word(head, network.checked_sub(2)?)? {
            0x0800 => ipv4(head, network),
            0x86dd => ipv6(head, network),
            ether_type => Some(Self::Other { ether_type, start: u16::try_from(network).ok()? }),
        }
    }
}

fn ipv4(head: &[u8], network: usize) -> Option<Content> {
    let [first, _, total0, total1, _, _, fragment0, fragment1, _, protocol] = *head.get(network..)?.first_chunk()?;
    let header = usize::from(first & 15) * 4;
    let total = u16::from_be_bytes([total0, total1]);
    let fragmented = u16::from_be_bytes([fragment0, fragment1]) & 0x3fff != 0;
    if first >> 4 != 4 || header < 20 || fragmented || (total != 0 && usize::from(total) < header) {
        return None;
    }
    let packet_end = if total == 0 { None } else { Some(u32::from(total) + u32::try_from(network).ok()?) };
    layers(head, IpVersion::V4, protocol, network, network + header, packet_end)
}

fn ipv6(head: &[u8], network: usize) -> Option<Content> {
    let header: &[u8; 40] = head.get(network..)?.first_chunk()?;
    let [first, _, _, _, length0, length1, mut protocol, ..] = *header;
    let length = u16::from_be_bytes([length0, length1]);
    if first >> 4 != 6 {
        return None;
    }
    let mut at = network + 40;
    let packet_end = if length == 0 { None } else { Some(u32::from(length) + u32::try_from(at).ok()?) };
    loop {
        match protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                let [next, units, _, segments_left] = *head.get(at..)?.first_chunk()?;
                if protocol == ROUTING && segments_left != 0 {
                    break;
                }
                protocol = next;
                at += (usize::from(units) + 1) * 8;
            }
            FRAGMENT => return None,
            _ => break,
        }
    }
    layers(head, IpVersion::V6, protocol, network, at, packet_end)
}

fn layers(
    head: &[u8],
    version: IpVersion,
    protocol: u8,
    network: usize,
    transport: usize,
    packet_end: Option<u32>,
) -> Option<Content> {
    if transport > head.len() {
        return None;
    }
    let header = match protocol {
        TCP => match usize::from(head.get(transport + 12)? >> 4) * 4 {
            0..20 => return None,
            header => header,
        },
        UDP => 8,
        _ => 0,
    };
    Some(Content::Ip(Layers {
        version,
        protocol,
        network: u16::try_from(network).ok()?,
        transport: u16::try_from(transport).ok()?,
        header_bytes: u16::try_from(transport + header).ok()?,
        packet_end,
    }))
}

/// The big-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn tcp4() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"payload").unwrap();
        frame
    }

    fn udp6() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64).udp(1, 2);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"payload").unwrap();
        frame
    }

    /// The frame with IPv6 extension headers: each one's protocol number and its bytes behind the first.
    fn with_extensions(extensions: &[(u8, &[u8])]) -> Vec<u8> {
        let mut frame = udp6();
        let next = |index: usize| extensions.get(index).map_or(UDP, |(protocol, _)| *protocol);
        let mut bytes = Vec::new();
        for (index, (_, rest)) in extensions.iter().enumerate() {
            bytes.push(next(index + 1));
            bytes.extend_from_slice(rest);
        }
        frame[20] = next(0);
        let length = 15 + u16::try_from(bytes.len()).unwrap();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame.splice(54..54, bytes);
        frame
    }

    #[test]
    fn tcp_and_udp_are_found_behind_tags() {
        let mut frame = tcp4();
        let mut expected = Layers {
            version: IpVersion::V4,
            protocol: TCP,
            network: 14,
            transport: 34,
            header_bytes: 54,
            packet_end: Some(61),
        };
        assert_eq!(Layers::parse(&frame), Some(expected));
        for tag in [[0x81, 0, 0, 7], [0x88, 0xa8, 0, 9]] {
            frame.splice(12..12, tag);
            expected.network += 4;
            expected.transport += 4;
            expected.header_bytes += 4;
            expected.packet_end = expected.packet_end.map(|end| end + 4);
            assert_eq!(Layers::parse(&frame), Some(expected));
        }
        frame.splice(12..12, [0x81, 0, 0, 3]);
        assert_eq!(Layers::parse(&frame), None);
        assert_eq!(Content::parse(&frame), Content::Other { ether_type: 0x8100, start: 22 });
    }

    #[test]
    fn ipv6_extensions_are_passed_over() {
        let options = [0, 1, 4, 0, 0, 0, 0];
        let longer = [1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let done = [0, 4, 0, 0, 0, 0, 0];
        let frame = with_extensions(&[(HOP_BY_HOP, &options), (ROUTING, &done), (DESTINATION_OPTIONS, &longer)]);
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!((layers.protocol, layers.network, layers.transport, layers.header_bytes), (UDP, 14, 86, 94));
        assert_eq!(layers.packet_end, Some(101));
        for length in 14..94 - 8 {
            assert_eq!(Layers::parse(&frame[..length]), None, "{length}");
        }
    }

    #[test]
    fn headers_are_not_looked_for_without_end() {
        let mut longest = [0; 79];
        longest[0] = 9; // of 8 bytes, without the first
        let longest = (DESTINATION_OPTIONS, &longest[..]);
        let short = (DESTINATION_OPTIONS, &[0, 1, 4, 0, 0, 0, 0][..]);
        assert_eq!(Layers::parse(&with_extensions(&[longest])).unwrap().transport, 134);
        assert_eq!(Layers::parse(&with_extensions(&[longest, short])), None);
    }

    #[test]
    fn a_packet_on_a_route_is_not_looked_into() {
        let frame = with_extensions(&[(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]), (ROUTING, &[0, 4, 1, 0, 0, 0, 0])]);
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!((layers.protocol, layers.transport, layers.header_bytes), (ROUTING, 62, 62));
    }

    #[test]
    fn fragments_are_not_looked_into() {
        for (flags, offset) in [(0x20, 0), (0, 1), (0x1f, 0xff)] {
            let mut frame = tcp4();
            (frame[20], frame[21]) = (flags, offset);
            assert_eq!(Layers::parse(&frame), None);
        }
        let mut whole = tcp4();
        whole[20] = 0x40; // don't fragment
        assert!(Layers::parse(&whole).is_some());
        assert_eq!(Layers::parse(&with_extensions(&[(FRAGMENT, &[0, 0, 1, 0, 0, 0, 7])])), None);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let at_fault: [(usize, u8); 6] = [(14, 0x65), (14, 0x44), (14, 0x40), (17, 19), (46, 0x40), (46, 0)];
        for (at, byte) in at_fault {
            let mut frame = tcp4();
            frame[at] = byte;
            assert_eq!(Layers::parse(&frame), None, "{byte:#x} at {at}");
        }
        // With a protocol that has nothing to be read, the length of IPv4's header alone.
        let mut frame = tcp4();
        (frame[14], frame[23]) = (0x44, 47);
        assert_eq!(Layers::parse(&frame), None);
        let mut frame = udp6();
        frame[14] = 0x40;
        assert_eq!(Layers::parse(&frame), None);
    }

    #[test]
    fn lengths_that_say_nothing_are_nothing() {
        let mut frame = tcp4();
        (frame[16], frame[17]) = (0, 0);
        assert_eq!(Layers::parse(&frame).unwrap().packet_end, None);
        let mut frame = udp6();
        (frame[18], frame[19]) = (0, 0);
        assert_eq!(Layers::parse(&frame).unwrap().packet_end, None);
    }

    #[test]
    fn headers_may_end_beyond_the_bytes_at_hand() {
        let mut frame = tcp4();
        frame[46] = 0xf0;
        assert_eq!(Layers::parse(&frame[..47]).unwrap().header_bytes, 94);
        assert_eq!(Layers::parse(&frame[..46]), None);
    }

    #[test]
    fn other_protocols_have_no_header_of_theirs() {
        let mut frame = tcp4();
        frame[23] = 47;
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!((layers.protocol, layers.transport, layers.header_bytes), (47, 34, 34));
    }
}
