//! Hours in the life of a node: guests talk all the time, and each minute something goes wrong: a hostile case, a kill of culvertd, a
//! takeover, a reload, changed objects, a capture, a guest that moves to another node. At the end all is accounted for.
//!
//! - [`talkers`]: four guests with exact books, in a thread of their own;
//! - `linux`: two guests in user-mode Linux, where there is an image: their driver does not connect again, so they boot anew after a kill;
//! - `traveller`: a guest in QEMU that moves between two nodes of its own;
//! - `fault`: what goes wrong; [`samples`]: what culvertd has at work, and the line through it; `report`: the page about all of it.
//!
//! The two neighbours of the [`Field`] are guests seven and eight. Run by `ci/soak`.

mod fault;
mod linux;
mod report;
pub mod samples;
pub mod talkers;
mod traveller;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::Daemon;
use serde_json::Value;

use crate::cases::restart::dice::Dice;
use crate::cases::restart::group::Totals;
use crate::field::Field;
use crate::process::Resources;
use fault::Fault;
use linux::Linux;
use samples::{Sample, Samples, What};
use talkers::Talkers;
use traveller::Traveller;

/// How it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many faults there are, one in each round.
    pub rounds: u32,
    /// How long a round takes.
    pub round: Duration,
    /// Where the dice begin.
    pub seed: u64,
    /// Whether culvertd is neither killed nor replaced.
    pub one_life: bool,
    /// Where the page goes that tells of all of it.
    pub report: Option<PathBuf>,
}

/// Those to whom it happens.
struct Stage {
    field: Field,
    linux: Linux,
    traveller: Traveller,
    samples: Samples,
}

/// What happened in one round.
#[derive(Debug)]
struct Round {
    number: u32,
    /// When it was over, since the run began.
    at: Duration,
    fault: String,
    /// What was seen, or was wrong.
    result: Result<String, String>,
    /// Of the guests with books, since the run began.
    totals: Totals,
}

/// Runs it; prints a line each round and a summary, and writes the report.
///
/// # Errors
/// Something is not as it must be.
pub fn run(options: &Options) -> Result<()> {
    let mut dice = Dice::new(options.seed);
    let traveller = Traveller::start()?;
    let mut field = Field::new(0, false)?;
    let talkers = Talkers::start(&mut field)?;
    let linux = Linux::boot(&mut field)?;
    let (guests, start) = (7 + linux.count(), Instant::now());
    let mut stage = Stage { field, linux, traveller, samples: Samples::default() };
    let title = format!("soak: {} rounds of {:?}, seed {}", options.rounds, options.round, options.seed);
    println!("{title}, guests: {guests}");
    let (mut rounds, mut wrong) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds {
        let end = Instant::now() + options.round;
        stage.linux.talk()?;
        let fault = Fault::choose(&mut dice, options.one_life);
        let result = fault.play(&mut stage).map_err(|error| format!("{error:#}"));
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let sample = Sample::of(start.elapsed(), &Resources::of(stage.field.daemon().pid())?);
        stage.samples.add(sample);
        let round = Round { number, at: sample.at, fault: fault.to_string(), result, totals: talkers.totals()? };
        round.print(&sample);
        if let Err(error) = &round.result {
            wrong.push(format!("round {number}, {fault}: {error}"));
        }
        if let Err(error) = stage.field.daemon().check_counters() {
            wrong.push(format!("round {number}: {error:#}"));
        }
        rounds.push(round);
    }
    let Stage { mut field, linux, traveller, samples } = stage;
    drop(linux);
    let travelled = traveller.end().unwrap_or_else(|error| {
        wrong.push(format!("at the end: {error:#}"));
        "see what was wrong".to_owned()
    });
    let counts = field.neighbours().settle()?;
    field.neighbours().pause()?;
    let totals = talkers.stop()?;
    if counts.lost != 0 || counts.wrong != 0 {
        wrong.push(format!("the neighbours have lost {} frames, {} were wrong", counts.lost, counts.wrong));
    }
    if let Err(error) = accounts(field.daemon()) {
        wrong.push(format!("at the end: {error:#}"));
    }
    let mut summary = vec![
        format!("{} rounds in {:.0} s, {guests} guests", options.rounds, start.elapsed().as_secs_f64()),
        format!(
            "books: {} frames, {} lost while culvertd was away, {} came twice",
            totals.frames, totals.lost, totals.repeated
        ),
        format!(
            "neighbours since the last kill: {} sent, {} received, {} lost",
            counts.sent, counts.received, counts.lost
        ),
        format!("the guest that moves: {travelled}"),
        format!("lives of culvertd: {}", samples.lives().len()),
    ];
    summary.extend(samples.sentences());
    println!();
    summary.iter().for_each(|sentence| println!("soak: {sentence}"));
    wrong.iter().for_each(|sentence| println!("WRONG {sentence}"));
    if let Some(path) = &options.report {
        let page = report::page(&title, &rounds, &samples, &summary, &wrong);
        std::fs::write(path, page).with_context(|| format!("{}: the report cannot be written", path.display()))?;
        println!("soak: report: {}", path.display());
    }
    ensure!(wrong.is_empty(), "{} things were wrong", wrong.len());
    Ok(())
}

impl Round {
    fn print(&self, sample: &Sample) {
        let seen = match &self.result {
            Ok(seen) if seen.is_empty() => "ok".to_owned(),
            Ok(seen) => format!("ok, {seen}"),
            Err(error) => format!("FAILED: {error}"),
        };
        let Totals { frames, lost, repeated } = self.totals;
        let resources: Vec<String> =
            What::ALL.iter().map(|what| format!("{} {}", what.name(), sample.get(*what))).collect();
        println!(
            "{:>4} {:>6.0} s  {}: {seen}; frames {frames}, lost {lost}, twice {repeated}; {}",
            self.number,
            self.at.as_secs_f64(),
            self.fault,
            resources.join(", ")
        );
    }
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
