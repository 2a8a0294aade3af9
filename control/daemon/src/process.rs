//! What the daemon changes about its own process at the start: name, cores, descriptors.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CpuSet;
use tokio::signal::unix::{SignalKind, signal};

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

/// Has the kernel send this process a signal when its parent ends.
///
/// # Errors
/// The kernel's.
pub fn end_with_parent(signal: Signal) -> Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(signal)).context("the parent's end cannot be waited for")?;
    // It may have ended before that was asked for.
    anyhow::ensure!(rustix::process::getppid() == parent, "the supervisor has ended");
    Ok(())
}

/// Resolves when this process is told to stop. Must be called within a tokio runtime.
///
/// # Errors
/// The kernel's.
pub fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
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
