//! What a frame says about multicast groups: IGMPv1 to v3 (RFC 2236, RFC 3376), MLDv1 and v2 (RFC 2710, RFC 3810), and
//! the other signs of a multicast router (PIM hello, RFC 7761; router discovery, RFC 4286).
//!
//! Only reads; [`groups`](crate::groups) keeps what was said. It must never believe a question that hosts do not answer,
//! or they would lose their groups. So a message counts only when all of them would take it: from the link itself (hop
//! limit 1; IPv6 from a link-local address), to the right group by IP and by Ethernet, with a router alert, whole, and
//! with a right checksum. `forward` calls [`is_message`] for each frame to a group, and [`parse`] where it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_frame::MacAddress;
use culvert_frame::checksum::Sum;

use crate::groups::is_always_flooded;
use crate::ip::{self, Content, Packet};

/// Of which IP version a message or a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, IGMP.
    Ipv4,
    /// IPv6, MLD.
    Ipv6,
}

/// A message about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snooped {
    /// A querier is behind the port: it asks who listens. Is to reach everybody.
    Query(Query),
    /// A host says what it listens to. Is to reach routers only: hosts that hear others keep silent themselves.
    Report(Report),
    /// A multicast router is behind the port, querier or not. Is to reach everybody.
    Router(Family),
}

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Whether it is IGMP or MLD.
    pub family: Family,
    /// What is asked.
    pub question: Question,
    /// Within which time hosts answer.
    pub max_response: Duration,
}

/// What a query asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Every listener to answer.
    General,
    /// Every listener of this group to answer.
    Group(IpAddr),
    /// Something that a listener need not answer (for certain sources), or that others are not to act upon.
    Other,
}

/// What a host reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether it is IGMP or MLD.
    pub family: Family,
    /// Whether it reports more than could be read or has room here: the port is to have all groups for a while.
    pub everything: bool,
    count: u8,
    records: [Record; MAX_RECORDS],
}

/// One group of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The group.
    pub group: IpAddr,
    /// Whether the host listens to it, from whatever sources; it left otherwise.
    pub listens: bool,
}

/// Groups that a report has room for, those that are always flooded not counted.
pub const MAX_RECORDS: usize = 8;

/// Whether a frame is likely to be a message about groups; cheap. `head` is its first bytes, with VLAN tags.
#[inline]
pub fn is_message(head: &[u8]) -> bool {
    matches!(head, [0x01, 0x00, 0x5e, ..] | [0x33, 0x33, ..])
        && match ip::behind_tags(head) {
            Some((ip::IPV4, packet)) => matches!(packet.get(9), Some(&ip::IGMP | &ip::PIM)),
            Some((ip::IPV6, packet)) => matches!(packet.get(6), Some(&ip::HOP_BY_HOP | &ip::PIM)),
            _ => false,
        }
}

/// Reads a message about groups; `None` for any other frame and for messages that hosts or routers ignore. `bytes` are the
/// frame's first ones, with VLAN tags: the head will do, but reports of several IPv6 groups are longer, and what of them is
/// not in `bytes` makes them reports of [everything](Report::everything). `length` is that of the whole frame.
pub fn parse(bytes: &[u8], length: u32) -> Option<Snooped> {
    if !is_message(bytes) {
        return None;
    }
    let (ether_type, behind) = ip::behind_tags(bytes)?;
    let packet = Packet::parse(ether_type, behind)?;
    let Content::Message { protocol, bytes: text, whole, fragmented: false } = packet.content else { return None };
    let is_truncated = u32::try_from(bytes.len()).is_ok_and(|at_hand| at_hand >= length);
    let message = Message { packet: &packet, protocol, text, whole };
    if packet.hop_limit != 1
        || !bytes.starts_with(&group_mac(packet.destination)?.0)
        || (whole && !message.checksum_is_right())
        || (!whole && is_truncated)
    {
        return None;
    }
    match (protocol, packet.source) {
        (ip::IGMP, IpAddr::V4(_)) => message.igmp(),
        (ip::ICMPV6, IpAddr::V6(source)) => message.mld(source),
        (ip::PIM, _) => message.pim(),
        _ => None,
    }
}

/// The Ethernet address of an IP group (RFC 1112, 6.4; RFC 2464, 7); `None` for an address that is no group.
pub fn group_mac(group: IpAddr) -> Option<MacAddress> {
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some(MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            Some(MacAddress([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

impl Snooped {
    /// Whether it is IGMP or MLD.
    pub const fn family(&self) -> Family {
        match self {
            Self::Query(query) => query.family,
            Self::Report(report) => report.family,
            Self::Router(family) => *family,
        }
    }
}

impl Report {
    /// The groups, in the order of the report, without those that are always flooded.
    pub fn records(&self) -> &[Record] {
        self.records.get(..usize::from(self.count)).unwrap_or_default()
    }

    const fn new(family: Family) -> Self {
        const NONE: Record = Record { group: IpAddr::V4(Ipv4Addr::UNSPECIFIED), listens: false };
        Self { family, everything: false, count: 0, records: [NONE; MAX_RECORDS] }
    }

    /// A report in which `listens` to `group` is all. `None` for an address that is no group.
    fn of_one(family: Family, group: IpAddr, listens: bool) -> Option<Snooped> {
        let mut report = Self::new(family);
        report.add(group, listens)?;
        Some(Snooped::Report(report))
    }

    /// `None` for an address that is no group.
    fn add(&mut self, group: IpAddr, listens: bool) -> Option<()> {
        if is_always_flooded(group_mac(group)?) {
            return Some(());
        }
        match self.records.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = Record { group, listens };
                self.count += 1;
            }
            None => self.everything |= listens,
        }
        Some(())
    }
}

/// A message of any of the three protocols.
struct Message<'a> {
    packet: &'a Packet<'a>,
    protocol: u8,
    text: &'a [u8],
    whole: bool,
}

impl Message<'_> {
    /// RFC 1071; IPv6's has a pseudo header before it (RFC 8200, 8.1).
    fn checksum_is_right(&self) -> bool {
        let mut sum = Sum::default();
        if let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.packet.source, self.packet.destination) {
            sum.add(&source.octets());
            sum.add(&destination.octets());
            sum.add(&u32::try_from(self.text.len()).unwrap_or(0).to_be_bytes());
            sum.add(&u32::from(self.protocol).to_be_bytes());
        }
        sum.add(self.text);
        sum.checksum() == 0
    }

    fn is_to(&self, group: impl Into<IpAddr>) -> bool {
        self.packet.destination == group.into()
    }

    fn igmp(&self) -> Option<Snooped> {
        let &[kind, code, _, _, fixed @ ..] = self.text.first_chunk::<8>()?;
        let group = Ipv4Addr::from(fixed);
        match kind {
            0x11 => self.igmp_query(code, group),
            // RFC 2236, 2.1: version 1 and 2 report to the group itself.
            0x12 | 0x16 if self.whole && self.is_to(group) => Report::of_one(Family::Ipv4, group.into(), true),
            0x17 if self.whole && self.is_to(Ipv4Addr::new(224, 0, 0, 2)) => {
                Report::of_one(Family::Ipv4, group.into(), false)
            }
            0x22 if self.is_to(Ipv4Addr::new(224, 0, 0, 22)) => {
                let [_, _, high, low] = fixed;
                self.records(Family::Ipv4, u16::from_be_bytes([high, low]))
            }
            // RFC 4286, 3.2.
            0x30 if self.whole && self.is_to(Ipv4Addr::new(224, 0, 0, 106)) => Some(Snooped::Router(Family::Ipv4)),
            _ => None,
        }
    }

    /// RFC 3376, 4.1 and 7.1. Version 1 knows no router alert and no time to answer, which is 10 s.
    fn igmp_query(&self, code: u8, group: Ipv4Addr) -> Option<Snooped> {
        let detail = match (self.text.len(), code) {
            _ if !self.whole => return None,
            (8, 0) => Detail::NONE,
            _ if !self.packet.router_alert => return None,
            (8, _) => Detail::NONE,
            _ => Detail::parse(self.text.get(8..)?, 4)?,
        };
        let tenths = match u64::from(code) {
            0 if self.text.len() == 8 => 100,
            code @ ..128 => code,
            code => ((code & 0x0f) | 0x10) << (((code >> 4) & 7) + 3),
        };
        let max_response = Duration::from_millis(tenths * 100);
        self.query(Family::Ipv4, group.into(), Ipv4Addr::new(224, 0, 0, 1).into(), detail, max_response)
    }

    fn mld(&self, source: Ipv6Addr) -> Option<Snooped> {
        let &[kind, _, _, _, code0, code1, high, low] = self.text.first_chunk::<8>()?;
        // RFC 3810, 5.1.14 and 5.2.13: hosts that have no address yet report nevertheless.
        let sender_is_right =
            source.is_unicast_link_local() || (source.is_unspecified() && matches!(kind, 131 | 132 | 143));
        if !self.packet.router_alert || !sender_is_right {
            return None;
        }
        let group = || Some(Ipv6Addr::from(*self.text.get(8..)?.first_chunk::<16>()?));
        match kind {
            130 => self.mld_query(u16::from_be_bytes([code0, code1]), group()?),
            // RFC 2710, 4 and 5.
            131 if self.whole && self.is_to(group()?) => Report::of_one(Family::Ipv6, group()?.into(), true),
            132 if self.whole && self.is_to(link_scope(2)) => Report::of_one(Family::Ipv6, group()?.into(), false),
            143 if self.is_to(link_scope(0x16)) => self.records(Family::Ipv6, u16::from_be_bytes([high, low])),
            // RFC 4286, 3.2.
            151 if self.whole && self.is_to(link_scope(0x6a)) => Some(Snooped::Router(Family::Ipv6)),
            _ => None,
        }
    }

    /// RFC 3810, 5.1 and 8.1.
    fn mld_query(&self, code: u16, group: Ipv6Addr) -> Option<Snooped> {
        let is_version_1 = self.text.len() == 24;
        let detail = match self.text.get(24..)? {
            _ if !self.whole => return None,
            [] => Detail::NONE,
            version_2 => Detail::parse(version_2, 16)?,
        };
        let milliseconds = match u64::from(code) {
            code if is_version_1 || code < 0x8000 => code,
            code => ((code & 0x0fff) | 0x1000) << (((code >> 12) & 7) + 3),
        };
        let max_response = Duration::from_millis(milliseconds);
        self.query(Family::Ipv6, group.into(), link_scope(1).into(), detail, max_response)
    }

    fn query(
        &self,
        family: Family,
        group: IpAddr,
        all_hosts: IpAddr,
        detail: Detail,
        max_response: Duration,
    ) -> Option<Snooped> {
        let question = if group.is_unspecified() && self.is_to(all_hosts) && !detail.of_sources {
            Question::General
        } else if group.is_multicast() && self.is_to(group) {
            if detail.of_sources || detail.is_suppressed { Question::Other } else { Question::Group(group) }
        } else {
            return None;
        };
        Some(Snooped::Query(Query { family, question, max_response }))
    }

    /// The `count` records of a report of IGMPv3 (RFC 3376, 4.2) or MLDv2 (RFC 3810, 5.2).
    fn records(&self, family: Family, count: u16) -> Option<Snooped> {
        let mut report = Report::new(family);
        if !self.whole {
            report.everything = true;
            return Some(Snooped::Report(report));
        }
        let mut rest = self.text.get(8..)?;
        for _ in 0..count {
            let (&[kind, auxiliary_words, high, low], behind) = rest.split_first_chunk()?;
            let sources = usize::from(u16::from_be_bytes([high, low]));
            let (group, behind) = take_address(family, behind)?;
            let address_bytes = if family == Family::Ipv4 { 4 } else { 16 };
            rest = behind.get(sources * address_bytes + usize::from(auxiliary_words) * 4..)?;
            match kind {
                // The group from all sources but these, or from these.
                2 | 4 => report.add(group, true)?,
                1 | 3 | 5 if sources > 0 => report.add(group, true)?,
                // From no source at all.
                1 | 3 => report.add(group, false)?,
                // Fewer sources, or of a kind that is to be ignored.
                _ => {}
            }
        }
        Some(Snooped::Report(report))
    }

    /// A hello of version 2 (RFC 7761, 4.9.2).
    fn pim(&self) -> Option<Snooped> {
        if !self.whole || self.text.first() != Some(&0x20) {
            return None;
        }
        match self.packet.source {
            IpAddr::V4(_) if self.is_to(Ipv4Addr::new(224, 0, 0, 13)) => Some(Snooped::Router(Family::Ipv4)),
            IpAddr::V6(source) if self.is_to(link_scope(0x0d)) && source.is_unicast_link_local() => {
                Some(Snooped::Router(Family::Ipv6))
            }
            _ => None,
        }
    }
}

/// What version 3 of IGMP (RFC 3376, 4.1.5) and version 2 of MLD (RFC 3810, 5.1.7) add to a query.
#[derive(Clone, Copy)]
struct Detail {
    /// Whether certain sources are asked for: who listens to others need not answer.
    of_sources: bool,
    /// The S flag: others are not to change their timers.
    is_suppressed: bool,
}

impl Detail {
    const NONE: Self = Self { of_sources: false, is_suppressed: false };

    /// From what follows the group. `None` when it is malformed.
    fn parse(text: &[u8], address_bytes: usize) -> Option<Self> {
        let (&[flags, _, high, low], sources) = text.split_first_chunk()?;
        let count = usize::from(u16::from_be_bytes([high, low]));
        let detail = Self { of_sources: count > 0, is_suppressed: flags & 8 != 0 };
        (sources.len() >= count * address_bytes).then_some(detail)
    }
}

fn take_address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    Some(match family {
        Family::Ipv4 => bytes.split_first_chunk::<4>().map(|(address, rest)| (IpAddr::from(*address), rest))?,
        Family::Ipv6 => bytes.split_first_chunk::<16>().map(|(address, rest)| (IpAddr::from(*address), rest))?,
    })
}

const fn link_scope(group: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, group)
}
