//! Guests whose memory vanishes under traffic: whole files, of all kinds. V8, V9.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::flood::Flood;
use super::memory_file::{self, BUFFERS, HugePages, Kind, SIZE, punch, truncate};
use super::{greeted, may_refuse, quiet, teach};
use crate::case::{Case, Expect, case, long_case};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};
use crate::raw_frontend::{RawRegion, memory_table, numbers, request, ring_addresses, ring_state};

pub const TRUNCATED: Case = case(
    "V8",
    "memory-truncated-under-traffic",
    "A guest's memory file, be it a memfd, on tmpfs, on disk or of huge pages, is truncated under traffic: quarantine.",
    truncated,
);

pub const PUNCHED: Case = case(
    "V8",
    "memory-punched-under-traffic",
    "Holes in buffers are frames of zeros; a hole where the rings are is a ring that went back: quarantine.",
    punched,
);

pub const POOL_EMPTY: Case = case(
    "V8",
    "no-huge-page-at-the-first-touch",
    "A ring lies in huge pages of which there are none: quarantine at the first touch.",
    pool_empty,
);

pub const TWO: Case = case(
    "V8",
    "two-memories-truncated-at-once",
    "Two guests lose their memory at the same time: both are quarantined, each for its own.",
    two,
);

pub const AGAIN: Case = case(
    "V8",
    "memory-truncated-again",
    "The same guest comes back three times and truncates its memory: nothing adds up.",
    |field| again(field, 3),
);

pub const HUNDRED: Case = long_case(
    "V8",
    "memory-truncated-a-hundred-times",
    "The same guest comes back a hundred times and truncates its memory: nothing adds up.",
    |field| again(field, 100),
);

/// The address of a case's guest.
const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// Fills the transmit ring, takes the memory away, kicks, and waits for the end.
fn lose(mut guest: Guest, file: &OwnedFd) -> Result<()> {
    let frame = quiet(1400);
    while guest.interface.send(&frame) {}
    truncate(file, 0)?;
    guest.kick(TRANSMIT)?;
    guest.wait_closed()
}

fn truncated(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let pages = HugePages::lend(4);
    let flooding = field.add_port("floods-the-truncated", "")?;
    for (kind, port) in [
        (Kind::Memfd, "truncated-memfd"),
        (Kind::Tmpfs, "truncated-on-tmpfs"),
        (Kind::Disk, "truncated-on-disk"),
        (Kind::Huge, "truncated-huge-pages"),
    ] {
        if kind == Kind::Huge && pages.is_none() {
            continue;
        }
        let Some(file) = memory_file::file(kind)? else { continue };
        let socket = field.add_port(port, "")?;
        let mut guest = memory_file::connect(&socket, &file)?;
        teach(&mut guest, VICTIM)?;
        let flood = Flood::start(&flooding, VICTIM)?;
        lose(guest, &file).context(port)?;
        flood.end().context(port)?;
        field.expect(Expect::Quarantine { port: port.to_owned(), sentence: "truncated" });
    }
    Ok(())
}

fn punched(field: &mut Field) -> Result<()> {
    may_refuse(field);
    for (kind, port) in
        [(Kind::Memfd, "punched-memfd"), (Kind::Tmpfs, "punched-on-tmpfs"), (Kind::Disk, "punched-on-disk")]
    {
        let Some(file) = memory_file::file(kind)? else { continue };
        let socket = field.add_port(port, "")?;
        let mut guest = memory_file::connect(&socket, &file)?;
        teach(&mut guest, VICTIM)?;
        for _ in 0..4 {
            ensure!(guest.interface.send(&quiet(1400)));
            punch(&file, BUFFERS, SIZE)?;
            guest.kick(TRANSMIT)?;
            guest.wait_used(TRANSMIT)?;
        }
        ensure!(!guest.frontend.is_closed(), "{port}: closed for a hole in its buffers");
        punch(&file, 0, BUFFERS)?;
        guest.kick(TRANSMIT)?;
        guest.wait_closed().context(port)?;
        field.expect(Expect::Quarantine { port: port.to_owned(), sentence: "went back" });
    }
    Ok(())
}

fn pool_empty(field: &mut Field) -> Result<()> {
    let free = std::fs::read_to_string("/proc/meminfo")?;
    let free = free.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).map_or("0", str::trim);
    if free != "0" {
        println!("     not played: this machine has {free} huge pages free, which nobody may use up");
        return Ok(());
    }
    // Nobody has touched it, and nobody has reserved anything.
    let Some(file) = memory_file::unbacked_huge()? else { return Ok(()) };
    let frontend = greeted(field)?;
    let user = 1 << 40;
    let table = memory_table(1, &[RawRegion { guest_address: 0, size: SIZE, user_address: user, offset: 0 }]);
    frontend.must(request::SET_MEM_TABLE, &table, &[file.as_fd()])?;
    let kick = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    frontend.must(request::SET_VRING_NUM, &ring_state(TRANSMIT, 256), &[])?;
    let body = ring_addresses(TRANSMIT, 0, user, user + 8192, user + 4096, 0);
    frontend.must(request::SET_VRING_ADDR, &body, &[])?;
    // It may be quarantined before it is answered.
    let _ = frontend.ask(request::SET_VRING_KICK, &numbers(&[u64::from(TRANSMIT)]), &[kick.as_fd()]);
    frontend.wait_closed(super::ANSWER)?;
    field.expect_quarantine("huge page");
    Ok(())
}

fn two(field: &mut Field) -> Result<()> {
    may_refuse(field);
    let names = ["one-of-two", "other-of-two"];
    let mut guests = Vec::new();
    for port in names {
        let socket = field.add_port(port, "")?;
        let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
        let mut guest = memory_file::connect(&socket, &file)?;
        while guest.interface.send(&quiet(1400)) {}
        guests.push((guest, file));
        field.expect(Expect::Quarantine { port: port.to_owned(), sentence: "truncated" });
    }
    for (_, file) in &guests {
        truncate(file, 0)?;
    }
    for (guest, _) in &guests {
        guest.kick(TRANSMIT)?;
    }
    guests.iter().try_for_each(|(guest, _)| guest.wait_closed())
}

fn again(field: &mut Field, times: u32) -> Result<()> {
    let (socket, began) = (field.victim_socket(), Instant::now());
    for round in 0..times {
        let Some(file) = memory_file::file(Kind::Memfd)? else { return Ok(()) };
        lose(come(&socket, &file)?, &file).with_context(|| format!("round {round}"))?;
    }
    field.may_tell_within("truncated", began.elapsed());
    Ok(())
}

/// Connects; after a quarantine that is accepted after a second.
fn come(socket: &Path, file: &OwnedFd) -> Result<Guest> {
    memory_file::connect(socket, file)
}
