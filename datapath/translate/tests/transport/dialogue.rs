//! The dialogue of a guest that is played, up to rings that run, with the `vhost` crate's frontend: another implementation of
//! vhost-user than ours.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use culvert_driver::{Ram, Ring};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const MRG_RXBUF: u64 = 1 << 15;
pub const MQ: u64 = 1 << 22;
pub const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// The dialogue, up to the memory table.
pub fn begin(stream: UnixStream, ram: &Ram, features: u64, rings: u64) -> Frontend {
    let mut frontend = Frontend::from_stream(stream, rings);
    let wanted = VERSION_1 | PROTOCOL_FEATURES | features;
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & wanted, wanted, "offered {offered:#x}");
    let protocol = frontend.get_protocol_features().unwrap();
    let wanted_protocol =
        VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::DEVICE_STATE;
    frontend.set_protocol_features(protocol & wanted_protocol).unwrap();
    // Each request is answered from here on, so that all is ready when this returns.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(wanted).unwrap();
    set_memory(&mut frontend, ram);
    frontend
}

/// The memory table.
pub fn set_memory(frontend: &mut Frontend, ram: &Ram) {
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: ram.guest_address(),
        memory_size: ram.size(),
        userspace_addr: ram.user_address(),
        mmap_offset: 0,
        mmap_handle: ram.file().as_raw_fd(),
    };
    frontend.set_mem_table(&[region]).unwrap();
}

/// A ring's descriptors.
pub struct Events {
    pub kick: EventFd,
    pub call: EventFd,
}

/// Hands a new ring over, enabled.
pub fn start_ring(frontend: &mut Frontend, index: usize, ring: &Ring) -> Events {
    start_ring_at(frontend, index, ring, 0)
}

/// Hands a ring over, enabled, of which the first `position` buffers were used.
pub fn start_ring_at(frontend: &mut Frontend, index: usize, ring: &Ring, position: u16) -> Events {
    let events = Events { kick: EventFd::new(0).unwrap(), call: EventFd::new(EFD_NONBLOCK).unwrap() };
    let (desc_table_addr, avail_ring_addr, used_ring_addr) = ring.user_addresses();
    let (queue_max_size, queue_size, flags, log_addr) = (ring.size(), ring.size(), 0, None);
    frontend.set_vring_num(index, ring.size()).unwrap();
    frontend.set_vring_base(index, position).unwrap();
    let place = VringConfigData {
        queue_max_size,
        queue_size,
        flags,
        desc_table_addr,
        used_ring_addr,
        avail_ring_addr,
        log_addr,
    };
    frontend.set_vring_addr(index, &place).unwrap();
    frontend.set_vring_call(index, &events.call).unwrap();
    frontend.set_vring_kick(index, &events.kick).unwrap();
    frontend.set_vring_enable(index, true).unwrap();
    events
}
