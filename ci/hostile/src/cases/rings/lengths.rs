//! Q5, Q6, Q7: buffers of no bytes and of far too many, and where the virtio-net header ends.

use anyhow::Result;
use culvert_driver::{Descriptor, Shape};

use super::attack::{HEADER, NEXT, SMALL, answer, buffer, echo, memory_end, scratch, transmit, wait_for};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case("Q5", "empty-buffer-first", "A buffer of no bytes before the frame: it passes.", empty_first),
    case("Q5", "empty-buffers-between", "Buffers of no bytes between those of the frame: it passes.", empty_between),
    case(
        "Q5",
        "empty-buffer-last-anywhere",
        "A buffer of no bytes at an address that is none: the frame passes.",
        empty_last,
    ),
    case("Q5", "all-buffers-empty", "A chain of no bytes at all: dropped.", all_empty),
    case("Q5", "empty-buffers-in-a-circle", "A circle of empty buffers: quarantine.", empty_circle),
    case("Q5", "frame-of-no-bytes", "The virtio-net header and nothing else: dropped.", header_only),
    case("Q6", "frame-above-64-kib", "A frame that is longer than any can be: dropped.", above_64_kib),
    case("Q6", "frame-above-4-gib", "A chain whose lengths exceed 32 bits together: dropped.", above_4_gib),
    case("Q7", "chain-within-the-header", "Chains that end within the virtio-net header: dropped.", within_header),
    case("Q7", "header-over-many-buffers", "The header over 1 to 12 buffers: the frame passes.", header_split),
];

/// Writes a request for an echo at the scratch memory, behind its header, and returns where it ends.
fn write_request(guest: &Guest, number: u8) -> u64 {
    guest.interface.ram().write(scratch(guest), &[0; HEADER as usize]);
    guest.interface.ram().write(scratch(guest) + u64::from(HEADER), &echo(number, 60));
    scratch(guest) + u64::from(HEADER) + 60
}

/// Sends one chain of pieces of the request, given by their lengths; those of no bytes are anywhere.
fn send_in(guest: &mut Guest, number: u8, lengths: &[u32]) -> Result<()> {
    write_request(guest, number);
    let mut at = scratch(guest);
    let mut table = Vec::new();
    for (index, &length) in (1..).zip(lengths) {
        let flags = if usize::from(index) < lengths.len() { NEXT } else { 0 };
        table.push(Descriptor { address: if length == 0 { 1 } else { at }, length, flags, next: index });
        at += u64::from(length);
    }
    transmit(guest, &table, &[0])?;
    guest.wait_used(TRANSMIT)
}

fn passes(field: &mut Field, lengths: &[u32]) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    send_in(&mut guest, 3, lengths)?;
    wait_for(&mut guest, &answer(3, 60))
}

pub(super) fn empty_first(field: &mut Field) -> Result<()> {
    passes(field, &[0, 72])
}

pub(super) fn empty_between(field: &mut Field) -> Result<()> {
    passes(field, &[12, 0, 0, 30, 0, 30])
}

pub(super) fn empty_last(field: &mut Field) -> Result<()> {
    passes(field, &[72, 0])
}

fn dropped(field: &mut Field, lengths: &[&[u32]], reason: &'static str) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for lengths in lengths {
        send_in(&mut guest, 3, lengths)?;
    }
    field.expect_drops(reason, lengths.len() as u64);
    Ok(())
}

pub(super) fn all_empty(field: &mut Field) -> Result<()> {
    dropped(field, &[&[0], &[0, 0, 0]], "short-header")
}

fn empty_circle(field: &mut Field) -> Result<()> {
    let circle = |guest: &Guest| (0..16).map(|index| buffer(guest, 0, NEXT, (index + 1) % 16)).collect();
    super::attack::breaks(field, 0, circle, &[0], "descriptor chain is longer than the ring of 16")
}

pub(super) fn header_only(field: &mut Field) -> Result<()> {
    dropped(field, &[&[12], &[6, 6], &[12, 0]], "runt")
}

pub(super) fn within_header(field: &mut Field) -> Result<()> {
    let chains: [&[u32]; 5] = [&[1], &[11], &[4, 4], &[1; 11], &[10]];
    dropped(field, &chains, "short-header")
}

pub(super) fn above_64_kib(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let whole = buffer(&guest, 0x1_0100, 0, 0);
    transmit(&mut guest, &[whole], &[0])?;
    guest.wait_used(TRANSMIT)?;
    field.expect_drops("oversized", 1);
    Ok(())
}

fn above_4_gib(field: &mut Field) -> Result<()> {
    let shape = Shape { queue_size: 1024, ..SMALL };
    let mut guest = field.connect_victim(shape, 0)?;
    let (start, end) = (guest.interface.ram().guest_address(), memory_end(&guest));
    let length = u32::try_from(end - start)?;
    let all =
        |index: u16| Descriptor { address: start, length, flags: if index < 1023 { NEXT } else { 0 }, next: index + 1 };
    let table: Vec<_> = (0..1024).map(all).collect();
    anyhow::ensure!(u64::from(length) * 1024 > u64::from(u32::MAX), "the guest has too little memory for this");
    // The table is overwritten by nobody: we only read.
    transmit(&mut guest, &table, &[0, 0, 0, 0])?;
    guest.wait_used(TRANSMIT)?;
    field.expect_drops("oversized", 4);
    Ok(())
}

pub(super) fn header_split(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for (number, pieces) in (1..=12).zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12_u32]) {
        let mut lengths = vec![1; usize::try_from(pieces - 1)?];
        lengths.push(HEADER - (pieces - 1));
        lengths.push(60);
        send_in(&mut guest, number, &lengths)?;
        wait_for(&mut guest, &answer(number, 60))?;
    }
    // The last one together with the first bytes of the frame.
    send_in(&mut guest, 13, &[1, 1, 1, 20, 49])?;
    wait_for(&mut guest, &answer(13, 60))
}
