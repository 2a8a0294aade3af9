//! What a frame from the guest says, checked: an IP packet with addresses, protocol and payload, or something else.
//!
//! Headers are read from the first bytes of a frame, which were copied once; what follows stays where it arrived, and
//! is handed on as a [`Payload`]. The heads of frames that we make are in [`head`](crate::head).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::{ETHERNET_HEADER_BYTES, MacAddress};
use culvert_guest::{Packet, Piece};

use crate::refusal::Refusal;

/// A frame's content.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// ARP over Ethernet.
    Arp,
    /// An IP packet.
    Ip(IpPacket<'a>),
}

/// An IP packet, perhaps a fragment.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    /// The frame's sender.
    pub source_mac: MacAddress,
    /// The frame's receiver: ours, or a group.
    pub destination_mac: MacAddress,
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// What the payload is: a protocol number, behind IPv6's extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Type of service, or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Where the packet belongs in a larger one.
    pub fragment: Option<Fragment>,
    /// The packet's headers before the payload, as sent: IPv4 with options, IPv6 with extensions.
    pub header: &'a [u8],
    /// What follows them, to the packet's end.
    pub payload: Payload<'a>,
}

impl IpPacket<'_> {
    /// Whether the source may be a guest's (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5), and the packet may go
    /// on. The unspecified source is one of DHCP and of duplicate address detection.
    ///
    /// # Errors
    /// [`Refusal::BadSource`], [`Refusal::Malformed`].
    #[inline]
    pub fn check_ends(&self) -> Result<(), Refusal> {
        let impossible = match self.source {
            IpAddr::V4(source) => matches!(source.octets(), [0 | 127 | 224..=255, ..]) && !source.is_unspecified(),
            IpAddr::V6(source) => source.is_multicast() || source.is_loopback() || source.to_ipv4_mapped().is_some(),
        };
        if impossible {
            return Err(Refusal::BadSource);
        }
        if self.hop_limit == 0 {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }
}

/// A fragment's place (RFC 791, section 3.1; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Which packet it is of.
    pub identification: u32,
    /// Where it starts in that packet's payload, in bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
}

/// Bytes of a frame: some in its head, which was copied, the rest where the frame arrived. Those may change at any
/// time: they are to be copied once.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    head: &'a [u8],
    rest: Piece<'a>,
    more: &'a [Piece<'a>],
    skip: u32,
    length: u32,
}

impl<'a> Payload<'a> {
    /// All of a frame.
    pub fn of_frame(frame: &Packet<'a>) -> Self {
        let (rest, more) = frame.pieces();
        Self { head: frame.head, rest, more, skip: 0, length: frame.length }
    }

    /// Bytes of ours.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { head: bytes, rest: Piece::from(&[][..]), more: &[], skip: 0, length }
    }

    /// How many bytes.
    #[inline]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Without the first `bytes`; empty when there are no more.
    #[inline]
    #[must_use]
    pub fn skip(self, bytes: u32) -> Self {
        let bytes = bytes.min(self.length);
        Self { skip: self.skip + bytes, length: self.length - bytes, ..self }
    }

    /// The first `bytes`, or all when there are fewer.
    #[inline]
    #[must_use]
    pub fn take(self, bytes: u32) -> Self {
        Self { length: self.length.min(bytes), ..self }
    }

    /// The first bytes that were copied already: headers are read from these, and from nowhere else.
    #[inline]
    pub fn first_bytes(&self) -> &'a [u8] {
        let bytes = self.head.get(self.skip as usize..).unwrap_or_default();
        bytes.get(..self.length as usize).unwrap_or(bytes)
    }

    /// Where the bytes lie, in order.
    #[inline]
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (mut skip, mut left) = (self.skip, self.length);
        [Piece::from(self.head), self.rest].into_iter().chain(self.more.iter().copied()).filter_map(move |piece| {
            let skipped = skip.min(piece.length());
            skip -= skipped;
            let piece = piece.skip(skipped).take(left);
            left -= piece.length();
            (piece.length() > 0).then_some(piece)
        })
    }

    /// Copies as much as `out` holds; returns how much that was.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces() {
            copied += piece.copy_to(0, out.get_mut(copied..).unwrap_or_default());
        }
        copied
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Reads a frame's headers.
///
/// # Errors
/// Why the frame is refused.
#[inline]
pub fn parse<'a>(frame: &Packet<'a>) -> Result<Content<'a>, Refusal> {
    let ethernet: &[u8; ETHERNET_HEADER_BYTES] = frame.head.first_chunk().ok_or(Refusal::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
    let destination_mac = MacAddress([d0, d1, d2, d3, d4, d5]);
    let source_mac = MacAddress([s0, s1, s2, s3, s4, s5]);
    if source_mac.is_group() {
        return Err(Refusal::BadSource);
    }
    let packet = Payload::of_frame(frame).skip(14);
    match u16::from_be_bytes([t0, t1]) {
        IPV4 => ipv4(packet, source_mac, destination_mac).map(Content::Ip),
        IPV6 => ipv6(packet, source_mac, destination_mac).map(Content::Ip),
        ARP => Ok(Content::Arp),
        _ => Err(Refusal::OtherProtocol),
    }
}

/// RFC 791, section 3.1.
#[inline]
fn ipv4(packet: Payload<'_>, source_mac: MacAddress, destination_mac: MacAddress) -> Result<IpPacket<'_>, Refusal> {
    let bytes = packet.first_bytes();
    let fixed: &[u8; 20] = bytes.first_chunk().ok_or(Refusal::Truncated)?;
    let [first, traffic_class, l0, l1, i0, i1, f0, f1, hop_limit, protocol, _, _, addresses @ ..] = *fixed;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    let header_bytes = u16::from(first & 15) * 4;
    let total = u16::from_be_bytes([l0, l1]);
    if first >> 4 != 4 || header_bytes < 20 || total < header_bytes {
        return Err(Refusal::Malformed);
    }
    if u32::from(total) > packet.length() {
        return Err(Refusal::Truncated);
    }
    let header = bytes.get(..usize::from(header_bytes)).ok_or(Refusal::Truncated)?;
    if internet_checksum(header) != 0 {
        return Err(Refusal::Malformed);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    let (offset, more) = ((flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let identification = u32::from(u16::from_be_bytes([i0, i1]));
    Ok(IpPacket {
        source_mac,
        destination_mac,
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        protocol,
        hop_limit,
        traffic_class,
        fragment: (offset != 0 || more).then_some(Fragment { identification, offset, more }),
        header,
        payload: packet.take(u32::from(total)).skip(u32::from(header_bytes)),
    })
}

/// RFC 8200, section 3, and extension headers, section 4. A routing header with segments left is not looked behind.
#[inline]
fn ipv6(packet: Payload<'_>, source_mac: MacAddress, destination_mac: MacAddress) -> Result<IpPacket<'_>, Refusal> {
    let bytes = packet.first_bytes();
    let fixed: &[u8; 40] = bytes.first_chunk().ok_or(Refusal::Truncated)?;
    let [first, second, _, _, l0, l1, mut protocol, hop_limit, addresses @ ..] = *fixed;
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(Refusal::Truncated)?;
    let destination: &[u8; 16] = destination.first_chunk().ok_or(Refusal::Truncated)?;
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    if first >> 4 != 6 {
        return Err(Refusal::Malformed);
    }
    if 40 + length > packet.length() {
        return Err(Refusal::Truncated);
    }
    let mut at = 40;
    let mut fragment = None;
    // Each header has at least 8 of the 128 bytes at hand.
    loop {
        match protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                let [next, units, _, left, ..] = header_at(bytes, at)?;
                if protocol == ROUTING && left != 0 {
                    break;
                }
                protocol = next;
                at += (usize::from(units) + 1) * 8;
            }
            FRAGMENT if fragment.is_none() => {
                let [next, _, o0, o1, i0, i1, i2, i3] = header_at(bytes, at)?;
                let offset = u16::from_be_bytes([o0, o1]);
                let (identification, more) = (u32::from_be_bytes([i0, i1, i2, i3]), offset & 1 != 0);
                fragment = Some(Fragment { identification, offset: offset & !7, more });
                protocol = next;
                at += 8;
                // What follows in a part of a packet is looked at when it is whole.
                if offset & !6 != 0 {
                    break;
                }
            }
            _ => break,
        }
    }
    let header = bytes.get(..at).ok_or(Refusal::Truncated)?;
    let header_bytes = u32::try_from(at).map_err(|_| Refusal::Malformed)?;
    if header_bytes > 40 + length {
        return Err(Refusal::Malformed);
    }
    Ok(IpPacket {
        source_mac,
        destination_mac,
        source: IpAddr::V6(Ipv6Addr::from(*source)),
        destination: IpAddr::V6(Ipv6Addr::from(*destination)),
        protocol,
        hop_limit,
        traffic_class: first << 4 | second >> 4,
        // An atomic fragment is a whole packet (RFC 6946).
        fragment: fragment.filter(|fragment| fragment.offset != 0 || fragment.more),
        header,
        payload: packet.take(40 + length).skip(header_bytes),
    })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

fn header_at(bytes: &[u8], at: usize) -> Result<[u8; 8], Refusal> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Refusal::Truncated)
}

/// The Internet checksum (RFC 1071) of `bytes`; 0 over a header that contains its own.
pub(crate) fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = culvert_frame::checksum::Sum::default();
    sum.add(bytes);
    sum.checksum()
}

#[cfg(test)]
mod tests;
