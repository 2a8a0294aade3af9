//! The `listen` role: the socket that we create and frontends connect to.
//!
//! Everything goes through a handle of the folder ([`folder`]), so paths may be long and a folder that is renamed meanwhile
//! is still the same folder. What lies at the path already is kept, unless it is a socket that nobody listens on. Nobody can
//! connect before the socket has its label, mode and owner, since only then we listen. On drop the path is removed, but only
//! if it still is our socket.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::folder::{self, FolderError, GiveError, own_link};
use crate::place::Place;

/// Permissions of the socket: its owner and group may connect.
pub const SOCKET_MODE: u32 = 0o660;

/// How many connections wait to be accepted; more are kept waiting by the kernel.
const BACKLOG: i32 = 32;

/// Why there is no socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder cannot be opened or made.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The path names no file.
    #[error(
        "{0} cannot be a socket's path: it must end in a file name of at most {MAX_NAME_BYTES} bytes; correct `socket`"
    )]
    Name(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; remove it, or choose another `socket`")]
    NotASocket(PathBuf),
    /// A socket is there that has a name somewhere else as well.
    #[error("{0} is a hard link; remove it, or choose another `socket`")]
    HardLink(PathBuf),
    /// Somebody put something else in the place of the socket that we made.
    #[error("{0} was replaced while it was made; find out who writes to its folder")]
    Replaced(PathBuf),
    /// It cannot have the owner or label that it is to have.
    #[error("socket {path} {error}")]
    Given {
        /// Of the socket.
        path: PathBuf,
        /// Why not.
        error: GiveError,
    },
    /// Another process listens there.
    #[error("{path} is in use by {user}; stop that process, or choose another `socket`")]
    InUse {
        /// Of the socket.
        path: PathBuf,
        /// Who listens.
        user: String,
    },
    /// The kernel refused.
    #[error("cannot {what} socket {path}: {errno}")]
    Kernel {
        /// What was to be done.
        what: &'static str,
        /// Of the socket.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
}

/// A socket that frontends connect to.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    name: SocketName,
}

/// The name of a socket that we listen on. Dropping it removes the name, if it still is that of our socket.
#[derive(Debug)]
pub struct SocketName {
    /// None once the name is left to others.
    folder: Option<OwnedFd>,
    name: OsString,
    identity: (u64, u64),
}

impl SocketName {
    /// Creates a socket of type `kind` that listens, and its folder if there is none. A socket that a dead process left
    /// is replaced.
    ///
    /// # Errors
    /// Any [`BindError`]. What lies at the path is untouched then.
    pub fn bind(place: &Place, kind: SocketType) -> Result<(OwnedFd, Self), BindError> {
        let path = &place.path;
        let name = path.file_name().filter(|name| name.len() <= MAX_NAME_BYTES);
        let name = name.ok_or_else(|| BindError::Name(path.to_owned()))?;
        let folder = folder::make(place)?;
        let kernel = |what| move |errno| BindError::Kernel { what, path: path.to_owned(), errno };

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).map_err(kernel("create"))?;
        let address = through(&folder, name).map_err(kernel("name"))?;
        // The name appears with the mode of the socket: nobody else may connect before the mode below is set.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(kernel("set the mode of"))?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(&folder, name, path)?;
                rustix::net::bind(&socket, &address).map_err(kernel("bind"))?;
            }
            result => result.map_err(kernel("bind"))?,
        }
        let (ours, status) = find(&folder, name).map_err(kernel("open"))?;
        // No system call leads from a socket to its name: what is there is taken for ours if only we could have made it.
        let is_ours = || Ok(status.st_uid == rustix::process::geteuid().as_raw() && folder::is_only_name(&ours)?);
        if !is_socket(&status) || (place.root.is_some() && !is_ours().map_err(kernel("look at"))?) {
            return Err(BindError::Replaced(path.to_owned()));
        }
        // From here on the name is removed if a step fails.
        let bound = Self { folder: Some(folder), name: name.to_owned(), identity: identity(&status) };
        rustix::fs::chmod(own_link(&ours), Mode::from_raw_mode(SOCKET_MODE)).map_err(kernel("set the mode of"))?;
        folder::give(&ours, place).map_err(|error| BindError::Given { path: path.to_owned(), error })?;
        rustix::net::listen(&socket, BACKLOG).map_err(kernel("listen on"))?;
        Ok((socket, bound))
    }

    /// Goes on with a socket of type `kind` that an earlier process has made at this place, under a name of this device and inode, and that
    /// listens still.
    ///
    /// # Errors
    /// [`BindError::Replaced`]: something else is there by now, or it is no such socket. Any [`FolderError`].
    pub fn adopt(
        place: &Place,
        kind: SocketType,
        socket: OwnedFd,
        identity_then: (u64, u64),
    ) -> Result<(OwnedFd, Self), BindError> {
        let path = &place.path;
        let replaced = || BindError::Replaced(path.to_owned());
        let name = path.file_name().filter(|name| name.len() <= MAX_NAME_BYTES);
        let name = name.ok_or_else(|| BindError::Name(path.to_owned()))?;
        let folder = folder::make(place)?;
        if !is_listening(&socket, kind) {
            return Err(replaced());
        }
        let (_, status) = find(&folder, name).map_err(|_| replaced())?;
        if !is_socket(&status) || identity(&status) != identity_then {
            return Err(replaced());
        }
        Ok((socket, Self { folder: Some(folder), name: name.to_owned(), identity: identity_then }))
    }

    /// Whether a frontend that connects to this place reaches our socket. True when the name was left.
    pub fn is_at(&self, place: &Place) -> bool {
        let ours = |folder| rustix::fs::statat(&folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let found = folder::open(place).ok().and_then(ours);
        self.folder.is_none() || found.is_some_and(|status| identity(&status) == self.identity)
    }

    /// Leaves the name to whoever finds it stale, and closes the folder: a process that gives up the file system has
    /// nothing open in it.
    pub fn leave(&mut self) {
        self.folder = None;
    }
}

impl Listener {
    /// Creates the socket, and its folder if there is none. A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// Any [`BindError`]. What lies at the path is untouched then.
    pub fn bind(place: &Place) -> Result<Self, BindError> {
        let (socket, name) = SocketName::bind(place, SocketType::STREAM)?;
        let socket = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket));
        Ok(Self { socket, name })
    }

    /// See [`SocketName::adopt`].
    ///
    /// # Errors
    /// As that.
    pub fn adopt(place: &Place, socket: OwnedFd, identity: (u64, u64)) -> Result<Self, BindError> {
        let (socket, name) = SocketName::adopt(place, SocketType::STREAM, socket, identity)?;
        let socket = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket));
        Ok(Self { socket, name })
    }

    /// A copy of the socket, with device and inode of its name.
    ///
    /// # Errors
    /// The kernel's, when too many descriptors are open.
    pub fn copy(&self) -> io::Result<(OwnedFd, (u64, u64))> {
        Ok((self.socket.as_fd().try_clone_to_owned()?, self.name.identity))
    }

    /// See [`SocketName::is_at`].
    pub fn is_at(&self, place: &Place) -> bool {
        self.name.is_at(place)
    }

    /// See [`SocketName::leave`].
    pub fn leave_name(&mut self) {
        self.name.leave();
    }

    /// The next frontend, if one has come.
    ///
    /// # Errors
    /// The kernel's reason; usually too many open files.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the name away and returns the socket: closing it closes the connections that nobody accepted.
    pub fn into_socket(self) -> UnixListener {
        self.socket
    }

    /// The socket itself, to wait on.
    pub fn source(&mut self) -> &mut UnixListener {
        &mut self.socket
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else { return };
        let at = rustix::fs::statat(folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if at.is_ok_and(|status| identity(&status) == self.identity) {
            // If it cannot be removed, the next one to bind finds it stale.
            let _ = rustix::fs::unlinkat(folder, &self.name, AtFlags::empty());
        }
    }
}

/// Longest file name of a socket: its address is `/proc/self/fd/N/NAME`, in the 107 bytes that an address has.
pub const MAX_NAME_BYTES: usize = 107 - "/proc/self/fd/".len() - "1000000/".len();

/// Removes what lies where the socket is to be, if it is a socket and nobody listens on it.
fn remove_stale(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), BindError> {
    let kernel = |what| move |errno| BindError::Kernel { what, path: path.to_owned(), errno };
    let (found, status) = match find(folder, name) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(kernel("open"))?,
    };
    if !is_socket(&status) {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    if !folder::is_only_name(&found).map_err(kernel("look at"))? {
        return Err(BindError::HardLink(path.to_owned()));
    }
    if let Some(user) = listener_of(&found).map_err(kernel("probe"))? {
        return Err(BindError::InUse { path: path.to_owned(), user });
    }
    let now = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(kernel("look at"))?;
    if identity(&now) == identity(&status) {
        rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(kernel("remove stale"))?;
    }
    Ok(())
}

/// Whatever has a name in a folder, even a link.
fn find(folder: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
    let found = folder::open_beneath(folder, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW)?;
    let status = rustix::fs::fstat(&found)?;
    Ok((found, status))
}

/// Who listens on a socket that was opened by path, if anybody.
fn listener_of(found: &OwnedFd) -> Result<Option<String>, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(own_link(found))?) {
        Err(Errno::CONNREFUSED) => Ok(None),
        Ok(()) => {
            let pid = sockopt::socket_peercred(&probe).map(|peer| peer.pid.as_raw_pid());
            Ok(Some(pid.map_or_else(|_| "another process".to_owned(), |pid| format!("process {pid}"))))
        }
        // Its queue is full, or it is a socket of another type: somebody has it.
        Err(_) => Ok(Some("another process".to_owned())),
    }
}

/// Whether it is a Unix socket of this type that listens.
fn is_listening(socket: &OwnedFd, kind: SocketType) -> bool {
    sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(socket) == Ok(kind)
        && sockopt::socket_acceptconn(socket) == Ok(true)
}

/// The address of a name inside of a folder that we have open.
fn through(folder: &OwnedFd, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(Path::new(&own_link(folder)).join(name))
}

/// Whether it is a socket.
pub(crate) fn is_socket(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Socket
}

fn identity(status: &Stat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};

    fn bind(path: &Path) -> Result<Listener, BindError> {
        Listener::bind(&path.into())
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn frontends_connect_and_the_path_goes_with_the_listener() {
        let folder = folder();
        let path = folder.path().join("new/deep/vhost.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(listener.accept().unwrap().is_none());
        let _client = StdStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn long_paths_work() {
        let folder = folder();
        let mut path = folder.path().to_owned();
        for _ in 0..5 {
            path.push("a".repeat(100));
        }
        path.push("vhost.sock");
        let _listener = bind(&path).unwrap();
        assert!(path.exists());
        assert!(matches!(bind(&folder.path().join("n".repeat(90))), Err(BindError::Name(_))));
        assert!(matches!(bind(Path::new("/")), Err(BindError::Name(_))));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = bind(&path).unwrap();
        StdStream::connect(&path).unwrap();
    }

    /// hostile C7
    #[test]
    fn a_live_socket_is_not_stolen() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let live = StdListener::bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        let pid = std::process::id();
        let expected =
            format!("{} is in use by process {pid}; stop that process, or choose another `socket`", path.display());
        assert_eq!(error, expected);
        live.set_nonblocking(true).unwrap();
        drop(live.accept().unwrap());
        StdStream::connect(&path).unwrap();
    }

    /// hostile C6
    #[test]
    fn files_folders_and_links_are_never_removed() {
        let folder = folder();
        let target = folder.path().join("target");
        drop(StdListener::bind(&target).unwrap());
        for (name, make) in [
            ("file", (|path, _| std::fs::write(path, "precious").unwrap()) as fn(&Path, &Path)),
            ("folder", |path, _| std::fs::create_dir(path).unwrap()),
            ("link", |path, target| symlink(target, path).unwrap()),
            ("dangling", |path, _| symlink("nowhere", path).unwrap()),
        ] {
            let path = folder.path().join(name);
            make(&path, &target);
            let before = path.symlink_metadata().unwrap().ino();
            let error = bind(&path).unwrap_err();
            assert!(matches!(error, BindError::NotASocket(_)), "{name}: {error}");
            assert_eq!(path.symlink_metadata().unwrap().ino(), before, "{name}");
        }
        assert!(target.exists());
    }

    #[test]
    fn a_name_that_was_left_stays_and_is_replaced() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let mut listener = bind(&path).unwrap();
        listener.leave_name();
        drop(listener);
        assert!(path.exists());
        let _listener = bind(&path).unwrap();
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let listener = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(listener);
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = folder();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = bind(&file.join("sub/vhost.sock")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot open or create folder {}/sub", file.display())), "{error}");
    }
}
