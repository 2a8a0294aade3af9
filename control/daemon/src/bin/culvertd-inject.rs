//! culvertd with faults that tests can wish for by `CULVERT_INJECT`: see culvert-worker's `inject.rs`. For tests only: built by
//! `cargo build -p culvertd --features inject --bin culvertd-inject`, and never released.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[path = "../main.rs"]
mod culvertd_main;

fn main() -> ExitCode {
    culvertd_main::main()
}
