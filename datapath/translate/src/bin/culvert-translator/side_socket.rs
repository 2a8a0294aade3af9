//! A socket beside the guest's, for others than the guest: `S.ctl` and `S.help` are called as it, with an ending. Here is what
//! both have in common: SOCK_SEQPACKET, the name that is left behind, the place in the event loop. Whom it serves, and how,
//! is for [`crate::control`] and [`crate::help`].

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use culvert_vhost::listen::{BindError, SocketName};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::SocketType;

/// The socket, which listens.
#[derive(Debug)]
pub struct SideSocket {
    /// To accept clients from.
    pub socket: OwnedFd,
    name: SocketName,
    /// Set once it is registered: of the socket; those of its clients follow.
    pub token: Option<(Registry, Token)>,
}

impl SideSocket {
    /// Creates the socket. One that a dead process left is replaced.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (socket, name) = SocketName::bind(&path.into(), SocketType::SEQPACKET)?;
        Ok(Self { socket, name, token: None })
    }

    /// Leaves its name behind: see [`SocketName::leave`].
    pub fn leave_name(&mut self) {
        self.name.leave();
    }

    /// Has the event loop wait for it with `token`.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)?;
        self.token = Some((registry.try_clone()?, token));
        Ok(())
    }
}
