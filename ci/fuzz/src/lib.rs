//! Fuzz targets: everything that reads what a guest, a frontend, a frame or a pod says. A target takes any bytes, makes of them a
//! sequence of operations (the crate `arbitrary`), and panics when something is not as it must be.
//!
//! - [`frame`]: the bytes of one frame and of one virtio-net header; [`messages`]: one vhost-user message;
//! - [`offload`]: what a sender asks for with a frame, and doing it;
//! - [`guard`]: any frame before a port's guard, and messages about multicast groups;
//! - [`session`]: a whole vhost-user dialogue, with workers that run the rings it sets up;
//! - [`transmit`], [`receive`]: one ring, whose driver rewrites anything between two calls;
//! - [`cni`]: a call of culvert-cni: variables and configuration;
//! - [`dhcp`], [`dhcpv6`], [`neighbours`]: what a guest asks the translator for its addresses;
//! - [`datagrams`]: a guest's UDP, ICMP and multicast reports, peers and a network that reports; [`fragments`]: parts of
//!   packets;
//! - [`hook_edit`]: a domain, its VMI and what a pod says, which virt-launcher and the pod's annotations bring to the hook
//!   sidecar; [`hook_readers`]: the files of a pod alone;
//! - [`requests`]: what clients of a translator's control socket ask;
//! - [`stream`]: what a peer writes to the translator's stream socket;
//! - [`switch`]: guests that send each other frames through the forwarder;
//! - [`tcp`]: any events in the life of a TCP connection of the translator's;
//! - [`translator`]: a whole translator between a guest and sockets that do anything.
//!
//! What they share: [`descriptor`] makes file descriptors, [`guest`] a guest's memory and ring, [`network`] what a
//! translator's guest is told.
//!
//! `ci/fuzz/run` runs them under libFuzzer and AddressSanitizer; `tests/replay.rs` runs the committed inputs, in `corpus/`
//! and `regressions/`, as an ordinary test. An input that once failed goes to `regressions/<target>/`.

mod descriptor;
mod guest;
mod network;

pub mod cni;
pub mod datagrams;
pub mod dhcp;
pub mod dhcpv6;
pub mod fragments;
pub mod frame;
pub mod guard;
pub mod hook_edit;
pub mod hook_readers;
pub mod messages;
pub mod neighbours;
pub mod offload;
pub mod receive;
pub mod requests;
pub mod session;
pub mod stream;
pub mod switch;
pub mod tcp;
pub mod translator;
pub mod transmit;

/// Runs one input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 20] = [
    ("cni", cni::run),
    ("datagrams", datagrams::run),
    ("dhcp", dhcp::run),
    ("dhcpv6", dhcpv6::run),
    ("fragments", fragments::run),
    ("frame", frame::run),
    ("guard", guard::run),
    ("hook_edit", hook_edit::run),
    ("hook_readers", hook_readers::run),
    ("messages", messages::run),
    ("neighbours", neighbours::run),
    ("offload", offload::run),
    ("receive", receive::run),
    ("requests", requests::run),
    ("session", session::run),
    ("stream", stream::run),
    ("switch", switch::run),
    ("tcp", tcp::run),
    ("translator", translator::run),
    ("transmit", transmit::run),
];
