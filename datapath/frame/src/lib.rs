//! What a frame means, apart from where it came from and where it goes.
//!
//! - [`address`]: MAC addresses;
//! - [`drop_reason`]: every way in which a frame is refused, each one a counter;
//! - [`header`]: what the switch reads of a frame: the Ethernet header and a flow hash;
//! - [`layers`]: where the headers of an IP frame lie;
//! - [`offload`]: what a sender leaves to its device, checked; [`checksum`] and [`segment`] do it in software.
//!
//! No I/O, no state, no `unsafe`. Everything else in `datapath/` depends on this crate and it depends on none.
#![forbid(unsafe_code)]

pub mod address;
pub mod checksum;
pub mod drop_reason;
pub mod header;
pub mod layers;
pub mod offload;
pub mod segment;

pub use address::MacAddress;
pub use checksum::PartialChecksum;
pub use drop_reason::{Direction, DropReason};
pub use header::EthernetHeader;
pub use layers::Layers;
pub use offload::{Offload, OffloadFields, OffloadRequest, Offloads, SegmentKind, Segmentation};
pub use segment::Segmenter;

/// Largest frame that a port may carry, in bytes: 64 KiB of payload behind an Ethernet header and two VLAN tags.
pub const MAX_FRAME_BYTES: u32 = 65_536 + 14 + 8;

/// Bytes of an Ethernet header without VLAN tags (IEEE 802.3-2022, 3.1.1).
pub const ETHERNET_HEADER_BYTES: usize = 14;
