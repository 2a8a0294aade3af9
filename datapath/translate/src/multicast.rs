//! Multicast groups that the guest listens to: its reports (IGMP: RFC 1112, 2236, 3376; MLD: RFC 2710, 3810) become
//! memberships of ours, so that what is sent to a group reaches forwarded UDP ports.
//!
//! Filters of sources are not looked at. As many groups of each family as one socket may join; one more ends that which
//! was reported longest ago. Nothing is asked: groups end when the guest says so. Called by the translator with IGMP
//! packets and ICMPv6 messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use culvert_frame::MacAddress;

use crate::context::Context;
use crate::head::{ICMPV6, IGMP};
use crate::icmp_error::with_checksum;
use crate::link::GuestLink;
use crate::packet::{IpPacket, internet_checksum};
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::sockets::datagram::DatagramSockets;

/// The groups that the guest listens to.
#[derive(Debug, Default)]
pub struct Groups {
    /// The one that was reported last is the last.
    v4: ArrayVec<IpAddr, MAX_GROUPS>,
    v6: ArrayVec<IpAddr, MAX_GROUPS>,
}

/// Fewer than net.ipv4.igmp_max_memberships, which is 20.
const MAX_GROUPS: usize = 16;

impl Groups {
    /// An IGMP packet of the guest's, or an ICMPv6 one. Whether it was about groups: others are for [`crate::icmp`].
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ip: &IpPacket<'_>,
    ) -> Result<bool, Refusal> {
        let kind = ip.payload.first_bytes().first().copied().ok_or(Refusal::Truncated)?;
        let is_ours = match (ip.protocol, ip.source) {
            (IGMP, IpAddr::V4(_)) => true,
            (ICMPV6, IpAddr::V6(_)) => matches!(kind, MLD_REPORT | MLD_DONE | MLD2_REPORT),
            _ => false,
        };
        if !is_ours {
            return Ok(false);
        }
        let Context { scratch, sockets, settings, .. } = ctx;
        let length = ip.payload.copy_to(scratch);
        let message = scratch.get(..length).unwrap_or_default();
        check(ip, message)?;
        for_each_report(message, ip.source.is_ipv6(), |group, is_joined| {
            self.report(*sockets, settings, group, is_joined)
        })?;
        Ok(true)
    }

    /// Whether the guest listens to `group`, or all do.
    pub fn contains(&self, group: IpAddr) -> bool {
        is_for_all(group) || self.v4.contains(&group) || self.v6.contains(&group)
    }

    /// All of them.
    pub fn all(&self) -> Vec<IpAddr> {
        self.v4.iter().chain(&self.v6).copied().collect()
    }

    /// The groups of a guest that comes here from another machine. Those that cannot be joined are left out: the guest reports
    /// them again when it is asked.
    pub fn load<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, groups: &[IpAddr]) {
        for &group in groups {
            if let Err(refusal) = self.report(ctx.sockets, ctx.settings, group, true) {
                tracing::debug!(%group, %refusal, "a group of the guest's cannot be joined here");
            }
        }
    }

    /// The guest has gone elsewhere.
    pub fn forget_all<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        for group in self.v4.drain(..).chain(self.v6.drain(..)) {
            ctx.sockets.leave(group, interface(ctx.settings, group));
        }
    }

    /// As if the guest had said so.
    #[cfg(test)]
    pub(crate) fn listen_to(&mut self, group: IpAddr) {
        if group.is_ipv4() { self.v4.push(group) } else { self.v6.push(group) }
    }

    fn report(
        &mut self,
        sockets: &mut impl DatagramSockets,
        settings: &Settings,
        group: IpAddr,
        is_joined: bool,
    ) -> Result<(), Refusal> {
        let has_family = if group.is_ipv4() { settings.v4.is_some() } else { settings.v6.is_some() };
        if !group.is_multicast() || !has_family {
            return Err(Refusal::BadDestination);
        }
        if is_for_all(group) || is_solicited_node(group) {
            return Ok(());
        }
        let groups = if group.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let place = groups.iter().position(|&other| other == group);
        let interface = interface(settings, group);
        match (place, is_joined) {
            (None, false) => {}
            (Some(place), false) => {
                groups.remove(place);
                sockets.leave(group, interface);
            }
            (Some(place), true) => {
                groups.remove(place);
                groups.push(group);
            }
            (None, true) => {
                if groups.is_full()
                    && let Some(oldest) = groups.pop_at(0)
                {
                    sockets.leave(oldest, interface);
                }
                sockets.join(group, interface).map_err(|_| Refusal::SocketError)?;
                groups.push(group);
            }
        }
        Ok(())
    }
}

/// Lengths and checksum (RFC 2236, section 2.3; RFC 2710, section 3.3).
fn check(ip: &IpPacket<'_>, message: &[u8]) -> Result<(), Refusal> {
    let (header, rest) = message.split_first_chunk::<8>().ok_or(Refusal::Truncated)?;
    let is_right = match ip.source {
        IpAddr::V4(_) => internet_checksum(message) == 0,
        IpAddr::V6(_) => with_checksum(ip.source, ip.destination, *header, rest) == *header,
    };
    if is_right { Ok(()) } else { Err(Refusal::Malformed) }
}

/// Calls `each` with the groups of a report, and whether the guest listens to each from now on. The header was checked.
fn for_each_report(
    message: &[u8],
    v6: bool,
    mut each: impl FnMut(IpAddr, bool) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (header, rest) = message.split_first_chunk::<8>().ok_or(Refusal::Truncated)?;
    let &[kind, _, _, _, g0, g1, g2, g3] = header;
    match (v6, kind) {
        (false, IGMP_REPORT | IGMP2_REPORT) => each(Ipv4Addr::new(g0, g1, g2, g3).into(), true),
        (false, IGMP2_LEAVE) => each(Ipv4Addr::new(g0, g1, g2, g3).into(), false),
        (true, MLD_REPORT | MLD_DONE) => {
            let group: [u8; 16] = rest.first_chunk().copied().ok_or(Refusal::Truncated)?;
            each(Ipv6Addr::from(group).into(), kind == MLD_REPORT)
        }
        (false, IGMP3_REPORT) | (true, MLD2_REPORT) => {
            let mut records = rest;
            for _ in 0..u16::from_be_bytes([g2, g3]) {
                let (group, is_joined, behind) = record(records, v6).ok_or(Refusal::Truncated)?;
                each(group, is_joined)?;
                records = behind;
            }
            Ok(())
        }
        // Queries: we are no listener.
        _ => Err(Refusal::BadRequest),
    }
}

/// A group record (RFC 3376, section 4.2.4; RFC 3810, section 5.2.4): the group, whether anything of it is listened to,
/// and what follows.
fn record(bytes: &[u8], v6: bool) -> Option<(IpAddr, bool, &[u8])> {
    let (&[kind, auxiliary_words, n0, n1], rest) = bytes.split_first_chunk()?;
    let (group, rest, address_bytes) = if v6 {
        let (group, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::from(*group), rest, 16)
    } else {
        let (group, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::from(*group), rest, 4)
    };
    let sources = usize::from(u16::from_be_bytes([n0, n1]));
    let behind = rest.get(sources * address_bytes + usize::from(auxiliary_words) * 4..)?;
    // All but some sources, or some sources. "No more of these" leaves others.
    let is_joined = matches!(kind, IS_EXCLUDE | TO_EXCLUDE | BLOCK) || sources > 0;
    Some((group, is_joined, behind))
}

/// Whether what is sent there goes to several, or to whoever is there: multicast, or a broadcast.
pub(crate) fn is_group(settings: &Settings, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let net = settings.v4.as_ref().map(|v4| v4.address).filter(|net| net.prefix_len() < 31);
            ip.is_multicast() || ip.is_broadcast() || net.is_some_and(|net| net.broadcast() == ip)
        }
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

/// Where frames for a group go (RFC 1112, section 6.4; RFC 2464, section 7).
pub(crate) fn group_mac(group: IpAddr) -> MacAddress {
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V4(_) => MacAddress::BROADCAST,
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            MacAddress([0x33, 0x33, a, b, c, d])
        }
    }
}

/// Groups that every host is in.
fn is_for_all(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
        // Of the interface, or of the link.
        IpAddr::V6(group) => matches!(group.segments(), [0xff01 | 0xff02, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// Groups of neighbour discovery, which reach nobody through sockets.
fn is_solicited_node(group: IpAddr) -> bool {
    matches!(group, IpAddr::V6(group) if matches!(group.segments(), [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _]))
}

/// Where groups are joined; 0 leaves it to the kernel's routes.
fn interface(settings: &Settings, group: IpAddr) -> u32 {
    if group.is_ipv4() { 0 } else { settings.v6.as_ref().map_or(0, |v6| v6.interface_index) }
}

const IGMP_REPORT: u8 = 0x12;
const IGMP2_REPORT: u8 = 0x16;
const IGMP2_LEAVE: u8 = 0x17;
const IGMP3_REPORT: u8 = 0x22;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;
/// Kinds of records.
const IS_EXCLUDE: u8 = 2;
const TO_EXCLUDE: u8 = 4;
const BLOCK: u8 = 6;

#[cfg(test)]
mod tests;
