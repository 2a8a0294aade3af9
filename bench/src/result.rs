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
    /// By peer: nanoseconds that a word took from core to core, before its measurement and after it.
    pub core_to_core_ns: BTreeMap<String, [f64; 2]>,
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
    /// The middle of the first peer's figure by this one, round by round; 1 for the first peer. Of those rounds in which the cores were
    /// as far from each other for both, if there is any.
    pub ratio: Option<f64>,
    /// How many rounds these were; 0: in none they were, and the ratio is that of all.
    #[serde(default)]
    pub alike: usize,
}

impl CaseResult {
    /// Sums the rounds up; `known` has each figure once.
    pub fn sum_up(&mut self, known: &[Figure]) {
        let figure = |round: &Round, peer: &String, name: &str| round.figures.get(peer)?.get(name).copied();
        for Figure { name, unit, more_is_better, .. } in known {
            for peer in &self.peers {
                let mut values: Vec<f64> = self.rounds.iter().filter_map(|round| figure(round, peer, name)).collect();
                let Some(first) = self.peers.first() else { continue };
                let ratio = |round: &Round| Some(figure(round, first, name)? / figure(round, peer, name)?);
                let ratios = |rounds: &mut dyn Iterator<Item = &Round>| -> Vec<f64> {
                    rounds.filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
                };
                let mut like = ratios(&mut self.rounds.iter().filter(|round| round.alike(first, peer)));
                let alike = like.len();
                let mut ratios = if alike > 0 { std::mem::take(&mut like) } else { ratios(&mut self.rounds.iter()) };
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
                    alike,
                });
            }
        }
    }
}

impl Round {
    /// Whether the cores were as far from each other, by half at most, while two peers were measured.
    fn alike(&self, peer: &str, other: &str) -> bool {
        let of = |peer: &str| self.core_to_core_ns.get(peer).copied().unwrap_or_default();
        let distances = [of(peer), of(other)].concat();
        let greatest = distances.iter().copied().fold(0.0, f64::max);
        distances.iter().all(|&distance| distance > 0.0 && greatest <= 1.5 * distance)
    }
}

impl CaseResult {
    /// The middle of all times from core to core, in nanoseconds.
    pub fn core_to_core_ns(&self) -> f64 {
        let mut all: Vec<f64> =
            self.rounds.iter().flat_map(|round| round.core_to_core_ns.values()).flatten().copied().collect();
        median(&mut all).unwrap_or(f64::NAN)
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
            Round { figures, ..Round::default() }
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

    #[test]
    fn like_is_compared_with_like() {
        let round = |ours: f64, theirs: f64, distances: [f64; 2]| {
            let names = ["culvert", "testpmd"].map(str::to_owned);
            let figures =
                names.clone().into_iter().zip([ours, theirs].map(|value| BTreeMap::from([("rate".to_owned(), value)])));
            let core_to_core_ns = names.into_iter().zip(distances.map(|distance| [distance; 2]));
            Round { figures: figures.collect(), core_to_core_ns: core_to_core_ns.collect(), ..Round::default() }
        };
        let ratio = |rounds: &[Round]| {
            let peers = vec!["culvert".to_owned(), "testpmd".to_owned()];
            let mut case = CaseResult { peers, rounds: rounds.to_vec(), ..CaseResult::default() };
            case.sum_up(&[Figure::gain("rate", "frames/s", 0.0)]);
            (case.summary[1].ratio, case.summary[1].alike)
        };
        let (near, far) = (round(4.0, 2.0, [25.0, 26.0]), round(4.0, 1.0, [25.0, 200.0]));
        assert_eq!(ratio(&[far.clone(), near, far.clone()]), (Some(2.0), 1));
        assert_eq!(ratio(&[far]), (Some(4.0), 0));
    }
}
