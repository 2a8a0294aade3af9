//! The socket `S.help`: culvertd hands over what only a privilege can open, a packet socket on the guest's tap.
//!
//! Messages of a SOCK_SEQPACKET socket, docs/TRANSLATOR.md has them all: this side says `packet` when it has no packet
//! socket, or none any more, and `ok` when it has one; culvertd answers `packet` with the descriptor, or `error:` and why
//! not; this side says `ok`, or `error:` and why it does not take it. Who may connect is for the kernel to say (mode
//! 0660). There is one client, the last that came: without it the guest's packet socket stays. Nothing here waits.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use culvert_translate::transport::Transport;
use culvert_vhost::listen::BindError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketFlags};

use crate::side_socket::SideSocket;

/// The socket and its client.
#[derive(Debug)]
pub struct HelpSocket {
    side: SideSocket,
    client: Option<Client>,
    /// Why there was no help the last time, so that the log has it once.
    refusal: String,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Whether there is a packet socket, as it was told.
    told: Option<bool>,
}

/// What a client has said.
#[derive(Debug)]
enum Message {
    Packet(OwnedFd),
    Error(String),
    /// It speaks another language.
    Other,
}

impl HelpSocket {
    /// Creates the socket. One that a dead process left is replaced.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Ok(Self { side: SideSocket::bind(path)?, client: None, refusal: String::new() })
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
    pub fn ready(&mut self, token: Token, transport: &mut Transport) {
        let Some((registry, first)) = &self.side.token else { return };
        if token == *first {
            if let Some(socket) = newest(&self.side.socket) {
                // The old one is closed first: its descriptor must not be taken out of epoll later.
                self.client = None;
                let next = Token(first.0 + 1);
                match registry.register(&mut SourceFd(&socket.as_raw_fd()), next, Interest::READABLE) {
                    Ok(()) => self.client = Some(Client { socket, told: None }),
                    Err(error) => tracing::debug!(%error, "a client of the socket for help cannot be served"),
                }
            }
        } else if let Some(client) = &mut self.client
            && client.serve(transport, &mut self.refusal).is_err()
        {
            self.client = None;
        }
    }

    /// Asks for a packet socket if there is none, and tells when there is one. To be called once in each round.
    pub fn ask(&mut self, transport: &Transport) {
        let Some(client) = &mut self.client else { return };
        let has_one = !is_waiting(transport);
        if client.told != Some(has_one) && say(&client.socket, if has_one { "ok" } else { "packet" }).is_err() {
            self.client = None;
        } else {
            client.told = Some(has_one);
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
    /// Takes what it has said. An error: it has gone, or is to be cut off.
    fn serve(&mut self, transport: &mut Transport, refusal: &mut String) -> Result<(), Errno> {
        for _ in 0..MAX_MESSAGES {
            match receive(&self.socket) {
                Ok(Message::Packet(descriptor)) => match take(transport, descriptor) {
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
                        tracing::warn!("culvertd cannot give a packet socket on the guest's tap: {sentence}");
                        *refusal = sentence;
                    }
                }
                Ok(Message::Other) => {
                    say(&self.socket, "error: a message is packet, with a descriptor, or error: WHY")?
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

/// The next message. `Errno::PIPE`: the client has gone.
fn receive(socket: &OwnedFd) -> Result<Message, Errno> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
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
    let (one, others) = (descriptors.pop(), descriptors.len());
    Ok(match (text, one) {
        ("packet", Some(descriptor)) if others == 0 => Message::Packet(descriptor),
        (text, None) if !text.contains(char::is_control) => match text.strip_prefix("error: ") {
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
