//! What a ring marks in the dirty log ([`dirty_log`](crate::dirty_log)) while its guest moves to another machine: the places of its own
//! that we write, and buffers.
//!
//! A ring that has no marks does nothing for them but to ask whether it has some, once a burst. One that has does so before and after
//! it publishes: buffers are marked when all has been written into them, and before the driver, or a process after us, can take
//! them for filled; the ring's own words behind that, after they were written. Which buffers those are is read again from the ring. A
//! guest that changes it meanwhile is the only one that suffers.

use crate::call::Blocked;
use crate::dirty_log::RingLog;
use crate::layout::RingPointers;
use crate::memory::Memory;

/// More bytes than are ever written into one chain: a frame and its header.
pub(crate) const MOST_WRITTEN: u32 = culvert_frame::MAX_FRAME_BYTES + 12;

/// Descriptors that are read for the marks of one publication, and one chain: more than any publication has of a guest that leaves its
/// chains as they were.
pub(crate) const MOST_DESCRIPTORS: u32 = 65_536;

/// A ring's marks.
#[derive(Debug)]
pub(crate) struct Marks {
    log: RingLog,
    /// Guest addresses of two of its areas.
    descriptors: Option<u64>,
    used: Option<u64>,
}

impl Marks {
    /// For a ring at `pointers` in `memory`.
    pub(crate) fn new(log: &RingLog, memory: &Memory, pointers: &RingPointers) -> Box<Self> {
        let used = memory.guest_address(pointers.used);
        let log = RingLog { used: log.used.filter(|other| Some(*other) != used), ..log.clone() };
        Box::new(Self { log, descriptors: memory.guest_address(pointers.descriptors), used })
    }

    /// Marks bytes of the used ring, or of the device's event area.
    pub(crate) fn used(&self, offset: usize, length: usize) {
        for start in [self.used, self.log.used].into_iter().flatten() {
            self.mark(start, offset, length);
        }
    }

    /// Marks bytes of the descriptor table.
    pub(crate) fn descriptors(&self, offset: usize, length: usize) {
        if let Some(start) = self.descriptors {
            self.mark(start, offset, length);
        }
    }

    /// Marks bytes of a buffer in `memory`.
    pub(crate) fn buffer(&self, memory: &Memory, pointer: *mut u8, length: u32) {
        // Of what a chain has behind its frame, nothing was written.
        if length > 0
            && let Some(address) = memory.guest_address(pointer)
        {
            self.log.log.mark(address, u64::from(length));
        }
    }

    /// Tells the frontend that there are new marks, if it wants to know.
    pub(crate) fn tell(&self) -> Result<(), Blocked> {
        self.log.call.signal()
    }

    fn mark(&self, start: u64, offset: usize, length: usize) {
        self.log.log.mark(start.saturating_add(offset as u64), length as u64);
    }
}
