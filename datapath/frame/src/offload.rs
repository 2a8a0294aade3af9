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
            Self::Checksum(partial) => {
                Self::Checksum(PartialChecksum { start: partial.start.saturating_add_signed(by), ..partial })
            }
            Self::Segment(segmentation) => Self::Segment(Segmentation {
                network: segmentation.network.saturating_add_signed(by),
                transport: segmentation.transport.saturating_add_signed(by),
                header_bytes: segmentation.header_bytes.saturating_add_signed(by),
                ..segmentation
            }),
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
                _ => start >= layers.transport,
            }
        }
        Content::Other { ether_type, start: content } => ether_type != ARP && start >= content,
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
/// Of ICMP (RFC 792), IGMP (RFC 9776) and ICMPv6 (RFC 4443) alike.
const ICMP_CHECKSUM: u16 = 2;
