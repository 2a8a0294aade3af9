//! All rows of this table with packed rings: cases of their own, where a packed ring is another thing, and the same acts as with split ones.
//!
//! What there is not in a packed ring: heads and indices (Q2 and Q3: chains beyond the offer, laps, and where a ring is said to stand take
//! their place), and an entry to offer one buffer twice by (Q16: the whole ring is). Q19 is of the device, whatever its rings are.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use culvert_driver::{PackedDescriptor, PackedRing, Shape};

use super::attack::{HEADER, SMALL, check_served, echo, memory_end, must_refuse};
use super::{floods, layout, lengths, offloads, races, resets};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT};
use crate::raw_frontend::{numbers, request, ring_addresses, ring_state};

/// A case of split rings, played with packed ones: what must come of it is the same.
macro_rules! same {
    ($row:literal, $name:literal, $what:literal, $run:path) => {
        case($row, concat!("packed-", $name), concat!("Packed: ", $what), |field| {
            field.use_packed_rings();
            $run(field)
        })
    };
}

/// The cases of this file.
pub const CASES: &[Case] = &[
    case("Q1", "packed-chain-around-the-ring", "Packed: a chain goes around the ring: quarantine.", around),
    case("Q2", "packed-chain-beyond-the-offer", "Packed: a chain goes on behind the offer: quarantine.", beyond),
    case("Q4", "packed-address-outside", "Packed: a buffer outside of all regions: quarantine.", outside),
    case("Q5", "packed-empty-buffers", "Packed: buffers of length 0: dropped, later frames pass.", empty),
    case("Q8", "packed-table-in-a-table", "Packed: an indirect table in an indirect table: quarantine.", nested),
    case("Q8", "packed-table-with-a-next", "Packed: an indirect table that goes on with NEXT: quarantine.", table_next),
    case("Q9", "packed-writable-transmit", "Packed: a transmit buffer to be written: quarantine.", writable),
    case("Q16", "packed-offered-again-early", "Packed: the ring is offered again whole before it came back.", early),
    case(
        "Q20",
        "packed-event-garbage",
        "Packed: nonsense in the driver's event area while frames pass: they pass.",
        events,
    ),
    case("Q3", "packed-laps", "Packed: both rings go around many times: all frames pass.", laps),
    case(
        "Q3",
        "packed-position-outside",
        "Packed: the ring is said to stand where it has no place: refused or quarantine.",
        bad_position,
    ),
    case(
        "Q6",
        "packed-frame-above-4-gib",
        "Packed: a chain whose lengths exceed 32 bits together: dropped.",
        above_4_gib,
    ),
    case(
        "Q12",
        "packed-ring-outside",
        "Packed: descriptors or event areas outside of the memory: refused.",
        areas_outside,
    ),
    case(
        "Q18",
        "packed-guest-restarts-without-a-word",
        "Packed: a guest makes its rings anew while they run: its own loss.",
        restarts_silently,
    ),
    same!("Q5", "empty-buffer-first", "A buffer of no bytes before the frame.", lengths::empty_first),
    same!("Q5", "empty-buffers-between", "Buffers of no bytes between those of the frame.", lengths::empty_between),
    same!("Q5", "empty-buffer-last-anywhere", "A buffer of no bytes at no address.", lengths::empty_last),
    same!("Q5", "all-buffers-empty", "A chain of no bytes at all.", lengths::all_empty),
    same!("Q5", "frame-of-no-bytes", "The virtio-net header and nothing else.", lengths::header_only),
    same!("Q6", "frame-above-64-kib", "A frame that is longer than any can be.", lengths::above_64_kib),
    same!("Q7", "chain-within-the-header", "Chains that end within the virtio-net header.", lengths::within_header),
    same!("Q7", "header-over-many-buffers", "The header over 1 to 12 buffers.", lengths::header_split),
    same!("Q10", "header-changes-while-it-is-read", "The checksum's place changes.", races::header),
    same!(
        "Q10",
        "header-turns-bad-while-it-is-read",
        "The checksum's place is good and bad in turn.",
        races::header_bad
    ),
    same!("Q10", "length-changes-while-it-is-read", "A buffer's length changes.", races::length),
    same!("Q10", "address-changes-while-it-is-read", "A buffer's address is good and nowhere in turn.", races::address),
    same!("Q10", "flags-change-while-they-are-read", "A buffer becomes a table, a chain, writable.", races::flags),
    same!("Q10", "table-changes-while-it-is-walked", "An indirect table's entries change.", races::table),
    same!("Q10", "receive-buffers-change-while-filled", "Receive buffers move, shrink and vanish.", races::receive),
    same!("Q10", "everything-changes-all-the-time", "Random bytes over both rings.", races::everything),
    same!(
        "Q11",
        "used-ring-over-the-descriptors",
        "Our event area lies over the descriptors.",
        layout::used_over_descriptors
    ),
    same!("Q11", "used-ring-over-the-available-ring", "Both event areas are the same.", layout::used_over_available),
    same!("Q11", "rings-over-each-other", "Both rings are the same memory.", layout::both_the_same),
    same!("Q11", "buffers-over-the-rings", "Receive buffers lie over both rings.", layout::buffers_over_rings),
    same!("Q12", "ring-size-of-any-number", "Sizes that no ring can have.", layout::sizes),
    same!("Q12", "ring-of-one-entry", "A ring of one entry, which is legal.", layout::size_one),
    same!("Q12", "ring-misaligned", "Descriptors and event areas at odd places.", layout::misaligned),
    same!("Q13", "checksum-beyond-the-frame", "csum_start plus csum_offset is outside.", offloads::beyond),
    same!("Q13", "checksum-wraps-16-bits", "Their sum exceeds 16 bits.", offloads::wraps),
    same!("Q13", "checksum-at-odd-places", "An odd csum_start or csum_offset.", offloads::odd),
    same!("Q13", "checksum-inside-headers", "A checksum in headers that were looked at.", offloads::inside_headers),
    same!("Q13", "checksum-at-the-last-byte", "One byte of it is behind the frame.", offloads::last_byte),
    same!("Q14", "segment-size-0", "Segments of no bytes.", offloads::size_0),
    same!("Q14", "segment-size-1", "64 KiB into segments of one byte.", offloads::size_1),
    same!("Q14", "segment-size-above-the-frame", "Segments longer than the frame.", offloads::size_above),
    same!("Q14", "header-length-lies", "hdr_len of any value.", offloads::hdr_len_lies),
    same!("Q14", "segmentation-without-checksum", "Without a checksum to complete.", offloads::no_checksum),
    same!("Q14", "ecn-bit-alone", "The ECN bit without any segmentation.", offloads::ecn_alone),
    same!("Q14", "segmentation-not-negotiated", "Kinds that were not negotiated.", offloads::not_negotiated),
    same!("Q14", "segmentation-of-another-protocol", "TCP's, asked for UDP and IPv6.", offloads::other_protocol),
    same!("Q14", "offloads-not-negotiated", "A checksum request without the feature.", offloads::none_negotiated),
    same!("Q14", "segments-in-masses", "Bursts of frames of 1,000 segments each.", offloads::masses),
    same!("Q15", "num-buffers-set-by-the-guest", "num_buffers on transmit.", offloads::num_buffers),
    same!("Q15", "receive-chains-of-one-byte", "Receive buffers of one byte.", offloads::one_byte),
    same!("Q15", "receive-buffers-within-the-header", "Receive buffers of 11 bytes.", offloads::no_room_for_header),
    same!("Q15", "receive-buffers-too-small", "Buffers below the frame without MRG_RXBUF.", offloads::too_small),
    same!("Q17", "receive-ring-is-never-refilled", "A guest takes nothing any more.", floods::never_refills),
    same!("Q17", "transmit-ring-is-never-kicked", "Frames without a kick wait for one.", floods::never_kicks),
    same!("Q17", "kicks-without-end", "A million kicks a second, and no frame.", floods::kick_storm),
    same!("Q17", "kicks-with-a-frame-each", "As many kicks and frames as fit.", floods::frame_storm),
    same!("Q17", "kick-is-full", "The kick's counter is at its end.", floods::kick_full),
    same!("Q18", "ring-stops-during-a-burst", "Rings are stopped and started while full.", resets::stops),
    same!("Q18", "ring-is-disabled-during-a-burst", "The transmit ring is disabled while full.", resets::disabled),
    same!("Q18", "device-resets-during-a-burst", "RESET_DEVICE while both rings are full.", resets::resets),
    same!("Q18", "kick-after-reset", "Frames are published after RESET_DEVICE.", resets::after_reset),
    same!("Q18", "features-change-while-rings-run", "SET_FEATURES while frames pass.", resets::features_change),
    same!("Q18", "memory-is-replaced-during-a-burst", "SET_MEM_TABLE while full.", resets::memory_replaced),
];

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A guest with packed rings, which is served.
fn connect(field: &mut Field, event_idx: bool) -> Result<Guest> {
    let mut guest = field.connect_victim(Shape { packed: true, event_idx, ..SMALL }, 0)?;
    check_served(&mut guest, 1)?;
    Ok(guest)
}

fn transmit(guest: &mut Guest) -> &mut PackedRing {
    guest.interface.transmit.as_packed()
}

/// Offers descriptors with these flags, the first one last, and kicks.
fn offer(guest: &mut Guest, table: &[(u64, u32, u16)]) -> Result<()> {
    let ring = transmit(guest);
    let (next, size) = (ring.next(), ring.size());
    for (count, &(address, length, flags)) in (0..size).zip(table).rev() {
        let place = next.ahead(count, size);
        let flags = flags ^ place.available();
        ring.set_descriptor(place.index, PackedDescriptor { address, length, id: 0, flags });
    }
    guest.kick(TRANSMIT)
}

fn inside(guest: &Guest) -> u64 {
    guest.interface.ram().guest_address()
}

fn around(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    offer(&mut guest, &[(at, 8, NEXT); 16])?;
    field.expect_quarantine("longer than the ring");
    guest.wait_closed()
}

fn beyond(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    offer(&mut guest, &[(at, 80, NEXT), (at, 80, AVAIL | USED)])?;
    field.expect_quarantine("is not available");
    guest.wait_closed()
}

fn outside(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    offer(&mut guest, &[(u64::MAX - 100, 80, 0)])?;
    field.expect_quarantine("outside of the guest's memory");
    guest.wait_closed()
}

fn empty(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    for _ in 0..40 {
        let buffers = [culvert_driver::Buffer { address: at, length: 0, writable: false }; 3];
        while guest.interface.transmit.take_used().is_some() {}
        if guest.interface.transmit.offer(&buffers).is_some() {
            guest.interface.transmit.publish();
        }
        guest.kick(TRANSMIT)?;
    }
    check_served(&mut guest, 2)
}

fn nested(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let table = guest.interface.ram().allocate(32, 16);
    for entry in [table, table + 16] {
        let [address, rest] = [table, 32 | u64::from(INDIRECT) << 48].map(u64::to_le_bytes);
        guest.interface.ram().write(entry, &[address, rest].concat());
    }
    offer(&mut guest, &[(table, 32, INDIRECT)])?;
    field.expect_quarantine("is not allowed here");
    guest.wait_closed()
}

fn table_next(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    offer(&mut guest, &[(at, 32, INDIRECT | NEXT), (at, 80, 0)])?;
    field.expect_quarantine("is not allowed here");
    guest.wait_closed()
}

fn writable(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    offer(&mut guest, &[(at, HEADER + 60, WRITE)])?;
    field.expect_quarantine("wrong direction");
    guest.wait_closed()
}

/// Each lap is offered whole as soon as anything of it came back: what comes of it is the guest's own loss, within its ring.
fn early(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    let at = inside(&guest);
    for _ in 0..50 {
        offer(&mut guest, &[(at, HEADER + 60, 0); 16])?;
    }
    // The ring is not what its driver thinks any more; it may begin anew.
    drop(guest);
    connect(field, false).map(drop)
}

fn events(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, true)?;
    for round in 0..200_u16 {
        let noise = round.wrapping_mul(0x9e37);
        transmit(&mut guest).set_driver_event(noise, noise >> 3);
        guest.interface.receive.as_packed().set_driver_event(noise >> 1, noise >> 5);
        check_served(&mut guest, round.to_le_bytes()[0])?;
    }
    ensure!(transmit(&mut guest).counts().2 > 0, "nothing came back");
    Ok(())
}

fn laps(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    // Seven laps of both rings.
    (0..16 * 7_u8).try_for_each(|number| check_served(&mut guest, number))
}

fn bad_position(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    guest.stop_ring(TRANSMIT)?;
    for position in [16_u32, 0x7fff, 0x8010, 0xffff] {
        guest.frontend.must(request::SET_VRING_BASE, &ring_state(TRANSMIT, position), &[])?;
    }
    // It is looked at when the ring is to run.
    let kick = numbers(&[u64::from(TRANSMIT)]);
    let _ = guest.frontend.ask(request::SET_VRING_KICK, &kick, &[guest.kick_of(TRANSMIT).as_fd()]);
    let _ = guest.send(&echo(1, 60));
    field.expect_quarantine("position 0xffff is outside of the ring of 16");
    guest.wait_closed()
}

fn above_4_gib(field: &mut Field) -> Result<()> {
    let shape = Shape { queue_size: 1024, packed: true, ..SMALL };
    let mut guest = field.connect_victim(shape, 0)?;
    let start = inside(&guest);
    let length = u32::try_from(memory_end(&guest) - start)?;
    ensure!(u64::from(length) * 1024 > u64::from(u32::MAX), "the guest has too little memory for this");
    let flags = |index| if index < 1023 { NEXT } else { 0 };
    let chain: Vec<_> =
        (0..1024).map(|index| PackedDescriptor { address: start, length, id: 0, flags: flags(index) }).collect();
    for _ in 0..4 {
        while transmit(&mut guest).take_used().is_some() {}
        ensure!(transmit(&mut guest).offer_raw(&chain).is_some(), "the ring is full");
        transmit(&mut guest).publish();
        guest.kick(TRANSMIT)?;
        guest.wait_used(TRANSMIT)?;
    }
    field.expect_drops("oversized", 4);
    Ok(())
}

fn areas_outside(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim_stopped(Shape { packed: true, ..SMALL }, 0)?;
    let ram = guest.interface.ram();
    let (descriptors, driver, device) = guest.ring(TRANSMIT).user_addresses();
    let end = ram.user(memory_end(&guest) - 16) + 16;
    guest.frontend.must(request::SET_VRING_NUM, &ring_state(TRANSMIT, 16), &[])?;
    let places = [
        (end - 240, driver, device),
        (descriptors, end, device),
        (descriptors, driver, end),
        (u64::MAX - 15, driver, device),
        // A guest's address is none of the frontend's.
        (ram.guest_address(), driver, device),
    ];
    for (a, b, c) in places {
        must_refuse(&guest, request::SET_VRING_ADDR, &ring_addresses(TRANSMIT, 0, a, c, b, 0))?;
    }
    field.expect(Expect::Log { port: field.victim(), sentence: "is not inside of a memory region", lines: 1..=5 });
    Ok(())
}

/// The device goes on where it stood, which is nowhere for the driver: nothing passes until the frontend comes again.
fn restarts_silently(field: &mut Field) -> Result<()> {
    let mut guest = connect(field, false)?;
    (0..5).try_for_each(|number| check_served(&mut guest, number))?;
    guest.interface.transmit.reset();
    guest.interface.receive.reset();
    guest.interface.refill();
    for _ in 0..8 {
        guest.send(&echo(1, 60))?;
    }
    guest.kick(RECEIVE)?;
    drop(guest);
    connect(field, false).map(drop)
}
