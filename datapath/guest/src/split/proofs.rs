//! Indices that go around, and who is to be told.

use culvert_proofs::{Choices, proofs};

use super::*;
use crate::memory::proofs::Ram;

proofs! {
    an_available_index_is_believed_within_the_ring_alone: 900,
    used_entries_go_around_and_lie_where_the_driver_looks: 270,
    an_interrupt_is_due_when_the_index_that_is_waited_for_is_passed: 6_000,
}

/// Guest and user address of the memory.
pub(crate) const GUEST: u64 = 0x1_0000;
const USER: u64 = 0x7000;

/// Where things lie in the memory, for rings of up to 4: descriptors, available ring, used ring; then 128 bytes for all else.
const AVAILABLE: usize = 64;
const USED: usize = 80;
pub(crate) const DATA: usize = 128;

/// Positions from which indices go around soon, or change their sign.
const POSITIONS: [u16; 9] = [0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0xfffc, 0xfffe, 0xffff];

/// A driver's memory with its ring.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) ram: Ram,
    size: u16,
}

impl Place {
    pub(crate) fn new(size: u16) -> Self {
        Self { ram: Ram::new(16), size }
    }

    pub(crate) fn ring(&self, features: u64) -> Result<SplitRing, StartError> {
        let at = |offset: usize| USER + offset as u64;
        let layout = RingLayout { size: self.size, descriptors: at(0), available: at(AVAILABLE), used: at(USED) };
        SplitRing::new(self.ram.memory(GUEST, USER), &layout, features, Arc::default())
    }

    /// Writes a descriptor of the ring, or of a table that begins at the data.
    pub(crate) fn describe(&self, start: usize, index: usize, descriptor: Descriptor) {
        let Descriptor { address, length, flags, next } = descriptor;
        self.ram.put(start + 16 * index, 8, address);
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.ram.put(start + 16 * index + 8, 8, rest);
    }

    fn set_indices(&self, available: u16, used: u16) {
        self.ram.put(AVAILABLE + 2, 2, available.into());
        self.ram.put(USED + 2, 2, used.into());
    }
}

/// How many buffers are available is how far the driver's index is ahead, wherever numbers go around; one that is further ahead than the
/// ring is long, or went back, is a fault, and what was known stays: rings of 1, 2 and 4, from nine positions, every index from 3 behind to
/// 3 too far.
fn an_available_index_is_believed_within_the_ring_alone(choices: &mut Choices) {
    let (size, position) = (choices.of(&[1_u16, 2, 4]), choices.of(&POSITIONS));
    let place = Place::new(size);
    (0..size).for_each(|slot| place.ram.put(AVAILABLE + 4 + 2 * usize::from(slot), 2, u64::from(slot * 3 % 4)));
    let known = choices.number(0..=size + 1);
    place.set_indices(position.wrapping_add(known), position);
    let Ok(mut ring) = place.ring(0) else {
        assert!(known > size);
        return;
    };
    assert!(known <= size && ring.known(0) == known && ring.position() == position);
    // 3 is our position.
    let told = choices.number(0..=size + 6);
    place.set_indices(position.wrapping_add(told).wrapping_sub(3), position);
    let is_good = told >= 3 + known && told - 3 <= size;
    let refreshed = ring.refresh();
    assert_eq!(refreshed.is_ok(), is_good);
    assert_eq!(ring.known(0), if is_good { told - 3 } else { known });
    for ahead in 0..ring.known(0) {
        let slot = u16::try_from((u32::from(position) + u32::from(ahead)) % u32::from(size)).unwrap();
        let head = slot * 3 % 4;
        assert_eq!(ring.head(ahead).ok(), (head < size).then_some(head));
        assert_eq!(ring.offers(ahead).read().head, head);
        assert_eq!(ring.known(ahead + 1), ring.known(0) - ahead - 1);
    }
}

/// What was used lies in the slots from the position on, around the ring's end, in order; the index is behind it, and no other slot is
/// written: rings of 1, 2 and 4, from nine positions, all counts.
fn used_entries_go_around_and_lie_where_the_driver_looks(choices: &mut Choices) {
    let (size, position, count) = (choices.of(&[1_u16, 2, 4]), choices.of(&POSITIONS), choices.number(0..=4_u16));
    let count = count.min(size);
    let place = Place::new(size);
    (0..usize::from(size)).for_each(|slot| place.ram.put(USED + 4 + 8 * slot, 4, 0xeeee));
    place.set_indices(position.wrapping_add(count), position);
    let mut ring = place.ring(0).unwrap();
    let at_once = choices.flag();
    let mut entries = ring.used_entries(0);
    for ahead in 0..count {
        let length = 100 + u32::from(ahead);
        if at_once { entries.put(7 + ahead, length) } else { ring.put_used(ahead, 7 + ahead, length) }
    }
    ring.publish(count);
    assert_eq!((ring.position(), ring.known(0)), (position.wrapping_add(count), 0));
    assert_eq!(place.ram.get(USED + 2, 2), u64::from(position.wrapping_add(count)));
    let mut slots = vec![(0xeeee, 0); usize::from(size)];
    for ahead in 0..u64::from(count) {
        slots[usize::try_from((u64::from(position) + ahead) % u64::from(size)).unwrap()] = (7 + ahead, 100 + ahead);
    }
    let at = |slot: usize| (place.ram.get(USED + 4 + 8 * slot, 4), place.ram.get(USED + 8 + 8 * slot, 4));
    assert_eq!((0..usize::from(size)).map(at).collect::<Vec<_>>(), slots);
}

/// With EVENT_IDX the guest is interrupted when, and only when, an entry of the index that it waits for was published; without, unless its
/// flag says no (virtio 1.3, 2.7.7): rings of 1, 2 and 4, from nine positions, all counts, indices from 3 behind to 3 ahead and far away.
fn an_interrupt_is_due_when_the_index_that_is_waited_for_is_passed(choices: &mut Choices) {
    let (size, position, count) = (choices.of(&[1_u16, 2, 4]), choices.of(&POSITIONS), choices.number(1..=4_u16));
    let count = count.min(size);
    let (has_event, flag) = (choices.flag(), choices.number(0..=1_u64));
    let place = Place::new(size);
    place.set_indices(position.wrapping_add(count), position);
    let event =
        position.wrapping_sub(3).wrapping_add(choices.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x4000, 0x8000, 0xc000]));
    place.ram.put(AVAILABLE + 4 + 2 * usize::from(size), 2, event.into());
    place.ram.put(AVAILABLE, 2, flag);
    let mut ring = place.ring(if has_event { features::EVENT_IDX } else { 0 }).unwrap();
    let old = ring.publish_index(count);
    let is_passed = (0..count).any(|ahead| position.wrapping_add(ahead) == event);
    assert_eq!(ring.wants_interrupt(old), if has_event { is_passed } else { flag == 0 });
}
