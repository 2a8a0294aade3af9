//! What a case is, and what it declares that must come of it.

use anyhow::Result;

use crate::field::Field;

/// One hostile act.
#[derive(Clone, Copy)]
pub struct Case {
    /// The row of the table of hostile cases that it belongs to, such as `Q3`.
    pub row: &'static str,
    /// Lower-case words with hyphens, at most 58 bytes; no other case has it. The case's port is named so.
    pub name: &'static str,
    /// What is done, and what must come of it, in one sentence.
    pub what: &'static str,
    /// Takes long or needs the machine for itself: left out unless asked for with `--full`.
    pub full: bool,
    /// Plays it. What it has connected is gone when it returns.
    pub run: fn(&mut Field) -> Result<()>,
}

/// What must come of a case. The oracle checks each one, and that culvertd has logged no other warning or error.
#[derive(Clone, Debug)]
pub enum Expect {
    /// A counter of refused frames goes up.
    Drop {
        /// At which port.
        port: String,
        /// The reason, as `culvertctl drops` calls it.
        reason: &'static str,
        /// By how much at least.
        frames: u64,
    },
    /// The port is quarantined at the end, with a reason that contains this, as culvertctl shows it; one line of the log tells it.
    Quarantine {
        /// Which port.
        port: String,
        /// Part of the reason.
        sentence: &'static str,
    },
    /// So many lines of the log name the port and contain this sentence.
    Log {
        /// Which port; empty for a line about the daemon.
        port: String,
        /// Part of the line.
        sentence: &'static str,
        /// How many lines there are: mostly 1.
        lines: std::ops::RangeInclusive<usize>,
    },
}

/// A part of the oracle, for [`Field::exempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The same process runs, and has counted no bug.
    Process,
    /// Under load, the neighbours' frames took at most twice as long as usual.
    Delay,
    /// The neighbours have lost nothing.
    Neighbours,
    /// Descriptors, mappings and threads are as before, and memory nearly.
    Resources,
    /// No warning or error is logged that was not expected.
    Log,
    /// A fresh guest connects to the case's port and exchanges frames with a neighbour.
    Victim,
}

/// The rows of the tables of hostile cases: the letter of a table and its number of rows.
pub const TABLES: [(char, usize, &str); 5] = [
    ('Q', 20, "hostile guest, its rings"),
    ('V', 18, "hostile or faulty vhost-user frontend"),
    ('N', 19, "hostile frames and sockets"),
    ('C', 11, "control socket and paths on the node"),
    ('P', 16, "faults of processes"),
];

/// All rows, such as `Q1`.
pub fn rows() -> Vec<String> {
    TABLES.iter().flat_map(|(table, count, _)| (1..=*count).map(move |row| format!("{table}{row}"))).collect()
}

/// A case of an ordinary run.
pub const fn case(
    row: &'static str,
    name: &'static str,
    what: &'static str,
    run: fn(&mut Field) -> Result<()>,
) -> Case {
    Case { row, name, what, full: false, run }
}

/// A case that is left out unless asked for.
pub const fn long_case(
    row: &'static str,
    name: &'static str,
    what: &'static str,
    run: fn(&mut Field) -> Result<()>,
) -> Case {
    Case { row, name, what, full: true, run }
}
