//! Frames between ports: who may receive a frame, and how it gets there.
//!
//! - [`port`]: what a port is to the switch: a closed enum of ways out, and the rules that hold for it;
//! - [`vlan`], [`guard`], [`limits`], [`rates`]: what the rules say about VLANs, sources, floods, and how much may pass;
//! - [`network`]: a learning bridge: its ports, its [`mac_table`], and who listens to which multicast group ([`groups`],
//!   learned by [`snoop`]);
//! - [`burst`]: frames that have arrived, wherever they lie;
//! - [`forward`]: the way of a burst: [`ingress`] decides where each frame goes, [`egress`] how it leaves, and `outlet`
//!   hands it to guests and NICs; `metering` ends a burst where a port's rate does;
//! - [`trace`]: the same decisions, told instead of carried out;
//! - [`counters`]: what happened to each frame, by port; [`tap`]: copies of frames for whoever captures; [`latency`]: how long frames stay,
//!   for whoever measures that.
//!
//! Nothing here allocates, locks (receive queues apart) or makes a system call for a frame, and nothing knows of threads
//! or of configuration: `worker/` calls [`forward::Forwarder`] with an immutable [`network::Topology`].
#![forbid(unsafe_code)]

mod bucket;
pub mod burst;
pub mod counters;
pub mod egress;
pub mod forward;
#[cfg(test)]
mod golden;
pub mod groups;
pub mod guard;
pub mod ingress;
mod ip;
pub mod latency;
pub mod limits;
pub mod mac_table;
mod metering;
pub mod network;
mod outlet;
pub mod port;
pub mod rates;
pub mod snoop;
mod sync;
pub mod tap;
pub mod trace;
pub mod vlan;
mod way_cache;

pub use burst::Burst;
pub use counters::{PortCounters, PortTotals};
pub use forward::Forwarder;
pub use latency::Latency;
pub use mac_table::MacTable;
pub use network::{Bridge, Network, NetworkId, Topology};
pub use port::{Egress, Port, PortId, Rules};
pub use tap::{Tap, Wanted};
pub use vlan::{VlanSet, Vlans};
