//! TCP between guests on two nodes: guest, switch, af_packet on a veth pair, switch, guest. Each switch is in a network
//! namespace of its own, so that nothing but the wire joins them.
//!
//! The wire carries no segmentation requests: where a guest sends them, Culvert segments in software. That all bytes
//! arrive right is checked in the same run, by a stream of which the receiver compares each byte.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_system::daemon::Node;
use culvert_system::place::{Namespace, Place};
use culvert_system::qemu::Role;
use culvert_system::testpmd::Testpmd;
use culvert_system::veth::Veth;
use tempfile::TempDir;

use crate::core_to_core;
use crate::report::Report;
use crate::tcp::{Kind, boot};

/// iperf3 between two guests on two nodes, from the first to the second, against testpmd from net_vhost to
/// net_af_packet in Culvert's place on both nodes. A node's switch and guest share a core, whichever switch it is.
/// Run it in ci/isolated, as root.
#[derive(Args)]
pub struct Options {
    /// What the guests are.
    #[arg(long, value_enum, default_value_t = Kind::Qemu)]
    guest: Kind,
    /// Pairs of measurements.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Bytes whose arrival is checked in each run.
    #[arg(long, default_value_t = 20_000_000)]
    checked: u64,
    /// Cores of the two nodes.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
}

pub fn run(options: &Options) -> Result<()> {
    let &[one, other] = &options.cores[..] else { anyhow::bail!("--cores needs two cores") };
    println!("TCP between two nodes, Gbit/s; sender's node on core {one}, receiver's on core {other}");
    println!("peer: testpmd, io mode, net_vhost to net_af_packet\n");
    let mut report = Report::new("Gbit/s", "testpmd");
    for _ in 0..options.pairs {
        let distance = core_to_core::nanoseconds([one, other]);
        report.pair(distance, with_culvert(options)?, with_testpmd(options)?);
    }
    report.end();
    println!("in each run {} bytes more were compared one by one: all right", options.checked);
    Ok(())
}

fn with_culvert(options: &Options) -> Result<f64> {
    let wire = Wire::new()?;
    let (mut daemons, mut sockets) = (Vec::new(), Vec::new());
    for (namespace, core) in wire.ends.iter().zip(&options.cores) {
        let mut node = Node::new()?;
        node.set_worker_core(*core);
        node.set_namespace(namespace);
        sockets.push(node.add_guest("vm", Role::Listen, ""));
        node.add_nic("uplink", UPLINK, "");
        daemons.push((node.start()?, node));
    }
    let rate = measure(options, &sockets).with_context(|| {
        let shown = daemons.iter().flat_map(|(daemon, _)| ["port list", "stats", "drops"].map(|what| daemon.ctl(what)));
        let shown: Vec<_> = shown.map(|shown| shown.unwrap_or_else(|error| format!("{error:#}"))).collect();
        format!("culvertd on both nodes shows:\n{}", shown.join("\n"))
    })?;
    daemons.into_iter().try_for_each(|(daemon, _)| daemon.stop())?;
    Ok(rate)
}

fn with_testpmd(options: &Options) -> Result<f64> {
    let (wire, folder) = (Wire::new()?, TempDir::new()?);
    let (mut switches, mut sockets) = (Vec::new(), Vec::new());
    for (namespace, core) in wire.ends.iter().zip(&options.cores) {
        let socket = folder.path().join(core.to_string());
        let devices = [format!("net_vhost0,iface={}", socket.display()), UPLINK.to_owned()];
        let place = Place { core: Some(*core), namespace: Some(namespace.name().to_owned()), ..Place::default() };
        let mut switch = Testpmd::start_in(&place, &format!("switch{core}"), &devices, &["--forward-mode=io"])?;
        switch.command("start")?;
        switches.push(switch);
        sockets.push(socket);
    }
    measure(options, &sockets)
}

/// Two network namespaces, each with one end of a veth pair called `wire`.
struct Wire {
    ends: [Namespace; 2],
}

impl Wire {
    fn new() -> Result<Self> {
        let ends = [Namespace::new("a")?, Namespace::new("b")?];
        Veth::between([(INTERFACE, &ends[0]), (INTERFACE, &ends[1])], 1500)?;
        Ok(Self { ends })
    }
}

/// Boots a guest on each socket, and returns what iperf3 carries, in Gbit/s.
fn measure(options: &Options, sockets: &[PathBuf]) -> Result<f64> {
    let start = |index: usize| {
        let socket: &Path = sockets.get(index).context("two sockets")?;
        boot(options.guest, options.cores[index], ["vm-a", "vm-b"][index], socket, [1, 2][index])
    };
    let (mut a, mut b) = (start(0)?, start(1)?);
    a.wait_ready()?;
    b.wait_ready()?;
    let address = b.address().to_owned();
    a.ping(&address, 2)?;
    a.send_tcp(&mut b, &address, options.checked)?;
    b.serve_iperf()?;
    let rate = a.iperf(&address, &format!("-t {}", options.seconds))?;
    ensure!(rate > 0.0, "iperf3 carried nothing");
    Ok(rate / 1e3)
}

const INTERFACE: &str = "wire";

/// The DPDK device on that interface.
const UPLINK: &str = "net_af_packet0,iface=wire";
