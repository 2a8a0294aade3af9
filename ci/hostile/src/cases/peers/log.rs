//! Dirty logs: such as cannot be, migrations that begin and are cancelled under traffic, logs that vanish. V14.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;

use super::{may_refuse, passes, quiet};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT, region};
use crate::raw_frontend::{numbers, request, ring_addresses};

pub const BAD: Case = case(
    "V14",
    "logs-that-cannot-be",
    "Dirty logs that are too small, overflow, lie outside of their file or in the guest's memory: refused, or used as they are.",
    bad,
);

pub const CHURN: Case = case(
    "V14",
    "a-thousand-cancelled-migrations",
    "A thousand times writes begin to be logged, into another log each time, and cease to be, under traffic: all is marked.",
    churn,
);

pub const TAKEN: Case = case(
    "V14",
    "log-truncated-under-use",
    "A dirty log vanishes while it is in use: the port is quarantined, for nobody knows what was written.",
    taken,
);

/// SET_FEATURES with LOG_ALL or without.
fn logging(guest: &Guest, logs: bool) -> Result<u64> {
    let features = 1 << 32 | 1 << 30 | 1 << 15 | if logs { 1 << 26 } else { 0 };
    guest.frontend.ask(request::SET_FEATURES, &numbers(&[features]), &[])
}

/// SET_LOG_BASE; what the reply says.
fn log_base(guest: &Guest, file: &OwnedFd, size: u64, offset: u64) -> Result<u64> {
    guest.frontend.ask(request::SET_LOG_BASE, &numbers(&[size, offset]), &[file.as_fd()])
}

fn log(bytes: u64) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, bytes)?;
    Ok(file)
}

/// Bytes of a log that reaches all of the guest's memory.
fn needed(guest: &Guest) -> u64 {
    let of = region(&guest.interface);
    (of.guest_address + of.size).div_ceil(0x1000 * 8)
}

fn bad(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    field.may_tell("connection closed");
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let needed = needed(&guest);
    ensure!(logging(&guest, true)? != 0, "there is no log");
    for (size, file_bytes, offset) in [
        (0, needed, 0),
        (1, needed, 0),
        (needed - 1, needed, 0),
        (needed, needed - 1, 0),
        (needed, needed, 1),
        (needed, 2 * needed, needed + 1),
        (needed, needed, u64::MAX),
        (u64::MAX, needed, 0),
        (u64::MAX, needed, u64::MAX),
        (1 << 40, 1 << 40, 0),
    ] {
        ensure!(log_base(&guest, &log(file_bytes)?, size, offset)? != 0, "{size} of {file_bytes} at {offset}");
        ensure!(logging(&guest, true)? != 0, "no usable log: {size} of {file_bytes} at {offset}");
        passes(&mut guest)?;
    }
    let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    ensure!(log_base(&guest, &event, needed, 0)? != 0, "an eventfd");
    // At an odd place; with holes; in the guest's own memory, which it then has as marks.
    let odd = log(needed + 0x2001)?;
    ensure!(log_base(&guest, &odd, needed, 0x2001)? == 0 && logging(&guest, true)? == 0);
    for _ in 0..10 {
        rustix::fs::fallocate(
            &odd,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            0,
            needed + 0x2001,
        )?;
        passes(&mut guest)?;
    }
    let ram = guest.interface.ram().file().try_clone_to_owned()?;
    let last = region(&guest.interface).size - needed;
    ensure!(log_base(&guest, &ram, needed, last)? == 0, "in the guest's memory");
    passes(&mut guest)?;
    // What was in use is given up for a bad one: nobody would know of what is written then.
    let _ = log_base(&guest, &event, needed, 0);
    guest.wait_closed()
}

fn churn(field: &mut Field) -> Result<()> {
    may_refuse(field);
    field.may_tell("too many messages");
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let needed = needed(&guest);
    let (descriptors, available, used) = guest.ring(TRANSMIT).user_addresses();
    let of = region(&guest.interface);
    let at = of.guest_address + (used - of.user_address);
    for round in 0..1000 {
        let marks = log(needed)?;
        ensure!(log_base(&guest, &marks, needed, 0)? == 0 && logging(&guest, true)? == 0, "round {round}");
        let addresses = |flag| ring_addresses(TRANSMIT, flag, descriptors, used, available, at);
        guest.frontend.must(request::SET_VRING_ADDR, &addresses(1), &[])?;
        rustix::io::pwrite(&marks, &vec![0; usize::try_from(needed)?], 0)?;
        passes(&mut guest)?;
        // The used ring's page is marked behind its index: what follows is answered later than that.
        guest.frontend.must(request::SET_VRING_ADDR, &addresses(0), &[])?;
        let mut byte = [0];
        rustix::io::pread(&marks, &mut byte, at / 0x1000 / 8)?;
        ensure!(byte[0] >> (at / 0x1000 % 8) & 1 == 1, "round {round}: the used ring has changed and is not marked");
        ensure!(logging(&guest, false)? == 0, "round {round}");
    }
    // And one that goes through.
    let marks = log(needed)?;
    ensure!(log_base(&guest, &marks, needed, 0)? == 0 && logging(&guest, true)? == 0);
    passes(&mut guest)?;
    guest.stop_ring(RECEIVE)?;
    let position = guest.stop_ring(TRANSMIT)?;
    ensure!(position == u32::from(guest.ring(TRANSMIT).used_index()), "the ring stands at {position}");
    Ok(())
}

fn taken(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let needed = needed(&guest);
    let marks = log(needed)?;
    ensure!(log_base(&guest, &marks, needed, 0)? == 0 && logging(&guest, true)? == 0);
    passes(&mut guest)?;
    rustix::fs::ftruncate(&marks, 0)?;
    guest.send(&quiet(1400)).context("a frame")?;
    guest.wait_closed()?;
    field.expect(Expect::Quarantine { port: field.victim(), sentence: "its dirty log is gone" });
    Ok(())
}
