//! The translator's guest, played by this program: a real one takes so much time itself that it hides the translator's part.
//!
//! Its rings are those of [`load`](crate::load): buffers that lie where they lie, of which only headers are written and read. It polls, and asks
//! for no interrupts, whoever translates; kicks it sends as the backend asks for them. What is offered it takes, as Linux does.

use std::path::Path;

use anyhow::{Context, Result};
use culvert_driver::{Interface, Shape};
use culvert_system::frontend::FrontendGuest;

use crate::load::{FastRing, HEADER_BYTES, Rings, lay_out, memory};

/// A guest of one queue pair.
pub struct Station {
    guest: FrontendGuest,
    transmit: FastRing,
    receive: FastRing,
    /// Transmit buffers that are with us.
    free: u16,
    /// Of those, how many are laid and not published yet.
    laid: u16,
    /// The receive buffers that the frame in progress has still.
    rest: u16,
    /// Frames sent and received so far.
    pub frames: u64,
}

/// How long its buffers are.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Of a transmit buffer, which has a whole frame.
    pub transmit: u64,
    /// Of a receive buffer; a frame may have several.
    pub receive: u64,
    /// It takes segments that are still to be cut, and sends some, where the backend offers that.
    pub segments: bool,
}

impl Room {
    /// For frames of 1500 bytes.
    pub const FRAMES: Self = Self { transmit: 2048, receive: 2048, segments: false };
    /// For up to 64 KiB at once. Linux has some 1.5 to 4 KiB in each receive buffer.
    pub const SEGMENTS: Self = Self { transmit: 0x1_1000, receive: 4096, segments: true };
}

impl Station {
    /// Connects to a translator.
    ///
    /// # Errors
    /// It refuses something.
    pub fn connect(socket: &Path, entries: u16, room: Room) -> Result<Self> {
        let rings = Rings { entries, packed: false, huge: false };
        let bytes = u64::from(entries) * (room.transmit + room.receive + 1024) + 0x4_0000;
        let shape = Shape { queue_size: entries, receive_bytes: 64, ..Shape::default() };
        let mut interface = Interface::in_ram(shape, 64, memory(bytes.next_multiple_of(0x20_0000), false)?);
        let [mut transmit, mut receive] = lay_out(&mut interface, rings, [room.transmit, room.receive], |_| Vec::new());
        receive.offer(entries);
        let segments = if room.segments { SEGMENTS } else { 0 };
        let guest =
            FrontendGuest::join_wishing(socket, interface, MRG_RXBUF, EVENT_IDX | CSUM | GUEST_CSUM | segments)?;
        if guest.features() & EVENT_IDX != 0 {
            transmit.use_events();
            receive.use_events();
        }
        // Whoever waits for the first buffers.
        guest.kick_receive()?;
        Ok(Self { guest, transmit, receive, free: entries, laid: 0, rest: 0, frames: 0 })
    }

    /// Whether the translator computes checksums of what is sent.
    pub fn leaves_checksums(&self) -> bool {
        self.guest.features() & CSUM != 0
    }

    /// Whether it takes segments that are still to be cut.
    pub fn leaves_segments(&self) -> bool {
        self.guest.features() & HOST_TSO4 != 0
    }

    /// How many frames can be laid now.
    #[inline]
    pub fn room(&mut self) -> u16 {
        let done = self.transmit.done();
        self.transmit.take(done);
        self.free += done;
        self.free - self.laid
    }

    /// Lays a frame: its header, the first bytes, and how long all of it is; the rest is what lies there, zeros. There must be room.
    #[inline]
    pub fn lay(&mut self, header: &[u8; HEADER_BYTES as usize], head: &[u8], length: u32) {
        let buffer = self.transmit.next(self.laid);
        // SAFETY: the buffer is ours now, and has room for both.
        unsafe {
            buffer.copy_from_nonoverlapping(header.as_ptr(), header.len());
            buffer.add(header.len()).copy_from_nonoverlapping(head.as_ptr(), head.len());
        }
        self.transmit.set_length(self.transmit.offered().wrapping_add(self.laid), HEADER_BYTES + length);
        self.laid += 1;
    }

    /// Sends what was laid, and kicks if the translator asks for that.
    ///
    /// # Errors
    /// The kick does not work.
    #[inline]
    pub fn send(&mut self) -> Result<()> {
        if self.laid > 0 {
            self.frames += u64::from(self.laid);
            self.transmit.offer(self.laid);
            self.free -= std::mem::take(&mut self.laid);
            if self.transmit.wants_kick() {
                self.guest.kick()?;
            }
        }
        Ok(())
    }

    /// Takes all that came, after a look at the first bytes of each frame; returns how many buffers these were.
    ///
    /// # Errors
    /// The kick for the buffers that go back does not work.
    #[inline]
    pub fn take(&mut self, mut look: impl FnMut(&[u8])) -> Result<u16> {
        let count = self.receive.done();
        for index in 0..count {
            if self.rest > 0 {
                self.rest -= 1;
                continue;
            }
            let (buffer, length) = self.receive.used(index);
            let length = (length as usize).min(HEADER_BYTES as usize + LOOKED_AT);
            // SAFETY: the translator has given it back with so many bytes, of a buffer that has more.
            let bytes = unsafe { std::slice::from_raw_parts(buffer, length) };
            let Some((header, frame)) = bytes.split_at_checked(HEADER_BYTES as usize) else { continue };
            let buffers = header.last_chunk().map_or(1, |&count| u16::from_le_bytes(count));
            self.rest = buffers.saturating_sub(1);
            self.frames += 1;
            look(frame);
        }
        if count > 0 {
            self.receive.take(count);
            self.receive.offer(count);
            if self.receive.wants_kick() {
                self.guest.kick_receive()?;
            }
        }
        Ok(count)
    }

    /// Fails if a buffer came back out of order: then the load was not what it should be.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        let disorder = self.transmit.disorder() || self.receive.disorder();
        (!disorder).then_some(()).context("the translator returned buffers out of order: this load cannot measure it")
    }
}

/// Of each frame that came.
const LOOKED_AT: usize = 1514;

/// Feature bits: virtio 1.3, 5.1.3 and 6.
const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;
const SEGMENTS: u64 = GUEST_TSO4 | HOST_TSO4;
