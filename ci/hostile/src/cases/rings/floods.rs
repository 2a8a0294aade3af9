//! Q17: guests that do not take what is theirs, that kick and flood without end.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_driver::{Descriptor, Ram, Ring};
use rustix::event::{EventfdFlags, eventfd};

use super::attack::{
    HEADER, SMALL, VICTIM, answer, ask_for_frames, check_served, echo, fill_counter, must_refuse, wait_for,
};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{MRG_RXBUF, RECEIVE, TRANSMIT, greet};
use crate::raw_frontend::{RawFrontend, RawRegion, memory_table, numbers, request, ring_addresses, ring_state};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q17",
        "receive-ring-is-never-refilled",
        "A guest takes nothing any more: drops at its port alone.",
        never_refills,
    ),
    case("Q17", "transmit-ring-is-never-kicked", "Frames without a kick wait for one, and pass then.", never_kicks),
    case("Q17", "kicks-without-end", "A million kicks a second, and no frame: neighbours lose nothing.", kick_storm),
    case("Q17", "kicks-with-a-frame-each", "As many kicks and frames as fit: neighbours lose nothing.", frame_storm),
    case("Q17", "kick-is-full", "The kick's counter is at its end: frames pass.", kick_full),
    case(
        "Q17",
        "quarantine-behind-many-lines",
        "Frontends come, go and are refused until the log's limit; then a broken ring: its line is there.",
        many_lines,
    ),
    case(
        "Q17",
        "flood-from-many-queues",
        "A guest floods from 16 queues at once: neighbours lose nothing.",
        many_queues,
    ),
];

pub(super) fn never_refills(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for _ in 0..10 {
        ask_for_frames(&mut guest, 10)?;
        guest.wait_used(TRANSMIT)?;
    }
    // 16 buffers, 100 answers.
    field.expect_drops("no-buffer", 84);
    let victim = field.victim();
    field.daemon().wait_for_counter(&victim, "tx_dropped", 84)?;
    // It may come back at any time.
    while guest.interface.receive().is_some() {}
    check_served(&mut guest, 200)
}

pub(super) fn never_kicks(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    check_served(&mut guest, 1)?;
    // Its worker has asked for a kick by then.
    thread::sleep(Duration::from_millis(20));
    for number in 0..8 {
        ensure!(guest.interface.send(&echo(number, 60)), "the transmit ring is full");
    }
    thread::sleep(Duration::from_millis(50));
    guest.kick(TRANSMIT)?;
    (0..8).try_for_each(|number| wait_for(&mut guest, &answer(number, 60)))
}

/// How long a storm lasts.
pub fn duration(field: &Field) -> Duration {
    if field.is_full() { Duration::from_secs(10) } else { Duration::from_millis(400) }
}

pub(super) fn kick_storm(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let deadline = Instant::now() + duration(field);
    let mut kicks = 0_u64;
    while Instant::now() < deadline {
        for _ in 0..1000 {
            guest.kick(TRANSMIT)?;
            guest.kick(RECEIVE)?;
        }
        kicks += 2000;
    }
    println!("     {kicks} kicks in {:?}", duration(field));
    check_served(&mut guest, 1)
}

pub(super) fn frame_storm(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let deadline = Instant::now() + duration(field);
    // To a station that is nobody's: refused by none, and flooded to both neighbours at most as fast as they take it in.
    let mut frame = echo(0, 60);
    frame.splice(..6, VICTIM);
    while Instant::now() < deadline {
        guest.interface.send(&frame);
        guest.kick(TRANSMIT)?;
    }
    guest.wait_used(TRANSMIT)?;
    check_served(&mut guest, 1)
}

/// A guest that wants nobody to hear of it.
fn many_lines(field: &mut Field) -> Result<()> {
    for _ in 0..10 {
        let guest = field.connect_victim(SMALL, 0)?;
        must_refuse(&guest, request::SET_VRING_NUM, &ring_state(77, 16))?;
    }
    field.expect(Expect::Log { port: field.victim(), sentence: "does not exist", lines: 5..=5 });
    let guest = field.connect_victim(SMALL, 0)?;
    guest.interface.transmit.set_available_index(5000);
    guest.kick(TRANSMIT)?;
    field.expect_quarantine("available index 5000");
    guest.wait_closed()
}

/// Sixteen transmit rings, of which each is full all the time.
fn many_queues(field: &mut Field) -> Result<()> {
    const PAIRS: u32 = 16;
    const SIZE: u16 = 256;
    let socket = field.add_port("many-queues", &format!("--queues {PAIRS}"))?;
    let ram = Rc::new(Ram::new(8 << 20, false));
    let buffer = ram.allocate(2048, 4096);
    let mut frame = echo(0, 1514);
    frame.splice(..6, VICTIM);
    ram.write(buffer + u64::from(HEADER), &frame);
    let mut rings: Vec<Ring> = (0..2 * PAIRS).map(|_| Ring::new(ram.clone(), SIZE, false)).collect();
    let frontend = RawFrontend::connect(&socket)?;
    greet(&frontend, MRG_RXBUF | MULTIQUEUE)?;
    let (user_address, size) = (ram.user_address(), ram.size());
    let region = RawRegion { guest_address: ram.guest_address(), size, user_address, offset: 0 };
    frontend.must(request::SET_MEM_TABLE, &memory_table(1, &[region]), &[ram.file()])?;
    let kick = eventfd(0, EventfdFlags::NONBLOCK)?;
    for (number, ring) in (0..).zip(&rings) {
        for index in 0..SIZE {
            ring.set_descriptor(index, Descriptor { address: buffer, length: HEADER + 1514, flags: 0, next: 0 });
        }
        let (descriptors, available, used) = ring.user_addresses();
        frontend.must(request::SET_VRING_NUM, &ring_state(number, u32::from(SIZE)), &[])?;
        frontend.must(request::SET_VRING_ADDR, &ring_addresses(number, 0, descriptors, used, available, 0), &[])?;
        frontend.must(request::SET_VRING_KICK, &numbers(&[u64::from(number)]), &[kick.as_fd()])?;
        frontend.must(request::SET_VRING_ENABLE, &ring_state(number, 1), &[])?;
    }
    field.neighbours().mark()?;
    let deadline = Instant::now() + duration(field);
    while Instant::now() < deadline {
        for ring in rings.iter_mut().skip(1).step_by(2) {
            while ring.pending() < SIZE {
                ring.offer_head(0);
            }
            ring.publish();
        }
        let _ = rustix::io::write(&kick, &1_u64.to_ne_bytes());
    }
    let (counts, stats) = (field.neighbours().settle()?, field.daemon().stats("many-queues")?);
    let frames = stats.get("rx_frames").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (gap, p99) = (counts.longest_gap, counts.p99);
    println!("     flood-from-many-queues: {frames} frames; neighbours' p99 {p99:?}, longest gap {gap:?}");
    ensure!(frames > 1000, "there was no flood: {stats}");
    Ok(())
}

/// Several queue pairs, and a control queue that is the frontend's (virtio 1.3, 5.1.3).
const MULTIQUEUE: u64 = 1 << 22;

pub(super) fn kick_full(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    fill_counter(guest.kick_of(TRANSMIT))?;
    fill_counter(guest.kick_of(RECEIVE))?;
    thread::sleep(Duration::from_millis(20));
    (0..30).try_for_each(|number| {
        ensure!(guest.interface.send(&echo(number, 60)), "the transmit ring is full");
        // This is the kick: to raise a counter at its end by one would fail.
        fill_counter(guest.kick_of(TRANSMIT))?;
        wait_for(&mut guest, &answer(number, 60))
    })
}
