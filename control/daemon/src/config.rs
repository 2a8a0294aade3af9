//! culvertd's configuration: from the text of a TOML file to checked values, or to a list of every mistake in it.
//!
//! - [`mistake`]: one mistake, as it is shown;
//! - `source`: the text and its lines;
//! - `section`: reading one table key by key;
//! - `value`: readers of single values (names, durations, paths, addresses);
//! - [`devices`]: what of `[daemon]` is kubelet's matter; [`isolation`]: what of it is given up; [`rebalance`]: when queues move;
//! - [`migration`]: the migration proxy;
//! - [`network`], [`port`] with [`vlan`], [`mirror`], [`pod`]: one object each, as it is wanted; [`objects`]: all, and the rules
//!   between them;
//! - [`document`]: what docs/CONFIG.md is made of;
//! - [`machine`]: the cores and memory that values are checked against; [`kept`]: the last text without mistakes.
//!
//! Requests of clients and the journal are read by the same functions, from the same keys: [`read_object`],
//! [`read_objects`]. This is the only place that knows the keys. Nothing here opens a device or a socket: what only an attempt can
//! show (a folder that cannot be written, a driver that is missing) becomes the state of that port later.

pub mod clients;
pub mod devices;
pub mod document;
pub mod isolation;
pub mod kept;
pub mod machine;
pub mod migration;
pub mod mirror;
pub mod mistake;
pub mod network;
pub mod objects;
pub mod pod;
pub mod port;
pub mod rate;
pub mod rebalance;
mod section;
mod source;
mod value;
pub mod vlan;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_nic::Hugepages;
use rustix::fs::{Mode, OFlags};
use toml::de::{DeTable, DeValue};

pub use clients::Clients;
pub use devices::Devices;
pub use isolation::Isolation;
pub use machine::Machine;
pub use migration::Migration;
pub use mirror::Mirror;
pub use mistake::Mistake;
pub use network::Network;
pub use objects::{Kind, Object, Objects, Origin};
pub use pod::Pod;
pub use port::{Attachment, GUEST_MAC_LIMIT, MAX_QUEUES, MTU_RANGE, NIC_MAC_LIMIT, Port};
pub use rate::{Rate, Rates, rate_text};
pub use rebalance::Rebalance;
pub use value::{address_text, toml_text};
pub use vlan::{VlanRanges, Vlans};

use crate::name::Name;
use objects::Conflict;
use section::{Found, Report, Section};
use source::Source;
use value::{Wrong, set};

/// A whole configuration without mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The `[daemon]` section.
    pub daemon: Daemon,
    /// The `[datapath]` section.
    pub datapath: Datapath,
    /// The `[migration]` and `[[migration_network]]` sections.
    pub migration: Option<Migration>,
    /// The `[[network]]`, `[[port]]`, `[[mirror]]` and `[[pod]]` sections, each kind in the order of the file.
    pub objects: Objects,
}

/// The part of a configuration that holds until culvertd ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// The `[daemon]` section.
    pub daemon: Daemon,
    /// The `[datapath]` section.
    pub datapath: Datapath,
    /// The `[migration]` and `[[migration_network]]` sections.
    pub migration: Option<Migration>,
}

/// `[daemon]`: where culvertd meets its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// The Unix socket that culvertctl connects to; `/run/culvert/culvertd.sock` by default.
    pub control_socket: PathBuf,
    /// The folder for what must survive a restart; `/var/lib/culvert` by default.
    pub state_dir: PathBuf,
    /// Where metrics are served; `127.0.0.1:9477` by default, nowhere with `off`.
    pub metrics_address: Option<SocketAddr>,
    /// How ports are offered to kubelet.
    pub devices: Devices,
    /// What culvertd gives up.
    pub isolation: Isolation,
    /// Who may use the control socket.
    pub clients: Clients,
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
    /// When queues move between workers.
    pub rebalance: Rebalance,
    /// Further arguments for DPDK's EAL, as they are.
    pub eal_args: Vec<String>,
}

/// Smallest `memory_mb`: room for DPDK itself and a few thousand frames.
pub const MIN_MEMORY_MB: u32 = 64;
/// Largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;

impl Config {
    /// Reads and checks the file at `path`. `clients` are the objects that clients added, which it may not contradict.
    ///
    /// # Errors
    /// Every mistake in the file, or the one that it cannot be read.
    pub fn load(path: &Path, machine: &Machine, clients: &Objects) -> Result<Self, Vec<Mistake>> {
        Self::load_text(path, machine, clients).map(|(config, _)| config)
    }

    /// As [`Self::load`], with the text of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_text(path: &Path, machine: &Machine, clients: &Objects) -> Result<(Self, String), Vec<Mistake>> {
        let file_name = path.display().to_string();
        let unreadable = |problem: String, remedy: &str| {
            let (key, remedy) = (String::new(), remedy.to_owned());
            vec![Mistake { file: file_name.clone(), line: None, key, value: None, problem, remedy }]
        };
        let mut bytes = Vec::new();
        let most = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        open_file(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(|error| {
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
        Self::parse(&text, &file_name, machine, clients).map(|config| (config, text))
    }

    /// The keys of `[daemon]`, `[datapath]` and `[migration]` whose values are others than those that culvertd has started with.
    pub fn waiting_keys(&self, started: &Fixed) -> Vec<String> {
        let (daemon, before) = (&self.daemon, &started.daemon);
        let (datapath, datapath_before) = (&self.datapath, &started.datapath);
        let changed = [
            ("daemon.control_socket", daemon.control_socket != before.control_socket),
            ("daemon.state_dir", daemon.state_dir != before.state_dir),
            ("daemon.metrics_address", daemon.metrics_address != before.metrics_address),
            ("datapath.worker_cores", datapath.worker_cores != datapath_before.worker_cores),
            ("datapath.memory_mb", datapath.memory_mb != datapath_before.memory_mb),
            ("datapath.hugepages", datapath.hugepages != datapath_before.hugepages),
            ("datapath.idle_sleep", datapath.idle_sleep != datapath_before.idle_sleep),
            ("migration", self.migration != started.migration),
            ("datapath.eal_args", datapath.eal_args != datapath_before.eal_args),
        ];
        let rebalance = datapath.rebalance.differences(&datapath_before.rebalance);
        let devices = daemon.devices.differences(&before.devices);
        let isolation = daemon.isolation.differences(&before.isolation);
        let clients = daemon.clients.differences(&before.clients);
        changed
            .into_iter()
            .chain(rebalance)
            .chain(devices)
            .chain(isolation)
            .chain(clients)
            .filter(|(_, changed)| *changed)
            .map(|(key, _)| key.to_owned())
            .collect()
    }

    /// Checks the text of a configuration. `file_name` is only for messages.
    ///
    /// # Errors
    /// Every mistake, in the order of lines, at least one. A text that is not TOML is told about its syntax alone.
    pub fn parse(text: &str, file_name: &str, machine: &Machine, clients: &Objects) -> Result<Self, Vec<Mistake>> {
        let mut report = Report::new(Source::new(file_name, text));
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        if !syntax_errors.is_empty() {
            for error in syntax_errors {
                let offset = error.span().map_or(0, |span| span.start);
                let problem = format!("is not TOML: {}", error.message().replace('\n', ", "));
                let wrong = Wrong::new(problem, "correct the syntax (https://toml.io)");
                report.place("this line".to_owned(), offset, wrong);
            }
            return Err(report.into_mistakes());
        }

        let mut top = Section::new("", document.get_ref(), 0);
        let daemon = top.table(&mut report, "daemon");
        let daemon = read_daemon(&mut report, daemon);
        let datapath = top.table(&mut report, "datapath");
        let datapath = read_datapath(&mut report, datapath, machine);
        let migration = Migration::read(&mut report, &mut top);
        let found = FoundObjects::read(&mut report, &mut top, |line| Origin::File { line });
        top.finish(&mut report);
        found.report_conflicts(&mut report, clients, &daemon.control_socket);

        let mistakes = report.into_mistakes();
        if mistakes.is_empty() {
            Ok(Self { daemon, datapath, migration, objects: found.objects })
        } else {
            Err(mistakes)
        }
    }
}

/// Opens a regular file. Nothing else is waited for: a reload holds up all other changes.
fn open_file(path: &Path) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

fn read_daemon(report: &mut Report<'_>, section: Option<Section<'_>>) -> Daemon {
    let mut daemon = Daemon {
        control_socket: PathBuf::from("/run/culvert/culvertd.sock"),
        state_dir: PathBuf::from("/var/lib/culvert"),
        metrics_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9477))),
        devices: Devices::default(),
        isolation: Isolation::default(),
        clients: Clients::default(),
    };
    let Some(mut section) = section else { return daemon };
    let read_socket = |value: &DeValue<'_>| value::socket_path(value, "\"/run/culvert/culvertd.sock\"");
    let read_folder = |value: &DeValue<'_>| value::absolute_path(value, "\"/var/lib/culvert\"");
    set(&mut daemon.control_socket, section.optional(report, "control_socket", read_socket));
    set(&mut daemon.state_dir, section.optional(report, "state_dir", read_folder));
    set(&mut daemon.metrics_address, section.optional(report, "metrics_address", value::socket_address));
    daemon.devices = Devices::read(report, &mut section);
    daemon.isolation = Isolation::read(report, &mut section);
    daemon.clients = Clients::read(report, &mut section);
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
        rebalance: Rebalance::default(),
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
    datapath.rebalance = Rebalance::read(report, &mut section);
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

/// The objects of one text, each with the section that it was read from.
struct FoundObjects<'t> {
    objects: Objects,
    networks: Vec<Section<'t>>,
    ports: Vec<Section<'t>>,
    mirrors: Vec<Section<'t>>,
    pods: Vec<Section<'t>>,
    /// Those that could not be read.
    unread: BTreeSet<(Kind, Name)>,
}

impl<'t> FoundObjects<'t> {
    /// Reads all objects; `origin` is that of an object in a line.
    fn read(report: &mut Report<'_>, top: &mut Section<'t>, origin: fn(usize) -> Origin) -> Self {
        let mut unread = BTreeSet::new();
        let sections = top.tables(report, "network");
        let networks = read_kind(report, Kind::Network, sections, origin, &mut unread, Network::read);
        let sections = top.tables(report, "port");
        let ports = read_kind(report, Kind::Port, sections, origin, &mut unread, Port::read);
        let sections = top.tables(report, "mirror");
        let mirrors = read_kind(report, Kind::Mirror, sections, origin, &mut unread, Mirror::read);
        let sections = top.tables(report, "pod");
        let pods = read_kind(report, Kind::Pod, sections, origin, &mut unread, Pod::read);
        let objects = Objects { networks: networks.0, ports: ports.0, mirrors: mirrors.0, pods: pods.0 };
        Self { objects, networks: networks.1, ports: ports.1, mirrors: mirrors.1, pods: pods.1, unread }
    }

    /// Reports the rules between these objects and those of clients that are broken.
    fn report_conflicts(&self, report: &mut Report<'_>, clients: &Objects, control_socket: &Path) {
        let all = clients.clone().with(self.objects.clone());
        for Conflict { kind, index, key, wrong } in all.conflicts(control_socket, &self.unread) {
            let (before, sections) = match kind {
                Kind::Network => (clients.networks.len(), &self.networks),
                Kind::Port => (clients.ports.len(), &self.ports),
                Kind::Mirror => (clients.mirrors.len(), &self.mirrors),
                Kind::Pod => (clients.pods.len(), &self.pods),
            };
            match index.checked_sub(before).and_then(|index| sections.get(index)) {
                Some(section) => section.conflict(report, key, wrong),
                None => report.whole(lost_fit(&all, kind, index, key, &wrong)),
            }
        }
    }
}

/// What is wrong with a file that a client's object does not fit any more.
fn lost_fit(all: &Objects, kind: Kind, index: usize, key: &str, wrong: &Wrong) -> Wrong {
    let name = all.name(kind, index).map_or("", Name::as_str);
    let problem = format!("leaves {kind} {name} behind, which was added at run time: its {key} {}", wrong.problem);
    Wrong::new(problem, format!("keep what it needs, or remove it first: `culvertctl {kind} del {name}`"))
}

/// Reads the sections of one kind. Returns the objects that can be read, and the section of each.
fn read_kind<'t, T>(
    report: &mut Report<'_>,
    kind: Kind,
    sections: Vec<Section<'t>>,
    origin: fn(usize) -> Origin,
    unread: &mut BTreeSet<(Kind, Name)>,
    read: fn(&mut Report<'_>, &mut Section<'_>) -> Option<T>,
) -> (Vec<Object<T>>, Vec<Section<'t>>) {
    let (mut objects, mut of_objects) = (Vec::new(), Vec::new());
    for mut section in sections {
        let line = report.source.line(section.offset("name"));
        let object = read(report, &mut section);
        section.finish(report);
        if let Some(wanted) = object {
            objects.push(Object { wanted, origin: origin(line) });
            of_objects.push(section);
        } else {
            unread.extend(section.name().map(|name| (kind, name)));
        }
    }
    (objects, of_objects)
}

/// The keys of an object as a client or the journal gives them: each with its value as TOML.
pub type Keys = Vec<(&'static str, String)>;

/// Reads the object of a client from its keys. The rules between objects are not checked.
///
/// # Errors
/// Every mistake, without a file or a line.
pub fn read_object(kind: Kind, keys: &Keys) -> Result<Objects, Vec<Mistake>> {
    read_objects(&section_text(kind, keys)).map_err(|mut mistakes| {
        mistakes.iter_mut().for_each(|mistake| mistake.line = None);
        mistakes
    })
}

/// Reads the objects of clients from a text of sections as in the file. The rules between objects are not checked.
///
/// # Errors
/// Every mistake, without a file.
pub fn read_objects(text: &str) -> Result<Objects, Vec<Mistake>> {
    let mut report = Report::new(Source::new("", text));
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        report.place("this line".to_owned(), 0, Wrong::new("is not TOML", "report this: it is a mistake in culvertd"));
        return Err(report.into_mistakes());
    }
    let mut top = Section::new("", document.get_ref(), 0);
    let found = FoundObjects::read(&mut report, &mut top, |_| Origin::Client);
    top.finish(&mut report);
    let mistakes = report.into_mistakes();
    if mistakes.is_empty() { Ok(found.objects) } else { Err(mistakes) }
}

/// Whether an object of that kind has a key of that name.
pub fn is_key(kind: Kind, key: &str) -> bool {
    let table = DeTable::new();
    let (mut report, mut section) = (Report::new(Source::new("", "")), Section::new("", &table, 0));
    match kind {
        Kind::Network => drop(Network::read(&mut report, &mut section)),
        Kind::Port => drop(Port::read(&mut report, &mut section)),
        Kind::Mirror => drop(Mirror::read(&mut report, &mut section)),
        Kind::Pod => drop(Pod::read(&mut report, &mut section)),
    }
    section.knows(key)
}

/// Objects as a text of sections, which [`read_objects`] reads.
pub fn write_objects(objects: &Objects) -> String {
    let mut text = String::new();
    for network in &objects.networks {
        text.push_str(&section_text(Kind::Network, &network.wanted.keys()));
    }
    for port in &objects.ports {
        text.push_str(&section_text(Kind::Port, &port.wanted.keys()));
    }
    for mirror in &objects.mirrors {
        text.push_str(&section_text(Kind::Mirror, &mirror.wanted.keys()));
    }
    for pod in &objects.pods {
        text.push_str(&section_text(Kind::Pod, &pod.wanted.keys()));
    }
    text
}

/// One object as a section of the file.
fn section_text(kind: Kind, keys: &Keys) -> String {
    let mut text = format!("[[{kind}]]\n");
    for (key, value) in keys {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

/// The rules between objects that are broken, as mistakes without a file; `about` is the object that is blamed.
pub fn conflicts(objects: &Objects, control_socket: &Path) -> Vec<(Kind, Name, Mistake)> {
    let conflicts = objects.conflicts(control_socket, &BTreeSet::new()).into_iter();
    let mistakes = conflicts.filter_map(|Conflict { kind, index, key, wrong: Wrong { problem, remedy } }| {
        let name = objects.name(kind, index)?.clone();
        let keys = objects.keys(kind, index)?;
        let value = keys.into_iter().find(|(other, _)| *other == key).map(|(_, value)| value);
        let key = format!("{kind}.{key}");
        Some((kind, name, Mistake { file: String::new(), line: None, key, value, problem, remedy }))
    });
    mistakes.collect()
}
