//! Which addresses of the guest's mean others on the host's side, and the reverse.
//!
//! Outwards, in this order: DNS to the forwarded address goes to the host's resolver; the address that stands for the
//! host's loopback leads there; the one that stands for the address that the guest has taken over leads to the host's
//! own; all others stay as they are. Inwards: a peer on the host's loopback, or with the very address that the guest
//! has, must have another in the guest's eyes, or answers would never leave it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::dns;
use crate::guest::Guest;
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
            let ip = map(&v4.mapping, *to.ip(), to.port(), Ipv4Addr::LOCALHOST, own, is_meaningless_v4)?;
            Ok(SocketAddr::new(ip.into(), to.port()))
        }
        SocketAddr::V6(to) => {
            let v6 = settings.v6.as_ref().ok_or(Refusal::BadDestination)?;
            let ip = map(&v6.mapping, *to.ip(), to.port(), Ipv6Addr::LOCALHOST, v6.address, is_meaningless_v6)?;
            let link_local = ip.is_unicast_link_local() || ip.is_multicast();
            let scope = if link_local { v6.interface_index } else { 0 };
            Ok(SocketAddrV6::new(ip, to.port(), 0, scope).into())
        }
    }
}

fn map<A: PartialEq + Copy>(
    mapping: &Mapping<A>,
    to: A,
    port: u16,
    loopback: A,
    own: A,
    is_meaningless: impl Fn(A) -> bool,
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
    if is_meaningless(to) {
        return Err(Refusal::BadDestination);
    }
    if mapping.host_refused && mapping.host_addresses.contains(&to) {
        return Err(Refusal::DestinationNotAllowed);
    }
    Ok(to)
}

fn is_meaningless_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.octets()[0] == 0
}

fn is_meaningless_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || ip.to_ipv4_mapped().is_some()
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
mod tests;
