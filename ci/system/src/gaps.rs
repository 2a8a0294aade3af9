//! How long guests do not hear of each other while something is done to the switch between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::guest::Guest;
use crate::wait::wait_until;

/// Makes them know each other's address for good. QEMU shows its guest that the link is gone; Linux forgets its neighbours then, and
/// asks for them at once, before the link is up: the next question comes a second later. That second is no switch's.
///
/// # Errors
/// A guest does not take it.
pub fn fix_neighbours(a: &mut Guest, b: &mut Guest) -> Result<()> {
    a.check("ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")?;
    b.check("ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")?;
    Ok(())
}

/// Pings while `act` does something to the switch; returns the longest time without an answer.
///
/// # Errors
/// Nothing is answered, or `act` fails.
pub fn ping_over(from: &mut Guest, address: &str, act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    // Answers that are under way must not be taken for the next ones: each time has a ping of its own.
    from.send(&format!("ping -i {} -c {PINGS} -W 5 {address}", INTERVAL.as_secs_f64()))?;
    let start = Instant::now();
    from.console().wait_for(LAST_BEFORE, LIMIT)?;
    let acted = Instant::now();
    act()?;
    let (printed, _) = from.finish_within(LIMIT)?;
    // What is waited for is not in it any more.
    let printed = LAST_BEFORE.to_owned() + &printed;
    // On a busy machine a guest's requests come more slowly than they are to.
    match gap(&printed, start.elapsed().as_secs_f64() / f64::from(PINGS))? {
        Some(gap) => Ok(gap),
        // On a very busy one the switch is not back before they are over.
        None => {
            wait_until(&format!("{address} answers again"), || Ok(from.ping(address, 1)? == 1))?;
            Ok(acted.elapsed())
        }
    }
}

/// Which start of its kernel a guest is in.
///
/// # Errors
/// The guest does not answer.
pub fn boot_id(guest: &mut Guest) -> Result<String> {
    guest.check("cat /proc/sys/kernel/random/boot_id")
}

/// The longest time without an answer: by the requests that were not answered, one each `interval` seconds, and the answer that took
/// longest. `None` where they were not answered again to the end.
fn gap(printed: &str, interval: f64) -> Result<Option<Duration>> {
    let number = |line: &str, key: &str| -> Option<f64> { line.split(key).nth(1)?.split(' ').next()?.parse().ok() };
    let answers: Vec<(f64, f64)> =
        printed.lines().filter_map(|line| Some((number(line, "seq=")?, number(line, "time=")?))).collect();
    let (last, _) = *answers.last().context("no answer at all")?;
    if last < f64::from(PINGS) / 2.0 {
        return Ok(None);
    }
    let missing = answers.windows(2).map(|pair| match pair {
        [(before, _), (after, _)] => (after - before) * interval,
        _ => 0.0,
    });
    let slowest = answers.iter().map(|(_, milliseconds)| milliseconds / 1000.0);
    Ok(Some(Duration::from_secs_f64(missing.chain(slowest).fold(0.0, f64::max))))
}

/// Prints how often something was done, and the median, the 99th percentile and the worst of the gaps.
pub fn print(done: &str, what: &str, gaps: &mut [Duration]) {
    gaps.sort();
    let at = |percent: usize| gaps.get((gaps.len() * percent / 100).min(gaps.len().saturating_sub(1)));
    let [median, p99, worst] = [50, 99, 100].map(|percent| at(percent).copied().unwrap_or_default());
    println!("{what}: {} {done}, gap {median:.2?} (p99 {p99:.2?}, worst {worst:.2?})", gaps.len());
}

const LIMIT: Duration = Duration::from_secs(60);
/// In the last answer that comes before it.
const LAST_BEFORE: &str = "seq=30 ";
const INTERVAL: Duration = Duration::from_millis(10);
/// Requests of one ping: enough for the frontend's pause of a second.
const PINGS: u32 = 400;
