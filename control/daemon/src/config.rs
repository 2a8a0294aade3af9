//! culvertd's configuration: from the text of a TOML file to checked values, or to a list of every mistake in it.
//!
//! - [`mistake`]: one mistake, as it is shown;
//! - `source`: the text and its lines;
//! - `section`: reading one table key by key;
//! - `value`: readers of single values (names, durations, paths, addresses);
//! - [`machine`]: the cores and memory that values are checked against.
//!
//! This is the only place that knows the keys. Nothing here opens a device or a socket: what only an attempt can
//! show (a folder that cannot be written, a driver that is missing) becomes the state of that port later.

pub mod machine;
pub mod mistake;
mod section;
mod source;
mod value;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_frame::MacAddress;
use culvert_nic::Hugepages;
use culvert_vhost::Role;
use toml::de::{DeTable, DeValue};

pub use machine::Machine;
pub use mistake::Mistake;

use crate::name::Name;
use section::{Found, Report, Section};
use source::Source;
use value::Wrong;

/// A whole configuration without mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The `[daemon]` section.
    pub daemon: Daemon,
    /// The `[datapath]` section.
    pub datapath: Datapath,
    /// The `[[network]]` sections, in the order of the file.
    pub networks: Vec<Network>,
    /// The `[[port]]` sections, in the order of the file.
    pub ports: Vec<Port>,
}

/// `[daemon]`: where culvertd meets its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// The Unix socket that culvertctl connects to; `/run/culvert/culvertd.sock` by default.
    pub control_socket: PathBuf,
    /// The folder for what must survive a restart; `/var/lib/culvert` by default.
    pub state_dir: PathBuf,
    /// Where metrics are served; `127.0.0.1:9477` by default.
    pub metrics_address: SocketAddr,
}

/// `[datapath]`: what the polling threads and DPDK get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datapath {
    /// One polling thread runs on each of these cores; at least one, no core twice. Core 1 by default.
    pub worker_cores: Vec<usize>,
    /// Memory for packet buffers in MiB, per NUMA node; 256 by default.
    pub memory_mb: u32,
    /// Whether that memory is in hugepages; `auto` by default.
    pub hugepages: Hugepages,
    /// How long a worker sees nothing before it sleeps; `None` polls for ever. 200 us by default.
    pub idle_sleep: Option<Duration>,
    /// Further arguments for DPDK's EAL, as they are.
    pub eal_args: Vec<String>,
}

/// One `[[network]]`: a learning bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name, unique among networks.
    pub name: Name,
    /// How long an address is remembered after its last frame; 300 s by default.
    pub mac_age: Duration,
}

/// One `[[port]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, unique among ports.
    pub name: Name,
    /// The network that it belongs to; one of [`Config::networks`].
    pub network: Name,
    /// What is at its other end.
    pub attachment: Attachment,
    /// Queue pairs, 1 to [`MAX_QUEUES`]; 1 by default.
    pub queues: u16,
    /// Largest payload of a frame in bytes, without the Ethernet header; 1500 by default.
    pub mtu: u16,
    /// How many addresses may be learned on this port; [`GUEST_MAC_LIMIT`] or [`NIC_MAC_LIMIT`] by default.
    pub mac_limit: u32,
}

/// What a port leads to: the keys `socket` and `device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A guest, through vhost-user.
    Guest {
        /// The vhost-user socket; its folder's path may be longer than a socket address holds.
        socket: PathBuf,
        /// Who creates the socket; culvertd by default.
        role: Role,
        /// The only source address that the guest may use; any when `None`.
        mac: Option<MacAddress>,
    },
    /// A device that DPDK drives: a PCI address, or a virtual device with its arguments.
    Nic {
        /// `0000:03:00.0`, or `net_pcap0,rx_pcap=in.pcap`; a PCI address has its domain.
        device: String,
    },
}

/// Most queue pairs of a port.
pub const MAX_QUEUES: u16 = 16;
/// Smallest `mtu` (virtio 1.3, 5.1.4.1) and largest, in bytes.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=9216;
/// Default `mac_limit` of a port with `socket`.
pub const GUEST_MAC_LIMIT: u32 = 64;
/// Largest `mac_limit`: all that a network's table holds.
pub const MAX_MAC_LIMIT: u32 = 8192;
/// Default `mac_limit` of a port with `device`: half of the table, so that the outside cannot take the guests' places.
pub const NIC_MAC_LIMIT: u32 = 4096;
/// Smallest `memory_mb`: room for DPDK itself and a few thousand frames.
pub const MIN_MEMORY_MB: u32 = 64;
/// Largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Every mistake in the file, or the one that it cannot be read.
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, Vec<Mistake>> {
        let file_name = path.display().to_string();
        let unreadable = |problem: String, remedy: &str| {
            let (key, remedy) = (String::new(), remedy.to_owned());
            vec![Mistake { file: file_name.clone(), line: None, key, value: None, problem, remedy }]
        };
        let mut bytes = Vec::new();
        let most = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(|error| {
            unreadable(format!("cannot be read: {error}"), "create it, or name another one with --config FILE")
        })?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(unreadable(
                format!("is larger than {MAX_FILE_BYTES} bytes"),
                "name culvertd's own configuration",
            ));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| unreadable(format!("is not UTF-8: {error}"), "save it as UTF-8 text"))?;
        Self::parse(&text, &file_name, machine)
    }

    /// Whether a port needs the PCI bus.
    pub fn uses_pci(&self) -> bool {
        let is_pci = |device: &str| value::pci_address(device.split(',').next().unwrap_or_default()).is_some();
        self.ports.iter().any(|port| matches!(&port.attachment, Attachment::Nic { device } if is_pci(device)))
    }

    /// Checks the text of a configuration. `file_name` is only for messages.
    ///
    /// # Errors
    /// Every mistake, in the order of lines, at least one. A text that is not TOML is told about its syntax alone.
    pub fn parse(text: &str, file_name: &str, machine: &Machine) -> Result<Self, Vec<Mistake>> {
        let mut report = Report::new(Source::new(file_name, text));
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        if !syntax_errors.is_empty() {
            for error in syntax_errors {
                let offset = error.span().map_or(0, |span| span.start);
                let problem = format!("is not TOML: {}", error.message().replace('\n', ", "));
                report.place(
                    "this line".to_owned(),
                    offset,
                    Wrong::new(problem, "correct the syntax (https://toml.io)"),
                );
            }
            return Err(report.into_mistakes());
        }

        let mut top = Section::new("", document.get_ref(), 0);
        let daemon = top.table(&mut report, "daemon");
        let daemon = read_daemon(&mut report, daemon);
        let datapath = top.table(&mut report, "datapath");
        let datapath = read_datapath(&mut report, datapath, machine);
        let networks = top.tables(&mut report, "network");
        let (networks, network_names) = read_networks(&mut report, networks);
        let ports = top.tables(&mut report, "port");
        let ports = read_ports(&mut report, ports, &network_names, &daemon.control_socket);
        top.finish(&mut report);

        let mistakes = report.into_mistakes();
        if mistakes.is_empty() { Ok(Self { daemon, datapath, networks, ports }) } else { Err(mistakes) }
    }
}

fn read_daemon(report: &mut Report<'_>, section: Option<Section<'_>>) -> Daemon {
    let mut daemon = Daemon {
        control_socket: PathBuf::from("/run/culvert/culvertd.sock"),
        state_dir: PathBuf::from("/var/lib/culvert"),
        metrics_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9477)),
    };
    let Some(mut section) = section else { return daemon };
    let read_socket = |value: &DeValue<'_>| value::socket_path(value, "\"/run/culvert/culvertd.sock\"");
    let read_folder = |value: &DeValue<'_>| value::absolute_path(value, "\"/var/lib/culvert\"");
    set(&mut daemon.control_socket, section.optional(report, "control_socket", read_socket));
    set(&mut daemon.state_dir, section.optional(report, "state_dir", read_folder));
    set(&mut daemon.metrics_address, section.optional(report, "metrics_address", value::socket_address));
    section.finish(report);
    daemon
}

fn read_datapath(report: &mut Report<'_>, section: Option<Section<'_>>, machine: &Machine) -> Datapath {
    let default_core = if machine.cores.contains(&1) { 1 } else { machine.cores.first().copied().unwrap_or(0) };
    let mut datapath = Datapath {
        worker_cores: vec![default_core],
        memory_mb: 256,
        hugepages: Hugepages::Auto,
        idle_sleep: Some(Duration::from_micros(200)),
        eal_args: Vec::new(),
    };
    let Some(mut section) = section else { return datapath };

    let read_core = |value: &DeValue<'_>| {
        let core = value::number(value, 0..=rustix::thread::CpuSet::MAX_CPU - 1)?;
        let remedy = || format!("choose from {}", machine.core_list());
        if machine.cores.contains(&core) {
            Ok(core)
        } else {
            Err(Wrong::new("is no core that culvertd may use", remedy()))
        }
    };
    if let Some(cores) = section.list(report, "worker_cores", "[1]", read_core) {
        datapath.worker_cores = distinct_cores(report, &section.path("worker_cores"), cores);
    }
    let read_memory = |value: &DeValue<'_>| value::number(value, MIN_MEMORY_MB..=machine.memory_mb.max(MIN_MEMORY_MB));
    set(&mut datapath.memory_mb, section.optional(report, "memory_mb", read_memory));
    let hugepages = [("auto", Hugepages::Auto), ("always", Hugepages::Always), ("never", Hugepages::Never)];
    set(&mut datapath.hugepages, section.optional(report, "hugepages", |value| value::choice(value, &hugepages)));
    let read_idle = |value: &DeValue<'_>| value::duration(value, Duration::ZERO..=Duration::from_secs(10), "\"200us\"");
    if let Some(idle) = section.optional(report, "idle_sleep", read_idle) {
        datapath.idle_sleep = (!idle.value.is_zero()).then_some(idle.value);
    }
    let example = "[\"--log-level=lib.eal:8\"]";
    let read_argument = |value: &DeValue<'_>| value::text(value, "\"--log-level=lib.eal:8\"").map(str::to_owned);
    if let Some(arguments) = section.list(report, "eal_args", example, read_argument) {
        datapath.eal_args = arguments.value.into_iter().map(|argument| argument.value).collect();
    }
    section.finish(report);
    datapath
}

/// The cores of `worker_cores`; an empty list and repeated cores are reported.
fn distinct_cores(report: &mut Report<'_>, key: &str, cores: Found<Vec<Found<usize>>>) -> Vec<usize> {
    let mut distinct = Vec::new();
    if cores.value.is_empty() && report.source.snippet(&cores.span).trim_matches(['[', ']', ' ']).is_empty() {
        report.value(key.to_owned(), &cores.span, Wrong::new("names no core", "write at least one, like [1]"));
    }
    for core in cores.value {
        if distinct.contains(&core.value) {
            report.value(key.to_owned(), &core.span, Wrong::new("names this core twice", "write each core once"));
        } else {
            distinct.push(core.value);
        }
    }
    distinct
}

/// The networks without mistakes, and the names of all of them (a port may name a network whose other keys are wrong).
fn read_networks(report: &mut Report<'_>, sections: Vec<Section<'_>>) -> (Vec<Network>, Vec<Name>) {
    let mut networks = Vec::new();
    let mut names = Unique::new("network name", "give each network a name of its own");
    for mut section in sections {
        let name = section.required(report, "name", "\"blue\"", value::name);
        let age_range = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        let read_age = |value: &DeValue<'_>| value::duration(value, age_range, "\"300s\"");
        let mac_age = section.optional(report, "mac_age", read_age).map_or(Duration::from_secs(300), |age| age.value);
        if let Some(name) = name {
            names.check(report, section.path("name"), &name);
            networks.push(Network { name: name.value, mac_age });
        }
        section.finish(report);
    }
    (networks, names.into_values())
}

fn read_ports(
    report: &mut Report<'_>,
    sections: Vec<Section<'_>>,
    networks: &[Name],
    control_socket: &Path,
) -> Vec<Port> {
    let mut ports = Vec::new();
    let mut names = Unique::new("port name", "give each port a name of its own");
    let mut addresses = Unique::new("address", "give each guest of a network an address of its own");
    let mut attachments = Attachments {
        control_socket,
        sockets: Unique::new("socket", "give each port a socket of its own"),
        devices: Unique::new("device", "give each port a device of its own"),
    };
    for mut section in sections {
        let name = section.required(report, "name", "\"vm-a\"", value::name);
        if let Some(name) = &name {
            names.check(report, section.path("name"), name);
        }
        let network = section.required(report, "network", "\"blue\"", |value| {
            let name = value::name(value)?;
            if networks.contains(&name) { Ok(name) } else { Err(no_such_network(&name, networks)) }
        });
        let attachment = attachments.read(report, &mut section);
        if let (Some(network), Some((_, Some(mac)))) = (&network, &attachment) {
            let pair = Found { value: (network.value.clone(), mac.value), span: mac.span.clone() };
            addresses.check(report, section.path("mac"), &pair);
        }
        let queues = section.optional(report, "queues", |value| value::number(value, 1..=MAX_QUEUES));
        let mtu = section.optional(report, "mtu", |value| value::number(value, MTU_RANGE));
        let mac_limit = section.optional(report, "mac_limit", |value| value::number(value, 1..=MAX_MAC_LIMIT));
        section.finish(report);

        if let (Some(name), Some(network), Some((attachment, _))) = (name, network, attachment) {
            let default_limit = match attachment {
                Attachment::Guest { .. } => GUEST_MAC_LIMIT,
                Attachment::Nic { .. } => NIC_MAC_LIMIT,
            };
            ports.push(Port {
                name: name.value,
                network: network.value,
                attachment,
                queues: queues.map_or(1, |found| found.value),
                mtu: mtu.map_or(1500, |found| found.value),
                mac_limit: mac_limit.map_or(default_limit, |found| found.value),
            });
        }
    }
    ports
}

fn no_such_network(name: &Name, networks: &[Name]) -> Wrong {
    let names = || networks.iter().map(Name::as_str);
    let remedy = match mistake::nearest(name.as_str(), names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("add a [[network]] section with name = \"{name}\""),
    };
    Wrong::new("is no network of this file", remedy)
}

/// Reads the keys that say what a port leads to, and sees that no two ports lead to the same thing.
struct Attachments<'a> {
    control_socket: &'a Path,
    sockets: Unique<PathBuf>,
    devices: Unique<String>,
}

impl Attachments<'_> {
    /// The attachment of one port, and its `mac` once more with its place. `None` when there is a mistake in `socket`
    /// or `device`.
    fn read(
        &mut self,
        report: &mut Report<'_>,
        section: &mut Section<'_>,
    ) -> Option<(Attachment, Option<Found<MacAddress>>)> {
        let example = "\"/run/culvert/ports/vm-a/vhost.sock\"";
        let socket = section.optional(report, "socket", |value| value::socket_path(value, example));
        let device = section.optional(report, "device", value::device);
        let roles = [("listen", Role::Listen), ("connect", Role::Connect)];
        let role = section.optional(report, "role", |value| value::choice(value, &roles));
        let mac = section.optional(report, "mac", value::station_address);

        if let Some(socket) = &socket {
            if socket.value == self.control_socket {
                let wrong = Wrong::new("is the control socket", "give the port a socket of its own");
                report.value(section.path("socket"), &socket.span, wrong);
            }
            self.sockets.check(report, section.path("socket"), socket);
        }
        if let Some(device) = &device {
            // A device may not be opened twice, even with other arguments.
            let device_name = device.value.split(',').next().unwrap_or_default().to_owned();
            let named = Found { value: device_name, span: device.span.clone() };
            self.devices.check(report, section.path("device"), &named);
        }
        match (section.has("socket"), section.has("device")) {
            (true, true) => {
                let wrong = Wrong::new("stands beside socket", "keep device for a NIC or socket for a guest, not both");
                section.refuse(report, "device", wrong);
                None
            }
            (false, false) => {
                let remedy = format!("add socket = {example} for a guest or device = \"0000:03:00.0\" for a NIC");
                section.missing(report, "socket or device", &remedy);
                None
            }
            (true, false) => {
                let role = role.map_or(Role::Listen, |found| found.value);
                let address = mac.as_ref().map(|found| found.value);
                socket.map(|socket| (Attachment::Guest { socket: socket.value, role, mac: address }, mac))
            }
            (false, true) => {
                for key in ["role", "mac"] {
                    section.refuse(report, key, Wrong::new("works only with socket", "remove it"));
                }
                device.map(|device| (Attachment::Nic { device: device.value }, None))
            }
        }
    }
}

/// Values that may appear once in a file, with the line of each.
struct Unique<T> {
    what: &'static str,
    remedy: &'static str,
    lines: BTreeMap<T, usize>,
}

impl<T: Clone + Ord> Unique<T> {
    fn new(what: &'static str, remedy: &'static str) -> Self {
        Self { what, remedy, lines: BTreeMap::new() }
    }

    /// Remembers a value; reports it when it was there before.
    fn check(&mut self, report: &mut Report<'_>, key: String, found: &Found<T>) {
        if let Some(line) = self.lines.get(&found.value) {
            let wrong = Wrong::new(format!("is the {} of line {line} as well", self.what), self.remedy);
            report.value(key, &found.span, wrong);
        } else {
            self.lines.insert(found.value.clone(), report.source.line(found.span.start));
        }
    }

    fn into_values(self) -> Vec<T> {
        self.lines.into_keys().collect()
    }
}

/// Puts a value that was found in the place of a default.
fn set<T>(place: &mut T, found: Option<Found<T>>) {
    if let Some(found) = found {
        *place = found.value;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mac_limit_is_the_size_of_a_table() {
        assert_eq!(usize::try_from(super::MAX_MAC_LIMIT).unwrap(), culvert_switch::mac_table::TABLE_ENTRIES);
    }
}
