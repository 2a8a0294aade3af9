//! Which devices share a folder, kept over reboots: kubelet remembers its containers' devices and does not ask again, but the
//! folders are in memory (`/run`).
//!
//! A folder in the state folder has, by network, a symbolic link for each device whose folder is another one's: the same
//! link as beside the folders themselves. Nobody but culvertd writes there.

use std::io;
use std::path::{Path, PathBuf};

use super::device_number;
use crate::name::Name;

/// The links on the disk.
#[derive(Debug)]
pub struct Groups {
    path: PathBuf,
}

impl Groups {
    /// Those that are kept in the state folder at `state`.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join("devices") }
    }

    /// Notes that these devices have the folder of the first one, and nothing to do with others any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn note(&self, network: &Name, first: &str, others: &[String]) -> io::Result<()> {
        let folder = self.path.join(network.as_str());
        for id in others.iter().map(String::as_str).chain([first]) {
            match std::fs::remove_file(folder.join(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if !others.is_empty() {
            std::fs::create_dir_all(&folder)?;
        }
        others.iter().try_for_each(|id| std::os::unix::fs::symlink(first, folder.join(id)))
    }

    /// The device whose folder a device has, if that is another one.
    pub fn first_of(&self, network: &Name, id: &str) -> Option<String> {
        let target = std::fs::read_link(self.path.join(network.as_str()).join(id)).ok()?;
        let target = target.to_str()?.to_owned();
        (device_number(&target)? < device_number(id)?).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_kept_until_a_device_is_given_anew() {
        let state = tempfile::tempdir().unwrap();
        let blue = Name::parse("blue").unwrap();
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let groups = Groups::new(state.path());
        groups.note(&blue, "port-0", &[]).unwrap();
        assert_eq!(state.path().read_dir().unwrap().count(), 0);
        groups.note(&blue, "port-1", &ids(&["port-2", "port-10"])).unwrap();
        let first_of = |id: &str| Groups::new(state.path()).first_of(&blue, id);
        assert_eq!(first_of("port-10").as_deref(), Some("port-1"));
        assert_eq!(first_of("port-1"), None);
        groups.note(&blue, "port-2", &ids(&["port-3"])).unwrap();
        assert_eq!((first_of("port-2"), first_of("port-3").as_deref()), (None, Some("port-2")));
        // What culvertd does not write is nothing.
        for target in ["../../etc", "port-9", "port-5", "port-x"] {
            std::os::unix::fs::symlink(target, state.path().join("devices/blue/port-5")).unwrap();
            assert_eq!(first_of("port-5"), None);
            std::fs::remove_file(state.path().join("devices/blue/port-5")).unwrap();
        }
    }
}
