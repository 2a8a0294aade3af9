//! The driver's side of a split ring (virtio 1.3, section 2.7), or by the same calls of a packed one ([`PackedRing`]).

use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use crate::packed::PackedRing;
use crate::ram::Ram;

/// One descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// 1 = next, 2 = device writes, 4 = indirect.
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

/// A buffer to offer: guest address, length, and whether the device writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// Device-writable.
    pub writable: bool,
}

/// A ring, from the driver's side. What is said of indices and heads is of split rings; of a packed one, indices count buffers and heads
/// are their names.
pub struct Ring {
    ram: Rc<Ram>,
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    event_idx: bool,
    free: Vec<u16>,
    /// For each head, the descriptors of its chain.
    chains: Vec<Chain>,
    next_available: u16,
    next_used: u16,
    /// All of it, if it is packed.
    as_packed: Option<PackedRing>,
}

/// The descriptors of a chain in the order in which they become free: mostly one.
#[derive(Clone, Default)]
struct Chain {
    first: Option<u16>,
    others: Vec<u16>,
}

impl Ring {
    /// A new, empty ring.
    pub fn new(ram: Rc<Ram>, size: u16, event_idx: bool) -> Self {
        let entries = u64::from(size);
        let descriptors = ram.allocate(16 * entries, 4096);
        let available = ram.allocate(6 + 2 * entries, 64);
        let used = ram.allocate(6 + 8 * entries, 4096);
        let mut ring = Self {
            ram,
            size,
            descriptors,
            available,
            used,
            event_idx,
            free: Vec::new(),
            chains: vec![Chain::default(); usize::from(size)],
            next_available: 0,
            next_used: 0,
            as_packed: None,
        };
        ring.reset();
        ring
    }

    /// A new, empty packed ring.
    pub fn packed(ram: Rc<Ram>, size: u16, event_idx: bool) -> Self {
        let ring = PackedRing::new(ram.clone(), size, event_idx);
        let (descriptors, available, used) = ring.guest_addresses();
        let (free, chains) = (Vec::new(), Vec::new());
        let as_packed = Some(ring);
        Self {
            ram,
            size,
            descriptors,
            available,
            used,
            event_idx,
            free,
            chains,
            next_available: 0,
            next_used: 0,
            as_packed,
        }
    }

    /// Whether it is packed.
    pub fn is_packed(&self) -> bool {
        self.as_packed.is_some()
    }

    /// The packed ring that it is.
    ///
    /// # Panics
    /// When it is split.
    pub fn as_packed(&mut self) -> &mut PackedRing {
        self.as_packed.as_mut().expect("a packed ring")
    }

    /// Where the device stands, as SET_VRING_BASE has it: all before was used.
    pub fn base(&self) -> u32 {
        self.as_packed.as_ref().map_or_else(
            || u32::from(self.used_index()),
            |packed| u32::from(packed.device_place().position()) * 0x1_0001,
        )
    }

    /// Empties the ring, as a driver does that starts anew.
    pub fn reset(&mut self) {
        if let Some(packed) = &mut self.as_packed {
            return packed.reset();
        }
        self.ram.write(self.available, &vec![0; 6 + 2 * usize::from(self.size)]);
        self.ram.write(self.used, &vec![0; 6 + 8 * usize::from(self.size)]);
        self.free = (0..self.size).rev().collect();
        (self.next_available, self.next_used) = (0, 0);
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// User addresses of descriptor table, available ring and used ring.
    pub fn user_addresses(&self) -> (u64, u64, u64) {
        (self.ram.user(self.descriptors), self.ram.user(self.available), self.ram.user(self.used))
    }

    /// Guest addresses of descriptor table, available ring and used ring.
    pub fn guest_addresses(&self) -> (u64, u64, u64) {
        (self.descriptors, self.available, self.used)
    }

    /// How many more descriptors are free.
    pub fn free(&self) -> usize {
        if let Some(packed) = &self.as_packed {
            return packed.free();
        }
        self.free.len()
    }

    /// How many entries were offered, published or not, that the device has not given back.
    pub fn pending(&self) -> u16 {
        if let Some(packed) = &self.as_packed {
            let (offered, _, used) = packed.counts();
            return offered.wrapping_sub(used);
        }
        self.next_available.wrapping_sub(self.used_index())
    }

    /// The head that the next [`Self::offer`] will use.
    ///
    /// # Panics
    /// When no descriptor is free.
    pub fn next_head(&self) -> u16 {
        if let Some(packed) = &self.as_packed {
            return packed.next_id();
        }
        *self.free.last().expect("a free descriptor")
    }

    /// Links buffers into a chain and puts it into the available ring; `None` when descriptors are used up. The device
    /// sees it after [`Self::publish`].
    pub fn offer(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if let Some(packed) = &mut self.as_packed {
            return packed.offer(buffers);
        }
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return None;
        }
        let head = self.free.pop()?;
        let others: Vec<u16> = (1..buffers.len()).filter_map(|_| self.free.pop()).collect();
        let mut index = head;
        for (place, buffer) in buffers.iter().enumerate() {
            let next = others.get(place).copied();
            let flags = u16::from(next.is_some()) | if buffer.writable { 2 } else { 0 };
            let descriptor =
                Descriptor { address: buffer.address, length: buffer.length, flags, next: next.unwrap_or(0) };
            self.set_descriptor(index, descriptor);
            index = next.unwrap_or(head);
        }
        self.chains[usize::from(head)] = Chain { first: Some(head), others };
        self.offer_head(head);
        Some(head)
    }

    /// As [`Self::offer`], with the chain in an indirect table at `table`, which must have 16 bytes a buffer.
    pub fn offer_indirect(&mut self, table: u64, buffers: &[Buffer]) -> Option<u16> {
        if let Some(packed) = &mut self.as_packed {
            return packed.offer_indirect(table, buffers);
        }
        let head = self.free.pop()?;
        for (place, buffer) in buffers.iter().enumerate() {
            let last = place + 1 == buffers.len();
            let flags = u16::from(!last) | if buffer.writable { 2 } else { 0 };
            let next = if last { 0 } else { place as u16 + 1 };
            let descriptor = Descriptor { address: buffer.address, length: buffer.length, flags, next };
            write_descriptor(&self.ram, table + 16 * place as u64, descriptor);
        }
        let length = 16 * buffers.len() as u32;
        self.set_descriptor(head, Descriptor { address: table, length, flags: 4, next: 0 });
        self.chains[usize::from(head)] = Chain { first: Some(head), others: Vec::new() };
        self.offer_head(head);
        Some(head)
    }

    /// As [`Self::offer`], with the buffers from `direct` on in an indirect table at `table`.
    pub fn offer_partly_indirect(&mut self, table: u64, buffers: &[Buffer], direct: usize) -> Option<u16> {
        if let Some(packed) = &mut self.as_packed {
            return packed.offer_partly_indirect(table, buffers, direct);
        }
        let (direct, indirect) = buffers.split_at(direct.min(buffers.len()));
        if self.free.len() <= direct.len() {
            return None;
        }
        let head = self.offer_indirect(table, indirect)?;
        let Some((first, others)) = direct.split_first() else { return Some(head) };
        // Take the head back, and put the others in front of the table's descriptor.
        self.next_available = self.next_available.wrapping_sub(1);
        let mut next = head;
        for buffer in others.iter().rev().chain([first]) {
            let index = self.free.pop()?;
            let flags = 1 | if buffer.writable { 2 } else { 0 };
            let descriptor = Descriptor { address: buffer.address, length: buffer.length, flags, next };
            self.set_descriptor(index, descriptor);
            let mut chain = std::mem::take(&mut self.chains[usize::from(next)]);
            chain.others.push(index);
            self.chains[usize::from(index)] = chain;
            next = index;
        }
        self.offer_head(next);
        Some(next)
    }

    /// Puts a head into the available ring, whatever it is.
    pub fn offer_head(&mut self, head: u16) {
        let slot = u64::from(self.next_available & (self.size - 1));
        self.write_u16(self.available + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Shows everything offered to the device; returns whether it wants a kick.
    pub fn publish(&mut self) -> bool {
        if let Some(packed) = &mut self.as_packed {
            return packed.publish();
        }
        let old = self.available_index();
        fence(Ordering::Release);
        self.set_available_index(self.next_available);
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.read_u16(self.used + 4 + 8 * u64::from(self.size));
            self.next_available.wrapping_sub(event).wrapping_sub(1) < self.next_available.wrapping_sub(old)
        } else {
            self.read_u16(self.used) & 1 == 0
        }
    }

    /// The next used chain: its head and the bytes written. Its descriptors are free again.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if let Some(packed) = &mut self.as_packed {
            return packed.take_used();
        }
        if self.used_index() == self.next_used {
            return None;
        }
        fence(Ordering::Acquire);
        let entry = self.used + 4 + 8 * u64::from(self.next_used & (self.size - 1));
        let (head, length) = (self.read_u32(entry), self.read_u32(entry + 4));
        self.next_used = self.next_used.wrapping_add(1);
        let head = head as u16;
        let chain = std::mem::take(self.chains.get_mut(usize::from(head))?);
        self.free.extend(chain.first);
        self.free.extend(chain.others);
        Some((head, length))
    }

    /// Asks the device for an interrupt at its next used buffer, or for none.
    pub fn want_interrupt(&self, wanted: bool) {
        if let Some(packed) = &self.as_packed {
            return packed.want_interrupt(wanted);
        }
        if self.event_idx {
            let event = if wanted { self.next_used } else { self.next_used.wrapping_sub(1) };
            self.write_u16(self.available + 4 + 2 * u64::from(self.size), event);
        }
        self.write_u16(self.available, u16::from(!wanted));
        fence(Ordering::SeqCst);
    }

    /// Overwrites a descriptor.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        write_descriptor(&self.ram, self.descriptors + 16 * u64::from(index), descriptor);
    }

    /// The index that the device reads.
    pub fn available_index(&self) -> u16 {
        if let Some(packed) = &self.as_packed {
            return packed.counts().1;
        }
        self.read_u16(self.available + 2)
    }

    /// Overwrites the index that the device reads.
    pub fn set_available_index(&self, index: u16) {
        self.write_u16(self.available + 2, index);
    }

    /// The index that the device writes.
    pub fn used_index(&self) -> u16 {
        if let Some(packed) = &self.as_packed {
            return packed.counts().2;
        }
        self.read_u16(self.used + 2)
    }

    /// Starts at another position than 0, with an empty ring.
    pub fn start_at(&mut self, position: u16) {
        (self.next_available, self.next_used) = (position, position);
        self.write_u16(self.available + 2, position);
        self.write_u16(self.used + 2, position);
    }

    fn read_u16(&self, guest: u64) -> u16 {
        // SAFETY: `at` checks the range; ring fields are aligned.
        unsafe { self.ram.at(guest, 2).cast::<u16>().read_volatile() }
    }

    fn read_u32(&self, guest: u64) -> u32 {
        // SAFETY: `at` checks the range; ring fields are aligned.
        unsafe { self.ram.at(guest, 4).cast::<u32>().read_volatile() }
    }

    fn write_u16(&self, guest: u64, value: u16) {
        // SAFETY: `at` checks the range; ring fields are aligned.
        unsafe { self.ram.at(guest, 2).cast::<u16>().write_volatile(value) }
    }
}

fn write_descriptor(ram: &Ram, guest: u64, descriptor: Descriptor) {
    let rest = u64::from(descriptor.length) | u64::from(descriptor.flags) << 32 | u64::from(descriptor.next) << 48;
    // SAFETY: `at` checks the range; descriptors are 16-byte aligned, tables at least 8.
    unsafe {
        let at = ram.at(guest, 16).cast::<u64>();
        at.write_volatile(descriptor.address);
        at.add(1).write_volatile(rest);
    }
}
