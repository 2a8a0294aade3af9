//! culvertd, or a part of it, gets no CPU or no packet buffers for a while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::failures::{expect_of_daemon, fault, offer_faults, status, wait};
use crate::case::{Expect, Part};
use crate::field::Field;
use crate::neighbours::Pace;

/// The neighbours' pace while nothing is forwarded: what they send meanwhile fits into their rings.
const SLOW: Pace = Pace::PerSecond(200);

/// For how long.
const STOP: Duration = Duration::from_secs(2);

pub(super) fn process_stopped(field: &mut Field) -> Result<()> {
    expect_of_daemon(field, "looked at no port for");
    field.neighbours().set_pace(SLOW)?;
    let gaps = worker(field, "poll_gaps")?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(field.daemon().pid())?).context("no daemon")?;
    kill_process(pid, Signal::STOP)?;
    std::thread::sleep(STOP);
    kill_process(pid, Signal::CONT)?;
    let start = Instant::now();
    field.neighbours().mark()?;
    wait("frames pass again", || Ok(field.neighbours().settle()?.longest_gap > Duration::ZERO))?;
    println!("     frames pass again {:?} after the process goes on", start.elapsed());
    wait("the gap is counted", || Ok(worker(field, "poll_gaps")? > gaps))?;
    let longest = worker(field, "longest_gap_us")?;
    ensure!(longest >= 1_500_000, "the longest gap is {longest} us");
    field.spend();
    Ok(())
}

pub(super) fn worker_without_a_core(field: &mut Field) -> Result<()> {
    offer_faults(field)?;
    expect_of_daemon(field, "looked at no port for");
    field.neighbours().set_pace(SLOW)?;
    let pid = field.daemon().pid();
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    victim.send(&fault("doze"))?;
    wait("the gap is counted", || Ok(worker(field, "longest_gap_us")? >= 3_000_000))?;
    ensure!(field.daemon().pid() == pid, "culvertd has started again");
    ensure!(status(field, "bugs")? == 0, "it is counted as a bug");
    // What has waited for the worker has waited for long: from here on frames are as quick as before.
    field.neighbours().settle()?;
    field.neighbours().mark()
}

/// A figure of the only worker.
fn worker(field: &mut Field, key: &str) -> Result<u64> {
    let workers = status(field, "workers")?;
    workers.get(0).and_then(|worker| worker.get(key)).and_then(Value::as_u64).context("no such figure")
}

pub(super) fn control_stopped(field: &mut Field) -> Result<()> {
    let stopped = Stopped::all_but_workers(field.daemon().pid())?;
    let before = field.neighbours().settle()?;
    let start = Instant::now();
    let mut after = before;
    while start.elapsed() < STOP {
        std::thread::sleep(STOP / 10);
        after = field.neighbours().settle()?;
    }
    drop(stopped);
    let passed = after.received - before.received;
    ensure!(passed > 500 && after.lost == before.lost, "{passed} frames passed meanwhile, {} lost", after.lost);
    wait("control answers", || Ok(field.daemon().ask("status").is_ok()))
}

/// Threads that are stopped by ptrace(2), which can stop a single one. They go on when this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops all threads of a process but its workers.
    fn all_but_workers(process: u32) -> Result<Self> {
        let mut stopped = Self(Vec::new());
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            let name = std::fs::read_to_string(task.path().join("comm"))?;
            if name.starts_with("worker-") {
                continue;
            }
            let thread = Pid::from_raw(task.file_name().to_string_lossy().parse()?);
            ptrace::seize(thread, Options::empty()).with_context(|| format!("thread {name}"))?;
            stopped.0.push(thread);
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL))?;
        }
        ensure!(stopped.0.len() > 3, "culvertd has {} other threads only", stopped.0.len());
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.0 {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

/// Before, the daemon gave a worker a second, and ended: an overloaded node lost all of its guests over one crash.
pub(super) fn late_at_start(field: &mut Field) -> Result<()> {
    field.exempt(Part::Resources, "another process runs than before the case");
    field.exempt(Part::Process, "another process runs than before the case");
    field.exempt(Part::Log, "gaps in the time of workers are told");
    field.node().inject("late-worker=2000");
    field.restart_with(|_| ())?;
    field.kill(false)?;
    let ports = field.daemon().ask("port list")?;
    let failed = |port: &Value| port.get("state").and_then(Value::as_str) == Some("failed");
    ensure!(!ports.as_array().context("no list")?.iter().any(failed), "a port was not opened: {ports}");
    Ok(())
}

pub(super) fn frame_pool_empty(field: &mut Field) -> Result<()> {
    field.exempt(Part::Resources, "another process runs than before the case");
    field.exempt(Part::Process, "another process runs than before the case");
    field.node().inject("frames");
    field.restart_with(|config| {
        config.push_str("\n[[port]]\nname = \"nic\"\nnetwork = \"blue\"\ndevice = \"net_null0,no-rx=1\"\n");
    })?;
    let sent = |field: &mut Field| -> Result<u64> {
        field.daemon().stats("nic")?.get("tx_frames").and_then(Value::as_u64).context("no tx_frames")
    };
    let sentence = "Rx Intr handle unset";
    // net_null has no interrupts.
    field.expect(Expect::Log { port: String::new(), sentence, lines: 0..=9 });
    field.expect(Expect::Drop { port: "nic".to_owned(), reason: "pool-empty", frames: 10 });
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    let flood = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 0x98], &[0x88, 0xb4], &[0; 46]].concat();
    victim.send(&flood)?;
    wait("the device sends", || Ok(sent(field)? > 0))?;
    victim.send(&fault("no-buffers"))?;
    for _ in 0..20 {
        victim.send(&flood)?;
    }
    victim.wait_used(crate::guest::TRANSMIT)?;
    let before = sent(field)?;
    // It ends by itself.
    wait("the device sends again", || {
        victim.send(&flood)?;
        victim.wait_used(crate::guest::TRANSMIT)?;
        Ok(sent(field)? > before)
    })
}
