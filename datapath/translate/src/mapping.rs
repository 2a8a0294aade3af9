//! Which addresses of the guest's mean others on the host's side, and the reverse.
//!
//! Outwards, in this order: DNS to the forwarded address goes to the host's resolver; the address that stands for the
//! host's loopback leads there; the one that stands for the address that the guest has taken over leads to the host's
//! own; all others stay as they are. Inwards: a peer on the host's loopback, or with the very address that the guest
//! has, must have another in the guest's eyes, or answers would never leave it.
//!
//! Where the host is refused, so are its loopback, all addresses that it has at the moment, and those at which clouds
//! tell a machine its secrets; unless they are allowed one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::dns;
use crate::guest::Guest;
use crate::multicast::is_group;
use crate::refusal::Refusal;
use crate::settings::{Mapping, Settings};

/// How a socket towards the world is to be bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbound<'a> {
    /// Its address; the kernel's choice otherwise.
    pub address: Option<IpAddr>,
    /// Its interface (SO_BINDTODEVICE).
    pub interface: Option<&'a str>,
}

/// Where a packet of the guest's to `destination` leads on the host's side.
///
/// # Errors
/// [`Refusal::BadDestination`], [`Refusal::DestinationNotAllowed`].
pub fn towards_host(settings: &Settings, destination: SocketAddr) -> Result<SocketAddr, Refusal> {
    match destination {
        SocketAddr::V4(to) => {
            let v4 = settings.v4.as_ref().ok_or(Refusal::BadDestination)?;
            let own = v4.address.addr();
            let ip = map(&v4.mapping, *to.ip(), to.port(), Ipv4Addr::LOCALHOST, own, meaning_v4)?;
            Ok(SocketAddr::new(ip.into(), to.port()))
        }
        SocketAddr::V6(to) => {
            let v6 = settings.v6.as_ref().ok_or(Refusal::BadDestination)?;
            let ip = map(&v6.mapping, *to.ip(), to.port(), Ipv6Addr::LOCALHOST, v6.address, meaning_v6)?;
            let link_local = ip.is_unicast_link_local() || ip.is_multicast();
            let scope = if link_local { v6.interface_index } else { 0 };
            Ok(SocketAddrV6::new(ip, to.port(), 0, scope).into())
        }
    }
}

fn map<A: Address>(
    mapping: &Mapping<A>,
    to: A,
    port: u16,
    loopback: A,
    own: A,
    meaning: impl Fn(A) -> Result<(), Refusal>,
) -> Result<A, Refusal> {
    if let Some(resolver) = dns::forwarded(mapping, to, port) {
        return Ok(resolver);
    }
    if mapping.host_loopback == Some(to) {
        return Ok(loopback);
    }
    if mapping.guest_address == Some(to) {
        return Ok(own);
    }
    meaning(to)?;
    let is_refused = mapping.host_addresses.contains(&to) || to.is_metadata();
    if mapping.host_refused && is_refused && !mapping.allowed.contains(&to) {
        return Err(Refusal::DestinationNotAllowed);
    }
    Ok(to)
}

/// The guest's own loopback is no business of ours, and there is no other.
fn meaning_v4(ip: Ipv4Addr) -> Result<(), Refusal> {
    match ip.octets() {
        [127, ..] => Err(Refusal::DestinationNotAllowed),
        [0, ..] => Err(Refusal::BadDestination),
        _ => Ok(()),
    }
}

fn meaning_v6(ip: Ipv6Addr) -> Result<(), Refusal> {
    if ip.is_loopback() {
        return Err(Refusal::DestinationNotAllowed);
    }
    if ip.is_unspecified() || ip.to_ipv4_mapped().is_some() { Err(Refusal::BadDestination) } else { Ok(()) }
}

/// What both families have in common here.
trait Address: PartialEq + Copy {
    /// Whether clouds serve data of the machine there, its credentials among them.
    fn is_metadata(self) -> bool;
}

impl Address for Ipv4Addr {
    fn is_metadata(self) -> bool {
        METADATA_V4 == self
    }
}

impl Address for Ipv6Addr {
    fn is_metadata(self) -> bool {
        METADATA_V6.contains(&self)
    }
}

/// Nearly every cloud's.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whether the guest's wish for `destination`, which led to `to`, is to be refused if that is an address of the host's
/// own: the host is refused, and no rule led there.
pub fn must_be_elsewhere(settings: &Settings, destination: SocketAddr, to: SocketAddr) -> bool {
    match to.ip() {
        ip if ip != destination.ip() || is_group(settings, ip) => false,
        IpAddr::V4(ip) => {
            settings.v4.as_ref().is_some_and(|v4| v4.mapping.host_refused && !v4.mapping.allowed.contains(&ip))
        }
        IpAddr::V6(ip) => {
            settings.v6.as_ref().is_some_and(|v6| v6.mapping.host_refused && !v6.mapping.allowed.contains(&ip))
        }
    }
}

/// How sockets towards `destination`, on the host's side, are to be bound.
pub fn outbound(settings: &Settings, destination: IpAddr) -> Outbound<'_> {
    // From another address, or through another interface, nothing gets to the loopback.
    if destination.is_loopback() {
        return Outbound::default();
    }
    match destination {
        IpAddr::V4(_) => settings.v4.as_ref().map_or_else(Outbound::default, |v4| Outbound {
            address: v4.mapping.outbound_address.map(IpAddr::V4),
            interface: v4.mapping.outbound_interface.as_deref(),
        }),
        IpAddr::V6(_) => settings.v6.as_ref().map_or_else(Outbound::default, |v6| Outbound {
            address: v6.mapping.outbound_address.map(IpAddr::V6),
            interface: v6.mapping.outbound_interface.as_deref(),
        }),
    }
}

/// The two ends of a flow towards the guest, in the guest's eyes: the peer's address and the guest's.
///
/// # Errors
/// [`Refusal::BadDestination`]: the guest has no address of that family.
pub fn towards_guest(settings: &Settings, guest: &Guest, peer: IpAddr) -> Result<(IpAddr, IpAddr), Refusal> {
    match peer.to_canonical() {
        IpAddr::V4(peer) => {
            let v4 = settings.v4.as_ref().ok_or(Refusal::BadDestination)?;
            let seen = if peer.is_loopback() || peer.is_unspecified() {
                v4.mapping.host_loopback.unwrap_or(v4.ours)
            } else if peer == v4.address.addr() || peer == guest.v4 {
                v4.mapping.guest_address.unwrap_or(v4.ours)
            } else {
                peer
            };
            Ok((seen.into(), guest.v4.into()))
        }
        IpAddr::V6(peer) => {
            let v6 = settings.v6.as_ref().ok_or(Refusal::BadDestination)?;
            let seen = if peer.is_loopback() || peer.is_unspecified() {
                v6.mapping.host_loopback.unwrap_or(v6.link_local)
            } else if peer == v6.address || peer == guest.v6 {
                v6.mapping.guest_address.unwrap_or(v6.link_local)
            } else {
                peer
            };
            let own = if seen.is_unicast_link_local() { guest.v6_link_local } else { Some(guest.v6) };
            Ok((seen.into(), own.unwrap_or(guest.v6).into()))
        }
    }
}

/// Whether an address is the pod's.
pub(crate) fn is_of_host(settings: &Settings, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => settings
            .v4
            .as_ref()
            .is_some_and(|v4| ip.is_loopback() || v4.address.addr() == ip || v4.mapping.host_addresses.contains(&ip)),
        IpAddr::V6(ip) => settings
            .v6
            .as_ref()
            .is_some_and(|v6| ip.is_loopback() || v6.address == ip || v6.mapping.host_addresses.contains(&ip)),
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests;
