//! The folder of a socket, opened without being led astray.
//!
//! Below a [`Place`]'s root somebody else may swap names at any time. So the root is opened first, then one name after the
//! other by openat2(2) from the folder before, following no link; what comes back is a handle, and all that is done later
//! goes through it. What is made here, or by [`listen`](crate::listen), gets its owner and its label through its handle
//! ([`give`]), never by its path.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::place::Place;

/// Why a folder is not open.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be opened or made.
    #[error("cannot open or create folder {folder}: {errno}; correct `socket` or the folder's permissions")]
    Kernel {
        /// The folder.
        folder: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The root cannot be opened; it is never made.
    #[error("cannot open folder {root}: {errno}; make it, or correct `socket_root`")]
    Root {
        /// The root.
        root: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
    /// There is a link, or a file.
    #[error("{folder} is a link or a file: no link is followed below {root}; remove it, or correct `socket`")]
    NotAFolder {
        /// What is there.
        folder: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// The socket's path leads nowhere below its root.
    #[error("{path} is not below {root}; correct `socket` or `socket_root`")]
    Outside {
        /// The socket.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// A folder was made that cannot be given away.
    #[error("{folder} was made, but {error}")]
    Given {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        error: GiveError,
    },
}

/// Why something keeps its owner or label.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// The owner.
    #[error("cannot be given to {owner}: {errno}; give culvertd CAP_CHOWN, or correct `owner`")]
    Owner {
        /// The owner that it was to have.
        owner: crate::place::Owner,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The label.
    #[error("cannot be labelled {label}: {errno}; correct `label`, or remove it where there is no SELinux")]
    Label {
        /// The label that it was to have.
        label: String,
        /// The kernel's reason.
        errno: Errno,
    },
}

impl FolderError {
    /// Whether a folder is missing, which may come yet.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::NOENT, .. } | Self::Root { errno: Errno::NOENT, .. })
    }
}

/// Opens the folder of a socket.
///
/// # Errors
/// Any [`FolderError`].
pub fn open(place: &Place) -> Result<OwnedFd, FolderError> {
    walk(place, false)
}

/// Opens the folder of a socket, and makes what is missing of it, but never the root.
///
/// # Errors
/// Any [`FolderError`].
pub fn make(place: &Place) -> Result<OwnedFd, FolderError> {
    walk(place, true)
}

fn walk(place: &Place, make: bool) -> Result<OwnedFd, FolderError> {
    let folder = place.path.parent().unwrap_or(&place.path);
    match &place.root {
        None => trusted(folder, make),
        Some(root) => beneath(place, root, folder, make),
    }
}

/// Follows links, as for any other path. What is made stays ours: whoever could write to it could lead us astray.
fn trusted(folder: &Path, make: bool) -> Result<OwnedFd, FolderError> {
    // The parent of a bare file name is the empty path.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |errno| FolderError::Kernel { folder: folder.to_owned(), errno };
    match (rustix::fs::open(folder, FOLDER, Mode::empty()), folder.parent()) {
        (Err(Errno::NOENT), Some(parent)) if make => {
            let parent = trusted(parent, make)?;
            let Some(name) = folder.file_name() else { return Err(failed(Errno::NOENT)) };
            make_one(&parent, Path::new(name)).map_err(failed)?;
            rustix::fs::openat(&parent, name, FOLDER, Mode::empty()).map_err(failed)
        }
        (opened, _) => opened.map_err(failed),
    }
}

fn beneath(place: &Place, root: &Path, folder: &Path, make: bool) -> Result<OwnedFd, FolderError> {
    let outside = |_| FolderError::Outside { path: place.path.clone(), root: root.to_owned() };
    let below = folder.strip_prefix(root).map_err(outside)?;
    let open_root = rustix::fs::open(root, FOLDER | OFlags::NOFOLLOW, Mode::empty());
    let mut opened = open_root.map_err(|errno| FolderError::Root { root: root.to_owned(), errno })?;
    let mut path = root.to_owned();
    for name in below {
        path.push(name);
        let failed = |errno| match errno {
            Errno::LOOP | Errno::NOTDIR => FolderError::NotAFolder { folder: path.clone(), root: root.to_owned() },
            errno => FolderError::Kernel { folder: path.clone(), errno },
        };
        let name = Path::new(name);
        opened = match open_beneath(&opened, name, FOLDER) {
            Err(Errno::NOENT) if make => {
                let made = make_one(&opened, name).map_err(failed)?;
                given(place, &path, made, open_beneath(&opened, name, FOLDER).map_err(failed)?)?
            }
            found => found.map_err(failed)?,
        };
    }
    Ok(opened)
}

/// Opens a name in a folder without leaving it.
pub fn open_beneath(folder: &OwnedFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(folder, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Whether we made the folder; somebody else may have been faster.
fn make_one(parent: &OwnedFd, name: &Path) -> Result<bool, Errno> {
    match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives away a folder that we made, unless what was opened is another one.
fn given(place: &Place, folder: &Path, made: bool, opened: OwnedFd) -> Result<OwnedFd, FolderError> {
    if made && is_ours(&opened) {
        give(&opened, place).map_err(|error| FolderError::Given { folder: folder.to_owned(), error })?;
    }
    Ok(opened)
}

fn is_ours(opened: &OwnedFd) -> bool {
    rustix::fs::fstat(opened).is_ok_and(|status| status.st_uid == rustix::process::geteuid().as_raw())
}

/// Gives what a handle refers to the label and the owner of a place.
///
/// # Errors
/// Any [`GiveError`].
pub fn give(handle: &OwnedFd, place: &Place) -> Result<(), GiveError> {
    if let Some(label) = &place.label {
        let set = rustix::fs::setxattr(own_link(handle), LABEL, label.as_bytes(), XattrFlags::empty());
        set.map_err(|errno| GiveError::Label { label: label.clone(), errno })?;
    }
    if let Some(owner) = place.owner {
        let (user, group) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        let set = rustix::fs::chownat(handle, "", Some(user), Some(group), AtFlags::EMPTY_PATH);
        set.map_err(|errno| GiveError::Owner { owner, errno })?;
    }
    Ok(())
}

/// Whether what was opened by a name has no name elsewhere. A hard link that was removed since it was opened leaves one name, and
/// not that one: so the count is read first, and then whether the name that was opened is still there.
///
/// # Errors
/// The kernel's reason.
pub fn is_only_name(handle: &OwnedFd) -> Result<bool, Errno> {
    if rustix::fs::fstat(handle)?.st_nlink != 1 {
        return Ok(false);
    }
    // The kernel writes it behind a name that is gone, see proc_pid_fd(5); who uses it as a name himself is refused for nothing.
    Ok(!rustix::fs::readlink(own_link(handle), Vec::new())?.to_bytes().ends_with(b" (deleted)"))
}

/// The kernel's name for what one of our descriptors refers to.
pub fn own_link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Handles of folders.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Of folders that we make: their owner writes, all may enter.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// The extended attribute that SELinux keeps labels in.
const LABEL: &str = "security.selinux";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// hostile C6: before, a hard link that was removed between opening and counting led to a socket outside.
    #[test]
    fn a_hard_link_that_is_gone_is_not_the_only_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let _listener = UnixListener::bind(path("outside")).unwrap();
        let opened = |name: &str| rustix::fs::open(path(name), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        assert!(is_only_name(&opened("outside")).unwrap());
        std::fs::hard_link(path("outside"), path("link")).unwrap();
        let link = opened("link");
        assert!(!is_only_name(&link).unwrap());
        std::fs::remove_file(path("link")).unwrap();
        assert!(!is_only_name(&link).unwrap());
        // A name that was renamed is another, and the only one.
        let renamed = opened("outside");
        std::fs::rename(path("outside"), path("renamed")).unwrap();
        assert!(is_only_name(&renamed).unwrap());
    }
}
