//! Raw access to one split ring in guest memory (virtio 1.3, section 2.7): indices, descriptors, notifications.
//!
//! Buffers are completed in the order in which they were offered, so one position stands for both "next available" and
//! "next used", and `used.idx` in guest memory is always a point from which another process can go on.
//!
//! Not here: what the descriptors mean ([`chain`](crate::chain)) and what is done with them.

#![expect(unsafe_code, reason = "volatile access to ring fields in guest memory")]

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::call::Call;
use crate::chain::{self, Access};
use crate::dirty_log::RingLog;
use crate::features;
use crate::layout::{RingError, RingLayout, RingPointers};
use crate::marks::{MOST_DESCRIPTORS, MOST_WRITTEN, Marks};
use crate::memory::{Memory, Window};
use crate::straight::NoteUsed;

/// What a guest did to its ring that makes the rest of it meaningless: the port is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The available index ran ahead of what the ring can hold, or went back.
    #[error("available index {available} went back, or is more than {size} ahead of {position}")]
    AvailableIndex {
        /// The guest's index.
        available: u16,
        /// How far we are.
        position: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// An entry of the available ring, or a `next`, points outside of the descriptor table.
    #[error("descriptor index {index} is outside of the table of {size}")]
    DescriptorIndex {
        /// The guest's index.
        index: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A chain of a packed ring goes on at a descriptor that its driver has not made available.
    #[error("descriptor {0} belongs to a chain, and is not available")]
    Unavailable(u16),
    /// A chain is longer than the ring: a loop, or a driver that breaks virtio 1.3, 2.7.5.3.1.
    #[error("descriptor chain is longer than the ring of {0}")]
    ChainTooLong(u16),
    /// A buffer is not inside of one memory region.
    #[error("buffer of {length} bytes at {address:#x} is outside of the guest's memory")]
    Address {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        length: u32,
    },
    /// A device-writable buffer on a transmit queue or a device-readable one on a receive queue.
    #[error("buffer at {0:#x} has the wrong direction for its queue")]
    Direction(u64),
    /// An indirect table that was not negotiated, is nested, is followed by `next`, or has an odd length.
    #[error("indirect descriptor table of {length} bytes at {address:#x} is not allowed here")]
    Indirect {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        length: u32,
    },
    /// The frontend made the descriptor of its interrupt block a worker.
    #[error("the descriptor for interrupts blocks")]
    CallBlocks,
    /// The frontend truncated the file that the guest's memory or its dirty log is in, or there was no page for it.
    #[error("the guest's memory or its dirty log is gone: its file was truncated, or there was no huge page for it")]
    MemoryLost,
}

/// Why a ring could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// It cannot lie where the frontend says.
    #[error(transparent)]
    Layout(#[from] RingError),
    /// Its indices make no sense.
    #[error(transparent)]
    Fault(#[from] RingFault),
    /// A packed ring cannot stand where its frontend says.
    #[error("position {position:#x} is outside of the ring of {size}")]
    Position {
        /// An index, and the wrap counter in bit 15.
        position: u16,
        /// Entries of the ring.
        size: u16,
    },
}

/// One descriptor (virtio 1.3, section 2.7.5), read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// An entry of the available ring and the descriptor that it names, each read once, and nothing of it checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offer {
    pub(crate) head: u16,
    pub(crate) descriptor: Descriptor,
}

/// Reads entry by entry, for loops that do little else: what comes from the guest's processor is waited for once and not once an entry,
/// as long as the loop's other work is short.
#[derive(Debug)]
pub(crate) struct Offers<'r> {
    entries: *const u8,
    descriptors: *const u8,
    next: usize,
    /// The last index of the ring.
    last: usize,
    ring: PhantomData<&'r SplitRing>,
}

impl Offers<'_> {
    /// The next entry and its descriptor; one that names none gets any.
    #[inline(always)]
    pub(crate) fn read(&mut self) -> Offer {
        let slot = self.next & self.last;
        self.next = self.next.wrapping_add(1);
        // SAFETY: `last` is the last of the ring's entries, which lie in one region that is borrowed; entries are 2-byte aligned.
        let head = u16::from_le(unsafe { self.entries.add(2 * slot).cast::<u16>().read_volatile() });
        let index = usize::from(head) & self.last;
        // SAFETY: the table has as many descriptors as the ring has entries; it is 16-byte aligned.
        let descriptor = unsafe { read_descriptor(self.descriptors.add(index * DESC_BYTES as usize)) };
        Offer { head, descriptor }
    }

    /// Where the only buffer of a chain of one is: `None` where the chain has several, or it does not lie in `window`, or something is wrong
    /// with it.
    #[inline(always)]
    pub(crate) fn only_buffer(&self, offer: &Offer, access: Access, window: &Window) -> Option<*mut u8> {
        let Descriptor { address, length, flags, .. } = offer.descriptor;
        let wanted = if access == Access::Write { DESC_WRITE } else { 0 };
        if flags & (DESC_NEXT | DESC_INDIRECT | DESC_WRITE) != wanted || usize::from(offer.head) > self.last {
            return None;
        }
        window.pointer(address, length)
    }
}

/// Fills used entries one after the other, for loops that do little else.
#[derive(Debug)]
pub(crate) struct UsedEntries<'r> {
    entries: *mut u8,
    next: usize,
    /// The last index of the ring.
    last: usize,
    ring: PhantomData<&'r SplitRing>,
}

impl UsedEntries<'_> {
    /// Writes the next one: chain `head`, `length` bytes written into it.
    #[inline(always)]
    pub(crate) fn put(&mut self, head: u16, length: u32) {
        let slot = self.next & self.last;
        self.next = self.next.wrapping_add(1);
        // SAFETY: `last` is the last of the ring's entries, which lie in one region that is borrowed; entries are 4-byte aligned, so this one may
        // be unaligned for a u64 and is written as two u32.
        unsafe {
            let at = self.entries.add(8 * slot).cast::<u32>();
            at.write_volatile(u32::from(head));
            at.add(1).write_volatile(length);
        }
    }
}

pub(crate) const DESC_NEXT: u16 = 1;
pub(crate) const DESC_WRITE: u16 = 2;
pub(crate) const DESC_INDIRECT: u16 = 4;
pub(crate) const DESC_BYTES: u32 = 16;

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// A running split ring. One thread at a time owns it.
#[derive(Debug)]
pub struct SplitRing {
    pub(crate) memory: Arc<Memory>,
    pointers: RingPointers,
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// The next entry of the available ring to take, and of the used ring to fill.
    position: u16,
    /// The guest's `avail.idx` when last read.
    available: u16,
    call: Arc<Call>,
    /// The frontend held us up by its call.
    blocked: bool,
    /// Where it is noted what we write, while the guest moves.
    marks: Option<Box<Marks>>,
}

// SAFETY: the pointers lead into `memory`, which is owned, and are only used for volatile access.
unsafe impl Send for SplitRing {}

impl SplitRing {
    /// Takes up a ring at the place that its `used.idx` tells.
    ///
    /// # Errors
    /// [`StartError`] when the layout or the guest's indices are wrong.
    pub fn new(memory: Arc<Memory>, layout: &RingLayout, features: u64, call: Arc<Call>) -> Result<Self, StartError> {
        let pointers = layout.resolve(&memory)?;
        let mut ring = Self {
            memory,
            pointers,
            size: layout.size,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            position: 0,
            available: 0,
            call,
            blocked: false,
            marks: None,
        };
        ring.position = ring.read_u16(ring.pointers.used, 2);
        ring.available = ring.position;
        ring.refresh()?;
        Ok(ring)
    }

    /// Where the ring stands: everything before was completed.
    pub const fn position(&self) -> u16 {
        self.position
    }

    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    pub(crate) const fn indirect_allowed(&self) -> bool {
        self.indirect
    }

    /// How many buffers are known to be available behind `taken` that were taken but not published yet.
    #[inline]
    pub(crate) const fn known(&self, taken: u16) -> u16 {
        self.available.wrapping_sub(self.position).wrapping_sub(taken)
    }

    /// Reads the guest's index anew; returns how many buffers are available from our position on.
    #[inline]
    pub(crate) fn refresh(&mut self) -> Result<u16, RingFault> {
        if self.blocked {
            return Err(RingFault::CallBlocks);
        }
        let available = self.read_u16(self.pointers.available, 2);
        // The entries and descriptors before the index must be read after it.
        fence(Ordering::Acquire);
        let count = available.wrapping_sub(self.position);
        // An index that goes back would offer again what a burst has taken and not published yet.
        if count > self.size || count < self.available.wrapping_sub(self.position) {
            return Err(RingFault::AvailableIndex { available, position: self.position, size: self.size });
        }
        self.available = available;
        Ok(count)
    }

    /// The head of the chain that is `ahead` entries from our position.
    #[inline]
    pub(crate) fn head(&self, ahead: u16) -> Result<u16, RingFault> {
        self.checked(self.entry(ahead))
    }

    /// That index, if it is one of the table.
    #[inline]
    pub(crate) const fn checked(&self, index: u16) -> Result<u16, RingFault> {
        if index < self.size { Ok(index) } else { Err(RingFault::DescriptorIndex { index, size: self.size }) }
    }

    /// What the guest offers from the entry on that is `ahead` entries from our position, without end.
    #[inline(always)]
    pub(crate) fn offers(&self, ahead: u16) -> Offers<'_> {
        Offers {
            entries: self.pointers.available.wrapping_add(4),
            descriptors: self.pointers.descriptors,
            next: usize::from(self.position.wrapping_add(ahead)),
            last: usize::from(self.size.wrapping_sub(1)),
            ring: PhantomData,
        }
    }

    #[inline]
    fn entry(&self, ahead: u16) -> u16 {
        let slot = self.position.wrapping_add(ahead) & self.size.wrapping_sub(1);
        self.read_u16(self.pointers.available, 4 + 2 * usize::from(slot))
    }

    /// The descriptor at a checked index of the ring's own table.
    #[inline(always)]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let index = index & self.size.wrapping_sub(1);
        // SAFETY: the table has `size` entries inside of one region; it is 16-byte aligned.
        unsafe { read_descriptor(self.pointers.descriptors.add(usize::from(index) * DESC_BYTES as usize)) }
    }

    /// Writes the used entry that is `ahead` entries from our position: chain `head`, `length` bytes written into it.
    #[inline(always)]
    pub(crate) fn put_used(&self, ahead: u16, head: u16, length: u32) {
        self.used_entries(ahead).put(head, length);
    }

    /// The used entries from the one on that is `ahead` entries from our position, without end.
    #[inline(always)]
    pub(crate) fn used_entries(&self, ahead: u16) -> UsedEntries<'_> {
        UsedEntries {
            entries: self.pointers.used.wrapping_add(4),
            next: usize::from(self.position.wrapping_add(ahead)),
            last: usize::from(self.size.wrapping_sub(1)),
            ring: PhantomData,
        }
    }

    /// Moves our position over `count` filled used entries, tells the guest, and interrupts it if it asks for that.
    #[inline]
    pub(crate) fn publish(&mut self, count: u16) {
        if count == 0 {
            return;
        }
        if self.marks.is_some() {
            return self.publish_marked(count);
        }
        let old = self.publish_index(count);
        self.interrupt(old);
    }

    /// Moves our position over `count` filled used entries; returns where it was.
    #[inline(always)]
    fn publish_index(&mut self, count: u16) -> u16 {
        let old = self.position;
        self.position = old.wrapping_add(count);
        // Entries and buffers must be seen before the index.
        fence(Ordering::Release);
        self.write_u16(self.pointers.used, 2, self.position);
        old
    }

    /// Interrupts the guest if it asks for that, after our position has moved from `old` on.
    #[inline(always)]
    fn interrupt(&mut self, old: u16) {
        // The index must be seen before we look whether the guest sleeps (virtio 1.3, 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.wants_interrupt(old) {
            self.blocked = self.call.signal().is_err();
        }
    }

    /// Whether the guest wants to hear that our position has moved from `old` on (virtio 1.3, 2.7.7 and 2.7.10).
    #[inline(always)]
    fn wants_interrupt(&self, old: u16) -> bool {
        if self.event_idx {
            let event = self.read_u16(self.pointers.available, 4 + 2 * usize::from(self.size));
            self.position.wrapping_sub(event).wrapping_sub(1) < self.position.wrapping_sub(old)
        } else {
            self.read_u16(self.pointers.available, 0) & AVAIL_NO_INTERRUPT == 0
        }
    }

    /// The same for a ring whose writes are logged.
    #[cold]
    #[inline(never)]
    fn publish_marked(&mut self, count: u16) {
        self.mark_buffers(count);
        let old = self.publish_index(count);
        if let Some(marks) = &self.marks {
            let (size, first) = (usize::from(self.size), usize::from(old & (self.size - 1)));
            let count = usize::from(count).min(size);
            marks.used(0, 4);
            marks.used(4 + 8 * first, 8 * count.min(size - first));
            marks.used(4, 8 * (first + count).saturating_sub(size));
            self.blocked = marks.tell().is_err();
        }
        if !self.blocked {
            self.interrupt(old);
        }
    }

    /// Marks what was written into the next `count` chains that are to be published, as their used entries tell.
    fn mark_buffers(&self, count: u16) {
        let Some(marks) = &self.marks else { return };
        let (mut hint, mut read) = (0, 0_u32);
        for ahead in 0..count {
            let (head, length) = self.used_entry(ahead);
            let mut left = length.min(MOST_WRITTEN);
            if left == 0 {
                continue;
            }
            let walked = chain::walk(self, head, Access::Write, &mut hint, |buffer| {
                let share = buffer.length.min(left);
                marks.buffer(&self.memory, buffer.pointer, share);
                left -= share;
            });
            // A chain that cannot be walked any more was changed under way.
            read = read.saturating_add(u32::from(walked.unwrap_or(self.size)));
            if read > MOST_DESCRIPTORS {
                return;
            }
        }
    }

    /// The used entry that is `ahead` entries from our position: its chain, and how many bytes were written into that.
    fn used_entry(&self, ahead: u16) -> (u16, u32) {
        let slot = usize::from(self.position.wrapping_add(ahead) & (self.size - 1));
        // SAFETY: an entry of the ring, which lies in one region; 4-byte aligned.
        let (head, length) = unsafe {
            let at = self.pointers.used.add(4 + 8 * slot).cast::<u32>();
            (at.read_volatile(), at.add(1).read_volatile())
        };
        (u16::try_from(head).unwrap_or(u16::MAX), length)
    }

    /// Has all that is written from now on logged, or nothing. All places of the ring's own are marked at once: what another process has
    /// written there may have been its last, and not marked.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.marks = log.map(|log| Marks::new(log, &self.memory, &self.pointers));
        if let Some(marks) = &self.marks {
            marks.used(0, 6 + 8 * usize::from(self.size));
        }
    }

    /// Asks the guest to kick at the buffer that follows the next `known` ones. Buffers that came before it saw this do not
    /// kick: look again after.
    pub(crate) fn enable_kick(&self, known: u16) {
        if self.event_idx {
            let event = self.position.wrapping_add(known);
            self.write_u16(self.pointers.used, 4 + 8 * usize::from(self.size), event);
        } else {
            self.write_u16(self.pointers.used, 0, 0);
        }
        self.mark_asking();
        fence(Ordering::SeqCst);
    }

    /// Asks the guest not to kick. With EVENT_IDX nothing is to be written: the index that was asked for is behind.
    pub(crate) fn disable_kick(&self) {
        if !self.event_idx {
            self.write_u16(self.pointers.used, 0, USED_NO_NOTIFY);
            self.mark_asking();
        }
    }

    /// Marks the places by which the guest is asked to kick.
    fn mark_asking(&self) {
        if let Some(marks) = &self.marks {
            marks.used(0, 2);
            marks.used(4 + 8 * usize::from(self.size), 2);
        }
    }

    #[inline(always)]
    fn read_u16(&self, area: *mut u8, offset: usize) -> u16 {
        // SAFETY: callers pass offsets inside of the area, which `resolve` checked; areas are at least 2-byte aligned
        // and all offsets are even.
        u16::from_le(unsafe { area.add(offset).cast::<u16>().read_volatile() })
    }

    #[inline]
    fn write_u16(&self, area: *mut u8, offset: usize, value: u16) {
        // SAFETY: as in `read_u16`.
        unsafe { area.add(offset).cast::<u16>().write_volatile(value.to_le()) }
    }
}

impl NoteUsed for SplitRing {
    #[inline(always)]
    fn note_used(&self, taken: u16, chain: u16, length: u32) {
        self.put_used(taken, chain, length);
    }
}

/// Reads one descriptor: two loads, each field once.
///
/// # Safety
/// Sixteen readable bytes, 8-byte aligned.
#[inline(always)]
pub(crate) unsafe fn read_descriptor(at: *const u8) -> Descriptor {
    // SAFETY: as promised by the caller.
    let (address, length, [flags, next]) = unsafe { read_fields(at) };
    Descriptor { address, length, flags, next }
}

/// What a descriptor of either kind of ring has: address, length, and two further numbers.
///
/// # Safety
/// As for [`read_descriptor`].
#[inline(always)]
pub(crate) unsafe fn read_fields(at: *const u8) -> (u64, u32, [u16; 2]) {
    let at = at.cast::<u64>();
    // SAFETY: as promised by the caller.
    let (address, rest) = unsafe { (at.read_volatile(), at.add(1).read_volatile()) };
    let [l0, l1, l2, l3, a0, a1, b0, b1] = rest.to_le_bytes();
    let numbers = [u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1])];
    (u64::from_le(address), u32::from_le_bytes([l0, l1, l2, l3]), numbers)
}

#[cfg(test)]
pub(crate) mod proofs;
