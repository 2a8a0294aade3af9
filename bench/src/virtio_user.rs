//! DPDK's own driver as the guests: testpmd with two virtio-user devices, which sends to each what is for the other one as fast as it
//! can, and throws away what it gets. Its driver costs more than ours ([`crate::load`]); where it is the limit, `busy` is
//! the figure to compare.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_system::place::Place;
use culvert_system::testpmd::Testpmd;

use crate::options::Options;
use crate::pair::{MILLIONS, RATE, busy_figure, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for packed in [false, true] {
        // What fits into a buffer of testpmd's.
        for &size in options.sizes.iter().filter(|&&size| size <= 1514) {
            let options = options.clone();
            let name = format!("{size} B{}", if packed { ", packed" } else { "" });
            cases.push(Case::new(name, move |peer| measure(&options, peer, size, packed)));
        }
    }
    Ok(cases)
}

fn measure(options: &Options, peer: Peer, size: u32, packed: bool) -> Result<Vec<Figure>> {
    let setup = Setup::pair(options.switch_core(), size);
    under_load(peer, &setup, options.load_core(), |switch| {
        let device = |(number, socket): (usize, &std::path::PathBuf)| {
            format!(
                "net_virtio_user{number},path={},mac={},queue_size={},mrg_rxbuf=1,in_order=0,packed_vq={}",
                socket.display(),
                MACS[number % 2],
                options.ring,
                u8::from(packed)
            )
        };
        let devices: Vec<String> = switch.sockets.iter().enumerate().map(device).collect();
        let peers = [format!("--eth-peer=0,{}", MACS[1]), format!("--eth-peer=1,{}", MACS[0])];
        let length = format!("--txpkts={size}");
        let place = Place { core: Some(options.load_core()), ..Place::default() };
        let arguments = ["--forward-mode=flowgen", "--flowgen-flows=1", &peers[0], &peers[1], &length];
        let mut guests = Testpmd::start_in(&place, "guests", &devices, &arguments)?;
        guests.command("start")?;
        std::thread::sleep(WARM_UP);
        let mut count = || -> Result<u64> { (0..2).map(|port| guests.counter(port, "RX-packets")).sum() };
        let busy = switch.busy()?;
        let (before, start) = (count()?, Instant::now());
        std::thread::sleep(options.time());
        let rate = (count()? - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        ensure!(rate > 0.0, "no frame arrived");
        let mut figures = vec![Figure::gain(RATE, MILLIONS, rate)];
        figures.extend(busy_figure(switch, busy)?);
        Ok(figures)
    })
}

/// The guests' addresses.
const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

const WARM_UP: Duration = Duration::from_millis(500);
