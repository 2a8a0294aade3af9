//! Fuzz targets: everything that reads what a guest, a frontend, a frame, a client or a pod says. A target takes any bytes, makes
//! of them a sequence of operations (the crate `arbitrary`), and panics when something is not as it must be.
//!
//! What guests and frontends write:
//! - [`chain`]: one ring as it lies in memory; [`packed`]: a packed one; [`transmit`], [`receive`]: a ring whose driver
//!   rewrites anything between two calls;
//! - [`net_header`]: what a buffer begins with; [`offload`], [`segmenter`]: what a sender asks for with a frame, and doing it;
//! - [`messages`]: one vhost-user message; [`regions`]: tables of memory; [`session`]: a whole dialogue, with workers that run
//!   the rings it sets up.
//!
//! What frames say:
//! - [`frame`]: where their headers lie; [`guard`]: any frame before a port's guard, and messages about multicast groups;
//!   [`switch`]: guests that send each other frames through the forwarder;
//! - [`dhcp`], [`dhcpv6`], [`neighbours`]: what a guest asks the translator for its addresses; [`dns`]: what it is told of
//!   resolvers;
//! - [`datagrams`]: a guest's UDP, ICMP and multicast reports, peers and a network that reports; [`fragments`]: parts of
//!   packets; [`tcp`]: any events in the life of a TCP connection of the translator's;
//! - [`stream`]: what a peer writes to the translator's stream socket;
//! - [`migration`]: what a translator is told of a guest that comes from another machine;
//! - [`translator`]: a whole translator between a guest and sockets that do anything.
//!
//! What clients, pods and files say (with the feature `control`, which is on unless switched off):
//! - [`config`]: a configuration; [`control`]: requests of clients, one after the other; [`journal`]: what a disk kept of them;
//! - [`requests`]: what clients of a translator's control socket ask; [`replies`]: what those who pose as one answer;
//! - [`migrations`]: what clients ask of the migration proxy;
//! - [`devices`]: what kubelet asks of the device plugin;
//! - [`cni`]: a call of culvert-cni: variables and configuration; [`api_answers`]: what Kubernetes' API and other plugins
//!   answer it, and its own records;
//! - [`hook_edit`]: a domain, its VMI and what a pod says, which virt-launcher and the pod's annotations bring to the hook
//!   sidecar; [`hook_readers`]: the files of a pod alone;
//! - [`admission`]: pods, virtual machines, annotations and definitions that the API server asks culvert-webhook about;
//! - [`convert`]: files in YAML for `culvertctl convert`.
//!
//! What they share: [`descriptor`] makes file descriptors, [`guest`] a guest's memory and ring, [`network`] what a
//! translator's guest is told.
//!
//! `ci/fuzz/run` runs them under libFuzzer and AddressSanitizer; `tests/replay.rs` runs the committed inputs, in `corpus/`
//! and `regressions/`, as an ordinary test. An input that once failed goes to `regressions/<target>/`.

mod descriptor;
mod guest;
mod network;

#[cfg(feature = "control")]
pub mod admission;
#[cfg(feature = "control")]
pub mod api_answers;
pub mod chain;
#[cfg(feature = "control")]
pub mod cni;
#[cfg(feature = "control")]
pub mod config;
#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "control")]
pub mod convert;
pub mod datagrams;
#[cfg(feature = "control")]
pub mod devices;
pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod fragments;
pub mod frame;
pub mod guard;
#[cfg(feature = "control")]
pub mod hook_edit;
#[cfg(feature = "control")]
pub mod hook_readers;
#[cfg(feature = "control")]
pub mod journal;
pub mod messages;
pub mod migration;
#[cfg(feature = "control")]
pub mod migrations;
pub mod neighbours;
pub mod net_header;
pub mod offload;
pub mod packed;
pub mod receive;
pub mod regions;
#[cfg(feature = "control")]
pub mod replies;
pub mod requests;
pub mod segmenter;
pub mod session;
pub mod stream;
pub mod switch;
pub mod tcp;
pub mod translator;
pub mod transmit;

/// Runs one input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "control")]
    ("admission", admission::run),
    #[cfg(feature = "control")]
    ("api_answers", api_answers::run),
    ("chain", chain::run),
    #[cfg(feature = "control")]
    ("cni", cni::run),
    #[cfg(feature = "control")]
    ("config", config::run),
    #[cfg(feature = "control")]
    ("control", control::run),
    #[cfg(feature = "control")]
    ("convert", convert::run),
    ("datagrams", datagrams::run),
    #[cfg(feature = "control")]
    ("devices", devices::run),
    ("dhcp", dhcp::run),
    ("dhcpv6", dhcpv6::run),
    ("dns", dns::run),
    ("fragments", fragments::run),
    ("frame", frame::run),
    ("guard", guard::run),
    #[cfg(feature = "control")]
    ("hook_edit", hook_edit::run),
    #[cfg(feature = "control")]
    ("hook_readers", hook_readers::run),
    #[cfg(feature = "control")]
    ("journal", journal::run),
    ("messages", messages::run),
    ("migration", migration::run),
    #[cfg(feature = "control")]
    ("migrations", migrations::run),
    ("neighbours", neighbours::run),
    ("net_header", net_header::run),
    ("offload", offload::run),
    ("packed", packed::run),
    ("receive", receive::run),
    ("regions", regions::run),
    #[cfg(feature = "control")]
    ("replies", replies::run),
    ("requests", requests::run),
    ("segmenter", segmenter::run),
    ("session", session::run),
    ("stream", stream::run),
    ("switch", switch::run),
    ("tcp", tcp::run),
    ("translator", translator::run),
    ("transmit", transmit::run),
];
