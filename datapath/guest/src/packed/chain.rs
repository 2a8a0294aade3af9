//! Checked walks over the descriptors of one buffer in a packed ring (virtio 1.3, sections 2.8.6 and 2.8.7).
//!
//! As [`crate::chain`] for split rings: each descriptor is read once and translated with its direction checked; a walk ends after at most
//! as many descriptors as the ring has entries, whatever the guest writes meanwhile.

#![expect(unsafe_code, reason = "reading an indirect descriptor table in guest memory")]

use super::{Descriptor, PackedRing, Place, read_descriptor};
use crate::chain::{Access, Buffer};
use crate::split::{DESC_BYTES, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, RingFault};

/// What a walk has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    /// The driver's name for the buffer.
    pub(crate) id: u16,
    /// Its descriptors in the ring.
    pub(crate) entries: u16,
    /// Its descriptors that are buffers, wherever they are; of length 0 or not.
    pub(crate) buffers: u16,
}

/// Calls `each` with every descriptor of the buffer that begins at `at` with `first`, in order, those of length 0 left out. `held`
/// descriptors lie between the ring's position and it.
///
/// # Errors
/// The first fault; `each` has seen what came before it.
pub(crate) fn walk(
    ring: &PackedRing,
    at: Place,
    held: u16,
    first: Descriptor,
    access: Access,
    hint: &mut usize,
    mut each: impl FnMut(Buffer),
) -> Result<Walked, RingFault> {
    let (mut place, mut descriptor) = (at, first);
    let mut walked = Walked { id: 0, entries: 0, buffers: 0 };
    loop {
        walked.entries += 1;
        walked.id = descriptor.id;
        if descriptor.flags & DESC_INDIRECT != 0 {
            let (start, entries) = table(ring, descriptor, hint)?;
            if entries > ring.size() - walked.buffers {
                return Err(RingFault::ChainTooLong(ring.size()));
            }
            walked.buffers += entries;
            for index in 0..usize::from(entries) {
                // SAFETY: index < entries, all of which lie in one region, 8-byte aligned.
                let mut descriptor = unsafe { read_descriptor(start.add(index * DESC_BYTES as usize)) };
                if descriptor.flags & DESC_INDIRECT != 0 {
                    // A table in a table. All other flags but WRITE are reserved there.
                    return Err(RingFault::Indirect { address: descriptor.address, length: descriptor.length });
                }
                if access == Access::Read {
                    // DPDK's driver leaves the flag set in its tables for transmit, as other devices do not look at it. To read what may
                    // be written as well harms nobody but the guest.
                    descriptor.flags &= !DESC_WRITE;
                }
                translate(ring, descriptor, access, hint)?.into_iter().for_each(&mut each);
            }
            return Ok(walked);
        }
        walked.buffers += 1;
        translate(ring, descriptor, access, hint)?.into_iter().for_each(&mut each);
        if descriptor.flags & DESC_NEXT == 0 {
            return Ok(walked);
        }
        if walked.entries >= ring.size() - held {
            return Err(RingFault::ChainTooLong(ring.size()));
        }
        place = place.ahead(1);
        descriptor = ring.descriptor(place);
        if !ring.has_offered(place, &descriptor) {
            return Err(RingFault::Unavailable(ring.index(place)));
        }
    }
}

/// Checks one descriptor's direction and place; `None` when it is empty.
#[inline]
pub(crate) fn translate(
    ring: &PackedRing,
    descriptor: Descriptor,
    access: Access,
    hint: &mut usize,
) -> Result<Option<Buffer>, RingFault> {
    let Descriptor { address, length, flags, .. } = descriptor;
    if (flags & DESC_WRITE != 0) != (access == Access::Write) {
        return Err(RingFault::Direction(address));
    }
    if length == 0 {
        return Ok(None);
    }
    match ring.memory().guest_pointer(address, length, hint) {
        Some(pointer) => Ok(Some(Buffer { pointer, length })),
        None => Err(RingFault::Address { address, length }),
    }
}

/// Where an indirect table is, and how many entries it has.
fn table(ring: &PackedRing, from: Descriptor, hint: &mut usize) -> Result<(*mut u8, u16), RingFault> {
    let Descriptor { address, length, flags, .. } = from;
    let fault = RingFault::Indirect { address, length };
    if !ring.indirect_allowed() || flags & DESC_NEXT != 0 {
        return Err(fault);
    }
    // As in a split ring: drivers get the alignment from their allocator.
    if length == 0 || !length.is_multiple_of(DESC_BYTES) || !address.is_multiple_of(8) {
        return Err(fault);
    }
    let Some(entries) = u16::try_from(length / DESC_BYTES).ok().filter(|&entries| entries <= ring.size()) else {
        return Err(fault);
    };
    let start = ring
        .memory()
        .guest_pointer(address, length, hint)
        .filter(|start| start.addr() % 8 == 0)
        .ok_or(RingFault::Address { address, length })?;
    Ok((start, entries))
}

#[cfg(test)]
mod proofs;
