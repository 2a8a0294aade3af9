//! The report of a run: one page that needs nothing else, with a chart for each figure of each scenario.

use std::fmt::Write;

use crate::result::{CaseResult, RunResult, ScenarioResult, Summary};
use crate::run::digits;

/// The page.
pub fn page(run: &RunResult) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>culvert-bench {0}</title>\n<style>{STYLE}</style>\n\
         <h1>culvert-bench</h1>\n<p>{0}, Culvert {1}, {2}, cores {3:?}</p>\n<p><code>culvert-bench {4}</code></p>\n",
        escape(&run.started),
        escape(&run.version),
        escape(&run.machine),
        run.cores,
        escape(&run.command)
    );
    for scenario in &run.scenarios {
        let _ = write!(page, "<h2>{}</h2>\n<p>{}</p>\n", escape(&scenario.name), escape(&scenario.what));
        for figure in figures(scenario) {
            page += &chart(scenario, &figure);
        }
        for case in &scenario.cases {
            page += &table(case);
        }
    }
    page
}

/// The names of a scenario's figures.
fn figures(scenario: &ScenarioResult) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in scenario.cases.iter().flat_map(|case| &case.summary) {
        if !names.contains(&line.figure) {
            names.push(line.figure.clone());
        }
    }
    names
}

/// Bars of one figure: for each case one of each peer, with a line from the least to the greatest.
fn chart(scenario: &ScenarioResult, figure: &str) -> String {
    let lines: Vec<(&CaseResult, Vec<&Summary>)> = scenario
        .cases
        .iter()
        .map(|case| (case, case.summary.iter().filter(|line| line.figure == figure).collect::<Vec<_>>()))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let all = || lines.iter().flat_map(|(_, lines)| lines);
    let greatest = all().map(|line| line.high).fold(f64::MIN_POSITIVE, f64::max);
    let (unit, better) = all().next().map_or(("", true), |line| (line.unit.as_str(), line.more_is_better));
    let mut bars = String::new();
    let mut y = 0.0;
    for (case, lines) in &lines {
        let _ = writeln!(bars, "<text x=\"0\" y=\"{:.0}\" class=\"case\">{}</text>", y + 13.0, escape(&case.name));
        y += 18.0;
        for line in lines {
            let at = |value: f64| LABELS + value.max(0.0) / greatest * BARS;
            let color = case.peers.iter().position(|peer| *peer == line.peer).unwrap_or(0) % COLORS.len();
            let (middle, end) = (y + 7.0, at(line.median));
            let _ = writeln!(
                bars,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABELS}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>\
                 <path d=\"M{:.1} {middle:.0}H{:.1}\" stroke=\"#222\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{}{}</text>",
                LABELS - 6.0,
                y + 11.0,
                escape(&line.peer),
                end - LABELS,
                COLORS.get(color).unwrap_or(&"#888"),
                at(line.low),
                at(line.high),
                at(line.high) + 6.0,
                y + 11.0,
                digits(line.median),
                line.ratio
                    .filter(|_| case.peers.first() != Some(&line.peer))
                    .map(|r| format!(" (ratio {r:.2})"))
                    .unwrap_or_default()
            );
            y += 17.0;
        }
        y += 6.0;
    }
    let better = if better { "more is better" } else { "less is better" };
    format!(
        "<h3>{}, {} ({better})</h3>\n<svg viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\" role=\"img\">\n{bars}</svg>\n",
        escape(figure),
        escape(unit)
    )
}

/// All figures of a case, and its failures.
fn table(case: &CaseResult) -> String {
    let mut text = format!(
        "<details><summary>{}: figures</summary>\n<table><tr><th>figure<th>peer<th>median<th>low<th>high<th>unit<th>ratio\n",
        escape(&case.name)
    );
    for line in &case.summary {
        let ratio = line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let [median, low, high] = [line.median, line.low, line.high].map(digits);
        let _ = writeln!(
            text,
            "<tr><td>{}<td>{}<td>{median}<td>{low}<td>{high}<td>{}<td>{ratio}",
            escape(&line.figure),
            escape(&line.peer),
            escape(&line.unit)
        );
    }
    text += "</table>\n<p>core to core, round by round, before and after each peer in turn: ";
    for round in &case.rounds {
        let of =
            |peer: &String| round.core_to_core_ns.get(peer).map(|[before, after]| format!("{before:.0}, {after:.0}"));
        let all: Vec<String> = case.peers.iter().filter_map(of).collect();
        let _ = write!(text, "{}; ", all.join(" | "));
    }
    text += "nanoseconds</p>\n";
    for (peer, failure) in case.rounds.iter().flat_map(|round| &round.failures) {
        let _ = writeln!(text, "<pre>{}: {}</pre>", escape(peer), escape(failure));
    }
    text + "</details>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Widths in the charts: of peers' names, of the longest bar, of all.
const LABELS: f64 = 120.0;
const BARS: f64 = 560.0;
const WIDTH: f64 = 840.0;

/// One for each peer of a case; they differ for people who see no red or green, too.
const COLORS: [&str; 6] = ["#0072b2", "#e69f00", "#cc79a7", "#009e73", "#999999", "#d55e00"];

const STYLE: &str = "body{font:14px sans-serif;max-width:60em;margin:2em auto;color:#222}\
    svg text{font:11px sans-serif}svg .case{font-weight:bold}\
    td,th{padding:.1em .8em;text-align:left}pre{white-space:pre-wrap}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Figure;

    #[test]
    fn names_cannot_break_the_page() {
        let mut round = crate::result::Round::default();
        round.figures.insert("culvert".to_owned(), [("rate".to_owned(), 1.5)].into());
        round.failures.insert("testpmd".to_owned(), "<b>ended</b>".to_owned());
        let mut case = CaseResult {
            name: "64 B & more".to_owned(),
            peers: vec!["culvert".to_owned(), "testpmd".to_owned()],
            rounds: vec![round],
            ..CaseResult::default()
        };
        case.sum_up(&[Figure::gain("rate", "frames/s", 0.0)]);
        let scenario = ScenarioResult { name: "vm-to-vm".to_owned(), cases: vec![case], ..ScenarioResult::default() };
        let page = page(&RunResult { scenarios: vec![scenario], ..RunResult::default() });
        assert!(page.contains("64 B &amp; more") && page.contains("<rect") && page.contains("1.500"));
        assert!(page.contains("&lt;b&gt;ended") && !page.contains("<b>"));
    }
}
