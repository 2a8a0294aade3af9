//! What an ADD makes, as a list that is written down before anything of it is made. Undoing a failed ADD, DEL and GC all do the
//! same: remove the things of a list, last ones first. A thing that is not there is removed already.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::beneath::Folder;
use crate::config::settings::Places;
use crate::daemon::Daemon;
use crate::error::{Code, Error};

/// One thing that an ADD makes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Thing {
    /// A port in culvertd.
    Port {
        /// Its name.
        name: String,
    },
    /// A pod's registration in culvertd.
    Pod {
        /// Its name.
        name: String,
    },
    /// A network in culvertd that is made when it is missing, and goes with its last port.
    Network {
        /// Its name.
        name: String,
    },
    /// An interface, of a container or (without a namespace) of the node.
    Link {
        /// The container's namespace.
        namespace: Option<PathBuf>,
        /// Its name.
        name: String,
        /// The text by which it is known as ours.
        alias: String,
    },
    /// A file of the node's.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A guest's socket, in a folder where somebody else may write: culvertd's, or QEMU's that culvertd connects to.
    Socket {
        /// The folder.
        folder: PathBuf,
        /// Its name there.
        name: OsString,
    },
    /// A file for the container's application, in such a folder.
    Data {
        /// The folder.
        folder: PathBuf,
        /// Its name there.
        name: OsString,
    },
    /// A folder, which is kept as long as something is in it.
    Folder {
        /// Its path.
        path: PathBuf,
    },
}

/// Removes things.
pub struct Remover<'a> {
    places: &'a Places,
    control_socket: &'a Path,
    /// Asked for when the first thing needs it.
    daemon: Option<Result<Daemon, Error>>,
}

impl<'a> Remover<'a> {
    /// Removes what was made with the culvertd at `control_socket`.
    pub fn new(places: &'a Places, control_socket: &'a Path) -> Self {
        Self { places, control_socket, daemon: None }
    }

    /// Removes them all, last ones first; what cannot be removed does not keep the others. Returns why some remain. A port or
    /// pod of a culvertd that does not answer does not remain: it is removed when culvertd comes back.
    pub fn remove(&mut self, things: &[Thing]) -> Vec<Error> {
        things.iter().rev().filter_map(|thing| self.remove_one(thing).err()).collect()
    }

    fn remove_one(&mut self, thing: &Thing) -> Result<(), Error> {
        match thing {
            Thing::Port { name } => self.ask_or_leave(name, |daemon| daemon.remove_port(name)),
            Thing::Pod { name } => self.ask_or_leave(name, |daemon| daemon.remove_pod(name)),
            Thing::Network { name } => self.remove_network(name),
            Thing::Link { namespace, name, alias } => crate::link::remove(namespace.as_deref(), name, alias),
            Thing::File { path } => match fs::remove_file(path) {
                Err(error) if !is_absence(&error) => Err(Error::io(shown(path), error)),
                _ => Ok(()),
            },
            Thing::Socket { folder, name } => remove_beneath(folder, name, Folder::remove_stale_socket),
            Thing::Data { folder, name } => remove_beneath(folder, name, Folder::remove_file),
            Thing::Folder { path } => match rustix::fs::rmdir(path) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(()),
                Err(error) => Err(Error::io(shown(path), error)),
            },
        }
    }

    /// Culvertd's part; left to the next culvertd when there is none.
    fn ask_or_leave(&mut self, name: &str, ask: impl Fn(&Daemon) -> Result<(), Error>) -> Result<(), Error> {
        let refused = match self.daemon().and_then(&ask) {
            Err(error) if error.code == Code::TryLater => error,
            result => return result,
        };
        let path = self.places.removals_dir.join(name);
        leave(&path).map_err(|error| Error::io(format!("{} cannot be written ({refused})", path.display()), error))?;
        // One that has come meanwhile has read the folder before.
        match Daemon::connect(self.control_socket).and_then(|daemon| ask(&daemon)) {
            Ok(()) => match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(shown(&path), error)),
                _ => Ok(()),
            },
            Err(_) => {
                eprintln!("culvert-cni: {name} is removed when culvertd is back: {refused}");
                Ok(())
            }
        }
    }

    /// Best effort: a network without ports does no harm, and GC tries again.
    fn remove_network(&mut self, name: &str) -> Result<(), Error> {
        let mark = network_mark(self.places, name);
        if !mark.exists() {
            return Ok(());
        }
        match self.daemon().and_then(|daemon| daemon.remove_network(name)) {
            Ok(true) => match fs::remove_file(&mark) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(shown(&mark), error)),
                _ => Ok(()),
            },
            // Others still use it.
            Ok(false) => Ok(()),
            Err(error) => {
                eprintln!("culvert-cni: network {name} stays: {error}");
                Ok(())
            }
        }
    }

    fn daemon(&mut self) -> Result<&Daemon, Error> {
        let daemon = self.daemon.get_or_insert_with(|| Daemon::connect(self.control_socket));
        daemon.as_ref().map_err(Clone::clone)
    }
}

/// Writes down that a network is ours to remove.
///
/// # Errors
/// [`Code::Io`].
pub fn mark_network(places: &Places, name: &str) -> Result<(), Error> {
    let mark = network_mark(places, name);
    leave(&mark).map_err(|error| Error::io(format!("{} cannot be written", mark.display()), error))
}

/// No network of the runtime's has a name that begins with a dot.
fn network_mark(places: &Places, name: &str) -> PathBuf {
    places.state_dir.join(".networks").join(name)
}

/// Makes an empty file that outlives a crash of the node, and the folder it is in.
fn leave(path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Err(ErrorKind::InvalidInput.into()) };
    fs::create_dir_all(folder)?;
    let mut file = fs::File::create(path)?;
    file.flush()?;
    file.sync_all()?;
    fs::File::open(folder)?.sync_all()
}

/// Whoever owns the folder may have put anything in the thing's place, and the folder may have gone.
fn remove_beneath(
    folder: &Path,
    name: &OsStr,
    remove: impl Fn(&Folder, &OsStr) -> Result<(), Errno>,
) -> Result<(), Error> {
    match Folder::open(folder).and_then(|opened| remove(&opened, name)) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::ROFS) => Ok(()),
        Err(error) => Err(Error::io(shown(&folder.join(name)), error)),
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn shown(path: &Path) -> String {
    format!("{} cannot be removed", path.display())
}
