//! A folder that a pod owns, and may change at any time: links in it, hard or symbolic, are not followed, a socket is looked at
//! by the handle by which it is then used, and nobody looks longer than is good.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use culvert_vhost::folder::is_only_name;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A socket in a pod's folder: what it was when it was found, whatever has its name later.
#[derive(Debug)]
pub struct Found {
    /// Where it was found.
    pub path: PathBuf,
    /// The file system's and its own number.
    pub identity: (u64, u64),
    socket: OwnedFd,
}

/// Why a folder cannot be looked into.
#[derive(Debug)]
pub struct FolderError {
    folder: PathBuf,
    errno: Errno,
}

/// Sockets that are found in a folder at most.
pub const MAX_FOUND: usize = 16;
/// Entries of a folder that are looked at.
pub const MAX_ENTRIES: usize = 1024;

/// The sockets in `folder` whose names end in `suffix`, by name. None if there is no such folder.
///
/// # Errors
/// The folder cannot be opened, or there is a link on the way to it.
pub fn sockets(folder: &Path, suffix: &str) -> Result<Vec<Found>, FolderError> {
    let error = |errno| FolderError { folder: folder.to_owned(), errno };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        handle => handle.map_err(error)?,
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&handle).map_err(error)?.take(MAX_ENTRIES) {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_bytes();
        // A name that is no text, or has control characters, is no translator's.
        let is_text = str::from_utf8(name).is_ok_and(|name| !name.contains(char::is_control));
        if is_text && name.ends_with(suffix.as_bytes()) {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort();
    let found = names.into_iter().filter_map(|name| socket(&handle, folder, name).ok());
    Ok(found.take(MAX_FOUND).collect())
}

fn socket(folder: &OwnedFd, shown: &Path, name: OsString) -> io::Result<Found> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat2(folder, &name, flags, Mode::empty(), resolve)?;
    let status = rustix::fs::fstat(&socket)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK.into());
    }
    // A link to a socket elsewhere, maybe another pod's.
    if !is_only_name(&socket)? {
        return Err(Errno::MLINK.into());
    }
    Ok(Found { path: shown.join(name), identity: (status.st_dev, status.st_ino), socket })
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {} cannot be looked into: {}", self.folder.display(), io::Error::from(self.errno))?;
        f.write_str(match self.errno {
            Errno::LOOP => "; name it by a path without links",
            _ => "; correct that, or remove the pod",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn names(folder: &Path) -> Vec<String> {
        let found = sockets(folder, ".ctl").unwrap();
        found.iter().map(|found| found.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn only_sockets_are_found_and_no_link_is_followed() {
        let outside = tempfile::tempdir().unwrap();
        let _outer = UnixListener::bind(outside.path().join("outer.ctl")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(names(&path("missing")).is_empty());
        let _inner = ["b.ctl", "a.ctl", "a.sock", "x\u{7}.ctl"].map(|name| UnixListener::bind(path(name)).unwrap());
        fs::write(path("file.ctl"), "").unwrap();
        fs::create_dir(path("folder.ctl")).unwrap();
        symlink(outside.path().join("outer.ctl"), path("link.ctl")).unwrap();
        symlink("a.ctl", path("near.ctl")).unwrap();
        // hostile C8: before, the translator of another pod was met as this one's.
        fs::hard_link(outside.path().join("outer.ctl"), path("hard.ctl")).unwrap();
        rustix::fs::mknodat(CWD, path("fifo.ctl"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(names(folder.path()), ["a.ctl", "b.ctl"]);
        // A link in the folder's place, or on the way to it.
        symlink(outside.path(), path("away")).unwrap();
        let error = sockets(&path("away"), ".ctl").unwrap_err().to_string();
        assert!(error.contains("Too many levels of symbolic links"), "{error}");
        fs::create_dir(outside.path().join("deep")).unwrap();
        assert!(sockets(&path("away/deep"), ".ctl").is_err());
        assert!(sockets(&path("file.ctl"), ".ctl").is_err());
    }

    /// What is found stays what it was.
    #[test]
    fn a_name_that_is_given_away_later_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ctl");
        let _first = UnixListener::bind(&path).unwrap();
        let found = sockets(folder.path(), ".ctl").unwrap().pop().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let status = rustix::fs::fstat(&found).unwrap();
        assert_eq!(FileType::from_raw_mode(status.st_mode), FileType::Socket);
        assert_eq!((status.st_dev, status.st_ino), found.identity);
    }

    #[test]
    fn a_folder_that_is_full_takes_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let _many: Vec<_> =
            (0..MAX_FOUND + 4).map(|n| UnixListener::bind(folder.path().join(format!("{n}.ctl"))).unwrap()).collect();
        assert_eq!(names(folder.path()).len(), MAX_FOUND);
        (0..2 * MAX_ENTRIES).for_each(|n| fs::write(folder.path().join(format!("f{n}.ctl")), "").unwrap());
        assert!(names(folder.path()).len() <= MAX_FOUND);
    }
}
