//! A guest's driver that costs next to nothing: its rings are filled once, and every used buffer is offered again as it
//! is. So the switch is the limit, not the load.
//!
//! It relies on buffers coming back in order, as both Culvert and DPDK return them, and checks that they do.

use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};
use culvert_driver::{Descriptor, Shape};
use culvert_system::frontend::FrontendGuest;

/// Bytes of a receive buffer, header included.
const BUFFER_BYTES: u32 = 2048;
const HEADER_BYTES: u32 = 12;

/// A guest of which both rings are driven from here.
pub struct LoadGuest {
    guest: FrontendGuest,
    transmit: FastRing,
    receive: FastRing,
}

/// One ring: entry i of the available ring is always descriptor i.
struct FastRing {
    size: u16,
    available: *mut u8,
    used: *mut u8,
    seen: u16,
    count: u64,
    disorder: bool,
}

impl LoadGuest {
    /// Connects; its frames go from address `from` to address `to` and have `length` bytes.
    pub fn connect(socket: &Path, from: [u8; 6], to: [u8; 6], length: u32) -> Result<Self> {
        let guest = FrontendGuest::connect(socket, Shape { queue_size: 256, ..Shape::default() })?;
        let interface = &guest.interface;
        let (ram, size) = (interface.ram(), interface.transmit.size());
        let mut frame = [to, from].concat();
        frame.extend([0x88, 0xb5]);
        frame.resize(length as usize, 0x5a);
        let buffers = ram.allocate(u64::from(size) * u64::from(BUFFER_BYTES), 4096);
        for index in 0..size {
            let address = buffers + u64::from(index) * u64::from(BUFFER_BYTES);
            ram.write(address, &[0; HEADER_BYTES as usize]);
            ram.write(address + u64::from(HEADER_BYTES), &frame);
            let length = HEADER_BYTES + length;
            interface.transmit.set_descriptor(index, Descriptor { address, length, flags: 0, next: 0 });
        }
        // The receive ring was filled by the interface, each entry with the descriptor that came first from its list.
        let fast = |ring: &culvert_driver::Ring| {
            let (_, available, used) = ring.guest_addresses();
            let entries = usize::from(ring.size());
            FastRing {
                size: ring.size(),
                available: ram.at(available, 6 + 2 * entries),
                used: ram.at(used, 6 + 8 * entries),
                seen: 0,
                count: 0,
                disorder: false,
            }
        };
        let (mut transmit, receive) = (fast(&interface.transmit), fast(&interface.receive));
        for slot in 0..size {
            transmit.write_available(slot, slot);
        }
        transmit.offer(size);
        interface.transmit.want_interrupt(false);
        interface.receive.want_interrupt(false);
        guest.kick()?;
        Ok(Self { guest, transmit, receive })
    }

    /// Offers again what came back, and kicks if the backend asks for that.
    #[inline]
    pub fn turn(&mut self) -> Result<()> {
        self.receive.recycle();
        if self.transmit.recycle() && self.transmit.wants_kick() { self.guest.kick() } else { Ok(()) }
    }

    /// Frames received so far.
    pub fn received(&self) -> u64 {
        self.receive.count
    }

    /// Fails if a buffer came back out of order: then the load was not what it should be.
    pub fn check(&self) -> Result<()> {
        let disorder = self.transmit.disorder || self.receive.disorder;
        (!disorder).then_some(()).context("the backend returned buffers out of order: this load cannot measure it")
    }
}

impl FastRing {
    /// Takes everything used and offers it again; whether there was anything.
    #[inline]
    fn recycle(&mut self) -> bool {
        // SAFETY: offsets inside of the ring's areas, whose length `at` checked.
        let index = unsafe { self.used.add(2).cast::<u16>().read_volatile() };
        let count = index.wrapping_sub(self.seen);
        if count == 0 {
            return false;
        }
        fence(Ordering::Acquire);
        let slot = self.seen & (self.size - 1);
        // SAFETY: as above.
        let (used, offered) = unsafe {
            (
                self.used.add(4 + 8 * usize::from(slot)).cast::<u32>().read_volatile(),
                self.available.add(4 + 2 * usize::from(slot)).cast::<u16>().read_volatile(),
            )
        };
        self.disorder |= used != u32::from(offered);
        self.seen = index;
        self.count += u64::from(count);
        self.offer(count);
        true
    }

    /// Whether the backend asks for a kick: as every driver does, after a full barrier (virtio 1.3, 2.7.13.4.1).
    #[inline]
    fn wants_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: offsets inside of the ring's areas, whose length `at` checked.
        unsafe { self.used.cast::<u16>().read_volatile() & 1 == 0 }
    }

    fn offer(&mut self, count: u16) {
        fence(Ordering::Release);
        // SAFETY: as above.
        unsafe {
            let index = self.available.add(2).cast::<u16>();
            index.write_volatile(index.read_volatile().wrapping_add(count));
        }
    }

    fn write_available(&mut self, slot: u16, head: u16) {
        // SAFETY: as above.
        unsafe { self.available.add(4 + 2 * usize::from(slot)).cast::<u16>().write_volatile(head) }
    }
}
