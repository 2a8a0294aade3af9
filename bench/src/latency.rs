//! Ping-pong: one frame from a guest to the other and back, again and again, beside a load in both directions. The time is that
//! of the whole way, both times through the switch.
//!
//! The load is a share of what the peer carries with the same loop. The frame that goes to and fro is known by its length, so that the
//! load looks into no other; it takes and sends bursts, and what it is at when the frame comes is part of the time, whoever switches.
//! A frame that does not come back is counted and sent anew. One that was on its way while the load had lost its core, to the
//! host or to another program, tells nothing of the switch: it is set aside, and counted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::clock::{microseconds, ticks, ticks_of};
use crate::load::Frames;
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
        let mut pair = connect(switch, options.rings(), Frames::plain(1, 2, FRAME_BYTES))?;
        pair.warm_up(1)?;
        // No allocation once it runs.
        let mut times = Vec::with_capacity(SAMPLES);
        let mut most: f64 = 0.0;
        // The best of some: one in which another program had a core would tell too little.
        for _ in 0..if share > 0.0 { 3 } else { 0 } {
            most = most.max(pair.ping(f64::INFINITY, MOST_TIME, &mut times)?.rate);
        }
        pair.ping(share * most, WARM_UP, &mut times)?;
        times.clear();
        let outcome = pair.ping(share * most, options.time(), &mut times)?;
        let all = (times.len() + outcome.lost + outcome.set_aside) as f64;
        ensure!(times.len() >= 100, "{} of {all} frames tell something: too few", times.len());
        times.sort_unstable();
        let at = |part: f64| microseconds(quantile(&times, part));
        let mut figures = vec![
            Figure::cost("p50", "us", at(0.5)),
            Figure::cost("p99", "us", at(0.99)),
            Figure::cost("p99.9", "us", at(0.999)),
            Figure::cost("not come back", "1/million", 1e6 * outcome.lost as f64 / all),
            Figure::cost("set aside", "1/million", 1e6 * outcome.set_aside as f64 / all),
        ];
        if share > 0.0 {
            figures.push(Figure::gain("load", MILLIONS, outcome.rate / 1e6));
            figures.push(Figure::gain("of the load that goes", "%", 100.0 * outcome.rate / most));
        }
        Ok(figures)
    })
}

/// The value that a part of some sorted ones does not exceed, 0 of none: by the nearest rank.
pub fn quantile(sorted: &[u64], part: f64) -> u64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

/// What became of the frames that went to and fro, those apart whose times were kept, and of the load.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Frames of the load a second that came through, both directions summed.
    rate: f64,
    /// Frames that did not come back.
    lost: usize,
    /// Frames of which the load cannot tell.
    set_aside: usize,
}

/// The frame that goes to and fro.
#[derive(Clone, Copy, Debug, Default)]
struct Ping {
    serial: u64,
    at: u64,
}

impl Pair {
    /// Plays ping-pong beside a load of so many frames a second, both directions summed. Adds times in ticks to `times`, as many as it
    /// has room for.
    fn ping(&mut self, rate: f64, time: Duration, times: &mut Vec<u64>) -> Result<Outcome> {
        let [a, b] = &mut self.guests;
        // Without end: more than any ring takes.
        let each = if rate.is_finite() { rate / 2.0 } else { 1e9 };
        let mut paces = [Pace::new(each), Pace::new(each)];
        let (before, start) = (a.received() + b.received(), Instant::now());
        let (mut now, mut outcome, mut pong) = (ticks(), Outcome::default(), None);
        let (end, limit, longest_gap) = (now + ticks_of(time), ticks_of(LIMIT), ticks_of(GAP));
        let (mut ping, mut waits, mut disturbed) = (Ping::default(), false, false);
        // Where other programs take the cores it goes on until there is something to tell.
        let latest = end + ticks_of(5 * time);
        while now < end || (times.len() < ENOUGH && now < latest) {
            a.take_each(|slot| {
                if slot.mark(FRAME_BYTES) == Some(ping.serial << 1 | PONG) && waits {
                    waits = false;
                    let came = ticks();
                    if disturbed || came - now > longest_gap {
                        outcome.set_aside += 1;
                    } else if times.len() < times.capacity() {
                        times.push(came - ping.at);
                    }
                }
            });
            b.take_each(|slot| {
                if let Some(mark) = slot.mark(FRAME_BYTES)
                    && mark & PONG == 0
                {
                    pong = Some(mark >> 1);
                }
            });
            // What answers goes first.
            if let Some(serial) = pong {
                b.reclaim();
                if b.send_marked(serial << 1 | PONG)? {
                    pong = None;
                }
            }
            if waits && now - ping.at > limit {
                outcome.lost += 1;
                waits = false;
            }
            a.reclaim();
            if !waits {
                let next = Ping { serial: ping.serial + 1, at: ticks() };
                if a.send_marked(next.serial << 1)? {
                    (ping, waits, disturbed) = (next, true, false);
                }
            }
            let last = now;
            now = ticks();
            disturbed |= now - last > longest_gap;
            if each > 0.0 {
                b.reclaim();
                for (guest, pace) in [&mut *a, b].into_iter().zip(&mut paces) {
                    pace.send(guest, now)?;
                }
            }
        }
        a.check()?;
        b.check()?;
        // There and back, each was received as well.
        let came = (a.received() + b.received() - before).saturating_sub(2 * ping.serial);
        outcome.rate = came as f64 / start.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

/// In a mark, behind the serial number: it is on its way back.
const PONG: u64 = 1;

const FRAME_BYTES: u32 = 64;

/// Times that are kept at most.
const SAMPLES: usize = 4_000_000;

/// Times that are wanted at least.
const ENOUGH: usize = 1000;

const MOST_TIME: Duration = Duration::from_millis(100);

const WARM_UP: Duration = Duration::from_millis(100);

/// A ping that has not come back by then is lost.
const LIMIT: Duration = Duration::from_millis(20);

/// Who takes longer than this for a turn had lost its core: a turn is some bursts of 32 frames.
const GAP: Duration = Duration::from_micros(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<u64> = (1..=1000).collect();
        let at = [0.0, 0.5, 0.99, 0.999, 1.0].map(|part| quantile(&values, part));
        assert_eq!(at, [1, 500, 990, 999, 1000]);
        assert_eq!((quantile(&[7], 0.999), quantile(&[], 0.5)), (7, 0));
    }
}
