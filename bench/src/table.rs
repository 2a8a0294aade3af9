//! Results as Markdown, for docs/PERFORMANCE.md: what was promised and what was measured, then a table for each figure of each scenario.

use std::fmt::Write;

use crate::result::{CaseResult, RunResult, ScenarioResult, Summary};
use crate::run::digits;
use crate::targets::TARGETS;

/// The tables of some runs. Where several have the same case, the last one counts.
pub fn page(results: &[RunResult]) -> String {
    let mut page = String::new();
    for run in results {
        let RunResult { started, version, machine, cores, command, .. } = run;
        let _ = writeln!(page, "- {started}, Culvert {version}, {machine}, cores {cores:?}: `culvert-bench {command}`");
    }
    page += "\n### Targets\n\n| what | compared with | wanted | measured | met |\n|---|---|---|---|---|\n";
    for target in TARGETS {
        let measured = target.measured(results);
        let met = measured.map_or("not measured", |value| if target.is_met(value) { "yes" } else { "**no**" });
        let (peer, measured) = (target.peer.unwrap_or("itself"), measured.map(digits).unwrap_or_default());
        let _ = writeln!(page, "| {} | {peer} | {} | {measured} | {met} |", target.what, target.wanted());
    }
    for scenario in merged(results) {
        let _ = write!(page, "\n### {}\n\n{}.\n", scenario.name, scenario.what);
        for figure in figures(&scenario) {
            page += &table(&scenario, &figure);
        }
    }
    page
}

/// All scenarios with all cases.
fn merged(results: &[RunResult]) -> Vec<ScenarioResult> {
    let mut all: Vec<ScenarioResult> = Vec::new();
    for scenario in results.iter().flat_map(|result| &result.scenarios) {
        let Some(known) = all.iter_mut().find(|known| known.name == scenario.name) else {
            all.push(scenario.clone());
            continue;
        };
        for case in &scenario.cases {
            match known.cases.iter_mut().find(|known| known.name == case.name) {
                Some(old) => *old = case.clone(),
                None => known.cases.push(case.clone()),
            }
        }
    }
    all
}

/// Each figure once, with its unit and whether more is better.
fn figures(scenario: &ScenarioResult) -> Vec<Summary> {
    let mut found: Vec<Summary> = Vec::new();
    for line in scenario.cases.iter().flat_map(|case| &case.summary) {
        if found.iter().all(|known| known.figure != line.figure) {
            found.push(line.clone());
        }
    }
    found
}

/// One figure: a row for each case, a column for each peer.
fn table(scenario: &ScenarioResult, figure: &Summary) -> String {
    let mut peers: Vec<&str> = Vec::new();
    let rows = || scenario.cases.iter().filter(|case| case.summary.iter().any(|line| line.figure == figure.figure));
    for peer in rows().flat_map(|case| &case.peers) {
        if !peers.contains(&peer.as_str()) {
            peers.push(peer);
        }
    }
    let better = if figure.more_is_better { "more" } else { "less" };
    let mut text = format!("\n{} in {}, {better} is better:\n\n| |", figure.figure, figure.unit);
    for peer in &peers {
        let _ = write!(text, " {peer} |");
    }
    text += " core to core |\n|---|";
    text += &"---|".repeat(peers.len() + 1);
    text.push('\n');
    for case in rows() {
        let _ = write!(text, "| {} |", case.name);
        for peer in &peers {
            let _ = write!(text, " {} |", cell(case, peer, &figure.figure));
        }
        let _ = writeln!(text, " {:.0} ns |", case.core_to_core_ns());
    }
    text
}

/// The middle one, half the way from the least to the greatest, and the ratio.
fn cell(case: &CaseResult, peer: &str, figure: &str) -> String {
    let Some(line) = case.summary.iter().find(|line| line.peer == peer && line.figure == figure) else {
        let failed = case.rounds.iter().any(|round| round.failures.contains_key(peer));
        return if failed { "failed".to_owned() } else { String::new() };
    };
    let mut text = digits(line.median);
    let spread = (line.high - line.low) / 2.0 / line.median * 100.0;
    if spread.is_finite() && line.rounds > 1 {
        let _ = write!(text, " ± {spread:.0} %");
    }
    if let Some(ratio) = line.ratio.filter(|_| case.peers.first().is_some_and(|first| first != peer)) {
        let _ = write!(text, " ({ratio:.2})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Round;
    use crate::scenario::Figure;

    fn run(rates: &[(f64, f64)], case: &str) -> RunResult {
        let of = |value: f64| [("rate".to_owned(), value)].into();
        let round = |&(ours, theirs): &(f64, f64)| Round {
            figures: [("culvert".to_owned(), of(ours)), ("testpmd".to_owned(), of(theirs))].into(),
            core_to_core_ns: ["culvert", "testpmd"].map(|peer| (peer.to_owned(), [25.0; 2])).into(),
            ..Round::default()
        };
        let peers = vec!["culvert".to_owned(), "testpmd".to_owned()];
        let rounds = rates.iter().map(round).collect();
        let mut case = CaseResult { name: case.to_owned(), peers, rounds, ..CaseResult::default() };
        case.sum_up(&[Figure::gain("rate", "Mframes/s", 0.0)]);
        let scenario = ScenarioResult { name: "vm-to-vm".to_owned(), what: "frames".to_owned(), cases: vec![case] };
        RunResult { scenarios: vec![scenario], ..RunResult::default() }
    }

    #[test]
    fn cases_of_several_runs_are_one_table() {
        let page =
            page(&[run(&[(1.0, 1.0)], "64 B"), run(&[(8.0, 4.0)], "512 B"), run(&[(9.0, 4.0), (11.0, 5.0)], "64 B")]);
        assert!(page.contains(
            "rate in Mframes/s, more is better:\n\n| | culvert | testpmd | core to core |\n|---|---|---|---|\n"
        ));
        let rows = "| 64 B | 10.00 ± 10 % | 4.500 ± 11 % (2.23) | 25 ns |\n| 512 B | 8.000 | 4.000 (2.00) | 25 ns |\n";
        assert!(page.contains(rows), "{page}");
        assert!(page.contains("| frames/s, 64 B | testpmd | ≥ 2 | 2.225 | yes |"), "{page}");
        assert!(page.contains("| frames/s, 512 B | ovs | ≥ 2.2 |  | not measured |"), "{page}");
    }
}
