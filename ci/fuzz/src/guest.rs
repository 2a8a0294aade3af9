//! A guest of one ring, whose driver does with its memory whatever the input says.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use arbitrary::Arbitrary;
use culvert_driver::{Buffer, Descriptor, Ram, Ring};
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, VERSION_1};
use culvert_guest::{Memory, Region, RingLayout};

/// Memory in bytes: the ring's three areas are within the first quarter, then come tables, then data.
pub(crate) const MEMORY_BYTES: u64 = 0x1_0000;
const TABLES: u64 = 0x4000;
const DATA: u64 = 0x6000;

/// What was negotiated, and how the ring starts.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Setup {
    size: u8,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    header: u8,
    start: u16,
}

impl Setup {
    pub(crate) fn header_bytes(self) -> usize {
        if self.header % 3 == 2 { 10 } else { 12 }
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
    /// The available index, from the used index on, by few entries or by very many.
    Available { ahead: i8, far: bool },
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
        let ram = Rc::new(Ram::new(MEMORY_BYTES, false));
        let mut ring = Ring::new(ram.clone(), 1 << (setup.size % 8), setup.event_idx);
        ring.start_at(setup.start);
        let memory = share(&ram);
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
                        let at = base + TABLES + u64::from(slot % 8) * 0x400;
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
                let at = base + u64::from(*at & 0xfff0);
                self.ram.write(at, &address.to_le_bytes());
                self.ram.write(at + 8, &length.to_le_bytes());
                self.ram.write(at + 12, &flags.to_le_bytes());
                self.ram.write(at + 14, &next.to_le_bytes());
            }
            Write::Head { index } => self.ring.offer_head(u16::from(*index)),
            Write::Bytes { at, bytes } => self.ram.write(base + u64::from(*at).min(MEMORY_BYTES - 4), bytes),
            Write::Available { ahead, far } => {
                let ahead = i16::from(*ahead) * if *far { 256 } else { 1 };
                self.ring.set_available_index(self.ring.used_index().wrapping_add_signed(ahead));
            }
            Write::Publish => drop(self.ring.publish()),
            Write::TakeUsed => while self.ring.take_used().is_some() {},
        }
    }

    fn descriptor(&self, fields: &Fields) -> Descriptor {
        let base = self.ram.guest_address();
        let address = match fields.address {
            Address::Inside(at) => base + u64::from(at),
            Address::AtEnd(by) => (base + MEMORY_BYTES).wrapping_add_signed(i64::from(by)),
            Address::Any(address) => address,
        };
        let length = fields.length.bytes();
        Descriptor { address, length, flags: u16::from(fields.flags), next: u16::from(fields.next) }
    }
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
