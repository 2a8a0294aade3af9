//! Two guests that do nothing: how much of a core the switch takes, and how long a frame takes that comes after a rest.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_system::daemon::cpu_time;

use crate::clock::{microseconds, ticks};
use crate::latency::quantile;
use crate::load::Frames;
use crate::options::Options;
use crate::pair::under_load;
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};
use crate::vm_to_vm::connect;

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let options = options.clone();
    Ok(vec![Case::new("two guests", move |peer| measure(&options, peer))])
}

fn measure(options: &Options, peer: Peer) -> Result<Vec<Figure>> {
    let setup = Setup { idle_sleep: "200us", ..Setup::pair(options.switch_core(), FRAME_BYTES) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut pair = connect(switch, options.rings(), Frames::plain(1, 2, FRAME_BYTES))?;
        pair.warm_up(1)?;
        std::thread::sleep(Duration::from_millis(500));
        let (before, start) = (cpu_time(switch.pid())?, Instant::now());
        std::thread::sleep(options.time());
        let used = cpu_time(switch.pid())?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();

        let [a, b] = &mut pair.guests;
        let mut times = Vec::with_capacity(WAKE_UPS);
        for _ in 0..WAKE_UPS {
            std::thread::sleep(REST);
            b.take();
            a.reclaim();
            let sent = ticks();
            ensure!(a.send(1)? == 1, "the ring is full");
            let started = Instant::now();
            while b.take() == 0 {
                ensure!(started.elapsed() < LIMIT, "a frame did not arrive within {LIMIT:?}");
            }
            times.push(ticks() - sent);
        }
        times.sort_unstable();
        let at = |part: f64| microseconds(quantile(&times, part));
        Ok(vec![
            Figure::cost("processor time", "% of a core", 100.0 * used),
            Figure::cost("first frame, p50", "us", at(0.5)),
            Figure::cost("first frame, p99", "us", at(0.99)),
        ])
    })
}

const FRAME_BYTES: u32 = 64;

/// Frames that come after a rest, and how long each rest is.
const WAKE_UPS: usize = 200;
const REST: Duration = Duration::from_millis(5);

const LIMIT: Duration = Duration::from_secs(2);
