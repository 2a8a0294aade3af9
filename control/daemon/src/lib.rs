//! The parts of culvertd, the node daemon; `main.rs` puts them together.
//!
//! - [`arguments`], [`config`], [`name`]: what the user says, and every mistake in it;
//! - [`change`], [`reconcile`], [`journal`], [`removals`]: what clients want besides, how the node gets there, and how it is
//!   kept;
//! - [`supervisor`]: culvertd's first process, which starts the daemon, again if need be; [`broker`]: what the daemon asks it for;
//! - [`isolation`]: what both give up;
//! - [`process`]: what the daemon changes about its own process; [`log`]: the log of both, which holds up nobody;
//!   [`bugs`]: panics, counted;
//! - [`node`]: the running node: datapath, ports, vhost-user sockets; [`events`]: what happens there;
//!   [`filter`]: which frames a capture is to have;
//! - [`listening_socket`], [`server`], [`service`]: the socket that clients connect to, its limits, and its methods;
//!   [`request`]: requests in the words of the configuration; [`translators`]: other processes of this node, asked for figures;
//! - [`pods`]: where translators run that culvertd did not start, and help for them;
//! - [`device_plugin`]: what kubelet is offered, and what it gives to containers.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod broker;
pub mod bugs;
pub mod change;
pub mod config;
pub mod device_plugin;
pub mod events;
pub mod filter;
pub mod heartbeat;
pub mod isolation;
pub mod journal;
pub mod listening_socket;
pub mod log;
pub mod metrics;
pub mod migration;
pub mod name;
pub mod node;
pub mod pods;
pub mod process;
pub mod reconcile;
pub mod removals;
pub mod request;
pub mod server;
pub mod service;
pub mod supervisor;
pub mod takeover;
pub mod translators;
