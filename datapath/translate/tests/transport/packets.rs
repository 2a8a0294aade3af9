//! Packet sockets, for both ends of a wire. Needs root.

use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd};

/// A packet socket for all frames of an interface.
pub fn packets(interface: &str) -> OwnedFd {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: plain system calls; the address is valid for its length, the name ends in 0, the descriptor is ours
    // alone.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
        assert!(socket >= 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(libc::bind(socket, (&raw const address).cast(), length), 0);
        OwnedFd::from_raw_fd(socket)
    }
}
