//! Two guests that send to each other as fast as they can. One core drives both guests' rings, the other one switches.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_system::daemon::Node;
use culvert_system::qemu::Role;
use culvert_system::testpmd::Testpmd;

use crate::core_to_core;
use crate::load::LoadGuest;
use crate::report::Report;

#[derive(Args)]
pub struct Options {
    /// Frame lengths in bytes.
    #[arg(long, value_delimiter = ',', default_value = "64,1500")]
    sizes: Vec<u32>,
    /// Pairs of measurements for each length.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

const LOAD_CORE: usize = 0;
const SWITCH_CORE: usize = 1;

pub fn run(options: &Options) -> Result<()> {
    println!(
        "VM to VM, both directions summed, millions of frames a second; load on core {LOAD_CORE}, switch on core {SWITCH_CORE}"
    );
    println!("peer: testpmd net_vhost, io mode\n");
    for &size in &options.sizes {
        println!("{size} bytes:");
        let mut report = Report::new("million frames/s", "testpmd");
        for _ in 0..options.pairs {
            let distance = core_to_core::nanoseconds([LOAD_CORE, SWITCH_CORE]);
            report.pair(distance, with_culvert(size, options.seconds)?, with_testpmd(size, options.seconds)?);
        }
        report.end();
    }
    Ok(())
}

fn with_culvert(size: u32, seconds: f64) -> Result<f64> {
    let mut node = Node::new()?;
    node.set_worker_core(SWITCH_CORE);
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let daemon = node.start()?;
    measure(&sockets, size, seconds).with_context(|| {
        let shown = ["port list", "stats", "drops", "status"]
            .map(|what| daemon.ctl(what).unwrap_or_else(|error| format!("{error:#}")));
        format!("culvertd shows:\n{}", shown.join("\n"))
    })
}

fn with_testpmd(size: u32, seconds: f64) -> Result<f64> {
    let folder = std::env::temp_dir().join(format!("culvert-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let sockets = ["a", "b"].map(|name| folder.join(name));
    let [a, b] = &sockets;
    let testpmd = Testpmd::switch([a, b])?;
    let rate = measure(&sockets, size, seconds);
    drop(testpmd);
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    rate
}

/// Millions of frames a second that both guests together received. The load runs in a thread of its own, so that the
/// switches, which are started from the present one, do not inherit its core.
fn measure(sockets: &[PathBuf; 2], size: u32, seconds: f64) -> Result<f64> {
    let load = std::thread::scope(|scope| scope.spawn(|| load(sockets, size, seconds)).join());
    load.unwrap_or_else(|_| anyhow::bail!("the load panicked"))
}

fn load(sockets: &[PathBuf; 2], size: u32, seconds: f64) -> Result<f64> {
    core_to_core::bind(LOAD_CORE);
    let [a, b] = [[2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]];
    let [socket_a, socket_b] = sockets;
    let connect = |socket: &Path, from, to| LoadGuest::connect(socket, from, to, size);
    let mut guests = [connect(socket_a, a, b)?, connect(socket_b, b, a)?];
    drive(&mut guests, Duration::from_millis(300))?;
    let (before, start) = (received(&guests), Instant::now());
    drive(&mut guests, Duration::from_secs_f64(seconds))?;
    let rate = (received(&guests) - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
    guests.iter().try_for_each(LoadGuest::check)?;
    ensure!(rate > 0.0, "no frame arrived");
    Ok(rate)
}

fn received(guests: &[LoadGuest; 2]) -> u64 {
    guests.iter().map(LoadGuest::received).sum()
}

fn drive(guests: &mut [LoadGuest; 2], time: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            guests.iter_mut().try_for_each(LoadGuest::turn)?;
        }
    }
    Ok(())
}
