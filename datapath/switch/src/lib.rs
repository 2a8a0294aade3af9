//! Frames between ports: who may receive a frame, and how it gets there.
//!
//! - [`port`]: what a port is to the switch: a closed enum of ways out, and the limits that hold for it;
//! - [`network`]: a learning bridge: its ports and its [`mac_table`];
//! - [`burst`]: frames that have arrived, wherever they lie;
//! - [`forward`]: the way of a burst: check, learn, look up, group by destination, deliver;
//! - [`counters`]: what happened to each frame, by port; [`tap`]: copies of frames for whoever captures.
//!
//! Nothing here allocates, locks (receive queues apart) or makes a system call for a frame, and nothing knows of threads
//! or of configuration: `worker/` calls [`forward::Forwarder`] with an immutable [`network::Topology`].
#![forbid(unsafe_code)]

pub mod burst;
pub mod counters;
pub mod forward;
#[cfg(test)]
mod golden;
pub mod groups;
pub mod guard;
mod ip;
pub mod limits;
pub mod mac_table;
pub mod network;
pub mod port;
pub mod snoop;
pub mod tap;

pub use burst::Burst;
pub use counters::{PortCounters, PortTotals};
pub use forward::Forwarder;
pub use mac_table::MacTable;
pub use network::{Network, Topology};
pub use port::{Egress, Port, PortId};
pub use tap::Tap;
