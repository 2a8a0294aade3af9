//! The `connect` role: finding and connecting to a socket that the frontend creates, in a folder that may not exist yet.
//!
//! The socket is opened without following a link, checked to be one, and connected through that descriptor: what was
//! checked is what is connected to. [`FolderWatch`] tells when something appears in a folder, so that we are there at
//! once; the caller retries at an interval as well, because a socket appears before somebody listens on it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use mio::net::UnixStream;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::folder::{self, FolderError, own_link};
use crate::listen::is_socket;
use crate::place::Place;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no socket, or nobody listens on it: no fault.
    #[error("nobody listens on {0}")]
    Absent(PathBuf),
    /// Something else is there.
    #[error("{0} is not a socket; remove it, or correct `socket`")]
    NotASocket(PathBuf),
    /// A socket is there that has a name somewhere else as well.
    #[error("{0} is a hard link; remove it, or correct `socket`")]
    HardLink(PathBuf),
    /// The folder cannot be opened.
    #[error(transparent)]
    Folder(FolderError),
    /// The kernel refused.
    #[error("cannot connect to socket {path}: {errno}; check the permissions of the socket and its folder")]
    Kernel {
        /// Of the socket.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
}

/// Connects to a socket, if somebody listens on it.
///
/// # Errors
/// Any [`ConnectError`].
pub fn connect(place: &Place) -> Result<UnixStream, ConnectError> {
    let path = &place.path;
    let failed = |errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN => ConnectError::Absent(path.to_owned()),
        errno => ConnectError::Kernel { path: path.to_owned(), errno },
    };
    let folder = folder::open(place).map_err(|error| match error {
        missing if missing.is_missing() => ConnectError::Absent(path.to_owned()),
        error => ConnectError::Folder(error),
    })?;
    let name = Path::new(path.file_name().unwrap_or(OsStr::new(".")));
    let found = folder::open_beneath(&folder, name, OFlags::PATH | OFlags::NOFOLLOW).map_err(failed)?;
    let status = rustix::fs::fstat(&found).map_err(failed)?;
    if !is_socket(&status) {
        return Err(ConnectError::NotASocket(path.to_owned()));
    }
    // Links to sockets elsewhere; where all of the path is trusted they are somebody's wish.
    if place.root.is_some() && !folder::is_only_name(&found).map_err(failed)? {
        return Err(ConnectError::HardLink(path.to_owned()));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    let address = SocketAddrUnix::new(own_link(&found)).map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Ok(UnixStream::from_std(std::os::unix::net::UnixStream::from(socket)))
}

/// Watches folders for new names, on behalf of any number of ports.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: Inotify,
    ports: HashMap<WatchDescriptor, BTreeSet<usize>>,
}

impl FolderWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init()?, ports: HashMap::new() })
    }

    /// The descriptor to wait on.
    pub fn descriptor(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }

    /// Watches the folder of a socket for a port, if the folder exists. Costs nothing if it is watched already.
    pub fn watch(&mut self, socket: &Place, port: usize) {
        let Ok(folder) = folder::open(socket) else { return };
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ATTRIB | WatchMask::ONLYDIR;
        if let Ok(watch) = self.inotify.watches().add(own_link(&folder), mask) {
            self.ports.entry(watch).or_default().insert(port);
        }
    }

    /// Forgets a port.
    pub fn forget(&mut self, port: usize) {
        let mut unused = Vec::new();
        for (watch, ports) in &mut self.ports {
            if ports.remove(&port) && ports.is_empty() {
                unused.push(watch.clone());
            }
        }
        for watch in unused {
            self.ports.remove(&watch);
            // It may be gone together with its folder.
            let _ = self.inotify.watches().remove(watch);
        }
    }

    /// The ports in whose folders something happened since the last call.
    pub fn take(&mut self) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        let mut buffer = [0; 4096];
        while let Ok(events) = self.inotify.read_events(&mut buffer) {
            for event in events {
                if let Some(ports) = self.ports.get(&event.wd) {
                    touched.extend(ports);
                }
                if event.mask.contains(EventMask::IGNORED) {
                    self.ports.remove(&event.wd);
                }
            }
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn at(path: &Path) -> Place {
        path.into()
    }

    #[test]
    fn only_a_socket_with_a_listener_is_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vhost.sock");
        assert!(matches!(connect(&at(&folder.path().join("none/vhost.sock"))), Err(ConnectError::Absent(_))));
        assert!(matches!(connect(&at(&path)), Err(ConnectError::Absent(_))));
        let listener = UnixListener::bind(&path).unwrap();
        drop(connect(&at(&path)).unwrap());
        drop(listener);
        assert!(matches!(connect(&at(&path)), Err(ConnectError::Absent(_))));
    }

    /// hostile C6: the way from CVE-2026-7374, a link to somebody else's socket.
    #[test]
    fn links_and_other_files_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real.sock");
        let _listener = UnixListener::bind(&real).unwrap();
        let link = folder.path().join("vhost.sock");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(matches!(connect(&at(&link)), Err(ConnectError::NotASocket(_))));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(connect(&at(&file)), Err(ConnectError::NotASocket(_))));
        assert!(matches!(connect(&at(folder.path())), Err(ConnectError::NotASocket(_))));
        let datagram = folder.path().join("datagram.sock");
        let _datagram = UnixDatagram::bind(&datagram).unwrap();
        assert!(matches!(connect(&at(&datagram)), Err(ConnectError::Kernel { .. })));
    }

    #[test]
    fn a_full_queue_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vhost.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut held = Vec::new();
        let full = loop {
            match connect(&at(&path)) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, ConnectError::Absent(_)), "{full}");
    }

    #[test]
    fn folders_tell_what_appears_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        let mut watch = FolderWatch::new().unwrap();
        watch.watch(&at(&inner.join("vhost.sock")), 7); // not there yet
        std::fs::create_dir(&inner).unwrap();
        assert!(watch.take().is_empty());
        watch.watch(&at(&inner.join("vhost.sock")), 7);
        watch.watch(&at(&inner.join("vhost.sock")), 7);
        watch.watch(&at(&inner.join("other.sock")), 8);
        std::fs::write(inner.join("vhost.sock"), "").unwrap();
        assert_eq!(watch.take(), [7, 8].into());
        watch.forget(8);
        std::fs::remove_dir_all(&inner).unwrap();
        watch.take();
        std::fs::create_dir(&inner).unwrap();
        watch.watch(&at(&inner.join("vhost.sock")), 7);
        std::fs::rename(folder.path().join("inner"), folder.path().join("moved")).unwrap();
        std::fs::write(folder.path().join("moved/x"), "").unwrap();
        assert_eq!(watch.take(), [7].into());
        watch.forget(7);
        std::fs::write(folder.path().join("moved/y"), "").unwrap();
        assert!(watch.take().is_empty());
    }
}
