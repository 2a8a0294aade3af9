//! Q10: a second processor of the guest rewrites what culvertd reads, while it reads it.
//!
//! Whatever is read twice with something decided in between would show here: a frame that is neither of the two that were there, or worse.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Descriptor, PackedDescriptor, Ram};

use super::attack::{
    Allowance, HEADER, INDIRECT, NEXT, SMALL, WRITE, answer, buffer, echo, memory_end, offer_receive, scratch, transmit,
};
use crate::case::{Case, Part, case};
use crate::field::Field;
use crate::guest::{self, Guest, OFFLOADS, TRANSMIT};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q10",
        "header-changes-while-it-is-read",
        "The checksum's place changes all the time: one of the two, never another.",
        header,
    ),
    case(
        "Q10",
        "header-turns-bad-while-it-is-read",
        "The checksum's place is good and beyond the frame in turn: good or dropped.",
        header_bad,
    ),
    case(
        "Q10",
        "length-changes-while-it-is-read",
        "A buffer's length changes all the time: frames of one of two lengths.",
        length,
    ),
    case(
        "Q10",
        "address-changes-while-it-is-read",
        "A buffer's address is good and nowhere in turn: quarantine at most.",
        address,
    ),
    case(
        "Q10",
        "flags-change-while-they-are-read",
        "A buffer becomes a table, a circle, writable and back: quarantine at most.",
        flags,
    ),
    case(
        "Q10",
        "table-changes-while-it-is-walked",
        "An indirect table's entries change all the time: quarantine at most.",
        table,
    ),
    case(
        "Q10",
        "head-changes-while-it-is-read",
        "Heads in the available ring change all the time: quarantine at most.",
        heads,
    ),
    case(
        "Q10",
        "receive-buffers-change-while-they-are-filled",
        "Receive buffers move, shrink and vanish: quarantine at most.",
        receive,
    ),
    case(
        "Q10",
        "everything-changes-all-the-time",
        "Random bytes over both rings while frames pass: quarantine at most.",
        everything,
    ),
];

/// A thread that rewrites guest memory until it is dropped.
struct Hammer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hammer {
    /// Calls `strike` with the number of the stroke, again and again.
    fn start(guest: &Guest, mut strike: impl FnMut(&Ram, u64) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ram, stopped) = (guest.interface.ram().alias(), stop.clone());
        let thread = thread::spawn(move || {
            let mut stroke = 0;
            while !stopped.load(Ordering::Relaxed) {
                strike(&ram, stroke);
                stroke += 1;
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A descriptor as two numbers.
fn words(descriptor: Descriptor) -> [u64; 2] {
    let Descriptor { address, length, flags, next } = descriptor;
    [address, u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48]
}

/// How long a race is run at the most.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a race is run.
fn duration(field: &Field) -> Duration {
    if field.is_full() { Duration::from_secs(5) } else { Duration::from_millis(300) }
}

/// Offers a descriptor again and again for as long as the race runs, and hands each frame that comes to `look`.
fn run(field: &mut Field, guest: &mut Guest, whole: Descriptor, look: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    run_until(field, guest, whole, look, |_| Ok(true))
}

/// As [`run`], and for as long as not all that must come of the race has been `seen`: who wins is left to the machine, and it may have
/// given the hammer or the worker hardly any time.
fn run_until(
    field: &mut Field,
    guest: &mut Guest,
    whole: Descriptor,
    mut look: impl FnMut(&[u8]) -> Result<()>,
    mut seen: impl FnMut(&mut Field) -> Result<bool>,
) -> Result<()> {
    let (start, mut allowance) = (Instant::now(), Allowance::start());
    while !guest.frontend.is_closed() && (start.elapsed() < duration(field) || !seen(field)?) {
        ensure!(start.elapsed() < LIMIT, "what must come of the race did not within {LIMIT:?}");
        while guest.interface.transmit.pending() < 16 && allowance.permits() {
            again(guest, whole);
        }
        guest.kick(TRANSMIT)?;
        while let Some((_, frame)) = guest.interface.receive() {
            look(&frame)?;
        }
    }
    Ok(())
}

/// Offers a descriptor once more: head 0, where it is, or in a packed ring the next one.
fn again(guest: &mut Guest, whole: Descriptor) {
    let ring = &mut guest.interface.transmit;
    if ring.is_packed() {
        while ring.take_used().is_some() {}
        let Descriptor { address, length, flags, .. } = whole;
        ring.as_packed().offer_raw(&[PackedDescriptor { address, length, id: 0, flags }]);
    } else {
        ring.offer_head(0);
    }
    ring.publish();
}

/// Writes the descriptor that is offered, where that is done once.
fn place(guest: &Guest, whole: Descriptor) {
    if !guest.interface.transmit.is_packed() {
        guest.interface.transmit.set_descriptor(0, whole);
    }
}

/// Where the descriptors of a transmit ring are that are offered again and again: one, or all of a packed ring.
fn places(guest: &Guest) -> Vec<u64> {
    let (at, _, _) = guest.interface.transmit.guest_addresses();
    let count = if guest.interface.transmit.is_packed() { guest.interface.transmit.size() } else { 1 };
    (0..u64::from(count)).map(|index| at + 16 * index).collect()
}

/// The frame is the answer to the one request there is.
fn unchanged(frame: &[u8]) -> Result<()> {
    ensure!(frame == answer(5, 60), "another frame: {frame:02x?}");
    Ok(())
}

/// Declares that what comes of the frames is left to chance.
fn whatever(field: &mut Field) {
    field.exempt(Part::Log, "whether a frame, a drop or a quarantine comes of it is a matter of nanoseconds");
}

/// An echo request behind this header, with 8-byte-aligned fields, in one buffer of the scratch memory.
fn request(guest: &Guest, header: [u8; 12], number: u8, length: usize) -> Descriptor {
    let at = scratch(guest);
    guest.interface.ram().write(at, &header);
    guest.interface.ram().write(at + u64::from(HEADER), &echo(number, length));
    buffer(guest, HEADER + u32::try_from(length).unwrap_or(0), 0, 0)
}

/// The first eight bytes of a header that asks for a checksum from `start` on, 10 bytes behind it.
fn checksum_from(start: u16) -> u64 {
    1 | u64::from(start) << 48
}

/// The places in which a frame differs from what was sent, as pairs of bytes.
fn changed_places(frame: &[u8], sent: &[u8]) -> Vec<usize> {
    let differs = |index: &usize| frame.get(*index) != sent.get(*index);
    let mut places: Vec<usize> = (0..sent.len()).filter(differs).map(|index| index & !1).collect();
    places.dedup();
    places
}

/// A guest whose frame 5 asks for a checksum from byte 20 on, and every other moment from `start` on.
fn hammered_header(field: &mut Field, start: u16) -> Result<(Guest, Descriptor, Hammer)> {
    let guest = field.connect_victim(SMALL, OFFLOADS)?;
    let mut bytes = [0; 12];
    (bytes[0], bytes[6], bytes[8]) = (1, 20, 10);
    let whole = request(&guest, bytes, 5, 100);
    place(&guest, whole);
    let at = scratch(&guest);
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        ram.store(at, checksum_from(if stroke % 2 == 0 { 20 } else { start }));
    });
    Ok((guest, whole, hammer))
}

pub(super) fn header(field: &mut Field) -> Result<()> {
    let (mut guest, whole, hammer) = hammered_header(field, 40)?;
    let (sent, seen) = (answer(5, 100), [30, 50].map(|place| (place, Cell::new(false))));
    let look = |frame: &[u8]| {
        // The neighbour negotiated no checksums: culvertd has completed it, at bytes 30 or 50.
        let places = changed_places(frame, &sent);
        let known = seen.iter().find(|(place, _)| frame.len() == 100 && places == [*place]);
        known.with_context(|| format!("a frame changed at {places:?}"))?.1.set(true);
        Ok(())
    };
    run_until(field, &mut guest, whole, look, |_| Ok(seen.iter().all(|(_, seen)| seen.get())))?;
    drop(hammer);
    field.expect_overflow();
    Ok(())
}

pub(super) fn header_bad(field: &mut Field) -> Result<()> {
    let (mut guest, whole, hammer) = hammered_header(field, 0xfff0)?;
    let sent = answer(5, 100);
    let look = |frame: &[u8]| {
        let places = changed_places(frame, &sent);
        ensure!(frame.len() == 100 && places == [30], "a frame changed at {places:?}");
        Ok(())
    };
    let dropped = |field: &mut Field| {
        let victim = field.victim();
        Ok(field.daemon().stats(&victim)?.get("rx_dropped").and_then(serde_json::Value::as_u64) > Some(0))
    };
    run_until(field, &mut guest, whole, look, dropped)?;
    drop(hammer);
    field.expect_drops("bad-offload", 1);
    field.expect_overflow();
    Ok(())
}

pub(super) fn length(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let whole = request(&guest, [0; 12], 5, 1000);
    place(&guest, whole);
    let (long, places) = (whole.length, places(&guest));
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        let length = if stroke % 2 == 0 { long } else { HEADER + 60 };
        places.iter().for_each(|at| ram.write(at + 8, &length.to_le_bytes()));
    });
    let seen = [60, 1000].map(|length| (answer(5, length), Cell::new(false)));
    let look = |frame: &[u8]| {
        let known = seen.iter().find(|(answer, _)| answer == frame);
        known.with_context(|| format!("a frame of {} bytes", frame.len()))?.1.set(true);
        Ok(())
    };
    run_until(field, &mut guest, whole, look, |_| Ok(seen.iter().all(|(_, seen)| seen.get())))?;
    drop(hammer);
    field.expect_overflow();
    Ok(())
}

pub(super) fn address(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let whole = request(&guest, [0; 12], 5, 60);
    place(&guest, whole);
    let places = places(&guest);
    let (good, end) = (whole.address, memory_end(&guest));
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        // Mostly good, so that the race lasts.
        let bad =
            if stroke % 1024 == 1023 { Some(if stroke % 2048 == 1023 { end - 8 } else { u64::MAX }) } else { None };
        places.iter().for_each(|at| ram.store(*at, bad.unwrap_or(good)));
    });
    run(field, &mut guest, whole, unchanged)?;
    drop(hammer);
    whatever(field);
    Ok(())
}

pub(super) fn flags(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, guest::INDIRECT)?;
    let whole = request(&guest, [0; 12], 5, 60);
    place(&guest, whole);
    let (places, is_packed) = (places(&guest), guest.interface.transmit.is_packed());
    let kinds = [0, 0, 0, NEXT, 0, 0, INDIRECT, 0, 0, WRITE, 0, INDIRECT | NEXT, 0, 0x8000, 0, 0];
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        let kind = usize::try_from(stroke % 16).unwrap_or(0);
        // A long rest in the good state.
        let rest = stroke % 4096 > 16;
        let flags = kinds.get(if rest { 0 } else { kind }).copied().unwrap_or(0);
        for at in &places {
            if is_packed {
                // Whose the descriptor is stays as it was a moment ago.
                let mut old = [0; 2];
                ram.read(at + 14, &mut old);
                ram.write(at + 14, &(u16::from_le_bytes(old) & LAP | flags & !LAP).to_le_bytes());
            } else {
                ram.write(at + 12, &flags.to_le_bytes());
            }
        }
    });
    run(field, &mut guest, whole, |_| Ok(()))?;
    drop(hammer);
    whatever(field);
    Ok(())
}

/// The flags of a packed descriptor that tell whose it is.
const LAP: u16 = 1 << 7 | 1 << 15;

pub(super) fn table(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, guest::INDIRECT)?;
    let whole = request(&guest, [0; 12], 5, 60);
    let at = scratch(&guest) + 0x1_0000;
    let table = Descriptor { address: at, length: 64, flags: INDIRECT, next: 0 };
    place(&guest, table);
    let ([address, last], [_, circle]) = (words(whole), words(Descriptor { flags: NEXT, next: 0, ..whole }));
    guest.interface.ram().store(at, address);
    guest.interface.ram().store(at + 8, last);
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        ram.store(at + 8, if stroke % 2048 == 2047 { circle } else { last });
        ram.store(at + 16, stroke.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        ram.store(at + 24, stroke.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    });
    run(field, &mut guest, table, |_| Ok(()))?;
    drop(hammer);
    whatever(field);
    Ok(())
}

fn heads(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    let whole = request(&guest, [0; 12], 5, 60);
    (0..16).for_each(|index| guest.interface.transmit.set_descriptor(index, whole));
    let (_, available, _) = guest.interface.transmit.guest_addresses();
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        // Four heads at a time, all below 16 but once in a while; the first eight bytes have the index.
        let bad = if stroke % 8192 == 8191 { 0x4000 << 16 } else { 0 };
        let heads = stroke.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x000f_000f_000f_000f;
        ram.store(available + 8 + 8 * (stroke % 3), heads | bad);
    });
    run(field, &mut guest, whole, unchanged)?;
    drop(hammer);
    whatever(field);
    Ok(())
}

pub(super) fn receive(field: &mut Field) -> Result<()> {
    let buffers = |guest: &Guest| (0..16).map(|_| buffer(guest, 2048, WRITE, 0)).collect();
    let mut guest = offer_receive(field, SMALL, 0, buffers, 0..16)?;
    let (at, _, _) = guest.interface.receive.guest_addresses();
    let (good, end) = (buffer(&guest, 2048, WRITE, 0), memory_end(&guest));
    let is_packed = guest.interface.receive.is_packed();
    let hammer = Hammer::start(&guest, move |ram, stroke| {
        let place = at + 16 * (stroke % 16);
        let random = stroke.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let length = u32::try_from(random % 2048).unwrap_or(0);
        let mut descriptor = Descriptor { length, ..good };
        if stroke % 65_536 == 65_535 {
            descriptor.address = end - 16;
        }
        if stroke % 4 == 1 {
            (descriptor.flags, descriptor.next) = (WRITE | NEXT, u16::try_from(stroke / 16 % 16).unwrap_or(0));
        }
        let [first, second] = words(descriptor);
        ram.store(place, first);
        if is_packed {
            ram.write(place + 8, &descriptor.length.to_le_bytes());
        } else {
            ram.store(place + 8, second);
        }
    });
    let deadline = Instant::now() + duration(field);
    let (mut number, mut allowance) = (0_u16, Allowance::start());
    while Instant::now() < deadline && !guest.frontend.is_closed() {
        if !allowance.permits() {
            continue;
        }
        let _ = guest.send(&echo(number.to_le_bytes()[0], 60 + usize::from(number % 1400)));
        number += 1;
        // All that came back is offered again.
        if is_packed {
            let Descriptor { address, length, flags, .. } = good;
            let ring = guest.interface.receive.as_packed();
            while ring.take_used().is_some() {}
            while ring.offer_raw(&[PackedDescriptor { address, length, id: 0, flags }]).is_some() {}
            ring.publish();
        }
        while !is_packed && guest.interface.receive.pending() < 16 {
            guest.interface.receive.offer_head(number % 16);
            guest.interface.receive.publish();
        }
    }
    drop(hammer);
    whatever(field);
    Ok(())
}

pub(super) fn everything(field: &mut Field) -> Result<()> {
    // Several lives, each ended by the first index that goes back.
    for life in 0..4_u64 {
        let port = format!("{}-{life}", field.victim().get(..20).unwrap_or("port"));
        let socket = field.add_port(&port, "")?;
        let mut guest = Guest::connect(&socket, field.shape(SMALL), guest::INDIRECT | guest::EVENT_IDX | OFFLOADS)?;
        let whole = request(&guest, [0; 12], 5, 60);
        transmit(&mut guest, &[whole], &[0])?;
        let (transmit, _, _) = guest.interface.transmit.guest_addresses();
        let (receive, _, _) = guest.interface.receive.guest_addresses();
        let start = transmit.min(receive);
        let is_packed = guest.interface.transmit.is_packed();
        let mut random = 0x2545_f491_4f6c_dd1d_u64 ^ life;
        let hammer = Hammer::start(&guest, move |ram, stroke| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // The tables at once, the rings' indices later, so that some frames pass first.
            let limit = if stroke < 20_000 { 0x100 } else { 0x4000 };
            let mask = if is_packed { 0x8087_000f_ffff_ffff } else { 0x0007_0007_ffff_ffff };
            ram.store(start + (random >> 20) % limit / 8 * 8, random & mask);
        });
        // The used rings are nonsense as well: only culvertd looks at them.
        let deadline = Instant::now() + duration(field);
        let mut allowance = Allowance::start();
        while Instant::now() < deadline && !guest.frontend.is_closed() {
            if allowance.permits() {
                again(&mut guest, whole);
                guest.kick(TRANSMIT)?;
            }
        }
        drop(hammer);
    }
    whatever(field);
    Ok(())
}
