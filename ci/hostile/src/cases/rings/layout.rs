//! Q11, Q12: rings that lie where none can, and rings that lie over each other.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use culvert_driver::Shape;

use super::attack::{SCRATCH_BYTES, SMALL, ask_for_frames, check_served, echo, must_refuse, scratch};
use crate::case::{Case, Expect, Part, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT};
use crate::raw_frontend::{request, ring_addresses, ring_state};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q11",
        "used-ring-over-the-descriptors",
        "The used ring lies over the descriptor table: own frames at most.",
        used_over_descriptors,
    ),
    case("Q11", "rings-over-each-other", "Both rings are the same memory: own frames at most.", both_the_same),
    case(
        "Q11",
        "buffers-over-the-rings",
        "Receive buffers lie over both rings, so that frames rewrite them: own frames at most.",
        buffers_over_rings,
    ),
    case(
        "Q11",
        "used-ring-over-the-available-ring",
        "culvertd's index is the guest's index: own frames at most.",
        used_over_available,
    ),
    case("Q12", "ring-size-of-any-number", "Sizes 0, 3, 2048, 32768, 65536 and more: refused.", sizes),
    case("Q12", "ring-of-one-entry", "A ring of one entry, which is legal: frames pass.", size_one),
    case("Q12", "ring-misaligned", "Descriptor table, available and used ring at odd places: refused.", misaligned),
    case("Q12", "ring-outside-of-the-memory", "A ring that ends behind its region: refused.", outside),
];

/// Hands both rings over at places of the case's, plays frames for a while, and takes whatever comes of it.
fn play(field: &mut Field, places: impl FnOnce(&Guest) -> [(u64, u64, u64); 2]) -> Result<()> {
    let mut guest = field.connect_victim_stopped(SMALL, 0)?;
    let [receive, transmit] = places(&guest);
    // Some of these cannot start, others break at once: the connection may end at any step.
    let started = guest.start_ring_at(RECEIVE, receive).and_then(|()| guest.start_ring_at(TRANSMIT, transmit));
    let deadline = Instant::now() + PLAY;
    while started.is_ok() && Instant::now() < deadline && !guest.frontend.is_closed() {
        let _ = guest.send(&echo(1, 200));
        if !guest.interface.transmit.is_packed() {
            guest.interface.transmit.offer_head(3);
            guest.interface.transmit.publish();
        }
        guest.kick(TRANSMIT)?;
        while guest.interface.receive().is_some() {}
        thread::sleep(Duration::from_micros(500));
    }
    field.exempt(Part::Log, WHATEVER);
    Ok(())
}

pub(super) fn used_over_descriptors(field: &mut Field) -> Result<()> {
    play(field, |guest| {
        let [receive, transmit] = [RECEIVE, TRANSMIT].map(|ring| guest.ring(ring).user_addresses());
        [(receive.0, receive.1, receive.0), (transmit.0, transmit.1, transmit.0)]
    })
}

pub(super) fn both_the_same(field: &mut Field) -> Result<()> {
    play(field, |guest| [guest.ring(TRANSMIT).user_addresses(); 2])
}

pub(super) fn used_over_available(field: &mut Field) -> Result<()> {
    play(field, |guest| {
        let [receive, transmit] = [RECEIVE, TRANSMIT].map(|ring| guest.ring(ring).user_addresses());
        [receive, (transmit.0, transmit.2, transmit.2)]
    })
}

pub(super) fn buffers_over_rings(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim_stopped(SMALL, 0)?;
    let (start, _, _) = guest.interface.receive.guest_addresses();
    let (transmit, _, _) = guest.interface.transmit.guest_addresses();
    let start = start.min(transmit);
    for index in 0..16 {
        let (address, length, flags) = (start + 512 * u64::from(index), 8192, 2);
        if guest.interface.receive.is_packed() {
            let flags = flags | AVAIL;
            let descriptor = culvert_driver::PackedDescriptor { address, length, id: index, flags };
            guest.interface.receive.as_packed().set_descriptor(index, descriptor);
        } else {
            let descriptor = culvert_driver::Descriptor { address, length, flags, next: 0 };
            guest.interface.receive.set_descriptor(index, descriptor);
        }
    }
    guest.start_ring(RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    // The answers' bytes become descriptors, indices and heads.
    let _ = ask_for_frames(&mut guest, 8);
    for number in 0..200_u8 {
        let _ = guest.send(&echo(number, 1514));
        thread::sleep(Duration::from_millis(1));
        if guest.frontend.is_closed() {
            break;
        }
    }
    field.exempt(Part::Log, WHATEVER);
    Ok(())
}

pub(super) fn sizes(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim_stopped(SMALL, 0)?;
    for size in [0, 3, 2048, 32_768, 65_536, 0x1_0010, u32::MAX] {
        must_refuse(&guest, request::SET_VRING_NUM, &ring_state(TRANSMIT, size))?;
    }
    expect_refusals(field, "SET_VRING_NUM refused");
    // It goes on from there.
    guest.start_ring(RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    let mut guest = guest;
    check_served(&mut guest, 1)
}

/// Lines of refusals; the log has a limit for a port's.
fn expect_refusals(field: &mut Field, sentence: &'static str) {
    field.expect(Expect::Log { port: field.victim(), sentence, lines: 1..=5 });
}

pub(super) fn size_one(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Shape { queue_size: 1, ..SMALL }, 0)?;
    (0..20).try_for_each(|number| check_served(&mut guest, number))
}

pub(super) fn misaligned(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim_stopped(SMALL, 0)?;
    let (descriptors, available, used) = guest.ring(TRANSMIT).user_addresses();
    guest.frontend.must(request::SET_VRING_NUM, &ring_state(TRANSMIT, 16), &[])?;
    let places = [(8, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2), (0, 0, 1)];
    for (a, b, c) in places {
        let body = ring_addresses(TRANSMIT, 0, descriptors + a, used + c, available + b, 0);
        must_refuse(&guest, request::SET_VRING_ADDR, &body)?;
    }
    expect_refusals(field, "is not aligned");
    Ok(())
}

fn outside(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim_stopped(SMALL, 0)?;
    let ram = guest.interface.ram();
    let (descriptors, available, used) = guest.ring(TRANSMIT).user_addresses();
    let end = ram.user(scratch(&guest)) + SCRATCH_BYTES;
    guest.frontend.must(request::SET_VRING_NUM, &ring_state(TRANSMIT, 16), &[])?;
    let places = [
        (end - 128, available, used),
        (descriptors, end - 16, used),
        (descriptors, available, end - 64),
        (end, available, used),
        (u64::MAX - 15, available, used),
        // A guest's address is none of the frontend's.
        (ram.guest_address(), available, used),
    ];
    for (a, b, c) in places {
        must_refuse(&guest, request::SET_VRING_ADDR, &ring_addresses(TRANSMIT, 0, a, c, b, 0))?;
    }
    expect_refusals(field, "is not inside of a memory region");
    Ok(())
}

/// Flag of a packed descriptor that is available in the first lap.
const AVAIL: u16 = 1 << 7;

/// How long frames are played on rings that make no sense.
const PLAY: Duration = Duration::from_millis(300);

const WHATEVER: &str = "frames, drops or a quarantine may come of it: the guest's own affair";
