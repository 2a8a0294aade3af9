//! What a sender leaves to its device: checksums and segmentation, from the request in a virtio-net header to a
//! checked value.
//!
//! The switch calls [`Offload::check`] on each frame of a guest; what it returns is consistent with the frame's
//! headers, whatever the guest wrote. It goes with the frame, is adjusted when a VLAN tag is pushed or popped
//! ([`Offload::moved`]), and is either handed to a receiver that negotiated it ([`Offload::receivable`],
//! [`Offload::fields`]), or done by [`checksum`](crate::checksum) and [`segment`](crate::segment).

use std::ops::BitOr;

use crate::DropReason;
use crate::checksum::{PartialChecksum, Sum, TCP_CHECKSUM, UDP_CHECKSUM, put};
use crate::layers::{Content, IpVersion, Layers, TCP, UDP};

/// What a sender asks for, unchecked: fields of its virtio-net header (virtio 1.3, 5.1.6.2). `hdr_len` is not among
/// them: it is a hint that nobody needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadRequest {
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
    pub needs_checksum: bool,
    /// `gso_type`: how to segment, 0 for not at all; bit 0x80 is ECN.
    pub gso_type: u8,
    /// `gso_size`: payload bytes of a segment.
    pub gso_size: u16,
    /// `csum_start`: where the checksum starts, in bytes from the frame's start.
    pub checksum_start: u16,
    /// `csum_offset`: where it is stored, in bytes from `checksum_start`.
    pub checksum_offset: u16,
}

impl OffloadRequest {
    /// Whether nothing is asked for. The other fields mean nothing then.
    #[inline]
    pub const fn is_none(&self) -> bool {
        !self.needs_checksum && self.gso_type == GSO_NONE
    }
}

/// A set of offloads: what a sender may ask for, or what a receiver takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u8);

impl Offloads {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Partial checksums. All others need it (virtio 1.3, 5.1.3.1).
    pub const CHECKSUM: Self = Self(1);
    /// Segmentation of TCP over IPv4.
    pub const TSO4: Self = Self(2);
    /// Segmentation of TCP over IPv6.
    pub const TSO6: Self = Self(4);
    /// Segmentation of TCP frames with CWR set (RFC 3168).
    pub const ECN: Self = Self(8);
    /// Segmentation of UDP over IPv4.
    pub const USO4: Self = Self(16);
    /// Segmentation of UDP over IPv6.
    pub const USO6: Self = Self(32);
    /// All of them.
    pub const ALL: Self = Self(63);

    /// This set and another.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `others` are in the set.
    #[inline]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitOr for Offloads {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is left to do for a frame. Checked: offsets and sizes fit the frame for which it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing; nobody looked at the frame's checksums.
    #[default]
    None,
    /// Nothing: the frame's checksums were checked, by us or by a NIC.
    Valid,
    /// One checksum.
    Checksum(PartialChecksum),
    /// Segmentation, and the checksum of each segment.
    Segment(Segmentation),
}

impl Offload {
    /// Checks what the sender of a frame asks for. `allowed` is what it negotiated; `head` is the first bytes of the
    /// frame (up to 128 or all of them), `length` the whole frame's, in bytes.
    ///
    /// A segmentation request for a frame that fits into one segment is a request for a checksum. A checksum's place
    /// must be one where a checksum can be: a sender must not be able to have another field of its headers, which the
    /// switch has looked at, changed afterwards.
    ///
    /// # Errors
    /// [`DropReason::OffloadNotNegotiated`]; [`DropReason::BadOffload`] when the request is malformed, or does not
    /// fit the frame's headers, or these are not to be read within `head`.
    #[inline]
    pub fn check(request: OffloadRequest, allowed: Offloads, head: &[u8], length: u32) -> Result<Self, DropReason> {
        if request.is_none() { Ok(Self::None) } else { check(request, allowed, head, length) }
    }

    /// The same for the frame with a VLAN tag pushed (`by` = 4) or popped (-4): all offsets move.
    #[inline]
    #[must_use]
    pub const fn moved(self, by: i16) -> Self {
        match self {
            Self::None | Self::Valid => self,
            Self::Checksum(partial) => Self::Checksum(partial.moved(by)),
            Self::Segment(segmentation) => Self::Segment(segmentation.moved(by)),
        }
    }

    /// How many frames one of `length` bytes makes on the wire.
    #[inline]
    pub fn segments(self, length: u32) -> u32 {
        match self {
            Self::None | Self::Valid | Self::Checksum(_) => 1,
            Self::Segment(segmentation) => segmentation.segments(length),
        }
    }

    /// Whether a receiver that negotiated `by` can take the frame as it is.
    #[inline]
    pub fn receivable(self, by: Offloads) -> bool {
        match self {
            Self::None | Self::Valid => true,
            Self::Checksum(_) => by.contains(Offloads::CHECKSUM),
            Self::Segment(segmentation) => by.contains(segmentation.needs()),
        }
    }

    /// The fields of the virtio-net header with which a receiver gets the frame as it is.
    #[inline]
    pub fn fields(self) -> OffloadFields {
        match self {
            Self::None => OffloadFields::default(),
            Self::Valid => OffloadFields { data_valid: true, ..OffloadFields::default() },
            Self::Checksum(partial) => {
                let request = OffloadRequest {
                    needs_checksum: true,
                    checksum_start: partial.start,
                    checksum_offset: partial.offset,
                    ..OffloadRequest::default()
                };
                OffloadFields { request, ..OffloadFields::default() }
            }
            Self::Segment(segmentation) => {
                let partial = segmentation.partial_checksum();
                let request = OffloadRequest {
                    needs_checksum: true,
                    gso_type: segmentation.kind.gso_type() | if segmentation.ecn { GSO_ECN } else { 0 },
                    gso_size: segmentation.size,
                    checksum_start: partial.start,
                    checksum_offset: partial.offset,
                };
                OffloadFields { request, data_valid: false, header_bytes: segmentation.header_bytes }
            }
        }
    }
}

/// What a receiver is told of a frame's offloads: fields of its virtio-net header (virtio 1.3, 5.1.6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadFields {
    /// What is left to the receiver.
    pub request: OffloadRequest,
    /// `VIRTIO_NET_HDR_F_DATA_VALID`: checksums were checked. Only for a receiver that negotiated `GUEST_CSUM`.
    pub data_valid: bool,
    /// `hdr_len`: bytes of all headers; 0 unless to be segmented.
    pub header_bytes: u16,
}

/// How a frame is cut into segments. Only [`Offload::check`] makes one that is known to fit its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Of which protocols the frame is.
    pub kind: SegmentKind,
    /// Whether the sender says that TCP's CWR is set: it is to be set in the first segment only (RFC 3168).
    pub ecn: bool,
    /// Payload bytes of each segment but the last; not 0.
    pub size: u16,
    /// Where the IP header starts, in bytes from the frame's start.
    pub network: u16,
    /// Where the TCP or UDP header starts.
    pub transport: u16,
    /// Bytes of all headers: where the payload starts.
    pub header_bytes: u16,
}

impl Segmentation {
    /// Bytes of the longest segment, with all headers.
    #[inline]
    pub fn segment_bytes(&self) -> u32 {
        u32::from(self.header_bytes) + u32::from(self.size)
    }

    /// The same for the frame with `by` bytes more before its network header: see [`Offload::moved`].
    #[inline]
    #[must_use]
    pub const fn moved(self, by: i16) -> Self {
        Self {
            network: self.network.saturating_add_signed(by),
            transport: self.transport.saturating_add_signed(by),
            header_bytes: self.header_bytes.saturating_add_signed(by),
            ..self
        }
    }

    /// Segments that a frame of `length` bytes makes.
    #[inline]
    pub fn segments(&self, length: u32) -> u32 {
        length.saturating_sub(u32::from(self.header_bytes)).div_ceil(u32::from(self.size).max(1))
    }

    /// What a receiver must have negotiated to take the frame unsegmented.
    #[inline]
    pub fn needs(&self) -> Offloads {
        let ecn = if self.ecn { Offloads::ECN } else { Offloads::NONE };
        Offloads::CHECKSUM | self.kind.needs() | ecn
    }

    /// Where the checksum of the frame, and of each segment, is.
    #[inline]
    pub const fn partial_checksum(&self) -> PartialChecksum {
        PartialChecksum { start: self.transport, offset: self.kind.checksum_offset() }
    }

    /// Stores in `head`, the first bytes of a frame of `length` bytes, the partial checksum that the receiver of an
    /// unsegmented frame expects, and Linux among them: the sum of the pseudo header with the length of the whole,
    /// not complemented. A sender may have left anything there. Does nothing when `head` ends before the field.
    pub fn set_pseudo_checksum(&self, head: &mut [u8], length: u32) {
        let bytes = length.saturating_sub(u32::from(self.transport));
        let ip = head.get(usize::from(self.network)..).unwrap_or_default();
        if let Some(sum) = Sum::of_pseudo_header(self.kind.version(), ip, self.kind.protocol(), bytes) {
            put(head, self.partial_checksum().field(), sum.partial());
        }
    }
}

/// Of which protocols a frame is that is to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4: segments are datagrams.
    Udp4,
    /// UDP over IPv6: segments are datagrams.
    Udp6,
}

impl SegmentKind {
    /// The version of IP.
    #[inline]
    pub const fn version(self) -> IpVersion {
        match self {
            Self::Tcp4 | Self::Udp4 => IpVersion::V4,
            Self::Tcp6 | Self::Udp6 => IpVersion::V6,
        }
    }

    /// The protocol's number: TCP or UDP.
    #[inline]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp4 | Self::Tcp6 => TCP,
            Self::Udp4 | Self::Udp6 => UDP,
        }
    }

    const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp4 | Self::Tcp6 => TCP_CHECKSUM,
            Self::Udp4 | Self::Udp6 => UDP_CHECKSUM,
        }
    }

    const fn needs(self) -> Offloads {
        match self {
            Self::Tcp4 => Offloads::TSO4,
            Self::Tcp6 => Offloads::TSO6,
            Self::Udp4 => Offloads::USO4,
            Self::Udp6 => Offloads::USO6,
        }
    }

    const fn gso_type(self) -> u8 {
        match self {
            Self::Tcp4 => GSO_TCPV4,
            Self::Tcp6 => GSO_TCPV6,
            Self::Udp4 | Self::Udp6 => GSO_UDP_L4,
        }
    }
}

/// A frame is cut into no more segments than this: a hostile sender cannot make us work for long on one frame.
pub const MAX_SEGMENTS: u32 = 1024;

// `gso_type` (virtio 1.3, 5.1.6). 3 was UDP fragmentation, which is not offered.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const VLAN_TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

/// [`Offload::check`] for a request of something.
fn check(request: OffloadRequest, allowed: Offloads, head: &[u8], length: u32) -> Result<Offload, DropReason> {
    let content = Content::parse(head);
    let kind = segment_kind(request.gso_type & !GSO_ECN, content)?;
    let ecn = request.gso_type & GSO_ECN != 0;
    let mut needed = if request.needs_checksum { Offloads::CHECKSUM } else { Offloads::NONE };
    if let Some(kind) = kind {
        needed = needed | kind.needs();
    }
    if ecn {
        needed = needed | Offloads::ECN;
    }
    if !allowed.contains(needed) {
        return Err(DropReason::OffloadNotNegotiated);
    }
    if !request.needs_checksum || (ecn && !matches!(kind, Some(SegmentKind::Tcp4 | SegmentKind::Tcp6))) {
        return Err(DropReason::BadOffload);
    }
    let partial = partial_checksum(request, content, head, length).ok_or(DropReason::BadOffload)?;
    let (Some(kind), Content::Ip(layers)) = (kind, content) else { return Ok(Offload::Checksum(partial)) };
    let segmentation = Segmentation {
        kind,
        ecn,
        size: request.gso_size,
        network: layers.network,
        transport: layers.transport,
        header_bytes: layers.header_bytes,
    };
    if partial != segmentation.partial_checksum() || !fits(&segmentation, head, length) {
        return Err(DropReason::BadOffload);
    }
    let one_segment = length <= segmentation.segment_bytes();
    Ok(if one_segment { Offload::Checksum(partial) } else { Offload::Segment(segmentation) })
}

/// How to segment, by the `gso_type` without its ECN bit and the frame's headers; `None` for not at all.
fn segment_kind(gso_type: u8, content: Content) -> Result<Option<SegmentKind>, DropReason> {
    if gso_type == GSO_NONE {
        return Ok(None);
    }
    let Content::Ip(Layers { version, protocol, .. }) = content else { return Err(DropReason::BadOffload) };
    match (gso_type, version, protocol) {
        (GSO_TCPV4, IpVersion::V4, TCP) => Ok(Some(SegmentKind::Tcp4)),
        (GSO_TCPV6, IpVersion::V6, TCP) => Ok(Some(SegmentKind::Tcp6)),
        (GSO_UDP_L4, IpVersion::V4, UDP) => Ok(Some(SegmentKind::Udp4)),
        (GSO_UDP_L4, IpVersion::V6, UDP) => Ok(Some(SegmentKind::Udp6)),
        _ => Err(DropReason::BadOffload),
    }
}

/// The checksum that is asked for, when there can be one: all of its field at hand, in no other field that we know.
fn partial_checksum(request: OffloadRequest, content: Content, head: &[u8], length: u32) -> Option<PartialChecksum> {
    let partial = PartialChecksum { start: request.checksum_start, offset: request.checksum_offset };
    let (start, offset) = (partial.start, partial.offset);
    let field_end = partial.field() + 2;
    let at_hand = field_end <= head.len() && u32::try_from(field_end).is_ok_and(|end| end <= length);
    // Each word that is summed is one of the protocol's words.
    let even = start % 2 == 0 && offset % 2 == 0;
    let place = match content {
        Content::Ip(layers) => {
            let at_transport = start == layers.transport;
            match layers.protocol {
                ICMP | IGMP | ICMPV6 => at_transport && offset == ICMP_CHECKSUM,
                TCP => at_transport && offset == TCP_CHECKSUM,
                // Or within a tunnel.
                UDP => (at_transport && offset == UDP_CHECKSUM) || start >= layers.header_bytes,
                // Extension headers that are not looked behind here, but elsewhere.
                AUTHENTICATION | MOBILITY | HIP | SHIM6 => false,
                _ => start >= layers.transport,
            }
        }
        // Behind more than two tags there may be anything.
        Content::Other { ether_type: ARP | RARP | VLAN_TAG | SERVICE_TAG, .. } => false,
        Content::Other { start: content, .. } => start >= content,
        Content::Unreadable => false,
    };
    (at_hand && even && place).then_some(partial)
}

/// Whether the frame's headers, all of them in `head`, can be those of its segments.
fn fits(segmentation: &Segmentation, head: &[u8], length: u32) -> bool {
    let header_bytes = usize::from(segmentation.header_bytes);
    let ip_fixed_bytes = match segmentation.kind.version() {
        IpVersion::V4 => 0,
        IpVersion::V6 => 40,
    };
    // What the length fields of IP and UDP can say, of the frame as it is.
    let ip_bytes = length.saturating_sub(u32::from(segmentation.network) + ip_fixed_bytes);
    segmentation.size != 0
        && header_bytes <= head.len()
        && u32::from(segmentation.header_bytes) <= length
        && ip_bytes <= u32::from(u16::MAX)
        && segmentation.segments(length) <= MAX_SEGMENTS
}

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
// IPv6's extension headers (IANA) that senders complete themselves.
const AUTHENTICATION: u8 = 51;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;
/// Of ICMP (RFC 792), IGMP (RFC 9776) and ICMPv6 (RFC 4443) alike.
const ICMP_CHECKSUM: u16 = 2;

#[cfg(test)]
mod proofs;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]
mod tests {
    use super::*;
    use crate::checksum::complete;
    use etherparse::{PacketBuilder, PacketBuilderStep, VlanHeader, VlanId};

    const BAD: Result<Offload, DropReason> = Err(DropReason::BadOffload);
    const NOT_NEGOTIATED: Result<Offload, DropReason> = Err(DropReason::OffloadNotNegotiated);

    fn tagged() -> PacketBuilderStep<VlanHeader> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        ethernet.double_vlan(VlanId::try_new(7).unwrap(), VlanId::try_new(9).unwrap())
    }

    fn tcp4(payload: usize) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut frame = Vec::new();
        builder.tcp(1, 2, 3, 4).write(&mut frame, &vec![0x55; payload]).unwrap();
        frame
    }

    fn tcp6(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        tagged().ipv6([1; 16], [9; 16], 64).tcp(1, 2, 3, 4).write(&mut frame, &vec![0x55; payload]).unwrap();
        frame
    }

    fn udp4(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        tagged().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut frame, &vec![0x55; payload]).unwrap();
        frame
    }

    fn udp6(payload: usize) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64).udp(1, 2);
        let mut frame = Vec::new();
        builder.write(&mut frame, &vec![0x55; payload]).unwrap();
        frame
    }

    /// A frame of each kind with 1000 bytes of payload, and what its sender asks for to have it cut into 300.
    fn samples() -> [(SegmentKind, Vec<u8>, OffloadRequest); 4] {
        let request = |gso_type, checksum_start, checksum_offset| OffloadRequest {
            needs_checksum: true,
            gso_type,
            gso_size: 300,
            checksum_start,
            checksum_offset,
        };
        [
            (SegmentKind::Tcp4, tcp4(1000), request(1, 34, 16)),
            (SegmentKind::Tcp6, tcp6(1000), request(4, 62, 16)),
            (SegmentKind::Udp4, udp4(1000), request(5, 42, 6)),
            (SegmentKind::Udp6, udp6(1000), request(5, 54, 6)),
        ]
    }

    fn head(frame: &[u8]) -> &[u8] {
        &frame[..frame.len().min(128)]
    }

    fn check_frame(request: OffloadRequest, allowed: Offloads, frame: &[u8]) -> Result<Offload, DropReason> {
        Offload::check(request, allowed, head(frame), frame.len() as u32)
    }

    #[test]
    fn an_offload_is_small() {
        assert!(size_of::<Offload>() <= 16);
    }

    #[test]
    fn nothing_asked_for_is_nothing_whatever_else_is_said() {
        let request =
            OffloadRequest { gso_size: 9, checksum_start: u16::MAX, checksum_offset: 1, ..OffloadRequest::default() };
        assert!(request.is_none());
        assert_eq!(Offload::check(request, Offloads::NONE, &[], 0), Ok(Offload::None));
    }

    #[test]
    fn segmentation_is_found() {
        for (kind, frame, request) in samples() {
            let Ok(Offload::Segment(found)) = check_frame(request, Offloads::ALL, &frame) else { panic!("{kind:?}") };
            let partial = PartialChecksum { start: request.checksum_start, offset: request.checksum_offset };
            assert_eq!((found.kind, found.ecn, found.size), (kind, false, 300));
            assert_eq!(found.partial_checksum(), partial);
            assert_eq!(usize::from(found.header_bytes), frame.len() - 1000);
            assert_eq!(found.segment_bytes(), u32::from(found.header_bytes) + 300);
            assert_eq!(found.segments(frame.len() as u32), 4);
        }
    }

    #[test]
    fn a_checksum_is_found() {
        for (_, frame, request) in samples() {
            let request = OffloadRequest { gso_type: 0, ..request };
            let expected = PartialChecksum { start: request.checksum_start, offset: request.checksum_offset };
            assert_eq!(check_frame(request, Offloads::CHECKSUM, &frame), Ok(Offload::Checksum(expected)));
        }
    }

    #[test]
    fn a_frame_of_one_segment_is_a_checksum() {
        for (_, frame, request) in samples() {
            for (gso_size, one) in [(999, false), (1000, true), (1001, true), (u16::MAX, true)] {
                let offload = check_frame(OffloadRequest { gso_size, ..request }, Offloads::ALL, &frame).unwrap();
                assert_eq!(matches!(offload, Offload::Checksum(_)), one, "{gso_size}");
            }
        }
        // No payload at all.
        let (_, _, request) = samples()[0];
        assert!(matches!(check_frame(request, Offloads::ALL, &tcp4(0)), Ok(Offload::Checksum(_))));
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let bits = [Offloads::TSO4, Offloads::TSO6, Offloads::USO4, Offloads::USO6];
        for ((_, frame, request), bit) in samples().into_iter().zip(bits) {
            let mut others = Offloads::NONE;
            for other in bits.into_iter().filter(|other| *other != bit) {
                others = others | other;
            }
            assert_eq!(check_frame(request, others | Offloads::CHECKSUM | Offloads::ECN, &frame), NOT_NEGOTIATED);
            assert_eq!(check_frame(request, Offloads::NONE, &frame), NOT_NEGOTIATED);
            assert_eq!(check_frame(request, bit, &frame), NOT_NEGOTIATED);
            assert!(check_frame(request, bit | Offloads::CHECKSUM, &frame).is_ok());
            let checksum = OffloadRequest { gso_type: 0, ..request };
            assert_eq!(check_frame(checksum, others | bit, &frame), NOT_NEGOTIATED);
        }
    }

    #[test]
    fn ecn_is_a_matter_of_tcp_and_of_negotiation() {
        for (kind, frame, request) in samples() {
            let request = OffloadRequest { gso_type: request.gso_type | GSO_ECN, ..request };
            let found = check_frame(request, Offloads::ALL, &frame);
            let without = Offloads::CHECKSUM | kind.needs();
            if kind.protocol() == TCP {
                assert!(matches!(found, Ok(Offload::Segment(Segmentation { ecn: true, .. }))));
                assert_eq!(check_frame(request, without, &frame), NOT_NEGOTIATED);
                assert!(check_frame(request, without | Offloads::ECN, &frame).is_ok());
            } else {
                assert_eq!(found, BAD);
            }
            // The bit alone.
            assert_eq!(check_frame(OffloadRequest { gso_type: GSO_ECN, ..request }, Offloads::ALL, &frame), BAD);
        }
    }

    #[test]
    fn unknown_kinds_of_segmentation_and_those_of_other_protocols_are_refused() {
        for (_, frame, request) in samples() {
            for gso_type in 1..=255 {
                if gso_type & !GSO_ECN != request.gso_type {
                    let request = OffloadRequest { gso_type, ..request };
                    assert_eq!(check_frame(request, Offloads::ALL, &frame), BAD, "{gso_type:#x}");
                }
            }
        }
    }

    #[test]
    fn segmentation_needs_a_checksum_and_a_size() {
        for (_, frame, request) in samples() {
            let no_checksum = OffloadRequest { needs_checksum: false, ..request };
            assert_eq!(check_frame(no_checksum, Offloads::ALL, &frame), BAD);
            assert_eq!(check_frame(OffloadRequest { gso_size: 0, ..request }, Offloads::ALL, &frame), BAD);
        }
    }

    #[test]
    fn a_checksum_is_only_where_one_can_be() {
        for (kind, frame, request) in samples() {
            for start in (0..200).chain([u16::MAX - 1, u16::MAX]) {
                for offset in (0..200).chain([u16::MAX - 1, u16::MAX]) {
                    let asked = OffloadRequest { checksum_start: start, checksum_offset: offset, ..request };
                    let right = (start, offset) == (request.checksum_start, request.checksum_offset);
                    let found = check_frame(asked, Offloads::ALL, &frame);
                    assert_eq!(found.is_ok(), right, "{kind:?} {start} + {offset}");
                    // In a datagram there may be a tunnel.
                    let payload = request.checksum_start + 8;
                    let even = start % 2 == 0 && offset % 2 == 0;
                    let at_hand = u32::from(start) + u32::from(offset) + 2 <= 128;
                    let in_tunnel = kind.protocol() == UDP && start >= payload && even && at_hand;
                    let found = check_frame(OffloadRequest { gso_type: 0, ..asked }, Offloads::ALL, &frame);
                    assert_eq!(found.is_ok(), right || in_tunnel, "{kind:?} {start} + {offset}");
                }
            }
        }
    }

    #[test]
    fn the_field_of_a_checksum_lies_in_the_frame_and_at_hand() {
        for (_, frame, request) in samples() {
            let request = OffloadRequest { gso_type: 0, ..request };
            let end = request.checksum_start + request.checksum_offset + 2;
            for bytes in 0..128 {
                let found = Offload::check(request, Offloads::ALL, &frame[..usize::from(bytes)], 1000);
                assert_eq!(found.is_ok(), bytes >= end, "{bytes}");
                let found = Offload::check(request, Offloads::ALL, head(&frame), u32::from(bytes));
                assert_eq!(found.is_ok(), bytes >= end, "{bytes}");
            }
        }
    }

    /// What guards and snooping have read must not change afterwards: addresses in ARP, in neighbour discovery, groups.
    #[test]
    fn a_checksum_is_in_no_field_that_was_read() {
        let request = |checksum_start, checksum_offset| OffloadRequest {
            needs_checksum: true,
            checksum_start,
            checksum_offset,
            ..OffloadRequest::default()
        };
        let mut other = tcp4(60);
        let check = |frame: &[u8], start, offset| check_frame(request(start, offset), Offloads::ALL, frame).is_ok();
        (other[12], other[13]) = (0x08, 0x06);
        for start in (0..100).step_by(2) {
            assert!(!check(&other, start, 0), "ARP, {start}");
        }
        // A guard looks behind all tags, and Linux takes off any number of priority tags.
        for tag in [[0x81, 0, 0, 0], [0x88, 0xa8, 0, 0], [0x81, 0, 0, 0]] {
            other.splice(12..12, tag);
            for start in (0..100).step_by(2) {
                assert!(!check(&other, start, 0), "ARP behind tags, {start}");
            }
        }
        let mut other = tcp4(60);
        (other[12], other[13]) = (0x80, 0x35);
        assert!(!check(&other, 14, 14), "RARP");
        (other[12], other[13]) = (0x88, 0x64);
        for start in 0..100 {
            assert_eq!(check(&other, start, 0), start >= 14 && start % 2 == 0, "PPPoE, {start}");
        }
        for protocol in [ICMP, IGMP, ICMPV6] {
            let mut frame = tcp4(60);
            frame[23] = protocol;
            for offset in 0..60 {
                assert_eq!(check(&frame, 34, offset), offset == 2);
                assert!(!check(&frame, 36, offset) && !check(&frame, 32, offset));
            }
        }
        for extension in [AUTHENTICATION, MOBILITY, HIP, SHIM6] {
            let mut frame = udp6(60);
            frame[20] = extension;
            assert!(!check(&frame, 54, 0) && !check(&frame, 62, 6), "{extension}");
        }
        let mut tunnel = tcp4(60);
        tunnel[23] = 47;
        assert!(check(&tunnel, 34, 4) && check(&tunnel, 58, 16) && !check(&tunnel, 32, 0));
        let mut fragment = tcp4(60);
        fragment[20] = 0x20;
        assert!(check(&tcp4(60), 34, 16) && !check(&fragment, 34, 16));
    }

    #[test]
    fn headers_that_do_not_fit_are_refused() {
        let (_, frame, request) = samples()[0].clone();
        // Version, header length, fragments, protocol, TCP's data offset.
        let changes =
            [(14, 0x65), (14, 0x46), (14, 0x44), (20, 0x20), (21, 1), (23, 17), (23, 1), (46, 0x40), (12, 0x86)];
        for (at, byte) in changes {
            let mut changed = frame.clone();
            changed[at] = byte;
            assert_eq!(check_frame(request, Offloads::ALL, &changed), BAD, "{byte:#x} at {at}");
        }
        // Options that end beyond the bytes at hand; all of them within.
        let mut options = frame.clone();
        options[46] = 0xf0;
        assert!(Offload::check(request, Offloads::ALL, &options[..94], 1054).is_ok());
        assert_eq!(Offload::check(request, Offloads::ALL, &options[..93], 1054), BAD);
        assert_eq!(Offload::check(request, Offloads::ALL, &options[..94], 93), BAD);
        for (_, frame, request) in samples() {
            let header_bytes = frame.len() - 1000;
            for bytes in 0..header_bytes {
                assert_eq!(Offload::check(request, Offloads::ALL, &frame[..bytes], 1000), BAD);
                assert_eq!(Offload::check(request, Offloads::ALL, head(&frame), bytes as u32), BAD);
            }
        }
    }

    #[test]
    fn lengths_are_those_that_ip_can_say() {
        for ((kind, frame, request), most) in samples().into_iter().zip([65_549, 65_597, 65_557, 65_589]) {
            let request = OffloadRequest { gso_size: 1448, ..request };
            let check = |length| Offload::check(request, Offloads::ALL, head(&frame), length);
            assert!(check(most).is_ok(), "{kind:?}");
            assert_eq!(check(most + 1), BAD, "{kind:?}");
            assert_eq!(check(u32::MAX), BAD, "{kind:?}");
        }
    }

    #[test]
    fn the_number_of_segments_is_bounded() {
        for (_, frame, request) in samples() {
            let request = OffloadRequest { gso_size: 1, ..request };
            let headers = frame.len() as u32 - 1000;
            let check = |payload| Offload::check(request, Offloads::ALL, head(&frame), headers + payload);
            assert!(check(1024).is_ok());
            assert_eq!(check(1025), BAD);
        }
    }

    #[test]
    fn offsets_move_with_a_tag() {
        for (kind, mut frame, request) in samples() {
            let before = check_frame(request, Offloads::ALL, &frame).unwrap();
            if kind.version() == IpVersion::V4 && kind.protocol() == TCP {
                frame.splice(12..12, [0x81, 0, 0, 5]);
                let moved = OffloadRequest { checksum_start: request.checksum_start + 4, ..request };
                assert_eq!(check_frame(moved, Offloads::ALL, &frame), Ok(before.moved(4)));
            }
            assert_ne!(before.moved(4), before);
            assert_eq!(before.moved(4).moved(-4), before);
        }
        let partial = |start| Offload::Checksum(PartialChecksum { start, offset: 6 });
        assert_eq!(partial(38).moved(-4), partial(34));
        assert_eq!(Offload::None.moved(4), Offload::None);
        assert_eq!(Offload::Valid.moved(-4), Offload::Valid);
    }

    #[test]
    fn receivers_take_what_they_negotiated() {
        assert!(Offload::None.receivable(Offloads::NONE));
        assert!(Offload::Valid.receivable(Offloads::NONE));
        let partial = Offload::Checksum(PartialChecksum { start: 34, offset: 16 });
        assert!(partial.receivable(Offloads::CHECKSUM));
        assert!(!partial.receivable(Offloads::NONE));
        for (kind, frame, request) in samples() {
            let Ok(Offload::Segment(found)) = check_frame(request, Offloads::ALL, &frame) else { panic!("{kind:?}") };
            let with_ecn = Offload::Segment(Segmentation { ecn: true, ..found });
            let needed = Offloads::CHECKSUM | kind.needs();
            assert!(Offload::Segment(found).receivable(needed));
            assert!(!Offload::Segment(found).receivable(Offloads::CHECKSUM));
            assert!(!with_ecn.receivable(needed));
            assert!(with_ecn.receivable(needed | Offloads::ECN));
            for bits in 0..64 {
                assert_eq!(Offload::Segment(found).receivable(Offloads(bits)), Offloads(bits).contains(needed));
            }
        }
    }

    #[test]
    fn what_a_receiver_is_told_is_what_was_asked() {
        assert_eq!(Offload::None.fields(), OffloadFields::default());
        assert!(Offload::Valid.fields().data_valid && Offload::Valid.fields().request.is_none());
        for (kind, frame, request) in samples() {
            let mut requests = vec![request];
            if kind.protocol() == TCP {
                requests.push(OffloadRequest { gso_type: request.gso_type | GSO_ECN, ..request });
            }
            for request in requests {
                let fields = check_frame(request, Offloads::ALL, &frame).unwrap().fields();
                assert_eq!(fields.request, request);
                assert!(!fields.data_valid);
                assert_eq!(usize::from(fields.header_bytes), frame.len() - 1000);
            }
            let checksum = OffloadRequest { gso_type: 0, gso_size: 0, ..request };
            let fields = check_frame(checksum, Offloads::ALL, &frame).unwrap().fields();
            assert_eq!(fields, OffloadFields { request: checksum, ..OffloadFields::default() });
        }
    }

    #[test]
    fn the_pseudo_checksum_completes_to_that_of_the_whole() {
        for (kind, frame, request) in samples() {
            let Ok(Offload::Segment(found)) = check_frame(request, Offloads::ALL, &frame) else { panic!("{kind:?}") };
            let mut changed = frame.clone();
            put(&mut changed, found.partial_checksum().field(), 0x1234);
            found.set_pseudo_checksum(&mut changed[..128], frame.len() as u32);
            assert_ne!(changed, frame);
            complete(&mut changed, found.partial_checksum());
            assert_eq!(changed, frame, "{kind:?}");
            // Nothing happens where there is no room.
            let mut short = frame[..20].to_vec();
            found.set_pseudo_checksum(&mut short, frame.len() as u32);
            assert_eq!(short, frame[..20]);
        }
    }
}
