//! A packet socket of the kernel's that carries a guest's frames with virtio-net headers (packet(7)).
//!
//! Only its options are here: it is read and written like any other descriptor. The translator uses one on the pod's side of
//! a tap where a VM's memory cannot be shared.

#![expect(unsafe_code, reason = "socket options that have no safe binding")]

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

/// linux/if_packet.h; not in libc.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn set(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads the 4 bytes of `one`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const one).cast(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
