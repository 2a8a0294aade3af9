//! A run: each case's peers in turn, round by round; a progress bar, a table for each case, and the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::core_to_core;
use crate::html;
use crate::options::Options;
use crate::peer::Peer;
use crate::result::{CaseResult, Round, RunResult, ScenarioResult, machine};
use crate::scenario::{Case, Figure, Scenario};

/// Measures scenarios.
///
/// # Errors
/// Nothing could be measured, or the files cannot be written.
pub fn run(scenarios: &[&Scenario], options: &Options) -> Result<()> {
    let mut wanted = Vec::new();
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
        wanted.push((*scenario, cases, peers));
    }
    let measurements: usize = wanted.iter().map(|(_, cases, peers)| cases.len() * peers.len() * options.rounds).sum();
    let bar = ProgressBar::new(measurements as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left: {msg}")?);

    let started = now()?;
    let folder = options.out.join(format!("{started}-{}", scenarios.first().context("no scenario")?.name));
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
    for (scenario, cases, peers) in wanted {
        say(&bar, &format!("{}: {}\n", scenario.name, scenario.what));
        let (name, what) = (scenario.name.to_owned(), scenario.what.to_owned());
        result.scenarios.push(ScenarioResult { name, what, cases: Vec::new() });
        for case in &cases {
            let measured = measure(case, &peers, options, &bar);
            say(&bar, &table(&measured));
            // After each case, so that a run that is ended has what it measured.
            result.scenarios.last_mut().context("a scenario")?.cases.push(measured);
            write(&folder, &result)?;
        }
    }
    bar.finish_and_clear();
    println!("{}", folder.join("report.html").display());
    let failed = result.scenarios.iter().flat_map(|scenario| &scenario.cases).flat_map(|case| &case.rounds);
    let failed = failed.filter(|round| !round.failures.is_empty()).count();
    ensure!(failed == 0, "{failed} rounds have failures: see above");
    Ok(())
}

/// Makes the report anew.
///
/// # Errors
/// There is no result, or the report cannot be written.
pub fn report_again(folder: &Path) -> Result<()> {
    let file = folder.join("result.json");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let result: RunResult = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    write(folder, &result)
}

fn measure(case: &Case, peers: &[Peer], options: &Options, bar: &ProgressBar) -> CaseResult {
    let mut known: Vec<Figure> = Vec::new();
    let names = peers.iter().map(|peer| peer.name()).collect();
    let mut result = CaseResult { name: case.name.clone(), peers: names, ..CaseResult::default() };
    for number in 1..=options.rounds {
        let cores = [options.load_core(), options.switch_core()];
        let mut round = Round { core_to_core_ns: core_to_core::nanoseconds(cores), ..Round::default() };
        for peer in peers {
            bar.set_message(format!("{}, round {number}, {}", case.name, peer.name()));
            match (case.run)(*peer) {
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
    let mut distances: Vec<f64> = case.rounds.iter().map(|round| round.core_to_core_ns).collect();
    let distance = crate::result::median(&mut distances).unwrap_or(f64::NAN);
    let mut text = format!("{} (core to core {distance:.0} ns, {} rounds):\n", case.name, case.rounds.len());
    for line in &case.summary {
        let ratio = line.ratio.filter(|_| Some(&line.peer) != case.peers.first());
        let ratio = ratio.map(|ratio| format!("  ratio {ratio:.2}")).unwrap_or_default();
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
