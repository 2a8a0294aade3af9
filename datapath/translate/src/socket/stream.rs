//! TCP sockets: connecting, listening, and reading without taking.
//!
//! A connection's receive queue is our buffer towards the guest: data is peeked at, sent, and discarded when the guest
//! has acknowledged it. Linux 6.9 and later keep the offset of the next peek for us; before, all that lies ahead of it
//! is copied to a place where nobody reads it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use culvert_guest::{Piece, Rooms, descriptor};
use mio::unix::SourceFd;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, accept_with, bind, connect, getpeername, getsockname,
    listen, shutdown, socket_with,
};

use super::{FLAGS, KernelSockets, bind_outbound, option, register, reregister};
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::{ListenAt, SocketId, TcpSockets};
use crate::tcp::SocketInfo;

/// Connections that wait for us to accept them: the kernel's own bound is usually lower (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// What the send buffer of a connection has that carries much. The kernel lets it grow only when it is full, which it never is, as the guest is
/// told of no more than there is room for: with the 69 KiB of the start a guest sends 50 KiB, and waits.
const SEND_BUFFER: u32 = 1 << 20;

/// Bytes that a connection has carried that carries much.
const BULK: u32 = 0x1_0000;

/// In [`Stream::carried`]: the send buffer is not as the kernel made it.
const WIDENED: u32 = u32::MAX;

/// A look at what is there, without waiting for it.
const PEEK: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);

/// A peek that has so many bytes, all that there was room for, is one of many.
const MUCH: u32 = 0x4000;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: OwnedFd,
    /// Where the kernel's next peek starts.
    pub(super) peek_at: u32,
    /// Bytes that were written to it, while its send buffer is as the kernel made it; see [`SEND_BUFFER`]. [`WIDENED`]
    /// where it is not.
    carried: u32,
}

impl ListenAt<'_> {
    /// A socket bound so: `reuse` beside others that allow it (SO_REUSEADDR). Without an address and without IPv6 on
    /// this machine it is one of IPv4 only.
    ///
    /// # Errors
    /// The kernel's: the port is taken, or needs a privilege.
    pub(super) fn bind(&self, kind: SocketType, reuse: bool) -> io::Result<OwnedFd> {
        let bound = self.bind_to(self.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), kind, reuse);
        match bound {
            Err(error) if self.address.is_none() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                self.bind_to(std::net::Ipv4Addr::UNSPECIFIED.into(), kind, reuse)
            }
            bound => bound,
        }
    }

    fn bind_to(&self, address: IpAddr, kind: SocketType, reuse: bool) -> io::Result<OwnedFd> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, kind, FLAGS, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, self.address.is_some())?;
        }
        sockopt::set_socket_reuseaddr(&socket, reuse)?;
        if let Some(interface) = self.interface {
            option::bind_to_device(socket.as_fd(), interface)?;
        }
        if self.freebind {
            option::set_freebind(socket.as_fd())?;
        }
        bind(&socket, &SocketAddr::new(address, self.port))?;
        Ok(socket)
    }
}

impl KernelSockets {
    /// The far end of a connection, as the host knows it.
    #[must_use]
    pub fn peer(&self, id: SocketId) -> Option<SocketAddr> {
        let peer = getpeername(&self.stream(id).ok()?.socket).ok()??;
        SocketAddr::try_from(peer).ok().map(canonical)
    }

    pub(super) fn stream(&self, id: SocketId) -> io::Result<&Stream> {
        match id {
            SocketId::Tcp(index) => self.streams.get(index),
            _ => Err(super::closed()),
        }
    }

    pub(super) fn stream_mut(&mut self, id: SocketId) -> io::Result<&mut Stream> {
        match id {
            SocketId::Tcp(index) => self.streams.get_mut(index),
            _ => Err(super::closed()),
        }
    }

    fn remove(&mut self, index: u32) -> Option<Stream> {
        self.luggage.remove(&SocketId::Tcp(index));
        self.streams.remove(index)
    }

    pub(super) fn keep(&mut self, id: SocketId, socket: OwnedFd) -> io::Result<()> {
        let SocketId::Tcp(index) = id else { return Err(super::closed()) };
        // The guest decides when to send; waiting here as well would only delay.
        sockopt::set_tcp_nodelay(&socket, true)?;
        // Urgent data is plain data (RFC 6093, section 4).
        sockopt::set_socket_oobinline(&socket, true)?;
        if self.peek_offset {
            option::set_peek_offset(socket.as_fd(), 0)?;
        }
        register(&self.registry, id, &socket)?;
        self.streams.insert(index, Stream { socket, peek_at: 0, carried: 0 });
        Ok(())
    }
}

impl TcpSockets for KernelSockets {
    fn listen(&mut self, index: u32, at: &ListenAt<'_>) -> io::Result<()> {
        let socket = at.bind(SocketType::STREAM, true)?;
        listen(&socket, BACKLOG)?;
        register(&self.registry, SocketId::TcpListener(index), &socket)?;
        self.listeners.insert(index, socket);
        Ok(())
    }

    fn stop_listening(&mut self, index: u32) {
        self.listeners.remove(index);
    }

    fn connect(&mut self, id: SocketId, to: SocketAddr, from: &Outbound<'_>) -> io::Result<()> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
        bind_outbound(&socket, from)?;
        match connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.keep(id, socket)
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<(SocketAddr, SocketAddr)> {
        let listener = match listener {
            SocketId::TcpListener(index) => self.listeners.get(index)?,
            SocketId::SteeredTcp => self.steered_tcp.as_ref().ok_or_else(super::closed)?,
            _ => return Err(super::closed()),
        };
        let socket = accept_with(listener, FLAGS)?;
        let peer = SocketAddr::try_from(getpeername(&socket)?.ok_or_else(super::closed)?)?;
        let local = SocketAddr::try_from(getsockname(&socket)?)?;
        self.keep(id, socket)?;
        Ok((canonical(peer), canonical(local)))
    }

    fn give_away(&mut self, id: SocketId) -> Option<OwnedFd> {
        let SocketId::Tcp(index) = id else { return None };
        let socket = self.remove(index)?.socket;
        // It was registered when it was accepted.
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        Some(socket)
    }

    fn adopt(&mut self, id: SocketId, socket: OwnedFd) -> io::Result<()> {
        self.keep(id, socket)
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        let stream = self.stream(id)?;
        if let Err(error) = sockopt::socket_error(&stream.socket)? {
            return Err(error.into());
        }
        match getpeername(&stream.socket) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOTCONN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, id: SocketId, bytes: Payload<'_>) -> io::Result<u32> {
        self.write_on(id);
        if self.luggage.get(&id).is_some_and(|luggage| !luggage.unwritten.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if bytes.length() >= MUCH {
            bytes.pieces().for_each(Piece::fetch_pages);
        }
        let stream = self.stream_mut(id)?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = descriptor::send(stream.socket.as_fd(), bytes.pieces(), flags, None)?;
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        if stream.carried != WIDENED {
            stream.carried = stream.carried.saturating_add(sent).min(BULK + 1);
        }
        Ok(sent)
    }

    fn peek(&mut self, id: SocketId, offset: u32, mut into: Rooms<'_>) -> io::Result<u32> {
        let mut offset = offset;
        if let Some(luggage) = self.luggage.get(&id) {
            let brought = luggage.received.len();
            if (offset as usize) < brought {
                let (first, second) = luggage.received.as_slices();
                let part = match first.get(offset as usize..) {
                    Some(part) if !part.is_empty() => part,
                    _ => second.get((offset as usize).saturating_sub(first.len())..).unwrap_or_default(),
                };
                return Ok(into.fill(part));
            }
            if luggage.has_ended {
                return Ok(0);
            }
            offset = offset.saturating_sub(u32::try_from(brought).unwrap_or(u32::MAX));
        }
        if self.has_filled {
            into.fetch_pages();
        }
        let room = into.bytes();
        let peeked = if self.peek_offset { self.peek_on(id, offset, into) } else { self.peek_behind(id, offset, into) };
        self.has_filled = peeked.as_ref().is_ok_and(|&count| count == room && count >= MUCH);
        peeked
    }

    fn discard(&mut self, id: SocketId, bytes: u32) {
        let mut left = bytes;
        if let Some(luggage) = self.luggage.get_mut(&id) {
            let count = luggage.received.len().min(left as usize);
            luggage.received.drain(..count);
            left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        }
        let Ok(stream) = self.stream_mut(id) else { return };
        // Reading stops at a byte that is marked as urgent. What fails here fails again at the next peek, and is told
        // there.
        while left > 0
            && let Ok(count @ 1..) = option::discard(stream.socket.as_fd(), left)
        {
            let count = u32::try_from(count).unwrap_or(left);
            stream.peek_at = stream.peek_at.saturating_sub(count);
            left = left.saturating_sub(count);
        }
        if !self.peek_offset {
            // A look from the start of the queue ends at the first such byte: what lies behind the next one can be seen
            // now.
            self.await_writable(id);
        }
    }

    fn write_on(&mut self, id: SocketId) {
        if self.luggage.contains_key(&id) {
            self.unpack(id);
        }
    }

    fn await_writable(&mut self, id: SocketId) {
        if let Ok(stream) = self.stream(id) {
            // It was registered before: this cannot fail but for lack of memory.
            let _ = reregister(&self.registry, id, &stream.socket);
        }
    }

    fn shutdown(&mut self, id: SocketId) {
        if let Some(luggage) = self.luggage.get_mut(&id)
            && !luggage.unwritten.is_empty()
        {
            luggage.is_shut = true;
            return;
        }
        if let Ok(stream) = self.stream(id) {
            // It fails where the far end has reset the connection: there is nobody to tell.
            let _ = shutdown(&stream.socket, Shutdown::Write);
        }
    }

    fn info(&mut self, id: SocketId) -> Option<SocketInfo> {
        self.write_on(id);
        let has_no_room = self.luggage.get(&id).is_some_and(|luggage| !luggage.unwritten.is_empty());
        let stream = self.stream_mut(id).ok()?;
        let socket = stream.socket.as_fd();
        if stream.carried > BULK && stream.carried != WIDENED {
            stream.carried = WIDENED;
            if option::send_buffer(socket).is_ok_and(|bytes| bytes < SEND_BUFFER) {
                // Where it fails, the guest sends less at once.
                let _ = option::widen_send_buffer(socket, SEND_BUFFER);
            }
        }
        let send_room = if has_no_room { 0 } else { option::send_room(socket).ok()? };
        Some(SocketInfo { send_room, rtt: option::round_trip(socket).ok()? })
    }

    fn close(&mut self, id: SocketId) {
        if let SocketId::Tcp(index) = id {
            self.remove(index);
        }
    }

    fn reset(&mut self, id: SocketId) {
        if let SocketId::Tcp(index) = id
            && let Some(stream) = self.remove(index)
        {
            // Lingering for no time makes close send RST.
            let _ = sockopt::set_socket_linger(&stream.socket, Some(std::time::Duration::ZERO));
        }
    }
}

impl KernelSockets {
    /// Opens the socket to which steered ports lead; which port it has itself does not matter. Returns that one.
    pub(super) fn open_steered_tcp(&mut self) -> io::Result<u16> {
        let at = ListenAt { address: None, port: 0, interface: None, freebind: false };
        // Connections have it as well: while there is one, others may still listen at its port.
        let socket = at.bind(SocketType::STREAM, true)?;
        listen(&socket, BACKLOG)?;
        register(&self.registry, SocketId::SteeredTcp, &socket)?;
        let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
        self.steered_tcp = Some(socket);
        Ok(port)
    }

    /// A peek where the kernel keeps the offset.
    fn peek_on(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32> {
        let stream = self.stream_mut(id)?;
        if stream.peek_at != offset {
            option::set_peek_offset(stream.socket.as_fd(), offset)?;
            stream.peek_at = offset;
        }
        let count = descriptor::receive(stream.socket.as_fd(), into, PEEK)?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        stream.peek_at += count;
        Ok(count)
    }

    /// A peek where the kernel keeps no offset: the first `offset` bytes are read as well.
    fn peek_behind(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32> {
        let mut trash = std::mem::take(&mut self.trash);
        trash.resize(trash.len().max(offset as usize), 0);
        let ahead = trash.get_mut(..offset as usize).unwrap_or_default();
        let result =
            self.stream(id).and_then(|stream| descriptor::receive_behind(stream.socket.as_fd(), ahead, into, PEEK));
        self.trash = trash;
        let count = u32::try_from(result?).unwrap_or(u32::MAX);
        if count > offset {
            return Ok(count - offset);
        }
        // Nothing is behind the offset: has the far end finished, or is there nothing yet?
        if self.has_ended(id)? { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn has_ended(&self, id: SocketId) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stream = self.stream(id)?;
        let mut polled = [PollFd::new(&stream.socket, PollFlags::RDHUP)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(polled.iter().any(|polled| polled.revents().contains(PollFlags::RDHUP)))
    }
}

/// IPv4 as IPv4, also where it came through a socket of IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use mio::{Events, Poll};

    use super::*;

    const ID: SocketId = SocketId::Tcp(3);

    /// Our sockets, connected, and the far end.
    fn connected(keep_offset: bool) -> (KernelSockets, Poll, TcpStream) {
        let mut poll = Poll::new().unwrap();
        let mut sockets = KernelSockets::new(poll.registry().try_clone().unwrap()).unwrap();
        if !keep_offset {
            sockets = sockets.without_peek_offset();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.connect(ID, listener.local_addr().unwrap(), &Outbound::default()).unwrap();
        let far = listener.accept().unwrap().0;
        wait(&mut poll);
        assert!(sockets.connected(ID).unwrap());
        (sockets, poll, far)
    }

    fn wait(poll: &mut Poll) {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, None).unwrap();
        assert!(events.iter().all(|event| SocketId::from_token(event.token().0) == Some(ID)));
    }

    #[test]
    fn a_connection_that_carries_much_has_room_for_much() {
        let (mut sockets, _poll, mut far) = connected(true);
        // As with an MTU of 1500: on the loopback it is larger from the start.
        let socket = sockets.stream(ID).unwrap().socket.as_fd();
        option::set_number(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, 34_560).unwrap();
        let first = sockets.info(ID).unwrap().send_room;
        let mut bytes = [0; 4096];
        for _ in 0..32 {
            assert_eq!(sockets.write(ID, Payload::of_bytes(&[0; 4096])).unwrap(), 4096);
            far.read_exact(&mut bytes).unwrap();
        }
        // What it had, and as much as net.core.wmem_max lets it have: 208 KiB everywhere, and twice that is counted.
        let _ = sockets.info(ID).unwrap();
        let room = sockets.info(ID).unwrap().send_room;
        assert!(room > 2 * first && room > 250_000, "{first}, {room}");
        // It still grows by itself: no limit of ours is left.
        let socket = sockets.stream(ID).unwrap().socket.as_fd();
        assert!(!option::is_send_buffer_fixed(socket).unwrap());
    }

    #[test]
    fn what_is_peeked_at_stays_until_it_is_discarded() {
        for keep_offset in [true, false] {
            let (mut sockets, mut poll, mut far) = connected(keep_offset);
            let mut bytes = [0; 4];
            assert_eq!(sockets.peek(ID, 0, Rooms::from(&mut bytes[..])).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            far.write_all(b"abcdefgh").unwrap();
            wait(&mut poll);
            for (offset, expected) in [(0, b"abcd"), (4, b"efgh"), (1, b"bcde"), (0, b"abcd")] {
                assert_eq!(sockets.peek(ID, offset, Rooms::from(&mut bytes[..])).unwrap(), 4);
                assert_eq!(&bytes, expected, "at {offset}");
            }
            assert_eq!(sockets.peek(ID, 8, Rooms::from(&mut bytes[..])).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            sockets.discard(ID, 3);
            assert_eq!(sockets.peek(ID, 1, Rooms::from(&mut bytes[..])).unwrap(), 4);
            assert_eq!(&bytes, b"efgh");
            far.shutdown(std::net::Shutdown::Write).unwrap();
            wait(&mut poll);
            assert_eq!(sockets.peek(ID, 0, Rooms::from(&mut bytes[..])).unwrap(), 4);
            assert_eq!(sockets.peek(ID, 5, Rooms::from(&mut bytes[..])).unwrap(), 0, "the end");
            sockets.discard(ID, 5);
            assert_eq!(sockets.peek(ID, 0, Rooms::from(&mut bytes[..])).unwrap(), 0, "the end");
        }
    }

    /// Reading stops at each mark; nothing is skipped or lost.
    #[test]
    fn urgent_data_is_plain_data() {
        for keep_offset in [true, false] {
            let (mut sockets, mut poll, far) = connected(keep_offset);
            for part in [&b"abc"[..], b"d", b"efg", b"hi"] {
                rustix::net::send(&far, part, if part.len() == 3 { SendFlags::empty() } else { SendFlags::OOB })
                    .unwrap();
                wait(&mut poll);
            }
            let (mut received, mut discarded) = (Vec::new(), 0);
            let mut bytes = [0; 16];
            while received.len() < 9 {
                match sockets.peek(ID, received.len() as u32 - discarded, Rooms::from(&mut bytes[..])) {
                    Ok(count) => received.extend_from_slice(&bytes[..count as usize]),
                    Err(_) => {
                        sockets.discard(ID, received.len() as u32 - discarded);
                        discarded = received.len() as u32;
                        wait(&mut poll);
                    }
                }
            }
            assert_eq!(received, b"abcdefghi");
        }
    }

    #[test]
    fn what_is_written_arrives() {
        let (mut sockets, _poll, mut far) = connected(true);
        assert_eq!(sockets.write(ID, Payload::of_bytes(b"hello")).unwrap(), 5);
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        let info = sockets.info(ID).unwrap();
        assert!(info.send_room > 1000, "{info:?}");
        sockets.shutdown(ID);
        assert_eq!(far.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn reset_is_heard_as_such() {
        let (mut sockets, _poll, mut far) = connected(true);
        sockets.reset(ID);
        assert_eq!(far.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(sockets.write(ID, Payload::of_bytes(b"x")).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_listener_gives_connections_away() {
        let poll = Poll::new().unwrap();
        let mut sockets = KernelSockets::new(poll.registry().try_clone().unwrap()).unwrap();
        let at = |port| ListenAt { address: None, port, interface: None, freebind: false };
        sockets.listen(0, &at(0)).unwrap();
        let port = SocketAddr::try_from(getsockname(sockets.listeners.get(0).unwrap()).unwrap()).unwrap().port();
        let taken = sockets.listen(1, &at(port)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (peer, local) = sockets.accept(SocketId::TcpListener(0), ID).unwrap();
        assert_eq!((peer, local), (far.local_addr().unwrap(), far.peer_addr().unwrap()));
        let none = sockets.accept(SocketId::TcpListener(0), SocketId::Tcp(4)).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        sockets.stop_listening(0);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
