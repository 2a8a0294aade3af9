//! culvert-bench: Culvert and its peers under the same load, on the same cores, in turn, in one run.
//!
//! [`scenario`] has the table of what can be measured; [`run`] measures A B A B, prints medians, spread and ratios, and writes
//! a result file ([`result`]) and a report ([`html`]); [`table`] makes Markdown of results, and holds them against [`targets`]. Beside
//! each measurement stands the time that a word takes from core to core: on shared hosts that changes, and with it every figure.

mod broadcast;
mod clock;
mod core_to_core;
mod html;
mod idle;
mod idle_ports;
mod latency;
mod load;
mod loss_free;
mod memory;
mod onlookers;
mod options;
mod paced;
mod pair;
mod peer;
mod record;
mod result;
mod run;
mod scenario;
mod table;
mod targets;
mod tcp;
mod translator;
mod two_nodes;
mod virtio_user;
mod vm_to_nic;
mod vm_to_vm;
mod workers;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use options::Options;
use peer::rust_vmm;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What can be measured, and with whom.
    List,
    /// Measures scenarios; writes result.json and report.html into a folder of the run's own.
    Run {
        /// Their names, see `list`.
        #[arg(required_unless_present = "record")]
        scenarios: Vec<String>,
        /// What a release's record has of them, or of all, in rounds and seconds of its own; `--rounds 1` rehearses it. Root, in
        /// ci/isolated.
        #[arg(long, conflicts_with_all = ["seconds", "peers", "cases", "sizes", "mtus"])]
        record: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Makes the report of a run anew from its result.json.
    Report {
        /// The run's folder.
        folder: std::path::PathBuf,
    },
    /// Prints results as Markdown: what was promised, what was measured, and a table for each figure.
    Table {
        /// Folders of runs, or their result.json. Where several have the same case, the last one counts.
        #[arg(required = true)]
        runs: Vec<std::path::PathBuf>,
    },
    /// The rust-vmm backend, which runs start themselves.
    #[command(hide = true)]
    RustVmm(rust_vmm::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::List => {
            for scenario in scenario::SCENARIOS {
                let peers: Vec<String> = scenario.peers.iter().map(|peer| peer.name()).collect();
                println!("{:<11} {}\n{:<11} peers: {}", scenario.name, scenario.what, "", peers.join(", "));
            }
            Ok(())
        }
        Command::Run { scenarios, record, options } => {
            options.check()?;
            let find = |name: &String| scenario::find(name).with_context(|| format!("no scenario {name}: see list"));
            let scenarios = scenarios.iter().map(find).collect::<Result<Vec<_>>>()?;
            if record { run::record(&scenarios, &options) } else { run::run(&scenarios, &options) }
        }
        Command::Report { folder } => run::report_again(&folder),
        Command::Table { runs } => run::print_tables(&runs),
        Command::RustVmm(options) => rust_vmm::run(&options),
    }
}
