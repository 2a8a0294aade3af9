//! Where frames between two stations go, as a worker has found it in the tables before: one look in place of two.
//!
//! Theory of operation. What [`Glance::way`] tells of a source, a destination and the port where frames arrive holds until the table changes or
//! the second is over, when sources are noted anew. All that is one number here, a stamp: each port has its own, and gets
//! another one when its table or the second is another; then all that was noted under the old one is found no more. An entry is
//! two words: source and stamp, destination and way. Two lie in a set, the newer one first; what is not there is looked up in
//! the table. Nothing is shared: each worker has a cache of its own.

use std::hash::{BuildHasher, RandomState};

use crate::mac_table::{Glance, MOST_WAYS, hash};
use crate::outlet::{Frames, each};
use crate::port::{MAX_PORTS, PortId};

/// Sets of a cache, 32 bytes each, of which only those are touched that are used.
const SETS: usize = 65_536;

/// One worker's.
#[derive(Debug)]
pub(crate) struct WayCache {
    sets: Box<[Set]>,
    /// What each port's stamp stands for.
    ports: Box<[Stamped]>,
    /// The stamp that was given last.
    last: u16,
    /// So that no guest knows what takes which place.
    secrets: [u64; 2],
}

/// Source and stamp, destination and way, of each of two pairs of stations: addresses in the upper 48 bits. 0 is no stamp.
type Set = [[u64; 2]; 2];

/// A state of a port's table in a second, and the stamp for it; 0 before it was seen twice.
#[derive(Clone, Copy, Debug, Default)]
struct Stamped {
    state: u64,
    second: u64,
    stamp: u16,
}

impl WayCache {
    pub fn new() -> Self {
        Self {
            sets: vec![[[0; 2]; 2]; SETS].into(),
            ports: vec![Stamped::default(); MAX_PORTS].into(),
            last: 0,
            secrets: [0, 1].map(|number| RandomState::new().hash_one(number) | 1),
        }
    }

    /// As [`Glance::ways`].
    #[inline]
    pub fn ways(&mut self, glance: &Glance<'_>, stations: &[[u64; 2]], at: PortId, ways: &mut [PortId]) -> usize {
        let Some(stamp) = self.stamp(glance, at) else { return glance.ways(stations, at, ways) };
        let ways = ways.get_mut(..stations.len()).unwrap_or_default();
        self.look(stations, stamp, ways);
        if ways.iter().fold(false, |one, way| one | (*way == UNKNOWN)) {
            self.look_up(glance, stations, at, stamp, ways)
        } else {
            stations.len()
        }
    }

    /// The stamp of a port. None as long as each burst finds another table: nothing that is noted would be found.
    #[inline]
    fn stamp(&mut self, glance: &Glance<'_>, at: PortId) -> Option<u16> {
        let (state, second) = (glance.state(), glance.second());
        let port = self.ports.get_mut(at.index())?;
        if (port.state, port.second) != (state, second) {
            *port = Stamped { state, second, stamp: 0 };
            return None;
        }
        if port.stamp == 0 {
            return Some(self.give(at));
        }
        Some(port.stamp)
    }

    #[cold]
    fn give(&mut self, at: PortId) -> u16 {
        self.last = self.last.wrapping_add(1);
        if self.last == 0 {
            // All of them were given once.
            self.sets.fill(Set::default());
            self.ports.iter_mut().for_each(|port| port.stamp = 0);
            self.last = 1;
        }
        if let Some(port) = self.ports.get_mut(at.index()) {
            port.stamp = self.last;
        }
        self.last
    }

    /// Finds the ways that are known; [`UNKNOWN`] for others. Without a branch, as [`Glance::ways`] itself.
    #[inline(never)]
    fn look(&self, stations: &[[u64; 2]], stamp: u16, ways: &mut [PortId]) {
        let (sets, secrets) = (&*self.sets, self.secrets);
        for (&[source, destination], way) in stations.iter().zip(ways) {
            let Some(&[[a, b], [c, d]]) = sets.get(place(secrets, source, destination)) else { return };
            let (from, to) = (source << 16 | u64::from(stamp), destination << 16);
            let [newer, older] = [(a ^ from) | (b ^ to) >> 16, (c ^ from) | (d ^ to) >> 16];
            let found = if older == 0 { d } else { u64::from(UNKNOWN.0) };
            let [.., high, low] = if newer == 0 { b } else { found }.to_be_bytes();
            *way = PortId(u16::from_be_bytes([high, low]));
        }
    }

    /// Finds the unknown ones in the table, and notes them.
    #[inline(never)]
    fn look_up(
        &mut self,
        glance: &Glance<'_>,
        stations: &[[u64; 2]],
        at: PortId,
        stamp: u16,
        ways: &mut [PortId],
    ) -> usize {
        let unknown = (0_u32..).zip(&*ways).fold(0, |all, (number, way)| all | Frames::from(*way == UNKNOWN) << number);
        let mut asked = [[0; 2]; MOST_WAYS];
        let mut places = asked.iter_mut();
        each(unknown, |number| {
            if let (Some(place), Some(&stations)) = (places.next(), stations.get(number)) {
                *place = stations;
            }
        });
        let unused = places.len();
        let asked = asked.get(..MOST_WAYS.wrapping_sub(unused)).unwrap_or_default();
        let mut found = [UNKNOWN; MOST_WAYS];
        let known = glance.ways(asked, at, &mut found);
        let mut answers = asked.iter().zip(&found).take(known);
        let mut end = stations.len();
        each(unknown, |number| match answers.next() {
            Some((&[source, destination], &port)) => {
                if let Some(way) = ways.get_mut(number) {
                    *way = port;
                }
                if let Some(set) = self.sets.get_mut(place(self.secrets, source, destination)) {
                    let [newer, _] = *set;
                    *set = [[source << 16 | u64::from(stamp), destination << 16 | u64::from(port.0)], newer];
                }
            }
            None => end = end.min(number),
        });
        end
    }
}

/// No port has this number.
const UNKNOWN: PortId = PortId(u16::MAX);

/// The set in which a pair of stations is.
#[inline(always)]
fn place(secrets: [u64; 2], source: u64, destination: u64) -> usize {
    usize::try_from(hash(secrets, source ^ destination.rotate_left(23))).unwrap_or(0) & (SETS - 1)
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac_table::MacTable;
    use culvert_frame::MacAddress;
    use proptest::prelude::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn mac(number: u64) -> u64 {
        0x0200_0000_0000 | number
    }

    /// What is known at a port from the cache; the same as from the table, or the test fails.
    fn known(cache: &mut WayCache, table: &MacTable, stations: &[[u64; 2]], at: PortId, now: u32) -> Vec<PortId> {
        let glance = table.glance(now);
        let [mut ways, mut expected] = [[PortId(99); MOST_WAYS]; 2];
        let found = cache.ways(&glance, stations, at, &mut ways);
        assert_eq!(found, glance.ways(stations, at, &mut expected));
        assert_eq!(ways[..found], expected[..found]);
        ways[..found].to_vec()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Learn(u64, PortId),
        Bind(u64, PortId),
        Forget(PortId),
        Age(u32),
        Second,
        /// Stations that a burst is between, and at which port it is.
        Burst(Vec<[u64; 2]>, PortId),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let port = prop_oneof![Just(A), Just(B)];
        let number = 0..6_u64;
        let burst = prop::collection::vec([number.clone(), number.clone()], 1..=MOST_WAYS);
        let step = prop_oneof![
            3 => (number.clone(), port.clone()).prop_map(|(number, port)| Step::Learn(number, port)),
            1 => (number, port.clone()).prop_map(|(number, port)| Step::Bind(number, port)),
            1 => port.clone().prop_map(Step::Forget),
            1 => (1..4_u32).prop_map(Step::Age),
            1 => Just(Step::Second),
            8 => (burst, port).prop_map(|(stations, port)| Step::Burst(stations, port)),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever changes, each burst finds what the table says, and when it asks again as well.
        #[test]
        fn ways_are_those_of_the_table(steps in steps()) {
            let (mut cache, table, mut now) = (WayCache::new(), MacTable::new(3), 10);
            for step in steps {
                match step {
                    Step::Learn(number, at) => drop(table.learn(0, MacAddress::from_u64(mac(number)), at, 9, now)),
                    Step::Bind(number, at) => drop(table.bind(0, MacAddress::from_u64(mac(number)), at)),
                    Step::Forget(at) => table.forget(at),
                    Step::Age(seconds) => table.set_age(seconds),
                    Step::Second => now += 1,
                    Step::Burst(stations, at) => {
                        let stations: Vec<_> = stations.iter().map(|pair| pair.map(mac)).collect();
                        for _ in 0..3 {
                            known(&mut cache, &table, &stations, at, now);
                        }
                    }
                }
            }
        }
    }

    fn table_of(addresses: u64) -> MacTable {
        let table = MacTable::new(300);
        for number in 0..addresses {
            let at = if number % 2 == 0 { A } else { B };
            table.learn(0, MacAddress::from_u64(mac(number)), at, u32::MAX, 0);
        }
        table
    }

    /// The table is not asked for what is noted: it could be empty.
    #[test]
    fn what_was_found_is_found_again_without_the_table() {
        let (mut cache, table) = (WayCache::new(), table_of(10_000));
        let pairs: Vec<_> = (0..10_000).map(|number| [mac(number), mac(number ^ 1)]).collect();
        let at_a: Vec<_> = pairs.iter().step_by(2).copied().collect();
        for _ in 0..4 {
            at_a.chunks(MOST_WAYS).for_each(|burst| assert!(!known(&mut cache, &table, burst, A, 0).is_empty()));
        }
        let stamp = cache.stamp(&table.glance(0), A).unwrap();
        let found = at_a.iter().filter(|stations| {
            let mut way = [UNKNOWN];
            cache.look(&[**stations], stamp, &mut way);
            way == [B]
        });
        let count = found.count();
        assert!(count > 4_800, "{count} of 5,000");
    }

    #[test]
    fn while_the_table_changes_nothing_is_noted() {
        let (mut cache, table) = (WayCache::new(), table_of(2));
        let stations = [[mac(0), mac(1)]];
        for number in 2..100 {
            assert_eq!(known(&mut cache, &table, &stations, A, 0), [B]);
            table.learn(0, MacAddress::from_u64(mac(number)), A, u32::MAX, 0);
        }
        assert_eq!(cache.last, 0);
        known(&mut cache, &table, &stations, A, 0);
        known(&mut cache, &table, &stations, A, 0);
        assert_eq!(cache.last, 1);
    }

    /// A stamp that is given anew finds nothing that was noted under it before.
    #[test]
    fn stamps_come_again() {
        let (mut cache, table) = (WayCache::new(), table_of(2));
        let stations = [[mac(0), mac(1)]];
        (0..2).for_each(|_| assert_eq!(known(&mut cache, &table, &stations, A, 0), [B]));
        assert_eq!(cache.last, 1);
        table.forget(B);
        cache.last = u16::MAX;
        (0..3).for_each(|_| assert_eq!(known(&mut cache, &table, &stations, A, 0), []));
        assert_eq!(cache.last, 1);
    }

    #[test]
    fn another_table_at_the_same_port_is_another_state() {
        let (mut cache, one, other) = (WayCache::new(), table_of(2), table_of(0));
        let stations = [[mac(0), mac(1)]];
        for _ in 0..3 {
            assert_eq!(known(&mut cache, &one, &stations, A, 0), [B]);
        }
        for _ in 0..3 {
            assert_eq!(known(&mut cache, &other, &stations, A, 0), []);
        }
    }
}
