//! TCP between a guest and the world around its pod, through culvert-translator or passt.
//!
//! The guest is user-mode Linux of ci/peers, which runs natively, over vhost-user. The world is another network namespace,
//! joined to the pod's by a veth pair.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_system::console::Console;
use culvert_system::paths::{peer, program};
use culvert_system::place::Place;
use culvert_system::qemu::Transport;
use culvert_system::translator::{Pod, WORLD, configure};
use culvert_system::uml;

use crate::core_to_core;
use crate::report::Report;

/// iperf3 between a guest and the world, in both directions, with culvert-translator and with passt in turn. Needs ci/peers; run it in
/// ci/isolated, as root.
#[derive(Args)]
pub struct Options {
    /// MTUs that the guest is told; 0: the translator's own default.
    #[arg(long, value_delimiter = ',', default_value = "1500,0")]
    mtus: Vec<u16>,
    /// Pairs of measurements for each MTU and direction.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// TCP connections at the same time.
    #[arg(long, default_value_t = 1)]
    streams: u32,
    /// Cores of the guest, of the translator and of the world's iperf3.
    #[arg(long, value_delimiter = ',', default_value = "0,1,1")]
    cores: Vec<usize>,
}

pub fn run(options: &Options) -> Result<()> {
    let &[guest, translator, world] = &options.cores[..] else { anyhow::bail!("--cores needs three cores") };
    println!("TCP through a translator, Gbit/s; guest on core {guest}, translator on {translator}, world on {world}");
    println!("{} connections; peer: passt of ci/peers\n", options.streams);
    let (ours, theirs) = (program("culvert-translator")?, peer("passt")?);
    for &mtu in &options.mtus {
        let mut reports: Vec<(&str, Vec<[f64; 3]>)> = vec![("guest to world", vec![]), ("world to guest", vec![])];
        for _ in 0..options.pairs {
            let distance = core_to_core::nanoseconds([guest, if translator == guest { world } else { translator }]);
            let ours = measure(options, mtu, &ours)?;
            let theirs = measure(options, mtu, &theirs)?;
            for ((_, pairs), (ours, theirs)) in reports.iter_mut().zip(ours.into_iter().zip(theirs)) {
                pairs.push([distance, ours, theirs]);
            }
        }
        for (direction, pairs) in reports {
            let name = if mtu == 0 { "the default MTU".to_owned() } else { format!("MTU {mtu}") };
            println!("{direction}, {name}:");
            let mut report = Report::new("Gbit/s", "passt");
            for [distance, ours, theirs] in pairs {
                report.pair(distance, ours, theirs);
            }
            report.end();
        }
    }
    Ok(())
}

/// Gbit/s from the guest to the world, and back, with a translator and a guest of its own.
fn measure(options: &Options, mtu: u16, program: &Path) -> Result<[f64; 2]> {
    let &[guest, translator, world] = &options.cores[..] else { anyhow::bail!("--cores needs three cores") };
    let pod = Pod::with_program(program.to_owned(), Some(translator))?;
    let place = Place { core: Some(world), namespace: Some(pod.world().name().to_owned()), ..Place::default() };
    let mut server = Console::start_in(&place, "iperf3", "iperf3", &["-s", "--forceflush"])?;
    let mtu = if mtu == 0 { String::new() } else { format!("-m {mtu}") };
    let mut translator = pod.translator("vm", Transport::VhostUser, &mtu)?;
    let place = Place { core: Some(guest), ..Place::default() };
    let mut guest = uml::boot_newest(&place, "vm", translator.socket(), 1)?;
    guest.wait_booted()?;
    configure(&mut guest).with_context(|| translator.last_words())?;
    let mut rates = [0.0; 2];
    for (rate, direction) in rates.iter_mut().zip(["", "-R"]) {
        server.wait_for("Server listening", LIMIT)?;
        let flags = format!("-t {} -P {} {direction}", options.seconds, options.streams);
        *rate = guest.iperf(WORLD[0], &flags).with_context(|| translator.last_words())? / 1e3;
        ensure!(*rate > 0.0, "iperf3 carried nothing");
    }
    Ok(rates)
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
