//! Two guests that send as fast as they can beside others that are there and do nothing, against the two alone, in the same
//! switch one after the other.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::pair::under_load;
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};
use crate::vm_to_vm::connect;

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |idle: usize| {
        let options = options.clone();
        Case::new(format!("{idle} idle"), move |peer| measure(&options, peer, idle))
    };
    Ok([1, 16, 64, 256].map(case).into())
}

fn measure(options: &Options, peer: Peer, idle: usize) -> Result<Vec<Figure>> {
    // What is idle is to be found out: with `idle_sleep` = 0 all is polled for ever.
    let setup = Setup { guests: idle + 2, idle_sleep: "200us", ..Setup::pair(options.switch_core(), FRAME_BYTES) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut pair = connect(switch, options.rings(), Frames::plain(1, 2, FRAME_BYTES))?;
        pair.warm_up(1)?;
        let alone = pair.measure(switch, options.time() / 2, [true; 2])?;
        let others = switch.sockets.get(2..).unwrap_or_default().iter();
        let connect = |socket: &PathBuf| LoadGuest::connect(socket, options.rings(), Frames::plain(3, 1, FRAME_BYTES));
        let _idle = others.map(connect).collect::<Result<Vec<_>>>()?;
        pair.warm_up(1)?;
        let mut figures = pair.measure(switch, options.time() / 2, [true; 2])?;
        let rate = |figures: &[Figure]| figures.first().map(|figure| figure.value).context("a rate");
        let share = rate(&figures)? / rate(&alone)?;
        figures.push(Figure::gain("of the rate alone", "%", 100.0 * share));
        Ok(figures)
    })
}

const FRAME_BYTES: u32 = 64;
