//! EAL, DPDK's start: memory, buses, drivers.
//!
//! It is a thing of the process, started once and never ended: frames and ports refer to its memory. It runs in a
//! thread of its own, so that the caller keeps its affinity, with signals blocked, so that EAL's threads take none.
//! The daemon calls it at start-up; workers only use [`WorkerThread`].

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use dpdk_sys as ffi;
use rustix::thread::sched_getaffinity;

use crate::hugepages::{self, HugepageUse, Hugepages};
use crate::log;

/// How DPDK is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// Memory for mbufs and queues, in MiB per NUMA node.
    pub memory_mb: u32,
    /// Where it comes from.
    pub hugepages: Hugepages,
    /// The CPU that counts as EAL's main one: its NUMA node is preferred. One that this process may use; EAL does
    /// not run on it after the start.
    pub main_core: usize,
    /// Whether PCI devices can be opened later on. Without, EAL does not look at the PCI bus at all.
    pub pci: bool,
    /// Handed to EAL as they are, after ours, an element per argument. For one that it does not know, EAL of 25.11
    /// prints that and ends the process; earlier ones fail as an error.
    pub extra_args: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        EalConfig { memory_mb: 256, hugepages: Hugepages::Auto, main_core: 0, pci: false, extra_args: Vec::new() }
    }
}

/// Why DPDK did not start. The settings named are those of [`EalConfig`].
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// It can be started once per process.
    #[error("DPDK has been started in this process already; use the handle of the first start")]
    AlreadyStarted,
    /// An argument that EAL cannot be given.
    #[error("the DPDK argument {argument:?} {problem}; remove it from eal_args")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it, as a verb phrase.
        problem: &'static str,
    },
    /// The main core is not one of ours.
    #[error(
        "core {core} cannot be used for DPDK: this process may use {allowed}; choose one of them or widen its CPU affinity"
    )]
    Core {
        /// The core asked for.
        core: usize,
        /// The cores that there are, as a list.
        allowed: String,
    },
    /// Hugepages were demanded and are not there.
    #[error("no hugepages for the {memory_mb} MiB of DPDK's memory: {problem}")]
    Hugepages {
        /// All memory, over the NUMA nodes, in MiB.
        memory_mb: u64,
        /// What is missing and the remedy.
        problem: String,
    },
    /// EAL refused to start.
    #[error("DPDK cannot start: {reason}; it was given {arguments:?}")]
    Start {
        /// The error and DPDK's own messages.
        reason: String,
        /// The whole argument list.
        arguments: Vec<String>,
    },
    /// The pool cannot be had.
    #[error("no mbuf pool {name}: {reason}; raise memory_mb (it is {memory_mb} MiB)")]
    Pool {
        /// Name of the pool.
        name: String,
        /// What is wrong.
        reason: String,
        /// The memory that was given, in MiB per NUMA node.
        memory_mb: u32,
    },
    /// A worker's thread cannot be made known to DPDK.
    #[error("thread {thread} cannot be registered with DPDK: {reason}; use fewer workers")]
    Register {
        /// Name of the thread.
        thread: String,
        /// What is wrong.
        reason: String,
    },
}

/// DPDK, started. Not ended before the process is.
#[derive(Debug)]
pub struct Eal {
    hugepages: HugepageUse,
    memory_mb: u32,
    pci: bool,
}

impl Eal {
    /// Starts DPDK. An attempt that got as far as EAL itself is the only one of the process, even if it failed.
    pub fn start(config: &EalConfig) -> Result<Eal, EalError> {
        check_arguments(&config.extra_args)?;
        check_core(config.main_core)?;
        let nodes = numa_nodes();
        let bytes = u64::from(config.memory_mb) << 20;
        let hugepages = hugepages::decide(config.hugepages, bytes * u64::from(nodes)).map_err(|problem| {
            EalError::Hugepages { memory_mb: u64::from(config.memory_mb) * u64::from(nodes), problem }
        })?;
        let arguments = arguments(config, &hugepages, nodes);

        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyStarted);
        }
        log::redirect();
        let _control = control();
        let (result, complaints) = log::collect(|| init(arguments.clone()));
        result.map_err(|reason| EalError::Start { reason: with_complaints(reason, &complaints), arguments })?;
        tracing::info!(target: "dpdk", "started with {} MiB per NUMA node in {hugepages}", config.memory_mb);
        Ok(Eal { hugepages, memory_mb: config.memory_mb, pci: config.pci })
    }

    /// Whether the memory is in hugepages, and why not if not.
    #[must_use]
    pub fn hugepages(&self) -> &HugepageUse {
        &self.hugepages
    }

    /// Memory per NUMA node, in MiB.
    #[must_use]
    pub fn memory_mb(&self) -> u32 {
        self.memory_mb
    }

    /// Whether PCI devices can be opened.
    #[must_use]
    pub fn pci(&self) -> bool {
        self.pci
    }
}

/// Makes the calling thread one that DPDK knows, while this lives: frames are then allocated and freed through a
/// cache of the thread's own.
#[derive(Debug)]
pub struct WorkerThread {
    /// The registration is the thread's: not Send.
    _not_send: PhantomData<*mut ()>,
}

impl WorkerThread {
    /// Registers the calling thread. DPDK has room for as many as its RTE_MAX_LCORE says, 128 as a rule.
    pub fn register(_eal: &Eal) -> Result<WorkerThread, EalError> {
        // SAFETY: EAL is started; may be called by any thread.
        if unsafe { ffi::rte_thread_register() } != 0 {
            let thread = thread::current().name().unwrap_or("without a name").to_owned();
            return Err(EalError::Register { thread, reason: strerror(errno()) });
        }
        Ok(WorkerThread { _not_send: PhantomData })
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself: the guard cannot leave it.
        unsafe { ffi::rte_thread_unregister() }
    }
}

static STARTED: AtomicBool = AtomicBool::new(false);

/// Serialises what is not the hot path: DPDK's devices may not be opened and closed by two threads at once.
pub(crate) fn control() -> MutexGuard<'static, ()> {
    static CONTROL: Mutex<()> = Mutex::new(());
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// rte_errno of this thread.
pub(crate) fn errno() -> c_int {
    // SAFETY: reads a variable of this thread.
    unsafe { ffi::culvert_errno() }
}

/// The words for a positive error number of DPDK's, which has some of its own besides the system's.
pub(crate) fn strerror(number: c_int) -> String {
    // SAFETY: rte_strerror gives a terminated string in a buffer of this thread's.
    let text = unsafe { std::ffi::CStr::from_ptr(ffi::rte_strerror(number)) };
    text.to_string_lossy().into_owned()
}

/// `reason`, and what DPDK logged about it.
pub(crate) fn with_complaints(reason: String, complaints: &[String]) -> String {
    if complaints.is_empty() { reason } else { format!("{reason} (DPDK: {})", complaints.join(" / ")) }
}

/// Runs `work` with the signals blocked that threads started in it should not take. Those of a fault stay, and so do
/// the real-time ones, by which net_tap learns of frames.
pub(crate) fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: all-zero bytes are a valid sigset_t, and each call is given valid sets of its own.
    unsafe {
        libc::sigemptyset(blocked.as_mut_ptr());
        for signal in 1..libc::SIGRTMIN() {
            if ![libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP].contains(&signal) {
                libc::sigaddset(blocked.as_mut_ptr(), signal);
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), before.as_mut_ptr());
    }
    let result = work();
    // SAFETY: `before` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}

fn init(arguments: Vec<String>) -> Result<(), String> {
    let call = move || {
        without_signals(|| {
            let count = c_int::try_from(arguments.len()).map_err(|_| "too many arguments".to_owned())?;
            let mut argv: Vec<*mut c_char> = arguments
                .into_iter()
                .map(|argument| CString::new(argument).map(CString::into_raw))
                .collect::<Result<_, _>>()
                .map_err(|_| "an argument contains a zero byte".to_owned())?;
            argv.push(std::ptr::null_mut());
            // EAL keeps pointers into its arguments and may permute them: they are its own for good.
            let argv = Vec::leak(argv);
            // SAFETY: a terminated argument vector that lives for ever; STARTED makes this the only call.
            match unsafe { ffi::rte_eal_init(count, argv.as_mut_ptr()) } {
                ..0 => Err(strerror(errno())),
                _ => Ok(()),
            }
        })
    };
    let thread = thread::Builder::new().name("eal-start".to_owned()).spawn(call).map_err(|error| error.to_string())?;
    thread.join().unwrap_or_else(|_| Err("its starting thread panicked".to_owned()))
}

fn arguments(config: &EalConfig, hugepages: &HugepageUse, nodes: u32) -> Vec<String> {
    // Lcore 0, wherever it runs: CPUs beyond RTE_MAX_LCORE can be named so.
    let mut arguments = vec!["culvert".to_owned(), "--lcores".to_owned(), format!("0@{}", config.main_core)];
    arguments.push("--no-telemetry".to_owned());
    if config.pci {
        // Takes the bus in, but no device on it: with a list of the allowed ones EAL leaves all others alone, and
        // no driver of its serves a host bridge. Ports add their devices one by one.
        arguments.extend(["-a".to_owned(), "0000:00:00.0".to_owned()]);
    } else {
        arguments.push("--no-pci".to_owned());
    }
    match hugepages {
        HugepageUse::Used { .. } if nodes > 1 => {
            let each = vec![config.memory_mb.to_string(); usize::try_from(nodes).unwrap_or(1)];
            arguments.extend(["--in-memory".to_owned(), "--socket-mem".to_owned(), each.join(",")]);
        }
        HugepageUse::Used { .. } => {
            arguments.extend(["--in-memory".to_owned(), "-m".to_owned(), config.memory_mb.to_string()]);
        }
        // 22.11 refuses --in-memory together with --no-huge. The memory is of no node then.
        HugepageUse::NotUsed { .. } => {
            let all = u64::from(config.memory_mb) * u64::from(nodes);
            arguments.extend(["--no-huge", "--no-shconf", "-m"].map(str::to_owned));
            arguments.push(all.to_string());
        }
    }
    arguments.extend(config.extra_args.iter().cloned());
    arguments
}

/// Some arguments make EAL print something and exit.
fn check_arguments(arguments: &[String]) -> Result<(), EalError> {
    for argument in arguments {
        let problem = if argument.contains('\0') {
            "contains a zero byte"
        } else if argument.starts_with("-h") || argument.starts_with("--he") || argument.ends_with("help") {
            "asks for a help text, which would end this process"
        } else {
            continue;
        };
        return Err(EalError::Argument { argument: argument.clone(), problem });
    }
    Ok(())
}

fn check_core(core: usize) -> Result<(), EalError> {
    let Ok(allowed) = sched_getaffinity(None) else { return Ok(()) };
    if core < rustix::thread::CpuSet::MAX_CPU && allowed.is_set(core) {
        return Ok(());
    }
    let cores: Vec<String> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| cpu.to_string()).collect();
    Err(EalError::Core { core, allowed: cores.join(",") })
}

/// How many NUMA nodes have CPUs, at least one.
fn numa_nodes() -> u32 {
    let count = fs::read_dir("/sys/devices/system/node").map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("node")))
            .filter(|entry| fs::read_to_string(entry.path().join("cpulist")).is_ok_and(|cpus| !cpus.trim().is_empty()))
            .count()
    });
    u32::try_from(count).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn without_hugepages_nothing_is_shared() {
        let config =
            EalConfig { memory_mb: 64, main_core: 3, extra_args: words("--log-level pmd.*:8"), ..EalConfig::default() };
        let memory = HugepageUse::NotUsed { reason: String::new() };
        let expected = "culvert --lcores 0@3 --no-telemetry --no-pci --no-huge --no-shconf -m 64 --log-level pmd.*:8";
        assert_eq!(arguments(&config, &memory, 1), words(expected));
    }

    #[test]
    fn with_hugepages_each_node_gets_its_share() {
        let config = EalConfig { memory_mb: 64, pci: true, ..EalConfig::default() };
        let memory = HugepageUse::Used { page_kb: 2048 };
        let expected = "culvert --lcores 0@0 --no-telemetry -a 0000:00:00.0 --in-memory -m 64";
        assert_eq!(arguments(&config, &memory, 1), words(expected));
        let expected = "culvert --lcores 0@0 --no-telemetry -a 0000:00:00.0 --in-memory --socket-mem 64,64";
        assert_eq!(arguments(&config, &memory, 2), words(expected));
    }

    #[test]
    fn arguments_that_would_end_the_process_are_refused() {
        for argument in ["-h", "--help", "--hel", "--log-level=help", "help", "a\0b"] {
            let error = check_arguments(&[argument.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("eal_args"), "{error}");
        }
        assert!(check_arguments(&words("--huge-unlink --log-level=8")).is_ok());
    }

    #[test]
    fn a_core_that_is_not_ours_is_refused_with_those_that_are() {
        let error = check_core(usize::MAX).unwrap_err().to_string();
        assert!(error.contains("may use 0") || error.contains("may use 1"), "{error}");
    }

    #[test]
    fn signals_are_blocked_meanwhile_and_only_then() {
        let blocked = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        };
        let bit = |signal: c_int| 1_u64 << (signal - 1);
        let before = blocked();
        let during = without_signals(blocked);
        assert_ne!(during & bit(libc::SIGTERM), 0);
        assert_ne!(during & bit(libc::SIGCHLD), 0);
        assert_eq!(during & bit(libc::SIGBUS), before & bit(libc::SIGBUS));
        assert_eq!(during & bit(libc::SIGRTMAX() - 1), before & bit(libc::SIGRTMAX() - 1));
        assert_eq!(blocked(), before);
    }
}
