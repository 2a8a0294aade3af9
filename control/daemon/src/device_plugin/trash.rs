//! The removal of folders that containers owned, whatever is in them: links, devices, a million files, folders in folders
//! in folders, and somebody who goes on making more.
//!
//! Nothing is followed and no path has more than one part: each directory is opened by its name in another one that is
//! open. A directory in a directory is moved up into the trash before it is looked at, so that neither paths nor open
//! descriptors grow with the depth. A thread of its own does it; kubelet does not wait.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::folders::open_beneath;

/// Removes what is in the folder at each wish, until there can be no more wishes.
pub(super) fn sweep_at(trash: &Path, wishes: &Receiver<()>) {
    while wishes.recv().is_ok() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let swept = match rustix::fs::open(trash, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(folder) => sweep(&folder, MAX_REMOVED),
        };
        if let Err(error) = swept {
            tracing::warn!("old folders stay in {}: {error}; they are tried again", trash.display());
        }
    }
}

/// Moves a directory of another folder into the trash, under a name of its own.
///
/// # Errors
/// The kernel's.
pub(super) fn move_in(folder: BorrowedFd<'_>, name: &Path, trash: BorrowedFd<'_>) -> io::Result<PathBuf> {
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let new = PathBuf::from(format!("{}-{number}", std::process::id()));
        match rustix::fs::renameat_with(folder, name, trash, &new, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(new),
            // Of an earlier process of our number.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes what is in the trash, at most `most` names.
///
/// # Errors
/// The first one of the kernel's; what can be removed is.
pub fn sweep(trash: &OwnedFd, most: usize) -> io::Result<()> {
    let mut waiting: Vec<PathBuf> = names(trash.as_fd(), most)?;
    let (mut left, mut outcome) = (most, Ok(()));
    while let Some(name) = waiting.pop() {
        if left == 0 {
            return Err(io::Error::other(format!("there are more than {most} names in them")));
        }
        if let Err(error) = remove(trash.as_fd(), &name, &mut waiting, &mut left) {
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

/// Removes one name from the trash; directories in it are moved up, and wait.
fn remove(trash: BorrowedFd<'_>, name: &Path, waiting: &mut Vec<PathBuf>, left: &mut usize) -> io::Result<()> {
    if unlink(trash, name, left)? {
        return Ok(());
    }
    let folder = open_beneath(trash, name)?;
    // Again when somebody has made more meanwhile, as long as there is anything.
    loop {
        let names = names(folder.as_fd(), *left)?;
        for inner in &names {
            if !unlink(folder.as_fd(), inner, left)? {
                waiting.push(move_in(folder.as_fd(), inner, trash)?);
            }
        }
        match rustix::fs::unlinkat(trash, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if *left > 0 && !names.is_empty() => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes a name unless it is a directory's; whether it is gone.
fn unlink(folder: BorrowedFd<'_>, name: &Path, left: &mut usize) -> io::Result<bool> {
    *left = left.saturating_sub(1);
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The names in a folder, `most` of them.
fn names(folder: BorrowedFd<'_>, most: usize) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(OsStr::from_bytes(&name)));
        }
        if names.len() >= most {
            break;
        }
    }
    Ok(names)
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Names that are removed at a time; what is more waits for the next time.
const MAX_REMOVED: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (trash, outside) = (place.path().join("trash"), place.path().join("outside"));
        for folder in [&trash, &outside, &trash.join("a"), &trash.join("a/b")] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(outside.join("file"), "precious").unwrap();
        for link in ["top", "a/link", "a/b/link"] {
            symlink(&outside, trash.join(link)).unwrap();
        }
        std::fs::hard_link(outside.join("file"), trash.join("a/hard")).unwrap();
        sweep(&open(&trash), 100).unwrap();
        assert_eq!(trash.read_dir().unwrap().count(), 0);
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"precious");
    }

    #[test]
    fn depth_costs_neither_descriptors_nor_paths() {
        let place = tempfile::tempdir().unwrap();
        let trash = open(place.path());
        let mut inner = trash.try_clone().unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&inner, "d", Mode::RWXU).unwrap();
            inner = rustix::fs::openat(&inner, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        sweep(&trash, 10_000).unwrap();
        assert_eq!(place.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn no_sweep_takes_for_ever() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..50 {
            std::fs::create_dir_all(place.path().join(format!("a/{number}/b"))).unwrap();
        }
        let trash = open(place.path());
        assert!(sweep(&trash, 20).unwrap_err().to_string().contains("more than 20 names"));
        let sweeps = (1..).find(|_| sweep(&trash, 20).is_ok()).unwrap();
        assert!(sweeps > 1);
        assert_eq!(place.path().read_dir().unwrap().count(), 0);
    }
}
