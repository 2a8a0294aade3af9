//! Q1, Q2, Q4, Q8, Q9: descriptors that lead nowhere, in circles, out of the memory, or the wrong way.

use anyhow::{Result, ensure};
use culvert_driver::{Buffer, Descriptor};

use super::attack::{
    INDIRECT, NEXT, SMALL, WRITE, answer, breaks, buffer, check_served, echo, memory_end, offer_receive, provoke,
    scratch, transmit, wait_for,
};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{self, Guest, TRANSMIT};
use crate::raw_frontend::{RawFrontend, RawRegion, memory_table, request};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case("Q1", "chain-of-one-loops", "A descriptor that follows itself: quarantine.", loop_of_one),
    case("Q1", "chain-of-two-loops", "Two descriptors that follow each other: quarantine.", loop_of_two),
    case("Q1", "chain-of-all-loops", "All descriptors of the ring in one circle: quarantine.", loop_of_all),
    case("Q1", "indirect-chain-loops", "A circle inside of an indirect table: quarantine.", indirect_loop),
    case(
        "Q1",
        "receive-chain-loops",
        "A circle in the receive ring, met by a neighbour's frame: quarantine.",
        receive_loop,
    ),
    case("Q2", "head-beyond-the-table", "A head that is no descriptor: quarantine.", head_beyond),
    case("Q2", "head-of-65535", "The largest head there is: quarantine.", head_largest),
    case("Q2", "next-beyond-the-table", "A next that is no descriptor: quarantine.", next_beyond),
    case(
        "Q2",
        "next-beyond-an-indirect-table",
        "A next outside of its indirect table: quarantine.",
        indirect_next_beyond,
    ),
    case("Q2", "receive-head-beyond-the-table", "The same in the receive ring: quarantine.", receive_head_beyond),
    case("Q4", "address-outside", "A buffer that is in no region: quarantine.", address_outside),
    case(
        "Q4",
        "address-across-the-end",
        "A buffer that begins in a region and ends behind it: quarantine.",
        address_across,
    ),
    case("Q4", "address-overflows", "Address and length exceed 64 bits together: quarantine.", address_overflows),
    case("Q4", "address-in-a-hole", "A buffer that spans the hole between two regions: quarantine.", address_in_hole),
    case("Q4", "receive-address-outside", "A receive buffer that is in no region: quarantine.", receive_outside),
    case(
        "Q4",
        "address-of-a-neighbour",
        "Every address in which culvertd has memory is outside of the guest's: quarantine.",
        address_of_ours,
    ),
    case("Q8", "indirect-in-indirect", "A table in a table: quarantine.", indirect_nested),
    case("Q8", "indirect-with-next", "A table that another descriptor follows: quarantine.", indirect_next),
    case("Q8", "indirect-of-no-bytes", "A table of no bytes: quarantine.", indirect_empty),
    case("Q8", "indirect-of-17-bytes", "A table that is no multiple of 16 bytes: quarantine.", indirect_odd),
    case("Q8", "indirect-above-the-limit", "A table with more entries than the ring: quarantine.", indirect_long),
    case("Q8", "indirect-of-4-gib", "A table of nearly 4 GiB: quarantine.", indirect_huge),
    case("Q8", "indirect-across-the-end", "A table that ends outside of the memory: quarantine.", indirect_across),
    case("Q8", "indirect-not-negotiated", "A table without the feature: quarantine.", indirect_unnegotiated),
    case("Q8", "indirect-tables-work", "A table as drivers make it: the frame passes.", indirect_works),
    case(
        "Q9",
        "transmit-buffer-is-writable",
        "A transmit buffer for the device to write: quarantine.",
        transmit_writable,
    ),
    case("Q9", "readable-after-writable", "A chain that turns round: quarantine.", turns_round),
    case("Q9", "receive-buffer-is-readable", "A receive buffer for the device to read: quarantine.", receive_readable),
];

const LOOP: &str = "descriptor chain is longer than the ring of 16";
const INDEX: &str = "is outside of the table of";
const ADDRESS: &str = "is outside of the guest's memory";
const TABLE: &str = "is not allowed here";
const DIRECTION: &str = "has the wrong direction for its queue";

fn circle(guest: &Guest, length: u16) -> Vec<Descriptor> {
    (0..length).map(|index| buffer(guest, 8, NEXT, (index + 1) % length)).collect()
}

fn loop_of_one(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| circle(guest, 1), &[0], LOOP)
}

fn loop_of_two(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| circle(guest, 2), &[0], LOOP)
}

fn loop_of_all(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| circle(guest, 16), &[7], LOOP)
}

/// A table at the scratch memory, written by hand.
fn table(guest: &Guest, entries: &[Descriptor]) -> u64 {
    let at = scratch(guest) + 0x1_0000;
    for (index, entry) in (0_u64..).zip(entries) {
        let mut bytes = [entry.address.to_le_bytes().as_slice(), &entry.length.to_le_bytes()].concat();
        bytes.extend([entry.flags, entry.next].map(u16::to_le_bytes).concat());
        guest.interface.ram().write(at + 16 * index, &bytes);
    }
    at
}

fn indirect(address: u64, length: u32, flags: u16) -> Descriptor {
    Descriptor { address, length, flags: INDIRECT | flags, next: 1 }
}

fn indirect_loop(field: &mut Field) -> Result<()> {
    let descriptors = |guest: &Guest| vec![indirect(table(guest, &circle(guest, 4)), 64, 0)];
    breaks(field, guest::INDIRECT, descriptors, &[0], LOOP)
}

fn receive_loop(field: &mut Field) -> Result<()> {
    let circle = |guest: &Guest| (0..16).map(|index| buffer(guest, 8, NEXT | WRITE, (index + 1) % 16)).collect();
    let mut guest = offer_receive(field, SMALL, 0, circle, 0..16)?;
    provoke(&mut guest);
    field.expect_quarantine(LOOP);
    guest.wait_closed()
}

fn head_beyond(field: &mut Field) -> Result<()> {
    breaks(field, 0, |_| Vec::new(), &[16], "descriptor index 16 is outside of the table of 16")
}

fn head_largest(field: &mut Field) -> Result<()> {
    breaks(field, 0, |_| Vec::new(), &[u16::MAX], INDEX)
}

fn next_beyond(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| vec![buffer(guest, 76, NEXT, 16)], &[0], INDEX)
}

fn indirect_next_beyond(field: &mut Field) -> Result<()> {
    // Inside of the ring's own table, but not of this one.
    let descriptors = |guest: &Guest| vec![indirect(table(guest, &[buffer(guest, 8, NEXT, 2); 2]), 32, 0)];
    breaks(field, guest::INDIRECT, descriptors, &[0], "is outside of the table of 2")
}

fn receive_head_beyond(field: &mut Field) -> Result<()> {
    let mut guest = offer_receive(field, SMALL, 0, |_| Vec::new(), [16, 17])?;
    provoke(&mut guest);
    field.expect_quarantine(INDEX);
    guest.wait_closed()
}

fn at(address: u64, length: u32) -> Vec<Descriptor> {
    vec![Descriptor { address, length, flags: 0, next: 0 }]
}

fn address_outside(field: &mut Field) -> Result<()> {
    breaks(field, 0, |_| at(0xdead_beef_0000, 76), &[0], ADDRESS)
}

fn address_across(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| at(memory_end(guest) - 32, 76), &[0], ADDRESS)
}

fn address_overflows(field: &mut Field) -> Result<()> {
    breaks(field, 0, |_| at(u64::MAX - 4, u32::MAX), &[0], ADDRESS)
}

/// Two regions with a page between them that is in none.
fn address_in_hole(field: &mut Field) -> Result<()> {
    const PAGE: u64 = 4096;
    let interface = culvert_driver::Interface::new(SMALL, 1514);
    let frontend = RawFrontend::connect(&field.victim_socket())?;
    guest::greet(&frontend, guest::MRG_RXBUF)?;
    let whole = guest::region(&interface);
    let first = RawRegion { size: whole.size - 16 * PAGE, ..whole };
    let skip = first.size + PAGE;
    let second = RawRegion {
        guest_address: whole.guest_address + skip,
        size: whole.size - skip,
        user_address: whole.user_address + skip,
        offset: skip,
    };
    let file = interface.ram().file();
    frontend.must(request::SET_MEM_TABLE, &memory_table(2, &[first, second]), &[file, file])?;
    let mut guest = Guest::on(interface, frontend)?;
    guest.start_ring(guest::RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    check_served(&mut guest, 1)?;
    transmit(&mut guest, &at(first.guest_address + first.size - 64, 64 + 2 * 4096), &[0])?;
    field.expect_quarantine(ADDRESS);
    guest.wait_closed()
}

fn receive_outside(field: &mut Field) -> Result<()> {
    let outside = |guest: &Guest| {
        let address = memory_end(guest) - 8;
        (0..16).map(|_| Descriptor { address, length: 2048, flags: WRITE, next: 0 }).collect()
    };
    let mut guest = offer_receive(field, SMALL, 0, outside, 0..16)?;
    provoke(&mut guest);
    field.expect_quarantine(ADDRESS);
    guest.wait_closed()
}

/// A guest that knows where culvertd has things (here from /proc) cannot name them.
fn address_of_ours(field: &mut Field) -> Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", field.daemon().pid()))?;
    let starts = maps.lines().filter(|line| line.contains(" rw"));
    let starts = starts.filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    let heap = starts.max().unwrap_or(0x7fff_0000_0000);
    ensure!(heap > 0x1000, "culvertd has no memory");
    breaks(field, 0, |_| at(heap, 76), &[0], ADDRESS)
}

fn indirect_nested(field: &mut Field) -> Result<()> {
    let descriptors = |guest: &Guest| {
        let inner = table(guest, &[buffer(guest, 76, 0, 0), indirect(scratch(guest) + 0x1_0000, 16, 0)]);
        vec![indirect(inner + 16, 16, 0)]
    };
    breaks(field, guest::INDIRECT, descriptors, &[0], TABLE)
}

fn indirect_next(field: &mut Field) -> Result<()> {
    let descriptors =
        |guest: &Guest| vec![indirect(table(guest, &[buffer(guest, 76, 0, 0)]), 16, NEXT), buffer(guest, 8, 0, 0)];
    breaks(field, guest::INDIRECT, descriptors, &[0], TABLE)
}

/// A table of a length that cannot be.
fn indirect_of(field: &mut Field, length: u32) -> Result<()> {
    let descriptors = |guest: &Guest| vec![indirect(table(guest, &[buffer(guest, 76, 0, 0)]), length, 0)];
    breaks(field, guest::INDIRECT, descriptors, &[0], TABLE)
}

fn indirect_empty(field: &mut Field) -> Result<()> {
    indirect_of(field, 0)
}

fn indirect_odd(field: &mut Field) -> Result<()> {
    indirect_of(field, 17)
}

fn indirect_long(field: &mut Field) -> Result<()> {
    indirect_of(field, 17 * 16)
}

fn indirect_huge(field: &mut Field) -> Result<()> {
    indirect_of(field, 0xffff_fff0)
}

fn indirect_across(field: &mut Field) -> Result<()> {
    breaks(field, guest::INDIRECT, |guest| vec![indirect(memory_end(guest) - 16, 32, 0)], &[0], ADDRESS)
}

fn indirect_unnegotiated(field: &mut Field) -> Result<()> {
    let descriptors = |guest: &Guest| vec![indirect(table(guest, &[buffer(guest, 76, 0, 0)]), 16, 0)];
    breaks(field, 0, descriptors, &[0], TABLE)
}

fn indirect_works(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, guest::INDIRECT)?;
    let (at, frame) = (scratch(&guest), echo(1, 100));
    guest.interface.ram().write(at, &[0; 12]);
    guest.interface.ram().write(at + 12, &frame);
    let buffers = [(0, 12), (12, 50), (62, 50)];
    let buffers = buffers.map(|(from, length)| Buffer { address: at + from, length, writable: false });
    guest.interface.transmit.offer_indirect(at + 0x1_0000, &buffers);
    guest.interface.transmit.publish();
    guest.kick(TRANSMIT)?;
    wait_for(&mut guest, &answer(1, 100))
}

fn transmit_writable(field: &mut Field) -> Result<()> {
    breaks(field, 0, |guest| vec![buffer(guest, 76, WRITE, 0)], &[0], DIRECTION)
}

fn turns_round(field: &mut Field) -> Result<()> {
    let descriptors =
        |guest: &Guest| vec![buffer(guest, 40, NEXT, 1), buffer(guest, 40, NEXT | WRITE, 2), buffer(guest, 40, 0, 0)];
    breaks(field, 0, descriptors, &[0], DIRECTION)
}

fn receive_readable(field: &mut Field) -> Result<()> {
    let readable = |guest: &Guest| (0..16).map(|_| buffer(guest, 2048, 0, 0)).collect();
    let mut guest = offer_receive(field, SMALL, 0, readable, 0..16)?;
    provoke(&mut guest);
    field.expect_quarantine(DIRECTION);
    guest.wait_closed()
}
