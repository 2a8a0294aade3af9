//! Ping-pong: one frame from a guest to the other and back, again and again, beside a load in both directions. The time is that
//! of the whole way, both times through the switch.
//!
//! The load is a share of what the peer carries with the same loop, in which the load looks at every frame that comes: whether
//! it is the one that goes to and fro. A frame that does not come back is counted and sent anew.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::clock::{microseconds, ticks, ticks_of};
use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::paced::Pace;
use crate::pair::{MILLIONS, Pair, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};
use crate::vm_to_vm::connect;

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |percent: u32| {
        let options = options.clone();
        Case::new(format!("{percent} % load"), move |peer| measure(&options, peer, f64::from(percent) / 100.0))
    };
    Ok([0, 10, 50, 90].map(case).into())
}

fn measure(options: &Options, peer: Peer, share: f64) -> Result<Vec<Figure>> {
    let setup = Setup::pair(options.switch_core(), FRAME_BYTES);
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut pair = connect(switch, options.ring, Frames::plain(1, 2, FRAME_BYTES))?;
        pair.warm_up(1)?;
        // No allocation once it runs.
        let mut times = Vec::with_capacity(SAMPLES);
        let mut most: f64 = 0.0;
        // The best of some: one in which another program had a core would tell too little.
        for _ in 0..if share > 0.0 { 3 } else { 0 } {
            most = most.max(pair.ping(f64::INFINITY, MOST_TIME, &mut times)?.0);
        }
        pair.ping(share * most, WARM_UP, &mut times)?;
        times.clear();
        let (rate, lost) = pair.ping(share * most, options.time(), &mut times)?;
        ensure!(times.len() >= 100, "{} of {} frames came back: too few", times.len(), times.len() + lost);
        times.sort_unstable();
        let at = |part: f64| {
            let index = ((times.len() as f64 * part) as usize).min(times.len() - 1);
            microseconds(times.get(index).copied().unwrap_or(0))
        };
        let mut figures = vec![
            Figure::cost("p50", "us", at(0.5)),
            Figure::cost("p99", "us", at(0.99)),
            Figure::cost("p99.9", "us", at(0.999)),
            Figure::cost("not come back", "1/million", 1e6 * lost as f64 / (times.len() + lost) as f64),
        ];
        if share > 0.0 {
            figures.push(Figure::gain("load", MILLIONS, rate / 1e6));
        }
        Ok(figures)
    })
}

/// The frame that goes to and fro.
#[derive(Clone, Copy, Debug, Default)]
struct Ping {
    serial: u64,
    at: u64,
}

impl Pair {
    /// Plays ping-pong beside a load of so many frames a second, both directions summed. Adds times in ticks to `times`, as many as it
    /// has room for. Returns the load that came through, in frames a second, and how many pings did not come back.
    fn ping(&mut self, rate: f64, time: Duration, times: &mut Vec<u64>) -> Result<(f64, usize)> {
        let [a, b] = &mut self.guests;
        // Without end: more than any ring takes.
        let each = if rate.is_finite() { rate / 2.0 } else { 1e9 };
        let mut paces = [Pace::new(each), Pace::new(each)];
        let (before, start) = (a.received() + b.received(), Instant::now());
        let (mut now, mut lost, mut pong) = (ticks(), 0, None);
        let (end, limit) = (now + ticks_of(time), ticks_of(LIMIT));
        let mut ping = Ping::default();
        let mut waits = false;
        // Where other programs take the cores it goes on until there is something to tell.
        let latest = end + ticks_of(5 * time);
        while now < end || (times.len() < ENOUGH && now < latest) {
            a.take_each(|slot| {
                if u64::from_ne_bytes(slot.at(MARK)) == (ping.serial << 2 | PONG) && waits {
                    waits = false;
                    if times.len() < times.capacity() {
                        times.push(ticks() - ping.at);
                    }
                }
            });
            b.take_each(|slot| {
                let mark = u64::from_ne_bytes(slot.at(MARK));
                if mark & 3 == PING {
                    pong = Some(mark >> 2);
                }
            });
            // What answers goes first.
            if let Some(serial) = pong {
                b.reclaim();
                if mark(b, serial << 2 | PONG)? {
                    pong = None;
                }
            }
            if waits && now - ping.at > limit {
                lost += 1;
                waits = false;
            }
            a.reclaim();
            if !waits {
                let next = Ping { serial: ping.serial + 1, at: ticks() };
                if mark(a, next.serial << 2 | PING)? {
                    (ping, waits) = (next, true);
                }
            }
            if each > 0.0 {
                b.reclaim();
                now = ticks();
                for (guest, pace) in [&mut *a, b].into_iter().zip(&mut paces) {
                    pace.send(guest, now, |slot| slot.write(MARK, [0; 8]))?;
                }
            } else {
                now = ticks();
            }
        }
        a.check()?;
        b.check()?;
        let came = a.received() + b.received() - before;
        Ok((came as f64 / start.elapsed().as_secs_f64(), lost))
    }
}

/// Sends one frame with a mark; `false` when the ring is full.
fn mark(guest: &mut LoadGuest, mark: u64) -> Result<bool> {
    Ok(guest.send_each(1, |slot| slot.write(MARK, mark.to_ne_bytes()))? == 1)
}

/// Where a frame has its mark: behind the headers. 0 is that of the load; others have a serial number and one of these.
const MARK: usize = 42;
const PING: u64 = 1;
const PONG: u64 = 2;

const FRAME_BYTES: u32 = 64;

/// Times that are kept at most.
const SAMPLES: usize = 4_000_000;

/// Times that are wanted at least.
const ENOUGH: usize = 1000;

const MOST_TIME: Duration = Duration::from_millis(100);

const WARM_UP: Duration = Duration::from_millis(100);

/// A ping that has not come back by then is lost.
const LIMIT: Duration = Duration::from_millis(20);
