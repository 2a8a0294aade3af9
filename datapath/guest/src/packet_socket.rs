//! A packet socket of the kernel's that carries a guest's frames with virtio-net headers (packet(7)).
//!
//! Only what has no safe binding is here: it is read and written like any other descriptor. The translator uses one on the pod's side of
//! a tap where a VM's memory cannot be shared.

#![expect(unsafe_code, reason = "socket options and requests that have no safe binding")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes each frame be read and written behind a virtio-net header of 10 bytes, and leaves out frames that others send by the
/// same interface.
///
/// # Errors
/// The kernel's; it is no packet socket, or a ring is mapped on it.
pub fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::PACKET_VNET_HDR)?;
    set(socket, PACKET_IGNORE_OUTGOING)
}

/// The MTU of the interface that it is bound to, in bytes: how long a packet may be that is not to be segmented.
///
/// # Errors
/// The kernel's; it is bound to none.
pub fn mtu(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let answer = ask(socket, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU has filled this member.
    u32::try_from(unsafe { answer.ifr_ifru.ifru_mtu }).map_err(io::Error::other)
}

/// Whether the interface that it is bound to is up.
///
/// # Errors
/// The kernel's; it is bound to none, or to one that exists no more.
pub fn is_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let answer = ask(socket, libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS has filled this member.
    Ok(i32::from(unsafe { answer.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
}

/// What the kernel answers to `question` about the interface that it is bound to.
fn ask(socket: BorrowedFd<'_>, question: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero addresses and requests are valid.
    let (mut address, mut request): (libc::sockaddr_ll, libc::ifreq) = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes of `address`.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
    request.ifr_ifru.ifru_ifindex = address.sll_ifindex;
    // SAFETY: both calls read and write the one request that they are given: first the interface's name for its number, then
    // the answer for its name.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) })?;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), question, &raw mut request) })?;
    Ok(request)
}

/// linux/if_packet.h; not in libc.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn set(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads the 4 bytes of `one`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const one).cast(), 4) };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
