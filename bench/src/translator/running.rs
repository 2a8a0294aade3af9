//! A translator that runs, beside a world in which this program is the far end; and what it takes of the machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_system::paths;
use culvert_system::place::Namespace;
use culvert_system::qemu::Transport;
use culvert_system::translator::{Pod, Translator};

use crate::core_to_core;
use crate::options::Options;
use crate::peer::Peer;

/// A pod and its world, for `peer`'s translators, on that core.
///
/// # Errors
/// The test is not root, or the kernel has no such congestion control.
pub fn pod(options: &Options, peer: Peer, core: Option<usize>) -> Result<Pod> {
    let pod = Pod::with_program(program(peer)?, core)?;
    set_congestion(options, pod.pod())?;
    set_congestion(options, pod.world())?;
    Ok(pod)
}

/// Has TCP connections of a namespace the congestion control that is wanted.
///
/// # Errors
/// The kernel has none of that name.
pub fn set_congestion(options: &Options, namespace: &Namespace) -> Result<()> {
    let name = &options.congestion;
    namespace
        .set_parameter("net/ipv4/tcp_congestion_control", name)
        .with_context(|| format!("--congestion {name}: is it in net.ipv4.tcp_available_congestion_control?"))
}

/// A pod with one translator or several.
pub struct Running {
    /// First, as they end before their namespaces.
    pub translators: Vec<Translator>,
    pub pod: Pod,
}

impl Running {
    /// Starts so many translators with these flags in a pod, on the core that translates.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(options: &Options, peer: Peer, count: usize, flags: &str) -> Result<Self> {
        let pod = pod(options, peer, Some(options.switch_core()))?;
        let start = |number| pod.translator(&format!("vm-{number}"), Transport::VhostUser, flags);
        let translators = (0..count).map(start).collect::<Result<_>>()?;
        Ok(Self { translators, pod })
    }

    /// The namespace of the far end.
    pub fn world(&self) -> &Namespace {
        self.pod.world()
    }

    /// What all translators have taken so far.
    ///
    /// # Errors
    /// One has ended.
    pub fn taken(&self) -> Result<Taken> {
        let mut sum = Taken::default();
        for translator in &self.translators {
            let taken = Taken::of(translator.pid())?;
            sum.running += taken.running;
            sum.wake_ups += taken.wake_ups;
        }
        Ok(sum)
    }

    /// Their resident memory in KiB, shared pages in parts (proc(5), Pss).
    ///
    /// # Errors
    /// One has ended.
    pub fn memory(&self) -> Result<f64> {
        self.translators.iter().map(|translator| proportional(translator.pid())).sum()
    }
}

/// Starts a translator and runs `load` on a thread that is bound to the core that drives the guest.
///
/// # Errors
/// What the load says, with what the translator says.
pub fn under_load<T: Send>(
    options: &Options,
    peer: Peer,
    count: usize,
    flags: &str,
    load: impl FnOnce(&mut Running) -> Result<T> + Send,
) -> Result<T> {
    let mut running = Running::start(options, peer, count, flags)?;
    let outcome = on_core(options.load_core(), || load(&mut running));
    let said = |running: &mut Running| running.translators.first_mut().map(Translator::last_words).unwrap_or_default();
    outcome.with_context(|| said(&mut running))
}

/// Runs `load` on a thread that is bound to a core. Whoever starts programs does so on another thread: they end with it.
///
/// # Errors
/// What the load says.
pub fn on_core<T: Send>(core: usize, load: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let bound = || {
        core_to_core::bind(core);
        load()
    };
    let outcome = std::thread::scope(|scope| scope.spawn(bound).join());
    outcome.unwrap_or_else(|_| bail!("the load panicked"))
}

/// The translator of a peer.
///
/// # Errors
/// It is missing.
pub fn program(peer: Peer) -> Result<PathBuf> {
    if peer == Peer::Passt { paths::peer("passt") } else { paths::program("culvert-translator") }
}

/// What all threads of a process have taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Time on cores.
    pub running: Duration,
    /// How often one slept and woke up.
    pub wake_ups: u64,
}

impl Taken {
    /// By proc(5), and Linux's Documentation/scheduler/sched-stats.rst.
    ///
    /// # Errors
    /// It has ended.
    pub fn of(pid: u32) -> Result<Self> {
        let mut sum = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let thread = task.file_name().to_string_lossy().parse()?;
            let Self { running, wake_ups } = Self::of_thread(pid, thread)?;
            sum.running += running;
            sum.wake_ups += wake_ups;
        }
        Ok(sum)
    }

    /// The same of one thread.
    ///
    /// # Errors
    /// It has ended.
    pub fn of_thread(pid: u32, thread: i32) -> Result<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}"));
        let (times, status) = (read("schedstat")?, read("status")?);
        let nanoseconds = times.split_whitespace().next().context("schedstat")?.parse()?;
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let wake_ups = switches.context("status")?.trim().parse()?;
        Ok(Self { running: Duration::from_nanos(nanoseconds), wake_ups })
    }

    /// Since an earlier time.
    pub fn since(self, before: Self) -> Self {
        Self { running: self.running.saturating_sub(before.running), wake_ups: self.wake_ups - before.wake_ups }
    }
}

/// KiB that a process occupies, of what it shares with others its part.
fn proportional(pid: u32) -> Result<f64> {
    kibibytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// KiB that a process occupies.
///
/// # Errors
/// It has ended.
pub fn resident(pid: u32) -> Result<f64> {
    kibibytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// KiB that the kernel has in slabs, all of the machine's.
///
/// # Errors
/// /proc is missing.
pub fn slab() -> Result<f64> {
    kibibytes("/proc/meminfo", "Slab:")
}

fn kibibytes(file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} in {file}"))
}
