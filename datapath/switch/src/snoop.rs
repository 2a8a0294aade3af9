//! What a frame says about multicast groups: IGMPv1 to v3 (RFC 2236, RFC 3376), MLDv1 and v2 (RFC 2710, RFC 3810), and
//! the other signs of a multicast router (PIM hello, RFC 7761; router discovery, RFC 4286).
//!
//! Only reads; [`groups`](crate::groups) keeps what was said. A message counts when a host or router would accept it:
//! from the link itself (hop limit 1; IPv6 from a link-local address), whole, and with a right checksum. `forward` calls
//! [`is_message`] for each frame to an IP group, and [`parse`] for the few where it holds.

use std::net::IpAddr;
use std::time::Duration;

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
    /// The group that is asked for, where all listeners of that group will answer; `None` for general queries, and for
    /// those that some listeners may not answer.
    pub group: Option<IpAddr>,
    /// Within which time hosts answer.
    pub max_response: Duration,
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
    let _ = head;
    false
}

/// Reads a message about groups; `None` for any other frame and for messages that hosts and routers ignore. `bytes` are the
/// frame's first ones, with VLAN tags: the head will do, but reports of several IPv6 groups are longer, and what of them is
/// not in `bytes` makes them reports of [everything](Report::everything). `length` is that of the whole frame.
pub fn parse(bytes: &[u8], length: u32) -> Option<Snooped> {
    let _ = (bytes, length);
    None
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
    /// The groups, in the order of the report.
    pub fn records(&self) -> &[Record] {
        self.records.get(..usize::from(self.count)).unwrap_or_default()
    }
}
