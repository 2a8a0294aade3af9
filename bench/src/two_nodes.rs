//! TCP between guests on two nodes: guest, switch, af_packet on a veth pair, switch, guest. Each switch is in a network
//! namespace of its own, so that nothing but the wire joins them.
//!
//! The wire carries no segmentation requests: where a guest sends them, Culvert segments in software. That all bytes
//! arrive right is checked in the same run, by a stream of which the receiver compares each byte. A node's switch and guest
//! share a core, whichever switch it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::place::{Namespace, Place};
use culvert_system::qemu::Role;
use culvert_system::testpmd::Testpmd;
use culvert_system::veth::Veth;
use tempfile::TempDir;

use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};
use crate::tcp::{Kind, boot};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let options = options.clone();
    Ok(vec![Case::new("one connection", move |peer| {
        let rate = match peer {
            Peer::Culvert => with_culvert(&options),
            _ => with_testpmd(&options),
        };
        Ok(vec![Figure::gain("rate", "Gbit/s", rate?)])
    })])
}

fn with_culvert(options: &Options) -> Result<f64> {
    let wire = Wire::new()?;
    let (mut daemons, mut sockets) = (Vec::new(), Vec::new());
    for (namespace, core) in wire.ends.iter().zip(options.guest_cores()) {
        let mut node = Node::new()?;
        node.set_worker_core(core);
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
    for (namespace, core) in wire.ends.iter().zip(options.guest_cores()) {
        let socket = folder.path().join(core.to_string());
        let devices = [format!("net_vhost0,iface={}", socket.display()), UPLINK.to_owned()];
        let place = Place { core: Some(core), namespace: Some(namespace.name().to_owned()), ..Place::default() };
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
    let cores = options.guest_cores();
    let start = |index: usize| {
        let socket: &Path = sockets.get(index).context("two sockets")?;
        boot(Kind::Qemu, Role::Listen, cores[index], ["vm-a", "vm-b"][index], socket, [1, 2][index])
    };
    let (mut a, mut b) = (start(0)?, start(1)?);
    a.wait_ready()?;
    b.wait_ready()?;
    let address = b.address().to_owned();
    a.ping(&address, 2)?;
    a.send_tcp(&mut b, &address, CHECKED)?;
    b.serve_iperf()?;
    let rate = a.iperf(&address, &format!("-t {}", options.whole_seconds()))?;
    ensure!(rate > 0.0, "iperf3 carried nothing");
    Ok(rate / 1e3)
}

/// Bytes whose arrival is checked in each run.
const CHECKED: u64 = 20_000_000;

const INTERFACE: &str = "wire";

/// The DPDK device on that interface.
const UPLINK: &str = "net_af_packet0,iface=wire";
