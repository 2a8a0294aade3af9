//! A Unix socket that others connect to, the control socket or one that kubelet asks: made so that its name never appears
//! with a wrong mode, never taken from a daemon that lives, and removed only when it is still ours.
//!
//! Everything happens through a descriptor of the folder, so that the folder's path may be longer than the 107 bytes
//! of a socket address, and so that what was checked is what is used.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::process;

/// A listening socket. Dropping it removes its name.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: std::os::unix::net::UnixListener,
    folder: OwnedFd,
    path: PathBuf,
    file_name: PathBuf,
    /// Device and inode number of our own socket.
    identity: (u64, u64),
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients connect to it.
    Control,
    /// Kubelet connects to it.
    DevicePlugin,
    /// Clients of the migration proxy connect to it.
    Migration,
    /// Another culvertd connects to it, to take over.
    Takeover,
}

/// Why a socket cannot be made.
#[derive(Debug)]
pub struct BindError {
    purpose: Purpose,
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Folder(io::Error),
    WorldWritable,
    ForeignOwner(u32),
    NotASocket,
    /// With the process id of the one that listens, where the kernel tells it.
    InUse(Option<i32>),
    Starting,
    Socket(io::Error),
}

impl ListeningSocket {
    /// Makes the socket at `path` with mode 0660, of `group` if there is one, and its folder with mode 0755 if it does not exist. A socket that a
    /// dead daemon left behind is replaced.
    ///
    /// # Errors
    /// When the folder is writable for everyone or belongs to another user, when something else has the name, when
    /// another process listens on it, and what the kernel reports.
    pub fn bind(path: &Path, purpose: Purpose, group: Option<u32>) -> Result<Self, BindError> {
        bind(path, purpose, group).map_err(|problem| BindError { purpose, path: path.to_owned(), problem })
    }

    /// The same where the daemon of a supervisor that was killed may have it, and is about to end.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_patiently(path: &Path, purpose: Purpose, group: Option<u32>) -> Result<Self, BindError> {
        process::patiently(|| Self::bind(path, purpose, group), BindError::is_taken)
    }

    /// Goes on with a socket that an earlier process has made at `path`, under a name of this device and inode, and that listens still.
    ///
    /// # Errors
    /// As [`Self::bind`]; [`io::ErrorKind::InvalidInput`]: something else is there by now, or it is no such socket.
    pub fn adopt(path: &Path, purpose: Purpose, socket: OwnedFd, identity: (u64, u64)) -> Result<Self, BindError> {
        adopt(path, purpose, socket, identity).map_err(|problem| BindError { purpose, path: path.to_owned(), problem })
    }

    /// A copy of the socket, with device and inode of its name: for [`Self::adopt`].
    ///
    /// # Errors
    /// The kernel's, when no descriptor is free.
    pub fn copy(&self) -> io::Result<(OwnedFd, (u64, u64))> {
        Ok((OwnedFd::from(self.listener.try_clone()?), self.identity))
    }

    /// Whether its path still leads to it.
    pub fn is_in_place(&self) -> bool {
        rustix::fs::lstat(&self.path).is_ok_and(|stat| identity(&stat) == self.identity)
    }

    /// A descriptor of the listening socket, non-blocking, for the server. The name stays with `self`.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is free.
    pub fn listener(&self) -> io::Result<std::os::unix::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // Another daemon may have put its own socket in the place of ours: that one stays.
        let ours = stat(&self.folder, &self.file_name).is_ok_and(|stat| identity(&stat) == self.identity);
        if ours && let Err(error) = rustix::fs::unlinkat(&self.folder, &self.file_name, AtFlags::empty()) {
            tracing::warn!("the socket {} stays behind: {error}", self.path.display());
        }
    }
}

fn adopt(
    path: &Path,
    purpose: Purpose,
    socket: OwnedFd,
    identity_then: (u64, u64),
) -> Result<ListeningSocket, Problem> {
    let (Some(parent), Some(file_name)) = (path.parent(), path.file_name()) else {
        return Err(Problem::NotASocket);
    };
    let folder = open_folder(parent)?;
    let stat = stat(&folder, Path::new(file_name)).map_err(folder_error)?;
    let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::Socket && identity(&stat) == identity_then;
    let listens = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(purpose.kind())
        && sockopt::socket_acceptconn(&socket) == Ok(true);
    if !is_ours || !listens {
        return Err(Problem::Socket(io::ErrorKind::InvalidInput.into()));
    }
    let (path, file_name) = (path.to_owned(), file_name.into());
    Ok(ListeningSocket { listener: socket.into(), folder, path, file_name, identity: identity_then })
}

fn bind(path: &Path, purpose: Purpose, group: Option<u32>) -> Result<ListeningSocket, Problem> {
    let (Some(parent), Some(file_name)) = (path.parent(), path.file_name()) else {
        return Err(Problem::NotASocket);
    };
    let folder = open_folder(parent)?;
    // Two daemons that start at once must not both find the name free. The lock goes when this function returns and
    // on every failure, for it is held by a descriptor of its own.
    let lock = rustix::fs::openat(&folder, ".", FOLDER_FLAGS, Mode::empty()).map_err(folder_error)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => Problem::Starting,
        other => folder_error(other),
    })?;
    refuse_to_replace(&folder, Path::new(file_name))?;

    let (listener, identity) = bind_and_rename(&folder, Path::new(file_name), purpose, group)
        .map_err(|error| Problem::Socket(error.into()))?;
    Ok(ListeningSocket {
        listener: listener.into(),
        folder,
        path: path.to_owned(),
        file_name: file_name.into(),
        identity,
    })
}

/// Opens the folder of the socket, which it makes when there is none.
fn open_folder(path: &Path) -> Result<OwnedFd, Problem> {
    if !path.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(Problem::Folder)?;
    }
    let folder = rustix::fs::open(path, FOLDER_FLAGS, Mode::empty()).map_err(folder_error)?;
    let stat = rustix::fs::fstat(&folder).map_err(folder_error)?;
    if stat.st_mode & Mode::WOTH.as_raw_mode() != 0 {
        return Err(Problem::WorldWritable);
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Problem::ForeignOwner(stat.st_uid));
    }
    Ok(folder)
}

/// Succeeds when the name is free, or is that of a socket on which nobody listens.
fn refuse_to_replace(folder: &OwnedFd, file_name: &Path) -> Result<(), Problem> {
    let stat = match stat(folder, file_name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(folder_error)?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Problem::NotASocket);
    }
    match UnixStream::connect(through(folder, file_name)) {
        Ok(other) => {
            let credentials = sockopt::socket_peercred(&other).ok();
            Err(Problem::InUse(credentials.map(|credentials| credentials.pid.as_raw_nonzero().get())))
        }
        // Nobody listens; or whoever did has just taken its name away.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // A full queue: someone listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Problem::InUse(None)),
        // A socket of another type: of one that nobody has it would be a refusal.
        Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => Err(Problem::InUse(None)),
        Err(error) => Err(Problem::Socket(error)),
    }
}

/// Makes the socket under a name of its own and then gives it the right one, so that whoever finds the name finds a
/// socket that listens and has its mode.
fn bind_and_rename(
    folder: &OwnedFd,
    file_name: &Path,
    purpose: Purpose,
    group: Option<u32>,
) -> Result<(OwnedFd, (u64, u64)), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, purpose.kind(), SocketFlags::CLOEXEC, None)?;
    let mode = purpose.mode();
    // Linux takes the mode of the name from that of the socket, less the umask (unix_bind_bsd in net/unix/af_unix.c).
    rustix::fs::fchmod(&socket, mode)?;
    let new_name = PathBuf::from(format!(".culvertd-{}", rustix::process::getpid().as_raw_nonzero()));
    match rustix::fs::unlinkat(folder, &new_name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(through(folder, &new_name))?)?;
    let finish = || {
        // What is looked at is what is changed, whatever has the name by now.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(folder, &new_name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&made)?;
        let own = stat.st_nlink == 1 && stat.st_uid == rustix::process::geteuid().as_raw();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || !own {
            return Err(Errno::NOTSOCK);
        }
        // Before the mode, which a change of the group may take from.
        if let Some(group) = group {
            let group = Some(rustix::fs::Gid::from_raw(group));
            rustix::fs::chownat(&made, "", None, group, AtFlags::EMPTY_PATH)?;
        }
        rustix::fs::chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), mode)?;
        rustix::net::listen(&socket, BACKLOG)?;
        rustix::fs::renameat(folder, &new_name, folder, file_name)?;
        Ok(identity(&stat))
    };
    match finish() {
        Ok(identity) => Ok((socket, identity)),
        Err(error) => {
            // Best effort: the first error is the one to tell.
            let _ = rustix::fs::unlinkat(folder, &new_name, AtFlags::empty());
            Err(error)
        }
    }
}

fn stat(folder: &OwnedFd, file_name: &Path) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, file_name, AtFlags::SYMLINK_NOFOLLOW)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// A short path to `file_name` in `folder`.
fn through(folder: &OwnedFd, file_name: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(file_name)
}

fn folder_error(error: Errno) -> Problem {
    Problem::Folder(error.into())
}

impl BindError {
    /// Whether another process has it, or is about to.
    pub fn is_taken(&self) -> bool {
        matches!(self.problem, Problem::InUse(_) | Problem::Starting)
    }
}

impl Purpose {
    /// What the socket is called.
    fn noun(self) -> &'static str {
        match self {
            Self::Control => "control socket",
            Self::DevicePlugin => "device plugin socket",
            Self::Migration => "migration socket",
            Self::Takeover => "takeover socket",
        }
    }

    /// Its type. Those who take over send messages with descriptors.
    fn kind(self) -> SocketType {
        match self {
            Self::Control | Self::DevicePlugin | Self::Migration => SocketType::STREAM,
            Self::Takeover => SocketType::SEQPACKET,
        }
    }

    /// Who may connect.
    fn mode(self) -> Mode {
        match self {
            Self::Control | Self::DevicePlugin | Self::Migration => SOCKET_MODE,
            Self::Takeover => OWNER_MODE,
        }
    }

    /// The key of the configuration that decides where it is.
    fn key(self) -> &'static str {
        match self {
            Self::Control | Self::Migration | Self::Takeover => "daemon.control_socket",
            Self::DevicePlugin => "daemon.kubelet_device_plugins",
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let folder = self.path.parent().unwrap_or(Path::new("/")).display();
        let key = self.purpose.key();
        write!(f, "{} {path}: ", self.purpose.noun())?;
        match &self.problem {
            Problem::Folder(error) => {
                write!(f, "its folder {folder} cannot be used: {error}; correct that, or set {key}")
            }
            Problem::WorldWritable => write!(
                f,
                "everyone may write to its folder {folder}, and so replace the socket; run `chmod o-w {folder}`, or set \
                 daemon.control_socket to a path in another folder"
            ),
            Problem::ForeignOwner(uid) => write!(
                f,
                "its folder {folder} belongs to user {uid}, who could replace the socket; change its owner, or set \
                 daemon.control_socket to a path in another folder"
            ),
            Problem::NotASocket => {
                write!(f, "something that is no socket has this name; remove it, or set {key}")
            }
            Problem::InUse(pid) => {
                f.write_str("another daemon listens on it")?;
                if let Some(pid) = pid {
                    write!(f, " (process {pid})")?;
                }
                write!(f, "; stop that one first, or set {key}")
            }
            Problem::Starting => write!(f, "another daemon is just starting in {folder}; let only one run"),
            Problem::Socket(error) => {
                write!(f, "the socket cannot be made: {error}; correct that, or set {key}")
            }
        }
    }
}

impl std::error::Error for BindError {}

/// Read and write for owner and group: whoever may write to it may control the node.
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o660);
/// Read and write for the owner alone.
const OWNER_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixListener;

    /// Enough for two threads to meet: hundreds of times.
    const ROUNDS: usize = 20_000;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn error(path: &Path) -> String {
        ListeningSocket::bind(path, Purpose::Control, None).unwrap_err().to_string()
    }

    #[test]
    fn it_is_made_with_its_mode_and_removed() {
        let folder = folder();
        let path = folder.path().join("new/run/c.sock");
        let socket = ListeningSocket::bind(&path, Purpose::Control, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o660);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_long_folder_is_no_obstacle() {
        let folder = folder();
        let path = folder.path().join("f".repeat(120)).join("c.sock");
        let socket = ListeningSocket::bind(&path, Purpose::Control, None).unwrap();
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = ListeningSocket::bind(&path, Purpose::Control, None).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    /// The name vanished between the look at it and the attempt to connect, which was taken for an obstacle that lasts: after a takeover
    /// nobody could take over for 10 s.
    #[test]
    fn a_socket_that_is_just_given_up_is_no_obstacle() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        std::thread::scope(|scope| {
            let bind = || (0..ROUNDS).filter_map(|_| ListeningSocket::bind(&path, Purpose::Takeover, None).err());
            let other = scope.spawn(move || bind().find(|error| !error.is_taken()));
            let wrong = bind().find(|error| !error.is_taken());
            assert!(wrong.is_none(), "{wrong:?}");
            assert!(other.join().unwrap().is_none());
        });
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        let other = UnixListener::bind(&path).unwrap();
        let pid = std::process::id();
        assert_eq!(
            error(&path),
            format!(
                "control socket {}: another daemon listens on it (process {pid}); stop that one first, or set \
                 daemon.control_socket",
                path.display()
            )
        );
        drop(other);
    }

    #[test]
    fn other_things_of_the_name_are_left_alone() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        let expected = format!(
            "control socket {}: something that is no socket has this name; remove it, or set daemon.control_socket",
            path.display()
        );
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(error(&path), expected);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(error(&path), expected);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(error(&path), expected);
    }

    #[test]
    fn a_folder_that_everyone_may_write_to_is_refused() {
        let folder = folder();
        for mode in [0o757, 0o1777] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let path = folder.path().join("c.sock");
            let name = folder.path().display();
            assert_eq!(
                error(&path),
                format!(
                    "control socket {}: everyone may write to its folder {name}, and so replace the socket; run `chmod \
                     o-w {name}`, or set daemon.control_socket to a path in another folder",
                    path.display()
                )
            );
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_told() {
        let folder = folder();
        std::fs::write(folder.path().join("run"), "").unwrap();
        let message = error(&folder.path().join("run/c.sock"));
        assert!(message.contains("cannot be used: Not a directory"), "{message}");
    }

    #[test]
    fn of_two_that_start_at_once_one_is_refused() {
        let folder = folder();
        let other = std::fs::File::open(folder.path()).unwrap();
        rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
        assert!(error(&folder.path().join("c.sock")).contains("another daemon is just starting"));
    }

    /// hostile C6: before, the mode went to what a link led to.
    #[test]
    fn names_that_are_swapped_meanwhile_lead_nowhere() {
        let folder = folder();
        let (path, precious) = (folder.path().join("c.sock"), folder.path().join("precious"));
        std::fs::write(&precious, "precious").unwrap();
        std::fs::set_permissions(&precious, std::fs::Permissions::from_mode(0o600)).unwrap();
        let new_name = folder.path().join(format!(".culvertd-{}", std::process::id()));
        let end = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = std::fs::remove_file(&new_name);
                    let _ = std::os::unix::fs::symlink(&precious, &new_name);
                    let _ = std::fs::remove_file(&new_name);
                    let _ = std::fs::hard_link(&precious, &new_name);
                    std::thread::yield_now();
                }
            });
            for _ in 0..2000 {
                // Whether it can be made is chance. The link may have got the name.
                drop(ListeningSocket::bind(&path, Purpose::Control, None));
                let _ = std::fs::remove_file(&path);
            }
            end.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(precious.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn only_our_own_name_is_removed() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        let ours = ListeningSocket::bind(&path, Purpose::Control, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        let inode = path.metadata().unwrap().ino();
        drop(ours);
        assert_eq!(path.metadata().unwrap().ino(), inode);
    }
}
