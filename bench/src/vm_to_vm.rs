//! Two guests that send to each other as fast as they can. One core drives both guests' rings, the other one switches.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Frames, Lengths, LoadGuest};
use crate::options::Options;
use crate::pair::{Pair, under_load};
use crate::peer::{Peer, Setup, Switch};
use crate::scenario::{Case, Figure};

/// What is sent, and by whom.
#[derive(Clone, Copy)]
struct Traffic {
    frames: Frames,
    both: bool,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let plain = |length| Traffic { frames: Frames::plain(1, 2, length), both: true };
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
    // Of both guests together.
    for (many, number) in [("100", 100), ("10,000", 10_000)] {
        wanted.push((format!("64 B, {many} flows"), with(&|traffic| traffic.frames.flows = number / 2)));
        wanted.push((format!("64 B, {many} addresses"), with(&|traffic| traffic.frames.addresses = number / 2)));
    }
    let case = |(name, traffic): (String, Traffic)| {
        let (options, time) = (options.clone(), options.time());
        Case::new(name, move |peer| measure(&options, peer, traffic, time))
    };
    Ok(wanted.into_iter().map(case).collect())
}

fn measure(options: &Options, peer: Peer, traffic: Traffic, time: Duration) -> Result<Vec<Figure>> {
    let mut setup = Setup::pair(options.switch_core(), traffic.frames.lengths.longest());
    setup.addresses = traffic.frames.addresses;
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut pair = connect(switch, options.ring, traffic.frames)?;
        pair.warm_up(2 * u64::from(traffic.frames.identities()))?;
        pair.measure(switch, time, [true, traffic.both])
    })
}

/// Connects two guests that send such frames to each other.
pub fn connect(switch: &Switch, ring: u16, frames: Frames) -> Result<Pair> {
    let [a, b] = switch.sockets.get(..2).context("two sockets")? else { anyhow::bail!("two sockets") };
    let back = Frames { from: frames.to, to: frames.from, ..frames };
    Ok(Pair { guests: [LoadGuest::connect(a, ring, frames)?, LoadGuest::connect(b, ring, back)?] })
}
