//! Buffers of all shapes in small packed rings: walks end, and find what a plain reading of virtio finds.

use culvert_proofs::{Choices, proofs};

use super::*;
use crate::features;
use crate::packed::proofs::{DATA, END, GUEST, Stand};

proofs! {
    a_walk_over_a_packed_ring_finds_its_buffers_or_the_fault: 2_300,
    a_walk_over_a_packed_ring_ends_at_what_is_held: 1_400,
    a_walk_over_a_table_of_a_packed_ring_ends: 14_000,
}

/// Buffers, the name, and how many descriptors they have in the ring.
type Found = Result<(Vec<(u64, u32)>, u16, u16), RingFault>;

fn add(found: &mut Vec<(u64, u32)>, descriptor: Descriptor, access: Access) -> Result<(), RingFault> {
    let Descriptor { address, length, flags, .. } = descriptor;
    if (flags & DESC_WRITE > 0) == (access == Access::Read) {
        return Err(RingFault::Direction(address));
    }
    if length > 0 {
        if address < GUEST || address + u64::from(length) > END {
            return Err(RingFault::Address { address, length });
        }
        found.push((address, length));
    }
    Ok(())
}

/// Reads descriptor by descriptor from the one behind those that are held; `offered` tells which are on offer.
fn follow(stand: &Stand, table: &[(Descriptor, bool)], held: u16, access: Access) -> Found {
    let mut found = Vec::new();
    for (count, ahead) in (1..).zip(held..stand.size) {
        let (descriptor, is_offered) = table[usize::from(ahead)];
        if !is_offered {
            let slot = (stand.ring.position() & 0x7fff) + ahead;
            return Err(RingFault::Unavailable(slot % stand.size));
        }
        add(&mut found, descriptor, access)?;
        if descriptor.flags & DESC_NEXT == 0 {
            return Ok((found, descriptor.id, count));
        }
    }
    Err(RingFault::ChainTooLong(stand.size))
}

/// What a walk finds behind those that are held.
fn walked(stand: &Stand, held: u16, access: Access) -> Found {
    let at = stand.ring.next().ahead(held);
    let first = stand.ring.descriptor(at);
    let mut found = Vec::new();
    let walked = walk(&stand.ring, at, held, first, access, &mut 0, |buffer| {
        let offset = u64::try_from(buffer.pointer.addr() - stand.ram.host().addr()).unwrap();
        found.push((GUEST + offset, buffer.length));
    })?;
    assert!(found.len() <= usize::from(walked.buffers) && walked.buffers <= stand.size);
    Ok((found, walked.id, walked.entries))
}

/// A walk finds the buffers that a chain has, or the first fault: a ring of 2 at each of its places, all flags but INDIRECT, descriptors
/// that are on offer and others, buffers inside and outside of the memory and empty ones, either direction.
fn a_walk_over_a_packed_ring_finds_its_buffers_or_the_fault(choices: &mut Choices) {
    let stand = Stand::any(choices, &[2], 0);
    let mut table = Vec::new();
    for ahead in 0..2 {
        let (address, length) = choices.of(&[(GUEST + DATA as u64, 112), (END - 6, 7), (u64::MAX, 0)]);
        let flags = choices.of(&[0, DESC_NEXT, DESC_WRITE, DESC_NEXT | DESC_WRITE]);
        // A walk begins at one that is.
        let is_offered = ahead == 0 || choices.flag();
        let owner = if is_offered { stand.offered(ahead) } else { stand.used_before(ahead) };
        let descriptor = Descriptor { address, length, id: 40 + ahead, flags: flags | owner };
        stand.describe(ahead, descriptor);
        table.push((descriptor, is_offered));
    }
    let access = choices.of(&[Access::Read, Access::Write]);
    assert_eq!(walked(&stand, 0, access), follow(&stand, &table, 0, access));
}

/// A walk never goes over what is held: rings of 2 and 4 at each of their places, all numbers of held descriptors, all chains.
fn a_walk_over_a_packed_ring_ends_at_what_is_held(choices: &mut Choices) {
    let stand = Stand::any(choices, &[2, 4], 0);
    let held = choices.number(0..=stand.size - 1);
    let mut table = Vec::new();
    for ahead in 0..stand.size {
        // What is held looks as if it went on.
        let (flags, is_offered) = if ahead < held {
            (DESC_NEXT, true)
        } else {
            (choices.of(&[0, DESC_NEXT]), ahead == held || choices.flag())
        };
        let owner = if is_offered { stand.offered(ahead) } else { stand.used_before(ahead) };
        let descriptor =
            Descriptor { address: GUEST + u64::from(ahead), length: 1, id: 40 + ahead, flags: flags | owner };
        stand.describe(ahead, descriptor);
        table.push((descriptor, is_offered));
    }
    assert_eq!(walked(&stand, held, Access::Read), follow(&stand, &table, held, Access::Read));
}

/// A table is read where it was negotiated, is the chain's last descriptor, is aligned, inside of the memory, whole and, with what was
/// before it, no longer than the ring; a table within it is a fault: a ring of 2, with and without a buffer before the table, tables of up
/// to 3.
fn a_walk_over_a_table_of_a_packed_ring_ends(choices: &mut Choices) {
    let is_negotiated = choices.number(0..=2_u8) > 0;
    let stand = Stand::any(choices, &[2], if is_negotiated { features::INDIRECT_DESC } else { 0 });
    let data = GUEST + DATA as u64;
    let address = choices.of(&[data, data + 8, data + 4, END - 16, END - 8]);
    let length = choices.of(&[0, 16, 32, 48, 24]);
    let is_last = choices.number(0..=2_u8) > 0;
    let before = u16::from(choices.flag());
    let buffer = |flags| Descriptor { address: data + 100, length: 8, id: 9, flags };
    let table = [
        buffer(choices.of(&[0, DESC_NEXT, DESC_WRITE, DESC_INDIRECT])),
        buffer(choices.of(&[0, DESC_INDIRECT])),
        buffer(0),
    ];
    let start = if address == data + 8 { DATA + 8 } else { DATA };
    table.iter().enumerate().for_each(|(index, descriptor)| stand.write(start + 16 * index, *descriptor));
    let next = if is_last { 0 } else { DESC_NEXT };
    if before > 0 {
        stand.describe(0, buffer(DESC_NEXT | stand.offered(0)));
    }
    stand.describe(before, Descriptor { address, length, id: 7, flags: DESC_INDIRECT | next | stand.offered(before) });

    let expected = || {
        let mut found = Vec::new();
        if before > 0 {
            add(&mut found, buffer(0), Access::Read)?;
        }
        let entries = usize::try_from(length / 16).unwrap();
        if !is_negotiated
            || !is_last
            || entries == 0
            || !length.is_multiple_of(16)
            || entries > 2
            || !address.is_multiple_of(8)
        {
            return Err(RingFault::Indirect { address, length });
        }
        if address + u64::from(length) > END {
            return Err(RingFault::Address { address, length });
        }
        if entries + usize::from(before) > 2 {
            return Err(RingFault::ChainTooLong(2));
        }
        // There is nothing at the end of the memory.
        for descriptor in table.iter().take(if address >= END - 16 { 0 } else { entries }) {
            if descriptor.flags & DESC_INDIRECT > 0 {
                return Err(RingFault::Indirect { address: descriptor.address, length: descriptor.length });
            }
            // What may be written may be read.
            add(&mut found, Descriptor { flags: 0, ..*descriptor }, Access::Read)?;
        }
        Ok((found, 7, before + 1))
    };
    assert_eq!(walked(&stand, 0, Access::Read), expected());
}
