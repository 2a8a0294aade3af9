//! Wishes to the kernel: the traits through which protocol cores use sockets.
//!
//! Implemented in `socket`, the only module of the translator that makes system calls on sockets, and by simulated
//! networks in tests. Nothing here ever waits: what cannot be done now fails with
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock), and an event comes when it can.

pub mod datagram;
pub mod moving;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use culvert_guest::Rooms;

use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::tcp::SocketInfo;

/// Which socket: the flow or listener that it belongs to. The same value comes back with its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketId {
    /// Of a TCP connection.
    Tcp(u32),
    /// Of a UDP flow.
    Udp(u32),
    /// Of an echo flow.
    Echo(u32),
    /// Of a forwarded TCP port.
    TcpListener(u32),
    /// Of a forwarded UDP port.
    UdpListener(u32),
    /// To which all steered TCP ports lead.
    SteeredTcp,
    /// To which all steered UDP ports lead.
    SteeredUdp,
}

impl SocketId {
    /// As one number, for an event loop: below `1 << 35`.
    pub const fn to_token(self) -> usize {
        let (kind, index) = match self {
            Self::Tcp(index) => (0, index),
            Self::Udp(index) => (1, index),
            Self::Echo(index) => (2, index),
            Self::TcpListener(index) => (3, index),
            Self::UdpListener(index) => (4, index),
            Self::SteeredTcp => (5, 0),
            Self::SteeredUdp => (6, 0),
        };
        kind << 32 | index as usize
    }

    /// Back from that number.
    pub fn from_token(token: usize) -> Option<Self> {
        let index = u32::try_from(token & 0xffff_ffff).ok()?;
        match token >> 32 {
            0 => Some(Self::Tcp(index)),
            1 => Some(Self::Udp(index)),
            2 => Some(Self::Echo(index)),
            3 => Some(Self::TcpListener(index)),
            4 => Some(Self::UdpListener(index)),
            5 => Some(Self::SteeredTcp),
            6 => Some(Self::SteeredUdp),
            _ => None,
        }
    }
}

/// What became possible with a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is data, or the far end's FIN, or an error.
    pub readable: bool,
    /// There is room, or the connection came to be, or an error.
    pub writable: bool,
    /// There is an error: of datagrams, what the network reported about those that were sent.
    pub failed: bool,
    /// A look at a stream may end before what is there does: at the far end's FIN, at urgent data, at an error.
    pub stops: bool,
}

/// What is asked of the kernel before anything is sent.
pub trait Host {
    /// Whether an address is one of this machine's own at this moment, on whatever interface and for whatever reason.
    fn has_address(&mut self, address: SocketAddr) -> bool;
}

/// All kinds of sockets.
pub trait Sockets: TcpSockets + datagram::DatagramSockets {}

impl<S: TcpSockets + datagram::DatagramSockets> Sockets for S {}

/// What can be done with TCP sockets.
pub trait TcpSockets: Host {
    /// Starts to connect a new socket: `id` becomes writable when connected or failed.
    ///
    /// # Errors
    /// The kernel's: no descriptor, no route, refused.
    fn connect(&mut self, id: SocketId, to: SocketAddr, from: &Outbound) -> io::Result<()>;

    /// Takes connections at a port, as [`SocketId::TcpListener`] `index`.
    ///
    /// # Errors
    /// The kernel's: the port is taken, or needs a privilege.
    fn listen(&mut self, index: u32, at: &ListenAt<'_>) -> io::Result<()>;

    /// Takes no more connections there.
    fn stop_listening(&mut self, index: u32);

    /// Takes the next connection of a listener, or of [`SocketId::SteeredTcp`], which becomes the socket `id`; returns the far end's address and ours.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; the kernel's otherwise.
    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<(SocketAddr, SocketAddr)>;

    /// Takes a connected socket out, for another thread's sockets to [`adopt`](Self::adopt). None: it stays.
    fn give_away(&mut self, _id: SocketId) -> Option<OwnedFd> {
        None
    }

    /// Takes in what another thread's sockets gave away, as `id`.
    ///
    /// # Errors
    /// The kernel's; it is closed then.
    fn adopt(&mut self, _id: SocketId, _socket: OwnedFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How the attempt to connect went (SO_ERROR). `Ok(false)`: not known yet.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self, id: SocketId) -> io::Result<bool>;

    /// Writes; returns how many bytes the kernel took.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; the connection's own.
    fn write(&mut self, id: SocketId, bytes: Payload<'_>) -> io::Result<u32>;

    /// Copies what lies `offset` bytes from the start of the receive queue, and leaves it there. Returns how many
    /// bytes; 0: the far end's FIN is there. There must be room for one byte.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing yet; the connection's own.
    fn peek(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32>;

    /// Drops `bytes` from the start of the receive queue.
    fn discard(&mut self, id: SocketId, bytes: u32);

    /// There is room in the send buffer: what came with the stream from another machine and found none is written.
    fn write_on(&mut self, _id: SocketId) {}

    /// An event comes once there is room in the send buffer, also if there is now.
    fn await_writable(&mut self, id: SocketId);

    /// Sends our FIN.
    fn shutdown(&mut self, id: SocketId);

    /// What TCP_INFO says.
    fn info(&mut self, id: SocketId) -> Option<SocketInfo>;

    /// Closes; what was written is still sent.
    fn close(&mut self, id: SocketId);

    /// Closes with RST.
    fn reset(&mut self, id: SocketId);
}

/// Where connections or datagrams are taken from the world for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAt<'a> {
    /// Its address; any of both families where there is none.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Only through this interface.
    pub interface: Option<&'a str>,
    /// The address need not be there (IP_FREEBIND).
    pub freebind: bool,
}
