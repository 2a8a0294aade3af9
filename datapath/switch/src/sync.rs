//! The atomics of the table of addresses.
//!
//! They are std's. A model checker (loom) compiles `mac_table.rs` with a `sync` module of its own in this one's place
//! (`ci/loom`): so nothing else of std's synchronisation may be used there.

pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
