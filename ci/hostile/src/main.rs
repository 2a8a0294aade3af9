//! Plays hostile cases against culvertd: `culvert-hostile list`, `culvert-hostile run [--full] [CASE | ROW | TABLE ...]`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use culvert_hostile::runner::{Options, choose, run};
use culvert_hostile::{cases, exempt};

/// Plays hostile guests, frontends, frames, clients and faults against culvertd
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists all cases, and the rows that have none
    List,
    /// Counts rows and cases by table, as docs/PROMISES.md has them
    Counts,
    /// Plays cases; fails when one is not green
    Run {
        /// Long cases as well, and neighbours under load, one case at a time
        #[arg(long)]
        full: bool,
        /// How many cases are played side by side, each with a culvertd of its own
        #[arg(long, value_name = "COUNT")]
        lanes: Option<usize>,
        /// Names of cases, rows such as Q3, tables such as Q; all if there is none
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::List => {
            list();
            Ok(())
        }
        Command::Counts => {
            print!("{}", exempt::counts(&cases::all()));
            Ok(())
        }
        Command::Run { full, lanes, words } => {
            let lanes = lanes.unwrap_or(if full { 1 } else { LANES });
            choose(cases::all(), &words, full).and_then(|cases| run(cases, Options { full, lanes }))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for case in cases::all() {
        let full = if case.full { " (--full)" } else { "" };
        println!("{:<4} {:<58} {}{full}", case.row, case.name, case.what);
    }
    for (row, reason) in exempt::EXEMPT {
        println!("{row:<4} no case: {reason}");
    }
}

/// How many cases are played side by side, unless it is said.
const LANES: usize = 3;
