//! Checked walks over descriptor chains (virtio 1.3, sections 2.7.4 and 2.7.5).
//!
//! A walk yields every descriptor of a chain once, translated, with its direction checked. It ends after at most as many
//! buffers as the ring has entries (2.7.5.3.1; the descriptor of an indirect table is none), whatever the guest wrote, and
//! however often the guest rewrites it meanwhile.

#![expect(unsafe_code, reason = "reading an indirect descriptor table in guest memory")]

use crate::split::{
    DESC_BYTES, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, RingFault, SplitRing, read_descriptor,
};

/// Who may write a queue's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A transmit queue: we read.
    Read,
    /// A receive queue: we write.
    Write,
}

/// A translated descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) pointer: *mut u8,
    pub(crate) length: u32,
}

/// Calls `each` with every buffer of the chain at `head`, in order, those of length 0 left out; returns how many there
/// are with those.
///
/// # Errors
/// The first fault; `each` has seen what came before it.
pub(crate) fn walk(
    ring: &SplitRing,
    head: u16,
    access: Access,
    hint: &mut usize,
    mut each: impl FnMut(Buffer),
) -> Result<u16, RingFault> {
    let mut table = Table::Ring;
    let mut index = head;
    let mut left = ring.size();
    loop {
        let descriptor = table.descriptor(ring, index)?;
        if descriptor.flags & DESC_INDIRECT != 0 {
            // Happens once: a table in a table is a fault.
            table = Table::indirect(ring, &table, descriptor, hint)?;
            index = 0;
            continue;
        }
        left = left.checked_sub(1).ok_or(RingFault::ChainTooLong(ring.size()))?;
        if let Some(buffer) = translate(ring, descriptor, access, hint)? {
            each(buffer);
        }
        if descriptor.flags & DESC_NEXT == 0 {
            return Ok(ring.size() - left);
        }
        index = descriptor.next;
    }
}

/// Checks one descriptor's direction and place; `None` when it is empty.
#[inline]
pub(crate) fn translate(
    ring: &SplitRing,
    descriptor: Descriptor,
    access: Access,
    hint: &mut usize,
) -> Result<Option<Buffer>, RingFault> {
    if (descriptor.flags & DESC_WRITE != 0) != (access == Access::Write) {
        return Err(RingFault::Direction(descriptor.address));
    }
    if descriptor.length == 0 {
        return Ok(None);
    }
    match ring.memory.guest_pointer(descriptor.address, descriptor.length, hint) {
        Some(pointer) => Ok(Some(Buffer { pointer, length: descriptor.length })),
        None => Err(RingFault::Address { address: descriptor.address, length: descriptor.length }),
    }
}

/// Where a chain's descriptors are: in the ring's table, or in one indirect table of its own.
enum Table {
    Ring,
    Indirect { start: *mut u8, entries: u16 },
}

impl Table {
    fn indirect(ring: &SplitRing, within: &Self, from: Descriptor, hint: &mut usize) -> Result<Self, RingFault> {
        let fault = RingFault::Indirect { address: from.address, length: from.length };
        let nested = !matches!(within, Self::Ring);
        if nested || !ring.indirect_allowed() || from.flags & DESC_NEXT != 0 {
            return Err(fault);
        }
        // An entry is 16-byte aligned by virtio 1.3, 2.7.5.3; drivers get that from their allocator.
        if from.length == 0 || !from.length.is_multiple_of(DESC_BYTES) || !from.address.is_multiple_of(8) {
            return Err(fault);
        }
        let Ok(entries) = u16::try_from(from.length / DESC_BYTES) else { return Err(fault) };
        if entries > ring.size() {
            return Err(fault);
        }
        let start = ring
            .memory
            .guest_pointer(from.address, from.length, hint)
            .filter(|start| start.addr() % 8 == 0)
            .ok_or(RingFault::Address { address: from.address, length: from.length })?;
        Ok(Self::Indirect { start, entries })
    }

    fn descriptor(&self, ring: &SplitRing, index: u16) -> Result<Descriptor, RingFault> {
        match *self {
            Self::Ring if index < ring.size() => Ok(ring.descriptor(index)),
            Self::Ring => Err(RingFault::DescriptorIndex { index, size: ring.size() }),
            Self::Indirect { entries, .. } if index >= entries => {
                Err(RingFault::DescriptorIndex { index, size: entries })
            }
            Self::Indirect { start, .. } => {
                // SAFETY: index < entries, all of which lie in one region, 8-byte aligned.
                Ok(unsafe { read_descriptor(start.add(usize::from(index) * DESC_BYTES as usize)) })
            }
        }
    }
}

#[cfg(test)]
mod proofs;
