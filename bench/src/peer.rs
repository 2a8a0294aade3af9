//! Whom the load is given to: Culvert, and what it is compared with. Each is started for one measurement, with the same
//! sockets and on the same core, and ended after it.

mod ovs;
pub mod rust_vmm;
mod testpmd;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::place::Place;
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
    /// The same with `userspace-tso-enable`; the guests listen.
    OvsTso,
    /// A plain backend of vhost-user-backend and virtio-queue, which polls.
    RustVmm,
    /// passt, in the translator's place.
    Passt,
    /// In the translator's place a program that moves bytes between sockets, without a guest, by calls of 256 KiB: the floor.
    Sockets,
    /// The same by calls of 64 KiB.
    Sockets64,
    /// In the translator's place a bridge of the kernel, and a tap.
    Bridge,
}

impl Peer {
    /// Who creates the guests' sockets, as Culvert calls it.
    pub fn role(self) -> Role {
        if self == Self::OvsTso { Role::Connect } else { Role::Listen }
    }

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
    /// The cores that switch.
    pub cores: Vec<usize>,
    /// culvertd's `idle_sleep`; other peers poll always.
    pub idle_sleep: &'static str,
    /// DPDK devices beside the guests. Where there are two, each guest is joined with one.
    pub nics: Vec<String>,
    /// The network namespace in which it runs.
    pub namespace: Option<String>,
    /// culvertd isolates itself, as ever.
    pub isolated: bool,
    /// Where culvertd serves metrics.
    pub metrics: Option<SocketAddr>,
}

impl Setup {
    /// Two guests with one address each and frames of so many bytes, switched on a core that polls.
    pub fn pair(core: usize, frame_bytes: u32) -> Self {
        let mtu = frame_bytes.max(1514) - 14;
        let (cores, nics) = (vec![core], Vec::new());
        Self {
            guests: 2,
            mtu,
            addresses: 1,
            cores,
            idle_sleep: "0",
            nics,
            namespace: None,
            isolated: true,
            metrics: None,
        }
    }

    /// The first core that switches.
    fn core(&self) -> usize {
        self.cores.first().copied().unwrap_or(0)
    }

    /// Where it runs, on its first core or on any.
    fn place(&self, core: Option<usize>) -> Place {
        Place { core, namespace: self.namespace.clone(), ..Place::default() }
    }
}

/// A peer that runs.
pub struct Switch {
    /// The guests' sockets, on which it listens, or the guests ([`Peer::role`]).
    pub sockets: Vec<PathBuf>,
    /// How many cores switch.
    pub cores: usize,
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
            Peer::Ovs => ovs::start(setup, false)?,
            Peer::OvsTso => ovs::start(setup, true)?,
            Peer::RustVmm => rust_vmm::start(setup)?,
            Peer::Passt | Peer::Sockets | Peer::Sockets64 | Peer::Bridge => bail!("{} is no switch", peer.name()),
        };
        Ok(Self { sockets, cores: setup.cores.len(), running })
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
        let count = match &mut self.running {
            Running::Culvert(culvert) => culvert_busy(&culvert.0)?,
            Running::Testpmd(testpmd) => testpmd.busy()?,
            Running::Ovs(ovs) => ovs.busy()?,
            Running::RustVmm(_) => return Ok(None),
        };
        Ok(Some(Busy { count, cores: CoreTime::of(self.pid(), self.cores) }))
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

/// What the switching cores have done so far.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    count: Count,
    cores: CoreTime,
}

/// What a switch says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Nanoseconds of polls that moved frames.
    pub nanoseconds: f64,
    /// Frames that came in.
    pub frames: f64,
}

/// Nanoseconds of the threads that switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CoreTime {
    /// They had a core.
    running: u64,
    /// They wanted one that another program had.
    waiting: u64,
}

impl Busy {
    /// Nanoseconds of work for a frame since an earlier count.
    ///
    /// Switches count by the clock, so what another program does on the core meanwhile is in their figures, in proportion, and is taken out
    /// of them here. On cores that nobody else uses it is nothing.
    pub fn each_since(&self, before: &Self) -> f64 {
        let running = self.cores.running.saturating_sub(before.cores.running);
        let waiting = self.cores.waiting.saturating_sub(before.cores.waiting);
        let share = running as f64 / (running + waiting).max(1) as f64;
        let Count { nanoseconds, frames } = self.count;
        share * (nanoseconds - before.count.nanoseconds) / (frames - before.count.frames)
    }
}

impl CoreTime {
    /// Of those threads of a process that ran most, so many: its polling ones.
    fn of(pid: u32, threads: usize) -> Self {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Self::default() };
        let time = |task: fs::DirEntry| Self::parse(&fs::read_to_string(task.path().join("schedstat")).ok()?);
        let mut times: Vec<Self> = tasks.flatten().filter_map(time).collect();
        times.sort_unstable_by_key(|time| std::cmp::Reverse(time.running));
        times.iter().take(threads).fold(Self::default(), |sum, time| Self {
            running: sum.running + time.running,
            waiting: sum.waiting + time.waiting,
        })
    }

    /// From /proc/PID/task/TID/schedstat (Linux, Documentation/scheduler/sched-stats.rst): time on a core, time waiting for one, and how often.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some(Self { running: numbers.next()?.ok()?, waiting: numbers.next()?.ok()? })
    }
}

fn start_culvert(setup: &Setup, keys: &str) -> Result<(Vec<PathBuf>, Running)> {
    let mut node = Node::new()?;
    if let Some(name) = &setup.namespace {
        node.set_namespace_named(name);
    }
    if !setup.isolated {
        node.set_isolation("off");
    }
    if let Some(address) = setup.metrics {
        let served = format!("metrics_address = \"{address}\"");
        *node.config() = node.config().replace("metrics_address = \"off\"", &served);
    }
    // Without hugepages, as all peers here.
    let datapath = format!("idle_sleep = \"{}\"\nhugepages = \"never\"\nmemory_mb = ", setup.idle_sleep);
    let cores = format!("worker_cores = {:?}", setup.cores);
    *node.config() = node.config().replace("memory_mb = ", &datapath).replace("worker_cores = [0]", &cores);
    let limit = setup.addresses.max(64);
    let keys = format!("mtu = {}\nmac_limit = {limit}\n{keys}", setup.mtu);
    let mut sockets = Vec::new();
    // What joins a guest with a device of its own is a network of its own.
    let halves = setup.nics.len() == 2;
    for guest in 0..setup.guests {
        let before = node.config().len();
        sockets.push(node.add_guest(&format!("vm-{guest}"), Role::Listen, &keys));
        if let Some(device) = setup.nics.get(guest) {
            node.add_nic(&format!("nic-{guest}"), device, "");
        }
        if halves && guest > 0 {
            let added = node.config().split_off(before).replace("network = \"blue\"", "network = \"green\"");
            node.add("[[network]]\nname = \"green\"");
            node.add(&added);
        }
    }
    let daemon = node.start()?;
    Ok((sockets, Running::Culvert(Box::new((daemon, node)))))
}

/// By `culvertctl stats --worker`.
fn culvert_busy(daemon: &Daemon) -> Result<Count> {
    let workers = daemon.ask("stats --worker")?;
    let sum = |key: &str| -> Result<f64> {
        let workers = workers.as_array().context("a list of workers")?;
        Ok(workers.iter().filter_map(|worker| worker.get(key).and_then(Value::as_f64)).sum())
    };
    Ok(Count { nanoseconds: sum("busy_ns")?, frames: sum("frames")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_took_of_the_core_is_no_work() {
        let at = |nanoseconds, frames, text: &str| Busy {
            count: Count { nanoseconds, frames },
            cores: CoreTime::parse(text).unwrap(),
        };
        let before = at(1000.0, 10.0, "5000 100 7\n");
        let alone = at(3000.0, 20.0, "9000 100 7\n");
        let shared = at(3000.0, 20.0, "8000 1100 9\n");
        assert_eq!((alone.each_since(&before), shared.each_since(&before)), (200.0, 150.0));
        assert_eq!(CoreTime::parse("no"), None);
        assert!(CoreTime::of(std::process::id(), 1).running > 0);
    }
}
