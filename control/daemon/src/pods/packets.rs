//! A packet socket on a tap in a pod's network namespace, for a translator that may not open one (packet(7)).
//!
//! A namespace belongs to a thread: a thread of its own enters it, opens the socket and ends, so that no other ever leaves
//! the node's. The supervisor does this: the daemon may not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::thread::LinkNameSpaceType;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// For messages.
    path: PathBuf,
}

/// Opens a packet socket for all frames of the interface `tap` in the network namespace at `netns`.
///
/// # Errors
/// A sentence: there is no such namespace or interface, or culvertd may not (CAP_SYS_ADMIN, CAP_NET_RAW).
pub fn open(netns: &Path, tap: &str) -> Result<OwnedFd, String> {
    Namespace::open(netns)?.packets(tap)
}

impl Namespace {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// A sentence: there is none.
    pub fn open(path: &Path) -> Result<Self, String> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or(0);
        let file = File::options().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| {
            format!("there is no network namespace at {}: {error}; it goes with its pod", path.display())
        })?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Whether it is this thread's own.
    pub fn is_own(&self) -> bool {
        let own = File::open(OWN_NAMESPACE).and_then(|own| identity(&own));
        matches!((own, identity(&self.file)), (Ok(own), Ok(this)) if own == this)
    }

    /// A packet socket for all frames of an interface.
    ///
    /// # Errors
    /// A sentence.
    pub fn packets(&self, tap: &str) -> Result<OwnedFd, String> {
        let path = self.path.display();
        self.inside("packets", || {
            on(tap).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("there is no interface {tap} in {path}; it is looked for again"),
                _ => format!("no packet socket on {tap} in {path}: {error}"),
            })
        })
    }

    /// Does `action` in the namespace, in a thread of that name.
    ///
    /// # Errors
    /// A sentence: the action's, or the namespace cannot be entered.
    pub fn inside<T: Send>(&self, name: &str, action: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let path = self.path.display();
        let there = || {
            rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| format!("network namespace {path} cannot be entered: {errno}"))?;
            // That it is the one that was registered is seen, not supposed.
            if !self.is_own() {
                return Err(format!("network namespace {path} was not entered"));
            }
            action()
        };
        let thread = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, there);
            thread.map(|thread| thread.join())
        });
        match thread {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("culvertd failed over it; see its log".to_owned()),
            Err(error) => Err(format!("a thread cannot start: {error}")),
        }
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

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let status = file.metadata()?;
    Ok((status.dev(), status.ino()))
}

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// More than a socket's buffer holds.
const MAX_EARLY_FRAMES: usize = 100_000;
