//! What is remembered of each attachment between ADD and DEL: a file, written and on the disk before anything is made, and
//! removed when everything is removed. Whatever kills a call, the next DEL or GC finds what there may be.
//!
//! `<stateDir>/<network name>/<container>:<interface>.adding` while ADD works, without `.adding` when it has succeeded. The call
//! that works on an attachment holds the file's lock; it goes with the process. A file that is cut short was never followed by
//! anything.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::environment::AttachmentId;
use crate::error::{Code, Error};
use crate::thing::Thing;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Contents {
    /// The culvertd with which the things are made.
    pub control_socket: PathBuf,
    /// What ADD makes, in its order.
    pub things: Vec<Thing>,
}

/// The records of one of the runtime's networks.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

/// An attachment's record, locked.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    /// What was written down.
    pub contents: Contents,
}

impl Records {
    /// Those of the network called `network`, below the folder of all records.
    pub fn new(state_dir: &Path, network: &str) -> Self {
        Self { folder: state_dir.join(network) }
    }

    /// Writes a new record. Returns it once it is on the disk.
    ///
    /// # Errors
    /// [`Code::TryLater`] when another call has made one meanwhile; [`Code::Io`].
    pub fn create(&self, id: &AttachmentId, contents: Contents) -> Result<Record, Error> {
        let path = self.path(id, true);
        let broken = |error: std::io::Error| Error::io(format!("{} cannot be written", path.display()), error);
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        let mut file = loop {
            fs::create_dir_all(&self.folder).map_err(broken)?;
            match options.open(&path) {
                // The call that removed the last other record has removed the folder.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(busy(id)),
                file => break file.map_err(broken)?,
            }
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| busy(id))?;
        let text = serde_json::to_vec(&contents).map_err(|error| broken(error.into()))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(broken)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(broken)?;
        if file.metadata().map_err(broken)?.nlink() == 0 {
            return Err(busy(id));
        }
        Ok(Record { file, path, contents })
    }

    /// Whether an ADD of this attachment has succeeded.
    pub fn is_complete(&self, id: &AttachmentId) -> bool {
        self.path(id, false).exists()
    }

    /// An attachment's record, complete or not; `None` when there is none. Waits for a call that works on it.
    ///
    /// # Errors
    /// [`Code::TryLater`] when that call takes too long; [`Code::Io`].
    pub fn find(&self, id: &AttachmentId, patience: Duration) -> Result<Option<Record>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            // It may be renamed between two looks.
            for adding in [false, true, false] {
                let path = self.path(id, adding);
                let broken = |error: std::io::Error| Error::io(format!("{} cannot be read", path.display()), error);
                let file = match File::options().read(true).write(true).open(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    file => file.map_err(broken)?,
                };
                loop {
                    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                        Ok(()) => break,
                        Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        Err(Errno::WOULDBLOCK) => return Err(busy(id)),
                        Err(error) => return Err(broken(error.into())),
                    }
                }
                if is_at(&file, &path).map_err(broken)? {
                    return read(file, path).map(Some);
                }
            }
            if !self.path(id, false).exists() && !self.path(id, true).exists() {
                return Ok(None);
            }
        }
    }

    /// All attachments that have a record.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn list(&self) -> Result<Vec<AttachmentId>, Error> {
        let broken = |error: std::io::Error| Error::io(format!("{} cannot be read", self.folder.display()), error);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(broken)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(parse_name(&entry.map_err(broken)?.file_name()));
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    fn path(&self, id: &AttachmentId, adding: bool) -> PathBuf {
        let suffix = if adding { ADDING } else { "" };
        self.folder.join(format!("{}:{}{suffix}", id.container, id.ifname))
    }
}

impl Record {
    /// ADD has succeeded.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn complete(&mut self) -> Result<(), Error> {
        let Some(path) = self.path.to_str().and_then(|path| path.strip_suffix(ADDING)).map(PathBuf::from) else {
            return Ok(());
        };
        let broken = |error: std::io::Error| Error::io(format!("{} cannot be written", path.display()), error);
        fs::rename(&self.path, &path).map_err(broken)?;
        self.path = path;
        Ok(())
    }

    /// Everything is removed: so is the record.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn remove(self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("{} cannot be removed", self.path.display()), error))
            }
            _ => {
                drop(self.file);
                // The network's folder goes with its last record.
                let _ = self.path.parent().map(fs::remove_dir);
                Ok(())
            }
        }
    }
}

fn read(mut file: File, path: PathBuf) -> Result<Record, Error> {
    let mut text = Vec::new();
    let read = file.read_to_end(&mut text);
    read.map_err(|error| Error::io(format!("{} cannot be read", path.display()), error))?;
    let contents = match serde_json::from_slice(&text) {
        Ok(contents) => contents,
        Err(error) => {
            eprintln!("culvert-cni: {} is incomplete: {error}; nothing was made after it", path.display());
            Contents::default()
        }
    };
    Ok(Record { file, path, contents })
}

/// Whether the file at `path` is still this one.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn parse_name(name: &OsStr) -> Option<AttachmentId> {
    let name = name.to_str()?;
    let (container, ifname) = name.strip_suffix(ADDING).unwrap_or(name).split_once(':')?;
    AttachmentId::new(container, ifname).ok()
}

fn busy(id: &AttachmentId) -> Error {
    Error::with(Code::TryLater, format!("another call works on {id}"), "it ends soon")
}

/// Interfaces have names of at most 15 bytes: one that ends so itself is found all the same, by the id in its name.
const ADDING: &str = ".adding";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ifname: &str) -> AttachmentId {
        AttachmentId::new("0f1e2d3c4b5a", ifname).unwrap()
    }

    fn contents() -> Contents {
        let things = vec![
            Thing::Folder { path: "/run/x".into() },
            Thing::Socket { folder: "/run/x".into(), name: "net1.sock".into() },
            Thing::Port { name: "0f1e2d3c4b5a-net1".to_owned() },
        ];
        Contents { control_socket: "/run/culvert/culvertd.sock".into(), things }
    }

    #[test]
    fn a_record_is_found_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path(), "lab-net");
        assert!(records.find(&id("net1"), Duration::ZERO).unwrap().is_none());
        assert_eq!(records.list().unwrap(), []);
        let mut record = records.create(&id("net1"), contents()).unwrap();
        assert!(!records.is_complete(&id("net1")));
        assert_eq!(records.create(&id("net1"), contents()).unwrap_err().code, Code::TryLater);
        assert_eq!(records.find(&id("net1"), Duration::ZERO).unwrap_err().code, Code::TryLater);
        drop(records.create(&id("net2"), Contents::default()).unwrap());
        record.complete().unwrap();
        assert!(records.is_complete(&id("net1")));
        assert_eq!(records.list().unwrap(), [id("net1"), id("net2")]);
        drop(record);
        let found = records.find(&id("net1"), Duration::ZERO).unwrap().unwrap();
        assert_eq!(found.contents, contents());
        found.remove().unwrap();
        records.find(&id("net2"), Duration::ZERO).unwrap().unwrap().remove().unwrap();
        assert!(!folder.path().join("lab-net").exists());
    }

    #[test]
    fn what_a_killed_call_leaves_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path(), "lab-net");
        drop(records.create(&id("net1"), contents()).unwrap());
        let path = folder.path().join("lab-net/0f1e2d3c4b5a:net1.adding");
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            let found = records.find(&id("net1"), Duration::ZERO).unwrap().unwrap();
            assert_eq!(found.contents, Contents::default());
        }
    }
}
