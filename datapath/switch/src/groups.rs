//! Which ports of a network listen to which multicast groups (RFC 4541).
//!
//! [`Groups`] is control's: it is told what was snooped, keeps the timers, and makes a [`GroupMap`], the immutable table
//! that workers look into. Nobody here sends queries: a router's or another switch's are needed.
//!
//! Theory of operation. Frames to groups are flooded until a querier is known in the VLAN, for IPv4 and IPv6 apart, and
//! all hosts have had time to answer its general query. Then they go to the group's listeners, to the ports behind which
//! queriers and routers are, and to ports that have all groups. A general query holds for 255 s, what a host reports for
//! 260 s: so hosts that a querier asked keep their groups for as long as that querier is believed, whatever it does next,
//! and a port that poses as querier gains nothing but to become a router's port, as RFC 4541 has it. (A port whose guard
//! lists addresses cannot even do that.)
//!
//! A leave by itself changes nothing, since others may listen behind the same port. The querier hears it and asks for the
//! group; who does not answer within twice the time that it grants (2 s at least), and 1 s, is no listener any more.
//!
//! A port listens to 64 groups, a network to 1024. A port that asks for more than either has all groups for 260 s: nobody
//! can take another's place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use culvert_frame::MacAddress;

use crate::port::PortId;
use crate::snoop::{Family, Query, Question, Report, Snooped, group_mac};

/// Groups that one port is noted for.
pub const PORT_GROUPS: usize = 64;

/// Groups of all VLANs of one network.
pub const NETWORK_GROUPS: usize = 1024;

/// How long a report holds: the group membership interval (RFC 3376, 8.4; RFC 3810, 9.4).
pub const MEMBER_TIME: Duration = Duration::from_secs(260);

/// How long a general query holds, and whoever sent one or another sign of a router counts as router: the other querier
/// present interval (RFC 3376, 8.5; RFC 3810, 9.5).
pub const QUERIER_TIME: Duration = Duration::from_secs(255);

/// Least time that listeners have to answer a query for their group: the last member query time (RFC 3376, 8.10; RFC 3810,
/// 9.10).
const LAST_MEMBER_TIME: Duration = Duration::from_secs(2);

/// What a message may take from a host to [`Groups`].
const SLACK: Duration = Duration::from_secs(1);

/// Who listens to what in one network, and until when. Time is an argument, since any fixed moment.
#[derive(Debug, Default)]
pub struct Groups {
    lanes: BTreeMap<(u16, Family), Lane>,
    listeners: BTreeMap<(u16, IpAddr), BTreeMap<PortId, Duration>>,
    /// To how many groups each port listens.
    held: BTreeMap<PortId, usize>,
    /// Ports that have all groups, and until when.
    everything: BTreeMap<PortId, Duration>,
}

/// What is known of one VLAN and IP version.
#[derive(Debug, Default)]
struct Lane {
    /// From when to when a general query holds: from when all have answered it.
    query: Option<(Duration, Duration)>,
    /// Whether it holds now.
    is_pruned: bool,
    /// Ports behind which a querier or router is, and until when.
    routers: BTreeMap<PortId, Duration>,
}

/// Who is to have a frame to a group; the port that it came from is not excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// Every port of the VLAN.
    FloodAll,
    /// These ports, each once, in the order of their numbers. Some may be gone or not be in the VLAN: the caller looks.
    Ports(&'a [PortId]),
}

/// A table of groups at one moment. The default one floods everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GroupMap {
    /// By VLAN and IP version; those where all is flooded are not in it.
    lanes: Box<[MapLane]>,
    /// By [`group_key`]: listeners and whoever has all groups.
    groups: Box<[(u64, Box<[PortId]>)]>,
}

#[derive(Debug, PartialEq, Eq)]
struct MapLane {
    key: (u16, Family),
    routers: Box<[PortId]>,
    /// Who has the groups to which nobody listens, too.
    all_groups: Box<[PortId]>,
}

impl Groups {
    /// Takes note of a message that came from `port` in `vlan` (0: without VLANs). Whether the map has changed: then a new
    /// [`Self::snapshot`] is due, soon; one for the changes of some 100 ms will do.
    ///
    /// Only messages that were forwarded are to be told. Queries of a port whose frames do not reach all others (an
    /// isolated one) must not be: who does not hear the question cannot answer, and would lose its groups.
    pub fn apply(&mut self, vlan: u16, port: PortId, snooped: &Snooped, now: Duration) -> bool {
        match snooped {
            Snooped::Query(query) => self.query(vlan, port, query, now),
            Snooped::Report(report) => self.report(vlan, port, report, now),
            Snooped::Router(family) => self.router(vlan, port, *family, now),
        }
    }

    /// A guest or link has come up at `port`: it has all groups until it had time to answer a query. Whether the map has
    /// changed.
    pub fn welcome(&mut self, port: PortId, now: Duration) -> bool {
        self.everything.insert(port, now + MEMBER_TIME).is_none()
    }

    /// Forgets what is past its time; to be called once a second. Whether the map has changed.
    pub fn expire(&mut self, now: Duration) -> bool {
        let mut changed = expire(&mut self.everything, now);
        for ports in self.listeners.values_mut() {
            changed |= expire(ports, now);
        }
        for lane in self.lanes.values_mut() {
            changed |= expire(&mut lane.routers, now);
            changed |= lane.update(now);
        }
        self.tidy(changed)
    }

    /// Forgets a port that is gone. Whether the map has changed.
    pub fn forget(&mut self, port: PortId) -> bool {
        let mut changed = self.everything.remove(&port).is_some();
        for ports in self.listeners.values_mut() {
            changed |= ports.remove(&port).is_some();
        }
        for lane in self.lanes.values_mut() {
            if lane.routers.remove(&port).is_some() {
                changed = true;
                // Whoever is left may be no querier.
                lane.query = None;
                lane.is_pruned = false;
            }
        }
        self.tidy(changed)
    }

    /// The table as of the last call.
    pub fn snapshot(&self) -> GroupMap {
        let pruned = self.lanes.iter().filter(|(_, lane)| lane.is_pruned);
        let lanes: Box<[_]> = pruned
            .map(|(&key, lane)| MapLane {
                key,
                routers: lane.routers.keys().copied().collect(),
                all_groups: lane
                    .routers
                    .keys()
                    .chain(self.everything.keys())
                    .copied()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
            })
            .collect();
        let mut groups: BTreeMap<u64, BTreeSet<PortId>> = BTreeMap::new();
        for (&(vlan, group), ports) in &self.listeners {
            let lane = find(&lanes, (vlan, family(group)));
            let (Some(lane), Some(address)) = (lane, group_mac(group)) else { continue };
            let together = groups.entry(group_key(vlan, address)).or_default();
            together.extend(lane.all_groups.iter().chain(ports.keys()));
        }
        let groups = groups.into_iter().map(|(key, ports)| (key, ports.into_iter().collect())).collect();
        GroupMap { lanes, groups }
    }

    fn query(&mut self, vlan: u16, port: PortId, query: &Query, now: Duration) -> bool {
        let changed = self.router(vlan, port, query.family, now);
        match query.question {
            Question::General => {
                let answered = now + query.max_response + SLACK;
                let lane = self.lanes.entry((vlan, query.family)).or_default();
                // Where the last query holds until this one is answered, nothing changes in between.
                let from = match lane.query {
                    Some((from, until)) if answered <= until => from,
                    _ => answered,
                };
                lane.query = Some((from, now + QUERIER_TIME));
                lane.update(now) || changed
            }
            Question::Group(group) => {
                let answered = now + (query.max_response * 2).max(LAST_MEMBER_TIME) + SLACK;
                let ports = self.listeners.get_mut(&(vlan, group));
                ports.into_iter().flat_map(BTreeMap::values_mut).for_each(|until| *until = answered.min(*until));
                changed
            }
            Question::Other => changed,
        }
    }

    fn router(&mut self, vlan: u16, port: PortId, family: Family, now: Duration) -> bool {
        let lane = self.lanes.entry((vlan, family)).or_default();
        lane.routers.insert(port, now + QUERIER_TIME).is_none()
    }

    fn report(&mut self, vlan: u16, port: PortId, report: &Report, now: Duration) -> bool {
        let mut changed = false;
        let mut everything = report.everything;
        let until = now + MEMBER_TIME;
        for record in report.records().iter().filter(|record| record.listens) {
            let key = (vlan, record.group);
            if let Some(place) = self.listeners.get_mut(&key).and_then(|ports| ports.get_mut(&port)) {
                *place = until;
                continue;
            }
            let held = self.held.entry(port).or_default();
            let has_room = self.listeners.len() < NETWORK_GROUPS || self.listeners.contains_key(&key);
            if *held < PORT_GROUPS && has_room {
                *held += 1;
                self.listeners.entry(key).or_default().insert(port, until);
                changed = true;
            } else {
                everything = true;
            }
        }
        if everything {
            changed |= self.everything.insert(port, until).is_none();
        }
        changed
    }

    /// Removes what has become empty, and counts anew, if anything has changed.
    fn tidy(&mut self, changed: bool) -> bool {
        if changed {
            self.listeners.retain(|_, ports| !ports.is_empty());
            self.held.clear();
            for &port in self.listeners.values().flat_map(BTreeMap::keys) {
                *self.held.entry(port).or_default() += 1;
            }
            self.lanes.retain(|_, lane| lane.query.is_some() || !lane.routers.is_empty());
        }
        changed
    }
}

impl Lane {
    /// Whether frames are flooded or not has changed.
    fn update(&mut self, now: Duration) -> bool {
        if self.query.is_some_and(|(_, until)| until <= now) {
            self.query = None;
        }
        let is_pruned = self.query.is_some_and(|(from, _)| from <= now);
        std::mem::replace(&mut self.is_pruned, is_pruned) != is_pruned
    }
}

impl GroupMap {
    /// Who is to have a frame to the group address `destination`.
    #[inline]
    pub fn members(&self, vlan: u16, destination: MacAddress) -> Delivery<'_> {
        let family = match destination.0 {
            [0x01, 0x00, 0x5e, 0..=0x7f, _, _] => Family::Ipv4,
            [0x33, 0x33, ..] => Family::Ipv6,
            _ => return Delivery::FloodAll,
        };
        let Some(lane) = self.lane(vlan, family) else { return Delivery::FloodAll };
        if is_always_flooded(destination) {
            return Delivery::FloodAll;
        }
        let place = self.groups.binary_search_by_key(&group_key(vlan, destination), |(key, _)| *key);
        let group = place.ok().and_then(|place| self.groups.get(place));
        Delivery::Ports(group.map_or(&lane.all_groups, |(_, ports)| ports))
    }

    /// Who is to have a host's [report](Snooped::Report).
    pub fn reports(&self, vlan: u16, family: Family) -> Delivery<'_> {
        self.lane(vlan, family).map_or(Delivery::FloodAll, |lane| Delivery::Ports(&lane.routers))
    }

    #[inline]
    fn lane(&self, vlan: u16, family: Family) -> Option<&MapLane> {
        find(&self.lanes, (vlan, family))
    }
}

/// Whether frames to a group address go to all, listeners or not: those of 224.0.0.0/24, to which hosts need not report
/// (RFC 4541, 2.1.2), the IPv6 all-nodes group (RFC 4541, 3), solicited-node groups, without which a neighbour that does
/// not report would be unreachable, and all that share an Ethernet address with one of these.
#[inline]
pub(crate) const fn is_always_flooded(group: MacAddress) -> bool {
    matches!(group.0, [0x01, 0x00, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0, 0, 1] | [0x33, 0x33, 0xff, _, _, _])
}

const fn group_key(vlan: u16, group: MacAddress) -> u64 {
    (vlan as u64) << 48 | group.to_u64()
}

const fn family(group: IpAddr) -> Family {
    match group {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

#[inline]
fn find(lanes: &[MapLane], key: (u16, Family)) -> Option<&MapLane> {
    lanes.get(lanes.binary_search_by_key(&key, |lane| lane.key).ok()?)
}

/// Forgets what is past its time; whether anything was.
fn expire(ports: &mut BTreeMap<PortId, Duration>, now: Duration) -> bool {
    let before = ports.len();
    ports.retain(|_, until| *until > now);
    ports.len() != before
}
