//! The driver's side of a packed ring (virtio 1.3, section 2.8).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use crate::ram::Ram;
use crate::ring::Buffer;

/// One descriptor of a packed ring as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// The driver's name for the buffer.
    pub id: u16,
    /// 1 = next, 2 = device writes, 4 = indirect, 0x80 = AVAIL, 0x8000 = USED.
    pub flags: u16,
}

/// A packed ring, from the driver's side.
pub struct PackedRing {
    ram: Rc<Ram>,
    size: u16,
    descriptors: u64,
    driver_event: u64,
    device_event: u64,
    event_idx: bool,
    /// Names that are free, and free descriptors.
    ids: Vec<u16>,
    free: u16,
    /// For each name, how many descriptors its buffer has.
    entries: Vec<u16>,
    next: Place,
    next_used: Place,
    /// What was offered and not taken back, in order.
    in_flight: VecDeque<(Place, u16)>,
    /// Flags that make offered buffers visible: where, and what.
    hidden: Vec<(Place, u16)>,
    /// Where the next kick is due at the earliest.
    kicked: Place,
    offered: u16,
    published: u16,
    taken: u16,
}

/// An index and the lap that it is meant in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index in the ring.
    pub index: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Place {
    const START: Self = Self { index: 0, wrap: true };

    /// The place `count` descriptors on in a ring of `size`.
    #[must_use]
    pub fn ahead(self, count: u16, size: u16) -> Self {
        let index = self.index + count;
        if index < size { Self { index, wrap: self.wrap } } else { Self { index: index - size, wrap: !self.wrap } }
    }

    /// The flags that make it available.
    pub fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// The flags that make it used.
    pub fn used(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }

    /// As in SET_VRING_BASE: the index, and the wrap counter in bit 15.
    pub fn position(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

impl PackedRing {
    /// A new, empty ring.
    pub fn new(ram: Rc<Ram>, size: u16, event_idx: bool) -> Self {
        let descriptors = ram.allocate(16 * u64::from(size), 4096);
        let driver_event = ram.allocate(4, 64);
        let device_event = ram.allocate(4, 64);
        let mut ring = Self {
            ram,
            size,
            descriptors,
            driver_event,
            device_event,
            event_idx,
            ids: Vec::new(),
            free: 0,
            entries: vec![0; usize::from(size)],
            next: Place::START,
            next_used: Place::START,
            in_flight: VecDeque::new(),
            hidden: Vec::new(),
            kicked: Place::START,
            offered: 0,
            published: 0,
            taken: 0,
        };
        ring.reset();
        ring
    }

    /// Empties the ring, as a driver does that starts anew.
    pub fn reset(&mut self) {
        self.ram.write(self.descriptors, &vec![0; 16 * usize::from(self.size)]);
        self.ram.write(self.driver_event, &[0; 4]);
        self.ram.write(self.device_event, &[0; 4]);
        self.start_at(Place::START);
    }

    /// Starts at another place than the first, with an empty ring.
    pub fn start_at(&mut self, place: Place) {
        self.ids = (0..self.size).rev().collect();
        self.free = self.size;
        (self.next, self.next_used, self.kicked) = (place, place, place);
        (self.offered, self.published, self.taken) = (0, 0, 0);
        self.in_flight.clear();
        self.hidden.clear();
        for index in 0..self.size {
            // As the last lap left it: used up to here in this one, and in the one before from here on.
            let lap = Place { index, wrap: if index < place.index { place.wrap } else { !place.wrap } };
            self.set_descriptor(index, PackedDescriptor { flags: lap.used(), ..PackedDescriptor::default() });
        }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Guest addresses of descriptors, driver event area and device event area.
    pub fn guest_addresses(&self) -> (u64, u64, u64) {
        (self.descriptors, self.driver_event, self.device_event)
    }

    /// How many more descriptors are free.
    pub fn free(&self) -> usize {
        usize::from(self.free)
    }

    /// Where the next buffer will be.
    pub fn next(&self) -> Place {
        self.next
    }

    /// Where the next used buffer will be.
    pub fn next_used(&self) -> Place {
        self.next_used
    }

    /// Where the device stands: all before was used, taken back or not.
    pub fn device_place(&self) -> Place {
        let used = self.in_flight.iter().take_while(|(place, _)| self.is_used(*place));
        used.fold(self.next_used, |_, (place, count)| place.ahead(*count, self.size))
    }

    /// The name that the next buffer will have.
    ///
    /// # Panics
    /// When all are in use.
    pub fn next_id(&self) -> u16 {
        *self.ids.last().expect("a free name")
    }

    /// How many buffers were offered since the start, published or not; how many of them the device sees; how many it gave back.
    pub fn counts(&self) -> (u16, u16, u16) {
        let used = self.in_flight.iter().take_while(|(place, _)| self.is_used(*place)).count();
        (self.offered, self.published, self.taken.wrapping_add(used as u16))
    }

    /// Puts a buffer of several parts into the ring; `None` when descriptors are used up. The device sees it after
    /// [`Self::publish`].
    pub fn offer(&mut self, buffers: &[Buffer]) -> Option<u16> {
        let count = u16::try_from(buffers.len()).ok().filter(|&count| count > 0 && count <= self.free)?;
        let id = self.ids.pop()?;
        for (index, buffer) in (0..).zip(buffers) {
            let flags = u16::from(index + 1 < count) | if buffer.writable { 2 } else { 0 };
            self.add(index, PackedDescriptor { address: buffer.address, length: buffer.length, id, flags });
        }
        self.offer_as(id, count);
        Some(id)
    }

    /// As [`Self::offer`], with descriptors as they are told: only their names, and whose they are, is as it must be.
    pub fn offer_raw(&mut self, descriptors: &[PackedDescriptor]) -> Option<u16> {
        let count = u16::try_from(descriptors.len()).ok().filter(|&count| count > 0 && count <= self.free)?;
        let id = self.ids.pop()?;
        for (index, descriptor) in (0..).zip(descriptors) {
            self.add(index, PackedDescriptor { id, ..*descriptor });
        }
        self.offer_as(id, count);
        Some(id)
    }

    /// As [`Self::offer`], with the buffers in an indirect table at `table`, which must have 16 bytes a buffer.
    pub fn offer_indirect(&mut self, table: u64, buffers: &[Buffer]) -> Option<u16> {
        self.offer_partly_indirect(table, buffers, 0)
    }

    /// As [`Self::offer`], with the buffers from `direct` on in an indirect table at `table`.
    pub fn offer_partly_indirect(&mut self, table: u64, buffers: &[Buffer], direct: usize) -> Option<u16> {
        let (direct, indirect) = buffers.split_at(direct.min(buffers.len()));
        let count = u16::try_from(direct.len()).ok().filter(|&count| count < self.free)?;
        let id = self.ids.pop()?;
        for (place, buffer) in (0..).zip(indirect) {
            let flags = if buffer.writable { 2 } else { 0 };
            let descriptor = PackedDescriptor { address: buffer.address, length: buffer.length, id: 0, flags };
            write_descriptor(&self.ram, table + 16 * place, descriptor);
        }
        for (index, buffer) in (0..).zip(direct) {
            let flags = 1 | if buffer.writable { 2 } else { 0 };
            self.add(index, PackedDescriptor { address: buffer.address, length: buffer.length, id, flags });
        }
        let length = 16 * indirect.len() as u32;
        self.add(count, PackedDescriptor { address: table, length, id, flags: 4 });
        self.offer_as(id, count + 1);
        Some(id)
    }

    /// Shows everything offered to the device; returns whether it wants a kick.
    pub fn publish(&mut self) -> bool {
        fence(Ordering::Release);
        for (place, flags) in std::mem::take(&mut self.hidden) {
            self.write_u16(self.descriptors + 16 * u64::from(place.index) + 14, flags);
        }
        self.published = self.offered;
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked, self.next);
        self.kicked = new;
        match (self.read_u16(self.device_event + 2) & 3, self.event_idx) {
            (1, _) => false,
            (2, true) => {
                let event = self.read_u16(self.device_event);
                let lap = |index: u16, wrap: bool| index.wrapping_sub(if wrap == new.wrap { 0 } else { self.size });
                let event = lap(event & 0x7fff, event >> 15 != 0);
                new.index.wrapping_sub(event).wrapping_sub(1) < new.index.wrapping_sub(lap(old.index, old.wrap))
            }
            _ => old != new,
        }
    }

    /// The next used buffer: its name and the bytes written. Its descriptors are free again. One that was not offered is none.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if !self.is_used(self.next_used) {
            return None;
        }
        fence(Ordering::Acquire);
        let PackedDescriptor { id, length, .. } = self.descriptor(self.next_used.index);
        let entries = std::mem::take(self.entries.get_mut(usize::from(id)).filter(|entries| **entries > 0)?);
        self.in_flight.pop_front();
        self.next_used = self.next_used.ahead(entries, self.size);
        self.free += entries;
        self.ids.push(id);
        self.taken = self.taken.wrapping_add(1);
        Some((id, length))
    }

    /// Asks the device for an interrupt at its next used buffer, or for none.
    pub fn want_interrupt(&self, wanted: bool) {
        let flags = match (wanted, self.event_idx) {
            (false, _) => 1,
            (true, false) => 0,
            (true, true) => 2,
        };
        self.set_driver_event(self.next_used.position(), flags);
        fence(Ordering::SeqCst);
    }

    /// Overwrites what the device reads of the interrupts that are wanted: where, and flags.
    pub fn set_driver_event(&self, event: u16, flags: u16) {
        self.write_u16(self.driver_event, event);
        self.write_u16(self.driver_event + 2, flags);
    }

    /// Whether the device has given back what is at a place.
    pub fn is_used(&self, place: Place) -> bool {
        let flags = self.read_u16(self.descriptors + 16 * u64::from(place.index) + 14);
        flags & (AVAIL | USED) == place.used()
    }

    /// What lies at an index.
    pub fn descriptor(&self, index: u16) -> PackedDescriptor {
        let mut bytes = [0; 16];
        self.ram.read(self.descriptors + 16 * u64::from(index), &mut bytes);
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, i0, i1, f0, f1] = bytes;
        PackedDescriptor {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            id: u16::from_le_bytes([i0, i1]),
            flags: u16::from_le_bytes([f0, f1]),
        }
    }

    /// Overwrites a descriptor.
    pub fn set_descriptor(&self, index: u16, descriptor: PackedDescriptor) {
        write_descriptor(&self.ram, self.descriptors + 16 * u64::from(index), descriptor);
    }

    /// Writes descriptor `index` of the next buffer; the first one stays hidden.
    fn add(&mut self, index: u16, descriptor: PackedDescriptor) {
        let place = self.next.ahead(index, self.size);
        let flags = descriptor.flags | place.available();
        let before = self.descriptor(place.index).flags;
        let flags = if index == 0 {
            self.hidden.push((place, flags));
            before
        } else {
            flags
        };
        self.set_descriptor(place.index, PackedDescriptor { flags, ..descriptor });
    }

    fn offer_as(&mut self, id: u16, count: u16) {
        self.entries[usize::from(id)] = count;
        self.in_flight.push_back((self.next, count));
        self.next = self.next.ahead(count, self.size);
        self.free -= count;
        self.offered = self.offered.wrapping_add(1);
    }

    fn read_u16(&self, guest: u64) -> u16 {
        // SAFETY: `at` checks the range; ring fields are aligned.
        unsafe { self.ram.at(guest, 2).cast::<u16>().read_volatile() }
    }

    fn write_u16(&self, guest: u64, value: u16) {
        // SAFETY: `at` checks the range; ring fields are aligned.
        unsafe { self.ram.at(guest, 2).cast::<u16>().write_volatile(value) }
    }
}

fn write_descriptor(ram: &Ram, guest: u64, descriptor: PackedDescriptor) {
    let PackedDescriptor { address, length, id, flags } = descriptor;
    let rest = u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48;
    // SAFETY: `at` checks the range; descriptors are 16-byte aligned, tables at least 8.
    unsafe {
        let at = ram.at(guest, 16).cast::<u64>();
        at.write_volatile(address);
        at.add(1).write_volatile(rest);
    }
}

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
