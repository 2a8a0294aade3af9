//! Chains of all shapes in small rings: walks end, and find what a plain reading of virtio finds.

use culvert_proofs::{Choices, proofs};

use super::*;
use crate::features;
use crate::split::proofs::{DATA, GUEST, Place};

proofs! {
    a_walk_over_two_descriptors_finds_their_buffers_or_the_fault: 7_700,
    a_walk_over_four_descriptors_ends: 5_100,
    a_walk_over_an_indirect_table_ends: 15_000,
}

/// The buffers of a chain, read step by step: at most as many as the ring has entries.
type Found = Result<Vec<(u64, u32)>, RingFault>;

/// What a descriptor alone amounts to.
fn add(found: &mut Vec<(u64, u32)>, descriptor: Descriptor, access: Access) -> Result<(), RingFault> {
    let Descriptor { address, length, flags, .. } = descriptor;
    if (flags & DESC_WRITE > 0) == (access == Access::Read) {
        return Err(RingFault::Direction(address));
    }
    if length > 0 {
        if address < GUEST || address + u64::from(length) > GUEST + 256 {
            return Err(RingFault::Address { address, length });
        }
        found.push((address, length));
    }
    Ok(())
}

/// Follows `next` through a table from `index` on, for at most `most` steps.
fn follow(
    table: &[Descriptor],
    mut index: u16,
    most: u16,
    size: u16,
    access: Access,
    found: &mut Vec<(u64, u32)>,
) -> Result<(), RingFault> {
    for _ in 0..most {
        let table_size = u16::try_from(table.len()).unwrap();
        let descriptor =
            *table.get(usize::from(index)).ok_or(RingFault::DescriptorIndex { index, size: table_size })?;
        add(found, descriptor, access)?;
        if descriptor.flags & DESC_NEXT == 0 {
            return Ok(());
        }
        index = descriptor.next;
    }
    // One step more would be too many, unless it leads nowhere.
    match table.get(usize::from(index)) {
        None => Err(RingFault::DescriptorIndex { index, size: u16::try_from(table.len()).unwrap() }),
        Some(_) => Err(RingFault::ChainTooLong(size)),
    }
}

/// What a walk finds.
fn walked(place: &Place, head: u16, access: Access, features: u64) -> Found {
    let ring = place.ring(features).unwrap();
    let mut found = Vec::new();
    let first = place.ram.host();
    let count = walk(&ring, head, access, &mut 0, |buffer| {
        let offset = u64::try_from(buffer.pointer.addr() - first.addr()).unwrap();
        found.push((GUEST + offset, buffer.length));
    })?;
    assert!(found.len() <= usize::from(count) && count <= ring.size());
    Ok(found)
}

/// A walk finds the buffers that the chain has, or the first fault: a ring of 2, all flags but INDIRECT, all links, buffers inside and
/// outside of the memory and empty ones, either direction, all heads.
fn a_walk_over_two_descriptors_finds_their_buffers_or_the_fault(choices: &mut Choices) {
    let place = Place::new(2);
    let mut one = || Descriptor {
        address: 0,
        length: 0,
        flags: choices.of(&[0, DESC_NEXT, DESC_WRITE, DESC_NEXT | DESC_WRITE]),
        next: choices.number(0..=2),
    };
    let mut table = [one(), one()];
    for (index, descriptor) in table.iter_mut().enumerate() {
        (descriptor.address, descriptor.length) =
            choices.of(&[(GUEST + DATA as u64, 128), (GUEST + 250, 7), (u64::MAX, 0)]);
        place.describe(0, index, *descriptor);
    }
    let (head, access) = (choices.number(0..=2), choices.of(&[Access::Read, Access::Write]));
    let mut found = Vec::new();
    let expected = follow(&table, head, 2, 2, access, &mut found).map(|()| found);
    assert_eq!(walked(&place, head, access, 0), expected);
}

/// However the descriptors of a ring of 4 lead to each other, a walk from any of them ends.
fn a_walk_over_four_descriptors_ends(choices: &mut Choices) {
    let place = Place::new(4);
    let mut one = |index: u64| {
        let (flags, next) =
            choices.of(&[(0, 0), (DESC_NEXT, 0), (DESC_NEXT, 1), (DESC_NEXT, 2), (DESC_NEXT, 3), (DESC_NEXT, 4)]);
        Descriptor { address: GUEST + DATA as u64 + index, length: 1, flags, next }
    };
    let table = [one(0), one(1), one(2), one(3)];
    table.iter().enumerate().for_each(|(index, descriptor)| place.describe(0, index, *descriptor));
    let head = choices.number(0..=3);
    let mut found = Vec::new();
    let expected = follow(&table, head, 4, 4, Access::Read, &mut found).map(|()| found);
    assert_eq!(walked(&place, head, Access::Read, 0), expected);
}

/// A table is read where it was negotiated, is the chain's last descriptor, is aligned, inside of the memory, whole and no longer than the
/// ring; then a walk ends in it as in a ring, and a table within it is a fault: a ring of 2, with and without a buffer before the table,
/// tables of up to 3.
fn a_walk_over_an_indirect_table_ends(choices: &mut Choices) {
    let place = Place::new(2);
    let data = GUEST + DATA as u64;
    let buffer = |flags, next| Descriptor { address: data + 100, length: 8, flags, next };
    let from = Descriptor {
        address: choices.of(&[data, data + 8, data + 4, GUEST + 240, 0]),
        length: choices.of(&[0, 16, 32, 48, 24]),
        flags: DESC_INDIRECT | choices.of(&[0, DESC_NEXT, DESC_WRITE]),
        next: 0,
    };
    let is_negotiated = choices.number(0..=3_u8) > 0;
    let is_first = choices.flag();
    let mut entry = || {
        let (flags, next) = choices.of(&[(0, 0), (DESC_NEXT, 0), (DESC_NEXT, 1), (DESC_NEXT, 2), (DESC_INDIRECT, 0)]);
        buffer(flags, next)
    };
    // Where the table is, if it may be there.
    let table = [entry(), entry(), buffer(0, 0)];
    let start = if from.address == data + 8 { DATA + 8 } else { DATA };
    table.iter().enumerate().for_each(|(index, descriptor)| place.describe(start, index, *descriptor));
    place.describe(0, 0, if is_first { from } else { buffer(DESC_NEXT, 1) });
    place.describe(0, 1, from);

    let expected = || {
        let mut found = Vec::new();
        let before = u16::from(!is_first);
        if before > 0 {
            add(&mut found, buffer(DESC_NEXT, 1), Access::Read)?;
        }
        let Descriptor { address, length, flags, .. } = from;
        let entries = length / 16;
        if !is_negotiated
            || flags & DESC_NEXT > 0
            || entries == 0
            || entries * 16 != length
            || entries > 2
            || !address.is_multiple_of(8)
        {
            return Err(RingFault::Indirect { address, length });
        }
        if address == 0 || address + u64::from(length) > GUEST + 256 {
            return Err(RingFault::Address { address, length });
        }
        // There is nothing at the end of the memory: an empty descriptor ends the chain.
        let empty = Descriptor::default();
        let there =
            if address == GUEST + 240 { vec![empty] } else { table[..usize::try_from(entries).unwrap()].to_vec() };
        // A table in it counts where it is come to.
        let (mut index, mut left) = (0, 2 - before);
        loop {
            let Some(descriptor) = there.get(usize::from(index)) else {
                return Err(RingFault::DescriptorIndex { index, size: u16::try_from(entries).unwrap() });
            };
            if descriptor.flags & DESC_INDIRECT > 0 {
                return Err(RingFault::Indirect { address: descriptor.address, length: descriptor.length });
            }
            if left == 0 {
                return Err(RingFault::ChainTooLong(2));
            }
            left -= 1;
            add(&mut found, *descriptor, Access::Read)?;
            if descriptor.flags & DESC_NEXT == 0 {
                return Ok(found);
            }
            index = descriptor.next;
        }
    };
    let features = if is_negotiated { features::INDIRECT_DESC } else { 0 };
    assert_eq!(walked(&place, 0, Access::Read, features), expected());
}
