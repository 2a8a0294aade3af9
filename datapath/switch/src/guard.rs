//! Whether a port may send a frame: the addresses that a guest may use as its own.
//!
//! The MAC address holds for the Ethernet source. IP addresses, once any is listed, hold for whatever says where a frame
//! comes from: IPv4 and IPv6 sources, ARP's and RARP's sender, neighbour discovery's source, target and link-layer
//! options. Such a port speaks IPv4, IPv6, ARP and RARP only, behind any number of VLAN tags, and is no router: router
//! advertisements, redirects, and queries for groups are refused, and so is everything that cannot be parsed.
//!
//! Without an address, a guest may ask for one: DHCP from 0.0.0.0, router solicitations, duplicate address detection and
//! ARP probes for addresses that it may use, reports of groups. The IPv6 link-local address made of the frame's Ethernet
//! source (RFC 4291, appendix A) needs no listing; others do (`fe80::/10` lists all of them, and with them those of the
//! network's routers: who may use these can pose as the router).
//!
//! Not a firewall: it looks at who sends, never at what for. Called by `forward` for guarded ports, with a frame's head.

use std::net::IpAddr;

use culvert_frame::{DropReason, EthernetHeader, MacAddress};
use ipnet::IpNet;

/// What a port may use as source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The only Ethernet source address, if it is bound to one.
    pub mac: Option<MacAddress>,
    /// The IP addresses and networks that it may use; empty: any, unchecked.
    pub addresses: Box<[IpNet]>,
}

impl Guard {
    /// Whether it lets every frame pass, so that [`Self::check`] need not be called.
    #[inline]
    pub const fn is_open(&self) -> bool {
        self.mac.is_none() && self.addresses.is_empty()
    }

    /// Whether a frame may pass. `head` is the frame's first bytes, with its VLAN tags: all of it, or at least 128.
    ///
    /// # Errors
    /// [`DropReason::Runt`] without an Ethernet header, [`DropReason::SpoofedSource`] for its source address,
    /// [`DropReason::SpoofedAddress`] for what lies behind it.
    #[inline(never)]
    pub fn check(&self, head: &[u8]) -> Result<(), DropReason> {
        let header = EthernetHeader::parse(head)?;
        if self.mac.is_some_and(|mac| mac != header.source) {
            return Err(DropReason::SpoofedSource);
        }
        Ok(())
    }

    /// Whether an address is listed.
    fn lists(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        self.addresses.iter().any(|network| network.contains(&address))
    }
}
