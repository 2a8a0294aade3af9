//! A translator whose guest does nothing: memory, wake-ups, processor time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::far::Far;
use super::requests::connect;
use super::running::{Running, resident, slab, under_load};
use super::station::{Room, Station};
use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let of_one = {
        let options = options.clone();
        Case::new("one guest, one connection", move |peer| {
            under_load(&options, peer, 1, "", |running| one(&options, running))
        })
    };
    let of_many = {
        let options = options.clone();
        Case::new("16 guests", move |peer| many(&options, peer, 16))
    };
    Ok(vec![of_one, of_many])
}

fn one(options: &Options, running: &Running) -> Result<Vec<Figure>> {
    let mut flows = connect(options, running, 1)?;
    let mut far = Far::new(running.world())?;
    far.open(&mut flows, 0..1)?;
    flows.write(0, 32)?;
    flows.turn()?;
    let settled = Instant::now();
    while settled.elapsed() < SETTLED {
        flows.turn()?;
    }
    let (before, start) = (running.taken()?, Instant::now());
    // Nobody polls meanwhile: a kick, if one is owed, has been sent.
    thread::sleep(options.time());
    let (taken, seconds) = (running.taken()?.since(before), start.elapsed().as_secs_f64());
    let translator = running.translators.first().context("a translator")?;
    Ok(vec![
        Figure::cost("wake-ups", "1/s", taken.wake_ups as f64 / seconds),
        Figure::cost("processor time", "% of a core", 100.0 * taken.running.as_secs_f64() / seconds),
        Figure::cost("resident memory", "KiB", resident(translator.pid())?),
        Figure::cost("shared pages in parts", "KiB", running.memory()?),
        Figure::cost("descriptors", "", translator.descriptors()? as f64),
    ])
}

/// After what moved last: the timers of its handshake and of its retransmission, 1 s each, are over by then. A connection that
/// was opened a moment ago is not idle.
const SETTLED: Duration = Duration::from_millis(2500);

/// What each of so many takes, with a guest that is connected and has said who it is.
fn many(options: &Options, peer: Peer, count: usize) -> Result<Vec<Figure>> {
    let with = |count: usize| {
        let before = slab()?;
        under_load(options, peer, count, "", |running| {
            let connect = |one: &culvert_system::translator::Translator| {
                Station::connect(one.socket(), options.ring, Room::FRAMES)
            };
            let _guests = running.translators.iter().map(connect).collect::<Result<Vec<_>>>()?;
            thread::sleep(Duration::from_millis(500));
            Ok([running.memory()?, slab()? - before])
        })
    };
    let ([memory, slabs], [more_memory, more_slabs]) = (with(1)?, with(1 + count)?);
    let each = |more: f64, less: f64| (more - less) / count as f64;
    Ok(vec![
        Figure::cost("memory of each", "KiB", each(more_memory, memory)),
        Figure::cost("the kernel's slabs for each", "KiB", each(more_slabs, slabs)),
        Figure::cost("with one", "KiB", memory),
    ])
}
