//! What a sender asks its device to do with a frame: the check, the sum, the segments.

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::checksum::{Sum, checksum_of, complete};
use culvert_frame::header::vlan_tags_bytes;
use culvert_frame::offload::MAX_SEGMENTS;
use culvert_frame::{
    DropReason, Layers, Offload, OffloadRequest, Offloads, PartialChecksum, SegmentKind, Segmentation, Segmenter,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    needs_checksum: bool,
    gso_type: u8,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
    /// Which offloads were not negotiated.
    forbidden: u8,
    /// Bytes of the frame behind its head.
    behind: u32,
    /// Not checked, when the fields above have passed.
    unchecked: [u16; 4],
    head: &'a [u8],
}

/// As many bytes of a frame are looked at.
const HEAD_BYTES: usize = 128;
/// As many segments of a frame are looked at, and the last one.
const SEGMENTS_JUDGED: u32 = 12;
const TAG: [u8; 4] = [0x81, 0x00, 0, 7];

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let head = &input.head[..input.head.len().min(HEAD_BYTES)];
    let length = if head.len() < HEAD_BYTES { 0 } else { input.behind }.saturating_add(bytes(head));
    let request = OffloadRequest {
        needs_checksum: input.needs_checksum,
        gso_type: input.gso_type,
        gso_size: input.gso_size,
        checksum_start: input.checksum_start,
        checksum_offset: input.checksum_offset,
    };
    let allowed = allowed(!input.forbidden);
    match Offload::check(request, allowed, head, length) {
        Ok(offload) => {
            assert!(offload.receivable(allowed), "{offload:?} was not negotiated");
            assert_eq!(offload == Offload::None, request.is_none());
            assert_eq!(offload.moved(4).moved(-4), offload);
            // Long ones take their time, and find little more.
            let longest = if input.unchecked[0].is_multiple_of(16) { 70_000 } else { 3_000 };
            if length <= longest {
                let behind = (bytes(head)..length).map(|at| (at % 251).to_le_bytes()[0]);
                if matches!(offload, Offload::Segment(_)) {
                    assert_eq!(offload.fields().request, request);
                }
                carry_out(offload, head.iter().copied().chain(behind).collect());
            }
        }
        Err(reason) => assert!(matches!(reason, DropReason::BadOffload | DropReason::OffloadNotNegotiated)),
    }
    unchecked(&input, head, length);
}

/// Does what was asked for with a whole frame, and judges what comes of it.
pub(crate) fn carry_out(offload: Offload, mut frame: Vec<u8>) {
    match offload {
        Offload::None | Offload::Valid => {}
        Offload::Checksum(partial) => completes(partial, frame),
        Offload::Segment(segmentation) => {
            assert!(segmentation.segments(bytes(&frame)) <= MAX_SEGMENTS);
            let mut segments = cut(segmentation, &frame);
            // Headers are found behind two tags, no more.
            if let (Offload::Segment(moved), 0..=4) = (offload.moved(4), vlan_tags_bytes(&frame)) {
                frame.splice(12..12, TAG);
                for segment in &mut segments {
                    segment.splice(12..12, TAG);
                }
                assert_eq!(cut(moved, &frame), segments);
            }
        }
    }
}

/// The checksum changes, nothing else, and it is the right one.
fn completes(partial: PartialChecksum, mut frame: Vec<u8>) {
    let before = frame.clone();
    complete(&mut frame, partial);
    let field = partial.field()..partial.field() + 2;
    assert_eq!(before[..field.start], frame[..field.start]);
    assert_eq!(before[field.end..], frame[field.end..]);
    // What was in the field before belongs to the sum as well.
    let end = usize::try_from(partial.end(&frame, bytes(&frame))).expect("a frame's length");
    let mut sum = Sum::default();
    sum.add(&before[field]);
    sum.add(&frame[partial.start.into()..end]);
    assert_eq!(sum.checksum(), 0);
}

/// The first segments, each a packet that a receiver takes; all of them together have all of the payload.
fn cut(segmentation: Segmentation, frame: &[u8]) -> Vec<Vec<u8>> {
    let payload = &frame[segmentation.header_bytes.into()..];
    let mut segmenter = Segmenter::new(frame, segmentation, bytes(frame));
    let mut room = vec![0xaa; usize::try_from(segmentation.segment_bytes()).expect("a segment's length")];
    let (mut segments, mut done, mut count) = (Vec::new(), 0, 0);
    while let Some(segment) = segmenter.next(&mut room, |out| {
        out.copy_from_slice(&payload[done..done + out.len()]);
        done += out.len();
    }) {
        // There may be a thousand.
        if count < SEGMENTS_JUDGED || done == payload.len() {
            judge(segmentation, segment);
            segments.push(segment.to_vec());
        }
        count += 1;
    }
    assert_eq!(done, payload.len());
    assert_eq!(count, segmentation.segments(bytes(frame)));
    segments
}

fn judge(segmentation: Segmentation, segment: &[u8]) {
    let layers = Layers::parse(segment).expect("headers like those of the whole");
    assert_eq!(layers.version, segmentation.kind.version());
    assert_eq!(layers.protocol, segmentation.kind.protocol());
    let places = [layers.network, layers.transport, layers.header_bytes];
    assert_eq!(places, [segmentation.network, segmentation.transport, segmentation.header_bytes]);
    assert_eq!(layers.packet_end, Some(bytes(segment)));
    let ip = &segment[layers.network.into()..];
    let packet = &segment[layers.transport.into()..];
    let mut sum = Sum::of_pseudo_header(layers.version, ip, layers.protocol, bytes(packet)).expect("an IP header");
    sum.add(packet);
    assert_eq!(sum.checksum(), 0);
}

/// What no check has passed does no harm either.
fn unchecked(input: &Input<'_>, head: &[u8], length: u32) {
    let [network, transport, header_bytes, size] = input.unchecked;
    for kind in [SegmentKind::Tcp4, SegmentKind::Tcp6, SegmentKind::Udp4, SegmentKind::Udp6] {
        let segmentation = Segmentation {
            kind,
            ecn: false,
            size,
            network: network % 256,
            transport: transport % 256,
            header_bytes: header_bytes % 256,
        };
        let mut segmenter = Segmenter::new(head, segmentation, length);
        let mut room = [0; 512];
        for _ in 0..4 {
            segmenter.next(&mut room, |out| out.fill(7));
        }
        segmentation.set_pseudo_checksum(&mut head.to_vec(), length);
    }
    complete(&mut head.to_vec(), PartialChecksum { start: network, offset: transport });
    if let Some(found) = checksum_of(head, length) {
        completes(found, head.to_vec());
    }
}

fn allowed(bits: u8) -> Offloads {
    let all = [Offloads::CHECKSUM, Offloads::TSO4, Offloads::TSO6, Offloads::ECN, Offloads::USO4, Offloads::USO6];
    let chosen = all.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    chosen.fold(Offloads::NONE, |set, (_, one)| set | one)
}

fn bytes(frame: &[u8]) -> u32 {
    u32::try_from(frame.len()).expect("a short frame")
}
