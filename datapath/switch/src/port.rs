//! What a port is to the switch.

use std::sync::{Arc, Mutex};

use culvert_frame::{MacAddress, header};
use culvert_guest::ReceiveQueue;
use culvert_nic::{Pool, TxQueue};

use crate::counters::PortCounters;
use crate::network::NetworkId;
use crate::tap::Tap;

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

/// A port of one topology.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The network that it belongs to.
    pub network: NetworkId,
    /// Which of its guests this is: counts up each time that one starts its rings.
    pub attachment: u32,
    /// The only source address that its frames may have, if it is bound to one.
    pub source: Option<MacAddress>,
    /// Addresses that may be learned behind it.
    pub mac_limit: u32,
    /// Payload of the longest frame that it takes, in bytes.
    pub mtu: u16,
    /// The way out.
    pub egress: Egress,
    /// Where copies of its frames go while somebody captures; mostly none.
    pub taps: Box<[Arc<Tap>]>,
    /// Counters, one set for each worker.
    pub counters: Arc<[PortCounters]>,
}

/// Ways out of the switch.
#[derive(Debug)]
pub enum Egress {
    /// There is no guest, or it has not started its queues.
    Down,
    /// The guest broke its rings.
    Quarantined,
    /// The guest's enabled receive queues; at least one.
    Guest(Box<[Arc<Mutex<ReceiveQueue>>]>),
    /// The NIC's transmit queues, at least one, and where buffers come from.
    Nic(Box<[Arc<Mutex<TxQueue>>]>, Pool),
    /// Keeps what it is sent.
    #[cfg(test)]
    Test(Mutex<Vec<Vec<u8>>>),
}

impl Port {
    /// Whether a frame is too long for the port: more than the MTU behind its Ethernet header and VLAN tags.
    #[inline]
    pub fn exceeds_mtu(&self, length: u32, head: &[u8]) -> bool {
        let without_tags = u32::from(self.mtu) + ETHERNET_HEADER_BYTES;
        length > without_tags && length > without_tags + header::vlan_tags_bytes(head)
    }
}

/// Destination, source and EtherType (IEEE 802.3-2022, 3.1.1).
const ETHERNET_HEADER_BYTES: u32 = 14;
