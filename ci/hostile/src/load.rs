//! Neighbours under load, for runs with `--full`: how much is without loss on this machine, and how long frames take then.
//!
//! A poll-mode worker has a core of its own, here as on any node; whoever plays guests shares the others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::neighbours::{Neighbours, Pace};

/// Keeps this thread, and those that it starts, off the worker's core, if there are others.
///
/// # Errors
/// The kernel's.
pub fn leave_core_to_worker(core: usize) -> Result<()> {
    let mut cores = rustix::thread::sched_getaffinity(None).context("the cores that may be used")?;
    cores.unset(core);
    if cores.count() != 0 {
        rustix::thread::sched_setaffinity(None, &cores).context("the cores of guests cannot be set")?;
    }
    Ok(())
}

/// The load under which cases are played: 70 % of the rate at which nothing is lost.
///
/// # Errors
/// The neighbours have ended, or lose frames at any rate.
pub fn most(neighbours: &Neighbours) -> Result<Pace> {
    let (mut rate, _) = measure(neighbours, Pace::Fastest)?;
    loop {
        let (reached, lost) = measure(neighbours, Pace::PerSecond(rate))?;
        if lost == 0 {
            let load = reached / 10 * 7;
            println!("     the neighbours lose nothing at {reached} frames a second each, cases are played at {load}");
            return Ok(Pace::PerSecond(load));
        }
        rate = rate / 10 * 9;
        ensure!(rate > 1000, "frames are lost at any rate");
    }
}

/// The time that 99 in 100 frames take at the present pace, the worst of some windows.
///
/// # Errors
/// The neighbours have ended.
pub fn usual_p99(neighbours: &Neighbours) -> Result<Duration> {
    let mut worst = Duration::ZERO;
    for _ in 0..WINDOWS {
        neighbours.mark()?;
        thread::sleep(WINDOW);
        worst = worst.max(neighbours.settle()?.p99);
    }
    Ok(worst)
}

/// Frames a second of each neighbour at a pace, and how many were lost.
fn measure(neighbours: &Neighbours, pace: Pace) -> Result<(u32, u64)> {
    let before = neighbours.settle()?;
    neighbours.set_pace(pace)?;
    let start = Instant::now();
    thread::sleep(2 * WINDOW);
    let after = neighbours.settle()?;
    let received = u32::try_from(after.received - before.received)?;
    let rate = f64::from(received) / 2.0 / start.elapsed().as_secs_f64();
    neighbours.mark()?;
    // A rate is positive, and below what 32 bits hold.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
    Ok((rate as u32, after.lost - before.lost))
}

/// How long times are taken at once.
const WINDOW: Duration = Duration::from_millis(500);

const WINDOWS: usize = 3;
