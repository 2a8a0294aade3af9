//! A guest's driver that costs next to nothing: its rings are filled once, and every used buffer is offered again as it
//! is, or with the few bytes changed in which frames differ. So the switch is the limit, not the load. Nothing is
//! allocated once it is connected.
//!
//! It relies on buffers coming back in order, as all our peers return them, and checks that they do.

mod ring;
mod shape;

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Interface, Ram, Shape};
use culvert_system::frontend::FrontendGuest;
use rustix::fs::MemfdFlags;

pub use ring::FastRing;
use ring::{Buffers, Layout};
pub use shape::{Frames, Lengths};

/// Bytes of the virtio-net header in front of each frame.
pub const HEADER_BYTES: u32 = 12;

/// What the rings of a guest are like.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// Entries of each.
    pub entries: u16,
    /// They are packed.
    pub packed: bool,
    /// The guest's memory lies in pages of 2 MiB.
    pub huge: bool,
}

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
    /// Where frames lie that were marked, and are with the switch; as long as the ring at most.
    marked: VecDeque<u16>,
}

/// The guest's side of one frame, while it is the guest's.
#[derive(Clone, Copy)]
pub struct Slot {
    frame: *mut u8,
    length: u32,
}

impl LoadGuest {
    /// Connects, with all transmit buffers free.
    ///
    /// # Errors
    /// The backend refuses it, or has no such rings; there are no pages of 2 MiB.
    pub fn connect(socket: &Path, rings: Rings, frames: Frames) -> Result<Self> {
        let entries = rings.entries;
        let stride = u64::from(HEADER_BYTES + frames.lengths.longest()).next_multiple_of(2048);
        let ram_bytes = (2 * u64::from(entries) * (stride + 512) + 0x4_0000).next_multiple_of(PAGE_BYTES);
        // The interface lays out the rings; buffers, and what the rings say of them, are ours.
        let shape = Shape { queue_size: entries, receive_bytes: 64, packed: rings.packed, ..Shape::default() };
        let mut interface = Interface::in_ram(shape, 64, memory(ram_bytes, rings.huge)?);
        let [transmit, mut receive] = lay_out(&mut interface, rings, [stride; 2], |index| frames.image(index));
        receive.offer(entries);
        let guest = FrontendGuest::join(socket, interface, true, if rings.packed { RING_PACKED } else { 0 })?;
        let step = 7919 % frames.identities();
        let marked = VecDeque::with_capacity(usize::from(entries));
        Ok(Self {
            guest,
            transmit,
            receive,
            free: entries,
            sent: 0,
            received: 0,
            frames,
            identity: 0,
            step,
            fill: 0,
            marked,
        })
    }

    /// Sends from all its addresses and flows from now on, or from the last one alone, writing as much into each frame.
    pub fn vary(&mut self, all: bool) {
        self.step = if all { 7919 % self.frames.identities() } else { 0 };
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
        while let Some(&position) = self.marked.front()
            && position.wrapping_sub(self.transmit.seen()) < count
        {
            // What is sent from there next is an ordinary frame again.
            let entry = position & (self.transmit.size() - 1);
            self.transmit.set_length(position, HEADER_BYTES + self.frames.lengths.of(entry));
            self.marked.pop_front();
        }
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

    /// Sends one frame that tells something, at [`Slot::mark`]; `false` when the ring is full. It is longer than all others, so that whoever
    /// gets it knows it by that and need not look into each frame.
    #[inline]
    pub fn send_marked(&mut self, mark: u64) -> Result<bool> {
        if self.free == 0 {
            return Ok(false);
        }
        let (position, slot) = (self.transmit.offered(), self.next_slot(0));
        slot.write(MARK, mark.to_ne_bytes());
        self.transmit.set_length(position, HEADER_BYTES + slot.length + MARKED_BYTES);
        self.marked.push_back(position);
        Ok(self.publish(1)? == 1)
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

    /// What a frame tells that is longer than `ordinary`; nothing if it is not.
    #[inline]
    pub fn mark(&self, ordinary: u32) -> Option<u64> {
        // SAFETY: every buffer has more than 64 bytes, and it is ours now.
        (self.length > ordinary).then(|| unsafe { self.frame.add(MARK).cast::<u64>().read_unaligned() })
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

/// The transmit and the receive ring of an interface, with as many buffers as they have entries, `stride` bytes from one to the next (of each
/// ring its own). `image` is what lies in a transmit buffer behind a header of zeros, and in a receive buffer at first.
pub fn lay_out(
    interface: &mut Interface,
    rings: Rings,
    strides: [u64; 2],
    image: impl Fn(u16) -> Vec<u8>,
) -> [FastRing; 2] {
    let entries = rings.entries;
    [false, true].map(|writes| {
        let stride = strides[usize::from(writes)];
        let ring = if writes { &mut interface.receive } else { &mut interface.transmit };
        ring.reset();
        ring.want_interrupt(false);
        let [first, second, third] = <[u64; 3]>::from(ring.guest_addresses());
        let ram = interface.ram();
        let address = ram.allocate(u64::from(entries) * stride, 4096);
        let mut lengths = Vec::new();
        for index in 0..entries {
            let at = address + u64::from(index) * stride;
            let frame = image(index);
            ram.write(at, &[0; HEADER_BYTES as usize]);
            ram.write(at + u64::from(HEADER_BYTES), &frame);
            lengths.push(if writes { stride as u32 } else { HEADER_BYTES + frame.len() as u32 });
        }
        let count = usize::from(entries);
        let descriptors = ram.at(first, 16 * count);
        let layout = if rings.packed {
            Layout::Packed { descriptors, event: ram.at(third, 4) }
        } else {
            Layout::Split { descriptors, available: ram.at(second, 6 + 2 * count), used: ram.at(third, 6 + 8 * count) }
        };
        let (start, stride) = (ram.at(address, count * stride as usize), stride as usize);
        let buffers = Buffers { start, address, stride, lengths: lengths.into(), writes };
        // SAFETY: the areas have room for a ring of so many entries, the buffers for as many of that length, and all
        // live as long as the interface, which is kept beside the rings.
        unsafe { FastRing::new(layout, buffers) }
    })
}

/// Has all guests send as much as they can for this time.
///
/// # Errors
/// The switch gives a buffer back out of turn.
pub fn drive(guests: &mut [LoadGuest], time: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            guests.iter_mut().try_for_each(|guest| guest.turn(true))?;
        }
    }
    Ok(())
}

/// Memory for a guest.
pub fn memory(bytes: u64, huge: bool) -> Result<Ram> {
    if !huge {
        return Ok(Ram::new(bytes, false));
    }
    let pages = bytes / PAGE_BYTES;
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
    rustix::fs::ftruncate(&file, bytes)?;
    ensure!(
        Ram::can_be(std::os::fd::AsFd::as_fd(&file), bytes),
        "--hugepages: {pages} more pages of 2 MiB are wanted; see /proc/sys/vm/nr_hugepages"
    );
    Ok(Ram::of_file(file, bytes))
}

/// Pages of 2 MiB, of which all memory is a multiple.
const PAGE_BYTES: u64 = 0x20_0000;

/// Where a frame tells something: behind the headers. And by how much it is longer then.
const MARK: usize = 42;
const MARKED_BYTES: u32 = 2;

/// Feature bit: virtio 1.3, 6.
const RING_PACKED: u64 = 1 << 34;
