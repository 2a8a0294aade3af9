//! Rings at all places around the ends of small regions.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    areas_of_split_rings_are_aligned_and_inside: 5_700,
    areas_of_packed_rings_are_aligned_and_inside: 5_700,
}

/// Two regions of user addresses that touch each other; the second may begin at an odd place of its file.
const FIRST: u64 = 0x1000;
const BORDER: u64 = 0x1200;
const END: u64 = 0x1300;

/// A split ring is taken where its size is a power of two up to 1,024 and each area is aligned, in its addresses and in its file, and lies
/// in one region: one area around all ends of two regions, the others where they fit.
fn areas_of_split_rings_are_aligned_and_inside(choices: &mut Choices) {
    let size = choices.of(&[0_u16, 1, 2, 3, 4, 8, 1024, 2048]);
    let count = u64::from(size);
    check(choices, size, 0, [(16, 16 * count), (2, 6 + 2 * count), (4, 6 + 8 * count)]);
}

/// The same for packed rings.
fn areas_of_packed_rings_are_aligned_and_inside(choices: &mut Choices) {
    let size = choices.of(&[0_u16, 1, 2, 3, 4, 8, 1024, 2048]);
    check(choices, size, features::RING_PACKED, [(16, 16 * u64::from(size)), (4, 4), (4, 4)]);
}

/// Alignment and length of each area.
fn check(choices: &mut Choices, size: u16, features: u64, areas: [(u64, u64); 3]) {
    let skew = choices.of(&[0_u64, 1, 2, 8]);
    // Places that are never looked at.
    let host = |number: u64| std::ptr::without_provenance_mut(usize::try_from(number).unwrap());
    let regions = [(0, FIRST, BORDER - FIRST, host(1 << 20)), (BORDER, BORDER, END - BORDER, host((2 << 20) + skew))];
    let memory = Memory::of_spans(&regions);
    let mut places = [FIRST, FIRST + 0x100, FIRST + 0x180];
    let moved = choices.below(3);
    let length = areas[moved].1;
    let edge = choices.of(&[FIRST, BORDER.saturating_sub(length), BORDER, END.saturating_sub(length), u64::MAX - 16]);
    places[moved] = edge.wrapping_add(choices.of(&[0, 1, 2, 4, 8, 16])).wrapping_sub(choices.of(&[0, 16]));
    let [descriptors, available, used] = places;

    let fits = |(address, (align, length)): (u64, (u64, u64))| {
        let inside = |first: u64, end: u64| {
            first <= address && address < end && u128::from(address) + u128::from(length) <= u128::from(end)
        };
        let in_second = inside(BORDER, END) && (address - BORDER + skew).is_multiple_of(align);
        address.is_multiple_of(align) && (inside(FIRST, BORDER) || in_second)
    };
    let expected = [1, 2, 4, 8, 1024].contains(&size) && places.into_iter().zip(areas).all(fits);
    let layout = RingLayout { size, descriptors, available, used };
    assert_eq!(layout.check(&memory, features).is_ok(), expected, "{layout:x?} {skew}");
}
