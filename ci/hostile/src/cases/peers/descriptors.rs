//! What is handed over with messages: too many descriptors, none, and such as cannot be used. V4, V5, V6.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::{ANSWER, greeted, quiet, refused, settled};
use crate::case::{Case, case, long_case};
use crate::field::Field;
use crate::guest::{RECEIVE, TRANSMIT};
use crate::raw_frontend::{
    NEED_REPLY, NO_DESCRIPTOR, RawFrontend, RawRegion, VERSION, memory_table, message, numbers, request, ring_state,
};

pub const COUNTS: Case = case(
    "V4",
    "descriptors-with-every-request",
    "Each request with 0, 1, 8, 9 and 253 descriptors, and descriptors in the middle of a message: all are closed.",
    counts,
);

pub const MANY: Case = case(
    "V4",
    "ten-thousand-messages-with-descriptors",
    "10,000 messages with descriptors on one connection: what is open stays the same.",
    |field| messages(field, 10_000),
);

pub const VERY_MANY: Case = long_case(
    "V4",
    "a-million-messages-with-descriptors",
    "1,000,000 messages with descriptors on one connection: what is open stays the same.",
    |field| messages(field, 1_000_000),
);

pub const NONE: Case = case(
    "V5",
    "descriptors-that-are-missing",
    "Kicks, calls and regions without their descriptor are refused; those that say that there is none work.",
    missing,
);

pub const KINDS: Case = case(
    "V6",
    "descriptors-of-other-kinds",
    "Folders, devices, pipes, sockets, files and epoll sets as kick, call, error, channel and memory: refused.",
    kinds,
);

fn event() -> Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

fn counts(field: &mut Field) -> Result<()> {
    for sentence in ["refused", "more file descriptors", "in the middle of a message"] {
        field.may_tell(sentence);
    }
    let events = (0..253).map(|_| event()).collect::<Result<Vec<_>>>()?;
    let all: Vec<BorrowedFd> = events.iter().map(AsFd::as_fd).collect();
    for request in 0..=40 {
        for count in [0, 1, 8, 9, 253] {
            let frontend = greeted(field)?;
            let some = all.get(..count).unwrap_or_default();
            // The body of a ring's descriptor and of most others has eight bytes.
            let body = numbers(&[0]);
            let _ = frontend.send(request, VERSION | NEED_REPLY, &body, some);
            let stands = settled(&frontend)?;
            ensure!(count <= 8 || !stands, "request {request} with {count} descriptors left the connection standing");
        }
    }
    let bytes = message(request::SET_VRING_CALL, VERSION, &numbers(&[0]));
    for at in [1, 11, 12, 19] {
        let frontend = greeted(field)?;
        let (start, end) = bytes.split_at(at);
        frontend.send_bytes(start, all.get(..1).unwrap_or_default())?;
        // It may have been closed by then: two messages in one read are told apart.
        let _ = frontend.send_bytes(end, all.get(..8).unwrap_or_default());
        frontend.wait_closed(ANSWER)?;
    }
    Ok(())
}

fn messages(field: &mut Field, count: u32) -> Result<()> {
    for sentence in ["refused", "too many messages"] {
        field.may_tell(sentence);
    }
    let frontend = greeted(field)?;
    let event = event()?;
    let pid = field.daemon().pid();
    let open = || Ok::<_, anyhow::Error>(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    let mut most = 0;
    let table = memory_table(1, &[RawRegion::default()]);
    let event = event.as_fd();
    // Two where one can be are refused, and so is a table of what is no memory.
    let mix: [(u32, &[u8], &[BorrowedFd]); 4] = [
        (request::SET_VRING_CALL, &numbers(&[0]), &[event]),
        (request::SET_VRING_ERR, &numbers(&[1]), &[event]),
        (request::SET_VRING_CALL, &numbers(&[0]), &[event; 2]),
        (request::SET_MEM_TABLE, &table, &[event]),
    ];
    for round in 0..count / 100 {
        for (request, body, descriptors) in mix.iter().cycle().take(100) {
            frontend.send(*request, VERSION | NEED_REPLY, body, descriptors)?;
        }
        for (request, ..) in mix.iter().cycle().take(100) {
            ensure!(frontend.read_reply(ANSWER)?.request == *request);
        }
        let now = open()?;
        // Some are on their way to be closed.
        most = if round == 0 { now + 64 } else { most };
        ensure!(now <= most, "{now} descriptors are open in round {round}, {most} at most were in the first");
    }
    Ok(())
}

fn missing(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    for request in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
        let frontend = greeted(field)?;
        ensure!(refused(&frontend, "no descriptor", request, &numbers(&[0]), &[])?);
        let event = event()?;
        let both = numbers(&[NO_DESCRIPTOR]);
        ensure!(refused(&frontend, "a descriptor that is none", request, &both, &[event.as_fd()])?);
        frontend.must(request, &both, &[])?;
    }
    let frontend = greeted(field)?;
    let region = RawRegion { guest_address: 0, size: 4096, user_address: 1 << 40, offset: 0 };
    ensure!(refused(&frontend, "no file", request::SET_MEM_TABLE, &memory_table(1, &[region]), &[])?);
    let one = [numbers(&[0]), region.body()].concat();
    ensure!(refused(&frontend, "no file", request::ADD_MEM_REG, &one, &[])?);
    ensure!(refused(&frontend, "no channel", request::SET_BACKEND_REQ_FD, &[], &[])?);
    drop(frontend);

    // A guest that wants no interrupts and is polled.
    let mut guest = field.connect_victim(Default::default(), 0)?;
    for ring in [RECEIVE, TRANSMIT] {
        let none = numbers(&[NO_DESCRIPTOR | u64::from(ring)]);
        guest.frontend.must(request::SET_VRING_CALL, &none, &[])?;
        guest.frontend.must(request::SET_VRING_KICK, &none, &[])?;
    }
    let frame = quiet(46);
    ensure!(guest.interface.send(&frame));
    guest.wait_used(TRANSMIT)?;
    Ok(())
}

fn kinds(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    let folder = OwnedFd::from(File::open("/tmp")?);
    let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/zero")?);
    let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC)?;
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?;
    let socket = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0")?);
    let (read_end, write_end) = std::io::pipe()?;
    let (read_end, write_end) = (OwnedFd::from(read_end), OwnedFd::from(write_end));
    let path_only = rustix::fs::open("/tmp", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())?;
    let read_only = read_only_memory()?;
    let never = [&folder, &device, &epoll, &socket, &path_only];
    let of = |frontend: &RawFrontend, what, request, body: &[u8], descriptor: &OwnedFd| -> Result<()> {
        ensure!(refused(frontend, what, request, body, &[descriptor.as_fd()])?, "{what}: the connection was closed");
        Ok(())
    };
    let frontend = greeted(field)?;
    for descriptor in never.into_iter().chain([&file]) {
        for request in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
            of(&frontend, "no event", request, &numbers(&[0]), descriptor)?;
        }
        of(&frontend, "no channel", request::SET_BACKEND_REQ_FD, &[], descriptor)?;
    }
    for descriptor in [&read_end, &write_end] {
        of(&frontend, "a pipe", request::SET_VRING_KICK, &numbers(&[0]), descriptor)?;
    }
    let region = RawRegion { guest_address: 0, size: 4096, user_address: 1 << 40, offset: 0 };
    for descriptor in never.into_iter().chain([&read_end, &write_end, &file, &read_only]) {
        of(&frontend, "no memory", request::SET_MEM_TABLE, &memory_table(1, &[region]), descriptor)?;
        of(&frontend, "no memory", request::ADD_MEM_REG, &[numbers(&[0]), region.body()].concat(), descriptor)?;
    }
    frontend.must(request::SET_VRING_ENABLE, &ring_state(0, 1), &[])
}

/// A page of memory that may not be written to.
fn read_only_memory() -> Result<OwnedFd> {
    let file =
        rustix::fs::memfd_create("sealed", rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, 4096)?;
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE)?;
    Ok(file)
}
