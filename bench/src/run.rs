//! A run: each case's peers in turn, round by round; a progress bar, a table for each case, and the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::core_to_core;
use crate::html;
use crate::options::Options;
use crate::peer::Peer;
use crate::record::PARTS;
use crate::result::{CaseResult, Round, RunResult, ScenarioResult, machine};
use crate::scenario::{self, Case, Figure, Scenario};

/// What is measured of a scenario.
struct Part {
    scenario: &'static Scenario,
    cases: Vec<Case>,
    peers: Vec<Peer>,
    rounds: usize,
}

/// Measures scenarios.
///
/// # Errors
/// Nothing could be measured, or the files cannot be written.
pub fn run(scenarios: &[&'static Scenario], options: &Options) -> Result<()> {
    let mut parts = Vec::new();
    for scenario in scenarios {
        let chosen = |case: &Case| {
            options.cases.is_empty() || options.cases.iter().any(|word| case.name.contains(word.as_str()))
        };
        let cases: Vec<Case> = (scenario.cases)(options)?.into_iter().filter(chosen).collect();
        let chosen = |peer: &Peer| options.peers.is_empty() || options.peers.contains(peer);
        let peers: Vec<Peer> = scenario.peers.iter().copied().filter(chosen).collect();
        ensure!(
            !cases.is_empty() && !peers.is_empty(),
            "nothing is left of {}: see --cases and --peers",
            scenario.name
        );
        parts.push(Part { scenario, cases, peers, rounds: options.rounds });
    }
    measure_all(parts, options)
}

/// Measures what a release's record has of these scenarios; of all, if there are none.
///
/// # Errors
/// As [`run`].
pub fn record(scenarios: &[&Scenario], options: &Options) -> Result<()> {
    let mut parts = Vec::new();
    let is_wanted = |name| scenarios.is_empty() || scenarios.iter().any(|scenario| scenario.name == name);
    for part in PARTS.iter().filter(|part| is_wanted(part.scenario)) {
        let scenario = scenario::find(part.scenario).context(part.scenario)?;
        let options = part.options(options);
        let chosen = |case: &Case| part.cases.is_empty() || part.cases.contains(&case.name.as_str());
        let cases = (scenario.cases)(&options)?.into_iter().filter(chosen).collect();
        parts.push(Part { scenario, cases, peers: part.peers.to_vec(), rounds: options.rounds });
    }
    measure_all(parts, options)
}

fn measure_all(parts: Vec<Part>, options: &Options) -> Result<()> {
    let measurements: usize = parts.iter().map(|part| part.cases.len() * part.peers.len() * part.rounds).sum();
    let bar = ProgressBar::new(measurements as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left: {msg}")?);

    let (started, begin) = (now()?, Instant::now());
    let folder = options.out.join(format!("{started}-{}", parts.first().context("no scenario")?.scenario.name));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut result = RunResult {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        machine: machine(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        cores: options.cores.clone(),
        scenarios: Vec::new(),
    };
    say(&bar, &format!("{}; cores {:?}\n", result.machine, options.cores));
    for Part { scenario, cases, peers, rounds } in parts {
        say(&bar, &format!("{}: {}\n", scenario.name, scenario.what));
        let (name, what) = (scenario.name.to_owned(), scenario.what.to_owned());
        let index = result.scenarios.iter().position(|known| known.name == name).unwrap_or(result.scenarios.len());
        if index == result.scenarios.len() {
            result.scenarios.push(ScenarioResult { name, what, cases: Vec::new() });
        }
        for case in &cases {
            let measured = measure(case, &peers, rounds, options, &bar);
            say(&bar, &table(&measured));
            // After each case, so that a run that is ended has what it measured.
            result.scenarios.get_mut(index).context("a scenario")?.cases.push(measured);
            write(&folder, &result)?;
        }
    }
    bar.finish_and_clear();
    println!("{} after {:.0} s", folder.join("report.html").display(), begin.elapsed().as_secs_f64());
    let failed = result.scenarios.iter().flat_map(|scenario| &scenario.cases).flat_map(|case| &case.rounds);
    let failed = failed.filter(|round| !round.failures.is_empty()).count();
    ensure!(failed == 0, "{failed} rounds have failures: see above");
    Ok(())
}

/// Prints the tables of some runs, of each its folder or its result.json.
///
/// # Errors
/// There is no such result.
pub fn print_tables(runs: &[PathBuf]) -> Result<()> {
    let results: Vec<RunResult> = runs.iter().map(|run| read(run)).collect::<Result<_>>()?;
    print!("{}", crate::table::page(&results));
    Ok(())
}

/// Makes the report anew.
///
/// # Errors
/// There is no result, or the report cannot be written.
pub fn report_again(folder: &Path) -> Result<()> {
    write(folder, &read(folder)?)
}

/// The result of a run: its folder's, or the file itself.
fn read(run: &Path) -> Result<RunResult> {
    let file = if run.is_dir() { run.join("result.json") } else { run.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

fn measure(case: &Case, peers: &[Peer], rounds: usize, options: &Options, bar: &ProgressBar) -> CaseResult {
    bar.inc((peers.iter().filter(|peer| case.without.contains(peer)).count() * rounds) as u64);
    let peers: Vec<Peer> = peers.iter().copied().filter(|peer| !case.without.contains(peer)).collect();
    let mut known: Vec<Figure> = Vec::new();
    let names = peers.iter().map(|peer| peer.name()).collect();
    let mut result = CaseResult { name: case.name.clone(), peers: names, ..CaseResult::default() };
    for number in 1..=rounds {
        let cores = [options.load_core(), options.switch_core()];
        let mut round = Round::default();
        for peer in &peers {
            bar.set_message(format!("{}, round {number}, {}", case.name, peer.name()));
            let before = core_to_core::nanoseconds(cores);
            let outcome = (case.run)(*peer);
            round.core_to_core_ns.insert(peer.name(), [before, core_to_core::nanoseconds(cores)]);
            match outcome {
                Ok(figures) => {
                    let values = figures.iter().map(|figure| (figure.name.to_owned(), figure.value)).collect();
                    round.figures.insert(peer.name(), values);
                    let new = |figure: &Figure| known.iter().all(|known| known.name != figure.name);
                    let new: Vec<Figure> = figures.into_iter().filter(new).collect();
                    known.extend(new);
                }
                Err(error) => {
                    say(bar, &format!("{}, {}: {error:#}\n", case.name, peer.name()));
                    round.failures.insert(peer.name(), format!("{error:#}"));
                }
            }
            bar.inc(1);
        }
        result.rounds.push(round);
    }
    result.sum_up(&known);
    result
}

/// A case in text: a line for each figure and peer.
fn table(case: &CaseResult) -> String {
    let mut text =
        format!("{} (core to core {:.0} ns, {} rounds):\n", case.name, case.core_to_core_ns(), case.rounds.len());
    for line in &case.summary {
        let ratio = line.ratio.filter(|_| Some(&line.peer) != case.peers.first());
        let ratio = ratio.map(|ratio| format!("  ratio {ratio:.2} ({} alike)", line.alike)).unwrap_or_default();
        let spread = format!("{} to {}", digits(line.low), digits(line.high));
        text += &format!(
            "  {:<24} {:<13} {:>9} {:<9} {spread:<22}{ratio}\n",
            line.figure,
            line.peer,
            digits(line.median),
            line.unit
        );
    }
    text
}

/// A number with four significant digits or so.
pub fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints above the bar, which is not drawn where there is no terminal.
fn say(bar: &ProgressBar, text: &str) {
    bar.suspend(|| println!("{text}"));
}

fn write(folder: &Path, result: &RunResult) -> Result<()> {
    let at = |name: &str| -> PathBuf { folder.join(name) };
    fs::write(at("result.json"), serde_json::to_string_pretty(result)?)?;
    fs::write(at("report.html"), html::page(result))?;
    Ok(())
}

/// The local time, as it is fit for a file's name.
fn now() -> Result<String> {
    let output = Command::new("date").arg("+%Y-%m-%d-%H%M%S").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
