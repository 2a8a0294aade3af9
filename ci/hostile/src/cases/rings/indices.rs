//! Q3, Q16: the available index, and heads that are offered more than once.

use anyhow::{Result, ensure};

use super::attack::{
    Allowance, HEADER, SMALL, answer, ask_for_frames, buffer, check_served, echo, provoke, scratch, transmit, wait_for,
};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case("Q3", "available-index-jumps", "The index runs ahead by more than the ring has: quarantine.", jumps),
    case("Q3", "available-index-goes-back", "The index goes back after frames have passed: quarantine.", goes_back),
    case("Q3", "receive-index-jumps", "The receive ring's index runs ahead: quarantine.", receive_jumps),
    case("Q3", "ring-starts-with-a-bad-index", "A ring is handed over whose indices disagree: quarantine.", starts_bad),
    case("Q3", "indices-wrap", "Both rings go over 65535 to 0, which is legal: all frames pass.", wraps),
    case(
        "Q16",
        "head-is-offered-many-times",
        "One head fills the whole ring: as many frames as were offered.",
        head_many_times,
    ),
    case(
        "Q16",
        "head-is-offered-again-early",
        "A head is offered again before it came back: bounded by the ring.",
        head_again_early,
    ),
    case(
        "Q16",
        "receive-head-is-offered-many-times",
        "One receive buffer is offered 16 times: the guest's own loss.",
        receive_many_times,
    ),
];

fn jumps(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim(Default::default(), 0)?;
    guest.interface.transmit.set_available_index(5000);
    guest.kick(TRANSMIT)?;
    field.expect_quarantine("is more than 256 ahead of 0");
    guest.wait_closed()
}

fn goes_back(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    check_served(&mut guest, 1)?;
    check_served(&mut guest, 2)?;
    guest.interface.transmit.set_available_index(1);
    guest.kick(TRANSMIT)?;
    field.expect_quarantine("available index 1 went back");
    guest.wait_closed()
}

fn receive_jumps(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    check_served(&mut guest, 1)?;
    guest.interface.receive.set_available_index(40_000);
    // It is looked at when what was known before is used up.
    for _ in 0..8 {
        provoke(&mut guest);
        if guest.frontend.is_closed() {
            break;
        }
    }
    field.expect_quarantine("available index 40000");
    guest.wait_closed()
}

fn starts_bad(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim_stopped(SMALL, 0)?;
    guest.interface.transmit.set_available_index(17);
    // The backend may close the connection before it has answered all.
    let _ = guest.start_ring(TRANSMIT);
    field.expect_quarantine("available index 17");
    guest.wait_closed()
}

fn wraps(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim_stopped(SMALL, 0)?;
    guest.interface.transmit.start_at(0xfffa);
    guest.interface.receive.reset();
    guest.interface.receive.start_at(0xfffb);
    guest.interface.refill();
    guest.start_ring(RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    for number in 0..40 {
        check_served(&mut guest, number)?;
    }
    let positions = [guest.stop_ring(TRANSMIT)?, guest.stop_ring(RECEIVE)?];
    ensure!(positions == [34, 35], "the rings stand at {positions:?}");
    Ok(())
}

/// The descriptor of a whole echo request in the scratch memory.
fn request(guest: &Guest, number: u8) -> culvert_driver::Descriptor {
    let frame = echo(number, 60);
    guest.interface.ram().write(scratch(guest), &[0; HEADER as usize]);
    guest.interface.ram().write(scratch(guest) + u64::from(HEADER), &frame);
    buffer(guest, HEADER + 60, 0, 0)
}

fn head_many_times(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let descriptor = request(&guest, 7);
    transmit(&mut guest, &[descriptor], &[0; 16])?;
    guest.wait_used(TRANSMIT)?;
    for _ in 0..16 {
        wait_for(&mut guest, &answer(7, 60))?;
    }
    Ok(())
}

fn head_again_early(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let descriptor = request(&guest, 9);
    // Always one ahead of what came back, for 10,000 times: no more frames than entries.
    let (mut times, mut allowance) = (0, Allowance::start());
    while times < 10_000 {
        while guest.interface.receive().is_some() {}
        if !allowance.permits() {
            continue;
        }
        times += 1;
        if guest.interface.transmit.pending() < 16 {
            transmit(&mut guest, &[descriptor], &[0])?;
        }
    }
    field.expect_overflow();
    guest.wait_used(TRANSMIT)?;
    let offered = u64::from(guest.interface.transmit.available_index());
    let victim = field.victim();
    let stats = field.daemon().stats(&victim)?;
    let frames = stats.get("rx_frames").and_then(serde_json::Value::as_u64).unwrap_or(0);
    ensure!(frames == offered, "{frames} frames of {offered} entries");
    check_flow(&mut guest)
}

/// Frames still come back, in whatever number.
fn check_flow(guest: &mut Guest) -> Result<()> {
    let descriptor = request(guest, 11);
    transmit(guest, &[descriptor], &[0])?;
    wait_for(guest, &answer(11, 60))
}

fn receive_many_times(field: &mut Field) -> Result<()> {
    let one = |guest: &Guest| vec![buffer(guest, 2048, super::attack::WRITE, 0)];
    let mut guest = super::attack::offer_receive(field, SMALL, 0, one, [0; 16])?;
    ask_for_frames(&mut guest, 8)?;
    let deadline = std::time::Instant::now() + crate::field::SOON;
    while guest.interface.receive.used_index() < 8 {
        ensure!(std::time::Instant::now() < deadline, "the buffer is not filled eight times");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}
