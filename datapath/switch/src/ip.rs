//! IP packets as [`guard`](crate::guard) and [`snoop`](crate::snoop) read them: who sends, to whom, and what lies behind
//! the headers.
//!
//! Made for senders that hide things: it looks behind all VLAN tags and extension headers, tells what it could not see
//! from what is not there, and takes a packet to end where its receiver will. Offsets of headers for checksums and
//! segmentation are another matter: `culvert_frame::layers`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of IPv4 (RFC 894).
pub(crate) const IPV4: u16 = 0x0800;
/// EtherType of IPv6 (RFC 2464).
pub(crate) const IPV6: u16 = 0x86dd;

/// IP protocol numbers (IANA).
pub(crate) const IGMP: u8 = 2;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const PIM: u8 = 103;

/// An IP packet of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// IPv4's time to live.
    pub(crate) hop_limit: u8,
    /// Whether it asks routers to look at it (RFC 2113, RFC 2711).
    pub(crate) router_alert: bool,
    pub(crate) content: Content<'a>,
}

/// What lies behind the IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// A message of an upper protocol, or the start of one.
    Message {
        protocol: u8,
        /// Its bytes, as far as they are at hand.
        bytes: &'a [u8],
        /// Whether these are all of it.
        whole: bool,
        /// Whether more of it comes in other fragments.
        fragmented: bool,
    },
    /// A piece from within a fragmented packet.
    LaterFragment,
    /// Extension headers that do not end within the bytes at hand, or within the packet or fragment.
    Hidden,
}

/// The EtherType behind all VLAN tags (0x8100, 0x88a8), and what follows it. `None` when the frame ends before.
#[inline]
pub(crate) fn behind_tags(head: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = head.get(12..)?;
    loop {
        let (ether_type, behind) = take_u16(rest)?;
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            return Some((ether_type, behind));
        }
        rest = behind.get(2..)?;
    }
}

impl<'a> Packet<'a> {
    /// Parses what follows the EtherType. `None` when it is not IP, or not what the EtherType says, or its fixed header (with
    /// IPv4's options) is malformed or cut off. A packet whose length field is 0 (jumbograms; segmentation offloads
    /// of some systems) goes on to the end of the bytes, and is never whole.
    pub(crate) fn parse(ether_type: u16, bytes: &'a [u8]) -> Option<Self> {
        match ether_type {
            IPV4 => Self::ipv4(bytes),
            IPV6 => Self::ipv6(bytes),
            _ => None,
        }
    }

    /// RFC 791, 3.1.
    fn ipv4(bytes: &'a [u8]) -> Option<Self> {
        let &[first, _, l0, l1, _, _, f0, f1, hop_limit, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
            bytes.first_chunk()?;
        let header_bytes = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        let (header, behind) = bytes.split_at_checked(header_bytes)?;
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        let (bytes, whole) = match total {
            0 => (behind, false),
            _ => up_to(behind, total.checked_sub(header_bytes)?),
        };
        let fragment = u16::from_be_bytes([f0, f1]);
        let content = if fragment & 0x1fff != 0 {
            Content::LaterFragment
        } else {
            Content::Message { protocol, bytes, whole, fragmented: fragment & 0x2000 != 0 }
        };
        Some(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            hop_limit,
            router_alert: ipv4_router_alert(header.get(20..)?),
            content,
        })
    }

    /// RFC 8200, 3 and 4.
    fn ipv6(bytes: &'a [u8]) -> Option<Self> {
        let (header, behind) = bytes.split_first_chunk::<40>()?;
        let [first, _, _, _, l0, l1, protocol, hop_limit, addresses @ ..] = header;
        if first >> 4 != 6 {
            return None;
        }
        let (source, rest) = addresses.split_first_chunk::<16>()?;
        let destination = rest.first_chunk::<16>()?;
        let (payload, whole) = match usize::from(u16::from_be_bytes([*l0, *l1])) {
            0 => (behind, false),
            length => up_to(behind, length),
        };
        let mut packet = Self {
            source: Ipv6Addr::from(*source).into(),
            destination: Ipv6Addr::from(*destination).into(),
            hop_limit: *hop_limit,
            router_alert: false,
            content: Content::Hidden,
        };
        packet.follow(*protocol, payload, whole);
        Some(packet)
    }

    /// Follows IPv6's extension headers (RFC 8200, 4.1; IANA's list of them).
    fn follow(&mut self, mut protocol: u8, mut bytes: &'a [u8], whole: bool) {
        let mut fragmented = false;
        while let Some(&[next, units, offset0, offset1]) = bytes.first_chunk() {
            let Some(header_bytes) = extension_bytes(protocol, units) else { break };
            if protocol == FRAGMENT {
                if u16::from_be_bytes([offset0, offset1]) & 0xfff8 != 0 {
                    self.content = Content::LaterFragment;
                    return;
                }
                fragmented = true;
            }
            let Some((header, behind)) = bytes.split_at_checked(header_bytes) else { return };
            self.router_alert |= protocol == HOP_BY_HOP && header.get(2..).is_some_and(ipv6_router_alert);
            (protocol, bytes) = (next, behind);
        }
        if extension_bytes(protocol, 0).is_none() {
            self.content = Content::Message { protocol, bytes, whole, fragmented };
        }
    }
}

/// Bytes of the extension header of that type, 8 at least; `None` for what is none.
fn extension_bytes(protocol: u8, units: u8) -> Option<usize> {
    match protocol {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => Some((usize::from(units) + 1) * 8),
        FRAGMENT => Some(8),
        AUTHENTICATION => Some((usize::from(units) + 2) * 4),
        _ => None,
    }
}

pub(crate) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Reads a big-endian number off the front.
pub(crate) fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// The first `length` bytes, or all and that some are missing.
fn up_to(bytes: &[u8], length: usize) -> (&[u8], bool) {
    bytes.get(..length).map_or((bytes, false), |part| (part, true))
}

/// RFC 2113; options as in RFC 791, 3.1: 0 ends them, 1 is padding, a length counts the whole option.
fn ipv4_router_alert(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [0x94, 4, ..] => return true,
            [1, ref rest @ ..] => rest,
            [2..=255, length @ 2..=255, ..] => options.get(usize::from(length)..).unwrap_or_default(),
            _ => return false,
        };
    }
}

/// RFC 2711; options as in RFC 8200, 4.2: 0 is padding, a length counts what follows it.
fn ipv6_router_alert(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [5, 2, ..] => return true,
            [0, ref rest @ ..] => rest,
            [1..=255, length, ref rest @ ..] => rest.get(usize::from(length)..).unwrap_or_default(),
            _ => return false,
        };
    }
}

#[cfg(test)]
pub(crate) mod build {
    //! Frames by hand, for the tests here and in `guard`, `snoop` and `groups`.
    #![allow(clippy::cast_possible_truncation)]

    use culvert_frame::checksum::Sum;

    use super::*;

    pub(crate) fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
        [&destination, &source, &ether_type.to_be_bytes()[..], payload].concat()
    }

    /// Puts a VLAN tag before the EtherType.
    pub(crate) fn tagged(frame: &[u8], tag_type: u16) -> Vec<u8> {
        [&frame[..12], &tag_type.to_be_bytes(), &[0x00, 0x07], &frame[12..]].concat()
    }

    /// `options` in multiples of 4 bytes.
    pub(crate) fn ipv4(
        source: &str,
        destination: &str,
        hops: u8,
        protocol: u8,
        options: &[u8],
        body: &[u8],
    ) -> Vec<u8> {
        let header_bytes = 20 + options.len();
        let total = ((header_bytes + body.len()) as u16).to_be_bytes();
        let first = 0x40 | (header_bytes / 4) as u8;
        let fixed = [first, 0, total[0], total[1], 0, 0, 0, 0, hops, protocol, 0, 0];
        let [source, destination] = [source, destination].map(|text| text.parse::<Ipv4Addr>().unwrap().octets());
        [&fixed, &source[..], &destination, options, body].concat()
    }

    pub(crate) fn ipv6(source: &str, destination: &str, hops: u8, protocol: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        let fixed = [0x60, 0, 0, 0, length[0], length[1], protocol, hops];
        let [source, destination] = [source, destination].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
        [&fixed, &source[..], &destination, body].concat()
    }

    /// A hop-by-hop header with MLD's router alert (RFC 2711), before what follows.
    pub(crate) fn alerting(next: u8, body: &[u8]) -> Vec<u8> {
        [&[next, 0, 5, 2, 0, 0, 1, 0], body].concat()
    }

    /// IPv4's router alert option (RFC 2113).
    pub(crate) const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];

    /// Fills in the checksum at bytes 2 and 3.
    pub(crate) fn summed(mut message: Vec<u8>) -> Vec<u8> {
        let mut sum = Sum::default();
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        message
    }

    /// The same for IPv6's protocols, with a pseudo header.
    pub(crate) fn summed_v6(source: &str, destination: &str, protocol: u8, mut message: Vec<u8>) -> Vec<u8> {
        let mut sum = Sum::default();
        for address in [source, destination] {
            sum.add(&address.parse::<Ipv6Addr>().unwrap().octets());
        }
        sum.add(&(message.len() as u32).to_be_bytes());
        sum.add(&[0, 0, 0, protocol]);
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::build::*;
    use super::*;

    fn content(ether_type: u16, bytes: &[u8]) -> Option<Content<'_>> {
        Packet::parse(ether_type, bytes).map(|packet| packet.content)
    }

    #[test]
    fn any_number_of_tags_is_skipped() {
        let mut frame = ethernet([2; 6], [4; 6], IPV4, b"body");
        for tag in [0x8100, 0x88a8, 0x8100] {
            assert_eq!(behind_tags(&frame), Some((IPV4, &b"body"[..])));
            frame = tagged(&frame, tag);
        }
        assert_eq!(behind_tags(&tagged(&frame, 0x9100)).map(|(ether_type, _)| ether_type), Some(0x9100));
        for length in 0..frame.len() - 4 {
            assert_eq!(behind_tags(&frame[..length]), None, "{length}");
        }
    }

    #[test]
    fn an_ipv4_packet_ends_where_it_says() {
        let packet = ipv4("10.0.0.1", "10.0.0.2", 64, UDP, &[], b"body");
        let body = |whole, bytes| Some(Content::Message { protocol: UDP, bytes, whole, fragmented: false });
        assert_eq!(content(IPV4, &[&packet[..], b"padding"].concat()), body(true, b"body"));
        assert_eq!(content(IPV4, &packet[..22]), body(false, b"bo"));
        for length in 0..20 {
            assert_eq!(content(IPV4, &packet[..length]), None);
        }
        let changed = |at: usize, byte| {
            let mut packet = packet.clone();
            packet[at] = byte;
            packet
        };
        assert_eq!(content(IPV4, &changed(3, 0)), body(false, b"body"), "no length");
        assert_eq!(content(IPV4, &changed(3, 19)), None, "shorter than its header");
        assert_eq!(content(IPV4, &changed(0, 0x44)), None, "a header of 16 bytes");
        assert_eq!(content(IPV4, &changed(0, 0x4f)), None, "a header beyond the end");
        assert_eq!(content(IPV4, &changed(0, 0x65)), None, "version 6");
        assert_eq!(content(IPV6, &packet), None);
        assert_eq!(content(IPV4, &changed(7, 1)), Some(Content::LaterFragment));
        assert_eq!(content(IPV4, &changed(6, 0x40)), body(true, b"body"), "don't fragment");
        let first = Content::Message { protocol: UDP, bytes: b"body", whole: true, fragmented: true };
        assert_eq!(content(IPV4, &changed(6, 0x20)), Some(first));
    }

    #[test]
    fn extension_headers_are_followed_to_their_end() {
        let body = [0_u8; 12];
        let chain = [
            &[ROUTING, 0, 5, 2, 0, 0, 1, 0][..], // hop by hop: router alert
            &[AUTHENTICATION, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // routing, 16 bytes
            &[DESTINATION_OPTIONS, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // authentication, 12 bytes
            &[UDP, 0, 1, 4, 0, 0, 0, 0],         // destination options: padding
        ]
        .concat();
        let packet = ipv6("fe80::1", "fe80::2", 64, HOP_BY_HOP, &[&chain, &body[..]].concat());
        let parsed = Packet::parse(IPV6, &packet).unwrap();
        assert!(parsed.router_alert);
        assert_eq!(parsed.content, Content::Message { protocol: UDP, bytes: &body, whole: true, fragmented: false });
        // Wherever it is cut off, what lies behind is hidden, not absent.
        for length in 40..40 + chain.len() {
            assert_eq!(content(IPV6, &packet[..length]), Some(Content::Hidden), "{length}");
        }
        for length in 0..40 {
            assert_eq!(content(IPV6, &packet[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_chain_beyond_the_packet_is_hidden() {
        // The payload's length covers the first header only; what lies behind it is padding to the receiver.
        let mut packet =
            ipv6("fe80::1", "fe80::2", 64, HOP_BY_HOP, &[ROUTING, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 0, 0, 0, 0, 0, 0]);
        packet[5] = 8;
        assert_eq!(content(IPV6, &packet), Some(Content::Hidden));
    }

    #[test]
    fn fragments_of_ipv6_are_told_apart() {
        let fragment = |offset: u16, more: bool| {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            ipv6("fe80::1", "fe80::2", 64, FRAGMENT, &[UDP, 0, high, low, 0, 0, 0, 1, 7, 7, 7, 7])
        };
        let first = Content::Message { protocol: UDP, bytes: &[7; 4], whole: true, fragmented: true };
        assert_eq!(content(IPV6, &fragment(0, true)), Some(first));
        assert_eq!(content(IPV6, &fragment(0, false)), Some(first));
        assert_eq!(content(IPV6, &fragment(1, true)), Some(Content::LaterFragment));
        assert_eq!(content(IPV6, &fragment(1, false)), Some(Content::LaterFragment));
    }

    #[test]
    fn router_alerts_are_found_among_other_options() {
        assert!(ipv4_router_alert(&ROUTER_ALERT));
        assert!(ipv4_router_alert(&[1, 7, 3, 4, 0x94, 4, 0, 0]));
        assert!(!ipv4_router_alert(&[0, 0x94, 4, 0, 0]), "behind the end of the list");
        assert!(!ipv4_router_alert(&[7, 0, 0x94, 4, 0, 0]), "an option of no length");
        assert!(!ipv4_router_alert(&[7, 6, 0x94, 4, 0, 0]), "inside another option");
        assert!(ipv6_router_alert(&[0, 1, 1, 9, 5, 2, 0, 0]));
        assert!(!ipv6_router_alert(&[1, 2, 5, 2, 1, 0]), "inside another option");
        assert!(!ipv6_router_alert(&[1, 200, 5, 2]));
    }
}
