//! STATUS: can interfaces be made, and do those that were made work?

use crate::attachment::ipam;
use crate::config::settings::{Places, Settings};
use crate::config::{Config, Input};
use crate::daemon::Daemon;
use crate::environment::{Pod, Variables, Verb};
use crate::error::{Code, Error};
use crate::record::Records;
use crate::version::Version;

/// Answers STATUS.
///
/// # Errors
/// [`Code::NotAvailable`] when ADD would fail; [`Code::Limited`] when, besides, there are attachments that cannot work.
pub fn run(version: Version, variables: &Variables, input: &Input) -> Result<(), Error> {
    if !version.has_gc_and_status() {
        return Err(Error::new(Code::Version, format!("cniVersion {version} has no STATUS")));
    }
    let config: Config = input.config()?;
    let places = Places::of(&config)?;
    let settings = Settings::of(&config, &Pod::default())?;
    let records = Records::new(&places.state_dir, config.network_name()?);
    // Without culvertd pods are prepared for a translator all the same.
    if !matches!(settings, Settings::Translator(_)) {
        let daemon = Daemon::connect(&places.control_socket);
        daemon.and_then(|daemon| ready(&daemon, &settings)).map_err(|error| {
            let down = error.code == Code::TryLater && records.list().is_ok_and(|ids| !ids.is_empty());
            Error { code: if down { Code::Limited } else { Code::NotAvailable }, ..error }
        })?;
    }
    match ipam(variables, &config, input)? {
        Some(ipam) => ipam.pass(Verb::Status),
        None => Ok(()),
    }
}

fn ready(daemon: &Daemon, settings: &Settings) -> Result<(), Error> {
    daemon.status()?;
    let network = match settings {
        Settings::Vhostuser(settings) if settings.userspace.is_none() => Some(&settings.port.network),
        Settings::Tap(settings) => settings.port.as_ref().map(|port| &port.network),
        _ => None,
    };
    let Some(network) = network else { return Ok(()) };
    if daemon.networks()?.iter().any(|known| known.name == *network) {
        return Ok(());
    }
    let details = format!("add it with `culvertctl network add {network}`");
    Err(Error::with(Code::Config, format!("culvertd has no network {network}"), details))
}
