//! A guest that does as its case likes: honest until the case takes its rings, its memory or its connection in hand.
//!
//! [`Guest`] is culvert-driver's network interface behind a [`RawFrontend`]. The steps of the dialogue can be taken one by one
//! ([`greet`], [`share_memory`], [`Guest::start_ring`]), so that a case may stop or stray at any of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Interface, Ring, Shape};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::raw_frontend::{RawFrontend, RawRegion, memory_table, numbers, request, ring_addresses, ring_state};

/// Number of the receive ring.
pub const RECEIVE: u32 = 0;
/// Number of the transmit ring.
pub const TRANSMIT: u32 = 1;

/// A connected guest with one queue pair.
pub struct Guest {
    /// Its rings and its memory.
    pub interface: Interface,
    /// Its connection.
    pub frontend: RawFrontend,
    /// By which each ring is kicked.
    pub kicks: [OwnedFd; 2],
    /// By which each ring interrupts.
    pub calls: [OwnedFd; 2],
}

impl Guest {
    /// Connects with `features` besides the usual ones, and starts both rings.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn connect(socket: &Path, shape: Shape, features: u64) -> Result<Self> {
        let guest = Self::connect_stopped(socket, shape, features)?;
        guest.start_ring(RECEIVE)?;
        guest.start_ring(TRANSMIT)?;
        Ok(guest)
    }

    /// As [`Guest::connect`], but no ring is started.
    ///
    /// # Errors
    /// Nobody listens, or the backend refuses something.
    pub fn connect_stopped(socket: &Path, shape: Shape, features: u64) -> Result<Self> {
        let interface = Interface::new(shape, LARGEST_FRAME);
        let frontend = RawFrontend::connect(socket)?;
        let mergeable = if shape.mergeable { MRG_RXBUF } else { 0 };
        let event_idx = if shape.event_idx { EVENT_IDX } else { 0 };
        let packed = if shape.packed { PACKED } else { 0 };
        greet(&frontend, features | VERSION_1 | mergeable | event_idx | packed)?;
        share_memory(&frontend, &interface)?;
        Self::on(interface, frontend)
    }

    /// A guest of an interface whose memory was shared over a connection; no ring is started.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn on(interface: Interface, frontend: RawFrontend) -> Result<Self> {
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        Ok(Self { interface, frontend, kicks: [event()?, event()?], calls: [event()?, event()?] })
    }

    /// One of its two rings.
    pub fn ring(&self, ring: u32) -> &Ring {
        if ring == RECEIVE { &self.interface.receive } else { &self.interface.transmit }
    }

    /// The descriptor that kicks a ring.
    pub fn kick_of(&self, ring: u32) -> &OwnedFd {
        let [receive, transmit] = &self.kicks;
        if ring == RECEIVE { receive } else { transmit }
    }

    /// The descriptor by which a ring interrupts.
    pub fn call_of(&self, ring: u32) -> &OwnedFd {
        let [receive, transmit] = &self.calls;
        if ring == RECEIVE { receive } else { transmit }
    }

    /// Hands a ring over: size, base, addresses, call, kick, enable.
    ///
    /// # Errors
    /// The backend refuses it.
    pub fn start_ring(&self, ring: u32) -> Result<()> {
        self.start_ring_at(ring, self.ring(ring).user_addresses())
    }

    /// As [`Guest::start_ring`], with descriptor table, available and used ring at these user addresses.
    ///
    /// # Errors
    /// The backend refuses it.
    pub fn start_ring_at(&self, ring: u32, (descriptors, available, used): (u64, u64, u64)) -> Result<()> {
        let of = self.ring(ring);
        let frontend = &self.frontend;
        frontend.must(request::SET_VRING_NUM, &ring_state(ring, u32::from(of.size())), &[])?;
        let base = if of.is_packed() { of.base() } else { 0 };
        frontend.must(request::SET_VRING_BASE, &ring_state(ring, base), &[])?;
        let body = ring_addresses(ring, 0, descriptors, used, available, 0);
        frontend.must(request::SET_VRING_ADDR, &body, &[])?;
        let body = numbers(&[u64::from(ring)]);
        frontend.must(request::SET_VRING_CALL, &body, &[self.call_of(ring).as_fd()])?;
        frontend.must(request::SET_VRING_KICK, &body, &[self.kick_of(ring).as_fd()])?;
        self.enable(ring, true)
    }

    /// Enables or disables a ring.
    ///
    /// # Errors
    /// The backend refuses it.
    pub fn enable(&self, ring: u32, enabled: bool) -> Result<()> {
        self.frontend.must(request::SET_VRING_ENABLE, &ring_state(ring, u32::from(enabled)), &[])
    }

    /// Stops a ring and returns where it stands.
    ///
    /// # Errors
    /// The connection was closed.
    pub fn stop_ring(&self, ring: u32) -> Result<u32> {
        let reply = self.frontend.get(request::GET_VRING_BASE, &ring_state(ring, 0))?;
        let bytes = reply.body.get(4..8).and_then(|bytes| bytes.try_into().ok()).context("a ring's state")?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Tells the backend that a ring has something new.
    ///
    /// # Errors
    /// The kick does not work; one that is full does.
    pub fn kick(&self, ring: u32) -> Result<()> {
        match rustix::io::write(self.kick_of(ring), &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context("kick"),
        }
    }

    /// Sends a frame behind a zero header and kicks.
    ///
    /// # Errors
    /// The ring is full.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        ensure!(self.interface.send(frame), "the transmit ring is full");
        self.kick(TRANSMIT)
    }

    /// Sends a frame behind a header of the caller's and kicks.
    ///
    /// # Errors
    /// The ring is full.
    pub fn send_with(&mut self, header: &[u8], frame: &[u8], cuts: &[u32]) -> Result<()> {
        ensure!(self.interface.send_with(header, frame, cuts), "the transmit ring is full");
        self.kick(TRANSMIT)
    }

    /// As [`Guest::send`], but waits while the ring is full.
    ///
    /// # Errors
    /// It stays full.
    pub fn send_patiently(&mut self, frame: &[u8]) -> Result<()> {
        self.send_with_patiently(&[0; 12], frame)
    }

    /// As [`Guest::send_patiently`], behind a header of the caller's.
    ///
    /// # Errors
    /// The ring stays full.
    pub fn send_with_patiently(&mut self, header: &[u8], frame: &[u8]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.interface.send_with(header, frame, &[]) {
            ensure!(Instant::now() < deadline, "the transmit ring stays full");
            self.kick(TRANSMIT)?;
            thread::yield_now();
        }
        self.kick(TRANSMIT)
    }

    /// All frames that have come.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.interface.receive()).map(|(_, frame)| frame).collect()
    }

    /// Waits for a frame that `is` the one; others are passed over.
    ///
    /// # Errors
    /// It does not come within the limit.
    pub fn wait_for(&mut self, is: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (_, frame) = self.receive()?;
            if is(&frame) {
                return Ok(frame);
            }
            ensure!(Instant::now() < deadline, "other frames come, and not the one");
        }
    }

    /// Waits for the next frame; returns its header and the frame.
    ///
    /// # Errors
    /// None comes within the limit.
    pub fn receive(&mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(received) = self.interface.receive() {
                return Ok(received);
            }
            ensure!(Instant::now() < deadline, "no frame came within {LIMIT:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until the backend has given back all that was published in a ring.
    ///
    /// # Errors
    /// It has not within the limit.
    pub fn wait_used(&self, ring: u32) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.ring(ring).used_index() != self.ring(ring).available_index() {
            ensure!(Instant::now() < deadline, "ring {ring} is not used up within {LIMIT:?}");
            thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Waits until the backend has closed the connection, as it does with a guest whose ring is broken.
    ///
    /// # Errors
    /// It has not within the limit.
    pub fn wait_closed(&self) -> Result<()> {
        self.frontend.wait_closed(LIMIT)
    }
}

/// Takes the session: features and protocol features, of which REPLY_ACK is always taken.
///
/// # Errors
/// The backend does not offer `features`, or refuses them.
pub fn greet(frontend: &RawFrontend, features: u64) -> Result<()> {
    let wanted = features | PROTOCOL_FEATURES;
    frontend.send(request::SET_OWNER, crate::raw_frontend::VERSION, &[], &[])?;
    let offered = frontend.get(request::GET_FEATURES, &[])?.number()?;
    ensure!(offered & wanted == wanted, "the backend offers {offered:#x} only, not {wanted:#x}");
    let protocol = frontend.get(request::GET_PROTOCOL_FEATURES, &[])?.number()?;
    ensure!(protocol & REPLY_ACK != 0, "the backend does not offer REPLY_ACK");
    let version = crate::raw_frontend::VERSION;
    frontend.send(request::SET_PROTOCOL_FEATURES, version, &numbers(&[protocol]), &[])?;
    frontend.must(request::SET_FEATURES, &numbers(&[wanted]), &[])
}

/// Shares an interface's memory as one region.
///
/// # Errors
/// The backend refuses it.
pub fn share_memory(frontend: &RawFrontend, interface: &Interface) -> Result<()> {
    let ram = interface.ram();
    let table = memory_table(1, &[region(interface)]);
    frontend.must(request::SET_MEM_TABLE, &table, &[ram.file()])
}

/// The one region of an interface's memory.
pub fn region(interface: &Interface) -> RawRegion {
    let ram = interface.ram();
    RawRegion { guest_address: ram.guest_address(), size: ram.size(), user_address: ram.user_address(), offset: 0 }
}

/// The largest frame that a guest sends, in bytes.
const LARGEST_FRAME: u32 = 1514;

/// Feature bits: virtio 1.3, sections 5.1.3 and 6; 30 is vhost-user's.
pub const MRG_RXBUF: u64 = 1 << 15;
/// Chains in tables of their own.
pub const INDIRECT: u64 = 1 << 28;
/// Notifications by index.
pub const EVENT_IDX: u64 = 1 << 29;
/// Packed rings.
pub const PACKED: u64 = 1 << 34;
/// Checksums and segmentation in either direction.
pub const OFFLOADS: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// Protocol feature: each request can be answered.
const REPLY_ACK: u64 = 1 << 3;

/// The longest that a frame or the end of a connection may take.
const LIMIT: Duration = Duration::from_secs(10);
