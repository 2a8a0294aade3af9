//! Bytes that are no message, and messages that are no request. V1, V2, V3, V17.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{greeted, passes, refused, settled};
use crate::case::{Case, case};
use crate::field::Field;
use crate::raw_frontend::{NEED_REPLY, REPLY, RawFrontend, VERSION, message, message_of_size, numbers, request};

pub const PIECES: Case = case(
    "V1",
    "messages-in-pieces",
    "Headers of 1 to 11 bytes and an end, messages byte by byte and two in one: answered or closed, nothing waits.",
    pieces,
);

pub const STALLED: Case = case(
    "V1",
    "message-stalls-half-way",
    "A message stops half-way: the connection is closed after five seconds, other ports are served meanwhile.",
    stalled,
);

pub const SIZES: Case = case(
    "V2",
    "sizes-of-bodies",
    "Each request with bodies of every wrong size, and sizes above 4 KiB: refused.",
    sizes,
);

pub const HEADERS: Case = case(
    "V3",
    "unknown-requests-replies-versions",
    "Unknown request numbers, messages marked as replies, other versions and unknown flags: refused or closed.",
    headers,
);

pub const CHANNEL: Case = case(
    "V17",
    "channel-for-requests-full-or-closed",
    "The channel for the backend's requests is never read, is closed, is replaced a hundred times: nothing stalls.",
    channel,
);

fn pieces(field: &mut Field) -> Result<()> {
    field.may_tell("connection closed");
    let wanted = message(request::GET_FEATURES, VERSION, &[]);
    for length in 0..wanted.len() {
        let frontend = RawFrontend::connect(&field.victim_socket())?;
        frontend.send_bytes(wanted.get(..length).unwrap_or_default(), &[])?;
    }
    let frontend = greeted(field)?;
    for byte in &wanted {
        frontend.send_bytes(&[*byte], &[])?;
    }
    ensure!(frontend.read_reply(super::ANSWER)?.request == request::GET_FEATURES);
    let two = [wanted.as_slice(), &message(request::GET_PROTOCOL_FEATURES, VERSION, &[])].concat();
    for cut in 0..two.len() {
        let (one, rest) = two.split_at(cut);
        frontend.send_bytes(one, &[])?;
        frontend.send_bytes(rest, &[])?;
        for expected in [request::GET_FEATURES, request::GET_PROTOCOL_FEATURES] {
            ensure!(frontend.read_reply(super::ANSWER)?.request == expected, "cut at {cut}");
        }
    }
    // As many as the socket takes at once, and no reply is read before all are sent.
    let many: Vec<u8> = std::iter::repeat_n(wanted, 500).flatten().collect();
    frontend.send_bytes(&many, &[])?;
    for _ in 0..500 {
        ensure!(frontend.read_reply(super::ANSWER)?.request == request::GET_FEATURES);
    }
    Ok(())
}

fn stalled(field: &mut Field) -> Result<()> {
    field.expect_line("did not finish a message within 5 s");
    let frontend = greeted(field)?;
    let whole = message(request::SET_FEATURES, VERSION, &numbers(&[0]));
    frontend.send_bytes(whole.get(..15).unwrap_or_default(), &[])?;
    let other = field.add_port("beside-the-stalled", "")?;
    let guest = crate::guest::Guest::connect(&other, Default::default(), 0)?;
    ensure!(!frontend.is_closed(), "closed at once");
    drop(guest);
    frontend.wait_closed(super::ANSWER)
}

fn sizes(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    field.may_tell("bad message header");
    let mut frontend = greeted(field)?;
    for request in 1..=40 {
        for size in [1_usize, 7, 9, 11, 13, 39, 41, 4084] {
            // GET_CONFIG and SET_CONFIG have a payload of any length.
            if matches!(request, request::GET_CONFIG | request::SET_CONFIG) && size >= 12 {
                continue;
            }
            let what = format!("a body of {size} bytes");
            if !refused(&frontend, &what, request, &vec![0; size], &[])? {
                drop(frontend);
                frontend = greeted(field)?;
            }
        }
    }
    drop(frontend);
    for size in [4085, 65_536, 1 << 31, u32::MAX] {
        for request in [request::SET_MEM_TABLE, request::SET_FEATURES, 99] {
            let frontend = greeted(field)?;
            frontend.send_bytes(&message_of_size(request, VERSION, size, &[0; 64]), &[])?;
            frontend.wait_closed(super::ANSWER)?;
        }
    }
    Ok(())
}

fn headers(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    field.may_tell("bad message header");
    let mut frontend = greeted(field)?;
    for request in [0, 26, 27, 28, 29, 30, 33, 41, 42, 43, 44, 45, 100, 255, 256, 65_537, 1 << 31, u32::MAX] {
        if !refused(&frontend, "an unknown request", request, &[], &[])? {
            drop(frontend);
            frontend = greeted(field)?;
        }
    }
    drop(frontend);
    for flags in [VERSION | REPLY, VERSION | REPLY | NEED_REPLY, 0, 2, 3, REPLY] {
        let frontend = greeted(field)?;
        frontend.send(request::GET_FEATURES, flags, &[], &[])?;
        frontend.wait_closed(super::ANSWER)?;
    }
    let frontend = greeted(field)?;
    frontend.send(request::GET_FEATURES, VERSION | 0xffff_fff0, &[], &[])?;
    settled(&frontend)?;
    Ok(())
}

fn channel(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let hand_over = |channel: &OwnedFd| guest.frontend.must(request::SET_BACKEND_REQ_FD, &[], &[channel.as_fd()]);
    let pair = || -> Result<[OwnedFd; 2]> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        while rustix::io::write(&theirs, &[0; 4096]).is_ok() {}
        Ok([ours.into(), theirs.into()])
    };
    let [unread, full] = pair()?;
    hand_over(&full)?;
    for _ in 0..100 {
        let [closed, of_closed] = pair()?;
        drop(closed);
        hand_over(&of_closed)?;
    }
    let (reader, writer) = std::io::pipe()?;
    hand_over(&writer.into())?;
    hand_over(&full)?;
    drop((reader, unread));
    for _ in 0..100 {
        passes(&mut guest)?;
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}
