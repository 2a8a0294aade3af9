//! culvert-bench: Culvert and its peers under the same load, on the same cores, in turn, in one run.
//!
//! [`scenario`] has the table of what can be measured; [`run`] measures A B A B, prints medians, spread and ratios, and writes
//! a result file ([`result`]) and a report ([`html`]). Beside each round stands the time that a word takes from core to core:
//! on shared hosts that changes, and with it every figure.

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
mod options;
mod paced;
mod pair;
mod peer;
mod result;
mod run;
mod scenario;
mod tcp;
mod translator;
mod two_nodes;
mod vm_to_nic;
mod vm_to_vm;

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
        #[arg(required = true)]
        scenarios: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Makes the report of a run anew from its result.json.
    Report {
        /// The run's folder.
        folder: std::path::PathBuf,
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
        Command::Run { scenarios, options } => {
            options.check()?;
            let find = |name: &String| scenario::find(name).with_context(|| format!("no scenario {name}: see list"));
            run::run(&scenarios.iter().map(find).collect::<Result<Vec<_>>>()?, &options)
        }
        Command::Report { folder } => run::report_again(&folder),
        Command::RustVmm(options) => rust_vmm::run(&options),
    }
}
