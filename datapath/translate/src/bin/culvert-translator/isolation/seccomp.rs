//! The filter of system calls, made of [`super::system_calls`]. What is not in it ends the process.

use std::collections::BTreeMap;

use anyhow::Result;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::system_calls::{RUNTIME, TRANSLATOR};

/// Applies the filter to all threads.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses this one.
pub fn apply() -> Result<()> {
    let rules: BTreeMap<i64, _> = TRANSLATOR.iter().chain(RUNTIME).map(|number| (*number, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    seccompiler::apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
