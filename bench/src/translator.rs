//! TCP between a guest and the world around its pod, through culvert-translator or passt.
//!
//! The guest is user-mode Linux of ci/peers, which runs natively, over vhost-user. The world is another network namespace,
//! joined to the pod's by a veth pair.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use culvert_system::console::Console;
use culvert_system::paths::{peer, program};
use culvert_system::place::Place;
use culvert_system::qemu::Transport;
use culvert_system::translator::{Pod, WORLD, configure};
use culvert_system::uml;

use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |&mtu: &u16| {
        let options = options.clone();
        let name = if mtu == 0 { "the default MTU".to_owned() } else { format!("MTU {mtu}") };
        Case::new(name, move |kind| {
            let program = if kind == Peer::Passt { peer("passt")? } else { program("culvert-translator")? };
            let [there, back] = measure(&options, mtu, &program)?;
            Ok(vec![Figure::gain("guest to world", "Gbit/s", there), Figure::gain("world to guest", "Gbit/s", back)])
        })
    };
    Ok(options.mtus.iter().map(case).collect())
}

/// Gbit/s from the guest to the world, and back, with a translator and a guest of its own.
fn measure(options: &Options, mtu: u16, program: &Path) -> Result<[f64; 2]> {
    // The world shares the translator's core, so that a machine of two cores will do.
    let (guest, translator, world) = (options.load_core(), options.switch_core(), options.switch_core());
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
        let flags = format!("-t {} -P {} {direction}", options.whole_seconds(), options.streams);
        *rate = guest.iperf(WORLD[0], &flags).with_context(|| translator.last_words())? / 1e3;
        ensure!(*rate > 0.0, "iperf3 carried nothing");
    }
    Ok(rates)
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
