//! TCP between two Linux guests, at the MTU of 1500: what checksum and segmentation offloads are for.
//!
//! With guests in QEMU the peer is testpmd; emulated guests cost so much themselves that the switch is a small part of
//! it, on both sides. With guests in user-mode Linux, which run natively, Culvert is compared with itself without offloads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use culvert_system::daemon::Node;
use culvert_system::guest::Guest;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::testpmd::Testpmd;
use culvert_system::uml;
use tempfile::TempDir;

use crate::core_to_core;
use crate::report::Report;

/// iperf3 between two guests, from the first to the second. The guests run on a core each, and the switch shares the
/// core of the receiving guest (--cores), whichever switch it is: machines of two cores can do that.
#[derive(Args)]
pub struct Options {
    /// What the guests are, and with that what Culvert is compared with.
    #[arg(long, value_enum, default_value_t = Kind::Qemu)]
    guest: Kind,
    /// Pairs of measurements.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Cores of the sending guest, the receiving guest, and the switch.
    #[arg(long, value_delimiter = ',', default_value = "0,1,1")]
    cores: Vec<usize>,
    /// With user-mode Linux, how offloads are off for the comparison.
    #[arg(long, value_enum, default_value_t = Off::Port)]
    off: Off,
    /// Let testpmd pass on segmentation requests as well (net_vhost's tso=1), which is not its default.
    #[arg(long)]
    peer_tso: bool,
    /// TCP connections at the same time. One alone waits for wake-ups more than for anything else where guests and switch share cores.
    #[arg(long, default_value_t = 4)]
    streams: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Emulated; the peer is testpmd with two net_vhost ports in io mode, which has no segmentation offload.
    Qemu,
    /// User-mode Linux; the peer is Culvert with offloads off.
    Uml,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Off {
    /// Culvert offers none (`offloads = false`); the guests' kernels still handle long packets, up to their drivers.
    Port,
    /// `ethtool -K` in both guests: tx, tso, gso and gro, so that every packet of 1500 bytes goes through their kernels alone.
    Ethtool,
}

pub fn run(options: &Options) -> Result<()> {
    let &[sender, receiver, switch] = &options.cores[..] else { anyhow::bail!("--cores needs three cores") };
    let (peer, what) = match options.guest {
        Kind::Qemu if options.peer_tso => ("testpmd", "testpmd with two net_vhost ports, tso=1, io mode"),
        Kind::Qemu => ("testpmd", "testpmd with two net_vhost ports, io mode"),
        Kind::Uml if options.off == Off::Port => ("without", "Culvert with offloads = false"),
        Kind::Uml => ("without", "Culvert with offloads off in the guests, by ethtool -K"),
    };
    println!("TCP from guest to guest, Gbit/s; sender on core {sender}, receiver on {receiver}, switch on {switch}");
    println!("{} connections; peer: {what}\n", options.streams);
    let mut report = Report::new("Gbit/s", peer);
    let mut offloads = Vec::new();
    for _ in 0..options.pairs {
        let distance = core_to_core::nanoseconds([sender, if switch == sender { receiver } else { switch }]);
        let ours = with_culvert(options, None, &mut offloads)?;
        let theirs = match options.guest {
            Kind::Qemu => with_testpmd(options)?,
            Kind::Uml => with_culvert(options, Some(options.off), &mut Vec::new())?,
        };
        report.pair(distance, ours, theirs);
    }
    report.end();
    println!("on with Culvert in the guests, by ethtool -k: {}", offloads.join(", "));
    Ok(())
}

/// Gbit/s through culvertd; `offloads` is set to those that are on in the sending guest.
fn with_culvert(options: &Options, off: Option<Off>, offloads: &mut Vec<String>) -> Result<f64> {
    let mut node = Node::new()?;
    node.set_worker_core(options.cores[2]);
    let keys = if off == Some(Off::Port) { "offloads = false" } else { "" };
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, keys));
    let daemon = node.start()?;
    let rate = measure(options, &sockets, off == Some(Off::Ethtool), offloads).with_context(|| {
        let shown = ["port list", "stats", "drops", "status"]
            .map(|what| daemon.ctl(what).unwrap_or_else(|error| format!("{error:#}")));
        format!("culvertd shows:\n{}", shown.join("\n"))
    })?;
    daemon.stop()?;
    Ok(rate)
}

fn with_testpmd(options: &Options) -> Result<f64> {
    let folder = TempDir::new()?;
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    let place = Place { core: Some(options.cores[2]), ..Place::default() };
    let _testpmd = Testpmd::switch_in(&place, [&sockets[0], &sockets[1]], options.peer_tso)?;
    measure(options, &sockets, false, &mut Vec::new())
}

/// Boots two guests on the sockets and returns what iperf3 carries, in Gbit/s; `off`: with offloads off in both.
fn measure(options: &Options, sockets: &[PathBuf; 2], off: bool, offloads: &mut Vec<String>) -> Result<f64> {
    let mut a = boot(options.guest, options.cores[0], "vm-a", &sockets[0], 1)?;
    let mut b = boot(options.guest, options.cores[1], "vm-b", &sockets[1], 2)?;
    a.wait_ready()?;
    b.wait_ready()?;
    if off {
        for guest in [&mut a, &mut b] {
            guest.check("ethtool -K eth0 tx off tso off gso off gro off")?;
        }
    }
    b.serve_iperf()?;
    let address = b.address().to_owned();
    a.ping(&address, 2)?;
    let rate = a.iperf(&address, &format!("-t {} -P {}", options.seconds, options.streams))?;
    ensure!(rate > 0.0, "iperf3 carried nothing");
    *offloads = a.offloads()?.into_iter().filter(|name| is_relevant(name)).collect();
    Ok(rate / 1e3)
}

/// Starts a guest of a kind on a core.
pub fn boot(kind: Kind, core: usize, name: &str, socket: &Path, number: u8) -> Result<Guest> {
    let place = Place { core: Some(core), ..Place::default() };
    match kind {
        Kind::Qemu => GuestOptions { place, ..GuestOptions::new(name, socket, number) }.boot(),
        Kind::Uml => uml::boot_in(&place, name, socket, number),
    }
}

/// Whether it is an offload that the device has a part in, or one that matters beside it.
fn is_relevant(offload: &str) -> bool {
    offload.contains("checksum") || offload.contains("segmentation") || offload.contains("gro")
}
