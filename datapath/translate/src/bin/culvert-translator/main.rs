//! culvert-translator: one process for one guest on the primary network; takes passt's command line.
//!
//! The life of the process, which is also the order of the modules: the command line ([`arguments`], [`options`]), the
//! pod's network ([`pod`]), everything together ([`setup`]), then the event loop ([`event_loop`]), which asks [`control`]
//! for requests and records frames with [`pcap`].
#![deny(unsafe_code)]

mod arguments;
mod control;
mod event_loop;
mod options;
mod pcap;
mod pod;
mod running;
mod setup;

use std::io::{ErrorKind, Write};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use culvert_translate::forward::{ForwardTable, Ground, Protocol};

use arguments::Arguments;
use control::ControlSocket;
use event_loop::EventLoop;
use options::{Control, Guest, Options};
use pcap::Pcap;
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
    let _ = writeln!(std::io::stderr(), "culvert-translator: {error:#}");
    ExitCode::FAILURE
}

fn run(options: Options) -> Result<()> {
    let event_loop = EventLoop::open(setup(options)?)?;
    event_loop.run(|| Ok(()))
}

/// Everything that the event loop needs.
fn setup(options: Options) -> Result<Setup> {
    let pod = pod::read(&options.wanted)?;
    let settings = pod::settings(&pod, &options.wanted)?;
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
    let control = match (&options.control, &transport) {
        (Control::None, _) => None,
        (Control::At(path), _) => Some(path.clone()),
        (Control::BesideGuest, Transport::VhostUser { path, .. } | Transport::Stream { path }) => {
            Some(options::beside(path))
        }
        (Control::BesideGuest, Transport::StreamDescriptor(_) | Transport::PacketDescriptor(_)) => None,
    };
    let (quit, _signals) = UnixStream::pair()?;
    std::mem::forget(_signals);
    Ok(Setup {
        settings,
        transport,
        forwards,
        freebind: options.freebind,
        one_off: options.one_off,
        control: control.as_deref().map(ControlSocket::bind).transpose()?,
        pcap: options.pcap.as_deref().map(Pcap::create).transpose()?,
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
        Guest::StreamDescriptor(number) | Guest::PacketDescriptor(number) => {
            return Err(anyhow!("descriptor {number} cannot be taken"));
        }
    })
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

/// What QEMU's documentation of vhost-user backends asks for.
const CAPABILITIES: &str = "{\n  \"type\": \"net\"\n}";
/// Those of Linux.
const DEFAULT_EPHEMERAL_PORTS: RangeInclusive<u16> = 32768..=60999;
