//! What kubelet does on a node around a container runtime: a pod's name and uid, and the folders of its emptyDir volumes.
//!
//! No kubelet runs: [`containerd`](crate::containerd) is called as kubelet calls it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// kubelet's folder on a node.
pub struct KubeletRoot {
    folder: TempDir,
}

impl KubeletRoot {
    /// One without pods.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("culvert-kubelet-").tempdir()?;
        // As /var/lib/kubelet: the folders below protect themselves.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Self { folder })
    }

    /// Its folder, `/var/lib/kubelet` elsewhere.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The pod of a virtual machine: number N has the uid 7b1c2d3e-0001-4a4a-9b9b-00000000000N and no volumes yet.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn pod(&self, name: &str, number: u8) -> Result<KubePod> {
        let uid = format!("7b1c2d3e-0001-4a4a-9b9b-{number:012x}");
        let folder = self.path().join("pods").join(&uid);
        fs::create_dir_all(folder.join("volumes/kubernetes.io~empty-dir"))?;
        Ok(KubePod { name: name.to_owned(), namespace: "lab".to_owned(), uid, folder })
    }
}

/// A pod as kubelet knows it.
#[derive(Clone, Debug)]
pub struct KubePod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    folder: PathBuf,
}

impl KubePod {
    /// Makes an emptyDir volume, as kubelet does for a pod with `fsGroup: 107`, and returns its folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn add_volume(&self, name: &str) -> Result<PathBuf> {
        let folder = self.volume(name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        chown(&folder, None, Some(107))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o2777))?;
        Ok(folder)
    }

    /// The folder of an emptyDir volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~empty-dir").join(name)
    }

    /// Checks that a volume holds nothing, or has gone, and that nothing is mounted that is the pod's: kubelet must be able to remove it
    /// after the pod has ended.
    ///
    /// # Errors
    /// Something is left, named.
    pub fn check_empty(&self, volume: &str) -> Result<()> {
        let folder = self.volume(volume);
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let left: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "{} still has {left:?}", folder.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounted = mounts.lines().find(|line| line.contains(&self.uid));
        ensure!(mounted.is_none(), "still mounted: {mounted:?}");
        Ok(())
    }
}

/// Checks that a file is a socket that belongs to QEMU's user and group, 107, and that nobody else can use it.
///
/// # Errors
/// It is not.
pub fn check_socket(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let (owner, mode) = ((metadata.uid(), metadata.gid()), metadata.mode());
    let is_socket = mode & 0o170_000 == 0o140_000;
    ensure!(is_socket, "{} is no socket: mode {mode:o}", path.display());
    ensure!(owner == (107, 107) && mode & 0o7 == 0, "{} belongs to {owner:?}, mode {mode:o}", path.display());
    Ok(())
}
