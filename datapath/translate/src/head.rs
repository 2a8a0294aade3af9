//! The heads of frames that we make: Ethernet, IP, and TCP, UDP or ICMP.
//!
//! A head is built in a small buffer of its own; the payload lies elsewhere. Checksums of TCP are left partial,
//! for the guest or the transport to complete; those of other protocols are computed here.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use culvert_frame::checksum::Sum;
use culvert_frame::{ETHERNET_HEADER_BYTES, MacAddress};

use crate::packet::internet_checksum;

/// Room for Ethernet, IPv6 and the longest TCP header, in bytes.
pub const HEAD_BYTES: usize = 128;

/// The headers of a frame.
pub type Head = ArrayVec<u8, HEAD_BYTES>;

/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// IGMP.
pub const IGMP: u8 = 2;
/// TCP.
pub const TCP: u8 = culvert_frame::layers::TCP;
/// UDP.
pub const UDP: u8 = culvert_frame::layers::UDP;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// From whom to whom a frame to the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ours.
    pub source_mac: MacAddress,
    /// The guest's.
    pub destination_mac: MacAddress,
    /// The peer, in the guest's eyes.
    pub source: IpAddr,
    /// The guest's address; of the same family.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

/// What a frame's time to live is where no packet of the world tells it.
pub const HOP_LIMIT: u8 = 64;

impl Ends {
    /// Whether the addresses are IPv4's.
    pub const fn is_v4(&self) -> bool {
        self.destination.is_ipv4()
    }

    /// Bytes of the Ethernet and IP headers.
    pub const fn header_bytes(&self) -> usize {
        ETHERNET_HEADER_BYTES + if self.is_v4() { 20 } else { 40 }
    }

    /// The Ethernet and IP headers before `bytes` of protocol `protocol`. IPv4's "don't fragment" is set.
    #[inline]
    pub fn head(&self, protocol: u8, bytes: u16) -> Head {
        let mut head = self.ethernet();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0; 20];
                let [t0, t1] = bytes.saturating_add(20).to_be_bytes();
                let fields = [0x45, self.traffic_class, t0, t1, 0, 0, 0x40, 0, self.hop_limit, protocol, 0, 0];
                header[..12].copy_from_slice(&fields);
                header[12..16].copy_from_slice(&source.octets());
                header[16..].copy_from_slice(&destination.octets());
                let [c0, c1] = internet_checksum(&header).to_be_bytes();
                (header[10], header[11]) = (c0, c1);
                head.extend(header);
            }
            (source, destination) => {
                let class = self.traffic_class;
                let [l0, l1] = bytes.to_be_bytes();
                head.extend([0x60 | class >> 4, class << 4, 0, 0, l0, l1, protocol, self.hop_limit]);
                head.extend(v6(source));
                head.extend(v6(destination));
            }
        }
        head
    }

    /// The Ethernet header.
    pub fn ethernet(&self) -> Head {
        let mut head = Head::new();
        head.extend(self.destination_mac.0);
        head.extend(self.source_mac.0);
        head.extend(if self.is_v4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        head
    }

    /// The sum of the pseudo header before `bytes` of protocol `protocol` (RFC 9293, section 3.1; RFC 8200, section
    /// 8.1).
    #[inline]
    pub fn pseudo_header(&self, protocol: u8, bytes: u32) -> Sum {
        let mut sum = Sum::default();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => sum.add(&address.octets()),
                IpAddr::V6(address) => sum.add(&address.octets()),
            }
        }
        sum.add(&u32::from(protocol).to_be_bytes());
        sum.add(&bytes.to_be_bytes());
        sum
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
