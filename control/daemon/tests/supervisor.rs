//! culvertd's first process, and the daemon that it starts: who ends with whom, who comes back, and where signals go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod process;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use culvert_api::v1;
use process::{Running, Setup, culvertd, daemon_of, kill};

const LIMIT: Duration = Duration::from_secs(60);

/// What is asked of a daemon other than `before`, once it answers.
async fn next_status(culvertd: &Running, before: u32) -> v1::GetStatusResponse {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if daemon_of(culvertd.child.id()).is_some_and(|pid| pid != before)
            && let Ok(status) = culvertd.try_status().await
            && status.pid != before
        {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("there is no daemon after {before}");
}

/// Waits until a process has gone.
fn wait_gone(pid: u32) {
    let (process, start) = (PathBuf::from(format!("/proc/{pid}")), Instant::now());
    while process.exists() {
        assert!(start.elapsed() < LIMIT, "process {pid} lives");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_daemon_that_crashes_is_started_again() {
    let setup = Setup::new().guest("vm-a", "");
    let mut culvertd = setup.start();
    let mut before = culvertd.daemon();
    for (restarts, (signal, end)) in
        [("KILL", "signal 9 (SIGKILL)"), ("ABRT", "signal 6 (SIGABRT)"), ("SYS", "signal 31 (SIGSYS)")]
            .iter()
            .enumerate()
    {
        kill(signal, before);
        let status = next_status(&culvertd, before).await;
        assert_eq!((status.restarts, status.last_end.as_str()), (restarts as u64 + 1, *end));
        assert_eq!((status.supervisor_pid, status.ports), (culvertd.child.id(), 1));
        before = status.pid;
    }
    assert_eq!(culvertd.end("TERM"), Some(0));
    assert!(!setup.socket("vm-a").exists() && !culvertd.socket.exists());
}

#[test]
fn the_daemon_ends_with_its_supervisor_and_the_next_one_starts_at_once() {
    let setup = Setup::new().guest("vm-a", "");
    for _ in 0..5 {
        let mut first = setup.start();
        let daemon = first.daemon();
        first.end("KILL");
        let mut second = setup.start();
        assert!(second.log.contains("culvertd is ready"), "{}", second.log);
        wait_gone(daemon);
        assert_eq!(second.end("TERM"), Some(0));
    }
}

#[test]
fn a_signal_that_comes_too_early_is_no_crash() {
    let setup = Setup::new();
    let file = setup.write();
    for delay_ms in [0, 1, 3, 10, 30, 100] {
        let mut child = culvertd(&file).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        while daemon_of(child.id()).is_none() {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        kill("HUP", child.id());
        kill("TERM", child.id());
        assert_eq!(child.wait().unwrap().code(), Some(0), "after {delay_ms} ms");
    }
}

#[tokio::test]
async fn a_reload_that_comes_too_early_waits() {
    let setup = Setup::new();
    let file = setup.write();
    let child = culvertd(&file).stderr(Stdio::null()).spawn().unwrap();
    while daemon_of(child.id()).is_none() {}
    kill("HUP", child.id());
    let culvertd = Running { child, log: String::new(), socket: setup.path("c.sock") };
    let status = next_status(&culvertd, 0).await;
    assert_eq!(status.restarts, 0, "{}", status.last_end);
}

#[test]
fn a_daemon_that_crashes_again_and_again_can_be_stopped() {
    let setup = Setup::new();
    let mut culvertd = setup.start();
    for _ in 0..4 {
        let daemon = loop {
            if let Some(daemon) = daemon_of(culvertd.child.id()) {
                break daemon;
            }
        };
        kill("KILL", daemon);
        wait_gone(daemon);
    }
    assert_eq!(culvertd.end("TERM"), Some(0));
}

#[test]
fn nobody_else_starts_a_supervised_daemon() {
    let setup = Setup::new();
    let output = culvertd(&setup.write()).arg("--supervised").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("--supervised is for culvertd itself; start it without"), "{message}");
}
