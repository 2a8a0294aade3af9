//! Where a guest's socket is: on the node, and in the container. In this order: the folder of the device that kubelet gave to the
//! pod; the pod's volume; a folder of the container's own below `sharedDir`.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::attachment::Attachment;
use crate::beneath::Folder;
use crate::config::settings::{Role, Vhostuser};
use crate::error::{Code, Error};
use crate::name::short;

/// The folder of a guest's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// On the node, without links: nothing above it is the pod's.
    pub folder: PathBuf,
    /// In the container.
    pub inside: PathBuf,
    /// Whether ADD makes it, and DEL removes it.
    pub is_ours: bool,
}

impl Location {
    /// Finds it. Nothing is made.
    ///
    /// # Errors
    /// [`Code::Config`] when the pod has no place for it.
    pub fn find(attachment: &Attachment, settings: &Vhostuser) -> Result<Self, Error> {
        if let Some(device) = &settings.device {
            return device_folder(settings, device);
        }
        if let Some(uid) = &attachment.pod.uid {
            if let Some(folder) = empty_dir(&attachment.places.kubelet_root, uid, &settings.volume)? {
                return Ok(Self { folder, inside: settings.mount_path.clone(), is_ours: false });
            }
            if settings.shared_dir.is_none() && settings.userspace.is_none() {
                let message = format!("the pod has no volume {}", settings.volume);
                let details = "Culvert's webhook gives it one, or a device plugin's resource in the network's annotation; \
                               `volume` names another";
                return Err(Error::with(Code::Config, message, details));
            }
        }
        let parent = settings.shared_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FOLDER));
        let folder = parent.join(short(&attachment.id.container));
        let inside = if attachment.pod.uid.is_some() { settings.mount_path.clone() } else { folder.clone() };
        Ok(Self { folder, inside, is_ours: true })
    }

    /// Opens it, and makes it first where it is ours to make.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn open(&self, settings: &Vhostuser) -> Result<Folder, Error> {
        let broken = |error: Errno| Error::io(format!("folder {} cannot be used", self.folder.display()), error);
        if !self.is_ours {
            return Folder::open(&self.folder).map_err(broken);
        }
        let (Some(parent), Some(name)) = (self.folder.parent(), self.folder.file_name()) else {
            return Err(broken(Errno::INVAL));
        };
        std::fs::create_dir_all(parent)
            .map_err(|error| Error::io(format!("folder {} cannot be made", parent.display()), error))?;
        let parent = Folder::open(&canonical(parent)?).map_err(broken)?;
        // Whoever is to make the socket must be able to.
        let mode = if settings.role == Role::Connect { 0o770 } else { 0o750 };
        parent.make(Path::new(name), mode, settings.owner, settings.label.as_deref()).map_err(broken)
    }
}

/// Culvertd's folder for a device may be a link to that of another device of the same pod.
fn device_folder(settings: &Vhostuser, device: &str) -> Result<Location, Error> {
    let network = &settings.port.network;
    let devices = settings.devices_dir.join(network);
    let folder = canonical(&devices.join(device))?;
    if !folder.starts_with(canonical(&devices)?) {
        let message = format!("the folder of device {device} of network {network} is outside of {}", devices.display());
        return Err(Error::new(Code::Config, message));
    }
    Ok(Location { folder, inside: Path::new("/var/run/culvert").join(network), is_ours: false })
}

/// The folder of a pod's emptyDir volume; `None` when the pod has none of that name.
///
/// # Errors
/// [`Code::Io`] when it cannot be opened, or when something on the way is a link.
pub fn empty_dir(kubelet_root: &Path, uid: &str, volume: &str) -> Result<Option<PathBuf>, Error> {
    // Kubelet's folder itself is often a link to a larger disk.
    let root = match kubelet_root.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        root => root.map_err(|error| Error::io(format!("{}", kubelet_root.display()), error))?,
    };
    let below = Path::new("pods").join(uid).join("volumes/kubernetes.io~empty-dir").join(volume);
    let path = root.join(&below);
    match Folder::open(&root).and_then(|root| root.below(&below)) {
        Ok(_) => Ok(Some(path)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(format!("volume {volume} at {} cannot be used", path.display()), error)),
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|error| Error::io(format!("folder {} cannot be used", path.display()), error))
}

/// For containers that are no pods.
const DEFAULT_FOLDER: &str = "/run/culvert/pods";
