//! Hours in the life of a node: guests talk all the time, and each minute something goes wrong: a hostile case, a kill of culvertd, a
//! reload, changed objects, a capture. At the end all is accounted for.
//!
//! - [`talkers`]: four guests with exact books, in a thread of their own;
//! - `linux`: two guests in user-mode Linux, where there is an image: their driver does not connect again, so they boot anew after a kill;
//! - [`memory`]: what culvertd takes, and the line through it.
//!
//! The two neighbours of the [`Field`] are guests seven and eight. Run by `ci/soak`.

mod fault;
mod linux;
pub mod memory;
pub mod talkers;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::Daemon;
use serde_json::Value;

use crate::cases::restart::dice::Dice;
use crate::field::Field;
use fault::Fault;
use linux::Linux;
use memory::Samples;
use talkers::Talkers;

/// How it is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many faults there are, one in each round.
    pub rounds: u32,
    /// How long a round takes.
    pub round: Duration,
    /// Where the dice begin.
    pub seed: u64,
}

/// Runs it; prints a line each round and a summary.
///
/// # Errors
/// Something is not as it must be.
pub fn run(options: Options) -> Result<()> {
    let mut dice = Dice::new(options.seed);
    let mut field = Field::new(0, false)?;
    let talkers = Talkers::start(&mut field)?;
    let mut linux = Linux::boot(&mut field)?;
    let (mut samples, mut wrong, start) = (Samples::default(), Vec::new(), Instant::now());
    println!(
        "soak: {} rounds of {:?}, seed {}, guests: {}",
        options.rounds,
        options.round,
        options.seed,
        6 + linux.count()
    );
    for round in 1..=options.rounds {
        let end = Instant::now() + options.round;
        linux.talk()?;
        let fault = Fault::choose(&mut dice);
        let result = fault.play(&mut field, &mut linux, &mut samples);
        let state = result.as_ref().map_or_else(|error| format!("FAILED: {error:#}"), |()| "ok".to_owned());
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let memory = memory::resident_kib(field.daemon().pid())?;
        samples.add(start.elapsed(), memory);
        let totals = talkers.totals()?;
        println!(
            "{round:>4} {:>6.0} s  {fault}: {state}; frames {}, lost {}, twice {}; resident {memory} KiB",
            start.elapsed().as_secs_f64(),
            totals.frames,
            totals.lost,
            totals.repeated
        );
        if let Err(error) = result {
            wrong.push(format!("round {round}, {fault}: {error:#}"));
        }
        if let Err(error) = field.daemon().check_counters() {
            wrong.push(format!("round {round}: {error:#}"));
        }
    }
    drop(linux);
    let counts = field.neighbours().settle()?;
    field.neighbours().pause()?;
    let totals = talkers.stop()?;
    if let Err(error) = accounts(field.daemon()) {
        wrong.push(format!("at the end: {error:#}"));
    }
    println!("\nsoak: {} rounds in {:.0} s", options.rounds, start.elapsed().as_secs_f64());
    println!(
        "books: {} frames, {} lost while culvertd was away, {} came twice",
        totals.frames, totals.lost, totals.repeated
    );
    println!(
        "neighbours since the last kill: {} sent, {} received, {} lost",
        counts.sent, counts.received, counts.lost
    );
    println!("memory: {samples}");
    wrong.iter().for_each(|sentence| println!("WRONG {sentence}"));
    ensure!(counts.lost == 0 && counts.wrong == 0, "the neighbours have lost frames");
    ensure!(wrong.is_empty(), "{} things were wrong", wrong.len());
    Ok(())
}

/// Nothing is under way any more: on each port frames in are those forwarded and those dropped, and all copies forwarded were
/// offered to a port, which has sent or dropped them.
fn accounts(daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + QUIET;
    loop {
        let checked = daemon.check_counters().and_then(|()| balance(&daemon.ask("stats")?));
        if checked.is_ok() || Instant::now() > deadline {
            return checked;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn balance(stats: &Value) -> Result<()> {
    let (mut copies, mut offered) = (0, 0);
    for port in stats.as_array().context("a list")? {
        let count = |key: &str| port.get(key).and_then(Value::as_u64).with_context(|| format!("no {key} in {port}"));
        ensure!(
            count("rx_frames")? == count("rx_forwarded")? + count("rx_dropped")?,
            "rx is not forwarded + dropped: {port}"
        );
        ensure!(
            count("tx_offered")? == count("tx_frames")? + count("tx_dropped")?,
            "offered is not sent + dropped: {port}"
        );
        copies += count("rx_copies")?;
        offered += count("tx_offered")?;
    }
    // A removed port has taken its counters with it: only what is there can be compared.
    println!("accounts: {copies} copies of frames were forwarded by ports that are there, {offered} offered to them");
    Ok(())
}

/// How long the last frames may take.
const QUIET: Duration = Duration::from_secs(10);
