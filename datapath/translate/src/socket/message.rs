//! Datagrams from sockets, many by one system call, with what the kernel tells about each; and what the network
//! reported.
//!
//! The calls are not in the library for system calls, or not with everything that is needed. What they write is read
//! here as bytes: addresses and control messages (recvmmsg(2), cmsg(3), ip(7), ipv6(7)). Called by [`super::datagram`]
//! alone.

#![expect(unsafe_code, reason = "recvmmsg and recvmsg with control messages of all kinds")]

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::head::HOP_LIMIT;
use crate::sockets::datagram::{BURST, Burst, Cause, Datagram, Marks, NetworkError};

/// Room for an address of either family (`struct sockaddr_in6`).
type Name = [u8; 28];

/// Room for all control messages that sockets are asked for, aligned as the kernel writes them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Addresses, original destination, time to live, type of service of both families; an error with the address of who reported it.
const CONTROL_BYTES: usize = 256;

/// Receives into the slots of `burst`, after what it holds is removed. `port` is the one that the socket is bound to.
///
/// # Errors
/// The kernel's: `WouldBlock` when there is nothing.
pub(super) fn receive(socket: BorrowedFd<'_>, port: u16, burst: &mut Burst) -> io::Result<()> {
    burst.clear();
    let mut names = [[0; size_of::<Name>()]; BURST];
    let mut controls = [Control([0; CONTROL_BYTES]); BURST];
    let mut ranges = [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; BURST];
    // SAFETY: an all-zero mmsghdr is valid: no address, no ranges, no control data.
    let mut messages: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
    let places = names.iter_mut().zip(&mut controls).zip(&mut ranges).zip(burst.slots());
    for (message, (((name, control), range), slot)) in messages.iter_mut().zip(places) {
        *range = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        message.msg_hdr = header(name, control, range);
    }
    // SAFETY: each message names an address, a control buffer and one range, all of the lengths that it says; they
    // outlive the call, and nobody else has them meanwhile: they are locals, and slots of `burst`, which is borrowed
    // exclusively.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            libc::c_uint::try_from(BURST).unwrap_or(1),
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for ((message, name), control) in messages.iter().zip(&names).zip(&controls).take(count) {
        let told = Told::of(control, message.msg_hdr.msg_controllen, port);
        let source = address(name).unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let datagram = Datagram {
            source: canonical(source),
            destination: told.destination.map(canonical),
            local: told.local.map(canonical),
            marks: told.marks,
        };
        burst.received(datagram, message.msg_len as usize, told.segment);
    }
    Ok(())
}

/// Receives the oldest error of a socket's queue.
///
/// # Errors
/// The kernel's: `WouldBlock` when there is none.
pub(super) fn receive_error(socket: BorrowedFd<'_>, quoted: &mut [u8]) -> io::Result<NetworkError> {
    let mut name: Name = [0; 28];
    let mut control = Control([0; CONTROL_BYTES]);
    let mut range = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    let mut message = header(&mut name, &mut control, &mut range);
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the message names an address, a control buffer and one range, all of the lengths that it says; they
    // outlive the call and nobody else has them meanwhile.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let quoted_bytes = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let told = Told::of(&control, message.msg_controllen, 0);
    let cause = told.cause.ok_or(io::ErrorKind::InvalidData)?;
    let destination = address(&name).map(canonical).ok_or(io::ErrorKind::InvalidData)?;
    Ok(NetworkError { cause, destination, quoted_bytes })
}

fn header(name: &mut Name, control: &mut Control, range: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: an all-zero msghdr is valid: no address, no ranges, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = 28;
    header.msg_iov = range;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    header
}

/// What control messages tell.
struct Told {
    destination: Option<SocketAddr>,
    local: Option<SocketAddr>,
    /// The port that the datagram was sent to, where that need not be the socket's.
    original_port: Option<u16>,
    marks: Marks,
    /// Bytes of each, where the kernel gave several datagrams as one.
    segment: Option<NonZeroU16>,
    cause: Option<Cause>,
}

impl Told {
    fn of(control: &Control, length: usize, port: u16) -> Self {
        let marks = Marks { hop_limit: HOP_LIMIT, traffic_class: 0 };
        let mut told = Self { destination: None, local: None, original_port: None, marks, segment: None, cause: None };
        for (level, kind, data) in control_messages(control.0.get(..length).unwrap_or(&control.0)) {
            told.take(level, kind, data, port);
        }
        if let Some(port) = told.original_port {
            [&mut told.destination, &mut told.local].into_iter().flatten().for_each(|address| address.set_port(port));
        }
        told
    }

    fn take(&mut self, level: c_int, kind: c_int, data: &[u8], port: u16) {
        match (level, kind) {
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                self.marks.hop_limit = number(data).unwrap_or(HOP_LIMIT);
            }
            // A byte of IPv4, an int of IPv6.
            (libc::SOL_IP, libc::IP_TOS) => self.marks.traffic_class = data.first().copied().unwrap_or(0),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => self.marks.traffic_class = number(data).unwrap_or(0),
            // struct in_pktinfo: interface, the address that is ours, the packet's destination.
            (libc::SOL_IP, libc::IP_PKTINFO) => {
                if let Some(&[_, _, _, _, l0, l1, l2, l3, d0, d1, d2, d3]) = data.first_chunk() {
                    self.local = Some(SocketAddr::new(Ipv4Addr::new(l0, l1, l2, l3).into(), port));
                    self.destination = Some(SocketAddr::new(Ipv4Addr::new(d0, d1, d2, d3).into(), port));
                }
            }
            // struct in6_pktinfo: the packet's destination, interface. Of an IPv4 packet the other message tells more.
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) if self.destination.is_none() => {
                if let Some((&ip, interface)) = data.split_first_chunk::<16>() {
                    let ip = Ipv6Addr::from(ip);
                    let scope = interface.first_chunk().copied().map_or(0, u32::from_ne_bytes);
                    let scope = if ip.is_unicast_link_local() { scope } else { 0 };
                    let address = SocketAddr::from(SocketAddrV6::new(ip, port, 0, scope));
                    self.destination = Some(address);
                    self.local = Some(address).filter(|_| !ip.is_multicast());
                }
            }
            // struct sockaddr_in, struct sockaddr_in6: both have the port after the family.
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                if let Some(&[_, _, high, low]) = data.first_chunk() {
                    self.original_port = Some(u16::from_be_bytes([high, low]));
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let segment = data.first_chunk().map_or(0, |bytes| c_int::from_ne_bytes(*bytes));
                self.segment = u16::try_from(segment).ok().and_then(NonZeroU16::new);
            }
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => self.cause = cause(data),
            _ => {}
        }
    }
}

/// `struct sock_extended_err` of linux/errqueue.h, and the address behind it.
fn cause(data: &[u8]) -> Option<Cause> {
    let (&[n0, n1, n2, n3, origin, kind, code, _, i0, i1, i2, i3, _, _, _, _], from) = data.split_first_chunk()?;
    match origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            let mut name = [0; 28];
            for (to, from) in name.iter_mut().zip(from) {
                *to = *from;
            }
            let from = address(&name)?.ip().to_canonical();
            Some(Cause::Icmp { from, kind, code, information: u32::from_ne_bytes([i0, i1, i2, i3]) })
        }
        _ => Some(Cause::Local(i32::from_ne_bytes([n0, n1, n2, n3]))),
    }
}

/// A small number in an int.
fn number(data: &[u8]) -> Option<u8> {
    u8::try_from(c_int::from_ne_bytes(*data.first_chunk()?)).ok()
}

/// Level, type and data of each control message (cmsg(3)): a header of 16 bytes, data, and padding to 8 bytes.
fn control_messages(mut bytes: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, k0, k1, k2, k3] = bytes.first_chunk()?;
        let length = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let data = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
        Some((c_int::from_ne_bytes([v0, v1, v2, v3]), c_int::from_ne_bytes([k0, k1, k2, k3]), data))
    })
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn address(name: &Name) -> Option<SocketAddr> {
    let &[f0, f1, p0, p1, a, b, c, d, ref rest @ ..] = name;
    let port = u16::from_be_bytes([p0, p1]);
    match c_int::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)),
        libc::AF_INET6 => {
            let (ip, scope) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*scope.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// IPv4 as IPv4, also where it came through a socket of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
