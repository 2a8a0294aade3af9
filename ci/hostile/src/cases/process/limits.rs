//! P7 and P9: memory and descriptors that are not there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;

use crate::case::Expect;
use crate::field::Field;

const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn no_hugepages(field: &mut Field) -> Result<()> {
    // More than all hugepages that are free.
    let free = hugepages_mb()?;
    let mut node = Node::new()?;
    let needed = free + 64;
    node.set_hugepages(needed);
    let mut daemon = node.launch()?;
    let status = daemon.console().wait(LIMIT)?;
    let said = daemon.console().wait_for_end(LIMIT)?;
    ensure!(status.code() == Some(64), "it ended with {status}: {said}");
    ensure!(
        said.contains(&format!("{needed} MiB")) && said.contains("hugepages"),
        "it does not say what it needs: {said}"
    );

    // DPDK has no room for another device: that port fails, the others pass frames.
    field.expect(Expect::Log { port: String::new(), sentence: " dpdk", lines: 0..=1000 });
    let mut refused = None;
    let mut added = Vec::new();
    for number in 0..MANY {
        let name = format!("nic{number}");
        field.daemon().ctl(&format!("port add {name} --network blue --device net_null{number}"))?;
        added.push(name.clone());
        let shown = field.daemon().port(&name)?;
        if shown.get("state").and_then(serde_json::Value::as_str) == Some("failed") {
            refused = Some((name, shown));
            break;
        }
    }
    for name in &added {
        field.daemon().ctl(&format!("port del {name}"))?;
    }
    let (name, shown) = refused.with_context(|| format!("{MANY} devices were added"))?;
    field.expect(Expect::Log { port: name, sentence: "", lines: 1..=5 });
    ensure!(shown.get("reason").is_some(), "{shown}");
    Ok(())
}

/// Free hugepages of all sizes, in MiB.
fn hugepages_mb() -> Result<u64> {
    let mut free = 0;
    for size in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten() {
        let size = size?;
        let name = size.file_name().to_string_lossy().into_owned();
        let kb: u64 = name.trim_start_matches("hugepages-").trim_end_matches("kB").parse().unwrap_or(0);
        let pages: u64 = fs::read_to_string(size.path().join("free_hugepages"))?.trim().parse()?;
        free += pages * kb / 1024;
    }
    Ok(free)
}

pub(super) fn descriptors(field: &mut Field) -> Result<()> {
    let guest = FrontendGuest::connect(&field.victim_socket(), Shape::default())?;
    let other = field.add_port("late", "")?;
    let pid = field.daemon().pid();
    let open = steady(pid)?;
    set_limit(pid, open)?;
    // A frontend that cannot be served waits, and its descriptors are not lost.
    let waiting: Vec<_> = (0..3).map(|_| std::os::unix::net::UnixStream::connect(&other)).collect::<Result<_, _>>()?;
    let before = field.daemon().cpu_time_without_workers()?;
    // A client is let in, and may do something about it.
    field.expect(Expect::Log { port: String::new(), sentence: "translators cannot be looked for", lines: 0..=5 });
    field.daemon().ask("status").context("without descriptors")?;
    let red = field.socket("red");
    let added = field.daemon().ctl(&format!("port add red --network blue --socket {}", red.display()));
    if let Err(error) = added {
        ensure!(error.to_string().contains("Too many open files"), "{error:#}");
    }
    thread::sleep(Duration::from_secs(2));
    let used = field.daemon().cpu_time_without_workers()?.saturating_sub(before);
    ensure!(used < Duration::from_millis(1500), "it spins: {used:?} of 2 s");
    set_limit(pid, open + 200)?;
    drop(waiting);
    drop(guest);
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = FrontendGuest::connect(&other, Shape::default()) {
        ensure!(Instant::now() < deadline, "with descriptors again: {error:#}");
        thread::sleep(Duration::from_millis(50));
    }
    // It may have been added after all.
    let _ = field.daemon().ctl("port del red");
    // Between the two clients there may have been descriptors again.
    field.expect(Expect::Log { port: String::new(), sentence: "cannot be accepted", lines: 0..=2 });
    field.expect(Expect::Log { port: "late".to_owned(), sentence: "", lines: 0..=5 });
    field.expect(Expect::Log { port: "red".to_owned(), sentence: "", lines: 0..=2 });
    Ok(())
}

/// The number of descriptors when it does not change any more.
fn steady(pid: u32) -> Result<usize> {
    let count = || -> Result<usize> { Ok(fs::read_dir(PathBuf::from(format!("/proc/{pid}/fd")))?.count()) };
    let (mut last, mut since) = (count()?, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(50));
        let now = count()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

fn set_limit(pid: u32, descriptors: usize) -> Result<()> {
    let limit = format!("--nofile={descriptors}:");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status()?;
    ensure!(status.success(), "prlimit {limit}");
    Ok(())
}

/// Devices that are tried: more than DPDK has room for.
const MANY: u32 = 40;
