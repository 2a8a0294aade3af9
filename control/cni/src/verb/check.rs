//! CHECK: is what ADD made still there, and the same?

use crate::attachment::{Attachment, ipam, is_present};
use crate::config::{Config, Input};
use crate::environment::{Variables, Verb};
use crate::error::{Code, Error};
use crate::record::Records;
use crate::version::Version;

/// Answers CHECK.
///
/// # Errors
/// [`Code::Changed`] when something is different; the IPAM plugin's.
pub fn run(version: Version, variables: &Variables, input: &Input) -> Result<(), Error> {
    if !version.has_check() {
        return Err(Error::new(Code::Version, format!("cniVersion {version} has no CHECK")));
    }
    let config: Config = input.config()?;
    let attachment = Attachment::of(version, variables, &config)?;
    if !is_present(config.prev_result.as_ref()) {
        return Err(Error::with(Code::Config, "prevResult is missing", "CHECK compares with the result of ADD"));
    }
    if !Records::new(&attachment.places.state_dir, &attachment.network_name).is_complete(&attachment.id) {
        return Err(Error::with(Code::Changed, format!("nothing is known of {}", attachment.id), "ADD it again"));
    }
    let plan = attachment.plan()?;
    plan.check(&attachment)?;
    match ipam(variables, &config, input)? {
        Some(ipam) if plan.has_interface() => ipam.pass(Verb::Check),
        _ => Ok(()),
    }
}
