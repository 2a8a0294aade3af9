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
fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
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
