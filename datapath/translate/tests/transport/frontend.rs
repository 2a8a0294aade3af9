//! A guest without a machine: the driver of `culvert-driver`, joined to the transport by the `vhost` crate's frontend,
//! which is another implementation of vhost-user than ours.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use culvert_driver::{Interface, Ram, Ring, Shape};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::echo::wait_until;

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
    let wanted_protocol = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
    frontend.set_protocol_features(protocol & wanted_protocol).unwrap();
    // Each request is answered from here on, so that all is ready when this returns.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(wanted).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: ram.guest_address(),
        memory_size: ram.size(),
        userspace_addr: ram.user_address(),
        mmap_offset: 0,
        mmap_handle: ram.file().as_raw_fd(),
    };
    frontend.set_mem_table(&[region]).unwrap();
    frontend
}

/// A ring's descriptors.
pub struct Events {
    pub kick: EventFd,
    pub call: EventFd,
}

/// Hands a ring over, enabled.
pub fn start_ring(frontend: &mut Frontend, index: usize, ring: &Ring) -> Events {
    let events = Events { kick: EventFd::new(0).unwrap(), call: EventFd::new(EFD_NONBLOCK).unwrap() };
    let (desc_table_addr, avail_ring_addr, used_ring_addr) = ring.user_addresses();
    let (queue_max_size, queue_size, flags, log_addr) = (ring.size(), ring.size(), 0, None);
    frontend.set_vring_num(index, ring.size()).unwrap();
    frontend.set_vring_base(index, 0).unwrap();
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

/// A guest of one queue pair that runs.
pub struct Guest {
    pub interface: Interface,
    pub frontend: Frontend,
    pub receive: Events,
    pub transmit: Events,
    stream: UnixStream,
}

impl Drop for Guest {
    /// Programs that other tests start hold the connection as well, between fork and exec: closing it would not end it.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Guest {
    pub fn attach(stream: UnixStream, shape: Shape, features: u64) -> Self {
        let interface = Interface::new(shape, 70_000);
        let features =
            features | if shape.mergeable { MRG_RXBUF } else { 0 } | if shape.event_idx { EVENT_IDX } else { 0 };
        let mut frontend = begin(stream.try_clone().unwrap(), interface.ram(), features, 2);
        let receive = start_ring(&mut frontend, 0, &interface.receive);
        let transmit = start_ring(&mut frontend, 1, &interface.transmit);
        Self { interface, frontend, receive, transmit, stream }
    }

    /// Sends a frame and does not kick, whatever was asked for.
    pub fn send_silently(&mut self, header: &[u8], frame: &[u8]) {
        wait_until("room in the transmit ring", || self.interface.send_with(header, frame, &[]));
    }

    /// Sends a frame and kicks; waits for room before.
    pub fn send(&mut self, header: &[u8], frame: &[u8], cuts: &[u32]) {
        wait_until("room in the transmit ring", || self.interface.send_with(header, frame, cuts));
        self.transmit.kick.write(1).unwrap();
    }

    /// The next frame, with its header; kicks for the buffers that are given back where that was asked for.
    pub fn receive(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut got = None;
        wait_until("a frame", || {
            got = self.interface.receive();
            got.is_some()
        });
        if self.interface.take_kick() {
            self.receive.kick.write(1).unwrap();
        }
        got.unwrap()
    }

    /// Waits until the connection is closed.
    pub fn wait_closed(&mut self) {
        wait_until("the end of the connection", || self.frontend.get_features().is_err());
    }
}
