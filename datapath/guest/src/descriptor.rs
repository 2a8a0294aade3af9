//! Guest memory straight to a file descriptor, and back: the kernel copies, we never do.
//!
//! What a guest sent goes to a socket of its translator, and what a socket has goes into the guest's receive buffers, without
//! a copy in between. The kernel reads guest memory while the guest may change it, as every copy does; decisions were
//! taken on a frame's head, which is ours. Called by the translator's sockets; knows nothing of what the bytes are.

#![expect(
    unsafe_code,
    reason = "sendmsg from and recvmsg into ranges of guest memory, and an option that no library has"
)]

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};

use crate::piece::{Piece, Rooms};

/// Most pieces of one call (the kernel's UIO_MAXIOV).
pub const MAX_PIECES: usize = 1024;

/// Sends bytes by one `sendmsg`, to `to` if the socket is not connected; returns how many the kernel took: all of a
/// datagram, perhaps not all of a stream. Empty pieces cost nothing.
///
/// # Errors
/// The kernel's. `EFAULT`: the memory behind a piece is gone, its file was truncated: quarantine the guest. `EMSGSIZE`
/// also when there are more than [`MAX_PIECES`] that are not empty; nothing is sent then.
pub fn send<'a>(
    descriptor: BorrowedFd<'_>,
    pieces: impl Iterator<Item = Piece<'a>>,
    flags: SendFlags,
    to: Option<&SocketAddr>,
) -> io::Result<usize> {
    let mut ranges = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_PIECES];
    let mut free = ranges.iter_mut();
    let mut count = 0;
    for piece in pieces.filter(|piece| piece.length() > 0) {
        let range = free.next().ok_or(io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        range.write(piece.range());
        count += 1;
    }
    let address = to.map(|&to| SocketAddrAny::from(to));
    // SAFETY: an all-zero msghdr is valid: no address, no ranges, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = ranges.as_mut_ptr().cast();
    message.msg_iovlen = count;
    if let Some(address) = &address {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.addr_len();
    }
    let flags = flags.bits().cast_signed();
    // SAFETY: the first `count` ranges were written, each is borrowed from its owner until we return, and the kernel only
    // reads them; the address outlives the call and is only read.
    let sent = unsafe { libc::sendmsg(descriptor.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives bytes by one `recvmsg`, or looks at them (`PEEK`); returns how many there were, 0 at the end of a stream.
///
/// # Errors
/// The kernel's. `EFAULT`: the memory behind the rooms is gone, its file was truncated: quarantine the guest.
pub fn receive(descriptor: BorrowedFd<'_>, rooms: Rooms<'_>, flags: RecvFlags) -> io::Result<usize> {
    receive_behind(descriptor, &mut [], rooms, flags)
}

/// The same, where the first bytes go into `ahead`, until it is full, and only the others into the rooms. Returns the bytes of both.
///
/// # Errors
/// As with [`receive`].
pub fn receive_behind(
    descriptor: BorrowedFd<'_>,
    ahead: &mut [u8],
    mut rooms: Rooms<'_>,
    flags: RecvFlags,
) -> io::Result<usize> {
    let mut ranges = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_PIECES];
    let mut count = 0;
    let ahead = libc::iovec { iov_base: ahead.as_mut_ptr().cast(), iov_len: ahead.len() };
    // What does not fit into one call is left for the next.
    for (range, room) in ranges.iter_mut().zip(std::iter::once(ahead).chain(rooms.ranges())) {
        range.write(room);
        count += 1;
    }
    // SAFETY: an all-zero msghdr is valid: no address, no ranges, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = ranges.as_mut_ptr().cast();
    message.msg_iovlen = count;
    let flags = flags.bits().cast_signed();
    // SAFETY: the first `count` ranges were written; each may be written to for as long as `ahead` and `rooms` are borrowed,
    // and none is seen as a Rust reference meanwhile.
    let received = unsafe { libc::recvmsg(descriptor.as_raw_fd(), &raw mut message, flags) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// The network namespace that a socket belongs to, as a number that no other has (socket(7), SO_NETNS_COOKIE).
///
/// # Errors
/// It is no socket, or Linux is older than 5.14.
pub fn network_namespace(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
