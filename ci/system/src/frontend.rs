//! A guest without a machine, for frames that must be exact and for rings that must be broken: culvert-driver's network interface,
//! joined to a vhost-user backend by the `vhost` crate's frontend. Independent of Culvert's own protocol code.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Interface, Ram, Ring, Shape};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

/// A connected guest whose two rings run.
pub struct FrontendGuest {
    /// Its network interface; broken rings are made here.
    pub interface: Interface,
    frontend: Frontend,
    features: u64,
    transmit_kick: EventFd,
    receive_kick: EventFd,
    /// The backend must find the other descriptors open.
    _calls: [EventFd; 2],
}

impl FrontendGuest {
    /// Connects to a socket that the backend listens on, and starts the rings. Modern virtio, with MRG_RXBUF if `shape` says so.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn connect(socket: &Path, shape: Shape) -> Result<Self> {
        Self::connect_with(socket, shape, 0, LARGEST_FRAME)
    }

    /// As [`FrontendGuest::connect`], with further features, for frames of up to so many bytes.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn connect_with(socket: &Path, shape: Shape, features: u64, largest_frame: u32) -> Result<Self> {
        Self::join(socket, Interface::new(shape, largest_frame), shape.mergeable, features)
    }

    /// As [`FrontendGuest::connect_with`], with an interface whose rings are prepared already.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn join(socket: &Path, interface: Interface, mergeable: bool, features: u64) -> Result<Self> {
        Self::join_wishing(socket, interface, features | if mergeable { MRG_RXBUF } else { 0 }, 0)
    }

    /// As [`FrontendGuest::join`], with features that must be offered and others that are taken where they are, as a driver does.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn join_wishing(socket: &Path, interface: Interface, features: u64, wishes: u64) -> Result<Self> {
        let mut frontend = Frontend::connect(socket, 2).with_context(|| socket.display().to_string())?;
        let wanted = VERSION_1 | PROTOCOL_FEATURES | features;
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        ensure!(offered & wanted == wanted, "the backend offers {offered:#x} only, not {wanted:#x}");
        let features = wanted | offered & wishes;
        let protocol = frontend.get_protocol_features()?;
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::REPLY_ACK)?;
        // Each request is answered from here on, so that all is ready when this returns.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(features)?;

        frontend.set_mem_table(&[memory(interface.ram())])?;
        let event = || EventFd::new(0).context("eventfd");
        let (receive_kick, receive_call) = start_ring(&mut frontend, 0, &interface.receive, event)?;
        let (transmit_kick, transmit_call) = start_ring(&mut frontend, 1, &interface.transmit, event)?;
        let _calls = [receive_call, transmit_call];
        Ok(Self { interface, frontend, features, transmit_kick, receive_kick, _calls })
    }

    /// Sends a frame; `false` when its ring is full.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn send(&mut self, frame: &[u8]) -> Result<bool> {
        let sent = self.interface.send(frame);
        self.kick()?;
        Ok(sent)
    }

    /// Tells the backend that the transmit ring has something new.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn kick(&self) -> Result<()> {
        self.transmit_kick.write(1).context("kick")
    }

    /// Tells the backend that there are new receive buffers.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn kick_receive(&self) -> Result<()> {
        self.receive_kick.write(1).context("kick")
    }

    /// The features that were negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// None comes within the limit.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let deadline = Instant::now() + RECEIVE_LIMIT;
        loop {
            if let Some((_header, frame)) = self.interface.receive() {
                return Ok(frame);
            }
            ensure!(Instant::now() < deadline, "no frame came within {RECEIVE_LIMIT:?}");
            thread::yield_now();
        }
    }

    /// Waits until the backend has closed the connection, as it does with a guest whose ring is broken.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn wait_closed(&self) -> Result<()> {
        let deadline = Instant::now() + RECEIVE_LIMIT;
        while self.frontend.get_features().is_ok() {
            ensure!(Instant::now() < deadline, "the backend keeps the connection");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// A guest's memory, all of it one region.
pub fn memory(ram: &Ram) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: ram.guest_address(),
        memory_size: ram.size(),
        userspace_addr: ram.user_address(),
        mmap_offset: 0,
        mmap_handle: ram.file().as_raw_fd(),
    }
}

/// Hands a ring over and returns its kick and call descriptors.
fn start_ring(
    frontend: &mut Frontend,
    index: usize,
    ring: &Ring,
    event: impl Fn() -> Result<EventFd>,
) -> Result<(EventFd, EventFd)> {
    let (kick, call) = (event()?, event()?);
    let (descriptors, available, used) = ring.user_addresses();
    frontend.set_vring_num(index, ring.size())?;
    // A packed ring's first lap has its wrap counter set, which is bit 15.
    frontend.set_vring_base(index, if ring.is_packed() { 0x8000 } else { 0 })?;
    frontend.set_vring_addr(
        index,
        &VringConfigData {
            queue_max_size: ring.size(),
            queue_size: ring.size(),
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: used,
            avail_ring_addr: available,
            log_addr: None,
        },
    )?;
    frontend.set_vring_call(index, &call)?;
    frontend.set_vring_kick(index, &kick)?;
    frontend.set_vring_enable(index, true)?;
    Ok((kick, call))
}

/// The largest frame that a guest sends, in bytes.
const LARGEST_FRAME: u32 = 1514;

/// Feature bits: virtio 1.3, 5.1.3 and 6; 30 is vhost-user's.
const MRG_RXBUF: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// The longest that a frame or the end of a connection may take.
const RECEIVE_LIMIT: Duration = Duration::from_secs(30);
