//! TCP between two Linux guests, from the first to the second, at the MTU of 1500: what checksum and segmentation offloads are for.
//!
//! Guests in QEMU are emulated and cost so much themselves that the switch is a small part of it, whichever it is. Guests in
//! user-mode Linux run natively; with them Culvert is compared with itself without offloads. Where there are two cores only,
//! the switch shares that of the receiving guest.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::uml;

use crate::options::Options;
use crate::peer::{Peer, Setup, Switch};
use crate::scenario::{Case, Figure};

/// What the guests are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Emulated.
    Qemu,
    /// User-mode Linux.
    Uml,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    Ok(vec![case(options, Kind::Qemu)])
}

pub fn cases_uml(options: &Options) -> Result<Vec<Case>> {
    Ok(vec![case(options, Kind::Uml)])
}

fn case(options: &Options, kind: Kind) -> Case {
    let options = options.clone();
    Case::new(format!("{} connections", options.streams), move |peer| {
        let setup = Setup { idle_sleep: "200us", ..Setup::pair(options.switch_core(), 1514) };
        let mut switch = Switch::start(peer, &setup)?;
        let rate = measure(&options, kind, peer, &switch).with_context(|| switch.explain())?;
        Ok(vec![Figure::gain("rate", "Gbit/s", rate)])
    })
}

/// Boots two guests on the sockets and returns what iperf3 carries, in Gbit/s.
fn measure(options: &Options, kind: Kind, peer: Peer, switch: &Switch) -> Result<f64> {
    let [sender, receiver] = options.guest_cores();
    let [socket_a, socket_b] = &switch.sockets[..] else { anyhow::bail!("two sockets") };
    let mut a = boot(kind, peer.role(), sender, "vm-a", socket_a, 1)?;
    let mut b = boot(kind, peer.role(), receiver, "vm-b", socket_b, 2)?;
    a.wait_ready()?;
    b.wait_ready()?;
    if peer == Peer::CulvertGuestsOff {
        for guest in [&mut a, &mut b] {
            guest.check("ethtool -K eth0 tx off tso off gso off gro off")?;
        }
    }
    b.serve_iperf()?;
    let address = b.address().to_owned();
    a.ping(&address, 2)?;
    let rate = a.iperf(&address, &format!("-t {} -P {}", options.whole_seconds(), options.streams))?;
    ensure!(rate > 0.0, "iperf3 carried nothing");
    Ok(rate / 1e3)
}

/// Starts a guest of a kind on a core. User-mode Linux cannot listen.
pub fn boot(kind: Kind, role: Role, core: usize, name: &str, socket: &Path, number: u8) -> Result<Guest> {
    let place = Place { core: Some(core), ..Place::default() };
    match kind {
        Kind::Qemu => GuestOptions { place, role, ..GuestOptions::new(name, socket, number) }.boot(),
        Kind::Uml => uml::boot_in(&place, name, socket, number),
    }
}
