//! The socket `S.repair`: whoever connects switches sockets to repair mode for us, which takes CAP_NET_ADMIN: passt-repair or
//! culvertd. The protocol is passt-repair's: a message is one byte (1 on, 0 off) with up to 253 sockets, its answer the same
//! byte. docs/TRANSLATOR.md tells it to users.
//!
//! It is used only while a guest moves and stands still, so it is waited for, but not for long. Nothing listens to it in the
//! event loop: a client waits until it is needed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use culvert_translate::sockets::moving::{MOST_SOCKETS, Repair, Repairer};
use culvert_vhost::listen::{BindError, SocketName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The socket and its client.
#[derive(Debug)]
pub struct RepairSocket {
    socket: OwnedFd,
    name: Mutex<SocketName>,
    client: Mutex<Option<OwnedFd>>,
}

impl RepairSocket {
    /// Creates the socket. One that a dead process left is replaced.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (socket, name) = SocketName::bind(&path.into(), SocketType::STREAM)?;
        Ok(Self { socket, name: Mutex::new(name), client: Mutex::default() })
    }

    /// See [`SocketName::leave`].
    pub fn leave_name(&self) {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).leave();
    }

    /// The client that has connected last, or is there since before; waits a moment for one.
    fn client(&self, held: Option<OwnedFd>) -> Result<OwnedFd, Errno> {
        let mut client = held;
        let wait = if client.is_some() { 0 } else { CONNECT_MILLIS };
        if is_ready(&self.socket, PollFlags::IN, wait) {
            for _ in 0..MAX_ACCEPTS {
                match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(newer) => client = Some(newer),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(_) => break,
                }
            }
        }
        client.ok_or(Errno::NOTCONN)
    }
}

impl Repairer for RepairSocket {
    fn switch(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> io::Result<()> {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = Errno::NOTCONN;
        // One that has gone does not keep out the next.
        for _ in 0..2 {
            let client = self.client(held.take())?;
            match ask(&client, sockets, mode) {
                Ok(()) => {
                    *held = Some(client);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }
}

fn ask(client: &OwnedFd, sockets: &[BorrowedFd<'_>], mode: Repair) -> Result<(), Errno> {
    let byte = [match mode {
        Repair::On => 1_u8,
        Repair::Off => 0,
    }];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(client, &[IoSlice::new(&byte)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if !is_ready(client, PollFlags::IN, ANSWER_MILLIS) {
        return Err(Errno::TIMEDOUT);
    }
    let mut answer = [0xff];
    let mut nothing = RecvAncillaryBuffer::default();
    let received =
        rustix::net::recvmsg(client, &mut [IoSliceMut::new(&mut answer)], &mut nothing, RecvFlags::DONTWAIT)?;
    if received.bytes == 1 && answer == byte { Ok(()) } else { Err(Errno::PERM) }
}

fn is_ready(socket: &OwnedFd, flags: PollFlags, millis: i64) -> bool {
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    let mut polled = [PollFd::new(socket, flags)];
    poll(&mut polled, Some(&time)).is_ok_and(|count| count > 0)
}

/// How long a client is waited for that has not connected.
const CONNECT_MILLIS: i64 = 100;
/// How long an answer is waited for.
const ANSWER_MILLIS: i64 = 3000;
/// Connections that are looked at at once.
const MAX_ACCEPTS: usize = 64;
