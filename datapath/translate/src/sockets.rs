//! Wishes to the kernel: the traits through which protocol cores use sockets.
//!
//! Implemented in `socket`, the only module of the translator that makes system calls on sockets, and by simulated networks in tests. Nothing here ever waits: what cannot be done now fails with
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock), and an event comes when it can.

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
            _ => None,
        }
    }
}
