//! Q18: rings that are stopped, disabled, moved, reset and renegotiated while they are full.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::attack::{SMALL, answer, check_served, echo, provoke, wait_for};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{Guest, MRG_RXBUF, OFFLOADS, RECEIVE, TRANSMIT, region, share_memory};
use crate::raw_frontend::{memory_table, numbers, request};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q18",
        "ring-stops-during-a-burst",
        "Rings are stopped and started while full: each frame once, none stale.",
        stops,
    ),
    case(
        "Q18",
        "ring-is-disabled-during-a-burst",
        "The transmit ring is disabled and enabled while full: refused or forwarded, all counted.",
        disabled,
    ),
    case(
        "Q18",
        "device-resets-during-a-burst",
        "RESET_DEVICE while both rings are full, then anew: frames pass.",
        resets,
    ),
    case(
        "Q18",
        "kick-after-reset",
        "Frames are published and kicked after RESET_DEVICE: nothing is taken.",
        after_reset,
    ),
    case(
        "Q18",
        "features-change-while-rings-run",
        "SET_FEATURES with other bits while frames pass: rings keep theirs.",
        features_change,
    ),
    case(
        "Q18",
        "memory-is-replaced-during-a-burst",
        "SET_MEM_TABLE again and again while full: each frame once.",
        memory_replaced,
    ),
    case("Q18", "ring-moves-during-a-burst", "SET_VRING_ADDR moves a full ring: it goes on, or quarantine.", moves),
    case(
        "Q18",
        "guest-restarts-without-a-word",
        "A guest empties its rings to zero while they run: quarantine.",
        restarts_silently,
    ),
];

/// So many times something is done to a full ring.
fn rounds(field: &mut Field) -> u8 {
    if !field.is_full() {
        return 40;
    }
    field.may_tell("too many messages");
    250
}

/// Fills the transmit ring with requests for echoes, of which the receive ring has room for all; returns how many there were.
fn fill(guest: &mut Guest, number: u8) -> Result<usize> {
    let mut sent = 0;
    while sent < 15 && guest.interface.send(&echo(number, 60)) {
        sent += 1;
    }
    guest.kick(TRANSMIT)?;
    Ok(sent)
}

/// Takes in so many echoes, of this round and no other.
fn take_in(guest: &mut Guest, number: u8, count: usize) -> Result<()> {
    for _ in 0..count {
        let (_, frame) = guest.receive()?;
        ensure!(frame == answer(number, 60) || frame.get(12..14) != Some(&[0x88, 0xb6]), "a stale frame: {frame:02x?}");
    }
    Ok(())
}

pub(super) fn stops(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for number in 0..rounds(field) {
        let sent = fill(&mut guest, number)?;
        let position = guest.stop_ring(TRANSMIT)?;
        ensure!(position == guest.interface.transmit.base(), "the ring stands at {position}");
        // What was not taken is taken when it runs again.
        guest.start_ring(TRANSMIT)?;
        guest.kick(TRANSMIT)?;
        take_in(&mut guest, number, sent)?;
        let position = guest.stop_ring(RECEIVE)?;
        ensure!(position == guest.interface.receive.base(), "the receive ring stands at {position}");
        guest.start_ring(RECEIVE)?;
    }
    Ok(())
}

pub(super) fn disabled(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let mut sent = 0;
    for number in 0..rounds(field) {
        guest.enable(TRANSMIT, number % 2 == 1)?;
        sent += fill(&mut guest, number)?;
        guest.wait_used(TRANSMIT)?;
        while guest.interface.receive().is_some() {}
    }
    let victim = field.victim();
    let stats = field.daemon().stats(&victim)?;
    let count = |key: &str| stats.get(key).and_then(Value::as_u64).unwrap_or(0);
    let accounted = count("rx_forwarded") + count("rx_dropped");
    ensure!(count("rx_frames") == sent as u64 && accounted == sent as u64, "{sent} frames were sent: {stats}");
    field.expect_drops("queue-disabled", 1);
    field.expect_overflow();
    guest.enable(TRANSMIT, true)?;
    check_served(&mut guest, 255)
}

pub(super) fn resets(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, OFFLOADS)?;
    for number in 0..rounds(field) {
        fill(&mut guest, number)?;
        guest.frontend.must(request::RESET_DEVICE, &[], &[])?;
        // The driver begins anew.
        guest.interface.transmit.reset();
        guest.interface.receive.reset();
        guest.interface.refill();
        let bits = 1 << 32 | 1 << 30 | MRG_RXBUF | field.packed_bit();
        guest.frontend.must(request::SET_FEATURES, &numbers(&[bits]), &[])?;
        guest.start_ring(RECEIVE)?;
        guest.start_ring(TRANSMIT)?;
        let number = number.wrapping_add(100);
        guest.send(&echo(number, 100))?;
        wait_for(&mut guest, &answer(number, 100))?;
    }
    Ok(())
}

pub(super) fn after_reset(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    check_served(&mut guest, 1)?;
    guest.frontend.must(request::RESET_DEVICE, &[], &[])?;
    let before = [guest.interface.transmit.used_index(), guest.interface.receive.used_index()];
    fill(&mut guest, 2)?;
    let deadline = Instant::now() + Duration::from_millis(200);
    while Instant::now() < deadline {
        guest.kick(TRANSMIT)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = [guest.interface.transmit.used_index(), guest.interface.receive.used_index()];
    ensure!(before == after, "a ring was used after the reset: {before:?}, then {after:?}");
    Ok(())
}

pub(super) fn features_change(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for number in 0..rounds(field) {
        let sent = fill(&mut guest, number)?;
        let bits = if number % 2 == 0 { OFFLOADS } else { MRG_RXBUF | crate::guest::EVENT_IDX };
        guest.frontend.must(request::SET_FEATURES, &numbers(&[1 << 32 | 1 << 30 | bits]), &[])?;
        take_in(&mut guest, number, sent)?;
    }
    Ok(())
}

pub(super) fn memory_replaced(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let mut sent = 0;
    for number in 0..rounds(field) {
        sent += fill(&mut guest, number)?;
        if number % 2 == 0 {
            share_memory(&guest.frontend, &guest.interface)?;
        } else {
            // First a table without the rings: they stop, and go on with the next one.
            let end = region(&guest.interface);
            let last = crate::raw_frontend::RawRegion {
                guest_address: end.guest_address + end.size - 4096,
                user_address: end.user_address + end.size - 4096,
                offset: end.size - 4096,
                size: 4096,
            };
            let file = guest.interface.ram().file();
            guest.frontend.must(request::SET_MEM_TABLE, &memory_table(1, &[last]), &[file])?;
            share_memory(&guest.frontend, &guest.interface)?;
        }
        guest.kick(TRANSMIT)?;
        guest.wait_used(TRANSMIT)?;
        // Answers that came while the receive ring had no memory are lost: the port was down.
        while guest.interface.receive().is_some() {}
    }
    let victim = field.victim();
    let stats = field.daemon().stats(&victim)?;
    let frames = stats.get("rx_frames").and_then(Value::as_u64);
    ensure!(frames == Some(sent as u64), "{sent} frames were sent: {stats}");
    field.expect_overflow();
    // Each change costs all workers: there is a limit for them.
    field.expect(Expect::Log { port: victim, sentence: "is slowed down", lines: 0..=1 });
    check_served(&mut guest, 255)
}

fn moves(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    check_served(&mut guest, 1)?;
    fill(&mut guest, 2)?;
    // To where the receive ring is: its indices are those of another ring.
    let (descriptors, available, used) = guest.ring(RECEIVE).user_addresses();
    let body = crate::raw_frontend::ring_addresses(TRANSMIT, 0, descriptors, used, available, 0);
    let _ = guest.frontend.ask(request::SET_VRING_ADDR, &body, &[]);
    // It reads from buffers that are for the device to write.
    field.expect_quarantine("has the wrong direction for its queue");
    provoke(&mut guest);
    guest.wait_closed()
}

fn restarts_silently(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    (0..5).try_for_each(|number| check_served(&mut guest, number))?;
    guest.interface.transmit.reset();
    guest.interface.receive.reset();
    guest.interface.transmit.publish();
    guest.kick(TRANSMIT)?;
    field.expect_quarantine("available index 0 went back");
    guest.wait_closed()
}
