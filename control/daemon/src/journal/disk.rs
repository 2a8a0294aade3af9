//! The state folder as the journal needs it, and the lock that keeps it one daemon's own.
//!
//! All names are used through a descriptor of the folder, so that what was checked at the start is what is used. Files there
//! are regular ones with one name, whatever somebody has put in their place: nothing is written through a link, hard or
//! symbolic, and nothing waits at a fifo.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The file system, as far as the journal needs it. Each method is one step: culvertd may be killed between any two.
pub trait Disk {
    /// The whole of a file, or its first `most` and one more bytes; `None` when there is none.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>>;

    /// Makes a file of these bytes, in the place of one that is there.
    ///
    /// # Errors
    /// The kernel's; part of the bytes may be written.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Returns when the file's bytes are on the disk.
    ///
    /// # Errors
    /// The kernel's.
    fn flush(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in the place of one that has it.
    ///
    /// # Errors
    /// The kernel's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Returns when the names are on the disk.
    ///
    /// # Errors
    /// The kernel's.
    fn flush_folder(&mut self) -> io::Result<()>;
}

/// A state folder that this process holds the lock of, until it is dropped.
#[derive(Debug)]
pub struct StateFolder {
    folder: OwnedFd,
    lock: OwnedFd,
}

/// Why a state folder cannot be used.
#[derive(Debug)]
pub enum StateFolderError {
    /// Another daemon uses it.
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other's process number, where it is known.
        pid: String,
    },
    /// The kernel refuses; culvertd can go on without.
    Kernel {
        /// The folder.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl StateFolder {
    /// Opens the folder, which is made with mode 0700 when there is none, and takes its lock.
    ///
    /// # Errors
    /// Any [`StateFolderError`].
    pub fn open(path: &Path) -> Result<Self, StateFolderError> {
        Self::open_with(path, None)
    }

    /// The same with the lock that another process has taken, and has handed over: nobody else can have it in between. One that is not
    /// this folder's is left.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(path: &Path, inherited: Option<OwnedFd>) -> Result<Self, StateFolderError> {
        let kernel = |error: io::Error| StateFolderError::Kernel { path: path.to_owned(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(kernel)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| kernel(errno.into()))?;
        check_folder(&folder).map_err(kernel)?;
        // Not open for writing, so that the file system can be mounted read-only meanwhile.
        let lock = open_file(&folder, LOCK_FILE, OFlags::RDONLY | OFlags::CREATE).map_err(kernel)?;
        let lock = inherited.filter(|inherited| is_same(inherited, &lock)).unwrap_or(lock);
        // Of one that was handed over it is held already.
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut buffer = [0; 16];
                // Only for the message.
                let count = rustix::io::pread(&lock, &mut buffer, 0).unwrap_or(0);
                let digits = buffer.iter().take(count).take_while(|byte| byte.is_ascii_digit());
                let pid = digits.map(|byte| char::from(*byte)).collect();
                return Err(StateFolderError::InUse { path: path.to_owned(), pid });
            }
            Err(errno) => return Err(kernel(errno.into())),
        }
        // Only for the message of another daemon: a full disk is no obstacle.
        if let Ok(lock) = open_file(&folder, LOCK_FILE, OFlags::WRONLY) {
            let _ = rustix::fs::ftruncate(&lock, 0);
            let _ = rustix::io::pwrite(&lock, std::process::id().to_string().as_bytes(), 0);
        }
        Ok(Self { folder, lock })
    }
}

impl StateFolder {
    /// A copy of the lock, which holds as long as any copy is open.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is free.
    pub fn copy_lock(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone()
    }
}

/// Reads a file of a state folder without its lock: whoever has that may write another one at any time, in the place of this one.
///
/// # Errors
/// As [`Disk::read`].
pub fn peek(path: &Path, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    check_folder(&folder)?;
    read(&folder, name, most)
}

fn read(folder: &OwnedFd, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match open_file(folder, name, OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => std::fs::File::from(other?),
    };
    let mut bytes = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

impl Disk for StateFolder {
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        read(&self.folder, name, most)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // A new file: what has the name may be one with other names as well.
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let file = open_file(&self.folder, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        std::fs::File::from(file).write_all(bytes)
    }

    fn flush(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(open_file(&self.folder, name, OFlags::WRONLY)?)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn flush_folder(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }
}

/// Refuses a folder in which others may change names: they could make culvertd lose the journal, or open their own.
fn check_folder(folder: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
        return Err(io::Error::other("everyone may write to it"));
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to user {}", stat.st_uid)));
    }
    Ok(())
}

/// Opens a regular file that has this name alone, and nothing else. Waits for nobody.
fn open_file(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, FILE_MODE).map_err(|errno| match errno {
        // What open(2) says of a symbolic link, and of a fifo or a socket.
        Errno::LOOP | Errno::NXIO => not_a_file(name),
        errno => errno.into(),
    })?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a_file(name));
    }
    if stat.st_nlink > 1 {
        return Err(io::Error::other(format!("{name} has another name elsewhere (it is a hard link); remove it")));
    }
    Ok(file)
}

/// Whether both are the same file.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |file| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    identity(one).is_ok_and(|one| identity(other) == Ok(one))
}

fn not_a_file(name: &str) -> io::Error {
    io::Error::other(format!("{name} is no regular file; remove it"))
}

impl fmt::Display for StateFolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, pid } => {
                write!(f, "state folder {}: another culvertd uses it", path.display())?;
                if !pid.is_empty() {
                    write!(f, " (process {pid})")?;
                }
                f.write_str("; stop that one first, or set daemon.state_dir")
            }
            Self::Kernel { path, error } => write!(
                f,
                "state folder {} cannot be used: {error}; correct that, or set daemon.state_dir",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StateFolderError {}

const LOCK_FILE: &str = "lock";
/// For culvertd alone: the paths of sockets are nobody else's matter.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    const ERROR: &str = "is no regular file; remove it";

    /// A folder with a file that must stay as it is.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let (state, precious) = (place.path().join("state"), place.path().join("precious"));
        std::fs::create_dir(&state).unwrap();
        std::fs::write(&precious, "precious").unwrap();
        (place, state, precious)
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }

    /// hostile C6
    #[test]
    fn what_is_no_file_is_neither_read_nor_waited_for() {
        let (_place, state, precious) = place();
        let mut disk = StateFolder::open(&state).unwrap();
        fifo(&state.join("fifo"));
        symlink(&precious, state.join("link")).unwrap();
        let _socket = UnixListener::bind(state.join("socket")).unwrap();
        for name in ["fifo", "link", "socket"] {
            let error = disk.read(name, 100).unwrap_err().to_string();
            assert_eq!(error, format!("{name} {ERROR}"));
            assert!(disk.flush(name).unwrap_err().to_string().ends_with(ERROR), "{name}");
        }
        std::fs::hard_link(&precious, state.join("hard")).unwrap();
        assert!(disk.read("hard", 100).unwrap_err().to_string().contains("hard link"));
        assert_eq!(disk.read("none", 100).unwrap(), None);
    }

    /// hostile C6: before, the new journal went into whatever had its name.
    #[test]
    fn writing_replaces_what_has_the_name() {
        let (_place, state, precious) = place();
        let mut disk = StateFolder::open(&state).unwrap();
        let name = state.join("new");
        let others: [&dyn Fn(); 4] = [
            &|| std::fs::hard_link(&precious, &name).unwrap(),
            &|| symlink(&precious, &name).unwrap(),
            &|| fifo(&name),
            &|| drop(UnixListener::bind(&name).unwrap()),
        ];
        for other in others {
            other();
            disk.write("new", b"bytes").unwrap();
            assert_eq!(disk.read("new", 100).unwrap().unwrap(), b"bytes");
            assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
            std::fs::remove_file(&name).unwrap();
        }
        std::fs::create_dir(&name).unwrap();
        disk.write("new", b"bytes").unwrap_err();
    }

    /// hostile C6: before, a lock that was a hard link was emptied.
    #[test]
    fn a_lock_that_is_something_else_stays_as_it_is() {
        let (_place, state, precious) = place();
        let lock = state.join(LOCK_FILE);
        std::fs::hard_link(&precious, &lock).unwrap();
        let error = StateFolder::open(&state).unwrap_err().to_string();
        assert!(error.contains("lock has another name elsewhere"), "{error}");
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        std::fs::remove_file(&lock).unwrap();
        for other in [&(|| symlink(&precious, &lock).unwrap()) as &dyn Fn(), &|| fifo(&lock)] {
            other();
            let error = StateFolder::open(&state).unwrap_err().to_string();
            assert!(error.contains(ERROR), "{error}");
            std::fs::remove_file(&lock).unwrap();
        }
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    /// hostile C4
    #[test]
    fn a_folder_that_everyone_may_write_to_is_not_used() {
        let (_place, state, _) = place();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let error = StateFolder::open(&state).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "state folder {} cannot be used: everyone may write to it; correct that, or set daemon.state_dir",
                state.display()
            )
        );
        assert!(!state.join(LOCK_FILE).exists());
    }
}
