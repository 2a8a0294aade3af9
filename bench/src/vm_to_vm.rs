//! Two guests that send to each other as fast as they can. One core drives both guests' rings, the other one switches.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Frames, Lengths, LoadGuest, Rings};
use crate::options::Options;
use crate::pair::{Pair, under_load};
use crate::peer::{Peer, Setup, Switch};
use crate::scenario::{Case, Figure};

/// What is sent, and by whom.
#[derive(Clone, Copy)]
struct Traffic {
    frames: Frames,
    both: bool,
    packed: bool,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let plain = |length| Traffic { frames: Frames::plain(1, 2, length), both: true, packed: false };
    let with = |change: &dyn Fn(&mut Traffic)| {
        let mut traffic = plain(64);
        change(&mut traffic);
        traffic
    };
    let mut wanted = Vec::new();
    for &size in &options.sizes {
        wanted.push((format!("{size} B"), plain(size)));
    }
    wanted.push(("mix".to_owned(), with(&|traffic| traffic.frames.lengths = Lengths::Imix)));
    for &size in &options.sizes {
        let mut traffic = plain(size);
        traffic.frames.touched = true;
        wanted.push((format!("{size} B, touched"), traffic));
    }
    for &size in &options.sizes {
        wanted.push((format!("{size} B, one way"), Traffic { both: false, ..plain(size) }));
    }
    for &size in &options.sizes {
        wanted.push((format!("{size} B, packed"), Traffic { packed: true, ..plain(size) }));
    }
    // Of both guests together.
    for (many, number) in [("100", 100), ("10,000", 10_000)] {
        wanted.push((format!("64 B, {many} flows"), with(&|traffic| traffic.frames.flows = number / 2)));
        wanted.push((format!("64 B, {many} addresses"), with(&|traffic| traffic.frames.addresses = number / 2)));
    }
    let case = |(name, traffic): (String, Traffic)| {
        let options = options.clone();
        let case = Case::new(name, move |peer| measure(&options, peer, traffic));
        // virtio-queue has no packed rings.
        if traffic.packed { case.without(&[Peer::RustVmm]) } else { case }
    };
    Ok(wanted.into_iter().map(case).collect())
}

fn measure(options: &Options, peer: Peer, traffic: Traffic) -> Result<Vec<Figure>> {
    let mut setup = Setup::pair(options.switch_core(), traffic.frames.lengths.longest());
    setup.addresses = traffic.frames.addresses;
    under_load(peer, &setup, options.load_core(), |switch| {
        let rings = Rings { packed: traffic.packed, ..options.rings() };
        let mut pair = connect(switch, rings, traffic.frames)?;
        pair.warm_up(2 * u64::from(traffic.frames.identities()))?;
        let sending = [true, traffic.both];
        if traffic.frames.identities() == 1 {
            return pair.measure(switch, options.time(), sending);
        }
        // Beside one address and flow alone, in the same switch, and with as much to write into each frame.
        let mut rates = Vec::new();
        let mut figures = Vec::new();
        for all in [false, true, false, true] {
            pair.guests.iter_mut().for_each(|guest| guest.vary(all));
            pair.drive(SETTLE, sending)?;
            figures = pair.measure(switch, options.time() / 4, sending)?;
            rates.push(figures.first().map_or(0.0, |figure| figure.value));
        }
        let [one, many, one_again, many_again] = rates[..] else { anyhow::bail!("four rates") };
        if let Some(rate) = figures.first_mut() {
            rate.value = f64::midpoint(many, many_again);
        }
        figures.push(Figure::gain(OF_ONE, "%", 100.0 * (many + many_again) / (one + one_again)));
        Ok(figures)
    })
}

/// Connects two guests that send such frames to each other.
pub fn connect(switch: &Switch, rings: Rings, frames: Frames) -> Result<Pair> {
    let [a, b] = switch.sockets.get(..2).context("two sockets")? else { anyhow::bail!("two sockets") };
    let back = Frames { from: frames.to, to: frames.from, ..frames };
    Ok(Pair { guests: [LoadGuest::connect(a, rings, frames)?, LoadGuest::connect(b, rings, back)?] })
}

/// The figure that tells how much many addresses or flows cost.
pub const OF_ONE: &str = "of the rate with one";

/// Time for the caches to get used to it.
const SETTLE: Duration = Duration::from_millis(50);
