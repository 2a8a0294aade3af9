//! One interface that an attachment makes, by its name in one namespace: making it fit for its use, and removing it.
//!
//! Each carries a text (`ip link` shows it as alias) by which it is known as this attachment's: what has the same name and
//! another text, or none, is somebody else's and is left alone.

use std::io;
use std::path::Path;

use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use tokio_tun::TunBuilder;

use crate::config::settings::Owner;
use crate::error::{Code, Error};
use crate::netlink::{Link, Netlink};
use crate::netns;

/// Makes a tap that stays when nobody has it open (TUNSETPERSIST), in this thread's namespace; `owner` may open it.
///
/// # Errors
/// The kernel's.
pub fn add_tap(name: &str, owner: Owner, multi_queue: bool) -> io::Result<()> {
    let id = |id: u32| i32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    // The crate registers what it opens with a runtime, though nothing is read.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _guard = runtime.enter();
    let tap = TunBuilder::new().name(name).tap().persist().owner(id(owner.uid)?).group(id(owner.gid)?);
    let tap = if multi_queue { tap.queues(2) } else { tap };
    tap.build().map(drop).map_err(io::Error::other)
}

/// Makes an interface of this thread's namespace silent: no IPv6 of its own, no ARP. Gives it its text, its MTU and what
/// else is wanted. It stays down if `up` is false.
///
/// # Errors
/// The kernel's.
pub fn prepare(
    netlink: &Netlink,
    name: &str,
    alias: &str,
    mtu: u32,
    more: Vec<LinkAttribute>,
    up: bool,
) -> io::Result<Link> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    let link = netlink.link(name)?.ok_or(io::ErrorKind::NotFound)?;
    let mut attributes = vec![LinkAttribute::IfAlias(alias.to_owned()), LinkAttribute::Mtu(mtu)];
    attributes.extend(more);
    netlink.set(link.index, attributes, LinkFlags::Noarp)?;
    if up {
        netlink.set(link.index, Vec::new(), LinkFlags::Up)?;
    }
    Ok(link)
}

/// Removes the interface called `name` with this text, in a container's namespace or (`None`) in this process's. It may be
/// gone, as may be the namespace.
///
/// # Errors
/// [`Code::Io`].
pub fn remove(namespace: Option<&Path>, name: &str, alias: &str) -> Result<(), Error> {
    let remove = || {
        let failed = |error: io::Error| Error::io(format!("interface {name} cannot be removed"), error);
        let netlink = Netlink::open().map_err(failed)?;
        match netlink.link(name).map_err(failed)? {
            Some(link) if link.alias == alias => match netlink.remove(link.index) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
                result => result.map_err(failed),
            },
            _ => Ok(()),
        }
    };
    match namespace {
        None => remove(),
        Some(path) => match netns::inside(path, remove) {
            // Its interfaces went with it.
            Err(error) if error.code == Code::UnknownContainer => Ok(()),
            result => result,
        },
    }
}
