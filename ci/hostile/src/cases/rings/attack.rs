//! What the cases of this table are made of: descriptors in a row, frames, refused rings.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use culvert_driver::{Descriptor, PackedDescriptor, Ring, Shape};
use rustix::io::Errno;

use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT};
use crate::neighbours::{ADDRESSES, ECHO};

/// Descriptor flags (virtio 1.3, 2.7.5).
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// The buffer is a table.
pub const INDIRECT: u16 = 4;

/// The address that victims send from.
pub const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 0x42];

/// Bytes of the virtio-net header.
pub const HEADER: u32 = 12;

/// A descriptor of the scratch memory.
pub fn buffer(guest: &Guest, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address: scratch(guest), length, flags, next }
}

/// Guest memory at the end, that nothing else uses: its last 128 KiB.
pub fn scratch(guest: &Guest) -> u64 {
    let ram = guest.interface.ram();
    ram.guest_address() + ram.size() - SCRATCH_BYTES
}

/// Bytes of [`scratch`].
pub const SCRATCH_BYTES: u64 = 0x2_0000;

/// The end of the guest's memory.
pub fn memory_end(guest: &Guest) -> u64 {
    let ram = guest.interface.ram();
    ram.guest_address() + ram.size()
}

/// Puts descriptors into the transmit ring from index 0 on, offers the heads and kicks.
///
/// # Errors
/// The kick does not work.
pub fn transmit(guest: &mut Guest, table: &[Descriptor], heads: &[u16]) -> Result<()> {
    offer(&mut guest.interface.transmit, table, heads.iter().copied());
    guest.kick(TRANSMIT)
}

/// Puts descriptors into a ring from index 0 on and offers the heads; in a packed ring, which has neither, the chains that they begin, as
/// long as there is room.
fn offer(ring: &mut Ring, table: &[Descriptor], heads: impl Iterator<Item = u16>) {
    if ring.is_packed() {
        while ring.take_used().is_some() {}
        for head in heads {
            let chain = chain(table, head, ring.size());
            ring.as_packed().offer_raw(&chain);
        }
    } else {
        for (index, descriptor) in (0..).zip(table) {
            ring.set_descriptor(index, *descriptor);
        }
        heads.for_each(|head| ring.offer_head(head));
    }
    ring.publish();
}

/// A chain of a table as a packed ring has it, with at most so many descriptors.
fn chain(table: &[Descriptor], head: u16, size: u16) -> Vec<PackedDescriptor> {
    let mut next = Some(head);
    std::iter::from_fn(|| {
        let Descriptor { address, length, flags, next: follows } = *table.get(usize::from(next?))?;
        next = (flags & NEXT != 0).then_some(follows);
        Some(PackedDescriptor { address, length, id: 0, flags })
    })
    .take(size.into())
    .collect()
}

/// Connects an honest guest, plays these descriptors into its transmit ring, and expects a quarantine.
///
/// # Errors
/// culvertd keeps the connection.
pub fn breaks(
    field: &mut Field,
    features: u64,
    table: impl FnOnce(&Guest) -> Vec<Descriptor>,
    heads: &[u16],
    sentence: &'static str,
) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, features)?;
    let table = table(&guest);
    transmit(&mut guest, &table, heads)?;
    field.expect_quarantine(sentence);
    guest.wait_closed()
}

/// Connects a guest whose receive ring has these descriptors, all heads from 0 on offered, and has a neighbour send it frames.
///
/// # Errors
/// The guest cannot connect.
pub fn offer_receive(
    field: &mut Field,
    shape: Shape,
    features: u64,
    table: impl FnOnce(&Guest) -> Vec<Descriptor>,
    heads: impl IntoIterator<Item = u16>,
) -> Result<Guest> {
    let mut guest = field.connect_victim_stopped(shape, features)?;
    let descriptors = table(&guest);
    guest.interface.receive.reset();
    offer(&mut guest.interface.receive, &descriptors, heads.into_iter());
    guest.start_ring(RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    Ok(guest)
}

/// Asks the left neighbour for frames.
///
/// # Errors
/// The transmit ring is full.
pub fn ask_for_frames(guest: &mut Guest, count: u8) -> Result<()> {
    (0..count).try_for_each(|number| guest.send(&echo(number, 60)))
}

/// As [`ask_for_frames`], of a guest whose connection may end meanwhile.
pub fn provoke(guest: &mut Guest) {
    for number in 0..4 {
        // A ring that is given up does not empty.
        let _ = guest.send(&echo(number, 60));
    }
}

/// Frames to the left neighbour at 20 a millisecond at the most: it may have no processor for 50 ms then, and has no fewer buffers than
/// come meanwhile. (A neighbour that is sent more than it takes in loses frames behind every switch; that is no case of these.)
pub struct Allowance {
    start: Instant,
    sent: u128,
}

impl Allowance {
    /// Frames may be sent from now on.
    pub fn start() -> Self {
        Self { start: Instant::now(), sent: 0 }
    }

    /// Whether one more frame may be sent now.
    pub fn permits(&mut self) -> bool {
        let due = self.start.elapsed().as_micros() / 50;
        // What was not sent in time is not made up for.
        self.sent = self.sent.max(due.saturating_sub(16));
        let permitted = self.sent < due;
        self.sent += u128::from(permitted);
        permitted
    }
}

/// A frame that the left neighbour sends back.
pub fn echo(number: u8, length: usize) -> Vec<u8> {
    let [left, _] = ADDRESSES;
    let mut frame = [left.as_slice(), &VICTIM, &ECHO].concat();
    frame.resize(length, number);
    frame
}

/// What comes back for [`echo`].
pub fn answer(number: u8, length: usize) -> Vec<u8> {
    let [left, _] = ADDRESSES;
    let mut frame = [VICTIM.as_slice(), &left, &ECHO].concat();
    frame.resize(length, number);
    frame
}

/// Waits for a frame from the neighbour, past others.
///
/// # Errors
/// It does not come.
pub fn wait_for(guest: &mut Guest, wanted: &[u8]) -> Result<()> {
    loop {
        let (_, frame) = guest.receive().context("an answer from the left neighbour")?;
        if frame == wanted {
            return Ok(());
        }
    }
}

/// Sends a frame that comes back, to see that the guest is served.
///
/// # Errors
/// It does not come back.
pub fn check_served(guest: &mut Guest, number: u8) -> Result<()> {
    guest.send(&echo(number, 100))?;
    wait_for(guest, &answer(number, 100))
}

/// A request that must be refused, to a connection that stays.
///
/// # Errors
/// It is accepted, or the connection ends.
pub fn must_refuse(guest: &Guest, request: u32, body: &[u8]) -> Result<()> {
    let answer = guest.frontend.ask(request, body, &[])?;
    ensure!(answer != 0, "request {request} with {body:02x?} was accepted");
    Ok(())
}

/// Rings of 16 entries.
pub const SMALL: Shape = Shape {
    queue_size: 16,
    header_bytes: HEADER,
    mergeable: true,
    event_idx: false,
    receive_bytes: 2048,
    receive_piece_bytes: u32::MAX,
    split_header: false,
    packed: false,
    indirect: false,
};

/// The largest value that a counter can have.
pub const FULL: u64 = u64::MAX - 1;

/// Fills a counter up to its end.
///
/// # Errors
/// It is none.
pub fn fill_counter(event: &OwnedFd) -> Result<()> {
    let mut old = [0; 8];
    match rustix::io::read(event, &mut old) {
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::io::write(event, &FULL.to_ne_bytes()) {
        // It was raised in between.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
