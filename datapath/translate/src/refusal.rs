//! Every way in which the translator refuses what a guest sent or a peer asked for. Each one is a counter.
//!
//! The switch has its own list (`culvert_frame::DropReason`): most of what it refuses does not exist here, and the
//! reverse. Names are what `culvertctl translator stats` shows.

use std::fmt;

use crate::migration::lost::Moved;

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Shorter than its own headers say, or than an Ethernet header.
    Truncated,
    /// A header that contradicts itself: version, lengths, checksum.
    Malformed,
    /// Neither ARP nor IP, or tagged for a VLAN.
    OtherProtocol,
    /// An offload request that does not fit its frame, or was not negotiated.
    BadOffload,
    /// A source address that no station may have: multicast, loopback, unspecified, ours.
    BadSource,
    /// A destination that means nothing: unspecified, loopback, or an address family that the guest was not given.
    BadDestination,
    /// A service of the host that no rule leads to.
    DestinationNotAllowed,
    /// The protocol was switched off.
    SwitchedOff,
    /// A header of TCP or UDP that is malformed.
    BadTransport,
    /// A segment of no connection, answered with RST.
    NoConnection,
    /// The guest has as many flows as it may.
    TooManyFlows,
    /// The guest opens flows faster than it may.
    TooFast,
    /// There are no descriptors left.
    NoDescriptor,
    /// A fragment that overlaps another, is too large, or one too many.
    BadFragment,
    /// The kernel refused to send it.
    SocketError,
    /// The guest had no room for it.
    GuestFull,
    /// An ICMP message that no socket can carry: an error, a redirect.
    IcmpNotCarried,
    /// A malformed or pointless request to one of our services: ARP, NDP, DHCP, DHCPv6.
    BadRequest,
    /// It is for another thread of ours, which had more than enough of such.
    OtherLane,
}

impl Refusal {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Truncated,
        Self::Malformed,
        Self::OtherProtocol,
        Self::BadOffload,
        Self::BadSource,
        Self::BadDestination,
        Self::DestinationNotAllowed,
        Self::SwitchedOff,
        Self::BadTransport,
        Self::NoConnection,
        Self::TooManyFlows,
        Self::TooFast,
        Self::NoDescriptor,
        Self::BadFragment,
        Self::SocketError,
        Self::GuestFull,
        Self::IcmpNotCarried,
        Self::BadRequest,
        Self::OtherLane,
    ];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name among the statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "refused_truncated",
            Self::Malformed => "refused_malformed",
            Self::OtherProtocol => "refused_other_protocol",
            Self::BadOffload => "refused_bad_offload",
            Self::BadSource => "refused_bad_source",
            Self::BadDestination => "refused_bad_destination",
            Self::DestinationNotAllowed => "refused_destination_not_allowed",
            Self::SwitchedOff => "refused_switched_off",
            Self::BadTransport => "refused_bad_transport",
            Self::NoConnection => "refused_no_connection",
            Self::TooManyFlows => "refused_too_many_flows",
            Self::TooFast => "refused_too_fast",
            Self::NoDescriptor => "refused_no_descriptor",
            Self::BadFragment => "refused_bad_fragment",
            Self::SocketError => "refused_socket_error",
            Self::GuestFull => "refused_guest_full",
            Self::IcmpNotCarried => "refused_icmp_not_carried",
            Self::BadRequest => "refused_bad_request",
            Self::OtherLane => "refused_other_lane",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames from the guest.
    pub rx_frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub rx_bytes: u64,
    /// Frames to the guest.
    pub tx_frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub tx_bytes: u64,
    /// TCP connections that were opened, either way.
    pub tcp_flows: u64,
    /// UDP flows that were opened, either way.
    pub udp_flows: u64,
    /// Echo flows that were opened.
    pub echo_flows: u64,
    /// How often the guest's memory was gone when it was to be read or written: its file was truncated.
    pub memory_faults: u64,
    /// Flows that moved with the guest from or to another machine.
    pub moved: Moved,
    refused: [u64; Refusal::COUNT],
}

impl Counters {
    /// Counts a frame to the guest, of so many bytes from the Ethernet header on.
    #[inline]
    pub const fn tx_frame(&mut self, bytes: usize) {
        self.tx_frames += 1;
        self.tx_bytes += bytes as u64;
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, reason: Refusal) {
        tracing::trace!(%reason, "refused");
        if let Some(count) = self.refused.get_mut(reason.index()) {
            *count += 1;
        }
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        let Self {
            rx_frames,
            rx_bytes,
            tx_frames,
            tx_bytes,
            tcp_flows,
            udp_flows,
            echo_flows,
            memory_faults,
            moved,
            refused,
        } = self;
        moved.add(&other.moved);
        *rx_frames += other.rx_frames;
        *rx_bytes += other.rx_bytes;
        *tx_frames += other.tx_frames;
        *tx_bytes += other.tx_bytes;
        *tcp_flows += other.tcp_flows;
        *udp_flows += other.udp_flows;
        *echo_flows += other.echo_flows;
        *memory_faults += other.memory_faults;
        for (count, other) in refused.iter_mut().zip(&other.refused) {
            *count += other;
        }
    }

    /// How often `reason` was counted.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(reason.index()).copied().unwrap_or(0)
    }
}
