//! The filters of system calls, made of [`super::system_calls`].
//!
//! A call that no thread of the kind needs fails with EPERM, as one that the administrator has forbidden. It does not end the
//! daemon: that serves all guests of the node, and a driver's call that nobody has foreseen must not cost them their network; for
//! who has taken a thread over, both are the same. Calls that only such a one would make end it at once all the same
//! ([`NEVER`]).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Kind;
use super::devices::Family;
use super::system_calls::{
    AF_XDP, AF_XDP_UNTRIED, CONTROL, Call, DEVICE_PLUGIN, DPDK, DPDK_UNTRIED, LOG, METRICS, MIGRATION, NEVER,
    PCI_UNTRIED, RUNTIME, START, Test, UNKNOWN, VHOST, WORKER,
};
use crate::config::isolation::Mode;

/// What threads of a kind need.
pub fn of(kind: Kind, families: &BTreeSet<Family>) -> Vec<&'static [Call]> {
    let own = match kind {
        Kind::Control => CONTROL,
        Kind::DevicePlugin => DEVICE_PLUGIN,
        Kind::Dpdk => DPDK,
        Kind::Log => LOG,
        Kind::Metrics => METRICS,
        Kind::Migration => MIGRATION,
        Kind::Vhost => VHOST,
        Kind::Worker => WORKER,
    };
    let mut lists = vec![own, RUNTIME];
    // Control opens devices.
    if kind == Kind::Control && families.contains(&Family::AfXdp) {
        lists.extend([AF_XDP, AF_XDP_UNTRIED]);
    }
    if kind == Kind::Control && families.contains(&Family::Pci) {
        lists.push(PCI_UNTRIED);
    }
    if kind == Kind::Dpdk {
        lists.push(DPDK_UNTRIED);
    }
    lists
}

/// What some thread needs.
pub fn everything(families: &BTreeSet<Family>) -> Vec<&'static [Call]> {
    let kinds = [Kind::Control, Kind::DevicePlugin, Kind::Dpdk, Kind::Log, Kind::Vhost, Kind::Worker];
    let mut lists = vec![START];
    lists.extend(kinds.into_iter().flat_map(|kind| of(kind, families)));
    lists
}

/// What some thread of the migration proxy's process needs.
pub fn migration() -> Vec<&'static [Call]> {
    vec![START, LOG, MIGRATION, RUNTIME]
}

/// What some thread of the metrics process needs.
pub fn metrics() -> Vec<&'static [Call]> {
    vec![START, LOG, METRICS, RUNTIME]
}

/// Limits this thread, and those that it will start, to the calls in `lists`.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses these.
pub fn apply(mode: Mode, lists: &[&[Call]]) -> Result<()> {
    let refuse = match mode {
        Mode::Off => return Ok(()),
        Mode::Log => SeccompAction::Log,
        Mode::Kill => SeccompAction::KillProcess,
        Mode::Full => SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    };
    let known: Vec<Call> = lists.iter().copied().chain([UNKNOWN, NEVER]).flatten().copied().collect();
    // Of several filters the strictest decides. What a caller does without if it has to is answered so in each mode.
    add(UNKNOWN, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()), SeccompAction::Allow)?;
    let end = if mode == Mode::Log { SeccompAction::Log } else { SeccompAction::KillProcess };
    add(NEVER, end, SeccompAction::Allow)?;
    add(&known, SeccompAction::Allow, refuse)
}

/// Adds a filter that does `listed` for these calls, and `others` for all others.
fn add(calls: &[Call], listed: SeccompAction, others: SeccompAction) -> Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // A call without conditions wins over the same with some.
    let (free, tested): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(|call| call.test.is_none());
    for call in tested {
        let conditions = call.test.map(conditions).transpose()?;
        rules.entry(call.number).or_default().extend(conditions.into_iter().flatten());
    }
    rules.extend(free.into_iter().map(|call| (call.number, Vec::new())));
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, others, listed, arch)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?).context("the kernel refuses the filter")
}

/// One rule for each value that the argument may have.
fn conditions(test: Test) -> Result<Vec<SeccompRule>> {
    let rules = test.values.iter().map(|value| {
        let (length, equal) = (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(test.mask));
        let condition = SeccompCondition::new(test.argument, length, equal, *value)?;
        Ok(SeccompRule::new(vec![condition])?)
    });
    rules.collect()
}
