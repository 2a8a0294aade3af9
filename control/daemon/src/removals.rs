//! What culvert-cni left to be removed while there was no culvertd: one empty file for each port or pod, called as it, in the
//! folder `removals` of the state folder.
//!
//! Read once, by `node::live` at its start: after the control socket is bound, so that a plugin that could not connect
//! before has left its file already, and before it is served, so that a file is never about something that was added
//! after it. What the files contain does not matter. Files with other names are left alone.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::config::{Kind, Objects};
use crate::name::Name;

/// What is to be removed.
#[derive(Debug, Default)]
pub struct Removals {
    folder: Option<OwnedFd>,
    names: Vec<Name>,
}

/// The folder's name in the state folder.
pub const FOLDER: &str = "removals";

impl Removals {
    /// Reads the folder in `state_dir`. That there is none, as before the first one is left, is nothing to talk of.
    pub fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FOLDER);
        match open(&path) {
            Ok(removals) => removals,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!("{} cannot be read: {error}; ports of pods that are gone may stay", path.display());
                Self::default()
            }
        }
    }

    /// Takes the ports and pods of clients out of `objects`. Whether there were any.
    pub fn take_out_of(&self, objects: &mut Objects) -> bool {
        let mut any = false;
        for name in &self.names {
            for kind in [Kind::Port, Kind::Pod] {
                if objects.remove_of_clients(kind, name) {
                    tracing::info!("{kind} {name} is removed, as culvert-cni has asked while culvertd was away");
                    any = true;
                }
            }
        }
        any
    }

    /// Deletes the files: what they ask for is done, and on the disk.
    pub fn finish(self) {
        let Some(folder) = self.folder else { return };
        for name in self.names {
            match rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => tracing::warn!("removals/{name} cannot be deleted: {error}; delete it"),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Removals> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        match name_of(&folder, entry.file_name()) {
            Some(name) if names.len() < MAX_FILES => names.push(name),
            Some(_) => {
                tracing::warn!("{} has more than {MAX_FILES} files; the others wait", path.display());
                break;
            }
            None => {
                let name = entry.file_name().to_string_lossy();
                tracing::warn!("{} has no business in {}; remove it", name.escape_debug(), path.display());
            }
        }
    }
    Ok(Removals { folder: Some(folder), names })
}

/// The object that a file stands for.
fn name_of(folder: &OwnedFd, file: &CStr) -> Option<Name> {
    let name = Name::parse(file.to_str().ok()?).ok()?;
    let status = rustix::fs::statat(folder, file, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(status.st_mode) == FileType::RegularFile).then_some(name)
}

/// More than a node can have ports.
const MAX_FILES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_objects;

    #[test]
    fn what_was_left_is_taken_out_and_deleted() {
        let state = tempfile::tempdir().unwrap();
        let text = "[[network]]\nname = \"n\"\n[[port]]\nname = \"a-eth0\"\nnetwork = \"n\"\nsocket = \"/a\"\n[[port]]\nname \
                    = \"b\"\nnetwork = \"n\"\nsocket = \"/b\"\n[[pod]]\nname = \"a-eth0\"\nfolders = [\"/f\"]\n";
        let mut objects = read_objects(text).unwrap();
        assert!(!Removals::read(state.path()).take_out_of(&mut objects));

        let folder = state.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a-eth0"), "").unwrap();
        std::fs::write(folder.join("gone"), "whatever").unwrap();
        // None of these is a wish.
        std::fs::write(folder.join("B"), "").unwrap();
        std::fs::write(folder.join("\u{1b}[2J"), "").unwrap();
        std::fs::create_dir(folder.join("b")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("n")).unwrap();
        let removals = Removals::read(state.path());
        assert!(removals.take_out_of(&mut objects));
        assert!(!removals.take_out_of(&mut objects));
        assert_eq!((objects.networks.len(), objects.ports.len(), objects.pods.len()), (1, 1, 0));
        assert_eq!(objects.ports[0].wanted.name.as_str(), "b");
        removals.finish();
        let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["\u{1b}[2J", "B", "b", "n"]);
    }

    #[test]
    fn what_is_the_files_stays() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join(FOLDER)).unwrap();
        std::fs::write(state.path().join(FOLDER).join("a"), "").unwrap();
        let mut objects = read_objects("[[pod]]\nname = \"a\"\nfolders = [\"/f\"]\n").unwrap();
        objects.pods[0].origin = crate::config::Origin::File { line: 1 };
        let removals = Removals::read(state.path());
        assert!(!removals.take_out_of(&mut objects));
        assert_eq!(objects.pods.len(), 1);
    }

    #[test]
    fn a_folder_that_is_none_is_no_obstacle() {
        let state = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", state.path().join(FOLDER)).unwrap();
        assert!(Removals::read(state.path()).names.is_empty());
        std::fs::remove_file(state.path().join(FOLDER)).unwrap();
        std::fs::write(state.path().join(FOLDER), "").unwrap();
        assert!(Removals::read(state.path()).names.is_empty());
    }
}
