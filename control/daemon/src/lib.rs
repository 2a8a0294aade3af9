//! The parts of culvertd, the node daemon; `main.rs` puts them together.
//!
//! - [`config`]: the configuration file and every mistake in it;
//! - [`name`]: the one rule for names;
//! - [`control_socket`], [`server`], [`service`]: the socket that clients connect to, its limits, and its methods;
//! - [`node`]: what these methods may ask of the running node.
#![forbid(unsafe_code)]

pub mod config;
pub mod control_socket;
pub mod name;
pub mod node;
pub mod server;
pub mod service;
