//! The sockets of steered ports: one that listens for TCP, one for UDP's datagrams that belong to no flow yet. Both take
//! both families where there are both. The kernel gives them ports, which nobody is to speak to.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::KernelSockets;

/// The ports that these sockets have themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPorts {
    /// TCP's.
    pub tcp: u16,
    /// UDP's.
    pub udp: u16,
}

impl KernelSockets {
    /// Opens both.
    ///
    /// # Errors
    /// The kernel's; none is open then.
    pub fn open_steered(&mut self) -> io::Result<OwnPorts> {
        let opened = self.open_steered_tcp().and_then(|tcp| Ok(OwnPorts { tcp, udp: self.open_steered_udp()? }));
        opened.inspect_err(|_| self.close_steered())
    }

    /// Both, TCP's first, if they are open.
    pub fn steered(&self) -> Option<[BorrowedFd<'_>; 2]> {
        Some([self.steered_tcp.as_ref()?.as_fd(), self.datagrams.steered.as_ref()?.socket.as_fd()])
    }

    /// Closes them. Connections and flows that came through them stay.
    pub fn close_steered(&mut self) {
        (self.steered_tcp, self.datagrams.steered) = (None, None);
    }

    /// The numbers of the files (`st_ino`) of sockets for datagrams that are ours and hear anybody: those of steered
    /// ports, and of flows to groups.
    pub fn own_unconnected(&self) -> BTreeSet<u64> {
        let steered = self.datagrams.steered.as_ref().map(|steered| steered.socket.as_fd());
        let sockets = self.datagrams.unconnected().chain(steered);
        sockets.filter_map(|socket| rustix::fs::fstat(socket).ok()).map(|status| status.st_ino).collect()
    }
}
