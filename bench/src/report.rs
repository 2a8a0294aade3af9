//! The table that each comparison prints: one line for each pair, and the medians.
//!
//! Beside each pair stands the time that a word takes from core to core: on shared hosts that changes, and every figure
//! with it.

/// Measurements in pairs, Culvert's first.
pub struct Report {
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratios: Vec<f64>,
}

impl Report {
    /// Prints the head of the table. `unit` is that of the measurements, `peer` the name of what Culvert is compared with.
    pub fn new(unit: &str, peer: &str) -> Self {
        println!("{:>6} {:>12} {:>10} {:>10} {:>7}   ({unit})", "pair", "core-to-core", "Culvert", peer, "ratio");
        Self { ours: Vec::new(), theirs: Vec::new(), ratios: Vec::new() }
    }

    /// Prints and keeps a pair. `distance` is the time from core to core in nanoseconds.
    pub fn pair(&mut self, distance: f64, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
        self.ratios.push(ours / theirs);
        println!("{:>6} {distance:>9.0} ns {ours:>10.3} {theirs:>10.3} {:>7.2}", self.ours.len(), ours / theirs);
    }

    /// Prints the medians.
    pub fn end(mut self) {
        let [ours, theirs, ratio] = [&mut self.ours, &mut self.theirs, &mut self.ratios].map(|values| median(values));
        println!("{:>6} {:>12} {ours:>10.3} {theirs:>10.3} {ratio:>7.2}\n", "median", "");
    }
}

/// The middle of some values, which it sorts.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
