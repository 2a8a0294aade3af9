//! What culvertd takes of memory, and the straight line through it: its slope tells of leaks.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What was seen in the lives of culvertd, one list for each.
#[derive(Debug)]
pub struct Samples(Vec<Vec<(f64, f64)>>);

impl Default for Samples {
    fn default() -> Self {
        Self(vec![Vec::new()])
    }
}

impl Samples {
    /// At that time of the run it took so many KiB.
    pub fn add(&mut self, at: Duration, kib: u64) {
        // Exact below 2^53.
        let kib = u32::try_from(kib).map_or(f64::from(u32::MAX), f64::from);
        if let Some(life) = self.0.last_mut() {
            life.push((at.as_secs_f64() / 3600.0, kib));
        }
    }

    /// culvertd was killed: another life begins.
    pub fn next_life(&mut self) {
        self.0.push(Vec::new());
    }

    /// The slope in KiB an hour over the longest life, its length in hours, and the highest value less the lowest; none for fewer than
    /// three samples.
    pub fn slope(&self) -> Option<(f64, f64, f64)> {
        let life = self.0.iter().max_by_key(|life| life.len())?;
        let (first, last) = (life.first()?, life.last()?);
        if life.len() < 3 {
            return None;
        }
        let count = f64::from(u32::try_from(life.len()).ok()?);
        let mean = |of: fn(&(f64, f64)) -> f64| life.iter().map(of).sum::<f64>() / count;
        let (hours, kib) = (mean(|it| it.0), mean(|it| it.1));
        let squares: f64 = life.iter().map(|it| (it.0 - hours).powi(2)).sum();
        let products: f64 = life.iter().map(|it| (it.0 - hours) * (it.1 - kib)).sum();
        let highest = life.iter().map(|it| it.1).fold(f64::MIN, f64::max);
        let lowest = life.iter().map(|it| it.1).fold(f64::MAX, f64::min);
        (squares > 0.0).then(|| (products / squares, last.0 - first.0, highest - lowest))
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let samples: usize = self.0.iter().map(Vec::len).sum();
        write!(f, "{samples} samples in {} lives of culvertd", self.0.len())?;
        match self.slope() {
            Some((slope, hours, range)) => {
                let minutes = hours * 60.0;
                write!(f, "; in the longest, of {minutes:.0} minutes: {slope:+.0} KiB an hour, range {range:.0} KiB")
            }
            None => f.write_str("; too few for a line"),
        }
    }
}

/// What a process has in memory, in KiB.
///
/// # Errors
/// It has ended.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("culvertd has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_longest_life() {
        let mut samples = Samples::default();
        samples.add(Duration::from_secs(0), 99_999);
        samples.next_life();
        for minute in 0..10 {
            samples.add(Duration::from_secs(60 * minute), 1000 + 2 * minute);
        }
        let (slope, hours, range) = samples.slope().unwrap();
        assert!((slope - 120.0).abs() < 1e-6 && (hours - 0.15).abs() < 1e-6 && (range - 18.0).abs() < 1e-6);
        assert!(Samples::default().slope().is_none());
    }
}
