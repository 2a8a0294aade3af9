//! Folders that belong to pods: everything inside of them is hostile. A [`Folder`] is a handle; what is in it is reached through
//! the handle, by one name at a time, and never through a link.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

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

    /// Removes the socket `name` when nobody listens on it. What is no socket is left alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_stale_socket(&self, name: &OsStr) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Socket {
            return Ok(());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // What was found is what is asked, however names change meanwhile.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        match rustix::net::connect(&socket, &address) {
            Err(Errno::CONNREFUSED) => rustix::fs::unlinkat(&self.0, name, AtFlags::empty()),
            _ => Ok(()),
        }
    }

    /// Removes the file `name`. What is no file is left alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_file(&self, name: &OsStr) -> Result<(), Errno> {
        match self.kind(name)? {
            FileType::RegularFile => rustix::fs::unlinkat(&self.0, name, AtFlags::empty()),
            _ => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    #[test]
    fn links_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::create_dir_all(place.join("pod/inner")).unwrap();
        symlink("pod", place.join("link")).unwrap();
        symlink("/", place.join("pod/out")).unwrap();
        assert!(Folder::open(&place.join("pod")).is_ok());
        assert_eq!(Folder::open(&place.join("link")).unwrap_err(), Errno::LOOP);
        let pod = Folder::open(&place.join("pod")).unwrap();
        assert!(pod.below(Path::new("inner")).is_ok());
        assert_eq!(pod.below(Path::new("out")).unwrap_err(), Errno::LOOP);
        assert_eq!(pod.below(Path::new("inner/../..")).unwrap_err(), Errno::XDEV);
        assert_eq!(pod.make(Path::new("out"), 0o777, Owner::QEMU, None).unwrap_err(), Errno::LOOP);
        let own = fs::metadata(&place).unwrap();
        let owner = Owner { uid: own.uid(), gid: own.gid() };
        pod.make(Path::new("made"), 0o750, owner, None).unwrap();
        assert_eq!(fs::metadata(place.join("pod/made")).unwrap().mode() & 0o7777, 0o750);
    }

    #[test]
    fn only_what_is_stale_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().canonicalize().unwrap().join(name);
        let listening = UnixListener::bind(path("listening")).unwrap();
        drop(UnixListener::bind(path("stale")).unwrap());
        drop(UnixListener::bind(path("other")).unwrap());
        symlink("other", path("link")).unwrap();
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("folder")).unwrap();
        let folder = Folder::open(&path("")).unwrap();
        for name in ["listening", "stale", "link", "file", "folder"] {
            assert_eq!(folder.remove_stale_socket(OsStr::new(name)), Ok(()), "{name}");
        }
        assert_eq!(folder.remove_stale_socket(OsStr::new("missing")), Err(Errno::NOENT));
        assert!(!path("stale").exists());
        for name in ["stale", "other", "link", "file", "folder"] {
            let _ = folder.remove_file(OsStr::new(name));
        }
        let mut left: Vec<_> = fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["folder", "link", "listening", "other"]);
        drop(listening);
    }
}
