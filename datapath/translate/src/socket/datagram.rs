//! UDP and echo sockets: opening them as flows want them, sending guest memory, receiving in bursts, multicast groups.
//!
//! Each flow has a socket of its own, all of those with the guest's one port share it (SO_REUSEADDR): the kernel finds
//! the connected one first. Sockets are told to queue what the network reports (IP_RECVERR), and to say with which time
//! to live and type of service each datagram came.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use culvert_guest::descriptor;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketType, bind, connect, getsockname, ipproto, socket_with, sockopt,
};

use super::{FLAGS, KernelSockets, Table, closed, message, option};
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::datagram::{Burst, DatagramSockets, Marks, NetworkError, UdpWish};
use crate::sockets::{ListenAt, SocketId};

/// All sockets for datagrams.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    udp: Table<Datagram>,
    echo: Table<Datagram>,
    listeners: Table<Datagram>,
    /// To which all steered ports lead.
    pub(super) steered: Option<Datagram>,
    /// One of each family that is in the groups which the guest listens to: that is enough for all.
    members: [Option<OwnedFd>; 2],
}

#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) socket: OwnedFd,
    /// The port or identifier that it is bound to.
    pub(super) port: u16,
    /// Whether it is connected to a peer.
    is_connected: bool,
    is_v4: bool,
    /// What the kernel was told last to send with.
    marks: Option<Marks>,
    /// Into datagrams of how many bytes the kernel was told last to cut; 0: not at all.
    segment: u16,
    /// Whether its receive buffer is as the kernel made it; see [`RECEIVE_BUFFER`].
    is_narrow: bool,
}

/// What the receive buffer of a socket has that carries much, in bytes of the kernel's accounting, as far as net.core.rmem_max
/// lets it have that: small datagrams fill the usual one in the time that a wake-up may take. What nothing waits in costs no
/// memory.
const RECEIVE_BUFFER: usize = 2 << 20;

impl Datagrams {
    fn get_mut(&mut self, id: SocketId) -> io::Result<&mut Datagram> {
        match id {
            SocketId::Udp(index) => self.udp.get_mut(index),
            SocketId::Echo(index) => self.echo.get_mut(index),
            SocketId::UdpListener(index) => self.listeners.get_mut(index),
            SocketId::SteeredUdp => self.steered.as_mut().ok_or_else(closed),
            SocketId::Tcp(_) | SocketId::TcpListener(_) | SocketId::SteeredTcp => Err(closed()),
        }
    }

    fn table(&mut self, id: SocketId) -> Option<(&mut Table<Datagram>, u32)> {
        match id {
            SocketId::Udp(index) => Some((&mut self.udp, index)),
            SocketId::Echo(index) => Some((&mut self.echo, index)),
            SocketId::UdpListener(index) => Some((&mut self.listeners, index)),
            SocketId::Tcp(_) | SocketId::TcpListener(_) | SocketId::SteeredTcp | SocketId::SteeredUdp => None,
        }
    }

    /// Sockets of flows that hear anybody who speaks to their port.
    pub(super) fn unconnected(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.udp.iter().filter(|flow| !flow.is_connected).map(|flow| flow.socket.as_fd())
    }
}

impl KernelSockets {
    /// Has the event loop tell when there is something to receive, not when there is room to send: nothing waits for
    /// that.
    fn keep_datagram(&mut self, id: SocketId, socket: OwnedFd, is_connected: bool) -> io::Result<SocketAddr> {
        let local = SocketAddr::try_from(getsockname(&socket)?)?;
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(id.to_token()), Interest::READABLE)?;
        let (port, is_v4) = (local.port(), local.is_ipv4());
        let datagram = Datagram { socket, port, is_connected, is_v4, marks: None, segment: 0, is_narrow: true };
        if id == SocketId::SteeredUdp {
            self.datagrams.steered = Some(datagram);
        } else if let Some((table, index)) = self.datagrams.table(id) {
            table.insert(index, datagram);
        }
        Ok(local)
    }

    /// A socket whose datagrams come with all that is to be known of where they went.
    fn keep_listener(&mut self, id: SocketId, socket: OwnedFd) -> io::Result<SocketAddr> {
        let is_v4 = SocketAddr::try_from(getsockname(&socket)?)?.is_ipv4();
        ask_for_marks(socket.as_fd(), is_v4)?;
        ask_for_destination(socket.as_fd(), is_v4)?;
        // What goes to any group that this host is in; for IPv4 through a socket of IPv6 that is not so by itself.
        option::set_number(socket.as_fd(), libc::SOL_IP, libc::IP_MULTICAST_ALL, 1)?;
        self.keep_datagram(id, socket, false)
    }

    /// Opens the socket to which steered ports lead; which port it has itself does not matter. Returns that one.
    pub(super) fn open_steered_udp(&mut self) -> io::Result<u16> {
        let at = ListenAt { address: None, port: 0, interface: None, freebind: false };
        let socket = at.bind(SocketType::DGRAM, false)?;
        let is_v4 = SocketAddr::try_from(getsockname(&socket)?)?.is_ipv4();
        ask_for_original_destination(socket.as_fd(), is_v4)?;
        self.keep_listener(SocketId::SteeredUdp, socket).map(|local| local.port())
    }
}

impl DatagramSockets for KernelSockets {
    fn open_udp(&mut self, index: u32, wish: &UdpWish<'_>) -> io::Result<SocketAddr> {
        let socket = open(wish.local.is_ipv4(), None, wish.interface)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        match bind(&socket, &wish.local) {
            Err(_) if wish.any_port => {
                // A port that the kernel chooses is not to be another flow's.
                sockopt::set_socket_reuseaddr(&socket, false)?;
                bind(&socket, &SocketAddr::new(wish.local.ip(), 0))?;
            }
            result => result?,
        }
        if let Some(peer) = wish.peer {
            connect(&socket, &peer)?;
        }
        // Datagrams alike come as one, where the network card or the far end's kernel left them so; before Linux 5.0 they do
        // not.
        let _ = option::set_number(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        self.keep_datagram(SocketId::Udp(index), socket, wish.peer.is_some())
    }

    fn open_udp_listener(&mut self, index: u32, at: &ListenAt<'_>) -> io::Result<()> {
        let socket = match at.bind(SocketType::DGRAM, false) {
            // By others it is not to be shared; flows of the guest's may have it already.
            Err(_) if self.datagrams.udp.iter().any(|flow| flow.port == at.port) => at.bind(SocketType::DGRAM, true)?,
            result => result?,
        };
        sockopt::set_socket_reuseaddr(&socket, true)?;
        self.keep_listener(SocketId::UdpListener(index), socket).map(|_| ())
    }

    fn open_echo(&mut self, index: u32, v6: bool, identifier: u16, outbound: Outbound<'_>) -> io::Result<u16> {
        let protocol = if v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = outbound.address.unwrap_or(any);
        let socket = open(!v6, Some(protocol), outbound.interface)?;
        if bind(&socket, &SocketAddr::new(address, identifier)).is_err() {
            bind(&socket, &SocketAddr::new(address, 0))?;
        }
        self.keep_datagram(SocketId::Echo(index), socket, false).map(|local| local.port())
    }

    fn send_datagram(
        &mut self,
        socket: SocketId,
        payload: Payload<'_>,
        segment: Option<u16>,
        to: Option<SocketAddr>,
        marks: Marks,
    ) -> io::Result<()> {
        let datagram = self.datagrams.get_mut(socket)?;
        datagram.set_marks(marks)?;
        let Some(segment) = segment.filter(|&segment| u32::from(segment) < payload.length()) else {
            datagram.set_segment(0)?;
            return datagram.send(payload, to);
        };
        if datagram.set_segment(segment).is_ok() && datagram.send(payload, to).is_ok() {
            return Ok(());
        }
        // Longer than a packet may be on that route, or not known to this kernel.
        datagram.set_segment(0)?;
        let mut rest = payload;
        while rest.length() > 0 {
            datagram.send(rest.take(segment.into()), to)?;
            rest = rest.skip(segment.into());
        }
        Ok(())
    }

    fn receive_datagrams(&mut self, socket: SocketId, burst: &mut Burst) -> io::Result<()> {
        let datagram = self.datagrams.get_mut(socket)?;
        let (socket, port) = (datagram.socket.as_fd(), datagram.port);
        once_more(|| message::receive(socket, port, burst))?;
        if datagram.is_narrow && burst.is_full() {
            datagram.is_narrow = false;
            // Where it fails, more is lost.
            let _ = sockopt::set_socket_recv_buffer_size(&datagram.socket, RECEIVE_BUFFER / 2);
        }
        Ok(())
    }

    fn receive_error(&mut self, socket: SocketId, quoted: &mut [u8]) -> io::Result<NetworkError> {
        message::receive_error(self.datagrams.get_mut(socket)?.socket.as_fd(), quoted)
    }

    fn join(&mut self, group: IpAddr, interface: u32) -> io::Result<()> {
        let [v4, v6] = &mut self.datagrams.members;
        match group {
            IpAddr::V4(group) => sockopt::set_ip_add_membership_with_ifindex(
                member(v4, true)?,
                &group,
                &Ipv4Addr::UNSPECIFIED,
                interface,
            ),
            IpAddr::V6(group) => sockopt::set_ipv6_add_membership(member(v6, false)?, &group, interface),
        }
        .map_err(io::Error::from)
    }

    fn leave(&mut self, group: IpAddr, interface: u32) {
        // It fails where the interface is gone, and the membership with it.
        let _ = match (group, &self.datagrams.members) {
            (IpAddr::V4(group), [Some(member), _]) => {
                sockopt::set_ip_drop_membership_with_ifindex(member, &group, &Ipv4Addr::UNSPECIFIED, interface)
            }
            (IpAddr::V6(group), [_, Some(member)]) => sockopt::set_ipv6_drop_membership(member, &group, interface),
            _ => Ok(()),
        };
    }

    fn close_datagrams(&mut self, socket: SocketId) {
        if let Some((table, index)) = self.datagrams.table(socket) {
            table.remove(index);
        }
    }
}

impl Datagram {
    fn set_marks(&mut self, marks: Marks) -> io::Result<()> {
        if self.marks == Some(marks) {
            return Ok(());
        }
        let (socket, hops, class) = (&self.socket, u32::from(marks.hop_limit), marks.traffic_class);
        if self.is_v4 {
            sockopt::set_ip_ttl(socket, hops)?;
            sockopt::set_ip_multicast_ttl(socket, hops)?;
            sockopt::set_ip_tos(socket, class)?;
        } else {
            sockopt::set_ipv6_unicast_hops(socket, Some(marks.hop_limit))?;
            sockopt::set_ipv6_multicast_hops(socket, hops)?;
            sockopt::set_ipv6_tclass(socket, class.into())?;
        }
        self.marks = Some(marks);
        Ok(())
    }

    fn set_segment(&mut self, segment: u16) -> io::Result<()> {
        if self.segment != segment {
            option::set_number(self.socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, segment.into())?;
            self.segment = segment;
        }
        Ok(())
    }

    fn send(&self, payload: Payload<'_>, to: Option<SocketAddr>) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        once_more(|| descriptor::send(self.socket.as_fd(), payload.pieces(), flags, to.as_ref())).map(|_| ())
    }
}

/// Again after an error that the network reported about an earlier datagram: the kernel gives it once, in place of
/// doing what was asked for. The error itself is in its queue as well.
fn once_more<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => call(),
        result => result,
    }
}

fn open(v4: bool, protocol: Option<Protocol>, interface: Option<&str>) -> io::Result<OwnedFd> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, FLAGS, protocol)?;
    if v4 {
        sockopt::set_socket_broadcast(&socket, true)?;
        option::set_number(socket.as_fd(), libc::SOL_IP, libc::IP_RECVERR, 1)?;
        // What goes to groups is for the listeners of forwarded ports, but not what the guest itself sends there.
        option::set_number(socket.as_fd(), libc::SOL_IP, libc::IP_MULTICAST_ALL, 0)?;
        sockopt::set_ip_multicast_loop(&socket, false)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        option::set_number(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?;
        option::set_number(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_MULTICAST_ALL, 0)?;
        sockopt::set_ipv6_multicast_loop(&socket, false)?;
    }
    ask_for_marks(socket.as_fd(), v4)?;
    if let Some(interface) = interface {
        option::bind_to_device(socket.as_fd(), interface)?;
    }
    Ok(socket)
}

/// Time to live and type of service come with each datagram. A socket of IPv6 may receive IPv4.
fn ask_for_marks(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    option::set_number(socket, libc::SOL_IP, libc::IP_RECVTTL, 1)?;
    option::set_number(socket, libc::SOL_IP, libc::IP_RECVTOS, 1)?;
    if !v4 {
        option::set_number(socket, libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        option::set_number(socket, libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    }
    Ok(())
}

/// To which address a datagram went comes with each.
fn ask_for_destination(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    option::set_number(socket, libc::SOL_IP, libc::IP_PKTINFO, 1)?;
    if !v4 {
        option::set_number(socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    Ok(())
}

/// The port comes with each datagram that it was sent to (IP_RECVORIGDSTADDR of ip(7), and its like of IPv6).
fn ask_for_original_destination(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    option::set_number(socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?;
    if !v4 {
        option::set_number(socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
    }
    Ok(())
}

/// The socket that is in groups.
fn member(place: &mut Option<OwnedFd>, v4: bool) -> io::Result<&OwnedFd> {
    if place.is_none() {
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        *place = Some(socket_with(family, SocketType::DGRAM, FLAGS, None)?);
    }
    place.as_ref().ok_or_else(closed)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use mio::{Events, Poll};

    use super::*;
    use crate::sockets::datagram::{BURST, Cause};

    const FLOW: SocketId = SocketId::Udp(5);
    const MARKS: Marks = Marks { hop_limit: 33, traffic_class: 0x28 };

    fn sockets() -> (KernelSockets, Poll) {
        let poll = Poll::new().unwrap();
        (KernelSockets::new(poll.registry().try_clone().unwrap()).unwrap(), poll)
    }

    /// Waits until a socket may have something.
    fn wait(poll: &mut Poll) -> Vec<SocketId> {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, None).unwrap();
        events.iter().map(|event| SocketId::from_token(event.token().0).unwrap()).collect()
    }

    /// What comes of `call` once it is there.
    fn awaited<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    }

    fn loopback(v4: bool) -> SocketAddr {
        let ip: IpAddr = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        SocketAddr::new(ip, 0)
    }

    fn wish(peer: &UdpSocket) -> UdpWish<'static> {
        let peer = peer.local_addr().unwrap();
        UdpWish { local: unspecified(peer.is_ipv4()), any_port: true, interface: None, peer: Some(peer) }
    }

    fn unspecified(v4: bool) -> SocketAddr {
        if v4 { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap()
    }

    #[test]
    fn datagrams_go_and_come_with_their_marks() {
        for v4 in [true, false] {
            let (mut sockets, mut poll) = sockets();
            let far = UdpSocket::bind(loopback(v4)).unwrap();
            ask_for_marks(far.as_fd(), v4).unwrap();
            let local = sockets.open_udp(5, &wish(&far)).unwrap();
            sockets.send_datagram(FLOW, Payload::of_bytes(b"there"), None, None, MARKS).unwrap();
            let mut burst = Burst::default();
            awaited(|| message::receive(far.as_fd(), 0, &mut burst));
            let (datagram, payload) = burst.iter().next().unwrap();
            assert_eq!((datagram.source, datagram.marks, payload), (local, MARKS, &b"there"[..]));

            for payload in [&b"and back"[..], b"", &[7; 1000]] {
                far.send_to(payload, local).unwrap();
            }
            assert_eq!(wait(&mut poll), [FLOW]);
            awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
            let payloads: Vec<_> = burst.iter().map(|(_, payload)| payload).collect();
            assert_eq!(payloads, [&b"and back"[..], b"", &[7; 1000]]);
            let (datagram, _) = burst.iter().next().unwrap();
            assert_eq!(datagram.source, far.local_addr().unwrap());
            assert_eq!(datagram.marks, Marks { hop_limit: 64, traffic_class: 0 });
            let none = sockets.receive_datagrams(FLOW, &mut burst).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            assert!(burst.is_empty());

            sockets.close_datagrams(FLOW);
            let closed = sockets.send_datagram(FLOW, Payload::of_bytes(b"x"), None, None, MARKS).unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::NotConnected);
        }
    }

    #[test]
    fn a_burst_has_its_bound_and_the_largest_datagram_fits() {
        let (mut sockets, mut poll) = sockets();
        let far = UdpSocket::bind(loopback(true)).unwrap();
        let local = sockets.open_udp(5, &wish(&far)).unwrap();
        far.send_to(&vec![1; 65_507], local).unwrap();
        for _ in 0..BURST {
            far.send_to(b"small", local).unwrap();
        }
        wait(&mut poll);
        let mut burst = Burst::default();
        awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
        assert!(burst.is_full());
        assert_eq!(burst.iter().next().unwrap().1, vec![1; 65_507]);
        awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
        assert_eq!(burst.iter().count(), 1);
    }

    #[test]
    fn datagrams_that_come_as_one_are_told_apart() {
        for v4 in [true, false] {
            let (mut sockets, _poll) = sockets();
            let far = UdpSocket::bind(loopback(v4)).unwrap();
            let local = sockets.open_udp(5, &wish(&far)).unwrap();
            option::set_number(far.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1400).unwrap();
            let payload: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
            far.send_to(&payload, local).unwrap();
            far.send_to(b"one", local).unwrap();
            let (mut burst, mut received, mut calls) = (Burst::default(), Vec::new(), 0);
            while received.len() < 5 {
                awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
                calls += burst.slots_in_use();
                received.extend(burst.iter().map(|(_, payload)| payload.to_vec()));
            }
            let mut expected: Vec<_> = payload.chunks(1400).collect();
            expected.push(b"one");
            assert_eq!(received, expected);
            assert_eq!(calls, 2, "the kernel cut them");
        }
    }

    #[test]
    fn a_socket_takes_16_bytes() {
        assert_eq!(size_of::<Option<Datagram>>(), 16);
    }

    #[test]
    fn a_socket_that_carries_much_has_room_for_much() {
        let (mut sockets, _poll) = sockets();
        let far = UdpSocket::bind(loopback(true)).unwrap();
        let local = sockets.open_udp(5, &wish(&far)).unwrap();
        let room = |sockets: &mut KernelSockets| {
            sockopt::socket_recv_buffer_size(&sockets.datagrams.udp.get(5).unwrap().socket).unwrap()
        };
        // Less than net.core.rmem_max has everywhere.
        sockopt::set_socket_recv_buffer_size(&sockets.datagrams.udp.get(5).unwrap().socket, 50_000).unwrap();
        let (before, mut burst) = (room(&mut sockets), Burst::default());
        far.send_to(b"one", local).unwrap();
        awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
        assert_eq!(room(&mut sockets), before);
        for _ in 0..BURST {
            far.send_to(b"many", local).unwrap();
        }
        awaited(|| sockets.receive_datagrams(FLOW, &mut burst));
        assert!(room(&mut sockets) > 2 * before);
    }

    #[test]
    fn one_large_datagram_is_cut_into_segments() {
        let (mut sockets, _poll) = sockets();
        let far = UdpSocket::bind(loopback(true)).unwrap();
        sockets.open_udp(5, &wish(&far)).unwrap();
        let payload: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
        // Within the kernel's own bound on segments, and beyond it: then we cut.
        for (segment, count) in [(1400, 4), (20, 250)] {
            sockets.send_datagram(FLOW, Payload::of_bytes(&payload), Some(segment), None, MARKS).unwrap();
            let mut received = Vec::<u8>::new();
            for _ in 0..count {
                let mut bytes = [0; 2000];
                let length = far.recv(&mut bytes).unwrap();
                assert!(length <= usize::from(segment));
                received.extend(&bytes[..length]);
            }
            assert_eq!(received, payload);
        }
        // The next one is whole again.
        sockets.send_datagram(FLOW, Payload::of_bytes(&payload), None, None, MARKS).unwrap();
        let mut bytes = [0; 6000];
        assert_eq!(far.recv(&mut bytes).unwrap(), payload.len());
    }

    #[test]
    fn what_the_network_reports_is_told_once_and_does_not_stop_what_is_sent() {
        for v4 in [true, false] {
            let (mut sockets, mut poll) = sockets();
            // Nobody is there.
            let address = SocketAddr::new(loopback(v4).ip(), 1);
            let wish = UdpWish { local: unspecified(v4), any_port: true, interface: None, peer: Some(address) };
            sockets.open_udp(5, &wish).unwrap();
            sockets.send_datagram(FLOW, Payload::of_bytes(b"anybody?"), None, None, MARKS).unwrap();
            assert_eq!(wait(&mut poll), [FLOW]);
            // The error is the socket's as well: neither sending nor receiving is to fail for that.
            sockets.send_datagram(FLOW, Payload::of_bytes(b"again"), None, None, MARKS).unwrap();
            let none = sockets.receive_datagrams(FLOW, &mut Burst::default()).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            for payload in [&b"anybody?"[..], b"again"] {
                let mut quoted = [0; 100];
                let error = sockets.receive_error(FLOW, &mut quoted).unwrap();
                assert_eq!(&quoted[..error.quoted_bytes], payload);
                assert_eq!(error.destination, address);
                let (kind, code) = if v4 { (3, 3) } else { (1, 4) };
                assert_eq!(error.cause, Cause::Icmp { from: address.ip(), kind, code, information: 0 });
            }
            let none = sockets.receive_error(FLOW, &mut []).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn flows_share_the_port_that_the_guest_uses_but_nobody_elses() {
        let (mut sockets, _poll) = sockets();
        let [one, other] = [(); 2].map(|()| UdpSocket::bind(loopback(true)).unwrap());
        let first = sockets.open_udp(0, &wish(&one)).unwrap();
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), first.port());
        let second = sockets.open_udp(1, &UdpWish { local, ..wish(&other) }).unwrap();
        assert_eq!(second.port(), first.port());
        let foreign = UdpSocket::bind(loopback(true)).unwrap();
        let local = SocketAddr::new(local.ip(), foreign.local_addr().unwrap().port());
        let third = sockets.open_udp(2, &UdpWish { local, ..wish(&one) }).unwrap();
        assert_ne!(third.port(), local.port());
        let strict = UdpWish { local, any_port: false, ..wish(&one) };
        assert_eq!(sockets.open_udp(3, &strict).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // Each hears its own peer.
        for (index, far) in [(0, &one), (1, &other)] {
            far.send_to(b"hello", SocketAddr::new(Ipv4Addr::LOCALHOST.into(), first.port())).unwrap();
            let mut burst = Burst::default();
            awaited(|| sockets.receive_datagrams(SocketId::Udp(index), &mut burst));
            assert_eq!(burst.iter().next().unwrap().0.source, far.local_addr().unwrap());
        }
    }

    #[test]
    fn listeners_tell_where_a_datagram_went_and_leave_the_rest_to_flows() {
        let (mut sockets, _poll) = sockets();
        let listener = SocketId::UdpListener(7);
        let at = |port| ListenAt { address: None, port, interface: None, freebind: false };
        sockets.open_udp_listener(7, &at(0)).unwrap();
        let port = sockets.datagrams.listeners.get(7).unwrap().port;
        // Another listener, of this process or any, does not share it.
        assert_eq!(sockets.open_udp_listener(8, &at(port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mut burst = Burst::default();
        for (index, v4) in [(0, true), (1, false)] {
            let far = UdpSocket::bind(loopback(v4)).unwrap();
            let target = SocketAddr::new(loopback(v4).ip(), port);
            far.send_to(b"first", target).unwrap();
            awaited(|| sockets.receive_datagrams(listener, &mut burst));
            let (datagram, payload) = burst.iter().next().unwrap();
            assert_eq!((datagram.source, payload), (far.local_addr().unwrap(), &b"first"[..]));
            assert_eq!((datagram.destination, datagram.local), (Some(target), Some(target)));
            let wish = UdpWish { local: target, any_port: false, interface: None, peer: Some(datagram.source) };
            assert_eq!(sockets.open_udp(index, &wish).unwrap(), target);
            far.send_to(b"second", target).unwrap();
            let none = sockets.receive_datagrams(listener, &mut burst).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            awaited(|| sockets.receive_datagrams(SocketId::Udp(index), &mut burst));
            assert_eq!(burst.iter().next().unwrap().1, b"second");
        }
        // While flows of the guest's have a port, it can still be forwarded.
        sockets.close_datagrams(listener);
        sockets.open_udp_listener(7, &at(port)).unwrap();
    }
}
