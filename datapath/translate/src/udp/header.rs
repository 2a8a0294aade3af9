//! UDP headers (RFC 768): those of the guest's are read and checked, those for it are made.
//!
//! Knows nothing of flows and sockets. Called by [`crate::udp`], and by [`crate::icmp_error`] for quotes.

use std::net::SocketAddr;

use culvert_frame::{Offload, Offloads, PartialChecksum, SegmentKind, Segmentation};

use crate::context::Context;
use crate::flow::FlowEnds;
use crate::fragment;
use crate::head::{Ends, UDP};
use crate::link::GuestLink;
use crate::packet::{IpPacket, Payload};
use crate::refusal::Refusal;

/// Reads the header of the guest's datagram; returns the flow's ends and the payload.
pub(super) fn parse<'a>(ip: &IpPacket<'a>, segment: Option<u16>) -> Result<(FlowEnds, Payload<'a>), Refusal> {
    let header: &[u8; BYTES] = ip.payload.first_bytes().first_chunk().ok_or(Refusal::Truncated)?;
    let [s0, s1, d0, d1, l0, l1, checksum @ ..] = *header;
    let ends = FlowEnds {
        guest: SocketAddr::new(ip.source, u16::from_be_bytes([s0, s1])),
        peer: SocketAddr::new(ip.destination, u16::from_be_bytes([d0, d1])),
    };
    if ends.guest.port() == 0 || ends.peer.port() == 0 {
        return Err(Refusal::BadTransport);
    }
    // RFC 8200, section 8.1: only IPv4 goes without.
    if checksum == [0, 0] && ip.source.is_ipv6() {
        return Err(Refusal::BadTransport);
    }
    if ip.source.is_unspecified() {
        return Err(Refusal::BadSource);
    }
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    let payload = match segment {
        // One header for several datagrams: it may tell the length of each.
        Some(size) if size == 0 || ip.payload.skip(8).length().div_ceil(size.into()) > MAX_SEGMENTS => {
            return Err(Refusal::BadOffload);
        }
        Some(_) => ip.payload.skip(8),
        None if length < 8 || length > ip.payload.length() => return Err(Refusal::BadTransport),
        None => ip.payload.take(length).skip(8),
    };
    Ok((ends, payload))
}

/// A UDP header with its checksum, before `payload`.
pub(crate) fn header(ends: &Ends, from: u16, to: u16, payload: &[u8]) -> [u8; BYTES] {
    let bytes = length(payload.len());
    let mut sum = ends.pseudo_header(UDP, bytes.into());
    let mut header = fields(from, to, bytes, 0);
    sum.add(&header);
    sum.add(payload);
    // 0 would mean that there is none.
    let checksum = match sum.checksum() {
        0 => u16::MAX,
        checksum => checksum,
    };
    header = fields(from, to, bytes, checksum);
    header
}

/// A UDP header before `payload_bytes`, whose checksum is left to the guest.
pub(super) fn partial(ends: &Ends, from: u16, to: u16, payload_bytes: usize) -> (Offload, [u8; BYTES]) {
    let bytes = length(payload_bytes);
    let sum = ends.pseudo_header(UDP, bytes.into()).partial();
    let start = u16::try_from(ends.header_bytes()).unwrap_or(u16::MAX);
    (Offload::Checksum(PartialChecksum { start, offset: CHECKSUM_OFFSET }), fields(from, to, bytes, sum))
}

/// A UDP header before datagrams of `size` bytes each, but for the last one: its length and sum are those of all, as
/// Linux has it.
pub(super) fn segmented(ends: &Ends, from: u16, to: u16, payload_bytes: usize, size: u16) -> (Offload, [u8; BYTES]) {
    let (_, header) = partial(ends, from, to, payload_bytes);
    let transport = u16::try_from(ends.header_bytes()).unwrap_or(u16::MAX);
    let segmentation = Segmentation {
        kind: if ends.is_v4() { SegmentKind::Udp4 } else { SegmentKind::Udp6 },
        ecn: false,
        size,
        network: 14,
        transport,
        header_bytes: transport.saturating_add(length(0)),
    };
    (Offload::Segment(segmentation), header)
}

/// Whether the guest takes several datagrams with `payload_bytes` each in one frame. Not if each is longer than its
/// MTU.
pub(super) fn takes_segments<S, L: GuestLink>(ctx: &Context<'_, S, L>, v4: bool, payload_bytes: usize) -> bool {
    let bytes = payload_bytes + BYTES + if v4 { 20 } else { 40 };
    let needs = Offloads::CHECKSUM | if v4 { Offloads::USO4 } else { Offloads::USO6 };
    ctx.link.takes().contains(needs) && bytes <= usize::from(fragment::mtu_of(ctx.settings, ctx.guest, v4))
}

/// The length field of a header before `payload_bytes`.
pub(super) fn length(payload_bytes: usize) -> u16 {
    u16::try_from(BYTES + payload_bytes).unwrap_or(u16::MAX)
}

fn fields(from: u16, to: u16, bytes: u16, checksum: u16) -> [u8; BYTES] {
    let ([f0, f1], [t0, t1]) = (from.to_be_bytes(), to.to_be_bytes());
    let ([b0, b1], [c0, c1]) = (bytes.to_be_bytes(), checksum.to_be_bytes());
    [f0, f1, t0, t1, b0, b1, c0, c1]
}

/// Bytes of a UDP header.
pub(super) const BYTES: usize = 8;
/// Where the checksum is in it.
const CHECKSUM_OFFSET: u16 = 6;
/// The most datagrams that the guest may leave to us to cut; Linux does not ask for more (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: u32 = 128;
