//! The highest rate at which no frame is lost, found by halving (RFC 2544, section 26.1), both directions summed.
//!
//! A trial in which another program or the host had one of the cores tells nothing of the switch: at 20 million frames a second a ring
//! is full after 13 microseconds. It is made again, some times; when all were so the last one counts, and the report tells how many
//! trials were disturbed. Beside it stands the rate at which 100 of a million frames are lost at most, for hosts that are never quiet.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::clock::{ticks, ticks_of};
use crate::load::Frames;
use crate::options::Options;
use crate::paced::Pace;
use crate::pair::{MILLIONS, Pair, RATE, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};
use crate::vm_to_vm::connect;

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |&size: &u32| {
        let options = options.clone();
        Case::new(format!("{size} B"), move |peer| measure(&options, peer, size))
    };
    Ok(options.sizes.iter().map(case).collect())
}

fn measure(options: &Options, peer: Peer, size: u32) -> Result<Vec<Figure>> {
    let setup = Setup::pair(options.switch_core(), size);
    under_load(peer, &setup, options.load_core(), |switch| {
        let pid = switch.pid();
        let mut pair = connect(switch, options.rings(), Frames::plain(1, 2, size))?;
        pair.warm_up(1)?;
        let most = pair.measure(switch, options.time().min(Duration::from_secs(1)), [true; 2])?;
        let most = most.first().map_or(0.0, |figure| figure.value) * 1e6;
        pair.settle()?;
        let time = options.time() / 4;
        let none = pair.search(pid, most, time, options.loss)?;
        let some = pair.search(pid, most, time, options.loss.max(FEW))?;
        ensure!(some.rate > 0.0, "frames are lost at every rate; disturbed trials: {}", some.disturbed);
        Ok(vec![
            Figure::gain(RATE, MILLIONS, none.rate / 1e6),
            Figure::gain("of the rate with loss", "%", 100.0 * none.rate / most),
            Figure::gain("with 100 of a million lost", MILLIONS, some.rate / 1e6),
            Figure::cost("disturbed trials", "trials", f64::from(none.disturbed + some.disturbed)),
        ])
    })
}

/// What a search has found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Frames a second; 0: none passes.
    rate: f64,
    /// Trials that told nothing.
    disturbed: u32,
}

/// What became of the frames of a trial.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    sent: u64,
    lost: u64,
    /// Frames a second that were sent.
    rate: f64,
    /// The load had lost its core meanwhile.
    disturbed: bool,
}

impl Trial {
    fn passes(self, millionths: f64) -> bool {
        self.sent > 0 && self.lost as f64 <= millionths / 1e6 * self.sent as f64
    }
}

impl Pair {
    /// The highest rate at which no more is lost than so many frames of a million. `most` is what goes at all.
    fn search(&mut self, pid: u32, most: f64, time: Duration, permitted: f64) -> Result<Found> {
        // What one ring holds back is not lost: more than what goes at all is tried.
        let (mut good, mut bad, mut found) = (0.0, 1.25 * most, Found::default());
        while bad - good > most / 50.0 {
            let rate = f64::midpoint(good, bad);
            let mut trial = Trial::default();
            for _ in 0..TRIES {
                let before = preemptions(pid) + preemptions(std::process::id());
                trial = self.trial(rate, time)?;
                let disturbed = trial.disturbed || preemptions(pid) + preemptions(std::process::id()) != before;
                // One that lost nothing is good, whatever else happened.
                if trial.passes(permitted) || !disturbed {
                    break;
                }
                found.disturbed += 1;
            }
            if trial.passes(permitted) {
                // What went, not what was wanted: the load may have lost its core, too.
                good = rate;
                found.rate = found.rate.max(trial.rate);
            } else {
                bad = rate;
            }
        }
        Ok(found)
    }

    /// Takes what is on its way until the switch has taken all frames and nothing comes any more. Time alone does not tell: a switch
    /// that has lost its core is quiet as well, and what it passes on later would count for the next trial.
    fn settle(&mut self) -> Result<()> {
        let (begin, mut quiet) = (Instant::now(), Instant::now());
        let mut received = self.received();
        let all_taken = |pair: &Self| pair.guests.iter().all(|guest| guest.taken() == guest.sent());
        while quiet.elapsed() < SETTLED || !all_taken(self) {
            self.guests.iter_mut().try_for_each(|guest| guest.turn(false))?;
            if self.received() != received {
                (quiet, received) = (Instant::now(), self.received());
            }
            ensure!(begin.elapsed() < LIMIT, "the switch leaves frames in the rings");
        }
        Ok(())
    }

    /// Sends at a rate for a time.
    fn trial(&mut self, rate: f64, time: Duration) -> Result<Trial> {
        let count = |pair: &Self| -> u64 { pair.guests.iter().map(|guest| guest.sent()).sum() };
        let (sent, received) = (count(self), self.received());
        let start = Instant::now();
        let mut paces = [Pace::new(rate / 2.0), Pace::new(rate / 2.0)];
        let end = ticks() + ticks_of(time);
        let mut behind = 0;
        loop {
            let now = ticks();
            if now >= end {
                break;
            }
            for (guest, pace) in self.guests.iter_mut().zip(&mut paces) {
                guest.take();
                guest.reclaim();
                behind = behind.max(pace.send(guest, now)?);
            }
            if behind > MOST_BEHIND {
                break;
            }
        }
        let elapsed = start.elapsed().as_secs_f64();
        let disturbed = paces.iter().any(|pace| pace.gaps() > 0);
        self.settle()?;
        let sent = count(self) - sent;
        let rate = sent as f64 / elapsed;
        let received = self.received() - received;
        // More than were sent: some were on their way still from the trial before. Whatever this one would tell is not true.
        if received > sent {
            return Ok(Trial { sent, lost: sent, rate, disturbed });
        }
        let refused = if behind > MOST_BEHIND { behind } else { 0 };
        Ok(Trial { sent, lost: sent - received + refused, rate, disturbed })
    }
}

/// How often other programs took a core from any thread of a process so far.
fn preemptions(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let count = |task: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    tasks.flatten().filter_map(count).sum()
}

/// Frames that a sender may be behind: with its ring of 256 full, and as many more.
const MOST_BEHIND: u64 = 256;

/// Nothing comes any more.
const SETTLED: Duration = Duration::from_millis(20);

/// The longest that the switch may take for what lies in the rings.
const LIMIT: Duration = Duration::from_secs(5);

/// How often a trial is made at most.
const TRIES: usize = 8;

/// Frames of a million that are as good as none on a host that is never quiet.
const FEW: f64 = 100.0;
