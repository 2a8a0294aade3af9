//! The `listen` role: the socket that we create and frontends connect to.
//!
//! Everything goes through a descriptor of the folder, so paths may be long and a folder that is renamed meanwhile is
//! still the same folder. What lies at the path already is kept, unless it is a socket that nobody listens on. On drop
//! the path is removed, but only if it still is our socket.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Permissions of the socket: its owner and group may connect.
pub const SOCKET_MODE: u32 = 0o660;

/// How many connections wait to be accepted; more are kept waiting by the kernel.
const BACKLOG: i32 = 32;

/// Why there is no socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder cannot be opened or made.
    #[error("cannot open or create folder {folder}: {errno}; correct `socket` or the folder's permissions")]
    Folder {
        /// Of the socket.
        folder: PathBuf,
        /// The kernel's reason.
        errno: io::Error,
    },
    /// The path names no file.
    #[error(
        "{0} cannot be a socket's path: it must end in a file name of at most {MAX_NAME_BYTES} bytes; correct `socket`"
    )]
    Name(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; remove it, or choose another `socket`")]
    NotASocket(PathBuf),
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
    pub fn bind(path: &Path, kind: SocketType) -> Result<(OwnedFd, Self), BindError> {
        let bad_name = || BindError::Name(path.to_owned());
        let name = path.file_name().filter(|name| name.len() <= MAX_NAME_BYTES).ok_or_else(bad_name)?;
        let folder = open_folder(path.parent().ok_or_else(bad_name)?)?;
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
        let ours = rustix::fs::openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(kernel("open"))?;
        let status = rustix::fs::fstat(&ours).map_err(kernel("look at"))?;
        if !is_socket(&status) {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        rustix::fs::chmod(own_link(&ours), Mode::from_raw_mode(SOCKET_MODE)).map_err(kernel("set the mode of"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(kernel("listen on"))?;
        Ok((socket, Self { folder: Some(folder), name: name.to_owned(), identity: identity(&status) }))
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
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (socket, name) = SocketName::bind(path, SocketType::STREAM)?;
        let socket = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket));
        Ok(Self { socket, name })
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

fn open_folder(folder: &Path) -> Result<OwnedFd, BindError> {
    // The parent of a bare file name is the empty path.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |errno: io::Error| BindError::Folder { folder: folder.to_owned(), errno };
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))
}

/// Removes what lies where the socket is to be, if it is a socket and nobody listens on it.
fn remove_stale(folder: &OwnedFd, name: &std::ffi::OsStr, path: &Path) -> Result<(), BindError> {
    let kernel = |what| move |errno| BindError::Kernel { what, path: path.to_owned(), errno };
    let found = rustix::fs::openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let found = match found {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(kernel("open"))?,
    };
    let status = rustix::fs::fstat(&found).map_err(kernel("look at"))?;
    if !is_socket(&status) {
        return Err(BindError::NotASocket(path.to_owned()));
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

/// Who listens on a socket that was opened by path, if anybody.
fn listener_of(found: &OwnedFd) -> Result<Option<String>, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(own_link(found))?) {
        Err(Errno::CONNREFUSED) => Ok(None),
        Ok(()) => {
            let pid = rustix::net::sockopt::socket_peercred(&probe).map(|peer| peer.pid.as_raw_pid());
            Ok(Some(pid.map_or_else(|_| "another process".to_owned(), |pid| format!("process {pid}"))))
        }
        // Its queue is full, or it is a socket of another type: somebody has it.
        Err(_) => Ok(Some("another process".to_owned())),
    }
}

/// The address of a name inside of a folder that we have open.
fn through(folder: &OwnedFd, name: &std::ffi::OsStr) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(Path::new(&own_link(folder)).join(name))
}

/// The kernel's name for what one of our descriptors refers to.
pub(crate) fn own_link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

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

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn frontends_connect_and_the_path_goes_with_the_listener() {
        let folder = folder();
        let path = folder.path().join("new/deep/vhost.sock");
        let listener = Listener::bind(&path).unwrap();
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
        let _listener = Listener::bind(&path).unwrap();
        assert!(path.exists());
        assert!(matches!(Listener::bind(&folder.path().join("n".repeat(90))), Err(BindError::Name(_))));
        assert!(matches!(Listener::bind(Path::new("/")), Err(BindError::Name(_))));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = Listener::bind(&path).unwrap();
        StdStream::connect(&path).unwrap();
    }

    /// hostile C7
    #[test]
    fn a_live_socket_is_not_stolen() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let live = StdListener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err().to_string();
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
            let error = Listener::bind(&path).unwrap_err();
            assert!(matches!(error, BindError::NotASocket(_)), "{name}: {error}");
            assert_eq!(path.symlink_metadata().unwrap().ino(), before, "{name}");
        }
        assert!(target.exists());
    }

    #[test]
    fn a_name_that_was_left_stays_and_is_replaced() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let mut listener = Listener::bind(&path).unwrap();
        listener.leave_name();
        drop(listener);
        assert!(path.exists());
        let _listener = Listener::bind(&path).unwrap();
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("vhost.sock");
        let listener = Listener::bind(&path).unwrap();
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
        let error = Listener::bind(&file.join("sub/vhost.sock")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot open or create folder {}/sub", file.display())), "{error}");
    }
}
