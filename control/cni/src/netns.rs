//! Work inside of a container's network namespace: on a thread of its own, so that this process never leaves the node's.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::thread::LinkNameSpaceType;

use crate::error::{Code, Error};

/// Runs `action` in the network namespace at `path`. The node's own is never a container's: it is refused.
///
/// # Errors
/// [`Code::UnknownContainer`] when there is none at `path`, [`Code::Environment`] for the node's own; those of `action`.
pub fn inside<T: Send>(path: &Path, action: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let shown = path.display();
    let missing = |error: std::io::Error| {
        Error::with(Code::UnknownContainer, format!("there is no network namespace {shown}"), error)
    };
    let namespace = File::open(path).map_err(missing)?;
    if is_same(&namespace, &File::open("/proc/self/ns/net").map_err(missing)?).map_err(missing)? {
        let message = format!("CNI_NETNS {shown} is the node's own network namespace");
        return Err(Error::with(Code::Environment, message, "containers on the node's network have no interfaces"));
    }
    let there = || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| missing(error.into()))?;
        action()
    };
    let result = thread::scope(|scope| scope.spawn(there).join());
    result.unwrap_or_else(|_| Err(Error::new(Code::Io, format!("work in {shown} ended early"))))
}

/// Whether a network namespace has an interface of that name.
///
/// # Errors
/// As of [`inside`].
pub fn has_interface(path: &Path, name: &str) -> Result<bool, Error> {
    inside(path, || {
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, flags, None)
                .map_err(|error| Error::io("a socket cannot be made", error))?;
        Ok(rustix::net::netdevice::name_to_index(&socket, name).is_ok())
    })
}

fn is_same(one: &File, other: &File) -> std::io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}
