//! The filter of system calls, made of [`super::system_calls`]. What is not in it ends the process.

use std::collections::BTreeMap;

use anyhow::Result;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::system_calls::{ANSWERED_NO_ENTRY, RUNTIME, TRANSLATOR};

/// Applies the filter to all threads.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses this one.
pub fn apply() -> Result<()> {
    let no_entry = SeccompAction::Errno(libc::ENOENT.unsigned_abs());
    // Of two filters the stricter one decides. This one is first: the other one permits no further filters.
    add(ANSWERED_NO_ENTRY.iter(), no_entry, SeccompAction::Allow)?;
    let known = TRANSLATOR.iter().chain(RUNTIME).chain(ANSWERED_NO_ENTRY);
    add(known, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// Adds a filter that does `listed` for these calls, and `others` for all others.
fn add<'a>(calls: impl Iterator<Item = &'a i64>, listed: SeccompAction, others: SeccompAction) -> Result<()> {
    let rules: BTreeMap<i64, _> = calls.map(|number| (*number, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, others, listed, arch)?;
    seccompiler::apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
