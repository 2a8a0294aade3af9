//! A guest's driver that costs next to nothing: its rings are filled once, and every used buffer is offered again as it
//! is, or with the few bytes changed in which frames differ. So the switch is the limit, not the load. Nothing is
//! allocated once it is connected.
//!
//! It relies on buffers coming back in order, as all our peers return them, and checks that they do.

mod ring;
mod shape;

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result};
use culvert_driver::{Descriptor, Interface, Ram, Shape};
use culvert_system::frontend::FrontendGuest;

pub use ring::FastRing;
pub use shape::{Frames, Lengths};

/// Bytes of the virtio-net header in front of each frame.
const HEADER_BYTES: u32 = 12;

/// A guest of which both rings are driven from here.
pub struct LoadGuest {
    guest: FrontendGuest,
    transmit: FastRing,
    receive: FastRing,
    /// Transmit buffers that are with us; the next one to send is the one that came back first.
    free: u16,
    sent: u64,
    received: u64,
    frames: Frames,
    /// Which of its addresses and flows the next frame has.
    identity: u32,
    /// From one to the next: 7919 shares no factor with what we use, so all come, and none near the one before it.
    step: u32,
    /// What is written into touched frames next.
    fill: u8,
}

/// The guest's side of one frame, while it is the guest's.
#[derive(Clone, Copy)]
pub struct Slot {
    frame: *mut u8,
    length: u32,
}

impl LoadGuest {
    /// Connects, with rings of so many entries and all transmit buffers free.
    pub fn connect(socket: &Path, entries: u16, frames: Frames) -> Result<Self> {
        let stride = u64::from(HEADER_BYTES + frames.lengths.longest()).next_multiple_of(2048);
        let ram_bytes = (2 * u64::from(entries) * (stride + 512) + 0x4_0000).next_multiple_of(0x20_0000);
        // The interface lays out the rings; buffers, and what the rings say of them, are ours.
        let shape = Shape { queue_size: entries, receive_bytes: 64, ..Shape::default() };
        let interface = Interface::in_ram(shape, 64, Ram::new(ram_bytes, false));
        let ram = interface.ram();
        let mut rings = Vec::new();
        for (ring, writes) in [(&interface.transmit, false), (&interface.receive, true)] {
            let buffers = ram.allocate(u64::from(entries) * stride, 4096);
            for index in 0..entries {
                let at = buffers + u64::from(index) * stride;
                let frame = frames.image(index);
                let (length, flags) = if writes { (stride as u32, 2) } else { (HEADER_BYTES + frame.len() as u32, 0) };
                ram.write(at, &[0; HEADER_BYTES as usize]);
                ram.write(at + u64::from(HEADER_BYTES), &frame);
                ring.set_descriptor(index, Descriptor { address: at, length, flags, next: 0 });
            }
            let (_, available, used) = ring.guest_addresses();
            let buffers = ram.at(buffers, usize::from(entries) * stride as usize);
            let areas = [ram.at(available, 6 + 2 * usize::from(entries)), ram.at(used, 6 + 8 * usize::from(entries))];
            // SAFETY: the areas have room for a ring of so many entries, the buffers for as many of that length, and all
            // live as long as the interface, which is kept beside the rings.
            rings.push(unsafe { FastRing::new(entries, areas, buffers, stride as usize) });
            ring.want_interrupt(false);
        }
        let (Some(receive), Some(transmit)) = (rings.pop(), rings.pop()) else { anyhow::bail!("two rings") };
        let guest = FrontendGuest::join(socket, interface, true, 0)?;
        // The interface has offered all receive buffers already.
        let step = 7919 % frames.identities();
        Ok(Self { guest, transmit, receive, free: entries, sent: 0, received: 0, frames, identity: 0, step, fill: 0 })
    }

    /// Takes what came and what is done; sends as much as it can if `sending`.
    #[inline]
    pub fn turn(&mut self, sending: bool) -> Result<()> {
        self.take();
        self.reclaim();
        if sending { self.send(u16::MAX).map(drop) } else { Ok(()) }
    }

    /// Takes all frames that came, reading them if they are to be touched; returns how many.
    #[inline]
    pub fn take(&mut self) -> u16 {
        if self.frames.touched {
            return self.take_each(|slot| slot.read());
        }
        let count = self.receive.done();
        self.give_back(count);
        count
    }

    /// Takes all frames that came, after a look at each; returns how many.
    #[inline]
    pub fn take_each(&mut self, mut look: impl FnMut(Slot)) -> u16 {
        let count = self.receive.done();
        for index in 0..count {
            let (buffer, bytes) = self.receive.used(index);
            // SAFETY: the frame lies behind the header.
            let frame = unsafe { buffer.add(HEADER_BYTES as usize) };
            look(Slot { frame, length: bytes.saturating_sub(HEADER_BYTES) });
        }
        self.give_back(count);
        count
    }

    /// Takes back transmit buffers that are done; returns how many are free.
    #[inline]
    pub fn reclaim(&mut self) -> u16 {
        let count = self.transmit.done();
        self.transmit.take(count);
        self.free += count;
        self.free
    }

    /// Sends up to so many frames, as many as there are free buffers, and kicks if the backend asks for that. Returns how
    /// many.
    #[inline]
    pub fn send(&mut self, wanted: u16) -> Result<u16> {
        let count = wanted.min(self.free);
        if self.frames.vary() {
            for index in 0..count {
                self.prepare(index);
            }
        }
        self.publish(count)
    }

    /// Sends up to so many frames after writing into each; returns how many. Whoever uses this writes the same place in all.
    #[inline]
    pub fn send_each(&mut self, wanted: u16, mut write: impl FnMut(Slot)) -> Result<u16> {
        let count = wanted.min(self.free);
        for index in 0..count {
            write(self.next_slot(index));
        }
        self.publish(count)
    }

    /// Frames received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Frames sent so far: offered to the switch, whatever it did with them.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Frames that the switch has taken so far: their buffers came back.
    pub fn taken(&self) -> u64 {
        self.sent - u64::from(self.transmit.size() - self.free)
    }

    /// Fails if a buffer came back out of order: then the load was not what it should be.
    pub fn check(&self) -> Result<()> {
        let disorder = self.transmit.disorder() || self.receive.disorder();
        (!disorder).then_some(()).context("the backend returned buffers out of order: this load cannot measure it")
    }

    #[inline]
    fn give_back(&mut self, count: u16) {
        if count > 0 {
            self.receive.take(count);
            self.receive.offer(count);
            self.received += u64::from(count);
        }
    }

    #[inline]
    fn publish(&mut self, count: u16) -> Result<u16> {
        if count > 0 {
            self.transmit.offer(count);
            self.free -= count;
            self.sent += u64::from(count);
            if self.transmit.wants_kick() {
                self.guest.kick()?;
            }
        }
        Ok(count)
    }

    #[inline]
    fn next_slot(&self, index: u16) -> Slot {
        let (buffer, length) = (self.transmit.next(index), self.frames.lengths.of(self.transmit.next_entry(index)));
        // SAFETY: the frame lies behind the header.
        Slot { frame: unsafe { buffer.add(HEADER_BYTES as usize) }, length }
    }

    #[inline]
    fn prepare(&mut self, index: u16) {
        let slot = self.next_slot(index);
        if self.frames.touched {
            self.fill = self.fill.wrapping_add(1);
            slot.fill(self.fill);
        }
        self.identity += self.step;
        if self.identity >= self.frames.identities() {
            self.identity -= self.frames.identities();
        }
        if self.frames.addresses > 1 {
            let identity = (self.identity as u16).to_be_bytes();
            slot.write(4, identity);
            slot.write(10, identity);
        }
        if self.frames.flows > 1 {
            slot.write(34, (self.identity as u16).to_be_bytes());
        }
    }
}

impl Slot {
    /// Writes bytes at an offset of the frame, of which the first 64 bytes can be written.
    #[inline]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        debug_assert!(offset + N <= 64, "outside of the shortest frame");
        // SAFETY: every frame has 64 bytes, and it is ours now.
        unsafe { self.frame.add(offset).cast::<[u8; N]>().write_unaligned(bytes) }
    }

    /// Reads bytes at an offset of the frame, of which the first 64 can be read.
    #[inline]
    pub fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        debug_assert!(offset + N <= 64, "outside of the shortest frame");
        // SAFETY: every buffer has more than 64 bytes, and it is ours now.
        unsafe { self.frame.add(offset).cast::<[u8; N]>().read_unaligned() }
    }

    /// Writes all that is behind the headers.
    #[inline]
    fn fill(&self, byte: u8) {
        // SAFETY: inside of the frame, which is ours now.
        unsafe { self.frame.add(42).write_bytes(byte, self.length.saturating_sub(42) as usize) }
    }

    /// Reads every byte.
    #[inline]
    fn read(&self) {
        // SAFETY: the switch has given it back with so many bytes, of a buffer that has room for more.
        let bytes = unsafe { std::slice::from_raw_parts(self.frame, self.length.min(9216) as usize) };
        let (words, rest) = bytes.as_chunks::<8>();
        let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
        black_box(rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte))));
    }
}
