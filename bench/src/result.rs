//! What a run has measured, as it stands in `result.json`: every figure of every round, and what they come to.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::scenario::Figure;

/// A run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunResult {
    /// Culvert's version.
    pub version: String,
    /// When it began, in local time.
    pub started: String,
    /// The processor, its cores, the kernel.
    pub machine: String,
    /// The command line.
    pub command: String,
    /// The cores that were used.
    pub cores: Vec<usize>,
    /// Its scenarios.
    pub scenarios: Vec<ScenarioResult>,
}

/// A scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// What it measures.
    pub what: String,
    /// Its cases.
    pub cases: Vec<CaseResult>,
}

/// A case of a scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CaseResult {
    /// What it is.
    pub name: String,
    /// The peers in their order.
    pub peers: Vec<String>,
    /// Its rounds.
    pub rounds: Vec<Round>,
    /// What they come to.
    pub summary: Vec<Summary>,
}

/// One measurement of each peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Nanoseconds that a word took from core to core.
    pub core_to_core_ns: f64,
    /// By peer: figures by name.
    pub figures: BTreeMap<String, BTreeMap<String, f64>>,
    /// By peer: why there is none.
    pub failures: BTreeMap<String, String>,
}

/// A figure over all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Whose.
    pub peer: String,
    /// Which.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// In how many rounds it was measured.
    pub rounds: usize,
    /// The middle one.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// The middle of the first peer's figure by this one, round by round; 1 for the first peer.
    pub ratio: Option<f64>,
}

impl CaseResult {
    /// Sums the rounds up; `known` has each figure once.
    pub fn sum_up(&mut self, known: &[Figure]) {
        let figure = |round: &Round, peer: &String, name: &str| round.figures.get(peer)?.get(name).copied();
        for Figure { name, unit, more_is_better, .. } in known {
            for peer in &self.peers {
                let mut values: Vec<f64> = self.rounds.iter().filter_map(|round| figure(round, peer, name)).collect();
                let first = self.peers.first();
                let ratio = |round: &Round| Some(figure(round, first?, name)? / figure(round, peer, name)?);
                let mut ratios: Vec<f64> = self.rounds.iter().filter_map(ratio).filter(|r| r.is_finite()).collect();
                let Some(median) = median(&mut values) else { continue };
                self.summary.push(Summary {
                    peer: peer.clone(),
                    figure: (*name).to_owned(),
                    unit: (*unit).to_owned(),
                    more_is_better: *more_is_better,
                    rounds: values.len(),
                    median,
                    low: values.first().copied().unwrap_or(median),
                    high: values.last().copied().unwrap_or(median),
                    ratio: self::median(&mut ratios),
                });
            }
        }
    }
}

/// The middle of some values, which it sorts; none of none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    let lower = if values.len() % 2 == 1 { upper } else { values.get(middle - 1).copied()? };
    Some((lower + upper) / 2.0)
}

/// The processor, how many cores it has, and the kernel.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up_in_pairs() {
        let round = |ours: f64, theirs: Option<f64>| {
            let of = |value: f64| BTreeMap::from([("rate".to_owned(), value)]);
            let mut figures = BTreeMap::from([("culvert".to_owned(), of(ours))]);
            figures.extend(theirs.map(|value| ("testpmd".to_owned(), of(value))));
            Round { core_to_core_ns: 50.0, figures, failures: BTreeMap::new() }
        };
        let mut case = CaseResult {
            peers: vec!["culvert".to_owned(), "testpmd".to_owned()],
            rounds: vec![round(4.0, Some(2.0)), round(9.0, Some(3.0)), round(8.0, None)],
            ..CaseResult::default()
        };
        case.sum_up(&[Figure::gain("rate", "frames/s", 0.0)]);
        let [ours, theirs] = &case.summary[..] else { panic!("{:?}", case.summary) };
        assert_eq!((ours.median, ours.low, ours.high, ours.ratio), (8.0, 4.0, 9.0, Some(1.0)));
        assert_eq!((theirs.median, theirs.rounds, theirs.ratio), (2.5, 2, Some(2.5)));
    }
}
