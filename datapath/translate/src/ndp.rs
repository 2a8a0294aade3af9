//! Neighbour discovery (RFC 4861): we are every IPv6 host but the guest, and its router.
//!
//! - A neighbour solicitation is answered with our own MAC address, whatever the address asked for: all hosts are
//!   behind us. Duplicate address detection (RFC 4862, section 5.4) is never answered: a guest may have any address.
//! - A router solicitation is answered with a router advertisement, and some are sent unasked. They tell of a prefix of
//!   64 bits, of DHCPv6, the MTU, resolvers and search domains (RFC 8106), all of them for ever.
//! - Advertisements and redirects of the guest's are not read.
//!
//! Called by the translator with each ICMPv6 frame, before echo requests are looked for, and by a timer.

use std::net::Ipv6Addr;
use std::time::Duration;

use culvert_frame::MacAddress;
use etherparse::{Icmpv6Slice, NetSlice, TransportSlice};

use crate::domain_name;
use crate::guest::Guest;
use crate::reply::{self, Link};
use crate::settings::{Ipv6, Settings};
use crate::time::Instant;

/// The reply to a neighbour or router solicitation of the guest's, both from the Ethernet header on; `None` where there
/// is none.
pub fn answer(settings: &Settings, guest: &Guest, frame: &[u8]) -> Option<Vec<u8>> {
    let v6 = settings.v6.as_ref().filter(|_| settings.services.ndp)?;
    let (mac, packet) = reply::read(frame)?;
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) = (packet.net, packet.transport) else {
        return None;
    };
    let source = ip.header().source_addr();
    // RFC 4861, sections 6.1.1 and 7.1.1: from this link only.
    if ip.header().hop_limit() != 255 || message.code_u8() != 0 || source.is_multicast() || source.is_loopback() {
        return None;
    }
    let link = Link { source: settings.mac, destination: mac };
    match message.type_u8() {
        NEIGHBOUR_SOLICITATION => {
            let target = target(&message)?;
            let guests_own = target == v6.address || target == guest.v6 || Some(target) == guest.v6_link_local;
            if source.is_unspecified() || target.is_multicast() || target.is_unspecified() || guests_own {
                return None;
            }
            neighbour_advertisement(link, source, target)
        }
        ROUTER_SOLICITATION if settings.services.ra => {
            options_are_whole(message.payload())?;
            if source.is_unspecified() {
                return router_advertisement(link, v6, (settings, guest), ALL_NODES);
            }
            router_advertisement(link, v6, (settings, guest), source)
        }
        _ => None,
    }
}

/// The question that is asked when a guest connects, a whole frame: who has the address that it uses or was assigned?
/// `None` where there is no IPv6, or no address that might be asked for.
pub fn solicitation(settings: &Settings, guest: &Guest) -> Option<Vec<u8>> {
    let v6 = settings.v6.as_ref().filter(|_| settings.services.ndp)?;
    let target = if guest.v6.is_unspecified() { guest.v6_link_local? } else { guest.v6 };
    let group = solicited_node(target);
    let link = Link { source: settings.mac, destination: guest.mac.unwrap_or_else(|| reply::multicast_mac(group)) };
    let mut body = target.octets().to_vec();
    put_link_layer_address(&mut body, SOURCE_LINK_LAYER_ADDRESS, settings.mac);
    reply::neighbour_discovery(link, v6.link_local, group, NEIGHBOUR_SOLICITATION, [0; 4], &body)
}

/// Sends router advertisements that nobody asked for (RFC 4861, section 6.2.4).
#[derive(Clone, Debug)]
pub struct Advertiser {
    deadline: Instant,
    random: u64,
}

impl Advertiser {
    /// The first is due at once. `seed` is any number, best a random one: it spreads the times.
    pub fn new(now: Instant, seed: u64) -> Self {
        Self { deadline: now, random: seed }
    }

    /// When [`Self::poll`] is to be called.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The advertisement that is due, a whole frame; `None` when none is due yet, or none is ever sent.
    pub fn poll(&mut self, now: Instant, settings: &Settings, guest: &Guest) -> Option<Vec<u8>> {
        if now < self.deadline {
            return None;
        }
        self.deadline = now + self.interval();
        let v6 = settings.v6.as_ref().filter(|_| settings.services.ndp && settings.services.ra)?;
        let destination = guest.mac.unwrap_or_else(|| reply::multicast_mac(ALL_NODES));
        router_advertisement(Link { source: settings.mac, destination }, v6, (settings, guest), ALL_NODES)
    }

    /// From MinRtrAdvInterval to MaxRtrAdvInterval (RFC 4861, section 6.2.1), evenly spread.
    fn interval(&mut self) -> Duration {
        // SplitMix64: any seed will do.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let span = MAX_INTERVAL_MS - MIN_INTERVAL_MS + 1;
        Duration::from_millis(MIN_INTERVAL_MS + (mixed ^ (mixed >> 31)) % span)
    }
}

/// The target of a neighbour solicitation, which has options or none behind it.
fn target(message: &Icmpv6Slice<'_>) -> Option<Ipv6Addr> {
    let (target, options) = message.payload().split_first_chunk::<16>()?;
    options_are_whole(options)?;
    Some(Ipv6Addr::from(*target))
}

/// `None` unless options fill `bytes` exactly, none of them empty (RFC 4861, section 4.6).
fn options_are_whole(mut bytes: &[u8]) -> Option<()> {
    while let [_, rest @ ..] = bytes {
        let length = usize::from(*rest.first()?) * 8;
        if length == 0 {
            return None;
        }
        bytes = bytes.get(length..)?;
    }
    Some(())
}

/// RFC 4861, section 4.4: from a router, asked for, takes the place of what was known.
fn neighbour_advertisement(link: Link, destination: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
    let mut body = target.octets().to_vec();
    put_link_layer_address(&mut body, TARGET_LINK_LAYER_ADDRESS, link.source);
    reply::neighbour_discovery(link, target, destination, NEIGHBOUR_ADVERTISEMENT, [0xe0, 0, 0, 0], &body)
}

/// RFC 4861, section 4.2.
fn router_advertisement(
    link: Link,
    v6: &Ipv6,
    (settings, guest): (&Settings, &Guest),
    destination: Ipv6Addr,
) -> Option<Vec<u8>> {
    let managed = settings.services.dhcpv6 && !v6.address.is_unspecified();
    let [lifetime_high, lifetime_low] = ROUTER_LIFETIME_S.to_be_bytes();
    let flags = if managed { 0x80 } else { 0 };
    // Reachable time and retransmission timer: unspecified.
    let mut body = vec![0; 8];
    if !v6.address.is_unspecified() {
        put_prefix(&mut body, v6.address);
    }
    if let Some(mtu) = guest.mtu(settings) {
        // Section 4.6.4.
        body.extend([MTU, 1, 0, 0]);
        body.extend(u32::from(mtu).to_be_bytes());
    }
    if settings.services.dhcp_dns {
        put_resolvers(&mut body, &v6.resolvers);
    }
    if settings.services.dhcp_search {
        put_search(&mut body, &settings.search);
    }
    put_link_layer_address(&mut body, SOURCE_LINK_LAYER_ADDRESS, settings.mac);
    let rest = [HOP_LIMIT, flags, lifetime_high, lifetime_low];
    reply::neighbour_discovery(link, v6.link_local, destination, ROUTER_ADVERTISEMENT, rest, &body)
}

/// RFC 4861, section 4.6.1.
fn put_link_layer_address(body: &mut Vec<u8>, option: u8, mac: MacAddress) {
    body.extend([option, 1]);
    body.extend(mac.0);
}

/// RFC 4861, section 4.6.2: the 64 bits around an address, on the link (L) and for own addresses (A), for ever.
fn put_prefix(body: &mut Vec<u8>, address: Ipv6Addr) {
    body.extend([PREFIX_INFORMATION, 4, 64, 0xc0]);
    body.extend(FOR_EVER.to_be_bytes());
    body.extend(FOR_EVER.to_be_bytes());
    body.extend([0; 4]);
    let [a, b, c, d, ..] = address.segments();
    body.extend(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).octets());
}

/// RFC 8106, section 5.1.
fn put_resolvers(body: &mut Vec<u8>, resolvers: &[Ipv6Addr]) {
    let resolvers = resolvers.get(..MAX_RESOLVERS).unwrap_or(resolvers);
    let Some(length) = u8::try_from(1 + 2 * resolvers.len()).ok().filter(|_| !resolvers.is_empty()) else { return };
    body.extend([RDNSS, length, 0, 0]);
    body.extend(FOR_EVER.to_be_bytes());
    body.extend(resolvers.iter().flat_map(Ipv6Addr::octets));
}

/// RFC 8106, section 5.2: whole names, filled up with zeros to a multiple of eight bytes.
fn put_search(body: &mut Vec<u8>, domains: &[String]) {
    let mut names = Vec::new();
    for name in domains.iter().filter_map(|domain| domain_name::encode(domain)) {
        if names.len() + name.len() > MAX_SEARCH_BYTES {
            break;
        }
        names.extend(name);
    }
    names.resize(names.len().next_multiple_of(8), 0);
    let Some(length) = u8::try_from(1 + names.len() / 8).ok().filter(|_| !names.is_empty()) else { return };
    body.extend([DNSSL, length, 0, 0]);
    body.extend(FOR_EVER.to_be_bytes());
    body.extend(names);
}

/// RFC 4291, section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 4291, section 2.7.1.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Types of ICMPv6 messages.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Types of options.
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// What guests put into packets.
const HOP_LIMIT: u8 = 255;

/// The longest there is (RFC 8319, section 4).
const ROUTER_LIFETIME_S: u16 = 65_535;

/// A lifetime in seconds.
const FOR_EVER: u32 = u32::MAX;

const MIN_INTERVAL_MS: u64 = 200_000;
const MAX_INTERVAL_MS: u64 = 600_000;

/// The advertisement stays below the least MTU of IPv6, 1,280 bytes, with these.
const MAX_RESOLVERS: usize = 16;
const MAX_SEARCH_BYTES: usize = 512;

#[cfg(test)]
mod tests;
