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
