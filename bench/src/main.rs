//! culvert-bench: Culvert and a peer under the same load, on the same cores, in turn, in one run.
//!
//! It prints medians and the ratio pair by pair, and the time that a word takes from core to core beside each pair: on
//! shared hosts that changes, and with it every figure.

mod core_to_core;
mod load;
mod report;
mod tcp;
mod translator;
mod two_nodes;
mod vm_to_vm;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Frames between two guests, both directions summed, against testpmd with net_vhost in io mode.
    VmToVm(vm_to_vm::Options),
    /// TCP between two Linux guests, against testpmd, or against Culvert without offloads.
    Tcp(tcp::Options),
    /// TCP between guests on two nodes, against testpmd.
    TwoNodes(two_nodes::Options),
    /// TCP between a guest on the translator and the world around its pod, against passt.
    Translator(translator::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().scenario {
        Scenario::VmToVm(options) => vm_to_vm::run(&options),
        Scenario::Tcp(options) => tcp::run(&options),
        Scenario::TwoNodes(options) => two_nodes::run(&options),
        Scenario::Translator(options) => translator::run(&options),
    }
}
