//! Socket options that the library for system calls does not have.

#![expect(unsafe_code, reason = "getsockopt and setsockopt with options of our own choice")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Where the next peek starts, in bytes from the start of the receive queue (socket(7), SO_PEEK_OFF).
///
/// # Errors
/// Before Linux 6.9, for TCP.
pub fn set_peek_offset(socket: BorrowedFd<'_>, offset: u32) -> io::Result<()> {
    let offset = c_int::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// Only through this interface (socket(7), SO_BINDTODEVICE).
///
/// # Errors
/// There is no such interface.
pub fn bind_to_device(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes())
}

/// Binding to port 0 takes no port yet: several connections to different peers may share one (ip(7)).
///
/// # Errors
/// The kernel's.
pub fn choose_port_at_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_number(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets a socket be bound to an address that the host does not have (ip(7), IP_FREEBIND).
///
/// # Errors
/// The kernel's.
pub fn set_freebind(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_number(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)
}

/// An option that is an int.
///
/// # Errors
/// The kernel's.
pub fn set_number(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, level, name, &value.to_ne_bytes())
}

/// Drops `bytes` from the start of a TCP receive queue without copying them (tcp(7), MSG_TRUNC).
///
/// # Errors
/// The connection's.
pub fn discard(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC, TCP writes nothing to the buffer, and the kernel checks that.
    let count = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), bytes as usize, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Bytes in the send queue that the far end has not acknowledged (tcp(7), SIOCOUTQ).
///
/// # Errors
/// The kernel's.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    queue_bytes(socket, libc::TIOCOUTQ)
}

/// A number that a queue of TCP's has: `which` is one of the requests that answer with one int.
fn queue_bytes(socket: BorrowedFd<'_>, which: libc::c_ulong) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: each of these requests writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), which, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u32::try_from(bytes).unwrap_or(0)) }
}

/// The smoothed round trip, as TCP_INFO tells it (tcp(7), `tcpi_rtt` of linux/tcp.h).
///
/// # Errors
/// The kernel's.
pub fn round_trip(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    let mut info = [0; 72];
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let micros = info.last_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Ok(Duration::from_micros(micros.into()))
}

/// Lets the send queue have up to so many bytes of the kernel's accounting, and more when the kernel finds that it needs more: a limit that was
/// set is one for ever, unless the lock is taken off (socket(7), SO_SNDBUF; linux/socket.h, SO_BUF_LOCK).
///
/// # Errors
/// Before Linux 5.14. Nothing is changed then.
pub fn widen_send_buffer(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Whether it can be taken off, first.
    set_number(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0)?;
    // The kernel doubles it, and has a limit of its own (net.core.wmem_max).
    set_number(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes / 2)?;
    set_number(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0)
}

/// Whether the kernel leaves the send buffer as it was set.
#[cfg(test)]
pub fn is_send_buffer_fixed(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut locks = [0; 4];
    get(socket, libc::SOL_SOCKET, SO_BUF_LOCK, &mut locks)?;
    // SOCK_SNDBUF_LOCK.
    Ok(u32::from_ne_bytes(locks) & 1 != 0)
}

/// linux/socket.h (asm-generic).
const SO_BUF_LOCK: c_int = 72;

/// How much may be in the send queue, in bytes of the kernel's accounting (socket(7), SO_SNDBUF).
///
/// # Errors
/// The kernel's.
pub fn send_buffer(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes = [0; 4];
    get(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

/// How much a stream's send queue would surely take, in bytes. A quarter of the buffer is left to the kernel's own
/// structures, which it counts as well.
///
/// # Errors
/// The kernel's.
pub fn send_room(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let buffer = send_buffer(socket)?;
    Ok((buffer - buffer / 4).saturating_sub(unacknowledged(socket)?))
}

fn set(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel fills `value`, or its first part.
fn get(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches repair mode, which takes CAP_NET_ADMIN over the socket's network namespace (linux/tcp.h, TCP_REPAIR). When it ends
/// the far end is asked where it stands.
///
/// # Errors
/// The right is missing, or it listens.
pub fn set_repair(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_number(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, on.into())
}

/// Whether it is in repair mode; to ask takes no right.
///
/// # Errors
/// It is no socket of TCP.
pub fn is_in_repair(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(number(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR)? != 0)
}

/// The queues of a socket in repair mode (TCP_REPAIR_QUEUE).
pub const NO_QUEUE: c_int = 0;
pub const RECEIVE_QUEUE: c_int = 1;
pub const SEND_QUEUE: c_int = 2;

/// Chooses the queue that the next calls are about.
///
/// # Errors
/// It is not in repair mode.
pub fn select_queue(socket: BorrowedFd<'_>, queue: c_int) -> io::Result<()> {
    set_number(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue)
}

/// The sequence number behind a queue's end (TCP_QUEUE_SEQ).
///
/// # Errors
/// It is not in repair mode.
pub fn sequence(socket: BorrowedFd<'_>, queue: c_int) -> io::Result<u32> {
    select_queue(socket, queue)?;
    let number = number(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ);
    select_queue(socket, NO_QUEUE)?;
    number
}

/// Sets it, before the socket is connected.
///
/// # Errors
/// It is not in repair mode, or connected.
pub fn set_sequence(socket: BorrowedFd<'_>, queue: c_int, sequence: u32) -> io::Result<()> {
    select_queue(socket, queue)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &sequence.to_ne_bytes())?;
    select_queue(socket, NO_QUEUE)
}

/// What both ends have agreed on (TCP_REPAIR_OPTIONS, TCP_TIMESTAMP): the far end's MSS, selective acknowledgements, the shifts
/// of its windows and ours, and the clock of our timestamps.
///
/// # Errors
/// It is not in repair mode and connected.
pub fn set_repaired_options(
    socket: BorrowedFd<'_>,
    mss: u32,
    sack: bool,
    scale: Option<(u8, u8)>,
    timestamp: Option<u32>,
) -> io::Result<()> {
    // Kinds of RFC 9293, 3.2, RFC 7323 and RFC 2018, each with its value.
    // Where windows are not scaled that is said as well: the kernel has chosen a shift for ours already.
    let (far, ours) = scale.unwrap_or_default();
    let mut options = vec![(2_u32, mss), (3, u32::from(far) | u32::from(ours) << 16)];
    if sack {
        options.push((4, 0));
    }
    if timestamp.is_some() {
        options.push((8, 0));
    }
    let bytes: Vec<u8> =
        options.iter().flat_map(|(kind, value)| [kind.to_ne_bytes(), value.to_ne_bytes()]).flatten().collect();
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &bytes)?;
    match timestamp {
        Some(clock) => set(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, &clock.to_ne_bytes()),
        None => Ok(()),
    }
}

/// The clock of our timestamps.
///
/// # Errors
/// The kernel's.
pub fn timestamp(socket: BorrowedFd<'_>) -> io::Result<u32> {
    number(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP)
}

/// The most payload of a segment that the far end takes; of a socket in repair mode.
///
/// # Errors
/// The kernel's.
pub fn segment_clamp(socket: BorrowedFd<'_>) -> io::Result<u32> {
    number(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG)
}

/// Both windows, as the kernel keeps them (linux/tcp.h, `struct tcp_repair_window`).
///
/// # Errors
/// It is not in repair mode.
pub fn windows(socket: BorrowedFd<'_>) -> io::Result<[u32; 5]> {
    let mut bytes = [0; 20];
    get(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &mut bytes)?;
    let mut windows = [0; 5];
    for (window, bytes) in windows.iter_mut().zip(bytes.as_chunks().0) {
        *window = u32::from_ne_bytes(*bytes);
    }
    Ok(windows)
}

/// Sets them.
///
/// # Errors
/// It is not in repair mode, or they contradict its numbers.
pub fn set_windows(socket: BorrowedFd<'_>, windows: [u32; 5]) -> io::Result<()> {
    let bytes: Vec<u8> = windows.iter().flat_map(|window| window.to_ne_bytes()).collect();
    set(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &bytes)
}

/// linux/tcp.h.
const TCP_REPAIR_WINDOW: c_int = 29;

/// What TCP_INFO tells of a connection that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Of linux/tcp_states.h.
    pub state: u8,
    /// Selective acknowledgements are agreed on.
    pub sack: bool,
    /// Timestamps are.
    pub timestamps: bool,
    /// The shifts of the far end's windows, and of ours.
    pub scale: Option<(u8, u8)>,
}

/// Asks TCP_INFO.
///
/// # Errors
/// The kernel's.
pub fn connection_info(socket: BorrowedFd<'_>) -> io::Result<ConnectionInfo> {
    let mut info = [0; 8];
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    // tcpi_state, then tcpi_options and the two shifts of four bits.
    let [state, _, _, _, _, options, shifts, _] = info;
    let scale = (options & 4 != 0).then_some((shifts & 0xf, shifts >> 4));
    Ok(ConnectionInfo { state, sack: options & 2 != 0, timestamps: options & 1 != 0, scale })
}

/// Bytes in the receive queue (tcp(7), SIOCINQ).
///
/// # Errors
/// The kernel's.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<u32> {
    queue_bytes(socket, libc::FIONREAD)
}

/// Bytes in the send queue that were never sent (linux/sockios.h, SIOCOUTQNSD).
///
/// # Errors
/// The kernel's.
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const SIOCOUTQNSD: libc::c_ulong = 0x894b;
    queue_bytes(socket, SIOCOUTQNSD)
}

/// From now on everything that comes for this socket is dropped, unacknowledged, as if it had been lost on the way: packets that
/// have not the largest time to live (ip(7), IP_MINTTL; IPV6_MINHOPCOUNT). Only a neighbour's can have that, without a router in between,
/// and only of a system that begins with 255 hops; Linux, Windows and the BSDs do not. A filter (SO_ATTACH_FILTER) would take a right.
///
/// # Errors
/// The kernel's.
pub fn drop_everything(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_least_hops(socket, 255)
}

/// Undoes [`drop_everything`].
///
/// # Errors
/// The kernel's.
pub fn take_everything(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_least_hops(socket, 0)
}

fn set_least_hops(socket: BorrowedFd<'_>, hops: c_int) -> io::Result<()> {
    // linux/in.h and linux/in6.h.
    const IP_MINTTL: c_int = 21;
    const IPV6_MINHOPCOUNT: c_int = 73;
    // One of IPv6 may be connected over IPv4.
    set_number(socket, libc::IPPROTO_IP, IP_MINTTL, hops)?;
    match set_number(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops) {
        // It is one of IPv4.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(()),
        result => result,
    }
}

fn number(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<u32> {
    let mut bytes = [0; 4];
    get(socket, level, name, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}
