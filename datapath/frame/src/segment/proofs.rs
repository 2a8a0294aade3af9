//! Segments of small frames of each kind.

use culvert_proofs::{Choices, proofs};
use etherparse::PacketBuilder;

use super::*;
use crate::checksum::checksum_of;
use crate::layers::{Layers, word};
use crate::offload::SegmentKind;

proofs! {
    segments_are_packets_that_make_the_frame_again: 2_700,
    flags_of_the_whole_are_at_its_ends: 2_000,
}

const KINDS: [SegmentKind; 4] = [SegmentKind::Tcp4, SegmentKind::Tcp6, SegmentKind::Udp4, SegmentKind::Udp6];

/// A frame of a kind with that payload, with or without a tag, and how to cut it into segments of `size`.
fn frame(kind: SegmentKind, is_tagged: bool, payload: &[u8], size: u16) -> (Vec<u8>, Segmentation) {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    match kind.version() {
        IpVersion::V4 if kind.protocol() == TCP => {
            ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4).write(&mut frame, payload)
        }
        IpVersion::V4 => ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut frame, payload),
        IpVersion::V6 if kind.protocol() == TCP => {
            ethernet.ipv6([1; 16], [9; 16], 64).tcp(1, 2, 3, 4).write(&mut frame, payload)
        }
        IpVersion::V6 => ethernet.ipv6([1; 16], [9; 16], 64).udp(1, 2).write(&mut frame, payload),
    }
    .unwrap();
    if is_tagged {
        frame.splice(12..12, [0x81, 0, 0, 7]);
    }
    let Layers { network, transport, header_bytes, .. } = Layers::parse(&frame).unwrap();
    (frame, Segmentation { kind, ecn: false, size, network, transport, header_bytes })
}

/// All segments; each read goes on where the one before it ended.
fn segments(frame: &[u8], segmentation: Segmentation) -> Vec<Vec<u8>> {
    let mut segmenter = Segmenter::new(frame, segmentation, u32::try_from(frame.len()).unwrap());
    let mut rest = &frame[usize::from(segmentation.header_bytes)..];
    let mut out = vec![0xaa; usize::try_from(segmentation.segment_bytes()).unwrap()];
    let next = || {
        let segment = segmenter.next(&mut out, |room| {
            let (payload, behind) = rest.split_at(room.len());
            room.copy_from_slice(payload);
            rest = behind;
        });
        segment.map(|segment| segment.to_vec())
    };
    std::iter::from_fn(next).collect()
}

/// Word by word (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0xffff)
}

/// Each segment is a packet whose lengths, numbers and checksums are right, and their payloads are the frame's, in pieces of that size but
/// for the last: all four kinds, with and without a tag, up to 12 bytes of payload in segments of 1 to 13, numbers that wrap.
fn segments_are_packets_that_make_the_frame_again(choices: &mut Choices) {
    let (kind, is_tagged, is_wrapping) = (choices.of(&KINDS), choices.flag(), choices.flag());
    let payload: Vec<u8> = (1..=choices.number(0..=12_u8)).map(|at| at.wrapping_mul(77)).collect();
    let size = choices.number(1..=13_u16);
    let (mut whole, segmentation) = frame(kind, is_tagged, &payload, size);
    let (network, transport) = (usize::from(segmentation.network), usize::from(segmentation.transport));
    let first_id = if is_wrapping { 0xfffe } else { 7 };
    let first_number = if is_wrapping { u32::MAX - 3 } else { 5 };
    if kind.version() == IpVersion::V4 {
        put(&mut whole, network + 4, first_id);
    }
    if kind.protocol() == TCP {
        whole[transport + 4..transport + 8].copy_from_slice(&first_number.to_be_bytes());
    }
    let all = segments(&whole, segmentation);
    let mut joined = Vec::new();
    for (index, segment) in all.iter().enumerate() {
        let layers = Layers::parse(segment).unwrap();
        assert_eq!(layers.packet_end, Some(u32::try_from(segment.len()).unwrap()), "the packet's length");
        let part = &segment[usize::from(layers.header_bytes)..];
        assert_eq!(part.len(), usize::from(size).min(payload.len() - joined.len()), "how much it has");
        if kind.version() == IpVersion::V4 {
            assert_eq!(word(segment, network + 4), Some(first_id.wrapping_add(u16::try_from(index).unwrap())));
            assert_eq!(sum(&segment[network..transport]), 0, "the header's checksum");
        }
        if kind.protocol() == TCP {
            let number = u32::from_be_bytes(*segment[transport + 4..].first_chunk().unwrap());
            assert_eq!(number, first_number.wrapping_add(u32::try_from(joined.len()).unwrap()));
        } else {
            assert_eq!(word(segment, transport + 4).map(usize::from), Some(segment.len() - transport));
        }
        let addresses = if kind.version() == IpVersion::V4 { 12..20 } else { 8..40 };
        let pseudo = sum(&segment[network..][addresses]) + u32::from(kind.protocol());
        let length = u32::try_from(segment.len() - transport).unwrap();
        assert_eq!((pseudo + length + sum(&segment[transport..])) % 0xffff, 0, "the checksum");
        assert_eq!(checksum_of(segment, u32::try_from(segment.len()).unwrap()), Some(segmentation.partial_checksum()));
        joined.extend_from_slice(part);
    }
    assert_eq!(joined, payload);
    assert_eq!(u32::try_from(all.len()).unwrap(), segmentation.segments(u32::try_from(whole.len()).unwrap()));
}

/// CWR is the first segment's, FIN and PSH are the last one's, and all other flags are each one's (RFC 3168, 6.1.2): all 256 sets of flags,
/// 1 to 4 segments, both versions.
fn flags_of_the_whole_are_at_its_ends(choices: &mut Choices) {
    let (kind, flags, count) = (choices.of(&KINDS[..2]), choices.number(0..=u8::MAX), choices.number(1..=4_u8));
    let (mut whole, segmentation) = frame(kind, false, &vec![7; usize::from(count)], 1);
    whole[usize::from(segmentation.transport) + 13] = flags;
    let all = segments(&whole, segmentation);
    assert_eq!(all.len(), usize::from(count));
    for (index, segment) in all.iter().enumerate() {
        let mut expected = flags;
        if index > 0 {
            expected &= 0b0111_1111;
        }
        if index + 1 < all.len() {
            expected &= 0b1111_0110;
        }
        assert_eq!(segment[usize::from(segmentation.transport) + 13], expected, "segment {index}");
    }
}
