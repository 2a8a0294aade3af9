//! A split ring from the driver's side of which entry i is always descriptor i (virtio 1.3, section 2.7).

use std::sync::atomic::{Ordering, fence};

/// One ring, and its buffers.
pub struct FastRing {
    size: u16,
    available: *mut u8,
    used: *mut u8,
    buffers: *mut u8,
    stride: usize,
    /// The used index up to which buffers were taken.
    seen: u16,
    /// The available index: what has been offered.
    offered: u16,
    disorder: bool,
}

impl FastRing {
    /// A ring over its areas, available and used; entry i of the available ring becomes descriptor i. What has been
    /// offered already stays so.
    ///
    /// # Safety
    /// The areas have room for a ring of so many entries, a power of 2, the buffers for as many of `stride` bytes, and all
    /// live longer than this.
    pub unsafe fn new(size: u16, [available, used]: [*mut u8; 2], buffers: *mut u8, stride: usize) -> Self {
        for slot in 0..size {
            // SAFETY: inside of the area.
            unsafe { available.add(4 + 2 * usize::from(slot)).cast::<u16>().write_volatile(slot) };
        }
        // SAFETY: inside of the area.
        let offered = unsafe { available.add(2).cast::<u16>().read_volatile() };
        Self { size, available, used, buffers, stride, seen: 0, offered, disorder: false }
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
        // SAFETY: inside of the area.
        let index = unsafe { self.used.add(2).cast::<u16>().read_volatile() };
        let count = index.wrapping_sub(self.seen);
        if count > 0 {
            fence(Ordering::Acquire);
            self.disorder |= count > self.size || self.element(0).0 != u32::from(self.entry(self.seen));
        }
        count.min(self.size)
    }

    /// A used buffer, and the bytes that the device wrote; `index` counts from the one that is next.
    #[inline]
    pub fn used(&self, index: u16) -> (*mut u8, u32) {
        (self.buffer(self.seen.wrapping_add(index)), self.element(index).1)
    }

    /// Takes so many used buffers.
    #[inline]
    pub fn take(&mut self, count: u16) {
        self.seen = self.seen.wrapping_add(count);
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

    /// Offers so many buffers.
    #[inline]
    pub fn offer(&mut self, count: u16) {
        self.offered = self.offered.wrapping_add(count);
        fence(Ordering::Release);
        // SAFETY: inside of the area.
        unsafe { self.available.add(2).cast::<u16>().write_volatile(self.offered) }
    }

    /// Whether the backend asks for a kick: as every driver does, after a full barrier (virtio 1.3, 2.7.13.4.1).
    #[inline]
    pub fn wants_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: inside of the area.
        unsafe { self.used.cast::<u16>().read_volatile() & 1 == 0 }
    }

    #[inline]
    fn entry(&self, position: u16) -> u16 {
        position & (self.size - 1)
    }

    #[inline]
    fn buffer(&self, position: u16) -> *mut u8 {
        // SAFETY: an entry's buffer is inside of the buffers.
        unsafe { self.buffers.add(usize::from(self.entry(position)) * self.stride) }
    }

    /// Id and length of a used element.
    #[inline]
    fn element(&self, index: u16) -> (u32, u32) {
        let entry = usize::from(self.entry(self.seen.wrapping_add(index)));
        // SAFETY: inside of the area.
        unsafe {
            let element = self.used.add(4 + 8 * entry).cast::<u32>();
            (element.read_volatile(), element.add(1).read_volatile())
        }
    }
}
