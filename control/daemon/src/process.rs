//! What the daemon changes about its own process at the start: name, cores, descriptors.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use crate::config::Machine;

/// Keeps this thread, and those that it starts, off the workers' cores if other cores are left. Returns the core that
/// DPDK counts as its main one: a worker's, if there is no other.
///
/// # Errors
/// The kernel's.
pub fn leave_cores_to_workers(machine: &Machine, worker_cores: &[usize]) -> Result<usize> {
    let others: Vec<usize> = machine.cores.iter().copied().filter(|core| !worker_cores.contains(core)).collect();
    let Some(first) = others.first().copied() else {
        return machine.cores.first().copied().context("this process may use no core");
    };
    let mut set = CpuSet::new();
    others.into_iter().for_each(|core| set.set(core));
    rustix::thread::sched_setaffinity(None, &set).context("the cores of control cannot be set")?;
    Ok(first)
}

/// Raises the number of files that may be open to what is allowed: each guest needs a few for every queue.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

/// Names this thread, and with it the process, which was started as /proc/self/exe. Those that it starts have names of their own.
pub fn set_name() {
    // Only people look at it.
    let _ = rustix::thread::set_name(c"culvertd");
}

/// Does `action` again while its error is one that passes: what it needs is a daemon's that is about to end.
///
/// # Errors
/// The last one of `action`.
pub fn patiently<T, E>(action: impl Fn() -> Result<T, E>, passes: impl Fn(&E) -> bool) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match action() {
            Err(error) if passes(&error) && start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// How long the kernel may take to end a daemon with its memory.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);
