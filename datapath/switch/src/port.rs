//! What a port is to the switch.

use std::sync::{Arc, Mutex};

use culvert_frame::{MacAddress, Offloads, header};
use culvert_guest::ReceiveQueue;
use culvert_nic::{NicOffloads, Pool, TxQueue};

use crate::counters::PortCounters;
use crate::guard::Guard;
use crate::latency::Latency;
use crate::limits::{Limiter, Limits};
use crate::mac_table::TABLE_ENTRIES;
use crate::network::NetworkId;
use crate::rates::{Meter, Rates};
use crate::tap::Tap;
use crate::vlan::Vlans;

/// How many ports there can be at one time.
pub const MAX_PORTS: usize = 1024;

/// A port's number, below [`MAX_PORTS`]; free for another port once its port is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// The number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What holds for a port's frames; can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which VLANs it has.
    pub vlans: Vlans,
    /// Whose frames it may send.
    pub guard: Guard,
    /// How many flooded frames it may send.
    pub limits: Limits,
    /// How much it may send and receive.
    pub rates: Rates,
    /// Whether it exchanges no frames with other isolated ports.
    pub isolated: bool,
    /// Addresses that may be learned behind it.
    pub mac_limit: u32,
    /// Payload of the longest frame that it takes, in bytes.
    pub mtu: u16,
}

impl Default for Rules {
    /// No VLANs, no guard, no rates, no limits but the size of the address table; an MTU of 1500.
    fn default() -> Self {
        Self {
            vlans: Vlans::default(),
            guard: Guard::default(),
            limits: Limits::default(),
            rates: Rates::default(),
            isolated: false,
            mac_limit: u32::try_from(TABLE_ENTRIES).unwrap_or(u32::MAX),
            mtu: 1500,
        }
    }
}

impl Rules {
    /// The address that is bound to the port, if there is one.
    pub const fn mac(&self) -> Option<MacAddress> {
        self.guard.mac
    }
}

/// A port of one topology.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The network that it belongs to.
    pub network: NetworkId,
    /// Which of its guests this is: counts up each time that one starts its rings.
    pub attachment: u32,
    /// What holds for its frames.
    pub rules: Arc<Rules>,
    /// What it has spent of its limits.
    pub limiter: Arc<Limiter>,
    /// What it has spent of its rates.
    pub meter: Arc<Meter>,
    /// Whether a guest is behind it: what it sends too much waits in its ring, and is not dropped.
    pub is_guest: bool,
    /// The way out.
    pub egress: Egress,
    /// Ports that get copies of its frames.
    pub mirrors: Box<[MirrorTo]>,
    /// Whether it gets copies of other ports' frames: then it takes no other part in its network.
    pub is_mirror_target: bool,
    /// Where copies of its frames go while somebody captures; mostly none.
    pub taps: Box<[Arc<Tap>]>,
    /// Where times of its frames are counted while somebody measures; mostly none.
    pub latencies: Box<[Arc<Latency>]>,
    /// Counters, one set for each worker.
    pub counters: Arc<[PortCounters]>,
}

/// Where copies of a port's frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorTo {
    /// The port that gets them.
    pub target: PortId,
    /// Whether frames that arrive at the port are copied.
    pub rx: bool,
    /// Whether frames that are to leave it are copied.
    pub tx: bool,
}

/// Ways out of the switch.
#[derive(Debug)]
pub enum Egress {
    /// There is no guest, or it has not started its queues.
    Down,
    /// The guest broke its rings.
    Quarantined,
    /// The guest's enabled receive queues, at least one, and which frames they take undone.
    Guest(Box<[Arc<Mutex<ReceiveQueue>>]>, Offloads),
    /// The NIC's transmit queues, at least one, what they do to frames, and where buffers come from.
    Nic(Box<[Arc<Mutex<TxQueue>>]>, NicOffloads, Pool),
    /// Keeps what it is sent, as a guest would that takes these frames undone.
    #[cfg(test)]
    Test(Mutex<Vec<crate::golden::Packet>>, Offloads),
}

impl Egress {
    /// What may be left undone on frames that leave here.
    #[inline]
    pub fn takes(&self) -> Offloads {
        match self {
            Self::Down | Self::Quarantined => Offloads::NONE,
            Self::Guest(_, takes) => *takes,
            Self::Nic(_, does, _) => nic_takes(*does),
            #[cfg(test)]
            Self::Test(_, takes) => *takes,
        }
    }
}

/// What is left to a NIC. Segmentation with ECN is not: DPDK has no word for it.
fn nic_takes(does: NicOffloads) -> Offloads {
    match (does.tcp_checksum && does.udp_checksum, does.tso) {
        (false, _) => Offloads::NONE,
        (true, false) => Offloads::CHECKSUM,
        (true, true) => Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6,
    }
}

impl Port {
    /// Bytes of the longest frame without VLAN tags that the port takes.
    #[inline]
    pub fn longest_untagged(&self) -> u32 {
        u32::from(self.rules.mtu).wrapping_add(ETHERNET_HEADER_BYTES)
    }

    /// Whether a frame is too long for the port: more than the MTU behind its Ethernet header and VLAN tags.
    #[inline]
    pub fn exceeds_mtu(&self, length: u32, head: &[u8]) -> bool {
        let without_tags = self.longest_untagged();
        length > without_tags && length > without_tags + header::vlan_tags_bytes(head)
    }
}

/// Destination, source and EtherType (IEEE 802.3-2022, 3.1.1).
const ETHERNET_HEADER_BYTES: u32 = 14;
