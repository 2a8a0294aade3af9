//! Namespaces of its own and an empty root: nothing of the file system is left but what is open.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::DumpableBehavior;

/// Enters new namespaces; that for processes is entered by the next child, if one follows.
///
/// # Errors
/// The kernel's reason: user namespaces are forbidden here, or all are in use.
pub fn enter_namespaces(for_child: bool) -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    // A process that has changed its user is not its own in /proc.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // One user and one group, by the numbers that they have outside: an unmapped user may not mount.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    // A process whose children belong to another namespace can have no threads.
    let processes = if for_child { CloneFlags::CLONE_NEWPID } else { CloneFlags::empty() };
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | processes)?;
    Ok(())
}

/// Makes an empty, read-only file system the root.
///
/// # Errors
/// What the kernel refuses.
pub fn enter(chroot_fallback: bool) -> Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("mounts cannot be made private")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Any folder that is there for certain: it is covered.
    rustix::mount::mount("none", COVERED, "tmpfs", flags, c"nr_inodes=2,nr_blocks=1,mode=0555")
        .context("an empty file system cannot be mounted")?;
    rustix::process::chdir(COVERED).context("the empty file system cannot be entered")?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            // The old root lies over the new one now.
            rustix::mount::unmount(".", UnmountFlags::DETACH).context("the old root cannot be left")?;
        }
        Err(Errno::INVAL) if chroot_fallback => {
            rustix::process::chroot(".").context("the root cannot be changed")?;
        }
        Err(error) => {
            return Err(error)
                .context("the root cannot be changed; --chroot-fallback may help where it is an initramfs");
        }
    }
    rustix::process::chdir("/").context("the new root cannot be entered")?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"nr_inodes=2,nr_blocks=1")
        .context("the new root cannot be made read-only")
}

const COVERED: &str = "/proc";
