//! The state folder as the journal needs it, and the lock that keeps it one daemon's own.
//!
//! All names are used through a descriptor of the folder, so that what was checked at the start is what is used.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
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
    _lock: OwnedFd,
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
        let kernel = |error: io::Error| StateFolderError::Kernel { path: path.to_owned(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(kernel)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| kernel(errno.into()))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&folder, LOCK_FILE, flags, FILE_MODE).map_err(|errno| kernel(errno.into()))?;
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
        let _ = rustix::fs::ftruncate(&lock, 0);
        let _ = rustix::io::pwrite(&lock, std::process::id().to_string().as_bytes(), 0);
        Ok(Self { folder, _lock: lock })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, name, flags, FILE_MODE)?)
    }
}

impl Disk for StateFolder {
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => std::fs::File::from(other?),
        };
        let mut bytes = Vec::new();
        file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        std::fs::File::from(file).write_all(bytes)
    }

    fn flush(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.open_file(name, OFlags::WRONLY)?)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn flush_folder(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }
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
