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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snoop::build::*;

    const ROUTER: PortId = PortId(1);
    const A: PortId = PortId(2);
    const B: PortId = PortId(3);
    const C: PortId = PortId(4);
    const ALL: Delivery<'_> = Delivery::FloodAll;

    /// Groups at a simulated time, with the map that was made last.
    struct Network {
        groups: Groups,
        map: GroupMap,
        now: Duration,
    }

    impl Network {
        fn new() -> Self {
            Self { groups: Groups::default(), map: GroupMap::default(), now: Duration::from_secs(1000) }
        }

        /// A network whose querier has been answered.
        fn queried() -> Self {
            let mut network = Self::new();
            network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
            network.hear(0, ROUTER, &mld_query("ff02::1", 10_000, "::"));
            network.pass(11);
            network
        }

        /// Tells of a frame; makes a new map only when it was said to have changed.
        fn hear(&mut self, vlan: u16, port: PortId, frame: &[u8]) {
            let snooped = snoop(frame).expect("a message");
            if self.groups.apply(vlan, port, &snooped, self.now) {
                self.map = self.groups.snapshot();
            }
            assert_eq!(self.map, self.groups.snapshot(), "a change that was not told");
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                if self.groups.expire(self.now) {
                    self.map = self.groups.snapshot();
                }
                assert_eq!(self.map, self.groups.snapshot(), "a change that was not told");
            }
        }

        fn to(&self, vlan: u16, group: &str) -> Delivery<'_> {
            self.map.members(vlan, group_mac(group.parse().unwrap()).unwrap())
        }
    }

    const GROUP: &str = "239.1.2.3";
    const OTHER: &str = "239.1.2.4";
    const GROUP_V6: &str = "ff05::7";

    #[test]
    fn all_is_flooded_until_a_querier_was_answered() {
        let mut network = Network::new();
        network.hear(0, A, &igmp_report(GROUP));
        assert_eq!(network.to(0, GROUP), ALL);
        assert_eq!(network.map.reports(0, Family::Ipv4), ALL);
        network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
        network.pass(10);
        assert_eq!(network.to(0, GROUP), ALL);
        network.pass(1);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        assert_eq!(network.to(0, OTHER), Delivery::Ports(&[ROUTER]), "nobody listens");
        assert_eq!(network.map.reports(0, Family::Ipv4), Delivery::Ports(&[ROUTER]));
        // The other version and other VLANs have their own.
        assert_eq!(network.to(0, GROUP_V6), ALL);
        assert_eq!(network.map.reports(0, Family::Ipv6), ALL);
        assert_eq!(network.to(7, GROUP), ALL);
        // Without further queries it is over.
        network.pass(243);
        assert_eq!(network.to(0, OTHER), Delivery::Ports(&[ROUTER]));
        network.pass(1);
        assert_eq!(network.to(0, OTHER), ALL);
    }

    #[test]
    fn groups_to_which_nobody_reports_are_always_flooded() {
        let network = Network::queried();
        for group in ["224.0.0.1", "224.0.0.251", "239.128.0.7", "ff02::1", "ff02::1:ff00:5"] {
            assert_eq!(network.to(0, group), ALL, "{group}");
        }
        assert_eq!(network.to(0, "ff02::fb"), Delivery::Ports(&[ROUTER]));
        for other in
            [MacAddress::BROADCAST, MacAddress([1, 0, 0x5e, 0x80, 1, 2]), MacAddress([1, 0, 0x0c, 0xcc, 0xcc, 0xcc])]
        {
            assert_eq!(network.map.members(0, other), ALL, "{other}");
        }
    }

    #[test]
    fn listeners_stay_while_they_report() {
        let mut network = Network::queried();
        network.hear(0, A, &igmp_report(GROUP));
        network.hear(0, B, &mld_report(GROUP_V6));
        for _ in 0..5 {
            network.pass(125);
            network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
            network.hear(0, A, &igmp_report(GROUP));
            assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        }
        assert_eq!(network.to(0, GROUP_V6), ALL, "no querier for 625 s");
        for _ in 0..2 {
            network.pass(125);
            network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
        }
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        network.pass(11);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER]));
    }

    #[test]
    fn who_leaves_stays_until_the_querier_has_asked_who_is_left() {
        let mut network = Network::queried();
        network.hear(0, A, &igmp_report(GROUP));
        network.hear(0, B, &igmp_report(GROUP));
        network.hear(0, A, &igmp_report(OTHER));
        network.hear(0, A, &igmp("224.0.0.2", &[&[0x17, 0, 0, 0], &v4(GROUP)[..]].concat()));
        network.pass(5);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A, B]));
        network.hear(0, ROUTER, &igmp_query(GROUP, 10, GROUP));
        network.pass(1);
        network.hear(0, B, &igmp_report(GROUP));
        network.pass(1);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A, B]));
        network.pass(1);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, B]));
        assert_eq!(network.to(0, OTHER), Delivery::Ports(&[ROUTER, A]));
    }

    /// Groups that share an Ethernet address: who listens to one was thrown out when the other was asked for.
    #[test]
    fn a_question_for_one_group_is_none_for_its_namesake() {
        let mut network = Network::queried();
        network.hear(0, A, &igmp_report("239.1.2.3"));
        network.hear(0, B, &igmp_report("225.129.2.3"));
        assert_eq!(network.to(0, "239.1.2.3"), Delivery::Ports(&[ROUTER, A, B]));
        network.hear(0, ROUTER, &igmp_query("225.129.2.3", 10, "225.129.2.3"));
        network.pass(10);
        assert_eq!(network.to(0, "239.1.2.3"), Delivery::Ports(&[ROUTER, A]));
    }

    #[test]
    fn a_question_that_not_all_answer_throws_nobody_out() {
        let mut network = Network::queried();
        network.hear(0, A, &igmp_report(GROUP));
        let query = |flags, count, sources: &[u8]| {
            igmp(GROUP, &[&[0x11, 10, 0, 0], &v4(GROUP)[..], &[flags, 125, 0, count], sources].concat())
        };
        network.hear(0, ROUTER, &query(8, 0, &[]));
        network.hear(0, ROUTER, &query(0, 1, &[10, 0, 0, 1]));
        network.pass(10);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        // Nor do they begin anything where no general query was heard.
        network.hear(7, ROUTER, &query(8, 0, &[]));
        network.hear(7, ROUTER, &igmp_query(GROUP, 10, GROUP));
        network.pass(20);
        assert_eq!(network.to(7, GROUP), ALL);
    }

    /// A guest that asks once, or grants an hour for the answer, must not cost others their groups.
    #[test]
    fn nobody_loses_a_group_to_a_false_querier() {
        let slow = |code| igmp("224.0.0.1", &[0x11, code, 0, 0, 0, 0, 0, 0, 0, 125, 0, 0]);
        for codes in [[1, 1], [1, 0xff], [0xff, 1], [0xff, 0xff], [100, 0xbf], [0x8f, 100]] {
            for pause in [1, 100, 200, 250, 254, 255, 256] {
                let mut network = Network::new();
                let limit = |code: u8| match snoop(&slow(code)) {
                    Some(Snooped::Query(query)) => query.max_response,
                    other => panic!("{other:?}"),
                };
                let mut answers = Vec::new();
                for code in codes {
                    network.hear(0, C, &slow(code));
                    // The host answers as late as it may; a later query that must be answered sooner replaces that.
                    let due = network.now + limit(code);
                    answers.retain(|&other| other < due);
                    answers.push(due);
                    for _ in 0..pause {
                        if answers.iter().any(|&due| due <= network.now) {
                            answers.clear();
                            network.hear(0, A, &igmp_report(GROUP));
                        }
                        network.pass(1);
                        let reached = match network.to(0, GROUP) {
                            Delivery::FloodAll => true,
                            Delivery::Ports(ports) => ports.contains(&A),
                        };
                        assert!(reached, "{codes:?}, {pause} s between them, at {:?}", network.now);
                    }
                }
                // Nor has it other guests' groups for itself.
                network.pass(600);
                assert_eq!(network.to(0, GROUP), ALL);
            }
        }
    }

    #[test]
    fn a_port_that_asks_for_too_much_has_everything_and_takes_nobodys_place() {
        let mut network = Network::queried();
        network.hear(0, B, &igmp_report(GROUP));
        for number in 0..=PORT_GROUPS {
            network.hear(0, A, &igmp_report(&format!("239.7.0.{number}")));
        }
        assert_eq!(network.to(0, OTHER), Delivery::Ports(&[ROUTER, A]));
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A, B]));
        assert_eq!(network.to(0, GROUP_V6), Delivery::Ports(&[ROUTER, A]));
        // Sixteen such ports fill the table; the next one has everything, and what is noted stays.
        for port in 5..25 {
            for number in 0..PORT_GROUPS {
                network.hear(0, PortId(port), &igmp_report(&format!("239.8.{port}.{number}")));
            }
        }
        assert_eq!(network.groups.listeners.len(), NETWORK_GROUPS);
        network.hear(0, C, &igmp_report(OTHER));
        assert!(matches!(network.to(0, OTHER), Delivery::Ports(ports) if ports.contains(&C) && ports.contains(&A)));
        assert!(matches!(network.to(0, GROUP), Delivery::Ports(ports) if ports.contains(&B)));
        // A group that is in the table has room for more listeners.
        network.hear(0, C, &igmp_report(GROUP));
        assert_eq!(network.groups.held[&C], 1);
        // And all of it ends.
        network.pass(300);
        network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
        network.pass(11);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER]));
        assert!(
            network.groups.listeners.is_empty()
                && network.groups.held.is_empty()
                && network.groups.everything.is_empty()
        );
    }

    #[test]
    fn a_report_that_could_not_be_read_is_one_of_everything() {
        let mut network = Network::queried();
        let records: Vec<u8> = (0..9).flat_map(|last| [4, 0, 0, 0, 239, 1, 3, last]).collect();
        network.hear(0, A, &igmp("224.0.0.22", &[&[0x22, 0, 0, 0, 0, 0, 0, 9], &records[..]].concat()));
        assert_eq!(network.to(0, OTHER), Delivery::Ports(&[ROUTER, A]));
        assert_eq!(network.map.reports(0, Family::Ipv4), Delivery::Ports(&[ROUTER]));
    }

    #[test]
    fn a_port_that_comes_up_has_everything_at_first() {
        let mut network = Network::queried();
        assert!(network.groups.welcome(A, network.now));
        network.map = network.groups.snapshot();
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        network.pass(125);
        network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
        network.pass(134);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, A]));
        network.pass(1);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER]));
    }

    #[test]
    fn a_router_that_does_not_ask_is_told_but_ends_no_flooding() {
        let mut network = Network::new();
        let advertisement = igmp("224.0.0.106", &[0x30, 20, 0, 0, 0, 125, 0, 2]);
        network.hear(0, C, &advertisement);
        network.pass(20);
        assert_eq!(network.to(0, GROUP), ALL);
        network.hear(0, ROUTER, &igmp_query("224.0.0.1", 100, "0.0.0.0"));
        network.pass(11);
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, C]));
        assert_eq!(network.map.reports(0, Family::Ipv4), Delivery::Ports(&[ROUTER, C]));
    }

    #[test]
    fn a_port_that_is_gone_is_forgotten() {
        let mut network = Network::queried();
        network.hear(0, A, &igmp_report(GROUP));
        network.hear(0, B, &igmp_report(GROUP));
        assert!(network.groups.forget(A));
        assert!(!network.groups.forget(A));
        network.map = network.groups.snapshot();
        assert_eq!(network.to(0, GROUP), Delivery::Ports(&[ROUTER, B]));
        assert!(!network.groups.held.contains_key(&A));
        // With the querier gone, all is flooded.
        assert!(network.groups.forget(ROUTER));
        network.map = network.groups.snapshot();
        assert_eq!(network.to(0, GROUP), ALL);
        assert!(network.groups.lanes.is_empty());
    }
}
