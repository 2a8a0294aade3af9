//! culvertd is killed at work, while it starts, while frontends connect; its guests keep exact books.

use std::time::Duration;

use anyhow::Result;

use super::crowd::{Crowd, Moment, Process};
use super::dice::Dice;
use crate::field::Field;

/// Killed under load. No frame goes out before all guests are connected again, so none may be lost.
pub fn at_work(_: &mut Field) -> Result<()> {
    kill(10, SEED, |dice, together| {
        *together = true;
        (process(dice), Moment::Work)
    })
}

/// Killed at any moment of its start, or of the dialogue with frontends, most of them before anything works.
pub fn at_start(_: &mut Field) -> Result<()> {
    kill(20, SEED + 1, |dice, together| {
        *together = false;
        (Process::Supervisor, Moment::AfterStart(Duration::from_micros(dice.below(60_000))))
    })
}

/// At any moment.
pub fn a_thousand(_: &mut Field) -> Result<()> {
    kill(1000, SEED + 2, |dice, together| {
        *together = dice.one_in(2);
        let longest = if dice.one_in(2) { 40_000 } else { 400_000 };
        let after_start = Moment::AfterStart(Duration::from_micros(dice.below(longest)));
        (process(dice), if dice.one_in(3) { Moment::Work } else { after_start })
    })
}

/// Mostly the supervisor: a daemon that dies twice within ten seconds is started later, and its guests have to connect again.
fn process(dice: &mut Dice) -> Process {
    if dice.one_in(4) { Process::Daemon } else { Process::Supervisor }
}

/// Kills it so many times, as `next` says, and compares the books at the end.
fn kill(times: u32, seed: u64, mut next: impl FnMut(&mut Dice, &mut bool) -> (Process, Moment)) -> Result<()> {
    let mut dice = Dice::new(seed);
    let (mut together, mut gaps) = (true, Vec::new());
    let mut crowd = Crowd::new(together)?;
    for kill in 1..=times {
        let (process, moment) = next(&mut dice, &mut together);
        let killed = crowd.kill(process, moment, &mut dice);
        crowd.group().set_together(together);
        let recovered = killed.and_then(|killed| match moment {
            Moment::Work => crowd.group().recover().map(|()| Some(killed.elapsed())),
            Moment::AfterStart(_) => Ok(None),
        });
        let told = recovered.map_err(|error| {
            let drops = crowd.daemon().ctl("drops").unwrap_or_default();
            let said = crowd.daemon().console().last_words();
            error.context(format!("kill {kill} ({process:?}, {moment:?}); drops since:\n{drops}\nculvertd: {said}"))
        });
        gaps.extend(told?);
    }
    let totals = crowd.group().balance()?;
    // The last one may just have started.
    crowd.daemon().wait_for_next(0)?;
    crowd.daemon().check_counters()?;
    gaps.sort();
    let (median, worst) =
        (gaps.get(gaps.len() / 2).copied().unwrap_or_default(), gaps.last().copied().unwrap_or_default());
    println!(
        "killed {times} times (seed {seed}): {} frames, {} lost, {} came twice; all four guests talk again after {median:.0?} \
         (worst {worst:.0?}) at work",
        totals.frames, totals.lost, totals.repeated
    );
    Ok(())
}

/// Where the dice begin.
const SEED: u64 = 20_261_121;
