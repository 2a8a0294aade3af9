//! Every interleaving of what control and workers share, and every value that a relaxed load may see, tried by loom (a model
//! checker).
//!
//! What is tried is the product's own code: `datapath/worker/src/handover.rs` and `datapath/switch/src/mac_table.rs` take all
//! of their synchronisation from a module `sync`, which is [`sync`] here. [`plans`] and [`addresses`] are what control and
//! workers do with them. `tests/as_it_is.rs` tries all of it; `tests/weakened.rs` takes orderings away, where loom must find what
//! goes wrong: so the models are known to see it.

pub mod addresses;
#[path = "../../../datapath/worker/src/handover.rs"]
pub mod handover;
#[path = "../../../datapath/switch/src/mac_table.rs"]
pub mod mac_table;
pub mod plans;
pub mod sync;

/// Where `mac_table.rs` looks for it.
pub mod port {
    pub use culvert_switch::port::{MAX_PORTS, PortId};
}

/// Tries every interleaving of which at most three are involuntary.
pub fn check(scenario: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(scenario);
}
