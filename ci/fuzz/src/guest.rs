//! A guest of one ring, whose driver does with its memory whatever the input says.
//!
//! Memory is made once and used by one input after the other: to map it takes longer than most inputs.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use arbitrary::Arbitrary;
use culvert_driver::{Buffer, Descriptor, Ram, Reference, Ring};
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, VERSION_1};
use culvert_guest::{Memory, Region, RingLayout};

/// Memory in bytes: the ring's three areas come first, then tables, then data.
pub(crate) const MEMORY_BYTES: u64 = 0x8000;
pub(crate) const TABLES: u64 = 0x3000;
pub(crate) const DATA: u64 = 0x4000;

/// What was negotiated, and how the ring starts.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) size: u8,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) header: u8,
    pub(crate) start: u16,
}

impl Setup {
    pub(crate) fn header_bytes(self) -> usize {
        if self.header % 3 == 2 { 10 } else { 12 }
    }

    pub(crate) fn is_mergeable(self) -> bool {
        self.header.is_multiple_of(3)
    }

    pub(crate) fn features(self) -> u64 {
        let bit = |has: bool, bit: u64| if has { bit } else { 0 };
        let header = match self.header % 3 {
            0 => VERSION_1 | NET_MRG_RXBUF,
            1 => VERSION_1,
            _ => 0,
        };
        header | bit(self.event_idx, EVENT_IDX) | bit(self.indirect, INDIRECT_DESC)
    }
}

/// What the driver does.
#[derive(Arbitrary, Debug)]
pub(crate) enum Write {
    /// A well-formed chain beside the ring, published; with a place for a table, all but `direct` buffers are in it.
    Chain { buffers: Vec<(u16, Length)>, table: Option<u8>, direct: u8 },
    /// A descriptor of the ring, which may also be offered as the head of a chain.
    Descriptor { index: u8, descriptor: Fields, offer: bool },
    /// A descriptor anywhere else.
    Table { at: u16, descriptor: Fields },
    /// An entry of the available ring.
    Head { index: u8 },
    /// Any bytes anywhere.
    Bytes { at: u16, bytes: [u8; 4] },
    /// The available index goes on or back, by few entries or by very many.
    Available { by: i8, far: bool },
    /// The available index, from the used index on.
    Restore { ahead: u8 },
    /// Shows what was offered.
    Publish,
    /// Takes what came back.
    TakeUsed,
}

/// A descriptor's fields, mostly such that they mean something.
#[derive(Arbitrary, Debug)]
pub(crate) struct Fields {
    address: Address,
    length: Length,
    flags: u8,
    next: u8,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Inside(u16),
    /// Such that the buffer ends where the memory does, or a little off.
    AtEnd(i8),
    Any(u64),
}

/// How many bytes a buffer or a frame has.
#[derive(Arbitrary, Debug)]
pub(crate) enum Length {
    Small(u8),
    Frame(u16),
    Table(u8),
    Any(u32),
}

impl Length {
    pub(crate) fn bytes(&self) -> u32 {
        match *self {
            Self::Small(length) => u32::from(length),
            Self::Frame(length) => u32::from(length % 4096),
            Self::Table(entries) => 16 * u32::from(entries),
            Self::Any(length) => length,
        }
    }
}

/// Memory and ring.
pub(crate) struct Guest {
    pub(crate) ram: Rc<Ram>,
    pub(crate) ring: Ring,
    pub(crate) memory: Arc<Memory>,
    pub(crate) layout: RingLayout,
    writable: bool,
}

impl Guest {
    pub(crate) fn new(setup: Setup, writable: bool) -> Self {
        let (ram, memory) = memory();
        let mut ring = Ring::new(ram.clone(), 1 << (setup.size % 8), setup.event_idx);
        ring.start_at(setup.start);
        let layout = layout(&ring);
        Self { ram, ring, memory, layout, writable }
    }

    pub(crate) fn write(&mut self, write: &Write) {
        let base = self.ram.guest_address();
        match write {
            Write::Chain { buffers, table, direct } => {
                let buffers: Vec<_> = buffers
                    .iter()
                    .take(40)
                    .map(|(at, length)| {
                        let at = DATA + u64::from(*at) % (MEMORY_BYTES - DATA);
                        let length = length.bytes().min((MEMORY_BYTES - at) as u32);
                        Buffer { address: base + at, length, writable: self.writable }
                    })
                    .collect();
                if buffers.is_empty() {
                    return;
                }
                match table {
                    None => self.ring.offer(&buffers),
                    Some(slot) => {
                        let at = base + TABLES + u64::from(slot % 4) * 0x400;
                        let direct = usize::from(*direct).min(buffers.len() - 1);
                        self.ring.offer_partly_indirect(at, &buffers, direct)
                    }
                };
                self.ring.publish();
            }
            Write::Descriptor { index, descriptor, offer } => {
                let index = u16::from(*index) % self.ring.size();
                self.ring.set_descriptor(index, self.descriptor(descriptor));
                if *offer {
                    self.ring.offer_head(index);
                    self.ring.publish();
                }
            }
            Write::Table { at, descriptor } => {
                let Descriptor { address, length, flags, next } = self.descriptor(descriptor);
                let at = base + u64::from(*at & 0xfff0) % MEMORY_BYTES;
                self.ram.write(at, &address.to_le_bytes());
                self.ram.write(at + 8, &length.to_le_bytes());
                self.ram.write(at + 12, &flags.to_le_bytes());
                self.ram.write(at + 14, &next.to_le_bytes());
            }
            Write::Head { index } => self.ring.offer_head(u16::from(*index)),
            Write::Bytes { at, bytes } => self.ram.write(base + u64::from(*at) % (MEMORY_BYTES - 3), bytes),
            Write::Available { by, far } => {
                let by = if *far { i16::from(*by) * 256 } else { i16::from(*by % 4) };
                self.ring.set_available_index(self.ring.available_index().wrapping_add_signed(by));
            }
            Write::Restore { ahead } => {
                self.ring.set_available_index(self.ring.used_index().wrapping_add(u16::from(*ahead % 16)));
            }
            Write::Publish => drop(self.ring.publish()),
            Write::TakeUsed => while self.ring.take_used().is_some() {},
        }
    }

    fn descriptor(&self, fields: &Fields) -> Descriptor {
        let base = self.ram.guest_address();
        let length = fields.length.bytes();
        let address = match fields.address {
            Address::Inside(at) => base + u64::from(at) % MEMORY_BYTES,
            Address::AtEnd(by) => {
                (base + MEMORY_BYTES).wrapping_sub(length.into()).wrapping_add_signed((by % 16).into())
            }
            Address::Any(address) => address,
        };
        // Mostly the right direction.
        let right = if self.writable { WRITE } else { 0 };
        let flags = if fields.flags < 64 { u16::from(fields.flags) } else { u16::from(fields.flags) & !WRITE | right };
        Descriptor { address, length, flags, next: u16::from(fields.next) }
    }
}

thread_local! {
    static MEMORY: (Rc<Ram>, Arc<Memory>) = {
        let ram = Rc::new(Ram::new(MEMORY_BYTES, false));
        let memory = share(&ram);
        (ram, memory)
    };
    static REFERENCE: RefCell<Option<Reference>> = const { RefCell::new(None) };
}

/// The one memory, as if it were new.
fn memory() -> (Rc<Ram>, Arc<Memory>) {
    MEMORY.with(|(ram, memory)| {
        assert_eq!((Rc::strong_count(ram), Arc::strong_count(memory)), (1, 1), "memory outlives its guest");
        ram.clear();
        (Rc::clone(ram), Arc::clone(memory))
    })
}

/// virtio-queue's device for the guest's ring, from its used index on.
pub(crate) fn reference(guest: &Guest, setup: Setup) -> Reference {
    let spare = REFERENCE.with(RefCell::take);
    let mut reference = spare.unwrap_or_else(|| {
        let base = guest.ram.guest_address();
        let region = base..base + MEMORY_BYTES;
        Reference::new(&guest.ram, &guest.ring, setup.event_idx, setup.indirect, vec![region])
    });
    reference.restart(&guest.ring, setup.event_idx, setup.indirect);
    reference
}

/// Keeps it for the next one.
pub(crate) fn put_back(reference: Reference) {
    REFERENCE.with(|spare| spare.replace(Some(reference)));
}

/// Maps a driver's memory as a frontend would share it.
pub(crate) fn share(ram: &Ram) -> Arc<Memory> {
    let region = Region {
        guest_address: ram.guest_address(),
        size: ram.size(),
        user_address: ram.user_address(),
        mmap_offset: 0,
    };
    let file = ram.file().as_fd().try_clone_to_owned().expect("another descriptor");
    Arc::new(Memory::map(vec![(region, file)]).expect("one good region"))
}

pub(crate) fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}

const WRITE: u16 = 2;
