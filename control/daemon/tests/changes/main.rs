//! Changes at run time without a node: what wishes do to what is wanted, the way from what runs to what is wanted, and the
//! journal.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod journal;
mod objects;
mod reconcile;
mod wishes;
