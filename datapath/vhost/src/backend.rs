//! What the vhost-user server needs of the rest of the daemon, and what it tells about its sockets.
//!
//! Implemented by control's glue (and by tests); called by [`crate::server`]'s helper thread only, one call at a time.

use std::fmt;

use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};

use crate::session::SessionStatus;

/// The daemon's own number of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey(pub u32);

/// The side that runs the rings.
pub trait Backend: Send + Sync {
    /// Changes rings of a port, in the order given, and returns when every worker has acknowledged: each `Stop` is
    /// answered by one [`StoppedRing`], also of a ring that did not run (with position 0).
    ///
    /// # Errors
    /// [`Unresponsive`] if an acknowledgement is missing after 1 s. The changes may be done later. The memory that
    /// the port had before is kept mapped until a `Stop` of all its rings is acknowledged.
    fn change_rings(&self, port: PortKey, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive>;

    /// Tells the network that a guest is behind this port now (SEND_RARP).
    fn announce(&self, port: PortKey, mac: MacAddress);

    /// Tells that the state of a port's socket has changed.
    fn state(&self, port: PortKey, state: SocketState);
}

/// State of a port's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// There is no frontend.
    Waiting,
    /// A frontend is connected.
    Connected(Connection),
    /// The connection was closed because the guest broke its rings. The next connection ends this state.
    Quarantined {
        /// What the guest did.
        reason: String,
    },
    /// The socket cannot be used at present; it is tried again.
    Failed {
        /// Why, with the remedy.
        reason: String,
    },
}

/// A connected frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who it is.
    pub peer: Peer,
    /// What was agreed with it.
    pub session: SessionStatus,
}

/// The process at the other end of a socket, as the kernel knows it (SO_PEERCRED): the one that called connect or
/// listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Process; 0 if it lies outside of our pid namespace.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A guest that may not come back for the present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Why, with the remedy.
    pub reason: String,
    /// The process of its frontend, as in [`Peer::pid`]; 0: any.
    pub pid: u32,
}

impl Bar {
    /// Whether it holds for a frontend: another process than the one that was there is another guest, or the same one
    /// started anew.
    pub fn holds_for(&self, peer: Peer) -> bool {
        self.pid == 0 || peer.pid == 0 || self.pid == peer.pid
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}
