//! Whether an address is this machine's own: the kernel is asked whether a socket may be bound to it.
//!
//! So addresses count that came after the start, and those of IPv4 that only a route makes local. A socket that gets its
//! port later can be bound again and again: that takes one system call and no port. Used where the host is to be refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, bind, socket_with};

use super::{FLAGS, option};

/// Sockets for asking, one for each family that there is.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    /// Another one for link-local addresses: it stays at the interface that it was bound to first.
    v6_link_local: Option<OwnedFd>,
}

impl OwnAddresses {
    pub(super) fn new() -> Self {
        let open = |family| {
            let socket = socket_with(family, SocketType::DGRAM, FLAGS, None).ok()?;
            option::choose_port_at_connect(socket.as_fd()).ok()?;
            Some(socket)
        };
        let [v4, v6, v6_link_local] = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::INET6].map(open);
        let mut own = Self { v4, v6, v6_link_local };
        // Where any address can be bound (net.ipv4.ip_nonlocal_bind) the answer would mean nothing.
        if own.contain(NOBODYS) {
            tracing::warn!(
                "addresses that this machine gets from now on are not refused to the guest, because \
                 net.ipv4.ip_nonlocal_bind is set: unset it, or restart the translator after a change"
            );
            own = Self { v4: None, v6: None, v6_link_local: None };
        }
        own
    }

    /// Whether `address` is one of them now.
    pub(super) fn contain(&self, address: SocketAddr) -> bool {
        let (socket, address) = match address {
            SocketAddr::V4(address) => (&self.v4, SocketAddr::new((*address.ip()).into(), 0)),
            SocketAddr::V6(mut address) => {
                address.set_port(0);
                let is_link_local = address.ip().is_unicast_link_local();
                (if is_link_local { &self.v6_link_local } else { &self.v6 }, address.into())
            }
        };
        socket.as_ref().is_some_and(|socket| bind(socket, &address).is_ok())
    }
}

/// Reserved (RFC 1112, section 4): no machine's.
const NOBODYS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), 0);
