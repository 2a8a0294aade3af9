//! Requests of all kinds for small frames.

use std::sync::LazyLock;

use culvert_proofs::{Choices, proofs};
use etherparse::PacketBuilder;

use super::*;

proofs! {
    segments_are_counted_as_if_they_were_cut: 26_000,
    what_is_accepted_fits_its_frame: 750_000,
    tags_move_all_offsets_alike: 130_000,
}

const KINDS: [SegmentKind; 4] = [SegmentKind::Tcp4, SegmentKind::Tcp6, SegmentKind::Udp4, SegmentKind::Udp6];

/// A frame makes as many segments as can be taken off its payload one by one, and none is longer than is said: payloads around all
/// multiples up to four of sizes at edges.
fn segments_are_counted_as_if_they_were_cut(choices: &mut Choices) {
    let size = choices.of(&[1, 2, 3, 7, 8, 536, 1448, 1460, 8960, 0x7fff, 0xffff_u16]);
    let header_bytes = choices.of(&[42, 54, 66, 74, 136, 0xffff_u16]);
    let segmentation =
        Segmentation { kind: choices.of(&KINDS), ecn: choices.flag(), size, network: 14, transport: 34, header_bytes };
    let payload = (choices.number(0..=4_u32) * u32::from(size) + choices.number(0..=4)).saturating_sub(2);
    // Or nothing but a part of the headers.
    let length = if choices.flag() {
        payload + u32::from(header_bytes)
    } else {
        u32::from(header_bytes).saturating_sub(payload)
    };
    let (mut left, mut count) = (length.saturating_sub(u32::from(header_bytes)), 0);
    while left > 0 {
        let part = left.min(u32::from(size));
        assert!(part + u32::from(header_bytes) <= segmentation.segment_bytes());
        left -= part;
        count += 1;
    }
    assert_eq!(segmentation.segments(length), count);
    assert_eq!(Offload::Segment(segmentation).segments(length), count);
}

/// A frame with so many bytes of payload, and where its transport header is.
fn frame(kind: SegmentKind, payload: usize) -> (Vec<u8>, u16) {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let (mut frame, payload) = (Vec::new(), vec![0x55; payload]);
    let (v4, v6) = (([10, 0, 0, 1], [10, 0, 0, 2]), ([1; 16], [9; 16]));
    match kind {
        SegmentKind::Tcp4 => ethernet.ipv4(v4.0, v4.1, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        SegmentKind::Tcp6 => ethernet.ipv6(v6.0, v6.1, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        SegmentKind::Udp4 => ethernet.ipv4(v4.0, v4.1, 64).udp(1, 2).write(&mut frame, &payload),
        SegmentKind::Udp6 => ethernet.ipv6(v6.0, v6.1, 64).udp(1, 2).write(&mut frame, &payload),
    }
    .unwrap();
    (frame, if kind.version() == IpVersion::V4 { 34 } else { 54 })
}

/// One of each kind, with 20 bytes.
static FRAMES: LazyLock<[(SegmentKind, Vec<u8>, u16); 4]> = LazyLock::new(|| {
    KINDS.map(|kind| {
        let (frame, transport) = frame(kind, 20);
        (kind, frame, transport)
    })
});

/// A request that is accepted is one that was negotiated; its checksum lies in the frame and in what was looked at of it, behind IP's
/// header, and its segments have a size, are 2 to 1,024, and begin with headers that were looked at: four kinds of frames, cut at edges,
/// all places around theirs.
fn what_is_accepted_fits_its_frame(choices: &mut Choices) {
    let (kind, frame, transport) = &FRAMES[choices.below(4)];
    let (kind, transport) = (*kind, *transport);
    let at_hand = choices.of(&[20 + 66, 18, 17, 8, 7]);
    let head = &frame[..frame.len().min(usize::from(transport) + at_hand)];
    let length = choices.of(&[u32::from(transport) + 17, 62, 94, 94 + 2046, 65_549, 65_550, 65_589, 65_590, u32::MAX]);
    let request = OffloadRequest {
        needs_checksum: choices.flag(),
        gso_type: choices.of(&[0, 1, 3, 4, 5, 0x80, 0x81]),
        gso_size: choices.of(&[0, 1, 1448, u16::MAX]),
        checksum_start: choices.of(&[transport - 2, transport, transport + 1, transport + 8, u16::MAX]),
        checksum_offset: choices.of(&[0, 6, 16, 17, u16::MAX]),
    };
    let allowed = choices.of(&[Offloads::NONE, Offloads::CHECKSUM, Offloads::ALL]);
    let Ok(offload) = Offload::check(request, allowed, head, length) else { return };
    let partial = match offload {
        Offload::None => {
            assert!(request.is_none());
            return;
        }
        Offload::Valid => panic!("nobody has checked it"),
        Offload::Checksum(partial) => partial,
        Offload::Segment(segmentation) => {
            let count = segmentation.segments(length);
            assert!((2..=1024).contains(&count) && segmentation.size == request.gso_size && segmentation.size > 0);
            assert!(allowed.contains(segmentation.needs()));
            assert_eq!((segmentation.kind, segmentation.transport), (kind, transport));
            assert!(usize::from(segmentation.header_bytes) <= head.len());
            // Each segment's IP packet can tell its length, and so can the whole.
            assert!(
                length - u32::from(segmentation.network)
                    <= 65_535 + if kind.version() == IpVersion::V4 { 0 } else { 40 }
            );
            segmentation.partial_checksum()
        }
    };
    assert!(request.needs_checksum && allowed.contains(Offloads::CHECKSUM));
    assert_eq!((partial.start, partial.offset), (request.checksum_start, request.checksum_offset));
    let end = partial.field() + 2;
    assert!(end <= head.len() && u32::try_from(end).unwrap() <= length, "all of the field is there");
    assert!(partial.start >= transport, "nothing of IP is changed");
}

/// Pushing a tag and popping it again leads back; each offset moves by its four bytes, and nothing else changes: offsets at edges but the
/// highest.
fn tags_move_all_offsets_alike(choices: &mut Choices) {
    let mut offset = || choices.of(&[4, 14, 34, 54, 136, u16::MAX - 4]);
    let (network, transport, header_bytes) = (offset(), offset(), offset());
    let segmentation =
        Segmentation { kind: choices.of(&KINDS), ecn: choices.flag(), size: 9, network, transport, header_bytes };
    let partial = PartialChecksum { start: transport, offset: 6 };
    for offload in [Offload::None, Offload::Valid, Offload::Checksum(partial), Offload::Segment(segmentation)] {
        let by = choices.of(&[4, -4, 0]);
        let moved = offload.moved(by);
        assert_eq!(moved.moved(-by), offload);
        let at = |offset: u16| u16::try_from(i32::from(offset) + i32::from(by)).unwrap();
        let expected = match offload {
            Offload::None | Offload::Valid => offload,
            Offload::Checksum(_) => Offload::Checksum(PartialChecksum { start: at(transport), offset: 6 }),
            Offload::Segment(_) => Offload::Segment(Segmentation {
                network: at(network),
                transport: at(transport),
                header_bytes: at(header_bytes),
                ..segmentation
            }),
        };
        assert_eq!(moved, expected);
        assert_eq!(moved.fields().request.gso_type, offload.fields().request.gso_type);
    }
}
