//! Many connections at the same time: what a frame takes of the translator with 15,000 of them beside 10, and what memory each one has.
//!
//! Ten connections at a time, each time others, send a request, and have its answer: so each has one frame in a burst, however many there are.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::far::{Far, answer};
use super::flows::Flows;
use super::requests::{REQUEST, connect};
use super::running::{Running, slab, under_load};
use crate::options::Options;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |count: usize| {
        let options = options.clone();
        Case::new(format!("{count} connections"), move |peer| {
            under_load(&options, peer, 1, "", |running| measure(&options, running, count))
        })
    };
    Ok([1000, 8000, 15_000].map(case).into())
}

fn measure(options: &Options, running: &Running, count: usize) -> Result<Vec<Figure>> {
    let mut flows = connect(options, running, count)?;
    let mut far = Far::new(running.world())?;
    far.open(&mut flows, 0..AT_ONCE)?;
    let few = cost(options, running, &mut flows, &mut far, AT_ONCE)?;
    let (memory, before, files) = (running.memory()?, slab()?, descriptors(running)?);
    far.open(&mut flows, AT_ONCE..count)?;
    let more = (count - AT_ONCE) as f64;
    let each = |now: f64, then: f64| 1024.0 * (now - then) / more;
    let mut figures = vec![
        Figure::cost("memory of each", "B", each(running.memory()?, memory)),
        Figure::cost("the kernel's slabs for each, both ends", "B", each(slab()?, before)),
        Figure::cost("descriptors of each", "", (descriptors(running)? - files) / more),
    ];
    let many = cost(options, running, &mut flows, &mut far, count)?;
    figures.extend([
        Figure::cost("processor time, 10 connections", "ns a frame", few),
        Figure::cost("processor time, all connections", "ns a frame", many),
        Figure::cost("of that with 10", "%", 100.0 * many / few),
    ]);
    Ok(figures)
}

/// Nanoseconds of the translator for each frame of the guest's, either way.
fn cost(options: &Options, running: &Running, flows: &mut Flows, far: &mut Far, count: usize) -> Result<f64> {
    let (mut next, mut turns) = (0, 0_u64);
    let mut turn = |flows: &mut Flows| -> Result<()> {
        let which = next..next + AT_ONCE;
        let place = |index: usize| index % count;
        let wanted: Vec<u64> = which.clone().map(|index| flows.flow(place(index)).bytes + u64::from(REQUEST)).collect();
        for index in which.clone() {
            flows.write(place(index), REQUEST)?;
        }
        let mut answered = [false; AT_ONCE];
        flows.until("answers", |flows| {
            for (index, answered) in which.clone().zip(&mut answered) {
                if !*answered {
                    *answered = answer(far.connection(place(index))?, REQUEST as usize)?;
                }
            }
            Ok(which.clone().zip(&wanted).all(|(index, &wanted)| flows.flow(place(index)).bytes == wanted))
        })?;
        next = (next + AT_ONCE) % count;
        Ok(())
    };
    let start = Instant::now();
    while start.elapsed() < options.time() / 4 {
        turn(flows)?;
    }
    let (taken, frames, start) = (running.taken()?, flows.station.frames, Instant::now());
    while start.elapsed() < options.time() {
        turn(flows)?;
        turns += 1;
    }
    ensure!(turns >= 20, "{turns} turns are too few");
    let cpu = running.taken()?.since(taken).running;
    Ok(cpu.as_nanos() as f64 / (flows.station.frames - frames) as f64)
}

fn descriptors(running: &Running) -> Result<f64> {
    let count = |pid: u32| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let counts: Vec<usize> = running.translators.iter().map(|one| count(one.pid())).collect::<Result<_>>()?;
    Ok(counts.iter().sum::<usize>() as f64)
}

/// Connections that have their turn together.
const AT_ONCE: usize = 10;
