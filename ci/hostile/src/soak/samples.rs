//! What culvertd has at work, round by round, and the straight line through it: its slope tells of leaks.

use std::time::Duration;

use crate::process::Resources;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Memory of its own that is resident, in KiB.
    Memory,
    /// Open descriptors.
    Descriptors,
    /// Mapped files.
    Mappings,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Descriptors, Self::Mappings];

    /// Its name, with the unit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory, KiB",
            Self::Descriptors => "descriptors",
            Self::Mappings => "mapped files",
        }
    }

    fn of(self, resources: &Resources) -> u64 {
        match self {
            Self::Memory => resources.memory_kib,
            Self::Descriptors => resources.descriptors.len() as u64,
            Self::Mappings => resources.mappings.len() as u64,
        }
    }
}

/// What was counted at one time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the run began.
    pub at: Duration,
    values: [u64; 3],
}

impl Sample {
    /// What a process has.
    pub fn of(at: Duration, resources: &Resources) -> Self {
        Self { at, values: What::ALL.map(|what| what.of(resources)) }
    }

    /// One of its numbers.
    pub fn get(&self, what: What) -> u64 {
        let [memory, descriptors, mappings] = self.values;
        match what {
            What::Memory => memory,
            What::Descriptors => descriptors,
            What::Mappings => mappings,
        }
    }
}

/// What was seen in the lives of culvertd, one list for each.
#[derive(Debug)]
pub struct Samples(Vec<Vec<Sample>>);

impl Default for Samples {
    fn default() -> Self {
        Self(vec![Vec::new()])
    }
}

impl Samples {
    /// One more of this life.
    pub fn add(&mut self, sample: Sample) {
        if let Some(life) = self.0.last_mut() {
            life.push(sample);
        }
    }

    /// culvertd was killed, or has handed over to another one: another life begins.
    pub fn next_life(&mut self) {
        self.0.push(Vec::new());
    }

    /// The lives, in their order.
    pub fn lives(&self) -> &[Vec<Sample>] {
        &self.0
    }

    /// The line through the longest life; none for fewer than three samples.
    pub fn line(&self, what: What) -> Option<Line> {
        let life = self.0.iter().max_by_key(|life| life.len())?;
        let (first, last) = (life.first()?, life.last()?);
        if life.len() < 3 {
            return None;
        }
        let points: Vec<(f64, f64)> =
            life.iter().map(|sample| (sample.at.as_secs_f64() / 3600.0, number(sample.get(what)))).collect();
        let count = number(points.len() as u64);
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (hours, value) = (mean(|it| it.0), mean(|it| it.1));
        let squares: f64 = points.iter().map(|it| (it.0 - hours).powi(2)).sum();
        let products: f64 = points.iter().map(|it| (it.0 - hours) * (it.1 - value)).sum();
        let highest = points.iter().map(|it| it.1).fold(f64::MIN, f64::max);
        let lowest = points.iter().map(|it| it.1).fold(f64::MAX, f64::min);
        (squares > 0.0).then(|| Line { slope: products / squares, over: last.at - first.at, range: highest - lowest })
    }

    /// A sentence for each number.
    pub fn sentences(&self) -> Vec<String> {
        let one = |what: What| match self.line(what) {
            Some(Line { slope, over, range }) => {
                let minutes = over.as_secs_f64() / 60.0;
                format!("{}: {slope:+.0} an hour over {minutes:.0} minutes, range {range:.0}", what.name())
            }
            None => format!("{}: too few samples in one life for a line", what.name()),
        };
        What::ALL.map(one).into()
    }
}

/// The straight line through one number.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// How much more in an hour.
    pub slope: f64,
    /// How long it was looked at.
    pub over: Duration,
    /// The highest value less the lowest.
    pub range: f64,
}

/// Exact below 2^32.
pub fn number(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, memory: u64) -> Sample {
        Sample { at: Duration::from_secs(seconds), values: [memory, 40, 12] }
    }

    #[test]
    fn the_line_is_that_of_the_longest_life() {
        let mut samples = Samples::default();
        samples.add(sample(0, 99_999));
        samples.next_life();
        for minute in 0..10 {
            samples.add(sample(60 * minute, 1000 + 2 * minute));
        }
        let line = samples.line(What::Memory).unwrap();
        assert!((line.slope - 120.0).abs() < 1e-6 && (line.range - 18.0).abs() < 1e-6);
        assert_eq!(line.over, Duration::from_secs(540));
        assert!(samples.line(What::Descriptors).unwrap().slope.abs() < 1e-6);
        assert!(Samples::default().line(What::Memory).is_none());
        assert_eq!(samples.sentences()[0], "memory, KiB: +120 an hour over 9 minutes, range 18");
    }
}
