//! What of culvertd's configuration a node must have something for. Whether it is right `culvertd --check` tells; here keys that cannot
//! be read have their defaults.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use culvert_migration::address::{INTERFACE, Places};
use culvert_migration::rules::Network;
use toml::{Table, Value};

use super::Finding;

/// A part of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Cores of the polling threads.
    pub worker_cores: Vec<usize>,
    /// Memory for packet buffers in MiB, per NUMA node.
    pub memory_mb: u64,
    /// `auto`, `always` or `never`.
    pub hugepages: String,
    /// Where changes are kept.
    pub state_dir: PathBuf,
    /// Devices of ports: the port, and what DPDK is told.
    pub devices: Vec<(String, String)>,
    /// Sockets of ports: the port, and the path; without those below a pod's folder.
    pub sockets: Vec<(String, PathBuf)>,
    /// Networks of the migration proxy, if there is to be one.
    pub migration_networks: Vec<Network>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            worker_cores: vec![1],
            memory_mb: 256,
            hugepages: "auto".to_owned(),
            state_dir: PathBuf::from("/var/lib/culvert"),
            devices: Vec::new(),
            sockets: Vec::new(),
            migration_networks: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads a file; where there is none, what holds without one.
    pub fn read(path: &Path) -> (Self, Finding) {
        let name = path.display();
        match fs::read_to_string(path) {
            Ok(text) => match text.parse::<Table>() {
                Ok(table) => {
                    let found = format!("{name} is used; `culvertd --check --config {name}` tells mistakes in it");
                    (Self::of(&table), Finding::ok("config", found))
                }
                Err(error) => {
                    let sentence = format!("{name} is not TOML: {}", error.message());
                    (
                        Self::default(),
                        Finding::error("config", sentence, format!("see `culvertd --check --config {name}`")),
                    )
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let sentence = format!("there is no {name}; the defaults are looked at");
                (Self::default(), Finding::warning("config", sentence, "create it, or name another one with --config"))
            }
            Err(error) => {
                let sentence = format!("{name} cannot be read: {error}");
                (Self::default(), Finding::warning("config", sentence, "do this as root"))
            }
        }
    }

    fn of(table: &Table) -> Self {
        let mut settings = Self::default();
        let key = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
        if let Some(cores) = key("datapath", "worker_cores").and_then(Value::as_array) {
            let cores = cores.iter().filter_map(|core| usize::try_from(core.as_integer()?).ok());
            settings.worker_cores = cores.collect();
        }
        if let Some(memory) = key("datapath", "memory_mb").and_then(Value::as_integer) {
            settings.memory_mb = u64::try_from(memory).unwrap_or(settings.memory_mb);
        }
        if let Some(hugepages) = key("datapath", "hugepages").and_then(Value::as_str) {
            hugepages.clone_into(&mut settings.hugepages);
        }
        if let Some(folder) = key("daemon", "state_dir").and_then(Value::as_str) {
            settings.state_dir = PathBuf::from(folder);
        }
        for port in table.get("port").and_then(Value::as_array).into_iter().flatten() {
            let text = |key| port.get(key).and_then(Value::as_str);
            let name = text("name").unwrap_or("?").to_owned();
            if let Some(device) = text("device") {
                settings.devices.push((name.clone(), device.to_owned()));
            }
            if let (Some(socket), None) = (text("socket"), text("socket_root")) {
                settings.sockets.push((name, PathBuf::from(socket)));
            }
        }
        if table.contains_key("migration") {
            settings.migration_networks = migration_networks(table);
        }
        settings
    }
}

/// Those of the file; one called as its interface where it has none.
fn migration_networks(table: &Table) -> Vec<Network> {
    let sections = table.get("migration_network").and_then(Value::as_array);
    let network = |section: Option<&Value>| {
        let text = |key| section?.get(key).and_then(Value::as_str);
        let places = Places {
            interface: text("interface").unwrap_or(INTERFACE).to_owned(),
            network_status: text("network_status").map(PathBuf::from),
            otherwise: text("address").and_then(|address| address.parse().ok()),
        };
        Network {
            name: text("name").unwrap_or(&places.interface).to_owned(),
            migrations: Vec::new(),
            places,
            rate: None,
        }
    };
    sections
        .map_or_else(|| vec![network(None)], |sections| sections.iter().map(|section| network(Some(section))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn what_a_file_says_and_what_holds_without_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "
            [daemon]
            state_dir = \"/s\"
            [datapath]
            worker_cores = [2, 3]
            memory_mb = 512
            hugepages = \"always\"
            [[port]]
            name = \"up\"
            device = \"0000:03:00.0\"
            [[port]]
            name = \"vm-a\"
            socket = \"/run/a\"
            [[port]]
            name = \"vm-b\"
            socket = \"/pod/b\"
            socket_root = \"/pod\"
            [migration]
            [[migration_network]]
            name = \"fast\"
            interface = \"bond1\"
            address = \"203.0.113.9\"
        ";
        fs::write(file.path(), text).unwrap();
        let expected = Settings {
            worker_cores: vec![2, 3],
            memory_mb: 512,
            hugepages: "always".to_owned(),
            state_dir: PathBuf::from("/s"),
            devices: vec![("up".to_owned(), "0000:03:00.0".to_owned())],
            sockets: vec![("vm-a".to_owned(), PathBuf::from("/run/a"))],
            migration_networks: vec![Network {
                name: "fast".to_owned(),
                migrations: Vec::new(),
                places: Places {
                    interface: "bond1".to_owned(),
                    network_status: None,
                    otherwise: Some("203.0.113.9".parse().unwrap()),
                },
                rate: None,
            }],
        };
        let (settings, finding) = Settings::read(file.path());
        assert_eq!((settings, finding.level), (expected, Level::Ok));
        fs::write(file.path(), "[migration]").unwrap();
        let [network] = &Settings::read(file.path()).0.migration_networks[..] else { panic!("one network") };
        assert_eq!((network.name.as_str(), network.places.interface.as_str()), ("migration0", "migration0"));
        fs::write(file.path(), "[").unwrap();
        let (settings, finding) = Settings::read(file.path());
        assert_eq!((settings, finding.level), (Settings::default(), Level::Error));
        assert_eq!(Settings::read(Path::new("/no/such")).1.level, Level::Warning);
    }
}
