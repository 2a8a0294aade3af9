//! STATUS: can interfaces be made, and do those that were made work?

use culvert_api::v1;

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

/// What culvertd says must have room for another port, on a network that is there.
fn ready(daemon: &Daemon, settings: &Settings) -> Result<(), Error> {
    judge(&daemon.status()?, &daemon.networks()?, settings)
}

fn judge(status: &v1::GetStatusResponse, networks: &[v1::Network], settings: &Settings) -> Result<(), Error> {
    // An older culvertd does not say how many there may be.
    if status.ports_max != 0 && status.ports >= status.ports_max {
        let message = format!("culvertd has {} ports, and may have no more", status.ports);
        return Err(Error::with(Code::Config, message, "remove some, or start pods elsewhere"));
    }
    let network = match settings {
        Settings::Vhostuser(settings) if settings.userspace.is_none() => Some(&settings.port.network),
        Settings::Netdev(port) => Some(&port.network),
        Settings::Tap(settings) => settings.port.as_ref().map(|port| &port.network),
        _ => None,
    };
    match network.filter(|network| networks.iter().all(|known| known.name != **network)) {
        None => Ok(()),
        Some(network) => {
            let details = format!("add it with `culvertctl network add {network}`");
            Err(Error::with(Code::Config, format!("culvertd has no network {network}"), details))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_must_be_room_and_a_network() {
        let config = |text: &str| serde_json::from_str::<Config>(text).unwrap();
        let judged = |ports, network: &str, settings: &str| {
            let status = v1::GetStatusResponse { ports, ports_max: 1024, ..v1::GetStatusResponse::default() };
            let networks = [v1::Network { name: network.to_owned(), ..v1::Network::default() }];
            judge(&status, &networks, &Settings::of(&config(settings), &Pod::default()).unwrap())
        };
        let ours = r#"{"mode":"vhostuser","network":"blue"}"#;
        assert_eq!(judged(1023, "blue", ours), Ok(()));
        assert!(judged(1024, "blue", ours).unwrap_err().to_string().contains("1024 ports"));
        assert!(judged(0, "red", ours).unwrap_err().to_string().contains("no network blue"));
        // Made when it is missing.
        assert_eq!(judged(0, "red", r#"{"host":{"bridge":{"bridgeName":"blue"}}}"#), Ok(()));
        let old = v1::GetStatusResponse { ports: 5, ..v1::GetStatusResponse::default() };
        assert_eq!(judge(&old, &[], &Settings::of(&config(r#"{"host":{}}"#), &Pod::default()).unwrap()), Ok(()));
    }
}
