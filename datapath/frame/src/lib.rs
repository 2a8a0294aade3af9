//! What a frame means, apart from where it came from and where it goes.
//!
//! - [`address`]: MAC addresses;
//! - [`drop_reason`]: every way in which a frame is refused, each one a counter;
//! - [`header`]: what the switch reads of a frame: the Ethernet header and a flow hash.
//!
//! No I/O, no state, no `unsafe`. Everything else in `datapath/` depends on this crate and it depends on none.
#![forbid(unsafe_code)]

pub mod address;
pub mod drop_reason;
pub mod header;

pub use address::MacAddress;
pub use drop_reason::{Direction, DropReason};
pub use header::EthernetHeader;

/// Largest frame that a port may carry, in bytes: 64 KiB of payload behind an Ethernet header and two VLAN tags.
pub const MAX_FRAME_BYTES: u32 = 65_536 + 14 + 8;

/// Bytes of an Ethernet header without VLAN tags (IEEE 802.3-2022, 3.1.1).
pub const ETHERNET_HEADER_BYTES: usize = 14;
