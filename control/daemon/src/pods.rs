//! The pods that translators run in: their sockets in folders that the pods own, and help for what the translators may not
//! do themselves.
//!
//! - [`folder`]: a pod's folder, where nothing is trusted, and the sockets in it;
//! - [`packets`]: a packet socket on a tap in a pod's network namespace;
//! - [`steering`]: all ports of a pod's network namespace to two sockets;
//! - [`repair`]: sockets of a pod's network namespace to repair mode, at `S.repair`, when its guest moves;
//! - [`help`]: who has asked for one of these at `S.help`, and got it.
//!
//! `node::pods` calls [`help`] once a second with the pods that are known; `translators` looks into the folders.

pub mod folder;
pub mod help;
pub mod packets;
pub mod repair;
pub mod steering;
