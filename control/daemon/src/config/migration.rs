//! The `[migration]` section and the `[[migration_network]]` sections: the migration proxy of a host without KubeVirt
//! ([`culvert_migration`]). Where there is no `[migration]` there is no proxy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use culvert_migration::address::{self, Places};
use culvert_migration::rules::{Network, Pattern};
use culvert_migration::tls::Files;
use culvert_vhost::Owner;
use toml::de::DeValue;

use super::rate;
use super::section::{Report, Section};
use super::value::{self, Wrong, set};

/// The migration proxy as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    /// The folder of the sockets, the same on both hosts; `/run/culvert/migration` by default.
    pub folder: PathBuf,
    /// User and group of that folder, who is QEMU; 107:107 by default, whom KubeVirt runs QEMU as.
    pub owner: Owner,
    /// The TCP ports that a target listens on; any by default.
    pub ports: Option<RangeInclusive<u16>>,
    /// The certificates; `None`: `disable_tls = true`.
    pub tls: Option<Files>,
    /// The networks, in the order in which they are asked whether a migration is theirs.
    pub networks: Vec<Network>,
}

impl Migration {
    /// Reads the sections. `None`: there is no `[migration]`.
    pub(super) fn read(report: &mut Report<'_>, top: &mut Section<'_>) -> Option<Self> {
        let section = top.table(report, "migration");
        let networks = top.tables(report, "migration_network");
        let Some(mut section) = section else {
            for network in &networks {
                let wrong = Wrong::new("belongs to no [migration] section", "add one, or remove it");
                report.place("migration_network".to_owned(), network.offset("name"), wrong);
            }
            return None;
        };
        let mut migration = Self {
            folder: PathBuf::from("/run/culvert/migration"),
            owner: Owner { uid: 107, gid: 107 },
            ports: None,
            tls: None,
            networks: Vec::new(),
        };
        let read_folder = |value: &DeValue<'_>| value::absolute_path(value, "\"/run/culvert/migration\"");
        set(&mut migration.folder, section.optional(report, "folder", read_folder));
        set(&mut migration.owner, section.optional(report, "owner", value::owner));
        migration.ports = section.optional(report, "ports", ports).map(|found| found.value);
        migration.tls = read_tls(report, &mut section);
        section.finish(report);
        migration.networks = read_networks(report, networks);
        Some(migration)
    }
}

/// All or nothing: that bytes go as they are must be said.
fn read_tls(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Files> {
    let disabled = section.optional(report, "disable_tls", value::boolean).is_some_and(|found| found.value);
    if disabled {
        for key in ["certificate", "key", "authority", "peer_name"] {
            let wrong = Wrong::new("is not used with disable_tls = true", "remove one of the two");
            section.refuse(report, key, wrong);
        }
    }
    let files = [
        ("certificate", "\"/etc/culvert/migration/tls.crt\""),
        ("key", "\"/etc/culvert/migration/tls.key\""),
        ("authority", "\"/etc/culvert/migration/ca.crt\""),
    ];
    let [certificate, key, authority] = files.map(|(key, example)| {
        if !disabled && !section.has(key) {
            let remedy = format!(
                "add a line such as {key} = {example}; or disable_tls = true, if nobody else is in that network"
            );
            section.missing(report, key, &remedy);
        }
        section.optional(report, key, |value| value::absolute_path(value, example)).map(|found| found.value)
    });
    let peer_name = section
        .optional(report, "peer_name", |value| value::text(value, "\"migration.example.org\"").map(str::to_owned));
    if disabled {
        return None;
    }
    let peer_name = peer_name.map(|found| found.value);
    Some(Files { certificate: certificate?, key: key?, authority: authority?, peer_name })
}

fn read_networks(report: &mut Report<'_>, sections: Vec<Section<'_>>) -> Vec<Network> {
    let default = Places { interface: address::INTERFACE.to_owned(), network_status: None, otherwise: None };
    if sections.is_empty() {
        let name = address::INTERFACE.to_owned();
        return vec![Network { name, migrations: Vec::new(), places: default, rate: None }];
    }
    let mut names = BTreeSet::new();
    let mut networks = Vec::new();
    for mut section in sections {
        let name = section.required(report, "name", "\"fast\"", value::name);
        if let Some(name) = &name
            && !names.insert(name.value.clone())
        {
            let wrong = Wrong::new("is the name of two networks", "give each its own");
            section.refuse(report, "name", wrong);
        }
        let patterns = section.list(report, "migrations", "[\"db-*\"]", pattern);
        let mut places = default.clone();
        set(&mut places.interface, section.optional(report, "interface", value::interface));
        let example = "\"/etc/podinfo/network-status\"";
        let status = section.optional(report, "network_status", |value| value::absolute_path(value, example));
        places.network_status = status.map(|found| found.value);
        places.otherwise = section.optional(report, "address", address).map(|found| found.value);
        let rate = section.optional(report, "rate", rate::bit_rate).map(|found| found.value);
        section.finish(report);
        let Some(name) = name else { continue };
        let migrations = patterns.into_iter().flat_map(|found| found.value).map(|found| found.value).collect();
        networks.push(Network { name: name.value.to_string(), migrations, places, rate });
    }
    networks
}

fn pattern(value: &DeValue<'_>) -> Result<Pattern, Wrong> {
    let example = "\"db-*\"";
    Pattern::parse(value::text(value, example)?)
        .map_err(|problem| Wrong::new(format!("is no pattern of names: {problem}"), format!("write it like {example}")))
}

fn address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let example = "\"203.0.113.9\"";
    let wrong = || Wrong::new("is no address", format!("write it like {example} or \"fd00::9\""));
    value::text(value, example)?.parse().map_err(|_| wrong())
}

fn ports(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Wrong> {
    let example = "\"49152-49215\"";
    let wrong = || Wrong::new("is no range of ports", format!("write the first and the last one, like {example}"));
    let (first, last) = value::text(value, example)?.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last { Err(wrong()) } else { Ok(first..=last) }
}
