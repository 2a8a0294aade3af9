//! Rings and features that cannot be, and requests in any order. V10, V11, V12, V13, V15.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::{ANSWER, VERSION_1, greeted, passes, refused, settled};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT, greet, region};
use crate::raw_frontend::{
    NEED_REPLY, RawFrontend, VERSION, memory_table, numbers, request, ring_addresses, ring_state,
};

pub const ADDRESSES: Case = case(
    "V10",
    "rings-outside-of-memory",
    "Rings outside of regions, across their ends, misaligned, before there is memory: refused, or never started.",
    addresses,
);

pub const NUMBERS: Case = case(
    "V11",
    "rings-that-do-not-exist",
    "Ring numbers beyond those of the port, also such that are right in 16 or 8 bits; positions above 65535: refused.",
    numbers_of_rings,
);

pub const ORDER: Case = case(
    "V12",
    "every-request-in-every-state",
    "Every request in every state of the dialogue has an answer or ends the connection.",
    order,
);

pub const FEATURES: Case = case(
    "V13",
    "features-never-offered",
    "Features that were never offered end the connection; others may change while rings run, which keep theirs.",
    features,
);

pub const INFLIGHT: Case = case(
    "V15",
    "inflight-regions",
    "Requests for inflight regions, which are not offered, again and again: refused.",
    inflight,
);

fn addresses(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    field.may_tell("connection closed");
    let guest = Guest::connect_stopped(&field.victim_socket(), Default::default(), 0)?;
    let of = region(&guest.interface);
    let (start, end) = (of.user_address, of.user_address + of.size);
    guest.frontend.must(request::SET_VRING_NUM, &ring_state(0, 256), &[])?;
    let good = (start, start + 0x1000, start + 0x2000);
    let bad = [
        (0, good.1, good.2),
        (start - 16, good.1, good.2),
        (end - 16, good.1, good.2),
        (end, good.1, good.2),
        (u64::MAX - 15, good.1, good.2),
        (good.0 + 8, good.1, good.2),
        (good.0 + 1, good.1, good.2),
        (good.0, start - 2, good.2),
        (good.0, end - 100, good.2),
        (good.0, good.1 + 1, good.2),
        (good.0, good.1, start - 4),
        (good.0, good.1, end - 100),
        (good.0, good.1, good.2 + 2),
        (good.0, u64::MAX - 1, good.2),
        (good.0, good.1, u64::MAX - 3),
        // Guest addresses in place of the user's.
        (of.guest_address, of.guest_address + 0x1000, of.guest_address + 0x2000),
    ];
    for (descriptors, available, used) in bad {
        let body = ring_addresses(0, 0, descriptors, used, available, 0);
        let what = format!("a ring at {descriptors:#x}, {available:#x}, {used:#x}");
        ensure!(refused(&guest.frontend, &what, request::SET_VRING_ADDR, &body, &[])?, "{what}: closed");
    }
    // A flag that there is not.
    let body = ring_addresses(0, 2, good.0, good.2, good.1, start);
    ensure!(refused(&guest.frontend, "a flag", request::SET_VRING_ADDR, &body, &[])?);
    for size in [0, 3, 255, 257, 2048, 32_768, 65_536, 65_536 + 256, u32::MAX] {
        ensure!(refused(&guest.frontend, "a size", request::SET_VRING_NUM, &ring_state(0, size), &[])?, "{size}");
    }
    drop(guest);

    // Told before there is memory: accepted, and refused when it would have to run.
    let frontend = greeted(field)?;
    let kick = eventfd(0, EventfdFlags::NONBLOCK)?;
    frontend.must(request::SET_VRING_NUM, &ring_state(0, 256), &[])?;
    frontend.must(request::SET_VRING_ADDR, &ring_addresses(0, 0, 4096, 8192, 12_288, 0), &[])?;
    frontend.must(request::SET_VRING_KICK, &numbers(&[0]), &[kick.as_fd()])?;
    let file = rustix::fs::memfd_create("hostile", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, 0x10_0000)?;
    let table = memory_table(
        1,
        &[crate::raw_frontend::RawRegion { size: 0x10_0000, user_address: 1 << 40, ..Default::default() }],
    );
    frontend.must(request::SET_MEM_TABLE, &table, &[file.as_fd()])?;
    settled(&frontend)?;
    drop(frontend);

    // A running ring is moved to where none can be, and runs on.
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let body = ring_addresses(TRANSMIT, 0, end - 16, good.2, good.1, 0);
    ensure!(refused(&guest.frontend, "moved", request::SET_VRING_ADDR, &body, &[])?);
    passes(&mut guest)
}

fn numbers_of_rings(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    field.may_tell("connection closed");
    let frontend = greeted(field)?;
    let event = eventfd(0, EventfdFlags::NONBLOCK)?;
    for ring in [2, 3, 255, 256, 257, 65_535, 65_536, 65_537, 1 << 31, u32::MAX] {
        for request in [request::SET_VRING_NUM, request::SET_VRING_BASE, request::SET_VRING_ENABLE] {
            let value = if request == request::SET_VRING_NUM { 256 } else { 1 };
            ensure!(refused(&frontend, "no such ring", request, &ring_state(ring, value), &[])?, "{ring}");
        }
        let body = ring_addresses(ring, 0, 4096, 8192, 12_288, 0);
        ensure!(refused(&frontend, "no such ring", request::SET_VRING_ADDR, &body, &[])?);
    }
    for ring in [2, 3, 255, 1 << 9, 1 << 16, 1 << 32, (1 << 32) + 1, 1 << 63] {
        for request in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
            ensure!(refused(&frontend, "no such ring", request, &numbers(&[ring]), &[event.as_fd()])?, "{ring}");
        }
    }
    for position in [65_536, 1 << 31, u32::MAX] {
        ensure!(refused(&frontend, "a position", request::SET_VRING_BASE, &ring_state(0, position), &[])?);
    }
    drop(frontend);
    for ring in [2, 65_536, u32::MAX] {
        let frontend = greeted(field)?;
        frontend.send(request::GET_VRING_BASE, VERSION, &ring_state(ring, 0), &[])?;
        frontend.wait_closed(ANSWER).with_context(|| format!("GET_VRING_BASE of ring {ring}"))?;
    }
    Ok(())
}

/// A body that is right for each request, if it is one of a ring for ring 0, and the descriptors that go with it.
fn right(request: u32, guest: &Guest, things: &[OwnedFd; 2]) -> (Vec<u8>, Vec<OwnedFd>) {
    let [event, socket] = things;
    let copy = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned().into_iter().collect();
    let of = region(&guest.interface);
    let ram = guest.interface.ram();
    let (descriptors, available, used) = guest.interface.receive.user_addresses();
    match request {
        request::SET_FEATURES => (numbers(&[VERSION_1 | 1 << 30]), vec![]),
        request::SET_PROTOCOL_FEATURES => (numbers(&[1 << 3]), vec![]),
        request::SET_MEM_TABLE => (memory_table(1, &[of]), copy(ram.file())),
        request::ADD_MEM_REG => ([numbers(&[0]), of.body()].concat(), copy(ram.file())),
        request::REM_MEM_REG => ([numbers(&[0]), of.body()].concat(), vec![]),
        // In the guest's own memory.
        request::SET_LOG_BASE => (numbers(&[of.size, 0]), copy(ram.file())),
        request::SET_LOG_FD => (vec![], copy(event.as_fd())),
        request::SET_VRING_NUM => (ring_state(0, 256), vec![]),
        request::SET_VRING_BASE | request::GET_VRING_BASE => (ring_state(0, 0), vec![]),
        request::SET_VRING_ENABLE => (ring_state(0, 1), vec![]),
        request::SET_VRING_ADDR => (ring_addresses(0, 0, descriptors, used, available, 0), vec![]),
        request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
            (numbers(&[0]), copy(event.as_fd()))
        }
        request::SET_BACKEND_REQ_FD => (vec![], copy(socket.as_fd())),
        request::SEND_RARP => (numbers(&[0x77_00_00_00_00_02]), vec![]),
        request::NET_SET_MTU => (numbers(&[1500]), vec![]),
        request::GET_CONFIG | request::SET_CONFIG => ([ring_state(0, 12), vec![0; 16]].concat(), vec![]),
        _ => (vec![], vec![]),
    }
}

/// What has been said when the request comes.
const STATES: [(&str, &[u32]); 9] = [
    ("nothing", &[]),
    ("features", &[request::SET_OWNER, request::SET_FEATURES]),
    ("memory", &[request::SET_MEM_TABLE]),
    ("a ring", &[request::SET_MEM_TABLE, request::SET_VRING_NUM, request::SET_VRING_ADDR]),
    ("a kick alone", &[request::SET_VRING_KICK]),
    ("enabled alone", &[request::SET_VRING_ENABLE]),
    ("all", &RUNNING),
    (
        "all, and a stop",
        &[
            request::SET_MEM_TABLE,
            request::SET_VRING_NUM,
            request::SET_VRING_ADDR,
            request::SET_VRING_KICK,
            request::GET_VRING_BASE,
        ],
    ),
    (
        "all, and a reset",
        &[
            request::SET_MEM_TABLE,
            request::SET_VRING_NUM,
            request::SET_VRING_ADDR,
            request::SET_VRING_KICK,
            request::RESET_DEVICE,
        ],
    ),
];

const RUNNING: [u32; 7] = [
    request::SET_MEM_TABLE,
    request::SET_VRING_NUM,
    request::SET_VRING_BASE,
    request::SET_VRING_ADDR,
    request::SET_VRING_CALL,
    request::SET_VRING_KICK,
    request::SET_VRING_ENABLE,
];

fn order(field: &mut Field) -> Result<()> {
    for sentence in ["refused", "connection closed"] {
        field.may_tell(sentence);
    }
    // Its memory and rings only; its own connection is at another port.
    let beside = field.add_port("lends-its-memory", "")?;
    let mut guest = Guest::connect(&beside, Default::default(), 0)?;
    let (socket, _other) = UnixStream::pair()?;
    let things = [eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?, socket.into()];
    // Its rings belong to the other port no more.
    guest.stop_ring(RECEIVE)?;
    guest.stop_ring(TRANSMIT)?;
    guest.interface.receive.reset();
    for (name, before) in STATES {
        let mut frontend: Option<RawFrontend> = None;
        for request in 0..=45 {
            let kept = frontend.take().filter(|_| name == "nothing");
            let now = match kept {
                Some(kept) => kept,
                None => {
                    let new = RawFrontend::connect(&field.victim_socket())?;
                    if name != "nothing" {
                        greet(&new, VERSION_1)?;
                    }
                    for &said in before {
                        let (body, descriptors) = right(said, &guest, &things);
                        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                        new.send(said, VERSION, &body, &descriptors)?;
                    }
                    new
                }
            };
            let (body, descriptors) = right(request, &guest, &things);
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            for flags in [VERSION | NEED_REPLY, VERSION] {
                // Twice: once more is another state.
                let _ = now.send(request, flags, &body, &descriptors);
            }
            let stands = settled(&now).with_context(|| format!("request {request} after {name}"))?;
            frontend = stands.then_some(now);
        }
    }
    Ok(())
}

fn features(field: &mut Field) -> Result<()> {
    field.expect(crate::case::Expect::Log { port: field.victim(), sentence: "were never offered", lines: 1..=5 });
    field.may_tell("refused");
    for bit in [5, 17, 33, 40, 63] {
        let frontend = greeted(field)?;
        refused(&frontend, "a feature", request::SET_FEATURES, &numbers(&[1 << bit]), &[])?;
        frontend.wait_closed(ANSWER).with_context(|| format!("bit {bit}"))?;
    }
    // 8: PAGEFAULT, for post-copy.
    for bit in [8, 12, 16, 30, 63] {
        let frontend = greeted(field)?;
        let body = numbers(&[1 << bit]);
        refused(&frontend, "a protocol feature", request::SET_PROTOCOL_FEATURES, &body, &[])?;
        frontend.wait_closed(ANSWER).with_context(|| format!("protocol bit {bit}"))?;
    }
    let mut guest = field.connect_victim(Default::default(), 0)?;
    for bits in [0, VERSION_1, VERSION_1 | 1 << 28 | 1 << 29, 1 << 30] {
        guest.frontend.must(request::SET_FEATURES, &numbers(&[bits]), &[])?;
        passes(&mut guest)?;
    }
    // No protocol features any more: no answers either.
    guest.frontend.send(request::SET_PROTOCOL_FEATURES, VERSION, &numbers(&[0]), &[])?;
    ensure!(settled(&guest.frontend)?);
    passes(&mut guest)
}

fn inflight(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    let file = rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, 4096)?;
    let mut frontend = greeted(field)?;
    for (size, queues, entries) in [(0, 0, 0), (4096, 2, 256), (u64::MAX, 65_535, 65_535), (1 << 40, 1, 0)] {
        let body = [numbers(&[size, 0]), [queues, entries].map(u16::to_ne_bytes).concat(), vec![0; 4]].concat();
        for _ in 0..20 {
            for request in [request::GET_INFLIGHT_FD, request::SET_INFLIGHT_FD] {
                let with: &[BorrowedFd] = if request == request::SET_INFLIGHT_FD { &[file.as_fd()] } else { &[] };
                if !refused(&frontend, "inflight", request, &body, with)? {
                    drop(frontend);
                    frontend = greeted(field)?;
                }
            }
        }
    }
    Ok(())
}
