//! The parts of culvertd, the node daemon; `main.rs` puts them together.
//!
//! - [`config`]: the configuration file and every mistake in it;
//! - [`name`]: the one rule for names.
#![forbid(unsafe_code)]

pub mod config;
pub mod name;
