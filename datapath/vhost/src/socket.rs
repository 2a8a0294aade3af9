//! One connection: bytes and file descriptors in, bytes out, never waiting.
//!
//! Every received descriptor becomes an `OwnedFd` at once. There is room for as many as the kernel carries, because those
//! without room would be closed by the kernel in this thread, which may take as long as the peer likes; what the kernel had
//! to leave out all the same is reported, because a message without its descriptors means something else.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use mio::net::UnixStream;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};

use crate::backend::Peer;
use crate::message::{MAX_DESCRIPTORS, MOST_DESCRIPTORS};

/// What came out of a socket.
#[derive(Debug)]
pub enum Received {
    /// That many bytes, at least one, and descriptors.
    Bytes(usize, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The peer has closed its end.
    End,
    /// There were more descriptors than any message has, or than we may have open: those that we have.
    LostDescriptors(Vec<OwnedFd>),
}

/// Reads what is there, at most one buffer full.
///
/// # Errors
/// The connection is broken.
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(error) => return Err(error.into()),
            Ok(received) => break received,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        Received::LostDescriptors(descriptors)
    } else if received.bytes == 0 {
        Received::End
    } else {
        Received::Bytes(received.bytes, descriptors)
    })
}

/// Sends as much as fits; returns how many bytes that was.
///
/// # Errors
/// The connection is broken.
pub fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            result => return result.map_err(Into::into),
        }
    }
}

/// Whether there is something to read, be it the end or an error.
pub fn is_readable(stream: &UnixStream) -> bool {
    let mut wanted = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where the kernel cannot tell, reading does.
    rustix::event::poll(&mut wanted, Some(&now)) != Ok(0)
}

/// Whether the peer has closed its end, even if there are bytes left to read.
pub fn is_hung_up(stream: &UnixStream) -> bool {
    let mut wanted = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let found = rustix::event::poll(&mut wanted, Some(&now)).is_ok_and(|count| count > 0);
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    found && wanted.iter().any(|polled| polled.revents().intersects(gone))
}

/// Who is at the other end.
pub fn peer(stream: &UnixStream) -> Peer {
    let Ok(who) = rustix::net::sockopt::socket_peercred(stream) else { return Peer::default() };
    Peer { pid: u32::try_from(who.pid.as_raw_pid()).unwrap_or(0), uid: who.uid.as_raw(), gid: who.gid.as_raw() }
}
