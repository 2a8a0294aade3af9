//! Guest memory straight to a file descriptor: the kernel copies, we never do.
//!
//! What a guest sent goes to a socket of its translator without a copy in between. The kernel reads guest memory while the
//! guest may change it, as every copy does; decisions were taken on a frame's head, which is ours. Called by the
//! translator's sockets; knows nothing of what the bytes are.

#![expect(unsafe_code, reason = "sendmsg from ranges of guest memory")]

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{SendFlags, SocketAddrAny};

use crate::piece::Piece;

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
