//! Isolation, in numbered stages: what the process gives up, and when. docs/TRANSLATOR.md tells it to users.
//!
//! 1. [`begin`], first of all: leaked descriptors are closed, and all capabilities go but those that opening what was
//!    asked for may take.
//! 2. [`become_user`], once everything that has a name is open: root becomes nobody or who was asked for; no capability
//!    is left.
//! 3. [`leave_file_system`], before the fork: no new privileges; namespaces of its own for users, IPC, mounts, names
//!    and (in the background) processes, in an empty root. Where the kernel refuses namespaces, as in most pods,
//!    [`landlock`] stands in: nothing in the file system can be opened, no process outside be signalled.
//! 4. [`seal`], once all threads are there: not dumpable, and only the system calls of [`system_calls`] from now on.
//!
//! The network namespace stays: its sockets are what all this is for.

mod empty_root;
mod landlock;
mod seccomp;
mod system_calls;
mod user;

use std::io;
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::process;
pub use user::User;

/// Stage 1. `kept` is a descriptor that the command line names.
///
/// # Errors
/// What the kernel refuses.
pub fn begin(kept: Option<RawFd>) -> Result<()> {
    process::close_others(kept)
        .context("descriptors of whoever started this cannot be closed (Linux 5.9 is needed)")?;
    limit_capabilities(WHILE_OPENING).context("capabilities cannot be given up")?;
    Ok(())
}

/// Stage 2.
///
/// # Errors
/// What the kernel refuses.
pub fn become_user(user: Option<User>) -> Result<()> {
    if let Some(user) = user {
        user.enter().with_context(|| format!("cannot become {user}; choose another one with --runas"))?;
    }
    limit_capabilities(CapabilitySet::empty()).context("capabilities cannot be given up")
}

/// Stage 3. `background`: a fork follows, and its child is to be in a process namespace of its own. `chroot_fallback`:
/// an empty folder as root does where pivot_root() is impossible.
///
/// # Errors
/// What the kernel refuses after it has permitted the namespaces.
pub fn leave_file_system(background: bool, chroot_fallback: bool) -> Result<()> {
    rustix::thread::set_no_new_privs(true).context("new privileges cannot be given up")?;
    match empty_root::enter_namespaces(background) {
        Ok(()) => {
            empty_root::enter(chroot_fallback)?;
            limit_capabilities(CapabilitySet::empty()).context("capabilities cannot be given up")?;
            tracing::debug!("isolated by namespaces of its own, in an empty root");
        }
        Err(error) if landlock::deny_all()? => {
            tracing::info!("namespaces are refused here ({error}): Landlock denies the file system instead");
        }
        Err(error) => tracing::warn!(
            "namespaces are refused here ({error}), and the kernel has no Landlock: the file system stays reachable"
        ),
    }
    Ok(())
}

/// Stage 4, for all threads.
///
/// # Errors
/// What the kernel refuses.
pub fn seal() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot become not dumpable")?;
    seccomp::apply().context("system calls cannot be limited")
}

/// Leaves no capability but those of `kept` that there are, and none that could be got by execve().
fn limit_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let have = rustix::thread::capabilities(None)?;
    if have.permitted.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter().filter(|capability| !kept.contains(*capability)) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Newer than the kernel.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let left = have.permitted & kept;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// What opening files and ports, steering ports, and changing the user, may take.
const WHILE_OPENING: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::NET_ADMIN);
