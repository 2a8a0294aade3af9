//! A driver that rewrites ring, tables and indices while we read them: whatever is seen, lengths stay consistent, nothing
//! panics, and nothing outside of the memory is touched (ci/fuzz/run runs this under AddressSanitizer).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

mod harness;

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_driver::{Descriptor, Interface, PackedDescriptor, Shape};
use culvert_guest::features::RING_PACKED;
use culvert_guest::receive::PutError;
use culvert_guest::{Memory, NetHeader, Piece, ReceiveQueue, RingLayout, TransmitBurst, TransmitQueue};

/// How much must have happened.
const FRAMES: usize = 5_000;
const FAULTS: usize = 300;
const SIZE: u16 = 16;

/// How a packed ring's descriptor is available in a lap whose wrap counter is 1; in the next one it is [`USED`].
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Where the three areas of a ring lie in the file of the memory; of a packed one the last two are event areas.
#[derive(Clone, Copy)]
struct Places {
    packed: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// Writes to the ring until told to stop, from a thread of its own: mostly what could be, now and then what cannot.
fn scribble(file: &File, ring: Places, direction: u16, memory: Range<u64>, stop: &AtomicBool) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % below
    };
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).unwrap();
    let read = |at: u64| {
        let mut index = [0; 2];
        file.read_exact_at(&mut index, at).unwrap();
        u16::from_le_bytes(index)
    };
    while !stop.load(Ordering::Relaxed) {
        // The ring's own table, or an indirect one behind it.
        let tables = [0, 0, 0x200, 0x400].map(|offset| ring.descriptors + offset);
        let at = tables[random(4) as usize] + 16 * random(SIZE.into());
        let bad = random(64) == 0;
        match random(8) {
            0 => {
                let address = match random(8) {
                    0 => memory.start + tables[2],
                    1 => memory.end - 3000 + u64::from(bad) * random(6000),
                    _ => memory.start + random(memory.end - memory.start - 3000),
                };
                write(&if bad { u64::MAX - random(3000) } else { address }.to_le_bytes(), at);
            }
            1 => {
                let length = [random(3000), 16 * random(u64::from(SIZE)), 2000, 0][random(4) as usize];
                write(&if bad { u32::MAX } else { length as u32 }.to_le_bytes(), at + 8);
            }
            2 | 3 => {
                let flags = [direction, direction, direction | 1, 4][random(4) as usize];
                let flags = if bad { random(8) as u16 } else { flags };
                if ring.packed {
                    // In this lap or the next one; now and then used.
                    let lap = [AVAIL, USED, AVAIL, AVAIL | USED][random(3 + u64::from(bad)) as usize];
                    write(&(flags | lap).to_le_bytes(), at + 14);
                } else {
                    write(&flags.to_le_bytes(), at + 12);
                }
            }
            4 if ring.packed => write(&(random(1 << 16) as u16).to_le_bytes(), at + 12),
            _ if ring.packed => {
                // All of the ring in one lap, or where interrupts are wanted.
                let lap = [AVAIL, USED][random(2) as usize] | direction;
                match random(4) {
                    0 => write(&(random(1 << 32) as u32).to_le_bytes(), ring.available),
                    _ => (0..u64::from(SIZE))
                        .for_each(|index| write(&lap.to_le_bytes(), ring.descriptors + 16 * index + 14)),
                }
            }
            4 => write(&(random(u64::from(SIZE) + u64::from(bad)) as u16).to_le_bytes(), at + 14),
            5 => write(&(random(u64::from(SIZE)) as u16).to_le_bytes(), ring.available + 4 + 2 * random(SIZE.into())),
            _ => {
                let (used, available) = (read(ring.used + 2), read(ring.available + 2));
                let room = SIZE.saturating_sub(available.wrapping_sub(used));
                let by = if bad { random(0x1_0000) as u16 } else { random(u64::from(room) + 1) as u16 };
                write(&available.wrapping_add(by).to_le_bytes(), ring.available + 2);
                if bad {
                    // Or nothing would ever be good again.
                    write(&read(ring.used + 2).to_le_bytes(), ring.available + 2);
                }
            }
        }
    }
}

/// What one round of a device led to.
enum Round {
    Frames(usize),
    Fault,
}

/// Runs `device` against a driver that races it, until there were many frames and many faults. After a fault the ring is
/// made good again, and the next round starts it anew.
fn race(transmit: bool, packed: bool, mut device: impl FnMut(&Arc<Memory>, &RingLayout) -> Round) {
    let mut driver = Interface::new(Shape { queue_size: SIZE, packed, ..Shape::default() }, 2000);
    let memory = harness::share(driver.ram());
    let (base, size) = (driver.ram().guest_address(), driver.ram().size());
    let file = File::from(driver.ram().file().as_fd().try_clone_to_owned().unwrap());
    let (ring, direction) = if transmit { (&mut driver.transmit, 0) } else { (&mut driver.receive, 2) };
    let layout = harness::layout(ring);
    let (descriptors, available, used) = ring.guest_addresses();
    let places = Places { packed, descriptors: descriptors - base, available: available - base, used: used - base };
    let range = base..base + size;
    let mut repair = || {
        for index in 0..SIZE {
            let address = base + size / 2;
            if packed {
                let flags = direction | AVAIL;
                ring.as_packed().set_descriptor(index, PackedDescriptor { address, length: 2000, id: index, flags });
                continue;
            }
            ring.set_descriptor(index, Descriptor { address, length: 2000, flags: direction, next: 0 });
        }
        if !packed {
            ring.set_available_index(ring.used_index().wrapping_add(SIZE));
        }
    };
    repair();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| scribble(&file, places, direction, range.clone(), &stop));
        let (mut frames, mut faults) = (0, 0);
        while frames < FRAMES || faults < FAULTS {
            match device(&memory, &layout) {
                Round::Frames(count) => frames += count,
                Round::Fault => {
                    faults += 1;
                    repair();
                }
            }
            // Also where there is one core.
            std::thread::yield_now();
        }
    });
}

/// Stops the driver, also when the device panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn transmit_queues_survive_it() {
    transmit(false);
}

#[test]
fn packed_transmit_queues_survive_it() {
    transmit(true);
}

fn features(packed: bool) -> u64 {
    harness::MODERN | if packed { RING_PACKED } else { 0 }
}

fn transmit(packed: bool) {
    let mut burst = TransmitBurst::default();
    let mut queue = None;
    race(true, packed, |memory, layout| {
        if queue.is_none() {
            queue = TransmitQueue::new(memory.clone(), layout, features(packed), Arc::default()).ok();
        }
        let Some(Ok(received)) = queue.as_mut().map(|queue| queue.receive(&mut burst)) else {
            queue = None;
            return Round::Fault;
        };
        let packets = (0..received.len()).filter_map(|index| received.packet(index).ok());
        let count = packets.map(|packet| {
            let mut bytes = packet.head.to_vec();
            for piece in packet.rest() {
                let start = bytes.len();
                bytes.resize(start + piece.length() as usize, 0);
                assert_eq!(piece.copy_to(0, &mut bytes[start..]), piece.length() as usize);
            }
            assert_eq!(bytes.len(), packet.length as usize);
        });
        Round::Frames(count.count())
    });
}

#[test]
fn receive_queues_survive_it() {
    receive(false);
}

#[test]
fn packed_receive_queues_survive_it() {
    receive(true);
}

fn receive(packed: bool) {
    let frame = [0x5a; 3000];
    let mut queue = None;
    let mut round = 0;
    race(false, packed, |memory, layout| {
        if queue.is_none() {
            queue = ReceiveQueue::new(memory.clone(), layout, features(packed), Arc::default()).ok();
        }
        let Some(running) = &mut queue else { return Round::Fault };
        round += 1;
        let length = [60, 1514, 3000][round % 3];
        let (head, rest) = frame[..length].split_at(60);
        let (mut frames, mut fault) = (0, false);
        let before = running.position();
        if round % 2 == 0 {
            running.look_ahead(8);
        }
        for _ in 0..8 {
            let result = running.put(&NetHeader::default(), head, length as u32, std::iter::once(Piece::from(rest)));
            frames += usize::from(result.is_ok());
            fault |= matches!(result, Err(PutError::Fault(_)));
        }
        running.publish();
        let position = running.position();
        assert!(if packed { position & 0x7fff < SIZE } else { position.wrapping_sub(before) <= SIZE });
        if fault {
            queue = None;
            return Round::Fault;
        }
        Round::Frames(frames)
    });
}
