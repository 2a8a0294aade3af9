//! A packet socket on a tap in a pod's network namespace, for a translator that may not open one (packet(7)).
//!
//! A namespace belongs to a thread: a thread of its own enters it, opens the socket and ends, so that no other ever leaves
//! the node's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::thread::LinkNameSpaceType;

/// Opens a packet socket for all frames of the interface `tap` in the network namespace at `netns`.
///
/// # Errors
/// A sentence: there is no such namespace or interface, or culvertd may not (CAP_SYS_ADMIN, CAP_NET_RAW).
pub fn open(netns: &Path, tap: &str) -> Result<OwnedFd, String> {
    let missing = |error: io::Error| {
        format!("there is no network namespace at {}: {error}; it goes with its pod", netns.display())
    };
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let namespace = File::options().read(true).custom_flags(flags).open(netns).map_err(missing)?;
    let there = || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| format!("network namespace {} cannot be entered: {errno}", netns.display()))?;
        // That it is the one that was registered is seen, not supposed.
        let (here, wanted) = (identity(&File::open(OWN_NAMESPACE).map_err(missing)?), identity(&namespace));
        if here.map_err(missing)? != wanted.map_err(missing)? {
            return Err(format!("network namespace {} was not entered", netns.display()));
        }
        on(tap).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no interface {tap} in {}; it is looked for again", netns.display())
            }
            _ => format!("no packet socket on {tap} in {}: {error}", netns.display()),
        })
    };
    let thread = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("packets".to_owned()).spawn_scoped(scope, there);
        thread.map(|thread| thread.join())
    });
    match thread {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("culvertd failed over it; see its log".to_owned()),
        Err(error) => Err(format!("a thread cannot start: {error}")),
    }
}

/// A packet socket on an interface of this thread's namespace.
fn on(tap: &str) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    let address = getifaddrs()?.find_map(|address| link(&address, tap)).ok_or(io::ErrorKind::NotFound)?;
    bind(socket.as_raw_fd(), &address)?;
    // Frames of other interfaces may have come before it was bound.
    for _ in 0..MAX_EARLY_FRAMES {
        match rustix::net::recv(&socket, &mut [0_u8; 0][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    Ok(socket)
}

fn link(address: &nix::ifaddrs::InterfaceAddress, name: &str) -> Option<LinkAddr> {
    (address.interface_name == name).then(|| address.address?.as_link_addr().copied())?
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let status = file.metadata()?;
    Ok((status.dev(), status.ino()))
}

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// More than a socket's buffer holds.
const MAX_EARLY_FRAMES: usize = 100_000;
