//! The atomics, locks and counted pointers of the hand-over between control and workers.
//!
//! They are std's. A model checker (loom) compiles `handover.rs` with a `sync` module of its own in this one's place: so
//! nothing else of std's synchronisation may be used there.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub use std::sync::{Arc, Mutex, PoisonError};
