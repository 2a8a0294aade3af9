//! Landlock in place of an empty root: what is open stays open, and nothing else can be opened, made or removed.

use anyhow::{Context, Result};
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};

/// Denies the file system, abstract Unix sockets of others, and signals to others. False: the kernel has no Landlock.
///
/// # Errors
/// What the kernel refuses although it has Landlock.
pub fn deny_all() -> Result<bool> {
    // Later kernels know more than earlier ones: each denies what it knows.
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .context("Landlock's rules cannot be made")?;
    let status = ruleset.restrict_self().context("Landlock's rules cannot be applied")?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
