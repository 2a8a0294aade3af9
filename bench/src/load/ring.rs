//! A ring from the driver's side of which entry i is always buffer i: split (virtio 1.3, section 2.7) or packed (2.8).
//!
//! Positions count entries without end. Rings have a power of 2 of entries, so the entry of a position and, of packed rings, the lap
//! that it is in are some of its bits.

use std::sync::atomic::{Ordering, fence};

/// One ring, and its buffers.
pub struct FastRing {
    size: u16,
    layout: Layout,
    buffers: *mut u8,
    stride: usize,
    /// By entry: how long its descriptor is.
    lengths: Box<[u32]>,
    /// The device writes the buffers.
    writes: bool,
    /// Up to where buffers were taken.
    seen: u16,
    /// Up to where they were offered.
    offered: u16,
    /// With EVENT_IDX: up to where the backend was asked whether it wants a kick.
    asked: Option<u16>,
    disorder: bool,
}

/// Where the parts of a ring lie.
#[derive(Clone, Copy)]
pub enum Layout {
    /// Descriptors, available and used ring.
    Split { descriptors: *mut u8, available: *mut u8, used: *mut u8 },
    /// Descriptors and device event area.
    Packed { descriptors: *mut u8, event: *mut u8 },
}

/// What lies in a ring.
pub struct Buffers {
    /// The first one.
    pub start: *mut u8,
    /// Its guest address.
    pub address: u64,
    /// From one to the next.
    pub stride: usize,
    /// How long each one is.
    pub lengths: Box<[u32]>,
    /// The device writes them.
    pub writes: bool,
}

impl FastRing {
    /// A new ring: nothing is offered.
    ///
    /// # Safety
    /// The areas have room for a ring of as many entries as there are lengths, a power of 2, the buffers for as many of `stride` bytes, and
    /// all live longer than this.
    pub unsafe fn new(layout: Layout, buffers: Buffers) -> Self {
        let Buffers { start, address, stride, lengths, writes } = buffers;
        let size = lengths.len() as u16;
        for (entry, &length) in lengths.iter().enumerate() {
            let at = address + (entry * stride) as u64;
            let flags = if writes { WRITE } else { 0 };
            // SAFETY: inside of the areas.
            unsafe {
                match layout {
                    Layout::Split { descriptors, available, .. } => {
                        let descriptor = descriptors.add(16 * entry).cast::<u64>();
                        descriptor.write_volatile(at);
                        descriptor.add(1).write_volatile(u64::from(length) | u64::from(flags) << 32);
                        available.add(4 + 2 * entry).cast::<u16>().write_volatile(entry as u16);
                    }
                    Layout::Packed { descriptors, .. } => {
                        let descriptor = descriptors.add(16 * entry).cast::<u64>();
                        descriptor.write_volatile(at);
                        descriptor.add(1).write_volatile(0);
                    }
                }
            }
        }
        Self {
            size,
            layout,
            buffers: start,
            stride,
            lengths,
            writes,
            seen: 0,
            offered: 0,
            asked: None,
            disorder: false,
        }
    }

    /// Its entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether a buffer came back out of order.
    pub fn disorder(&self) -> bool {
        self.disorder
    }

    /// How many buffers are used and not taken yet. The next one must be the one that was offered first.
    #[inline]
    pub fn done(&mut self) -> u16 {
        match self.layout {
            Layout::Split { used, .. } => {
                // SAFETY: inside of the area.
                let index = unsafe { used.add(2).cast::<u16>().read_volatile() };
                let count = index.wrapping_sub(self.seen);
                if count > 0 {
                    fence(Ordering::Acquire);
                    self.disorder |= count > self.size || self.element(0).0 != u32::from(self.entry(self.seen));
                }
                count.min(self.size)
            }
            Layout::Packed { .. } => {
                let (with_us, mut count) = (self.offered.wrapping_sub(self.seen), 0);
                while count < with_us {
                    let position = self.seen.wrapping_add(count);
                    let word = self.packed_word(position);
                    let used = if self.lap(position) { AVAILABLE | USED } else { 0 };
                    if (word >> 48) as u16 & (AVAILABLE | USED) != used {
                        break;
                    }
                    self.disorder |= (word >> 32) as u16 != self.entry(position);
                    count += 1;
                }
                fence(Ordering::Acquire);
                count
            }
        }
    }

    /// A used buffer, and the bytes that the device wrote; `index` counts from the one that is next.
    #[inline]
    pub fn used(&self, index: u16) -> (*mut u8, u32) {
        let position = self.seen.wrapping_add(index);
        let length = match self.layout {
            Layout::Split { .. } => self.element(index).1,
            Layout::Packed { .. } => self.packed_word(position) as u32,
        };
        (self.buffer(position), length)
    }

    /// Takes so many used buffers.
    #[inline]
    pub fn take(&mut self, count: u16) {
        self.seen = self.seen.wrapping_add(count);
    }

    /// The position of the buffer that is to be taken next.
    #[inline]
    pub fn seen(&self) -> u16 {
        self.seen
    }

    /// The position of the buffer that is to be offered next.
    #[inline]
    pub fn offered(&self) -> u16 {
        self.offered
    }

    /// A buffer that is to be offered; `index` counts from the one that is next.
    #[inline]
    pub fn next(&self, index: u16) -> *mut u8 {
        self.buffer(self.offered.wrapping_add(index))
    }

    /// The number of that buffer in the ring.
    #[inline]
    pub fn next_entry(&self, index: u16) -> u16 {
        self.entry(self.offered.wrapping_add(index))
    }

    /// Changes how long the buffer at a position is, which is ours now.
    pub fn set_length(&mut self, position: u16, length: u32) {
        let entry = usize::from(self.entry(position));
        if let Some(known) = self.lengths.get_mut(entry) {
            *known = length;
        }
        if let Layout::Split { descriptors, .. } = self.layout {
            // SAFETY: inside of the area.
            unsafe { descriptors.add(16 * entry + 8).cast::<u32>().write_volatile(length) };
        }
    }

    /// Offers so many buffers.
    #[inline]
    pub fn offer(&mut self, count: u16) {
        fence(Ordering::Release);
        match self.layout {
            Layout::Split { available, .. } => {
                self.offered = self.offered.wrapping_add(count);
                // SAFETY: inside of the area.
                unsafe { available.add(2).cast::<u16>().write_volatile(self.offered) }
            }
            // Front to back, each by one store, as drivers do that have one descriptor for each frame.
            Layout::Packed { descriptors, .. } => {
                for _ in 0..count {
                    let entry = self.entry(self.offered);
                    let length = self.lengths.get(usize::from(entry)).copied().unwrap_or(0);
                    let lap = if self.lap(self.offered) { AVAILABLE } else { USED };
                    let flags = lap | if self.writes { WRITE } else { 0 };
                    let word = u64::from(length) | u64::from(entry) << 32 | u64::from(flags) << 48;
                    // SAFETY: inside of the area.
                    unsafe { descriptors.add(16 * usize::from(entry) + 8).cast::<u64>().write_volatile(word) };
                    self.offered = self.offered.wrapping_add(1);
                }
            }
        }
    }

    /// EVENT_IDX was negotiated; of split rings.
    pub fn use_events(&mut self) {
        self.asked = Some(self.offered);
    }

    /// Whether the backend asks for a kick: as every driver does, after a full barrier (virtio 1.3, 2.7.13.4.1 and 2.8.21.3.1).
    #[inline]
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        match (self.layout, self.asked) {
            (Layout::Split { used, .. }, Some(asked)) => {
                // SAFETY: inside of the area, behind the elements.
                let event = unsafe { used.add(4 + 8 * usize::from(self.size)).cast::<u16>().read_volatile() };
                self.asked = Some(self.offered);
                self.offered.wrapping_sub(event).wrapping_sub(1) < self.offered.wrapping_sub(asked)
            }
            // SAFETY: inside of the area.
            (Layout::Split { used, .. }, None) => unsafe { used.cast::<u16>().read_volatile() & 1 == 0 },
            // SAFETY: inside of the area.
            (Layout::Packed { event, .. }, _) => unsafe { event.add(2).cast::<u16>().read_volatile() & 3 != 1 },
        }
    }

    #[inline]
    fn entry(&self, position: u16) -> u16 {
        position & (self.size - 1)
    }

    /// The wrap counter of a packed ring at a position: 1 in the first lap (virtio 1.3, 2.8.1).
    #[inline]
    fn lap(&self, position: u16) -> bool {
        position & self.size == 0
    }

    #[inline]
    fn buffer(&self, position: u16) -> *mut u8 {
        // SAFETY: an entry's buffer is inside of the buffers.
        unsafe { self.buffers.add(usize::from(self.entry(position)) * self.stride) }
    }

    /// Id and length of a used element of a split ring.
    #[inline]
    fn element(&self, index: u16) -> (u32, u32) {
        let Layout::Split { used, .. } = self.layout else { return (0, 0) };
        let entry = usize::from(self.entry(self.seen.wrapping_add(index)));
        // SAFETY: inside of the area.
        unsafe {
            let element = used.add(4 + 8 * entry).cast::<u32>();
            (element.read_volatile(), element.add(1).read_volatile())
        }
    }

    /// Length, id and flags at a position of a packed ring.
    #[inline]
    fn packed_word(&self, position: u16) -> u64 {
        let Layout::Packed { descriptors, .. } = self.layout else { return 0 };
        // SAFETY: inside of the area.
        unsafe { descriptors.add(16 * usize::from(self.entry(position)) + 8).cast::<u64>().read_volatile() }
    }
}

/// Flags of descriptors (virtio 1.3, 2.7.5 and 2.8.1).
const WRITE: u16 = 2;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// 512 bytes for a ring of four: descriptors, and two further areas of 128 bytes. The test plays the device by hand.
    #[derive(Clone, Copy)]
    struct Memory(*mut u64);

    impl Memory {
        fn new() -> Self {
            Self(Box::leak(Box::new([0_u64; 64])).as_mut_ptr())
        }

        fn word(self, index: usize) -> u64 {
            assert!(index < 64);
            // SAFETY: one of the 64.
            unsafe { self.0.add(index).read_volatile() }
        }

        fn set(self, index: usize, value: u64) {
            assert!(index < 64);
            // SAFETY: one of the 64.
            unsafe { self.0.add(index).write_volatile(value) }
        }

        fn ring(self, packed: bool) -> FastRing {
            let start = self.0.cast::<u8>();
            // SAFETY: inside.
            let [second, third] = [128, 256].map(|offset| unsafe { start.add(offset) });
            let layout = if packed {
                Layout::Packed { descriptors: start, event: second }
            } else {
                Layout::Split { descriptors: start, available: second, used: third }
            };
            let buffers = Buffers { start, address: 0x1000, stride: 0x10, lengths: vec![76; 4].into(), writes: true };
            // SAFETY: as above; no buffer is looked at, and the memory lives for ever.
            unsafe { FastRing::new(layout, buffers) }
        }
    }

    #[test]
    fn packed_rings_go_round() {
        let memory = Memory::new();
        let mut ring = memory.ring(true);
        for lap in 0..3_u16 {
            ring.offer(4);
            assert_eq!(ring.done(), 0, "lap {lap}");
            let (offered, back) = if lap % 2 == 0 { (0x0082, 0x8080) } else { (0x8002, 0) };
            for entry in 0..4_u16 {
                let at = usize::from(2 * entry + 1);
                assert_eq!(memory.word(at), 76 | u64::from(entry) << 32 | offered << 48);
                memory.set(at, 60 | u64::from(entry) << 32 | back << 48);
                assert_eq!(ring.done(), entry + 1);
            }
            assert_eq!(ring.used(3).1, 60);
            ring.take(4);
            assert!(!ring.disorder());
        }
    }

    #[test]
    fn packed_buffers_out_of_order_are_noticed() {
        let memory = Memory::new();
        let mut ring = memory.ring(true);
        ring.offer(4);
        memory.set(1, 60 | 1 << 32 | 0x8080 << 48);
        assert_eq!((ring.done(), ring.disorder()), (1, true));
    }

    #[test]
    fn a_kick_is_due_where_the_backend_wants_one() {
        let memory = Memory::new();
        let mut ring = memory.ring(false);
        ring.use_events();
        // avail_event lies behind four used elements: 4 + 32 bytes into the area.
        let want_at = |index: u64| memory.set(36, index << 32);
        want_at(2);
        ring.offer(2);
        assert!(!ring.wants_kick());
        ring.offer(1);
        assert!(ring.wants_kick());
        ring.offer(1);
        assert!(!ring.wants_kick());
    }

    #[test]
    fn a_length_changes_for_its_entry_alone() {
        for packed in [false, true] {
            let memory = Memory::new();
            let mut ring = memory.ring(packed);
            ring.set_length(5, 80);
            ring.offer(4);
            let lengths: Vec<u32> = (0..4).map(|entry| memory.word(2 * entry + 1) as u32).collect();
            assert_eq!(lengths, [76, 80, 76, 76]);
        }
    }

    #[test]
    fn split_rings_tell_what_is_used() {
        let memory = Memory::new();
        let mut ring = memory.ring(false);
        ring.offer(4);
        // used.idx = 1, element 0: id 0, 60 bytes.
        memory.set(32, 1 << 16);
        memory.set(33, 60);
        assert_eq!((ring.done(), ring.disorder()), (1, false));
        assert_eq!(ring.used(0).1, 60);
        ring.take(1);
        // used.idx = 2, element 1: id 3, though 1 was offered before it.
        memory.set(32, 2 << 16);
        memory.set(33, 60 | 3 << 32);
        assert_eq!((ring.done(), ring.disorder()), (1, true));
    }
}
