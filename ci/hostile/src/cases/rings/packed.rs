//! Q1 to Q9, Q16 and Q20 with packed rings: what of those there is in them.

use anyhow::{Result, ensure};
use culvert_driver::{PackedDescriptor, PackedRing, Shape};

use super::attack::{HEADER, SMALL, check_served};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};

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
