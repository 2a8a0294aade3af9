//! Which ports of this network namespace somebody takes connections or datagrams at, by the kernel's list of sockets
//! (sock_diag(7)). It takes no right.

use std::io;

use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SockDiagMessage};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::netlink;

/// A socket that others can speak to at its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// Of UDP, and connected to nobody; otherwise of TCP, and it listens.
    pub is_udp: bool,
    /// Its port.
    pub port: u16,
    /// The number of its file, as fstat(2) tells it.
    pub inode: u64,
}

/// The way to ask.
#[derive(Debug)]
pub struct Question(Socket);

impl Question {
    /// For the network namespace that this thread is in now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// All such sockets at this moment. The kernel answers at once.
    ///
    /// # Errors
    /// The kernel's: it may have no list of these sockets (`tcp_diag`, `udp_diag`).
    pub fn ask(&self) -> io::Result<Vec<Bound>> {
        let mut bound = Vec::new();
        for (protocol, states) in [(IPPROTO_TCP, StateFlags::LISTEN), (IPPROTO_UDP, StateFlags::CLOSE)] {
            for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
                let (states, extensions) = (states.clone(), ExtensionFlags::empty());
                let request = InetRequest { family, protocol, extensions, states, socket_id };
                netlink::dump(&self.0, SockDiagMessage::InetRequest(request), &mut |part| {
                    let SockDiagMessage::InetResponse(response) = part else { return };
                    let header = response.header;
                    let inode = u64::from(header.inode);
                    bound.push(Bound { is_udp: protocol == IPPROTO_UDP, port: header.socket_id.source_port, inode });
                })?;
            }
        }
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    #[test]
    fn listeners_and_unconnected_sockets_are_told_and_no_others() {
        let inode = |socket: &dyn AsFd| rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let question = Question::new().unwrap();
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let datagrams = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let stream = std::net::TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(datagrams[0].local_addr().unwrap()).unwrap();
        let told = question.ask().unwrap();
        for listener in &listeners {
            let port = listener.local_addr().unwrap().port();
            assert!(told.contains(&Bound { is_udp: false, port, inode: inode(listener) }));
        }
        for socket in &datagrams {
            let port = socket.local_addr().unwrap().port();
            assert!(told.contains(&Bound { is_udp: true, port, inode: inode(socket) }));
        }
        let others = [inode(&stream), inode(&connected)];
        assert!(told.iter().all(|bound| !others.contains(&bound.inode)));
        drop((listeners, datagrams));
        assert_eq!(question.ask().unwrap().iter().filter(|bound| told.contains(bound)).count(), told.len() - 4);
    }
}
