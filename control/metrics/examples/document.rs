//! Prints docs/METRICS.md.

fn main() {
    print!("{}", culvert_metrics::reference::document());
}
