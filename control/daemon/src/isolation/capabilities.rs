//! Capabilities: which stay, and how the others go.

use std::collections::BTreeSet;
use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::devices::Family;

/// What the supervisor does for the daemon takes these: it enters pods' network namespaces, opens packet sockets there, and switches
/// sockets of theirs to repair mode. With the last one the daemon gives up others.
pub const OF_SUPERVISOR: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SETPCAP);

/// Sockets and folders are other users', and are bound, connected to and removed in folders that are others'.
const ALWAYS: CapabilitySet = CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE);

/// What the daemon needs for devices of these families.
pub fn of_daemon(families: &BTreeSet<Family>) -> CapabilitySet {
    families.iter().fold(ALWAYS, |kept, family| kept | family.needs() | family.may_need())
}

/// Leaves this thread, and those that it will start, no capability but those of `kept` that there are, and none that could be got by
/// execve(2). Returns what is left.
///
/// # Errors
/// The kernel's.
pub fn limit(kept: CapabilitySet) -> io::Result<CapabilitySet> {
    let have = rustix::thread::capabilities(None)?.permitted;
    if have.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter().filter(|capability| !kept.contains(*capability)) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Newer than the kernel.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let left = have & kept;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(left)
}

/// As people write them.
pub fn names(set: CapabilitySet) -> String {
    let names = set.iter_names().map(|(name, _)| format!("CAP_{name}"));
    names.collect::<Vec<_>>().join(", ")
}
