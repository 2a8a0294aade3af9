//! What names a flow of any protocol, and where flows from outside lead.
//!
//! The flows themselves are in [`tcp::flows`](crate::tcp::flows), [`udp`](crate::udp) and [`icmp`](crate::icmp).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The two ends of a flow, in the guest's eyes. Without zones: the guest's addresses are all of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowEnds {
    /// The guest's.
    pub guest: SocketAddr,
    /// The peer's, or the group's.
    pub peer: SocketAddr,
}

impl fmt::Display for FlowEnds {
    /// `guest 192.0.2.2:5000 peer 198.51.100.7:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {} peer {}", self.guest, self.peer)
    }
}

/// Where what arrives at a forwarded port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address; the guest's where it is `None`.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}
