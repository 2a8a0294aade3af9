//! Whom the load is given to: Culvert, and what it is compared with. Each is started for one measurement, with the same
//! sockets and on the same core, and ended after it.

mod ovs;
pub mod rust_vmm;
mod testpmd;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::qemu::Role;
use serde::Serialize;
use serde_json::Value;

/// Whom the load is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// culvertd: learning, guard and counters on.
    Culvert,
    /// culvertd with `offloads = false`.
    CulvertPlain,
    /// culvertd, and offloads off in the guests, by `ethtool -K`, so that every packet goes through their kernels alone.
    CulvertGuestsOff,
    /// DPDK's testpmd with net_vhost, io mode: what comes from one guest goes to the other.
    Testpmd,
    /// The same with `tso=1`.
    TestpmdTso,
    /// testpmd in mac mode, which writes addresses.
    TestpmdMac,
    /// Open vSwitch with DPDK, one NORMAL flow: a learning switch.
    Ovs,
    /// A plain backend of vhost-user-backend and virtio-queue, which polls.
    RustVmm,
    /// passt, in the translator's place.
    Passt,
}

impl Peer {
    /// Its name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What a measurement wants to be switched.
pub struct Setup {
    /// Guests, each with a socket.
    pub guests: usize,
    /// Largest payload of a frame in bytes.
    pub mtu: u32,
    /// Addresses of each guest.
    pub addresses: u32,
    /// The core that switches.
    pub core: usize,
    /// culvertd's `idle_sleep`; other peers poll always.
    pub idle_sleep: &'static str,
    /// A DPDK device beside the guests.
    pub nic: Option<&'static str>,
}

impl Setup {
    /// Two guests with one address each and frames of so many bytes, switched on a core that polls.
    pub fn pair(core: usize, frame_bytes: u32) -> Self {
        Self { guests: 2, mtu: frame_bytes.max(1514) - 14, addresses: 1, core, idle_sleep: "0", nic: None }
    }
}

/// A peer that runs.
pub struct Switch {
    /// The guests' sockets, on which it listens.
    pub sockets: Vec<PathBuf>,
    running: Running,
}

/// What runs.
pub enum Running {
    Culvert(Box<(Daemon, Node)>),
    Testpmd(testpmd::Switch),
    Ovs(ovs::Switch),
    RustVmm(rust_vmm::Process),
}

impl Switch {
    /// Starts a peer.
    ///
    /// # Errors
    /// It does not start, or cannot do what is wanted.
    pub fn start(peer: Peer, setup: &Setup) -> Result<Self> {
        let (sockets, running) = match peer {
            Peer::Culvert | Peer::CulvertGuestsOff => start_culvert(setup, "")?,
            Peer::CulvertPlain => start_culvert(setup, "offloads = false")?,
            Peer::Testpmd => testpmd::start(setup, "io", false)?,
            Peer::TestpmdTso => testpmd::start(setup, "io", true)?,
            Peer::TestpmdMac => testpmd::start(setup, "mac", false)?,
            Peer::Ovs => ovs::start(setup)?,
            Peer::RustVmm => rust_vmm::start(setup)?,
            Peer::Passt => bail!("passt is no switch"),
        };
        Ok(Self { sockets, running })
    }

    /// The process that switches.
    pub fn pid(&self) -> u32 {
        match &self.running {
            Running::Culvert(culvert) => culvert.0.pid(),
            Running::Testpmd(testpmd) => testpmd.pid(),
            Running::Ovs(ovs) => ovs.pid(),
            Running::RustVmm(process) => process.pid(),
        }
    }

    /// What the switching core has spent so far on polls that moved frames, if the peer counts that.
    ///
    /// # Errors
    /// It does not answer.
    pub fn busy(&mut self) -> Result<Option<Busy>> {
        match &mut self.running {
            Running::Culvert(culvert) => culvert_busy(&culvert.0),
            Running::Testpmd(testpmd) => testpmd.busy(),
            Running::Ovs(ovs) => ovs.busy(),
            Running::RustVmm(_) => Ok(None),
        }
    }

    /// What it says of itself, for a failure.
    pub fn explain(&mut self) -> String {
        match &mut self.running {
            Running::Culvert(culvert) => {
                let shown = ["port list", "stats", "drops", "status"]
                    .map(|what| culvert.0.ctl(what).unwrap_or_else(|error| format!("{error:#}")));
                format!("culvertd shows:\n{}", shown.join("\n"))
            }
            Running::Testpmd(testpmd) => testpmd.explain(),
            Running::Ovs(ovs) => ovs.explain(),
            Running::RustVmm(process) => process.explain(),
        }
    }
}

/// What a switching core has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Nanoseconds of polls that moved frames.
    pub nanoseconds: f64,
    /// Frames that came in.
    pub frames: f64,
}

impl Busy {
    /// Nanoseconds of work for a frame since an earlier count.
    pub fn each_since(self, before: Self) -> f64 {
        (self.nanoseconds - before.nanoseconds) / (self.frames - before.frames)
    }
}

fn start_culvert(setup: &Setup, keys: &str) -> Result<(Vec<PathBuf>, Running)> {
    let mut node = Node::new()?;
    node.set_worker_core(setup.core);
    // Without hugepages, as all peers here.
    let datapath = format!("idle_sleep = \"{}\"\nhugepages = \"never\"\nmemory_mb = ", setup.idle_sleep);
    *node.config() = node.config().replace("memory_mb = ", &datapath);
    let limit = setup.addresses.max(64);
    let keys = format!("mtu = {}\nmac_limit = {limit}\n{keys}", setup.mtu);
    let sockets = (0..setup.guests).map(|guest| node.add_guest(&format!("vm-{guest}"), Role::Listen, &keys)).collect();
    if let Some(device) = setup.nic {
        node.add_nic("uplink", device, "");
    }
    let daemon = node.start()?;
    Ok((sockets, Running::Culvert(Box::new((daemon, node)))))
}

/// By `culvertctl stats --worker`.
fn culvert_busy(daemon: &Daemon) -> Result<Option<Busy>> {
    let workers = daemon.ask("stats --worker")?;
    let sum = |key: &str| -> Result<f64> {
        let workers = workers.as_array().context("a list of workers")?;
        Ok(workers.iter().filter_map(|worker| worker.get(key).and_then(Value::as_f64)).sum())
    };
    Ok(Some(Busy { nanoseconds: sum("busy_ns")?, frames: sum("frames")? }))
}
