//! The device's side of a split ring, played by rust-vmm's `virtio-queue`: an implementation that is not ours, to compare
//! ours with. It works on a copy of the guest's memory, so that both start from the same bytes, and the bytes of both can
//! be compared afterwards.
//!
//! `virtio-queue` ends a malformed chain silently where it cannot go on, and knows nothing of buffers and their direction.
//! [`Reference::look`] finds that out from what it yields, and adds the rules that Culvert has beyond it. A chain is
//! malformed when
//! - its walk ends before a descriptor without NEXT: index outside of the table, loop, table in a table, table with an odd
//!   length, table that cannot be read;
//! - a buffer of at least one byte is not wholly in one region, or any buffer has the wrong direction;
//! - it has more buffers than the ring has entries (virtio 1.3, 2.7.5.3.1);
//! - it has an indirect table that was not negotiated, is empty or longer than the ring, goes on with NEXT (2.7.5.3.1), is
//!   not wholly in one region, or not aligned to 8 bytes.

use std::ops::Range;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::ram::Ram;
use crate::ring::{Buffer, Ring};

/// One ring and a copy of the memory that it is in.
pub struct Reference {
    memory: GuestMemoryMmap,
    queue: Queue,
    indirect: bool,
    /// Guest addresses of each region: a buffer may not reach from one into another.
    regions: Vec<Range<u64>>,
    /// Length of the memory.
    bytes: usize,
}

/// The next chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The guest offers no (more) chain.
    Nothing,
    /// A good one.
    Chain {
        /// Its head.
        head: u16,
        /// Its buffers, those of length 0 left out.
        buffers: Vec<Buffer>,
        /// How many descriptors it has, those of length 0 included.
        walked: u16,
    },
    /// A malformed one, or a malformed index, and why.
    Malformed(&'static str),
}

/// What became of a frame that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was written and its chains completed.
    Done,
    /// There are not enough chains.
    NoBuffer,
    /// The next chain is too small, and the frame cannot go into several.
    SmallBuffer,
    /// A chain that was looked at is malformed.
    Malformed,
}

impl Reference {
    /// A device for `ring`, of which the driver has used nothing before `position`. The memory is as yet empty: see
    /// [`Self::load`].
    ///
    /// # Panics
    /// When the kernel has no memory, or the ring is not one that can be.
    pub fn new(ram: &Ram, ring: &Ring, event_idx: bool, indirect: bool, regions: Vec<Range<u64>>) -> Self {
        let base = GuestAddress(ram.guest_address());
        let bytes = ram.size() as usize;
        let memory = GuestMemoryMmap::from_ranges(&[(base, bytes)]).expect("memory");
        Self { memory, queue: queue(ring, event_idx), indirect, regions, bytes }
    }

    /// The same for another ring, or the same ring from its used index on, in the memory that this has: see
    /// [`Self::load`].
    ///
    /// # Panics
    /// When the ring is not one that can be.
    pub fn restart(&mut self, ring: &Ring, event_idx: bool, indirect: bool) {
        (self.queue, self.indirect) = (queue(ring, event_idx), indirect);
    }

    /// Takes a fresh copy of the guest's memory.
    pub fn load(&mut self, ram: &Ram) {
        self.load_first(ram, self.bytes);
    }

    /// Takes a fresh copy of the first bytes of the guest's memory.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn load_first(&mut self, ram: &Ram, bytes: usize) {
        assert!(bytes <= self.bytes);
        // SAFETY: both have as many, and nobody else has the copy.
        unsafe { std::ptr::copy_nonoverlapping(ram.at(ram.guest_address(), bytes), self.copy(), bytes) };
    }

    /// The first guest address at which the copy differs from the guest's memory, to which nobody writes meanwhile.
    pub fn difference(&self, ram: &Ram) -> Option<u64> {
        // SAFETY: as above; nobody writes to it as long as the slice lives.
        let copy = unsafe { std::slice::from_raw_parts(self.copy(), self.bytes) };
        ram.difference(ram.guest_address(), copy).map(|offset| ram.guest_address() + offset as u64)
    }

    /// Where the copy begins.
    fn copy(&self) -> *mut u8 {
        let region = self.memory.iter().next().expect("one region");
        region.get_host_address(MemoryRegionAddress(0)).expect("memory")
    }

    /// Asks the driver for no kicks.
    pub fn disable_kick(&mut self) {
        self.queue.disable_notification(&self.memory).expect("a ring in memory");
    }

    /// The chain that is `ahead` entries from the next one. `writable` is the direction that its buffers must have.
    pub fn look(&mut self, ahead: u16, writable: bool) -> Next {
        let position = self.queue.next_avail();
        if self.queue.iter(&self.memory).is_err() {
            return Next::Malformed("the available index is not within the ring");
        }
        self.queue.set_next_avail(position.wrapping_add(ahead));
        let chain = self.queue.iter(&self.memory).ok().and_then(|mut chains| chains.next());
        self.queue.set_next_avail(position);
        let Some(chain) = chain else { return Next::Nothing };
        let head = chain.head_index();
        if let Some(why) = self.bad_table(head) {
            return Next::Malformed(why);
        }
        let (mut buffers, mut count, mut ended) = (Vec::new(), 0, false);
        for descriptor in chain {
            count += 1;
            ended = !descriptor.has_next();
            let (address, length) = (descriptor.addr().0, descriptor.len());
            if descriptor.is_write_only() != writable {
                return Next::Malformed("a buffer has the wrong direction");
            }
            if length > 0 {
                if !self.is_in_one_region(address, length) {
                    return Next::Malformed("a buffer is not in one region");
                }
                buffers.push(Buffer { address, length, writable });
            }
        }
        if !ended {
            return Next::Malformed("the chain does not end");
        }
        if count > self.queue.size() {
            return Next::Malformed("the chain is longer than the ring");
        }
        Next::Chain { head, buffers, walked: count }
    }

    /// Gives the next chain back, `length` bytes written.
    ///
    /// # Panics
    /// When `head` is not below the ring's size.
    pub fn complete(&mut self, head: u16, length: u32) {
        self.queue.add_used(&self.memory, head, length).expect("a head in the ring");
        self.queue.set_next_avail(self.queue.next_avail().wrapping_add(1));
    }

    /// All bytes of some buffers.
    ///
    /// # Panics
    /// When they are not in memory.
    pub fn read(&self, buffers: &[Buffer]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for buffer in buffers {
            let start = bytes.len();
            bytes.resize(start + buffer.length as usize, 0);
            self.memory.read_slice(&mut bytes[start..], GuestAddress(buffer.address)).expect("in memory");
        }
        bytes
    }

    /// Receives a frame as a virtio-net device does (virtio 1.3, 5.1.6.4): header and frame into the next chain, or into
    /// several if `mergeable`. A first chain without room for the header is given back empty. A frame that would need
    /// more buffers than the ring has entries is refused.
    ///
    /// # Panics
    /// Never, if the memory is as this value found it.
    pub fn put(&mut self, header_bytes: usize, mergeable: bool, frame: &[u8]) -> Put {
        let needed = header_bytes + frame.len();
        let (mut chains, mut buffers, mut room, mut walked) = (Vec::new(), Vec::new(), 0, 0);
        while room < needed {
            let (head, of_chain, count) = match self.look(chains.len() as u16, true) {
                Next::Nothing => return Put::NoBuffer,
                Next::Malformed(_) => return Put::Malformed,
                Next::Chain { head, buffers, walked } => (head, buffers, walked),
            };
            let length: usize = of_chain.iter().map(|buffer| buffer.length as usize).sum();
            if chains.is_empty() && length < header_bytes {
                self.complete(head, 0);
                return Put::SmallBuffer;
            }
            buffers.extend(of_chain);
            walked += u32::from(count);
            if walked > u32::from(self.queue.size()) || (!mergeable && length < needed) {
                return Put::SmallBuffer;
            }
            chains.push((head, length));
            room += length;
        }
        let mut bytes = vec![0; header_bytes];
        if header_bytes == 12 {
            bytes[10..].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        }
        bytes.extend(frame);
        let mut rest = &bytes[..];
        for buffer in buffers {
            let (now, later) = rest.split_at(rest.len().min(buffer.length as usize));
            self.memory.write_slice(now, GuestAddress(buffer.address)).expect("in memory");
            rest = later;
        }
        let mut left = needed;
        for (head, length) in chains {
            self.complete(head, length.min(left) as u32);
            left = left.saturating_sub(length);
        }
        Put::Done
    }

    /// Looks whether the chain at `head` has an indirect table that it may not have.
    fn bad_table(&self, head: u16) -> Option<&'static str> {
        let mut index = head;
        for _ in 0..self.queue.size() {
            if index >= self.queue.size() {
                return None; // The walk finds it.
            }
            let at = self.queue.desc_table() + 16 * u64::from(index);
            let [address, rest]: [u64; 2] = self.memory.read_obj(GuestAddress(at)).expect("ring");
            let (length, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            if flags & INDIRECT != 0 {
                return [
                    (!self.indirect, "indirect tables were not negotiated"),
                    (flags & NEXT != 0, "an indirect table is followed by NEXT"),
                    (length == 0, "an indirect table is empty"),
                    (length / 16 > u32::from(self.queue.size()), "an indirect table is longer than the ring"),
                    (!address.is_multiple_of(8), "an indirect table is not aligned"),
                    (!self.is_in_one_region(address, length), "an indirect table is not in one region"),
                ]
                .into_iter()
                .find_map(|(bad, why)| bad.then_some(why));
            }
            if flags & NEXT == 0 {
                return None;
            }
            index = next;
        }
        None
    }

    fn is_in_one_region(&self, address: u64, length: u32) -> bool {
        let Some(end) = address.checked_add(u64::from(length)) else { return false };
        self.regions.iter().any(|region| region.start <= address && end <= region.end)
    }
}

fn queue(ring: &Ring, event_idx: bool) -> Queue {
    let mut queue = Queue::new(ring.size()).expect("a ring size");
    let (descriptors, available, used) = ring.guest_addresses();
    queue.try_set_desc_table_address(GuestAddress(descriptors)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(available)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(used)).expect("aligned");
    queue.set_event_idx(event_idx);
    queue.set_next_avail(ring.used_index());
    queue.set_next_used(ring.used_index());
    queue.set_ready(true);
    queue
}

const NEXT: u16 = 1;
const INDIRECT: u16 = 4;
