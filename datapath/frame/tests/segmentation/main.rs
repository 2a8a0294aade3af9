//! Segmentation in software, judged by others: a plain segmenter on etherparse ([`reference`]), and tshark. Whole
//! frames, of all kinds that are to be segmented, are made by [`sample`].
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

mod reference;
mod sample;
mod tshark;

use culvert_frame::checksum::complete;
use culvert_frame::layers::MAX_HEADER_BYTES;
use culvert_frame::{Layers, Offload, Offloads, Segmenter};
use proptest::prelude::*;
use sample::Sample;

/// As [`Offload::check`] and [`Segmenter`] cut it.
fn cut(sample: &Sample) -> Vec<Vec<u8>> {
    let frame = sample.frame();
    let offload = Offload::check(sample.request(), Offloads::ALL, head(&frame), length(&frame)).unwrap();
    cut_as(offload, frame)
}

fn head(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(MAX_HEADER_BYTES)]
}

fn length(frame: &[u8]) -> u32 {
    u32::try_from(frame.len()).unwrap()
}

/// The payload is taken as if it lay in buffers of 1000 bytes.
fn cut_as(offload: Offload, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let segmentation = match offload {
        Offload::Segment(segmentation) => segmentation,
        Offload::Checksum(partial) => {
            complete(&mut frame, partial);
            return vec![frame];
        }
        Offload::None | Offload::Valid => panic!("{offload:?}"),
    };
    let mut payload = frame[usize::from(segmentation.header_bytes)..].chunks(1000).flatten();
    let mut segmenter = Segmenter::new(head(&frame), segmentation, length(&frame));
    let mut out = vec![0xaa; usize::try_from(segmentation.segment_bytes()).unwrap()];
    let mut segments = Vec::new();
    while let Some(segment) = segmenter.next(&mut out, |room| {
        for byte in room {
            *byte = *payload.next().unwrap();
        }
    }) {
        segments.push(segment.to_vec());
    }
    assert_eq!(segments.len(), usize::try_from(segmentation.segments(length(&frame))).unwrap());
    segments
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn segments_are_those_of_the_reference(sample in Sample::any()) {
        prop_assert_eq!(cut(&sample), reference::cut(&sample.frame(), usize::from(sample.size)));
    }

    #[test]
    fn layers_are_where_the_headers_were_put(sample in Sample::any()) {
        let frame = sample.frame();
        let layers = Layers::parse(head(&frame)).unwrap();
        prop_assert_eq!(usize::from(layers.network), sample.network());
        prop_assert_eq!(usize::from(layers.transport), sample.transport());
        prop_assert_eq!(usize::from(layers.header_bytes), frame.len() - sample.payload_bytes);
        prop_assert_eq!(usize::try_from(layers.packet_end.unwrap()).unwrap(), frame.len());
    }

    /// A tag can be pushed onto the frame, which moves its offload, or onto each segment.
    #[test]
    fn a_tag_may_be_pushed_before_or_after(sample in Sample::any()) {
        let tag = [0x88, 0xa8, 0, 7];
        let mut frame = sample.frame();
        let offload = Offload::check(sample.request(), Offloads::ALL, head(&frame), length(&frame)).unwrap();
        frame.splice(12..12, tag);
        let mut after = cut(&sample);
        for segment in &mut after {
            segment.splice(12..12, tag);
        }
        prop_assert_eq!(cut_as(offload.moved(4), frame), after);
    }
}
