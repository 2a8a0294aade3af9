//! A network interface of one queue pair: sends and receives whole frames, as a driver would.

use std::rc::Rc;

use crate::ram::Ram;
use crate::ring::{Buffer, Ring};

/// How the interface's buffers are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Entries of each ring.
    pub queue_size: u16,
    /// Bytes of the virtio-net header: 12 or 10.
    pub header_bytes: u32,
    /// MRG_RXBUF was negotiated: frames may spread over several receive buffers.
    pub mergeable: bool,
    /// EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// Bytes of each receive buffer, header included.
    pub receive_bytes: u32,
    /// Each receive buffer is a chain of pieces of at most so many bytes, as drivers without MRG_RXBUF lay out buffers of 64 KiB.
    pub receive_piece_bytes: u32,
    /// Header and frame in buffers of their own, as legacy drivers do.
    pub split_header: bool,
    /// RING_PACKED was negotiated.
    pub packed: bool,
    /// INDIRECT_DESC was negotiated: buffers of several parts are told by tables of their own.
    pub indirect: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            queue_size: 256,
            header_bytes: 12,
            mergeable: true,
            event_idx: false,
            receive_bytes: 2048,
            receive_piece_bytes: u32::MAX,
            split_header: false,
            packed: false,
            indirect: false,
        }
    }
}

/// A network interface, driver side.
pub struct Interface {
    shape: Shape,
    ram: Rc<Ram>,
    /// The device's receive direction seen from the guest.
    pub receive: Ring,
    /// The guest's transmit ring.
    pub transmit: Ring,
    /// Guest address of the buffers, one for each descriptor head.
    receive_buffers: u64,
    transmit_buffers: u64,
    transmit_bytes: u32,
    /// Guest address of the indirect tables: one for each receive buffer, then one for each transmit buffer.
    tables: u64,
    wants_kick: bool,
}

/// Bytes of an indirect table, and so most parts that a buffer may have by one.
const TABLE_BYTES: u64 = 16 * 128;

impl Interface {
    /// An interface with all receive buffers offered, in memory of its own.
    pub fn new(shape: Shape, largest_frame: u32) -> Self {
        let entries = u64::from(shape.queue_size);
        let frame_bytes = u64::from(largest_frame + shape.header_bytes + 64) + u64::from(shape.receive_bytes + 64);
        let tables = if shape.indirect { 2 * entries * TABLE_BYTES } else { 0 };
        let needed = entries * (frame_bytes + 64) + tables + 0x2_0000;
        Self::in_ram(shape, largest_frame, Ram::new(needed.next_multiple_of(0x20_0000), false))
    }

    /// As [`Self::new`], in memory that nobody else allocates from: all zero, nothing set aside.
    ///
    /// # Panics
    /// When it is too small.
    pub fn in_ram(shape: Shape, largest_frame: u32, ram: impl Into<Rc<Ram>>) -> Self {
        let entries = u64::from(shape.queue_size);
        let transmit_bytes = (largest_frame + shape.header_bytes).next_multiple_of(64);
        let receive_bytes = shape.receive_bytes.next_multiple_of(64);
        let ram = ram.into();
        let ring = if shape.packed { Ring::packed } else { Ring::new };
        let receive = ring(ram.clone(), shape.queue_size, shape.event_idx);
        let transmit = ring(ram.clone(), shape.queue_size, shape.event_idx);
        let receive_buffers = ram.allocate(entries * u64::from(receive_bytes), 4096);
        let transmit_buffers = ram.allocate(entries * u64::from(transmit_bytes), 4096);
        let tables = if shape.indirect { ram.allocate(2 * entries * TABLE_BYTES, 16) } else { 0 };
        let mut interface = Self {
            shape,
            ram,
            receive,
            transmit,
            receive_buffers,
            transmit_buffers,
            transmit_bytes,
            tables,
            wants_kick: false,
        };
        interface.refill();
        interface
    }

    /// The memory, to share it with a backend.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Sends a frame behind a zero header; `false` when the ring is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.send_with(&vec![0; self.shape.header_bytes as usize], frame, &[])
    }

    /// Sends `header` and `frame`, the frame cut into buffers at the given offsets.
    pub fn send_with(&mut self, header: &[u8], frame: &[u8], cuts: &[u32]) -> bool {
        while self.transmit.take_used().is_some() {}
        let buffers = cuts.len() + 1 + usize::from(self.shape.split_header);
        if self.transmit.free() < if self.shape.indirect { 1 } else { buffers } {
            return false;
        }
        // One slot of buffer space for each chain, by a count that no chain in flight shares.
        let slot = u64::from(self.transmit.available_index() & (self.shape.queue_size - 1));
        let at = self.transmit_buffers + slot * u64::from(self.transmit_bytes);
        self.ram.write(at, header);
        self.ram.write(at + header.len() as u64, frame);
        let header_bytes = header.len() as u32;
        let mut edges = vec![0];
        if self.shape.split_header {
            edges.push(header_bytes);
        }
        edges.extend(cuts.iter().map(|cut| header_bytes + cut));
        edges.push(header_bytes + frame.len() as u32);
        let buffers: Vec<_> = edges
            .windows(2)
            .map(|edge| Buffer { address: at + u64::from(edge[0]), length: edge[1] - edge[0], writable: false })
            .collect();
        let offered = if self.shape.indirect && buffers.len() > 1 {
            let table = self.tables + (u64::from(self.shape.queue_size) + slot) * TABLE_BYTES;
            self.transmit.offer_indirect(table, &buffers).is_some()
        } else {
            self.transmit.offer(&buffers).is_some()
        };
        self.transmit.publish();
        offered
    }

    /// The next frame that was received, with its header. Its buffers are offered again.
    pub fn receive(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut bytes, mut wanted) = (Vec::new(), 1);
        let mut got = 0;
        while got < wanted {
            let (head, length) = self.receive.take_used()?;
            let at = self.receive_buffer(head);
            let mut part = vec![0; length as usize];
            self.ram.read(at, &mut part);
            if got == 0 && self.shape.mergeable && part.len() >= 12 {
                wanted = u16::from_le_bytes([part[10], part[11]]).max(1);
            }
            bytes.extend(part);
            got += 1;
        }
        self.refill();
        let frame = bytes.split_off(bytes.len().min(self.shape.header_bytes as usize));
        Some((bytes, frame))
    }

    /// Offers every free receive buffer.
    pub fn refill(&mut self) {
        let whole = self.shape.receive_bytes;
        let mut edges: Vec<u32> = (0..whole).step_by(self.shape.receive_piece_bytes.min(whole) as usize).collect();
        if self.shape.split_header {
            edges.insert(1, self.shape.header_bytes);
        }
        edges.push(whole);
        let descriptors = if self.shape.indirect { 1 } else { edges.len() - 1 };
        let mut buffers = Vec::with_capacity(edges.len());
        while self.receive.free() >= descriptors {
            // The ring hands out its highest-numbered free descriptor first; buffers go by the head.
            let head = self.receive.next_head();
            let at = self.receive_buffer(head);
            buffers.clear();
            buffers.extend(edges.windows(2).map(|edge| Buffer {
                address: at + u64::from(edge[0]),
                length: edge[1] - edge[0],
                writable: true,
            }));
            if self.shape.indirect && buffers.len() > 1 {
                self.receive.offer_indirect(self.tables + u64::from(head) * TABLE_BYTES, &buffers);
            } else {
                self.receive.offer(&buffers);
            }
        }
        self.wants_kick |= self.receive.publish();
    }

    /// Makes its memory as it was when it was new, for another interface in it. Clears rings and tables, and of the buffers those that can
    /// have been used if a frame has at most `frame_buffers`, and neither ring has had more than 65535: quick, where those were few.
    pub fn clear(self, frame_buffers: u16) {
        let start = self.ram.guest_address();
        let stride = u64::from(self.shape.receive_bytes.next_multiple_of(64));
        let used = |index: u16| u64::from(index.min(self.shape.queue_size));
        // The device may have begun a frame for which there was no room.
        let received = used(self.receive.used_index().saturating_add(frame_buffers));
        let tables = if self.shape.indirect { 2 * u64::from(self.shape.queue_size) * TABLE_BYTES } else { 0 };
        self.ram.clear_only(&[
            (start, self.receive_buffers - start),
            (self.receive_buffers, received * stride),
            (self.transmit_buffers, used(self.transmit.available_index()) * u64::from(self.transmit_bytes)),
            (self.tables.max(start), tables),
        ]);
    }

    /// Whether the device asked to be kicked for buffers that were offered since the last call.
    pub fn take_kick(&mut self) -> bool {
        std::mem::take(&mut self.wants_kick)
    }

    fn receive_buffer(&self, head: u16) -> u64 {
        self.receive_buffers + u64::from(head) * u64::from(self.shape.receive_bytes.next_multiple_of(64))
    }
}
