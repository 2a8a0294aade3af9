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
            code if self.text.len() == 8 || code < 0x80 => code,
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

#[cfg(test)]
pub(crate) mod build {
    //! Messages about groups, for the tests here and in `groups`.

    use super::*;
    use crate::ip::build::*;

    pub(crate) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
    pub(crate) const HOST: &str = "10.0.0.5";
    pub(crate) const HOST_V6: &str = "fe80::5";

    pub(crate) fn to_group(ether_type: u16, group: IpAddr, packet: &[u8]) -> Vec<u8> {
        ethernet(group_mac(group).unwrap().0, STATION, ether_type, packet)
    }

    pub(crate) fn igmp(destination: &str, message: &[u8]) -> Vec<u8> {
        let packet = ipv4(HOST, destination, 1, ip::IGMP, &ROUTER_ALERT, &summed(message.to_vec()));
        to_group(ip::IPV4, destination.parse().unwrap(), &packet)
    }

    pub(crate) fn mld(source: &str, destination: &str, message: &[u8]) -> Vec<u8> {
        let message = summed_v6(source, destination, ip::ICMPV6, message.to_vec());
        let packet = ipv6(source, destination, 1, ip::HOP_BY_HOP, &alerting(ip::ICMPV6, &message));
        to_group(ip::IPV6, destination.parse().unwrap(), &packet)
    }

    pub(crate) fn v4(group: &str) -> [u8; 4] {
        group.parse::<Ipv4Addr>().unwrap().octets()
    }

    pub(crate) fn v6(group: &str) -> [u8; 16] {
        group.parse::<Ipv6Addr>().unwrap().octets()
    }

    /// A query of IGMPv2.
    pub(crate) fn igmp_query(destination: &str, tenths: u8, group: &str) -> Vec<u8> {
        igmp(destination, &[&[0x11, tenths, 0, 0], &v4(group)[..]].concat())
    }

    /// A report of IGMPv2.
    pub(crate) fn igmp_report(group: &str) -> Vec<u8> {
        igmp(group, &[&[0x16, 0, 0, 0], &v4(group)[..]].concat())
    }

    /// A query of MLDv1.
    pub(crate) fn mld_query(destination: &str, milliseconds: u16, group: &str) -> Vec<u8> {
        let [high, low] = milliseconds.to_be_bytes();
        mld(HOST_V6, destination, &[&[130, 0, 0, 0, high, low, 0, 0], &v6(group)[..]].concat())
    }

    /// A report of MLDv1.
    pub(crate) fn mld_report(group: &str) -> Vec<u8> {
        mld(HOST_V6, group, &[&[131, 0, 0, 0, 0, 0, 0, 0], &v6(group)[..]].concat())
    }

    pub(crate) fn snoop(frame: &[u8]) -> Option<Snooped> {
        parse(frame, u32::try_from(frame.len()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::build::*;
    use super::*;
    use crate::ip::build::*;

    fn query(frame: &[u8]) -> Option<(Question, Duration)> {
        match snoop(frame)? {
            Snooped::Query(query) => Some((query.question, query.max_response)),
            other => panic!("{other:?}"),
        }
    }

    /// What is listened to (+) and not (-), and whether to everything.
    fn report(frame: &[u8]) -> Option<(Vec<String>, bool)> {
        match snoop(frame)? {
            Snooped::Report(report) => {
                let text = |record: &Record| format!("{}{}", if record.listens { '+' } else { '-' }, record.group);
                Some((report.records().iter().map(text).collect(), report.everything))
            }
            other => panic!("{other:?}"),
        }
    }

    fn texts(records: &[&str]) -> Option<(Vec<String>, bool)> {
        Some((records.iter().map(|&record| record.to_owned()).collect(), false))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A query of IGMPv3: RFC 3376, 4.1.
    fn query_v3(destination: &str, code: u8, group: &str, flags: u8, sources: &[&str]) -> Vec<u8> {
        let count = u8::try_from(sources.len()).unwrap();
        let fixed = [&[0x11, code, 0, 0], &v4(group)[..], &[flags, 125, 0, count]].concat();
        igmp(destination, &sources.iter().fold(fixed, |text, source| [&text[..], &v4(source)].concat()))
    }

    /// A query of MLDv2: RFC 3810, 5.1.
    fn query_v2(destination: &str, code: u16, group: &str, flags: u8, sources: &[&str]) -> Vec<u8> {
        let [high, low] = code.to_be_bytes();
        let count = u8::try_from(sources.len()).unwrap();
        let fixed = [&[130, 0, 0, 0, high, low, 0, 0], &v6(group)[..], &[flags, 125, 0, count]].concat();
        mld(HOST_V6, destination, &sources.iter().fold(fixed, |text, source| [&text[..], &v6(source)].concat()))
    }

    /// A report of IGMPv3; a record is its type, group, number of sources, and words of auxiliary data.
    fn report_v3(records: &[(u8, &str, u8, u8)]) -> Vec<u8> {
        let mut text = vec![0x22, 0, 0, 0, 0, 0, 0, u8::try_from(records.len()).unwrap()];
        for &(kind, group, sources, words) in records {
            text.extend([&[kind, words, 0, sources], &v4(group)[..]].concat());
            text.extend(vec![10; 4 * usize::from(sources + words)]);
        }
        igmp("224.0.0.22", &text)
    }

    /// The same of MLDv2.
    fn report_v2(source: &str, records: &[(u8, &str, u8, u8)]) -> Vec<u8> {
        let mut text = vec![143, 0, 0, 0, 0, 0, 0, u8::try_from(records.len()).unwrap()];
        for &(kind, group, sources, words) in records {
            text.extend([&[kind, words, 0, sources], &v6(group)[..]].concat());
            text.extend(vec![32; 16 * usize::from(sources) + 4 * usize::from(words)]);
        }
        mld(source, "ff02::16", &text)
    }

    /// Byte by byte, with padding and tags: IGMPv2, general, 10 s.
    #[test]
    fn a_whole_frame_is_read() {
        let frame: Vec<u8> = [
            "01005e000001",
            "00070e0a0b0c",
            "0800",
            "46c000200000000001024239c0a80001e0000001",
            "94040000",
            "1164ee9b00000000",
            "0000000000000000000000000000",
        ]
        .concat()
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
        assert_eq!(query(&frame), Some((Question::General, seconds(10))));
        assert_eq!(query(&tagged(&tagged(&frame, 0x8100), 0x88a8)), Some((Question::General, seconds(10))));
    }

    #[test]
    fn queries_of_all_versions() {
        let group = |text: &str| Question::Group(text.parse().unwrap());
        assert_eq!(query(&igmp_query("224.0.0.1", 0, "0.0.0.0")), Some((Question::General, seconds(10))), "version 1");
        assert_eq!(
            query(&igmp_query("224.0.0.1", 255, "0.0.0.0")),
            Some((Question::General, Duration::from_millis(25_500)))
        );
        assert_eq!(query(&igmp_query("239.1.2.3", 10, "239.1.2.3")), Some((group("239.1.2.3"), seconds(1))));
        let all = "224.0.0.1";
        assert_eq!(query(&query_v3(all, 100, "0.0.0.0", 2, &[])), Some((Question::General, seconds(10))));
        assert_eq!(query(&query_v3(all, 0, "0.0.0.0", 2, &[])), Some((Question::General, seconds(0))));
        assert_eq!(query(&query_v3(all, 100, "0.0.0.0", 8, &[])), Some((Question::General, seconds(10))), "S flag");
        assert_eq!(query(&query_v3("239.1.2.3", 10, "239.1.2.3", 0, &[])), Some((group("239.1.2.3"), seconds(1))));
        assert_eq!(query(&query_v3("239.1.2.3", 10, "239.1.2.3", 8, &[])), Some((Question::Other, seconds(1))));
        assert_eq!(
            query(&query_v3("239.1.2.3", 10, "239.1.2.3", 0, &["10.0.0.1"])),
            Some((Question::Other, seconds(1)))
        );
        // RFC 3376, 4.1.1: 0x8f is (15 | 16) << (0 + 3), 0xff is 31 << 10 tenths.
        assert_eq!(
            query(&query_v3(all, 0x8f, "0.0.0.0", 0, &[])),
            Some((Question::General, Duration::from_millis(24_800)))
        );
        assert_eq!(
            query(&query_v3(all, 0xff, "0.0.0.0", 0, &[])),
            Some((Question::General, Duration::from_millis(3_174_400)))
        );

        assert_eq!(query(&mld_query("ff02::1", 10_000, "::")), Some((Question::General, seconds(10))));
        assert_eq!(
            query(&mld_query("ff02::1", 40_000, "::")),
            Some((Question::General, seconds(40))),
            "no exponent in version 1"
        );
        assert_eq!(query(&mld_query("ff05::7", 1000, "ff05::7")), Some((group("ff05::7"), seconds(1))));
        assert_eq!(query(&query_v2("ff02::1", 10_000, "::", 2, &[])), Some((Question::General, seconds(10))));
        assert_eq!(query(&query_v2("ff05::7", 1000, "ff05::7", 0, &[])), Some((group("ff05::7"), seconds(1))));
        assert_eq!(
            query(&query_v2("ff05::7", 1000, "ff05::7", 0, &["2001:db8::1"])),
            Some((Question::Other, seconds(1)))
        );
        // RFC 3810, 5.1.3: 0x8000 is 0x1000 << 3 ms.
        assert_eq!(
            query(&query_v2("ff02::1", 0x8000, "::", 0, &[])),
            Some((Question::General, Duration::from_millis(32_768)))
        );
        assert_eq!(
            query(&query_v2("ff02::1", 0xffff, "::", 0, &[])),
            Some((Question::General, Duration::from_millis(0x1fff << 10)))
        );
    }

    /// Who does not hear a query, or does not take it for one, cannot answer and would lose its groups.
    #[test]
    fn queries_that_hosts_ignore_are_no_queries() {
        let general = query_v3("224.0.0.1", 100, "0.0.0.0", 0, &[]);
        let v2 = igmp_query("224.0.0.1", 100, "0.0.0.0");
        // To one station only.
        assert_eq!(query(&[&STATION, &general[6..]].concat()), None);
        assert_eq!(query(&[&[1, 0, 0x5e, 0, 0, 2][..], &general[6..]].concat()), None);
        // General to one group, for a group to all, for one group to another, for a station.
        assert_eq!(query(&igmp_query("239.1.2.3", 10, "0.0.0.0")), None);
        assert_eq!(query(&igmp_query("224.0.0.1", 10, "239.1.2.3")), None);
        assert_eq!(query(&igmp_query("239.1.2.3", 10, "239.1.2.4")), None);
        assert_eq!(query(&igmp_query("224.0.0.1", 10, "10.0.0.9")), None);
        assert_eq!(query(&query_v3("224.0.0.1", 100, "0.0.0.0", 0, &["10.0.0.1"])), None);
        assert_eq!(query(&mld_query("ff05::7", 10, "::")), None);
        assert_eq!(query(&mld_query("ff02::1", 10, "ff05::7")), None);
        // From afar, with a wrong sum, without a router alert, as a fragment.
        let changed = |frame: &[u8], at: usize, byte| {
            let mut frame = frame.to_vec();
            frame[at] = byte;
            query(&frame)
        };
        for frame in [&general, &v2] {
            assert!(changed(frame, 22, 1).is_some());
            assert_eq!(changed(frame, 22, 2), None, "hop limit");
            assert_eq!(changed(frame, 39, 99), None, "checksum");
            assert_eq!(changed(frame, 34, 7), None, "router alert");
            assert_eq!(changed(frame, 20, 0x20), None, "fragment");
        }
        let general = query_v2("ff02::1", 10_000, "::", 0, &[]);
        for frame in [&general, &mld_query("ff02::1", 10_000, "::")] {
            assert!(changed(frame, 21, 1).is_some());
            assert_eq!(changed(frame, 21, 255), None, "hop limit");
            assert_eq!(changed(frame, 67, 1), None, "checksum");
            assert_eq!(changed(frame, 56, 7), None, "router alert");
        }
        let from = |source| query(&mld(source, "ff02::1", &[&[130, 0, 0, 0, 0, 1, 0, 0], &v6("::")[..]].concat()));
        assert!(from(HOST_V6).is_some());
        assert_eq!(from("2001:db8::5"), None);
        assert_eq!(from("::"), None);
        // Of a length that no version has, or with more sources announced than there are.
        for more in 1..4 {
            assert_eq!(query(&igmp("224.0.0.1", &[&[0x11, 100, 0, 0, 0, 0, 0, 0], &vec![0; more][..]].concat())), None);
            let text = [&[130, 0, 0, 0, 0, 1, 0, 0], &v6("::")[..], &vec![0; more][..]].concat();
            assert_eq!(query(&mld(HOST_V6, "ff02::1", &text)), None);
        }
        assert_eq!(
            query(&igmp("239.1.2.3", &[&[0x11, 10, 0, 0], &v4("239.1.2.3")[..], &[0, 125, 0, 1]].concat())),
            None
        );
    }

    #[test]
    fn reports_of_all_versions() {
        assert_eq!(report(&igmp_report("239.1.2.3")), texts(&["+239.1.2.3"]));
        assert_eq!(report(&igmp("239.1.2.3", &[0x12, 0, 0, 0, 239, 1, 2, 3])), texts(&["+239.1.2.3"]), "version 1");
        assert_eq!(report(&igmp("224.0.0.2", &[0x17, 0, 0, 0, 239, 1, 2, 3])), texts(&["-239.1.2.3"]));
        assert_eq!(report(&mld_report("ff05::7")), texts(&["+ff05::7"]));
        let done = [&[132, 0, 0, 0, 0, 0, 0, 0], &v6("ff05::7")[..]].concat();
        assert_eq!(report(&mld(HOST_V6, "ff02::2", &done)), texts(&["-ff05::7"]));

        let records = |groups: [&'static str; 8]| {
            // All types of record (RFC 3376, 4.2.12), with sources and without; two have auxiliary data.
            [
                (1, groups[0], 1, 0),
                (2, groups[1], 0, 3),
                (3, groups[2], 0, 0),
                (3, groups[3], 2, 0),
                (4, groups[4], 0, 0),
                (5, groups[5], 1, 1),
                (6, groups[6], 1, 0),
                (9, groups[7], 0, 0),
            ]
        };
        let groups =
            ["239.1.0.1", "239.1.0.2", "239.1.0.3", "239.1.0.4", "239.1.0.5", "239.1.0.6", "239.1.0.7", "239.1.0.8"];
        let expected = ["+239.1.0.1", "+239.1.0.2", "-239.1.0.3", "+239.1.0.4", "+239.1.0.5", "+239.1.0.6"];
        assert_eq!(report(&report_v3(&records(groups))), texts(&expected));
        let groups =
            ["ff05::1:1", "ff05::1:2", "ff05::1:3", "ff05::1:4", "ff05::1:5", "ff05::1:6", "ff05::1:7", "ff05::1:8"];
        let expected = ["+ff05::1:1", "+ff05::1:2", "-ff05::1:3", "+ff05::1:4", "+ff05::1:5", "+ff05::1:6"];
        assert_eq!(report(&report_v2(HOST_V6, &records(groups))), texts(&expected));
        assert_eq!(report(&report_v2("::", &records(groups))), texts(&expected), "before it has an address");
        assert_eq!(report(&report_v2("2001:db8::5", &records(groups))), None);
        assert_eq!(report(&report_v3(&[])), texts(&[]));
        // No group at all.
        assert_eq!(report(&report_v3(&[(4, "10.0.0.9", 0, 0)])), None);
        assert_eq!(report(&report_v2(HOST_V6, &[(4, "2001:db8::9", 0, 0)])), None);
        assert_eq!(report(&igmp("224.0.0.2", &[0x17, 0, 0, 0, 10, 0, 0, 9])), None);
        // Elsewhere than reports go.
        assert_eq!(report(&igmp("224.0.0.1", &[0x16, 0, 0, 0, 239, 1, 2, 3])), None);
        assert_eq!(report(&igmp("224.0.0.1", &[0x22, 0, 0, 0, 0, 0, 0, 0])), None);
    }

    #[test]
    fn groups_that_are_always_flooded_take_no_room() {
        let groups = ["224.0.0.251", "224.0.0.1", "239.0.0.7", "239.1.2.3"];
        assert_eq!(report(&report_v3(&groups.map(|group| (4, group, 0, 0)))), texts(&["+239.1.2.3"]));
        let groups = ["ff02::1", "ff02::1:ff00:5", "ff02::1:ffab:cdef", "ff02::fb"];
        assert_eq!(report(&report_v2(HOST_V6, &groups.map(|group| (4, group, 0, 0)))), texts(&["+ff02::fb"]));
    }

    #[test]
    fn a_long_report_is_one_of_everything() {
        let groups = ["1", "2", "3", "4", "5", "6", "7", "8", "9"].map(|last| format!("239.1.2.{last}"));
        let records = |count: usize, last: u8| -> Vec<_> {
            let records = groups.iter().take(count).map(|group| (4, group.as_str(), 0, 0));
            records.chain([(last, "239.9.9.9", 0, 0)]).collect()
        };
        assert!(
            report(&report_v3(&records(7, 4))).is_some_and(|(records, everything)| records.len() == 8 && !everything)
        );
        assert!(
            report(&report_v3(&records(8, 4))).is_some_and(|(records, everything)| records.len() == 8 && everything)
        );
        // A leave for which there is no room changes nothing.
        assert!(
            report(&report_v3(&records(8, 3))).is_some_and(|(records, everything)| records.len() == 8 && !everything)
        );

        // More than the head holds.
        let frame = report_v2(HOST_V6, &["ff05::1:1", "ff05::1:2", "ff05::1:3"].map(|group| (4, group, 0, 0)));
        assert_eq!(report(&frame), texts(&["+ff05::1:1", "+ff05::1:2", "+ff05::1:3"]));
        let length = u32::try_from(frame.len()).unwrap();
        assert!(matches!(
            parse(&frame[..128], length),
            Some(Snooped::Report(Report { everything: true, count: 0, .. }))
        ));
        // The same as all of the frame: it is truncated.
        assert_eq!(report(&frame[..128]), None);
    }

    #[test]
    fn other_signs_of_a_router() {
        let routers = Some(Snooped::Router(Family::Ipv4));
        let hello = |destination: &str, first| {
            let packet =
                ipv4("10.0.0.1", destination, 1, ip::PIM, &[], &summed(vec![first, 0, 0, 0, 0, 1, 0, 2, 0, 105]));
            snoop(&to_group(ip::IPV4, destination.parse().unwrap(), &packet))
        };
        assert_eq!(hello("224.0.0.13", 0x20), routers);
        assert_eq!(hello("224.0.0.13", 0x23), None, "join or prune");
        assert_eq!(hello("224.0.0.1", 0x20), None);
        assert_eq!(snoop(&igmp("224.0.0.106", &[0x30, 20, 0, 0, 0, 125, 0, 2])), routers);
        assert_eq!(
            snoop(&mld(HOST_V6, "ff02::6a", &[151, 20, 0, 0, 0, 125, 0, 2])),
            Some(Snooped::Router(Family::Ipv6))
        );
        let hello = |source| {
            let text = summed_v6(source, "ff02::d", ip::PIM, vec![0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105]);
            snoop(&to_group(ip::IPV6, "ff02::d".parse().unwrap(), &ipv6(source, "ff02::d", 1, ip::PIM, &text)))
        };
        assert_eq!(hello(HOST_V6), Some(Snooped::Router(Family::Ipv6)));
        assert_eq!(hello("2001:db8::1"), None);
    }

    #[test]
    fn other_frames_are_not_read() {
        let group = "239.1.2.3".parse().unwrap();
        let video = to_group(ip::IPV4, group, &ipv4(HOST, "239.1.2.3", 1, ip::UDP, &[], &[0; 100]));
        assert!(!is_message(&video) && snoop(&video).is_none());
        assert!(is_message(&tagged(&igmp_report("239.1.2.3"), 0x8100)) && is_message(&mld_report("ff05::7")));
        assert!(!is_message(&ethernet(
            [0xff; 6],
            STATION,
            ip::IPV4,
            &ipv4(HOST, "255.255.255.255", 1, ip::IGMP, &[], &[0; 8])
        )));
        for frame in [igmp_report("239.1.2.3"), mld_report("ff05::7"), report_v3(&[(4, "239.1.2.3", 0, 0)])] {
            for length in 0..frame.len() {
                assert_eq!(snoop(&frame[..length]), None, "{length}");
            }
        }
        for kind in [0x10, 0x13, 0x14, 0x21, 0x23, 0x31, 0xff] {
            assert_eq!(snoop(&igmp("224.0.0.1", &[kind, 0, 0, 0, 239, 1, 2, 3])), None);
        }
        for kind in [128, 133, 134, 135, 136, 152] {
            assert_eq!(
                snoop(&mld(HOST_V6, "ff02::1", &[&[kind, 0, 0, 0, 0, 0, 0, 0], &v6("ff05::7")[..]].concat())),
                None
            );
        }
    }

    #[test]
    fn groups_have_ethernet_addresses() {
        let mac = |text: &str| group_mac(text.parse().unwrap()).map(|mac| mac.to_string());
        assert_eq!(mac("239.129.2.3").as_deref(), Some("01:00:5e:01:02:03"));
        assert_eq!(mac("ff02::1:ff12:3456").as_deref(), Some("33:33:ff:12:34:56"));
        assert_eq!(mac("10.0.0.1"), None);
        assert_eq!(mac("fe80::1"), None);
    }
}
