//! Guests whose frames cost as much as a frame can. Each has its share of the worker and no more: the neighbours lose nothing, and wait no
//! longer than for some turns of the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_driver::{Descriptor, Shape};
use culvert_system::frontend::FrontendGuest;

use crate::field::Field;
use crate::guest::{INDIRECT, OFFLOADS, TRANSMIT};
use crate::neighbours::Counts;

/// How long a guest floods.
const FLOOD: Duration = Duration::from_secs(3);

/// Receivers of what it floods, besides the neighbours.
const RECEIVERS: usize = 8;

/// TCP over IPv4 in a frame of that many bytes, for everybody, in segments of `size` bytes, behind its virtio-net header.
fn large_frame(bytes: usize, size: u16) -> ([u8; 12], Vec<u8>) {
    let total = u16::try_from(bytes - 14).unwrap_or(u16::MAX);
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 0x97]].concat();
    frame.extend([8, 0]);
    let ip = [[0x45, 0], total.to_be_bytes(), [0, 1], [0x40, 0], [64, 6], [0, 0], [10, 0], [0, 1], [10, 0], [0, 255]];
    frame.extend(ip.concat());
    frame.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    frame.resize(bytes, 0x5a);
    // NEEDS_CSUM, TCPV4, 54 bytes of headers, the segment's size, the checksum's start and offset.
    let [low, high] = size.to_le_bytes();
    ([1, 1, 54, 0, low, high, 34, 0, 16, 0, 0, 0], frame)
}

pub(super) fn largest_frames(field: &mut Field) -> Result<()> {
    // In a VLAN of their own: the neighbours' rings are not to be filled, only the worker's time.
    let names: Vec<_> = (0..RECEIVERS).map(|number| format!("receiver-{number}")).collect();
    let sockets = names.iter().map(|name| field.add_port(name, "--vlan 7")).collect::<Result<Vec<_>>>()?;
    let victim = field.add_port("flooding", "--vlan 7")?;
    field.expect_overflows(&names);
    let before = quiet(field)?;
    let stop = AtomicBool::new(false);
    let flooded = thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<u64> {
            let shape = Shape { queue_size: 128, ..Shape::default() };
            let mut sender = FrontendGuest::connect_with(&victim, shape, OFFLOADS, 65_536)?;
            let connect = |socket| FrontendGuest::connect(socket, Shape { queue_size: 1024, ..Shape::default() });
            let mut receivers = sockets.iter().map(|socket| connect(socket)).collect::<Result<Vec<_>>>()?;
            let (header, frame) = large_frame(65_000, 1448);
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                while sender.interface.send_with(&header, &frame, &[]) {
                    sent += 1;
                }
                sender.kick()?;
                receivers.iter_mut().for_each(drain);
                thread::yield_now();
            }
            Ok(sent)
        });
        let counts = measure(field);
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| anyhow::anyhow!("the flood ended"))?;
        Ok::<_, anyhow::Error>((sent?, counts?))
    });
    let (sent, counts) = flooded?;
    tell("frames of 64 KiB", sent, before, counts);
    Ok(())
}

/// Gives a guest's used receive buffers back, and looks at nothing.
fn drain(guest: &mut FrontendGuest) {
    let ring = &mut guest.interface.receive;
    let mut any = false;
    while let Some((head, _)) = ring.take_used() {
        ring.offer_head(head);
        any = true;
    }
    if any {
        ring.publish();
    }
}

pub(super) fn longest_chains(field: &mut Field) -> Result<()> {
    field.expect_overflows(&[]);
    let before = quiet(field)?;
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let mut victim = field.connect_victim(shape, INDIRECT)?;
    let ram = victim.interface.ram();
    let (buffer, table) = (ram.allocate(4096, 64), ram.allocate(1024 * 16, 16));
    // A chain in the ring's table and one in an indirect table: a frame in the first descriptor, then empty ones.
    for index in 0..1024_u16 {
        let (next, more) = ((index + 1) % 1024, u16::from(index < 1022));
        let descriptor = Descriptor { address: buffer, length: if index == 0 { 72 } else { 0 }, flags: more, next };
        ram.write(table + u64::from(index) * 16, &bytes_of(&descriptor));
        if index < 1023 {
            victim.interface.transmit.set_descriptor(index, descriptor);
        }
    }
    let indirect = Descriptor { address: table, length: 1023 * 16, flags: 4, next: 0 };
    victim.interface.transmit.set_descriptor(1023, indirect);
    let frame = [&[0; 12], [0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 0x96], &[0x88, 0xb4], &[0; 46]].concat();
    victim.interface.ram().write(buffer, &frame);
    field.neighbours().mark()?;
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < FLOOD {
        let ring = &mut victim.interface.transmit;
        while ring.available_index().wrapping_sub(ring.used_index()) < 1024 {
            ring.offer_head(if sent % 2 == 0 { 0 } else { 1023 });
            ring.publish();
            sent += 1;
        }
        victim.kick(TRANSMIT)?;
        thread::yield_now();
    }
    let counts = field.neighbours().settle()?;
    tell("chains of 1023 descriptors", sent, before, counts);
    Ok(())
}

fn bytes_of(descriptor: &Descriptor) -> Vec<u8> {
    let Descriptor { address, length, flags, next } = *descriptor;
    let (length, flags, next) = (length.to_le_bytes(), flags.to_le_bytes(), next.to_le_bytes());
    [address.to_le_bytes().as_slice(), &length, &flags, &next].concat()
}

/// The neighbours' times while nobody floods.
fn quiet(field: &mut Field) -> Result<Counts> {
    field.neighbours().mark()?;
    thread::sleep(Duration::from_secs(1));
    field.neighbours().settle().context("before the flood")
}

/// The neighbours' times during the flood.
fn measure(field: &Field) -> Result<Counts> {
    // The guests connect meanwhile.
    thread::sleep(Duration::from_millis(500));
    field.neighbours().mark()?;
    thread::sleep(FLOOD);
    field.neighbours().settle()
}

fn tell(what: &str, sent: u64, before: Counts, during: Counts) {
    println!(
        "     {sent} {what}; neighbours' frames half within {:?}, p99 {:?}, longest gap {:?} (before: {:?}, {:?}, {:?})",
        during.median, during.p99, during.longest_gap, before.median, before.p99, before.longest_gap
    );
}
