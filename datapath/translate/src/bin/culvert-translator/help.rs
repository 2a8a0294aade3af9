//! The socket `S.help`: culvertd hands over what only a privilege can open: a packet socket on the guest's tap, and what
//! steers all ports to two sockets ([`crate::steering`]).
//!
//! Messages of a SOCK_SEQPACKET socket, docs/TRANSLATOR.md has them all: this side says `packet` when it has no packet
//! socket, or none any more, and `ok` when it has one; culvertd answers `packet` with the descriptor, or `error:` and why
//! not; this side says `ok`, or `error:` and why it does not take it. And it says `ports` with two sockets when ports could
//! be steered to them, and `steered` when culvertd has answered with what does that. Who may connect is for the kernel to say (mode
//! 0660). There is one client, the last that came: without it the guest's packet socket stays. Nothing here waits.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use culvert_steer::Steering;
use culvert_translate::transport::Transport;
use culvert_vhost::listen::BindError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags,
};

use crate::running::Running;
use crate::side_socket::SideSocket;

/// The socket and its client.
#[derive(Debug)]
pub struct HelpSocket {
    side: SideSocket,
    client: Option<Client>,
    /// Whether the guest's transport is a packet socket.
    packets: bool,
    /// Why there was no help the last time, so that the log has it once.
    refusal: String,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Whether there is a packet socket, as it was told.
    told: Option<bool>,
    /// Whether it has the sockets to which ports are to be steered, or knows that they are.
    has_sockets: bool,
}

/// What a client has said.
#[derive(Debug)]
enum Message {
    Packet(OwnedFd),
    Ports(Steering),
    Error(String),
    /// It speaks another language.
    Other,
}

impl HelpSocket {
    /// Creates the socket. One that a dead process left is replaced. `packets`: packet sockets are asked for.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn bind(path: &Path, packets: bool) -> Result<Self, BindError> {
        Ok(Self { side: SideSocket::bind(path)?, client: None, packets, refusal: String::new() })
    }

    /// See [`SideSocket::leave_name`].
    pub fn leave_name(&mut self) {
        self.side.leave_name();
    }

    /// Has the event loop wait for it: for the socket with `token`, for its client with the next one.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.side.register(registry, token)
    }

    /// Does what is to be done after an event with `token`.
    pub fn ready(&mut self, token: Token, running: &mut Running) {
        let Some((registry, first)) = &self.side.token else { return };
        if token == *first {
            if let Some(socket) = newest(&self.side.socket) {
                // The old one is closed first: its descriptor must not be taken out of epoll later.
                self.client = None;
                let next = Token(first.0 + 1);
                match registry.register(&mut SourceFd(&socket.as_raw_fd()), next, Interest::READABLE) {
                    Ok(()) => self.client = Some(Client { socket, told: None, has_sockets: false }),
                    Err(error) => tracing::debug!(%error, "a client of the socket for help cannot be served"),
                }
            }
        } else if let Some(client) = &mut self.client
            && client.serve(running, &mut self.refusal).is_err()
        {
            self.client = None;
        }
    }

    /// Asks for a packet socket if there is none, and tells when there is one; asks to have ports steered. To be called
    /// once in each round.
    pub fn ask(&mut self, running: &mut Running) {
        let Some(client) = &mut self.client else { return };
        if client.ask(running, self.packets).is_err() {
            self.client = None;
        }
    }
}

/// The last of those that have connected.
fn newest(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut newest = None;
    // As many as can have waited; what comes meanwhile makes another event.
    for _ in 0..MAX_ACCEPTS {
        match rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => newest = Some(client),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => {
                tracing::debug!(%error, "a client of the socket for help cannot be accepted");
                break;
            }
        }
    }
    newest
}

impl Client {
    fn ask(&mut self, running: &mut Running, packets: bool) -> Result<(), Errno> {
        let has_one = !is_waiting(&running.transport);
        if packets && self.told != Some(has_one) {
            say(&self.socket, if has_one { "ok" } else { "packet" })?;
            self.told = Some(has_one);
        }
        if self.has_sockets {
            return Ok(());
        }
        if running.is_steering() {
            say(&self.socket, "steered")?;
            self.has_sockets = true;
        } else if let Some(sockets) = running.sockets_to_steer() {
            say_with(&self.socket, "ports", &sockets)?;
            self.has_sockets = true;
        }
        Ok(())
    }

    /// Takes what it has said. An error: it has gone, or is to be cut off.
    fn serve(&mut self, running: &mut Running, refusal: &mut String) -> Result<(), Errno> {
        for _ in 0..MAX_MESSAGES {
            match receive(&self.socket) {
                Ok(Message::Ports(held)) => match running.steer(held) {
                    Ok(()) => {
                        tracing::info!("culvertd steers all ports that nobody has: they need no listeners");
                        refusal.clear();
                        say(&self.socket, "steered")?;
                    }
                    Err(error) => say(&self.socket, &format!("error: {error}"))?,
                },
                Ok(Message::Packet(descriptor)) => match take(&mut running.transport, descriptor) {
                    Ok(()) => {
                        tracing::info!("culvertd has given a packet socket on the guest's tap");
                        refusal.clear();
                        self.told = Some(true);
                        say(&self.socket, "ok")?;
                    }
                    Err(error) => say(&self.socket, &format!("error: {error}"))?,
                },
                Ok(Message::Error(sentence)) => {
                    if *refusal != sentence {
                        tracing::warn!("culvertd cannot help: {sentence}");
                        *refusal = sentence;
                    }
                }
                Ok(Message::Other) => {
                    say(&self.socket, "error: a message is packet or ports, with descriptors, or error: WHY")?
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // Nobody has so much to say.
        Err(Errno::MSGSIZE)
    }
}

fn take(transport: &mut Transport, descriptor: OwnedFd) -> io::Result<()> {
    match transport {
        Transport::Packet(socket) => socket.take(descriptor),
        Transport::VhostUser(_) | Transport::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn is_waiting(transport: &Transport) -> bool {
    matches!(transport, Transport::Packet(socket) if socket.is_waiting())
}

fn say(socket: &OwnedFd, text: &str) -> Result<(), Errno> {
    rustix::net::send(socket, text.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
}

fn say_with(socket: &OwnedFd, text: &str, descriptors: &[BorrowedFd<'_>; 2]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, flags).map(drop)
}

/// The next message. `Errno::PIPE`: the client has gone.
fn receive(socket: &OwnedFd) -> Result<Message, Errno> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Message::Other);
    }
    // Also an empty message, which cannot be told from the end.
    if received.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let text = str::from_utf8(bytes.get(..received.bytes).unwrap_or_default()).unwrap_or_default();
    let (last, first, others) = (descriptors.pop(), descriptors.pop(), descriptors.len());
    Ok(match (text, first, last) {
        ("packet", None, Some(descriptor)) => Message::Packet(descriptor),
        ("ports", Some(link), Some(table)) if others == 0 => Message::Ports(Steering { link, table }),
        (text, None, None) if !text.contains(char::is_control) => match text.strip_prefix("error: ") {
            Some(sentence) => Message::Error(sentence.to_owned()),
            None => Message::Other,
        },
        _ => Message::Other,
    })
}

/// Connections that are looked at in one event.
const MAX_ACCEPTS: usize = 64;
/// Messages that are taken in one event.
const MAX_MESSAGES: usize = 16;
/// The longest message.
const MAX_MESSAGE_BYTES: usize = 1024;
