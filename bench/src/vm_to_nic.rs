//! A guest sends as fast as it can to a DPDK device that takes everything: what a port that leads to a NIC costs, without the
//! NIC. A frame counts when its buffer came back to the guest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::pair::{MILLIONS, RATE, busy_figure, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |&size: &u32| {
        let options = options.clone();
        Case::new(format!("{size} B, net_null"), move |peer| measure(&options, peer, size))
    };
    // Devices have buffers for 1500 bytes.
    Ok(options.sizes.iter().filter(|&&size| size <= 1514).map(case).collect())
}

fn measure(options: &Options, peer: Peer, size: u32) -> Result<Vec<Figure>> {
    let setup = Setup { guests: 1, nic: Some(DEVICE), ..Setup::pair(options.switch_core(), size) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let socket = switch.sockets.first().context("a socket")?;
        let mut guest = LoadGuest::connect(socket, options.ring, Frames::plain(1, 2, size))?;
        drive(&mut guest, Duration::from_millis(300))?;
        let busy = switch.busy()?;
        let (before, start) = (guest.taken(), Instant::now());
        drive(&mut guest, options.time())?;
        let rate = (guest.taken() - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        ensure!(rate > 0.0, "no frame was taken");
        guest.check()?;
        let mut figures = vec![Figure::gain(RATE, MILLIONS, rate)];
        figures.extend(busy_figure(switch, busy)?);
        Ok(figures)
    })
}

fn drive(guest: &mut LoadGuest, time: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            guest.turn(true)?;
        }
    }
    Ok(())
}

/// Takes all frames, and has none for us.
const DEVICE: &str = "net_null0,no-rx=1";
