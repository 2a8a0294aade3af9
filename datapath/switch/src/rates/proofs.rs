//! What frames are on a wire, and gates of two rates.

use culvert_frame::{SegmentKind, Segmentation};
use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_frame_counts_as_its_segments_do: 1_200,
    a_gate_lets_pass_what_both_of_its_rates_do: 86_000,
}

/// A frame that is to be cut counts as many frames and bytes as its segments have, taken off one by one, and any other as itself: sizes,
/// headers and lengths at edges.
fn a_frame_counts_as_its_segments_do(choices: &mut Choices) {
    let (size, header_bytes) = (choices.of(&[1_u16, 2, 536, 1448, u16::MAX]), choices.of(&[42_u16, 54, 74, 136]));
    let segmentation =
        Segmentation { kind: SegmentKind::Tcp4, ecn: false, size, network: 14, transport: 34, header_bytes };
    let payload = choices.number(0..=4_u32) * u32::from(size) + choices.number(0..=3);
    let length = (u32::from(header_bytes) + payload).saturating_sub(choices.of(&[0, 1, 40]));
    let mut left = length.saturating_sub(u32::from(header_bytes));
    let mut wire =
        Wire { bytes: u64::from(length.min(left + u32::from(header_bytes)).min(length)) - u64::from(left), frames: 0 };
    while wire.frames == 0 || left > 0 {
        let part = left.min(size.into());
        let headers = if wire.frames == 0 { 0 } else { u64::from(header_bytes) };
        wire = wire.and(Wire { bytes: headers + u64::from(part), frames: 1 });
        left -= part;
    }
    assert_eq!(Wire::of(Offload::Segment(segmentation), length), wire);
    for offload in [Offload::None, Offload::Valid, Offload::Checksum(segmentation.partial_checksum())] {
        assert_eq!(Wire::of(offload, length), Wire { bytes: length.into(), frames: 1 });
    }
}

/// Of three frames at one moment, each passes while something is left of both rates, and what is held back is told to wait if, and only if,
/// nothing is left: bytes and frames, each without a rate or with bursts of 0 to 2 frames, lengths at edges.
fn a_gate_lets_pass_what_both_of_its_rates_do(choices: &mut Choices) {
    let mut allowance = |unit: u64| {
        let burst = choices.of(&[None, Some(0), Some(1), Some(unit), Some(2 * unit)])?;
        Some(Allowance { per_second: choices.of(&[0, 1, 1000]), burst })
    };
    let rate = Rate { bytes: allowance(60), frames: allowance(2) };
    assert_eq!(rate.is_none(), rate.bytes.is_none() && rate.frames.is_none());
    let (gate, now) = (Gate::new(&rate), Duration::from_secs(3));
    let mut left = [rate.bytes, rate.frames].map(|rate| rate.map_or(i64::MAX, |rate| rate.burst.cast_signed()));
    let mut room = gate.room(now);
    for _ in 0..3 {
        let wire = Wire { bytes: choices.of(&[0, 59, 60, 61]), frames: choices.of(&[1, 3]) };
        let may = left.iter().all(|left| *left > 0);
        assert_eq!(room.is_empty(), !may);
        assert_eq!(room.take(wire), may);
        let hold = gate.hold(&rate, now);
        assert_eq!(hold.is_none(), may);
        assert!(hold.is_none_or(|hold| hold > Duration::ZERO && hold <= LONGEST_WAIT));
        if may {
            gate.spend(wire, now);
            left[0] = left[0].saturating_sub(if rate.bytes.is_some() { wire.bytes.cast_signed() } else { 0 });
            left[1] = left[1].saturating_sub(if rate.frames.is_some() { wire.frames.into() } else { 0 });
        }
    }
}
