//! The folders that containers get: `<device_folder>/<network>/<device>`, one directory for each container. When one
//! container gets several devices of a network, it has the folder of the first one, and the others' names are symbolic
//! links to that, so that whoever knows any of its devices finds the folder.
//!
//! A container owns its folder and is hostile: what it leaves there is never opened by name and never given to the next
//! container. The whole directory is moved away, removed later ([`trash`](super::trash)), and a new one takes its place. A
//! container that still lives keeps the old one. All around these directories belongs to root alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use culvert_vhost::Owner;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::groups::Groups;
use super::{device_id, trash};
use crate::config::Devices;
use crate::name::Name;

/// The folders of all networks.
#[derive(Debug)]
pub struct Folders {
    path: PathBuf,
    owner: Owner,
    label: Option<String>,
    groups: Groups,
    sweep: SyncSender<()>,
}

impl Folders {
    /// Starts the thread that removes what was moved away. It ends when the folders are dropped. `state` is the folder for
    /// what must survive a reboot.
    ///
    /// # Errors
    /// The kernel's, when there can be no further thread.
    pub fn start(devices: &Devices, state: &Path) -> io::Result<(Self, JoinHandle<()>)> {
        // One wish that waits is as good as many.
        let (sweep, wishes) = std::sync::mpsc::sync_channel(1);
        let path = devices.device_folder.clone();
        let trash = path.join(TRASH);
        let sweeper = std::thread::Builder::new().name("device-trash".to_owned());
        let sweeper = sweeper.spawn(move || trash::sweep_at(&trash, &wishes))?;
        let label = devices.device_label.clone();
        let folders = Self { path, owner: devices.device_owner, label, groups: Groups::new(state), sweep };
        // What an earlier culvertd left.
        folders.wish_sweep();
        Ok((folders, sweeper))
    }

    /// Makes the folders of a network's first `count` devices that are not there, and links as they were: after a reboot
    /// kubelet starts containers with the folders that it was told before.
    ///
    /// # Errors
    /// What cannot be used, and the kernel's reason.
    pub fn prepare(&self, network: &Name, count: u32) -> io::Result<()> {
        let places = self.open(network)?;
        for id in (0..count).map(device_id) {
            if file_type(&places.network, &id)?.is_some() {
                continue;
            }
            match self.groups.first_of(network, &id) {
                None => self.make(&places, &id)?,
                Some(first) => rustix::fs::symlinkat(first, &places.network, &id)?,
            }
        }
        Ok(())
    }

    /// Makes the folder of a container that gets these devices, in ascending order; what an earlier container left is gone.
    ///
    /// # Errors
    /// What cannot be used, and the kernel's reason.
    pub fn allocate(&self, network: &Name, devices: &[u32]) -> io::Result<PathBuf> {
        let Some((first, others)) = devices.split_first() else { return Err(Errno::INVAL.into()) };
        let places = self.open(network)?;
        let first = device_id(*first);
        let others: Vec<_> = others.iter().copied().map(device_id).collect();
        if let Err(error) = self.groups.note(network, &first, &others) {
            tracing::warn!(
                "after a reboot {first} of network {network} may have another folder: {error}; see daemon.state_dir"
            );
        }
        for id in others.iter().chain([&first]) {
            self.discard(&places, id)?;
        }
        self.make(&places, &first)?;
        for id in &others {
            rustix::fs::symlinkat(&first, &places.network, id)?;
        }
        self.wish_sweep();
        Ok(self.path.join(network.as_str()).join(first))
    }

    /// Opens the folder of a network and the trash, which are made if need be.
    fn open(&self, network: &Name) -> io::Result<Places> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        let root = open_root(&self.path).map_err(named)?;
        let network = open_or_make(&root, Path::new(network.as_str()), 0o755).map_err(named)?;
        let trash = open_or_make(&root, Path::new(TRASH), 0o700).map_err(named)?;
        Ok(Places { network, trash })
    }

    /// Takes away what has a device's name.
    fn discard(&self, places: &Places, id: &str) -> io::Result<()> {
        match file_type(&places.network, id)? {
            None => {}
            Some(FileType::Directory) => {
                trash::move_in(places.network.as_fd(), Path::new(id), places.trash.as_fd())?;
            }
            Some(_) => rustix::fs::unlinkat(&places.network, id, AtFlags::empty())?,
        }
        Ok(())
    }

    /// Makes a new directory, whose name appears when it has its owner, mode and label.
    fn make(&self, places: &Places, id: &str) -> io::Result<()> {
        // One that was left behind when culvertd was killed in here goes away like any other.
        let new_name = format!(".{id}");
        self.discard(places, &new_name)?;
        rustix::fs::mkdirat(&places.network, &new_name, Mode::from_raw_mode(0o700))?;
        let folder = open_beneath(places.network.as_fd(), Path::new(&new_name))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o750))?;
        if let Some(label) = &self.label {
            let set = rustix::fs::fsetxattr(&folder, "security.selinux", label.as_bytes(), XattrFlags::empty());
            set.map_err(|errno| {
                let sentence = format!("the label {label} cannot be set: {errno}; correct daemon.device_label");
                io::Error::other(sentence)
            })?;
        }
        let Owner { uid, gid } = self.owner;
        rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(|errno| {
            let owner = self.owner;
            let sentence = format!("the owner {owner} cannot be set: {errno}; correct daemon.device_owner");
            io::Error::other(sentence)
        })?;
        Ok(rustix::fs::renameat_with(&places.network, &new_name, &places.network, id, RenameFlags::NOREPLACE)?)
    }

    fn wish_sweep(&self) {
        // A full channel: it is about to be done.
        let _ = self.sweep.try_send(());
    }
}

/// Where a network's folders are, and where old ones go. Both are root's.
struct Places {
    network: OwnedFd,
    trash: OwnedFd,
}

/// Opens the folder of all, which is made when there is none. Nobody but root or ourselves may have a say in it.
fn open_root(path: &Path) -> io::Result<OwnedFd> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let root = rustix::fs::open(path, FOLDER_FLAGS, Mode::empty())?;
    check_owner(root.as_fd())?;
    Ok(root)
}

/// Opens a folder in another one, which is made with `mode` when there is none.
fn open_or_make(parent: &OwnedFd, name: &Path, mode: u32) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let folder = open_beneath(parent.as_fd(), name)?;
    check_owner(folder.as_fd())?;
    Ok(folder)
}

/// Refuses a folder in which others may change names.
fn check_owner(folder: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    let (user, mode) = (stat.st_uid, Mode::from_raw_mode(stat.st_mode));
    let own = user == 0 || user == rustix::process::geteuid().as_raw();
    if own && !mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Ok(());
    }
    Err(io::Error::other("others than root may write to it; correct that, or set daemon.device_folder"))
}

/// Opens a directory in another one by its name, and nothing else of that name.
pub(super) fn open_beneath(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(parent, name, FOLDER_FLAGS, Mode::empty(), resolve)?)
}

/// What has a name; `None` when nothing has.
fn file_type(folder: &OwnedFd, name: &str) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Where old folders go, beside those of the networks: no network has such a name.
const TRASH: &str = ".trash";
const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Folders in a folder of the test's own, which belong to whoever runs it.
    fn folders() -> (tempfile::TempDir, Folders, JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let device_folder = folder.path().join("devices");
        let devices = Devices { device_folder, device_owner: owner, ..Devices::default() };
        let (folders, sweeper) = Folders::start(&devices, &folder.path().join("state")).unwrap();
        (folder, folders, sweeper)
    }

    fn blue() -> Name {
        Name::parse("blue").unwrap()
    }

    #[test]
    fn each_device_has_a_folder_before_anybody_asks() {
        let (place, folders, _) = folders();
        let network = place.path().join("devices/blue");
        folders.prepare(&blue(), 3).unwrap();
        for id in ["port-0", "port-1", "port-2"] {
            let meta = network.join(id).symlink_metadata().unwrap();
            assert!(meta.is_dir());
            assert_eq!(meta.permissions().mode() & 0o7777, 0o750);
        }
        // Those that are there stay, links too.
        folders.allocate(&blue(), &[1, 2]).unwrap();
        std::fs::write(network.join("port-1/a.sock"), "").unwrap();
        folders.prepare(&blue(), 4).unwrap();
        assert!(network.join("port-2/a.sock").exists());
        assert_eq!(std::fs::read_link(network.join("port-2")).unwrap(), Path::new("port-1"));
        assert!(network.join("port-3").is_dir());
        // After a reboot, too.
        std::fs::remove_dir_all(&network).unwrap();
        folders.prepare(&blue(), 4).unwrap();
        assert_eq!(std::fs::read_link(network.join("port-2")).unwrap(), Path::new("port-1"));
        assert!(["port-0", "port-1", "port-3"].iter().all(|id| network.join(id).symlink_metadata().unwrap().is_dir()));
    }

    #[test]
    fn a_container_gets_a_new_folder() {
        let (place, folders, sweeper) = folders();
        let network = place.path().join("devices/blue");
        let given = folders.allocate(&blue(), &[0]).unwrap();
        assert_eq!(given, network.join("port-0"));
        let before = std::fs::File::open(&given).unwrap();
        std::fs::create_dir(given.join("left")).unwrap();
        assert_eq!(folders.allocate(&blue(), &[0]).unwrap(), given);
        assert_ne!(before.metadata().unwrap().ino(), given.metadata().unwrap().ino());
        assert_eq!(given.read_dir().unwrap().count(), 0);
        // Two that were one container's become two containers'.
        folders.allocate(&blue(), &[0, 1]).unwrap();
        folders.allocate(&blue(), &[1]).unwrap();
        assert!(network.join("port-1").symlink_metadata().unwrap().is_dir());
        drop(folders);
        sweeper.join().unwrap();
        assert_eq!(place.path().join("devices/.trash").read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_by_a_killed_one_is_no_obstacle() {
        let (place, folders, _) = folders();
        let half = place.path().join("devices/blue/.port-0");
        std::fs::create_dir_all(&half).unwrap();
        folders.allocate(&blue(), &[0]).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn other_things_in_the_way_are_told() {
        let (place, folders, _) = folders();
        std::fs::create_dir(place.path().join("devices")).unwrap();
        std::fs::create_dir(place.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", place.path().join("devices/blue")).unwrap();
        folders.allocate(&blue(), &[0]).unwrap_err();
        assert_eq!(place.path().join("elsewhere").read_dir().unwrap().count(), 0);
        std::fs::set_permissions(place.path().join("devices"), std::fs::Permissions::from_mode(0o775)).unwrap();
        let error = folders.prepare(&blue(), 1).unwrap_err().to_string();
        assert!(
            error.ends_with("devices: others than root may write to it; correct that, or set daemon.device_folder")
        );
    }
}
