//! Regions and addresses at edges; and memory of our own for the harnesses of rings.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    addresses_are_found_inside_of_one_region_alone: 32_000,
    what_is_found_leads_back: 400,
    overlaps_are_seen_wherever_they_are: 19_000,
}

/// Memory in the place of a guest's: Kani can have it, and it is made much sooner than a mapping.
#[derive(Debug)]
pub(crate) struct Ram {
    lines: Box<[Line]>,
}

#[derive(Debug, Default)]
#[repr(align(16))]
struct Line([AtomicU64; 2]);

impl Ram {
    /// So many times 16 bytes, all 0.
    pub(crate) fn new(lines: usize) -> Self {
        Self { lines: std::iter::repeat_with(Line::default).take(lines).collect() }
    }

    /// The first byte.
    pub(crate) fn host(&self) -> *mut u8 {
        // All of it is atomic, and may be written through what is borrowed.
        self.lines.as_ptr().cast::<u8>().cast_mut()
    }

    /// A table of one region, which is all of it. It must be dropped before this.
    pub(crate) fn memory(&self, guest: u64, user: u64) -> Arc<Memory> {
        let size = 16 * self.lines.len() as u64;
        Arc::new(Memory::of_spans(&[(guest, user, size, self.host())]))
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.lines[at / 16].0[at / 8 % 2]
    }

    /// Sets so many bytes of a number at a place, all of them in one word.
    pub(crate) fn put(&self, at: usize, bytes: usize, value: u64) {
        let shift = 8 * (at % 8);
        assert!(at % 8 + bytes <= 8, "it is in one word");
        let mask = u64::MAX >> (64 - 8 * bytes) << shift;
        let old = self.word(at).load(Ordering::Relaxed);
        self.word(at).store(old & !mask | value << shift & mask, Ordering::Relaxed);
    }

    /// Reads the same.
    pub(crate) fn get(&self, at: usize, bytes: usize) -> u64 {
        assert!(at % 8 + bytes <= 8, "it is in one word");
        self.word(at).load(Ordering::Relaxed) >> (8 * (at % 8)) & u64::MAX >> (64 - 8 * bytes)
    }
}

impl Memory {
    /// A table of regions that somebody else owns: guest address, user address, bytes, first byte.
    pub(crate) fn of_spans(regions: &[(u64, u64, u64, *mut u8)]) -> Self {
        let spans = |first: fn(&(u64, u64, u64, *mut u8)) -> u64| {
            let span = |region: &_| Span { first: first(region), last: first(region) + (region.2 - 1), host: region.3 };
            let mut spans: Vec<_> = regions.iter().map(span).collect();
            spans.sort_by_key(|span| span.first);
            spans.into()
        };
        Self { mappings: Box::new([]), by_guest: spans(|region| region.0), by_user: spans(|region| region.1) }
    }
}

/// A place that no region has in fact: it is reckoned with, and never looked at.
fn place(number: usize) -> *mut u8 {
    std::ptr::without_provenance_mut(number)
}

/// First addresses and lengths of regions that do not touch each other's addresses: up to three, at both ends of what there is.
const REGIONS: [(u64, u64); 5] =
    [(0, 1), (1, 0x1000), (0x1001, 2), (0x10_0000, u32::MAX as u64 + 5), (u64::MAX - 0x1000, 0x1000)];

/// Bytes are found where all of them lie in one region, at their distance from its first one, whichever region is tried first; a window
/// finds what its region has: up to three of five regions, addresses around all their ends, lengths at edges.
fn addresses_are_found_inside_of_one_region_alone(choices: &mut Choices) {
    let all: Vec<_> = REGIONS.into_iter().filter(|_| choices.flag()).take(3).collect();
    let regions: Vec<_> =
        (1..).zip(&all).map(|(number, &(first, size))| (first, first, size, place(number << 40))).collect();
    let memory = Memory::of_spans(&regions);
    let edges = [0, 1, 0x1001, 0x1003, 0x10_0000, 0x10_0004 + u64::from(u32::MAX), u64::MAX - 0x1000];
    let address = choices.of(&edges).wrapping_add(choices.number(0..=4)).wrapping_sub(2);
    let length = choices.of(&[0, 1, 2, 3, 0x0fff, 0x1000, 0x1001, u32::MAX - 1, u32::MAX]);
    let hint = choices.number(0..=3_usize);

    let is_in = |first: u64, size: u64| {
        let end = u128::from(first) + u128::from(size);
        first <= address && u128::from(address) < end && u128::from(address) + u128::from(length) <= end
    };
    let expected = regions.iter().position(|&(first, _, size, _)| is_in(first, size));
    let host = |index: usize| regions[index].3.addr() + usize::try_from(address - regions[index].0).unwrap();
    let mut tried = hint;
    let found = memory.guest_pointer(address, length, &mut tried);
    assert_eq!(found.map(|pointer| pointer.addr()), expected.map(host));
    assert_eq!(tried, expected.unwrap_or(hint));
    assert_eq!(memory.user_pointer(address, length.into()), found);
    let in_window = memory.window(hint).pointer(address, length);
    // Of no bytes at its very end a window says where they would be.
    if length > 0 {
        assert_eq!(in_window, found.filter(|_| expected == Some(hint)));
    }
}

/// The guest address of a byte that was found is the one that was asked for, and the end is behind all: all regions, each at its first and
/// last bytes.
fn what_is_found_leads_back(choices: &mut Choices) {
    let some: Vec<_> = REGIONS.into_iter().filter(|_| choices.flag()).collect();
    let regions: Vec<_> = (1..)
        .zip(&some)
        .map(|(number, &(first, size))| (first, 0x5000 + first / 2, size, place(number << 40)))
        .collect();
    let memory = Memory::of_spans(&regions);
    assert_eq!(memory.end(), some.last().map_or(0, |(first, size)| first + size));
    if some.is_empty() {
        return;
    }
    let (first, size) = choices.of(&some);
    let offset = choices.of(&[0, 1, 2, size / 2, size - 1]).min(size - 1);
    let pointer = memory.guest_pointer(first + offset, 1, &mut 0).unwrap();
    assert_eq!(memory.guest_address(pointer), Some(first + offset));
    assert_eq!(memory.guest_address(place(7 << 40)), None);
}

/// Of three regions two are refused where they share an address, and not where they only touch: first addresses 0 to 6 and at the far end,
/// 1 to 3 bytes, in any order.
fn overlaps_are_seen_wherever_they_are(choices: &mut Choices) {
    let mut one = || {
        let size = choices.number(1..=3_u64);
        let first = choices.of(&[0, 1, 2, 3, 4, 5, 6, u64::MAX - 3, u64::MAX - 2]);
        Span { first, last: first + (size - 1), host: place(0) }
    };
    let mut spans = [one(), one(), one()];
    let shares = |a: &Span, b: &Span| (a.first..=a.last).any(|address| (b.first..=b.last).contains(&address));
    let [a, b, c] = &spans;
    let expected = shares(a, b) || shares(a, c) || shares(b, c);
    spans.sort_by_key(|span| span.first);
    assert_eq!(overlap(&spans).is_some(), expected);
}
