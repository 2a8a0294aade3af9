//! The virtio feature bits that Culvert knows (virtio 1.3, sections 5.1.3, 6 and 6.3), as masks.

use culvert_frame::Offloads;

/// The device completes checksums (5.1.3).
pub const NET_CSUM: u64 = 1;
/// The driver takes frames whose checksum is to be completed.
pub const NET_GUEST_CSUM: u64 = 1 << 1;
/// The driver takes TCP over IPv4 that is to be segmented.
pub const NET_GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP over IPv6 that is to be segmented.
pub const NET_GUEST_TSO6: u64 = 1 << 8;
/// The driver takes TCP with explicit congestion notification that is to be segmented.
pub const NET_GUEST_ECN: u64 = 1 << 9;
/// The device segments TCP over IPv4.
pub const NET_HOST_TSO4: u64 = 1 << 11;
/// The device segments TCP over IPv6.
pub const NET_HOST_TSO6: u64 = 1 << 12;
/// The device segments TCP with explicit congestion notification.
pub const NET_HOST_ECN: u64 = 1 << 13;
/// Buffers are used in the order in which they were made available (6.1).
pub const IN_ORDER: u64 = 1 << 35;
/// The driver takes UDP over IPv4 that is to be segmented.
pub const NET_GUEST_USO4: u64 = 1 << 54;
/// The driver takes UDP over IPv6 that is to be segmented.
pub const NET_GUEST_USO6: u64 = 1 << 55;
/// The device segments UDP.
pub const NET_HOST_USO: u64 = 1 << 56;
/// All bits that let frames pass with checksums to be completed or to be segmented.
pub const NET_OFFLOADS: u64 = NET_CSUM
    | NET_GUEST_CSUM
    | NET_GUEST_TSO4
    | NET_GUEST_TSO6
    | NET_GUEST_ECN
    | NET_HOST_TSO4
    | NET_HOST_TSO6
    | NET_HOST_ECN
    | NET_GUEST_USO4
    | NET_GUEST_USO6
    | NET_HOST_USO;
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
/// vhost's own bit: what is written into the guest's memory is to be logged (vhost-user, "Migration").
pub const LOG_ALL: u64 = 1 << 26;
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

/// Rings are packed (2.8), and not split (2.7).
pub const RING_PACKED: u64 = 1 << 34;

/// What a driver with these features may ask us to do to its frames.
pub fn asked(features: u64) -> Offloads {
    pick(
        features,
        [
            (NET_CSUM, Offloads::CHECKSUM),
            (NET_HOST_TSO4, Offloads::TSO4),
            (NET_HOST_TSO6, Offloads::TSO6),
            (NET_HOST_ECN, Offloads::ECN),
            (NET_HOST_USO, Offloads::USO4),
            (NET_HOST_USO, Offloads::USO6),
        ],
    )
}

/// What a driver with these features takes undone.
pub fn taken(features: u64) -> Offloads {
    pick(
        features,
        [
            (NET_GUEST_CSUM, Offloads::CHECKSUM),
            (NET_GUEST_TSO4, Offloads::TSO4),
            (NET_GUEST_TSO6, Offloads::TSO6),
            (NET_GUEST_ECN, Offloads::ECN),
            (NET_GUEST_USO4, Offloads::USO4),
            (NET_GUEST_USO6, Offloads::USO6),
        ],
    )
}

/// The longest packet, without its Ethernet header, in bytes, that a driver with these features has receive buffers for, whatever
/// its MTU (1.3, section 5.1.6.3.1); `None`: it has buffers for its MTU (5.1.4.2), or any frame may spread over several.
pub const fn longest_received_packet(features: u64) -> Option<u16> {
    let any = NET_MRG_RXBUF | NET_MTU | NET_GUEST_TSO4 | NET_GUEST_TSO6;
    if features & any == 0 { Some(1500) } else { None }
}

fn pick(features: u64, pairs: [(u64, Offloads); 6]) -> Offloads {
    let chosen = pairs.into_iter().filter(|(bit, _)| features & bit != 0);
    chosen.fold(Offloads::NONE, |all, (_, offload)| all | offload)
}
