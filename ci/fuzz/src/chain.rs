//! One ring as it lies in memory: heads, descriptors, tables, all of any numbers, looked at by a transmit queue or filled by
//! a receive queue, compared with `virtio-queue`. What [`crate::transmit`] and [`crate::receive`] do step by step, this does
//! at once, so that many more shapes of chains are tried.

use culvert_driver::{Descriptor, Put};
use culvert_frame::MAX_FRAME_BYTES;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{NetHeader, Piece, ReceiveQueue};

use crate::guest::{self, DATA, Guest, MEMORY_BYTES, Setup, TABLES};
use crate::transmit;

/// Runs one input: four bytes of choices, a byte for each head that is offered, five for each descriptor: those of the
/// ring first, then those of the tables.
pub fn run(data: &[u8]) {
    let Some(([size, choices, heads, fill], rest)) = data.split_first_chunk() else { return };
    let is = |bit: u8| choices & (1 << bit) != 0;
    let writable = is(0);
    let start = if is(1) { u16::MAX - 1 } else { 0 };
    let setup = Setup { size: size % 6, event_idx: is(2), indirect: is(3), header: choices >> 4, start };
    let mut guest = Guest::new(setup, writable);
    let entries = usize::from(guest.ring.size());
    let heads = rest.split_at(rest.len().min(usize::from(*heads % 40).min(entries)));
    for (number, bytes) in heads.1.chunks_exact(5).enumerate() {
        let descriptor = descriptor(&guest, writable, [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]]);
        match u16::try_from(number) {
            Ok(index) if number < entries => guest.ring.set_descriptor(index, descriptor),
            _ => write(&guest, TABLES + 16 * (number - entries) as u64 % 0x1000, descriptor),
        }
    }
    for head in heads.0 {
        guest.ring.offer_head(u16::from(*head) % (guest.ring.size() + 1));
    }
    guest.ring.publish();
    if writable { put(&guest, setup, *fill) } else { transmit::look(guest, setup) }
}

/// Puts frames until there is no more room.
fn put(guest: &Guest, setup: Setup, fill: u8) {
    let mut reference = guest::reference(guest, setup);
    reference.load(&guest.ram);
    let features = setup.features();
    let queue = ReceiveQueue::new(guest.memory.clone(), &guest.layout, features, Default::default());
    let mut queue = queue.expect("a ring that holds no more than it can");
    reference.disable_kick();
    let mergeable = setup.is_mergeable();
    for round in 0..40 {
        let length = LENGTHS[usize::from(fill.wrapping_add(round)) % LENGTHS.len()];
        let (head, rest) = FRAME[..length].split_at(length.min(HEAD_BYTES));
        let ours = queue.put(&NetHeader::default(), head, length as u32, rest.chunks(1000).map(Piece::from));
        let theirs = reference.put(setup.header_bytes(), mergeable, &FRAME[..length]);
        let same = match ours {
            Ok(()) => Put::Done,
            Err(PutError::NoBuffer) => Put::NoBuffer,
            Err(PutError::SmallBuffer) => Put::SmallBuffer,
            Err(PutError::Fault(_)) => Put::Malformed,
        };
        assert_eq!(same, theirs, "{ours:?}");
        if matches!(theirs, Put::NoBuffer | Put::Malformed) {
            break;
        }
    }
    queue.publish();
    assert_eq!(reference.difference(&guest.ram), None);
    guest::put_back(reference);
}

/// A descriptor of five bytes: address (two), length, flags, next.
fn descriptor(guest: &Guest, writable: bool, bytes: [u8; 5]) -> Descriptor {
    let [page, offset, length, flags, next] = bytes;
    let length = match length {
        0..=127 => u32::from(length),
        128..=191 => u32::from(length - 128) * 16,
        192..=250 => u32::from(length - 192) * 64,
        251 => 4096,
        252 => MAX_FRAME_BYTES + 12,
        253 => MAX_FRAME_BYTES + 13,
        254 => MEMORY_BYTES as u32,
        255 => u32::MAX,
    };
    let (base, offset) = (guest.ram.guest_address(), u64::from(offset));
    let end = base + MEMORY_BYTES - u64::from(length).min(MEMORY_BYTES);
    // Mostly the right direction.
    let right = if writable { WRITE } else { 0 };
    let flags = if flags < 32 { u16::from(flags) } else { u16::from(flags) & !WRITE | right };
    let address = match page {
        // What we write must not become the ring itself: who looks when at its index is not the same in both devices.
        0..=250 if writable && flags & INDIRECT == 0 => base + DATA + u64::from(page) * 64 + offset,
        0..=250 => base + u64::from(page) * 128 + offset,
        251 => end,
        252 => end + 1,
        253 => u64::MAX - offset,
        254 => base - 8,
        255 => offset,
    };
    Descriptor { address, length, flags, next: u16::from(next) % (guest.ring.size() * 2) }
}

fn write(guest: &Guest, at: u64, descriptor: Descriptor) {
    let Descriptor { address, length, flags, next } = descriptor;
    let at = guest.ram.guest_address() + at;
    guest.ram.write(at, &address.to_le_bytes());
    guest.ram.write(at + 8, &length.to_le_bytes());
    guest.ram.write(at + 12, &flags.to_le_bytes());
    guest.ram.write(at + 14, &next.to_le_bytes());
}

/// Any frame.
static FRAME: [u8; 5000] = {
    let mut frame = [0; 5000];
    let mut at = 0;
    while at < frame.len() {
        frame[at] = (at % 251) as u8 ^ 0x5a;
        at += 1;
    }
    frame
};
/// How long frames are.
const LENGTHS: [usize; 7] = [60, 1514, 14, 128, 5000, 129, 300];
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
