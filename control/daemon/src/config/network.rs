//! A network as it is wanted: its keys, read and written.

use std::time::Duration;

use culvert_switch::port::MAX_PORTS;
use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, Wrong, with_unit};
use crate::name::Name;

/// One `[[network]]`: a learning bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name, unique among networks.
    pub name: Name,
    /// How long an address is remembered after its last frame; 300 s by default.
    pub mac_age: Duration,
    /// Whether multicast goes only to the ports that asked for its group (IGMP and MLD snooping, RFC 4541); not by
    /// default.
    pub snooping: bool,
    /// How many ports kubelet may give to pods, 1 to [`MAX_PORTS`]; `None`, the default, when the network is none of
    /// kubelet's resources.
    pub guest_ports: Option<u32>,
}

impl Network {
    /// A network with the defaults.
    pub fn new(name: Name) -> Self {
        Self { name, mac_age: Duration::from_secs(300), snooping: false, guest_ports: None }
    }

    /// Reads a section. `None` when it has no name.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Self> {
        let name = section.required(report, "name", "\"blue\"", value::name);
        let age_range = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        let read_age = |value: &DeValue<'_>| value::duration(value, age_range, "\"300s\"");
        let mac_age = section.optional(report, "mac_age", read_age);
        let snooping = section.optional(report, "snooping", value::boolean);
        let most = u32::try_from(MAX_PORTS).unwrap_or(u32::MAX);
        let guest_ports = section.optional(report, "guest_ports", |value| value::number(value, 1..=most));
        let name = name?.value;
        if !is_resource_name(&name) {
            let problem = "cannot be offered to kubelet: the network's name begins or ends with a hyphen";
            section.refuse(report, "guest_ports", Wrong::new(problem, "choose another name, or remove this key"));
        }
        let mut network = Self::new(name);
        network.guest_ports = guest_ports.map(|found| found.value);
        value::set(&mut network.mac_age, mac_age);
        value::set(&mut network.snooping, snooping);
        Some(network)
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML; those with their default are left out.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let default = Self::new(self.name.clone());
        let mut keys = vec![("name", value::toml_text(self.name.as_str()))];
        if self.mac_age != default.mac_age {
            keys.push(("mac_age", value::toml_text(&with_unit(self.mac_age))));
        }
        if self.snooping {
            keys.push(("snooping", "true".to_owned()));
        }
        if let Some(ports) = self.guest_ports {
            keys.push(("guest_ports", ports.to_string()));
        }
        keys
    }
}

/// Whether Kubernetes takes `culvert.dev/NAME` for the name of a resource: it begins and ends with a letter or a digit.
fn is_resource_name(name: &Name) -> bool {
    !name.as_str().starts_with('-') && !name.as_str().ends_with('-')
}
