//! The virtio feature bits that Culvert knows (virtio 1.3, sections 5.1.3, 6 and 6.3), as masks.

/// Driver handles a device with a given MAC address (5.1.3).
pub const NET_MAC: u64 = 1 << 5;
/// The device tells its MTU (5.1.3).
pub const NET_MTU: u64 = 1 << 3;
/// A received frame may spread over several buffers (5.1.6.4).
pub const NET_MRG_RXBUF: u64 = 1 << 15;
/// The driver can announce itself on request (5.1.6.5.4).
pub const NET_GUEST_ANNOUNCE: u64 = 1 << 21;
/// Several queue pairs (5.1.6.5.5).
pub const NET_MQ: u64 = 1 << 22;
/// Any split of header and frame into descriptors (6.3, legacy).
pub const ANY_LAYOUT: u64 = 1 << 27;
/// Descriptor tables outside of the ring (2.7.5.3).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are asked for by index (2.7.10).
pub const EVENT_IDX: u64 = 1 << 29;
/// vhost-user's own bit: protocol features can be negotiated.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Virtio 1.0 or later, not legacy (6.1).
pub const VERSION_1: u64 = 1 << 32;
