//! Everything that an administrator applies, as the API server and the programs see it: each file is loaded into typed
//! structs that know all of its keys, each overlay is built as `kustomize build` does it, and what one object says of
//! another is followed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod files;
mod kubevirt;
mod kustomize;
mod objects;
mod programs;
mod references;
mod typed;
