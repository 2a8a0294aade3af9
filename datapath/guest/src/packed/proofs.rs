//! Places that go around, and what a small packed ring has on offer.

use culvert_proofs::{Choices, proofs};

use super::*;
use crate::memory::proofs::Ram;

proofs! {
    places_go_around_as_numbers_do: 1_900,
    what_is_on_offer_is_counted: 870,
    what_somebody_else_has_used_is_passed_over: 800,
    an_interrupt_is_due_when_the_place_that_is_waited_for_is_passed: 2_300,
    entries_keep_what_they_are_of: 430,
}

/// Guest and user address of the memory.
pub(crate) const GUEST: u64 = 0x1_0000;
const USER: u64 = 0x7000;

/// Where things lie in the memory, for rings of up to 8: descriptors, the driver's event area, the device's; then 112 bytes for all else.
const DRIVER: usize = 128;
const DEVICE: usize = 132;
pub(crate) const DATA: usize = 144;

/// The memory has 256 bytes.
pub(crate) const END: u64 = GUEST + 256;

/// A ring that stands at a place, in the lap of that wrap counter, with nothing on offer.
pub(crate) struct Stand {
    pub(crate) ring: PackedRing,
    pub(crate) ram: Ram,
    pub(crate) size: u16,
}

impl Stand {
    /// Rings of these sizes, at each of their places in either lap.
    pub(crate) fn any(choices: &mut Choices, sizes: &[u16], features: u64) -> Self {
        let size = choices.of(sizes);
        let (index, wrap) = (choices.number(0..=size - 1), choices.flag());
        let ram = Ram::new(16);
        let at = |offset: usize| USER + offset as u64;
        let layout = RingLayout { size, descriptors: at(0), available: at(DRIVER), used: at(DEVICE) };
        let start = PackedStart { record: Record::own(), told: Some(FIRST_POSITION) };
        let memory = ram.memory(GUEST, USER);
        let mut ring = PackedRing::new(memory, &layout, features, Arc::default(), start).unwrap();
        ring.position = Place::of(index | if wrap { WRAP } else { 0 }, size);
        ring.next = ring.position;
        let stand = Self { ring, ram, size };
        // What was used in the lap before, and in this one.
        (0..size).for_each(|ahead| stand.flag(ahead, stand.used_before(ahead)));
        stand
    }

    /// The slot and the wrap counter of the place so far ahead, reckoned without [`Place`].
    fn at(&self, ahead: u16) -> (u16, bool) {
        let position = self.ring.position();
        let (index, wrap) = (position & !WRAP, position & WRAP > 0);
        let is_around = (index + ahead) / self.size % 2 == 1;
        ((index + ahead) % self.size, wrap != is_around)
    }

    /// Flags of a descriptor that is on offer there.
    pub(crate) fn offered(&self, ahead: u16) -> u16 {
        if self.at(ahead).1 { AVAIL } else { USED }
    }

    /// Flags of one that was used there, a lap ago.
    pub(crate) fn used_before(&self, ahead: u16) -> u16 {
        if self.at(ahead).1 { 0 } else { AVAIL | USED }
    }

    fn used(&self, ahead: u16) -> u16 {
        if self.at(ahead).1 { AVAIL | USED } else { 0 }
    }

    fn flag(&self, ahead: u16, flags: u16) {
        self.ram.put(16 * usize::from(self.at(ahead).0) + 14, 2, flags.into());
    }

    /// Writes a descriptor so far ahead.
    pub(crate) fn describe(&self, ahead: u16, descriptor: Descriptor) {
        self.write(16 * usize::from(self.at(ahead).0), descriptor);
    }

    /// Writes a descriptor anywhere.
    pub(crate) fn write(&self, at: usize, Descriptor { address, length, id, flags }: Descriptor) {
        self.ram.put(at, 8, address);
        self.ram.put(at + 8, 8, u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48);
    }
}

/// A place so many descriptors on has the index and the lap that counting says, and flags of it are those of virtio 1.3, 2.8.1: five sizes,
/// places at both ends of either lap, twice any of eight distances.
fn places_go_around_as_numbers_do(choices: &mut Choices) {
    let size = choices.of(&[1_u16, 2, 4, 8, 1024]);
    let (index, wrap) = (choices.of(&[0, size - 1, size / 2]), choices.flag());
    let position = index | if wrap { WRAP } else { 0 };
    let start = Place::of(position, size);
    assert_eq!((start.index(size), start.wrap(size), start.position(size)), (index, wrap, position));
    let mut step = || choices.of(&[0, 1, size - 1, size, size + 1, 2 * size, 0x7fff, 0xffff]);
    let (one, two) = (step(), step());
    let place = start.ahead(one).ahead(two);
    let count = u32::from(index) + u32::from(one) + u32::from(two);
    let is_wrapped = wrap == (count / u32::from(size)).is_multiple_of(2);
    assert_eq!((u32::from(place.index(size)), place.wrap(size)), (count % u32::from(size), is_wrapped));
    let bits = |flags: u16| (flags & AVAIL > 0, flags & USED > 0, flags & !(AVAIL | USED));
    assert_eq!(bits(place.offered(size)), (is_wrapped, !is_wrapped, 0));
    assert_eq!(bits(place.used(size)), (is_wrapped, is_wrapped, 0));
}

/// As many as lie in a row behind those that are held are on offer, however they are counted: rings of 1, 2, 4 and 8 at each of their
/// places, all numbers of held and of offered ones.
fn what_is_on_offer_is_counted(choices: &mut Choices) {
    let mut stand = Stand::any(choices, &[1, 2, 4, 8], 0);
    let held = choices.number(0..=stand.size);
    let count = choices.number(0..=stand.size - held);
    (0..held + count).for_each(|ahead| stand.flag(ahead, stand.offered(ahead)));
    (0..held).for_each(|id| stand.ring.take(id, 1, 0));
    assert_eq!((stand.ring.held(), stand.ring.taken(), stand.ring.offered()), (held, held, count));
    for more in 0..=stand.size {
        assert_eq!(stand.ring.offers_more_than(more), more < count);
        let mut room = vec![Descriptor::default(); usize::from(more)];
        assert_eq!(stand.ring.read_offers(&mut room), Ok(usize::from(more.min(count))));
    }
    let next = stand.ring.next();
    assert_eq!(stand.ring.look(next, held).unwrap().is_some(), count > 0);
    // And what is left is there as before.
    stand.ring.leave(held / 2);
    assert_eq!((stand.ring.held(), stand.ring.offered()), (held / 2, held - held / 2 + count));
}

/// A ring goes on behind what was used in its place, and stays where nothing was, or something is held: the same rings, all numbers of used
/// and of offered ones.
fn what_somebody_else_has_used_is_passed_over(choices: &mut Choices) {
    let mut stand = Stand::any(choices, &[1, 2, 4, 8], 0);
    let count = choices.number(0..=stand.size);
    (0..count).for_each(|ahead| stand.flag(ahead, stand.used(ahead)));
    (count..stand.size).take(choices.below(2)).for_each(|ahead| stand.flag(ahead, stand.offered(ahead)));
    let (slot, wrap) = stand.at(count);
    let before = stand.ring.position();
    let is_held = choices.flag();
    if is_held {
        stand.ring.take(0, 1, 0);
    }
    assert_eq!(stand.ring.pass_over_used(), count > 0 && !is_held);
    let expected = if is_held { before } else { slot | if wrap { WRAP } else { 0 } };
    assert_eq!(stand.ring.position(), expected);
}

/// With EVENT_IDX the guest is interrupted when, and only when, the place that it waits for was published; its flags else say always or
/// never (virtio 1.3, 2.8.10): rings of 1, 2 and 4 at each of their places, all counts, flags and places.
fn an_interrupt_is_due_when_the_place_that_is_waited_for_is_passed(choices: &mut Choices) {
    let has_event = choices.flag();
    let mut stand = Stand::any(choices, &[1, 2, 4], if has_event { features::EVENT_IDX } else { 0 });
    let count = choices.number(1..=stand.size);
    let (index, wrap, flags) = (choices.number(0..=stand.size - 1), choices.flag(), choices.number(0..=3_u16));
    let event = index | if wrap { WRAP } else { 0 };
    stand.ram.put(DRIVER, 4, u64::from(event) | u64::from(flags) << 16);
    let is_passed = (0..count).any(|ahead| stand.at(ahead) == (index, wrap));
    let old = stand.ring.position;
    (0..count).for_each(|id| stand.ring.take(id, 1, 0));
    stand.ring.publish_used();
    let expected = match flags {
        EVENT_DISABLE => false,
        EVENT_AT if has_event => is_passed,
        _ => true,
    };
    assert_eq!(stand.ring.wants_interrupt(old), expected);
}

/// An entry of what is published gives back length, name and number of descriptors, and the used descriptor has the first two, whose it is,
/// and WRITE where something was written: numbers at edges.
fn entries_keep_what_they_are_of(choices: &mut Choices) {
    let length = choices.of(&[0, 1, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX]);
    let mut number = || choices.of(&[0, 1, 0x80, 0x7fff, 0x8000, u16::MAX]);
    let (id, entries) = (number(), number());
    let entry = Entry::new(length, id, entries);
    assert_eq!((entry.length(), entry.entries()), (length, entries));
    let owner = choices.of(&[0, AVAIL | USED]);
    let used = entry.used(owner).to_le_bytes();
    assert_eq!(u32::from_le_bytes(*used.first_chunk().unwrap()), length);
    assert_eq!(u16::from_le_bytes([used[4], used[5]]), id);
    assert_eq!(u16::from_le_bytes([used[6], used[7]]), owner | if length > 0 { DESC_WRITE } else { 0 });
}
