//! Which folder of a volume is mounted here: since KubeVirt 1.6 each sidecar has its own below the hook folder, before all
//! had the hook folder itself.

use std::fs;
use std::path::Path;

/// Whether `folder` is the container's own, so that compute sees it under the container's name. So it is where the mounts
/// do not tell.
pub fn is_own_folder(folder: &Path, container: &str) -> bool {
    let Ok(folder) = folder.canonicalize() else { return true };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    root_of(&mounts, &folder).is_none_or(|root| Path::new(root).ends_with(container))
}

/// What of its file system is mounted at `folder`, from proc_pid_mountinfo(5); of several mounts the last hides the others.
fn root_of<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (Path::new(point) == folder).then_some(root)
    };
    mounts.lines().filter_map(mount).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_mount_is_found() {
        let mounts = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/hook-sidecar-sockets/hook-sidecar-0 /run/kubevirt-hooks rw - ext4 /dev/sda1 rw
31 22 0:40 / /run/tmpfs rw - tmpfs tmpfs rw
";
        let root = |folder| root_of(mounts, Path::new(folder));
        assert!(root("/run/kubevirt-hooks").unwrap().ends_with("/hook-sidecar-0"));
        assert_eq!((root("/run/tmpfs"), root("/run/other")), (Some("/"), None));
        // No mount of its own.
        assert!(is_own_folder(Path::new("/proc/self/task"), "hook-sidecar-0"));
        assert!(!is_own_folder(Path::new("/proc"), "hook-sidecar-0"));
    }
}
