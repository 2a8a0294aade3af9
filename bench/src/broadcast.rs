//! One guest sends to all; the switch copies each frame to every other guest. What counts is the copies that arrive.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::pair::{MILLIONS, RATE, busy_figure, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |receivers: u8| {
        let options = options.clone();
        Case::new(format!("to {receivers}"), move |peer| measure(&options, peer, receivers))
    };
    Ok([1, 8, 32].map(case).into())
}

fn measure(options: &Options, peer: Peer, receivers: u8) -> Result<Vec<Figure>> {
    let setup = Setup { guests: usize::from(receivers) + 1, ..Setup::pair(options.switch_core(), FRAME_BYTES) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let frames = |from| Frames::plain(from, Frames::BROADCAST, FRAME_BYTES);
        let connect = |(number, socket): (u8, &PathBuf)| LoadGuest::connect(socket, options.rings(), frames(number));
        let mut guests = (1..).zip(&switch.sockets).map(connect).collect::<Result<Vec<_>>>()?;
        let (sender, others) = guests.split_first_mut().context("a guest that sends")?;
        drive(sender, others, Duration::from_millis(300))?;
        let busy = switch.busy()?;
        let count = |others: &[LoadGuest]| -> u64 { others.iter().map(LoadGuest::received).sum() };
        let (before, start) = (count(others), Instant::now());
        drive(sender, others, options.time())?;
        let rate = (count(others) - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        ensure!(rate > 0.0 && others.iter().all(|guest| guest.received() > 0), "not all guests got frames");
        guests.iter().try_for_each(LoadGuest::check)?;
        let mut figures = vec![Figure::gain(RATE, MILLIONS, rate)];
        figures.extend(busy_figure(switch, busy)?);
        Ok(figures)
    })
}

fn drive(sender: &mut LoadGuest, others: &mut [LoadGuest], time: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..16 {
            sender.turn(true)?;
            for guest in &mut *others {
                guest.take();
            }
        }
    }
    Ok(())
}

const FRAME_BYTES: u32 = 64;
