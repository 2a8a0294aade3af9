//! Guests that lose a part of their memory: a page of a ring, or the buffers, while culvertd is in the midst of a copy. V8, V9.

use anyhow::{Context, Result, ensure};
use culvert_driver::Buffer;

use super::flood::Flood;
use super::memory_file::{self, BUFFERS, Kind, SIZE, truncate};
use super::{OWN, may_refuse, quiet, teach};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};
use crate::neighbours::ECHO;
use crate::raw_frontend::{NEED_REPLY, RawRegion, VERSION, numbers, request};

pub const RING_PAGES: Case = case(
    "V8",
    "ring-pages-truncated",
    "The file ends before the used ring, the available ring or the table of either ring: quarantine.",
    ring_pages,
);

pub const TRANSMIT_PAYLOAD: Case = case(
    "V8",
    "fault-in-a-copy-to-another-guest",
    "A frame's end is gone when it is copied into another guest's buffer: the sender is quarantined, the other gets the rest.",
    transmit_payload,
);

pub const RECEIVE_PAYLOAD: Case = case(
    "V8",
    "fault-with-a-receive-queue-locked",
    "Receive buffers are gone while others' frames are put into them: their guest is quarantined, senders go on.",
    receive_payload,
);

pub const REMOVED: Case = case(
    "V9",
    "region-removed-while-it-faults",
    "A region is truncated and removed at the same time under traffic: the guest ends, nothing is used that is gone.",
    removed,
);

/// The address of a case's guest, and of the one that gets its frames.
const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 0x76];

fn ring_pages(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let flooding = field.add_port("floods-the-rings", "")?;
    for (end, port) in [
        (5 * 4096, "transmit-used-gone"),
        (4 * 4096, "transmit-available-gone"),
        (3 * 4096, "transmit-table-gone"),
        (2 * 4096, "receive-used-gone"),
        (4096, "receive-available-gone"),
    ] {
        let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
        let socket = field.add_port(port, "")?;
        let mut guest = memory_file::connect(&socket, &file)?;
        teach(&mut guest, VICTIM)?;
        let flood = Flood::start(&flooding, VICTIM)?;
        while guest.interface.send(&quiet(200)) {}
        truncate(&file, end)?;
        guest.kick(TRANSMIT)?;
        guest.wait_closed().context(port)?;
        flood.end()?;
        field.expect(Expect::Quarantine { port: port.to_owned(), sentence: "truncated" });
    }
    Ok(())
}

fn transmit_payload(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let receiving = field.add_port("gets-the-rest", "")?;
    let mut receiver = Guest::connect(&receiving, Default::default(), 0)?;
    teach(&mut receiver, RECEIVER)?;
    let third = field.add_port("sends-meanwhile", "")?;
    let mut third = Guest::connect(&third, Default::default(), 0)?;
    let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
    let port = "loses-the-end";
    let socket = field.add_port(port, "")?;
    let mut guest = memory_file::connect(&socket, &file)?;

    // The head of the frame, which is read first, lies before the end of the file, the rest behind.
    let end = BUFFERS + 4096;
    let at = guest.interface.ram().guest_address() + end - 140;
    let frame = [RECEIVER.as_slice(), &VICTIM, &OWN, &[9; 1400]].concat();
    let bytes = [[0; 12].as_slice(), &frame].concat();
    guest.interface.ram().write(at, &bytes);
    let length = u32::try_from(bytes.len())?;
    guest.interface.transmit.offer(&[Buffer { address: at, length, writable: false }]).context("a free descriptor")?;
    truncate(&file, end)?;
    guest.interface.transmit.publish();
    guest.kick(TRANSMIT)?;
    guest.wait_closed()?;
    field.expect(Expect::Quarantine { port: port.to_owned(), sentence: "truncated" });

    let mut told = Vec::new();
    for number in 0..20 {
        let frame = [RECEIVER.as_slice(), &[2, 0, 0, 0, 0, 0x75], &OWN, &[number; 1400]].concat();
        third.send(&frame)?;
        told.push(frame);
    }
    let mut next = told.iter().peekable();
    while let Some(&wanted) = next.peek() {
        let (_, got) = receiver.receive()?;
        if got == *wanted {
            next.next();
            continue;
        }
        // What it learned its address by comes back.
        if got.get(12..14) == Some(&ECHO) {
            continue;
        }
        ensure!(got.get(..128) == frame.get(..128) && got.len() == frame.len(), "a frame of {} bytes came", got.len());
    }
    ensure!(!receiver.frontend.is_closed(), "the other guest was closed");
    Ok(())
}

fn receive_payload(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let flooding = field.add_port("floods-the-buffers", "")?;
    let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
    let mut guest = memory_file::connect(&field.victim_socket(), &file)?;
    teach(&mut guest, VICTIM)?;
    truncate(&file, BUFFERS)?;
    let flood = Flood::start(&flooding, VICTIM)?;
    guest.wait_closed()?;
    flood.end()?;
    field.expect_quarantine("truncated");
    Ok(())
}

fn removed(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let flooding = field.add_port("floods-the-leaving", "")?;
    for port in ["leaves-once", "leaves-twice", "leaves-thrice"] {
        let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
        let socket = field.add_port(port, "")?;
        field.expect(Expect::Log { port: port.to_owned(), sentence: "", lines: 0..=5 });
        let mut guest = memory_file::connect(&socket, &file)?;
        teach(&mut guest, VICTIM)?;
        let flood = Flood::start(&flooding, VICTIM)?;
        let ram = guest.interface.ram();
        let region = RawRegion {
            guest_address: ram.guest_address() + BUFFERS,
            size: SIZE - BUFFERS,
            user_address: ram.user_address() + BUFFERS,
            offset: BUFFERS,
        };
        let body = [numbers(&[0]), region.body()].concat();
        truncate(&file, BUFFERS)?;
        // It may have been closed by then.
        let _ = guest.frontend.send(request::REM_MEM_REG, VERSION | NEED_REPLY, &body, &[]);
        guest.wait_closed().context(port)?;
        flood.end()?;
    }
    field.may_tell("");
    Ok(())
}
