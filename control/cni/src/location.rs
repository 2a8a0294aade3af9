//! Where a guest's socket is: on the node, and in the container. In this order: the folder of the device that kubelet gave to the
//! pod; the pod's volume; a folder of the container's own below `sharedDir`. Kubernetes is asked when there is a kubeconfig: it
//! knows what kind of volume it is and where it is mounted.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::attachment::Attachment;
use crate::beneath::Folder;
use crate::config::settings::{Role, Vhostuser};
use crate::error::{Code, Error};
use crate::kubernetes::{Pod, Source};
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
    /// Whether other pods may have it, too.
    pub is_shared: bool,
}

impl Location {
    /// Finds it. `pod` is what Kubernetes says of the pod, if it was asked. Nothing is made.
    ///
    /// # Errors
    /// [`Code::Config`] when the pod has no place for it; [`Code::Io`] for a place that cannot be used.
    pub fn find(attachment: &Attachment, settings: &Vhostuser, pod: Option<&Pod>) -> Result<Self, Error> {
        if let Some(device) = &settings.device {
            return device_folder(settings, device);
        }
        let volume = settings.volume.as_str();
        let mounted = pod.and_then(|pod| pod.mount_path(volume)).unwrap_or(&settings.mount_path);
        let there = |folder| Self { folder, inside: mounted.to_owned(), is_ours: false, is_shared: false };
        if let Some(Source::HostPath(path)) = pod.and_then(|pod| pod.volume(volume)) {
            return Ok(Self { is_shared: true, ..there(host_path(&path)?) });
        }
        if let Some(uid) = &attachment.pod.uid {
            if let Some(folder) = empty_dir(&attachment.places.kubelet_root, uid, volume)? {
                return Ok(there(folder));
            }
            if settings.shared_dir.is_none() && settings.userspace.is_none() {
                let message = format!("the pod has no volume {volume}");
                let details = "Culvert's webhook gives it one, or a device plugin's resource in the network's annotation; \
                               `volume` names another";
                return Err(Error::with(Code::Config, message, details));
            }
        }
        let parent = settings.shared_dir.as_deref().unwrap_or(Path::new(DEFAULT_FOLDER));
        // Where its parent is may be a link; the folder itself must not.
        let parent = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
        let folder = parent.join(short(&attachment.id.container));
        let inside = if attachment.pod.uid.is_some() { mounted.to_owned() } else { folder.clone() };
        Ok(Self { folder, inside, is_ours: true, is_shared: false })
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
    let inside = Path::new("/var/run/culvert").join(network);
    Ok(Location { folder, inside, is_ours: false, is_shared: false })
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

/// The folder of a pod's hostPath volume. /var/run is a link everywhere; other links on the way are refused, for a pod that has
/// part of the way as a volume could change them.
fn host_path(path: &Path) -> Result<PathBuf, Error> {
    let path = match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_owned(),
    };
    let broken = |error| Error::io(format!("hostPath {} cannot be used", path.display()), error);
    Folder::open(&path).map_err(broken)?;
    Ok(path)
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|error| Error::io(format!("folder {} cannot be used", path.display()), error))
}

/// For containers that are no pods.
const DEFAULT_FOLDER: &str = "/run/culvert/pods";
