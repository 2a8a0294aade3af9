//! Every way in which a frame is refused.
//!
//! A refused frame is counted once, at one port, under one of these reasons: at the port it came from
//! ([`Direction::Rx`]) when it would not have been sent anywhere, at the port it should have gone to
//! ([`Direction::Tx`]) when that port could not take it. A flooded frame may be refused by several ports.
//! The texts here are what `culvertctl drops` shows; the names are also metric labels.

use std::fmt;

/// On which side of a port frames are counted, seen from Culvert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards us: a guest's transmit queue, a NIC's receive queue.
    Rx,
    /// Away from us: a guest's receive queue, a NIC's transmit queue.
    Tx,
}

impl Direction {
    /// `rx` or `tx`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }
}

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// Longer than [`MAX_FRAME_BYTES`](crate::MAX_FRAME_BYTES), or in more pieces than are allowed.
    Oversized,
    /// A guest's buffer chain that ends before the virtio-net header does.
    ShortHeader,
    /// A virtio-net header that asks for an offload which was not negotiated.
    OffloadNotNegotiated,
    /// An offload request that does not fit its frame.
    BadOffload,
    /// The guest disabled the queue that the frame came on.
    QueueDisabled,
    /// The port sends no frames in: it receives copies of other ports' frames.
    MirrorTarget,
    /// The frame's VLAN is not one of the port's.
    VlanNotAllowed,
    /// The source address is a group address.
    GroupSource,
    /// The source address is not the one that the port is bound to.
    SpoofedSource,
    /// The IPv4 or IPv6 source address, or the one that an ARP or NDP message claims, is not one of the port's.
    SpoofedAddress,
    /// The port sends more broadcast and multicast frames than it may.
    BroadcastLimit,
    /// The port sends more frames to unknown destinations than it may.
    UnknownLimit,
    /// The port sends more than its rate.
    RxRate,
    /// The destination is a link-local group address, which bridges keep to the link.
    LinkLocal,
    /// The destination is on the port that the frame came from.
    SamePort,
    /// Source and destination port are both isolated.
    Isolated,
    /// No port listens to the multicast group.
    NoGroupMember,
    /// There is no other port in the network and VLAN.
    NoOtherPort,
    /// A worker failed over the burst that the frame was in: a bug in Culvert.
    Failed,
    /// No guest is attached to the port, or its driver has not started it.
    PortDown,
    /// More leaves to the port than its rate.
    TxRate,
    /// The frame exceeds the port's MTU.
    ExceedsMtu,
    /// The guest has no free receive buffers.
    NoBuffer,
    /// Half of the guest's receive buffers are in use, and the rest is for frames that are addressed to it.
    NoFloodBuffer,
    /// The guest's receive buffer is smaller than the frame and it did not negotiate MRG_RXBUF.
    SmallBuffer,
    /// More segments were to be made at once than a worker makes.
    SegmentLimit,
    /// Another worker held the port's receive queue for more than 1 ms.
    RxBusy,
    /// A worker failed while it delivered the burst that the frame was in: a bug in Culvert.
    Abandoned,
    /// The port was stopped for a fault of its guest.
    Quarantined,
    /// The NIC's transmit queue is full.
    NicFull,
    /// The pool of packet buffers is empty.
    PoolEmpty,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::Runt,
        Self::Oversized,
        Self::ShortHeader,
        Self::OffloadNotNegotiated,
        Self::BadOffload,
        Self::QueueDisabled,
        Self::MirrorTarget,
        Self::VlanNotAllowed,
        Self::GroupSource,
        Self::SpoofedSource,
        Self::SpoofedAddress,
        Self::BroadcastLimit,
        Self::UnknownLimit,
        Self::RxRate,
        Self::LinkLocal,
        Self::SamePort,
        Self::Isolated,
        Self::NoGroupMember,
        Self::NoOtherPort,
        Self::Failed,
        Self::PortDown,
        Self::TxRate,
        Self::ExceedsMtu,
        Self::NoBuffer,
        Self::NoFloodBuffer,
        Self::SmallBuffer,
        Self::SegmentLimit,
        Self::RxBusy,
        Self::Abandoned,
        Self::Quarantined,
        Self::NicFull,
        Self::PoolEmpty,
    ];

    /// The place of this reason in [`Self::ALL`], below [`Self::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason's name in output and metrics: lower case, with hyphens.
    pub const fn name(self) -> &'static str {
        self.texts().0
    }

    /// What happened and what to do about it, in one or two sentences.
    pub const fn remedy(self) -> &'static str {
        self.texts().1
    }

    /// At which side of which port the frame is counted.
    pub const fn direction(self) -> Direction {
        if (self as u8) < (Self::PortDown as u8) { Direction::Rx } else { Direction::Tx }
    }

    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Runt => (
                "runt",
                "The frame is shorter than an Ethernet header (14 bytes): look for a broken driver or generator in the sender.",
            ),
            Self::Oversized => (
                "oversized",
                "The frame is longer than 64 KiB or in too many pieces: lower the sender's MTU or its offload limits.",
            ),
            Self::ShortHeader => (
                "short-header",
                "The guest sent a buffer that ends within the virtio-net header: its driver is broken; update the guest.",
            ),
            Self::OffloadNotNegotiated => (
                "offload-not-negotiated",
                "The guest asked for a checksum or segmentation that was never negotiated: its driver is broken; update the guest.",
            ),
            Self::BadOffload => (
                "bad-offload",
                "The guest's request for a checksum or segmentation does not fit the frame: its driver is broken; update the guest.",
            ),
            Self::QueueDisabled => (
                "queue-disabled",
                "The guest sent on a queue that it had disabled: set its queue count again (ethtool -L), or reload its driver.",
            ),
            Self::MirrorTarget => (
                "mirror-target",
                "The port receives copies of other ports' frames and may send none: remove the mirror if it is to take part in its network.",
            ),
            Self::VlanNotAllowed => (
                "vlan-not-allowed",
                "The frame's VLAN is not one of the port's, or it has none where one is needed: see `vlan`, `trunk`, `native` and `qinq` of the port.",
            ),
            Self::GroupSource => (
                "group-source",
                "The source address is a multicast address, which no station may use: look at the sender's configuration.",
            ),
            Self::SpoofedSource => (
                "spoofed-source",
                "The source address is not the port's `mac`: correct the guest's address, or change or remove `mac` of the port.",
            ),
            Self::SpoofedAddress => (
                "spoofed-address",
                "The IP source, or the address that an ARP or NDP message claims, is not in the port's `addresses`: correct the guest's address, or `addresses`.",
            ),
            Self::BroadcastLimit => (
                "broadcast-limit",
                "The port sends more broadcast and multicast frames than its `broadcast_limit`: look for a loop or a scan behind it, or raise the limit.",
            ),
            Self::UnknownLimit => (
                "unknown-limit",
                "The port sends more frames to unknown addresses than its `unknown_limit`: look for a scan behind it, or raise the limit.",
            ),
            Self::RxRate => (
                "rx-rate",
                "More arrives at the port than its `rx_rate` or `rx_frame_rate`: look for who sends that much, or raise the rate or its burst.",
            ),
            Self::LinkLocal => (
                "link-local",
                "The destination is reserved for the link itself (spanning tree, LLDP, LACP, pause): bridges never pass it on; nothing to do.",
            ),
            Self::SamePort => (
                "same-port",
                "The destination was learned on the port that the frame came from: normal behind an uplink; with guests, look for two with one address.",
            ),
            Self::Isolated => (
                "isolated",
                "Sender and receiver are both `isolated` ports: make one of them not isolated if they are to meet.",
            ),
            Self::NoGroupMember => (
                "no-group-member",
                "No port has joined the multicast group, and the network is `snooping`: normal; if somebody should hear it, look at their IGMP or MLD.",
            ),
            Self::NoOtherPort => (
                "no-other-port",
                "No other port is in this network and VLAN: add one, or put this port into the right network and VLAN.",
            ),
            Self::PortDown => (
                "port-down",
                "No guest is attached, or its interface is not up: start the guest, or set its interface up (see `culvertctl port show`).",
            ),
            Self::TxRate => (
                "tx-rate",
                "More is sent to the port than its `tx_rate` or `tx_frame_rate`: look for who sends that much, or raise the rate or its burst.",
            ),
            Self::ExceedsMtu => (
                "exceeds-mtu",
                "The frame is longer than the receiving port's MTU: raise `mtu` of that port, or lower the sender's.",
            ),
            Self::NoBuffer => (
                "no-buffer",
                "The guest offers no receive buffers, it reads too slowly: give it CPU, or larger rings (rx_queue_size), or more queues.",
            ),
            Self::NoFloodBuffer => (
                "no-flood-buffer",
                "Half of the guest's receive buffers are in use, and the rest is for frames addressed to it, not for broadcasts or unknown destinations: look for who floods (`culvertctl stats`) and set its `broadcast_limit` and `unknown_limit`; or give the guest CPU.",
            ),
            Self::SmallBuffer => (
                "small-buffer",
                "The guest's receive buffers are smaller than the frame: enable mergeable buffers (mrg_rxbuf=on), or lower the sender's MTU.",
            ),
            Self::SegmentLimit => (
                "segment-limit",
                "The sender asks for very many small segments at once: raise its TCP segment size (MSS) or the receiver's MTU, or let the receiver negotiate segmentation offload.",
            ),
            Self::RxBusy => (
                "rx-busy",
                "Another worker held the guest's receive queue for over 1 ms: its core is shared with other work; see `worker_cores`.",
            ),
            Self::Failed => (
                "failed",
                "culvertd failed over this frame or one that came with it, which is a mistake in culvertd: report it with the log.",
            ),
            Self::Abandoned => (
                "abandoned",
                "culvertd failed while it delivered this frame or one that came with it, which is a mistake in culvertd: report it with the log.",
            ),
            Self::Quarantined => (
                "quarantined",
                "The port was stopped for a fault of its guest: see `culvertctl port show`; it comes back when the guest reconnects.",
            ),
            Self::NicFull => {
                ("nic-full", "The port's transmit queue is full: the link is slower than what is sent to it.")
            }
            Self::PoolEmpty => ("pool-empty", "No packet buffer was free: raise `memory_mb`."),
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_complete_and_in_order() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }

    #[test]
    fn directions_split_at_the_receiver() {
        assert_eq!(DropReason::NoOtherPort.direction(), Direction::Rx);
        assert_eq!(DropReason::PortDown.direction(), Direction::Tx);
        assert_eq!(DropReason::PoolEmpty.direction(), Direction::Tx);
    }

    #[test]
    fn every_reason_tells_a_remedy_in_sentences() {
        for reason in DropReason::ALL {
            assert!(reason.remedy().ends_with('.') && reason.remedy().len() > 40, "{reason}");
        }
    }
}
