//! Runs guests on culvertd for a while, with something going wrong each minute: `culvert-soak`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use culvert_hostile::soak::{Options, run};

/// Runs guests on culvertd, with something going wrong each minute
#[derive(Parser)]
struct Arguments {
    /// How many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// How many seconds a minute has, for a short try
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the dice begin: the same number, the same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Neither kills culvertd nor replaces it: for the slope of its memory over all of the time
    #[arg(long)]
    one_life: bool,
    /// Writes a page with charts there
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Arguments { minutes, seconds, seed, one_life, report } = Arguments::parse();
    match run(&Options { rounds: minutes, round: Duration::from_secs(seconds), seed, one_life, report }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}
