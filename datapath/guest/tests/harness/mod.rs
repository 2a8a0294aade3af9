//! A driver's interface and the queues that face it, in one process.

#![allow(clippy::unwrap_used, dead_code, reason = "shared by several test files, each of which uses a part")]

use std::sync::Arc;

use culvert_driver::{Interface, Ram, Ring, Shape};
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::{Call, Memory, ReceiveQueue, Region, RingLayout, TransmitQueue};

pub const MODERN: u64 = VERSION_1 | NET_MRG_RXBUF | INDIRECT_DESC;

/// Maps the driver's memory as a frontend would share it.
pub fn share(ram: &Ram) -> Arc<Memory> {
    let region = Region {
        guest_address: ram.guest_address(),
        size: ram.size(),
        user_address: ram.user_address(),
        mmap_offset: 0,
    };
    Arc::new(Memory::map(vec![(region, ram.file().try_clone_to_owned().unwrap())]).unwrap())
}

pub fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}

/// The features that go with a shape.
pub fn features(shape: &Shape) -> u64 {
    let modern = if shape.header_bytes == 12 && !shape.mergeable { VERSION_1 } else { 0 };
    let merge = if shape.mergeable { NET_MRG_RXBUF | VERSION_1 } else { 0 };
    let packed = if shape.packed { RING_PACKED } else { 0 };
    INDIRECT_DESC | modern | merge | packed | if shape.event_idx { EVENT_IDX } else { 0 }
}

pub struct Pair {
    pub driver: Interface,
    pub memory: Arc<Memory>,
    pub transmit: TransmitQueue,
    pub receive: ReceiveQueue,
}

pub fn pair(shape: Shape) -> Pair {
    let driver = Interface::new(shape, 70_000);
    let memory = share(driver.ram());
    let features = features(&shape);
    let call = || Arc::new(Call::default());
    let transmit = TransmitQueue::new(memory.clone(), &layout(&driver.transmit), features, call()).unwrap();
    let receive = ReceiveQueue::new(memory.clone(), &layout(&driver.receive), features, call()).unwrap();
    Pair { driver, memory, transmit, receive }
}
