//! culvert-translator: one process for one guest on the primary network; takes passt's command line.
//!
//! [`run`] is the life of the process: what the command line asks for ([`arguments`], [`options`]) is opened, with the
//! pod's network ([`pod`]) as the pattern; then the process gives up its rights in stages ([`isolation`]), goes to the
//! background ([`background`]) and serves the guest ([`event_loop`], with several queue pairs also [`lane_loop`]; [`running`] answers [`control`], [`recorded`]
//! writes [`pcap`], [`statistics`] are printed). What happens is told by [`log`].
#![deny(unsafe_code)]

mod arguments;
mod background;
mod control;
mod event_loop;
mod help;
mod isolation;
mod lane_loop;
mod log;
mod migration;
mod options;
mod patience;
mod pcap;
mod pod;
mod process;
mod recorded;
mod repair;
mod round;
mod running;
mod setup;
mod side_socket;
mod statistics;
mod steering;
mod wait;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use culvert_translate::forward::{ForwardTable, Ground, Protocol};
use culvert_translate::time::Instant;
use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use arguments::Arguments;
use control::ControlSocket;
use event_loop::EventLoop;
use help::HelpSocket;
use isolation::User;
use log::{Log, LogFile, Sink, Syslog};
use options::{Control, Guest, Level, Options};
use pcap::Pcap;
use repair::RepairSocket;
use setup::{Setup, Transport};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // There is nobody left to tell when this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if arguments.process.print_capabilities {
        return match writeln!(std::io::stdout(), "{CAPABILITIES}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let Err(error) = Options::try_from(arguments).map_err(Into::into).and_then(run) else { return ExitCode::SUCCESS };
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{error:#}");
    } else {
        let _ = writeln!(std::io::stderr(), "culvert-translator: {error:#}");
    }
    ExitCode::FAILURE
}

/// The life of the process. Each stage of isolation comes as soon as what it forbids is done.
fn run(options: Options) -> Result<()> {
    let start = Instant::now();
    let user = options.run_as.as_deref().map(User::named).transpose()?.or_else(User::instead_of_root);
    isolation::begin(match options.guest {
        Guest::StreamDescriptor(number) | Guest::PacketDescriptor(number) => Some(number),
        Guest::Stream(_) | Guest::VhostUser { .. } | Guest::PacketHelp(_) => None,
    })?;

    let log = open_log(&options, start)?;
    log.install();
    for notice in &options.notices {
        tracing::warn!("{notice}");
    }
    raise_descriptor_limit();
    let pid_file = options.pid_file.as_deref().map(create_pid_file).transpose()?;
    let background = if options.foreground { None } else { Some(background::prepare()?) };
    let event_loop = EventLoop::open(setup(&options)?)?;

    isolation::become_user(user)?;
    isolation::leave_file_system(background.is_some(), options.chroot_fallback)?;
    let ready = match (background, pid_file) {
        (Some(prepared), pid_file) => Some(background::enter(prepared, pid_file)?),
        (None, Some(pid_file)) => {
            background::write_pid(pid_file, rustix::process::getpid())?;
            None
        }
        (None, None) => None,
    };
    event_loop.run(move || {
        if let Some(ready) = &ready {
            ready.leave_terminal()?;
        }
        isolation::seal()?;
        log.started();
        if let Some(ready) = ready {
            ready.tell();
        }
        Ok(())
    })
}

/// The log that was asked for: a file, or with --debug standard error; otherwise the system's, or what there is.
fn open_log(options: &Options, start: Instant) -> Result<Log> {
    let sink = match &options.log_file {
        Some(path) => {
            let file = LogFile::create(path, options.log_size);
            Sink::File(file.with_context(|| format!("--log-file {}: it cannot be made", path.display()))?)
        }
        None if options.foreground || options.level >= Level::Debug => Sink::Stderr,
        None => Syslog::connect().map_or(Sink::Stderr, Sink::Syslog),
    };
    Ok(Log::new(sink, options.level.into(), start))
}

/// Each flow costs a descriptor: takes as many as are allowed.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

fn create_pid_file(path: &Path) -> Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o644).open(path);
    file.with_context(|| format!("--pid {}: it cannot be made", path.display()))
}

/// Everything that the event loop needs.
fn setup(options: &Options) -> Result<Setup> {
    let pod = pod::read(&options.wanted)?;
    let settings = pod::settings(&pod, &options.wanted)?;
    let summary = pod::Summary::of(&pod, &options.wanted, &settings);
    summary.lines.iter().for_each(|line| tracing::info!("{line}"));
    summary.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let ground = Ground {
        v4: settings.v4.is_some(),
        v6: settings.v6.is_some(),
        tcp: settings.services.tcp,
        udp: settings.services.udp,
        ephemeral: ephemeral_ports(),
    };
    let mut forwards = ForwardTable::new(ground);
    for (protocol, option, specs) in
        [(Protocol::Tcp, "--tcp-ports", &options.tcp_ports), (Protocol::Udp, "--udp-ports", &options.udp_ports)]
    {
        for spec in specs {
            forwards.add(protocol, spec).with_context(|| format!("{option} {spec}"))?;
        }
    }
    let transport = transport(&options.guest)?;
    if let Transport::VhostUser { path, .. } | Transport::Stream { path } = &transport {
        tracing::info!("the guest's socket is {}", path.display());
    }
    let control = match (&options.control, &transport) {
        (Control::At(path), _) => Some(ControlSocket::bind(path)?),
        (Control::BesideGuest, Transport::VhostUser { path, .. } | Transport::Stream { path })
        | (Control::BesideGuest, Transport::PacketHelp { path }) => {
            // Nobody asked for it, and callers of passt may not let it have that name.
            let bound = ControlSocket::bind(&options::beside(path));
            bound.inspect_err(|error| tracing::warn!("there is no control socket: {error}")).ok()
        }
        (Control::None | Control::BesideGuest, _) => None,
    };
    let help = match &transport {
        Transport::PacketHelp { path } => Some(HelpSocket::bind(&options::help_beside(path), true)?),
        Transport::VhostUser { path, .. } | Transport::Stream { path }
            if options.control != Control::None && forwards.can_be_steered() && !steering::is_permitted() =>
        {
            // Nobody asked for it either.
            let bound = HelpSocket::bind(&options::help_beside(path), false);
            bound.inspect_err(|error| tracing::warn!("there is no socket for help: {error}")).ok()
        }
        _ => None,
    };
    let repair = match (&options.repair, &transport) {
        (Control::At(path), Transport::VhostUser { .. }) => Some(RepairSocket::bind(path)?),
        (Control::BesideGuest, Transport::VhostUser { path, .. }) => {
            let bound = RepairSocket::bind(&options::repair_beside(path));
            bound.inspect_err(|error| tracing::warn!("connections cannot move with the guest: {error}")).ok()
        }
        _ => None,
    };
    for rule in forwards.rules().iter().take(MAX_RULES_TOLD) {
        tracing::info!("forwarded: {rule}");
    }
    let (quit, signalled) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    Ok(Setup {
        settings,
        transport,
        forwards,
        first_unprivileged_port: first_unprivileged_port(),
        freebind: options.freebind,
        one_off: options.one_off,
        control,
        help,
        repair,
        migrate_strict: options.migrate_strict,
        pcap: options.pcap.as_deref().map(create_pcap).transpose()?,
        statistics: options.statistics,
        quit,
    })
}

fn transport(guest: &Guest) -> Result<Transport> {
    Ok(match guest {
        Guest::Stream(path) => Transport::Stream { path: path.clone().map_or_else(free_path, Ok)? },
        Guest::VhostUser { path, role, queue_pairs } => Transport::VhostUser {
            path: path.clone().map_or_else(free_path, Ok)?,
            role: *role,
            queue_pairs: *queue_pairs,
        },
        Guest::PacketHelp(path) => Transport::PacketHelp { path: path.clone() },
        Guest::StreamDescriptor(number) => {
            let descriptor = process::take_descriptor(*number);
            Transport::StreamDescriptor(descriptor.with_context(|| format!("--fd {number}: there is none"))?)
        }
        Guest::PacketDescriptor(number) => {
            let descriptor = process::take_descriptor(*number);
            Transport::PacketDescriptor(descriptor.with_context(|| format!("--packet-fd {number}: there is none"))?)
        }
    })
}

fn create_pcap(path: &Path) -> Result<Pcap> {
    Pcap::create(path).with_context(|| format!("--pcap {}: it cannot be made", path.display()))
}

/// The first of passt's paths at which nobody listens.
fn free_path() -> Result<PathBuf> {
    (1..=64)
        .map(|number| PathBuf::from(format!("/tmp/passt_{number}.socket")))
        .find(|path| {
            let error = UnixStream::connect(path).err().map(|error| error.kind());
            matches!(error, Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused))
        })
        .ok_or_else(|| {
            anyhow!("all of /tmp/passt_1.socket to /tmp/passt_64.socket are in use; choose a path with --socket")
        })
}

/// The ports that the kernel gives out by itself.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => DEFAULT_EPHEMERAL_PORTS,
    }
}

/// Below it, ports need a right.
fn first_unprivileged_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(DEFAULT_UNPRIVILEGED_PORT)
}

/// Rules that are told at the start.
const MAX_RULES_TOLD: usize = 32;
/// What QEMU's documentation of vhost-user backends asks for.
const CAPABILITIES: &str = "{\n  \"type\": \"net\"\n}";
/// Linux's.
const DEFAULT_UNPRIVILEGED_PORT: u16 = 1024;
/// Linux's.
const DEFAULT_EPHEMERAL_PORTS: RangeInclusive<u16> = 32768..=60999;
