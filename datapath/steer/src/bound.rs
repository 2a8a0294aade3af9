//! Which ports of this network namespace somebody takes connections or datagrams at, by the kernel's list of sockets
//! (sock_diag(7)). It takes no right.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SockDiagMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

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
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// All such sockets at this moment. The kernel answers at once.
    ///
    /// # Errors
    /// The kernel's: it may have no list of these sockets (`tcp_diag`, `udp_diag`).
    pub fn ask(&mut self) -> io::Result<Vec<Bound>> {
        let mut bound = Vec::new();
        for (protocol, states) in [(IPPROTO_TCP, StateFlags::LISTEN), (IPPROTO_UDP, StateFlags::CLOSE)] {
            for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
                let (states, extensions) = (states.clone(), ExtensionFlags::empty());
                let request = InetRequest { family, protocol, extensions, states, socket_id };
                self.dump(request, &mut |response: InetResponse| {
                    let header = response.header;
                    let inode = u64::from(header.inode);
                    bound.push(Bound { is_udp: protocol == IPPROTO_UDP, port: header.socket_id.source_port, inode });
                })?;
            }
        }
        Ok(bound)
    }

    fn dump(&mut self, request: InetRequest, each: &mut dyn FnMut(InetResponse)) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut question = NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::InetRequest(request)));
        question.finalize();
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        loop {
            let (answer, _) = self.0.recv_from_full()?;
            if read(&answer, each)? {
                return Ok(());
            }
        }
    }
}

/// Reads the messages of one datagram; whether the last one was among them.
fn read(mut datagram: &[u8], each: &mut dyn FnMut(InetResponse)) -> io::Result<bool> {
    while let Some(length) = datagram.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        // At least its own header (16 bytes), or this would never end.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((message, _)) = datagram.split_at_checked(length).filter(|_| length >= 16) else {
            return Err(io::Error::other("a message of sock_diag is cut off"));
        };
        match NetlinkMessage::<SockDiagMessage>::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))) => each(*response),
            Ok(_) => {}
            Err(error) => tracing::debug!("a message of sock_diag is not understood: {error}"),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    #[test]
    fn listeners_and_unconnected_sockets_are_told_and_no_others() {
        let inode = |socket: &dyn AsFd| rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let mut question = Question::new().unwrap();
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
