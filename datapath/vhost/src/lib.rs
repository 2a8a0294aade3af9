//! The vhost-user dialogue: how a frontend (QEMU, user-mode Linux, DPDK's virtio-user) hands the rings of a guest to us.
//!
//! From the inside out:
//! - [`message`]: headers and bodies, parsed; [`event`]: the descriptors that kick and interrupt, checked;
//! - [`session`]: the dialogue with one frontend as a pure state machine;
#![forbid(unsafe_code)]

pub mod event;
pub mod message;
pub mod session;

pub use session::Session;
