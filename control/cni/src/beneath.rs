//! Folders that belong to pods: everything inside of them is hostile. A [`Folder`] is a handle; what is in it is reached through
//! the handle, by one name at a time, and never through a link.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::config::settings::Owner;

/// A folder, wherever its path leads meanwhile.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens the folder at an absolute path that has no link in it.
    ///
    /// # Errors
    /// The kernel's: LOOP for a link, NOTDIR for what is no folder.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        rustix::fs::openat2(CWD, path, FLAGS, Mode::empty(), ResolveFlags::NO_SYMLINKS).map(Self)
    }

    /// Opens a folder below this one; nothing on the way may be a link or lead out.
    ///
    /// # Errors
    /// The kernel's: LOOP for a link, XDEV for a way out.
    pub fn below(&self, path: &Path) -> Result<Self, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.0, path, FLAGS, Mode::empty(), resolve).map(Self)
    }

    /// Opens the folder `name` in this one, which is made if it is missing: with `mode`, of `owner`, labelled.
    ///
    /// # Errors
    /// The kernel's. One that was there stays as it is.
    pub fn make(&self, name: &Path, mode: u32, owner: Owner, label: Option<&str>) -> Result<Self, Errno> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Err(Errno::EXIST) => return self.below(name),
            made => made?,
        }
        let folder = self.below(name)?;
        // For what follows a handle that can be read is needed.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let handle = rustix::fs::openat(&folder.0, ".", flags, Mode::empty())?;
        if let Some(label) = label {
            rustix::fs::fsetxattr(&handle, LABEL, label.as_bytes(), rustix::fs::XattrFlags::empty())?;
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
        rustix::fs::fchown(&handle, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode))?;
        Ok(folder)
    }

    /// What is at `name`; a link is a link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kind(&self, name: &OsStr) -> Result<FileType, Errno> {
        let status = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(status.st_mode))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Where the kernel keeps SELinux' label of a file.
const LABEL: &str = "security.selinux";
