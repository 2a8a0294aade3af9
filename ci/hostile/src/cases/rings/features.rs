//! Q19, Q20: what was never offered, and notifications by index with nonsense in them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_driver::Shape;

use super::attack::{SMALL, check_served, must_refuse};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{EVENT_IDX, Guest, RECEIVE, TRANSMIT, greet};
use crate::raw_frontend::{NEED_REPLY, RawFrontend, VERSION, numbers, request, ring_state};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q19",
        "control-queue-is-not-offered",
        "CTRL_VQ and what depends on it: refused, since the queue is the frontend's.",
        control_features,
    ),
    case(
        "Q19",
        "control-queue-is-no-ring",
        "Rings above the queue pairs, where a control queue would be: refused.",
        control_ring,
    ),
    case(
        "Q20",
        "bits-that-were-never-offered",
        "Every bit that was not offered, one after the other: refused.",
        every_bit,
    ),
    case("Q20", "event-index-garbage", "used_event changes at random while frames pass: they pass.", event_garbage),
    case(
        "Q20",
        "event-index-storm",
        "used_event asks for an interrupt at each buffer, and nobody takes them: frames pass.",
        event_storm,
    ),
];

/// Acknowledges a bit that was not offered; the connection must end.
fn refuses(field: &Field, bits: u64) -> Result<()> {
    let frontend = RawFrontend::connect(&field.victim_socket())?;
    greet(&frontend, 0)?;
    let all = numbers(&[1 << 32 | 1 << 30 | bits]);
    frontend.send(request::SET_FEATURES, VERSION | NEED_REPLY, &all, &[])?;
    let answer = frontend.read_reply(Duration::from_secs(10))?.number()?;
    ensure!(answer != 0, "feature bits {bits:#x} were accepted");
    frontend.wait_closed(Duration::from_secs(10))
}

fn control_features(field: &mut Field) -> Result<()> {
    // CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, CTRL_MAC_ADDR.
    for bit in [17, 18, 19, 20, 23] {
        refuses(field, 1 << bit)?;
    }
    expect_refusals(field, "were never offered");
    Ok(())
}

/// Lines of refusals; the log has a limit for a port's.
fn expect_refusals(field: &mut Field, sentence: &'static str) {
    field.expect(Expect::Log { port: field.victim(), sentence, lines: 1..=5 });
}

fn control_ring(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for ring in [2, 3, 4, 255, 256, 0x1_0000, 0x1_0001, u32::MAX] {
        must_refuse(&guest, request::SET_VRING_NUM, &ring_state(ring, 16))?;
        must_refuse(&guest, request::SET_VRING_ENABLE, &ring_state(ring, 1))?;
    }
    expect_refusals(field, "does not exist");
    check_served(&mut guest, 1)
}

fn every_bit(field: &mut Field) -> Result<()> {
    let frontend = RawFrontend::connect(&field.victim_socket())?;
    let offered = frontend.get(request::GET_FEATURES, &[])?.number()?;
    drop(frontend);
    for bit in (0..64).filter(|bit| offered >> bit & 1 == 0) {
        refuses(field, 1 << bit)?;
    }
    expect_refusals(field, "were never offered");
    Ok(())
}

/// Exchanges frames for a while and writes `event(round)` into both rings' used_event meanwhile.
fn play(field: &mut Field, event: impl Fn(&Guest, u32) -> u16) -> Result<()> {
    let mut guest = field.connect_victim(Shape { event_idx: true, ..SMALL }, EVENT_IDX)?;
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut round = 0_u32;
    while Instant::now() < deadline || round < 50 {
        for ring in [RECEIVE, TRANSMIT] {
            let (_, available, _) = guest.ring(ring).guest_addresses();
            let place = available + 4 + 2 * u64::from(guest.ring(ring).size());
            guest.interface.ram().write(place, &event(&guest, round).to_le_bytes());
        }
        check_served(&mut guest, round.to_le_bytes()[0])?;
        round += 1;
        thread::yield_now();
    }
    Ok(())
}

fn event_garbage(field: &mut Field) -> Result<()> {
    play(field, |_, round| {
        let [_, a, b, _] = round.wrapping_mul(0x9e37_79b9).to_le_bytes();
        u16::from_le_bytes([a, b])
    })
}

fn event_storm(field: &mut Field) -> Result<()> {
    play(field, |guest, _| guest.interface.receive.used_index())
}
