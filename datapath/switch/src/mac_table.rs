//! Which address is behind which port, in each VLAN: one fixed array of atomics per network.
//!
//! Theory of operation. An entry is two words: a key (address, VLAN, and a bit that it is in use) and a value (port, time last
//! seen, whether it is static). Entries lie in pairs, two of which share a cache line. An address may be in either pair of two lines; which
//! ones is the table's secret, so that no guest can fill those of another's address. One of the four comes first: as long as the table is not
//! half full nearly all addresses lie there, and a burst is looked up there only ([`Glance::ways`]). A lookup reads key,
//! value, key again, and takes no lock. Whoever adds an entry claims a free slot by compare-and-swap of its key from 0 to
//! `CLAIMED`, writes the value, then the key. An entry moves, is renewed, or goes (`NONE`, then key 0) by compare-and-swap
//! of its value, and who succeeds counts: so the ports' counts are exact. Two workers may add one address twice at the
//! same time: lookups find the first of the two, the other ages out.
//!
//! All atomics come from [`sync`](crate::sync), so that a model checker can take its place (`ci/loom`).
//!
//! Time is an argument, in seconds since any moment, which is the same for all processes that hand addresses on; entries not seen for longer than the age limit are not found, and are removed by
//! [`MacTable::sweep`], which control calls.

use std::hash::{BuildHasher, RandomState};

use culvert_frame::MacAddress;

use crate::port::{MAX_PORTS, PortId};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Addresses that one table can hold, at most; it has 16 bytes for each, always.
pub const TABLE_ENTRIES: usize = 32_768;

/// How many pairs of stations [`Glance::ways`] looks up at once.
pub const MOST_WAYS: usize = 32;

const PAIRS: usize = TABLE_ENTRIES / 2;

const USED: u64 = 1 << 63;
const CLAIMED: u64 = 1 << 62;
const STATIC: u64 = 1 << 63;
/// The value of a slot that holds no entry.
const NONE: u64 = 1 << 62;

/// A table of addresses.
#[derive(Debug)]
pub struct MacTable {
    pairs: Box<[Pair]>,
    /// Learned addresses by port.
    learned: Box<[AtomicU32]>,
    age_seconds: AtomicU32,
    secrets: [u64; 2],
    /// Another number after each change to where an address is, or to the age; no two tables have the same.
    state: AtomicU64,
}

/// An entry, for showing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacEntry {
    /// The address.
    pub address: MacAddress,
    /// The VLAN that it is in; 0 for ports without VLANs.
    pub vlan: u16,
    /// The port that it is behind.
    pub port: PortId,
    /// Seconds since it was last seen as a source; `None` for a static one.
    pub age_seconds: Option<u32>,
}

/// What [`MacTable::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The address was known at this port, or is known now.
    Known,
    /// The port has its full number of addresses, or the table has no room.
    Refused,
    /// The address is bound to another port.
    Static,
}

#[derive(Debug)]
#[repr(align(32))]
struct Pair([Entry; 2]);

#[derive(Debug)]
struct Entry {
    key: AtomicU64,
    value: AtomicU64,
}

impl MacTable {
    /// An empty table, whose entries are forgotten when not seen for more than `age_seconds`.
    pub fn new(age_seconds: u32) -> Self {
        Self::of_size(age_seconds, PAIRS, MAX_PORTS, [0, 1].map(|number| RandomState::new().hash_one(number)))
    }

    /// As [`Self::new`], of so many pairs (a power of two), for so many ports, with secrets that are not.
    pub fn of_size(age_seconds: u32, pairs: usize, ports: usize, secrets: [u64; 2]) -> Self {
        let entry = |_| Entry { key: AtomicU64::new(0), value: AtomicU64::new(NONE) };
        Self {
            pairs: std::iter::repeat_with(|| Pair([0, 1].map(entry))).take(pairs).collect(),
            learned: std::iter::repeat_with(|| AtomicU32::new(0)).take(ports).collect(),
            age_seconds: AtomicU32::new(age_seconds),
            state: AtomicU64::new(RandomState::new().hash_one(0)),
            secrets: secrets.map(|secret| secret | 1),
        }
    }

    /// Forgets addresses from now on when not seen for more than `seconds`.
    pub fn set_age(&self, seconds: u32) {
        self.age_seconds.store(seconds, Ordering::Relaxed);
        self.has_changed();
    }

    /// The port that `address` is behind in `vlan`.
    #[inline]
    pub fn lookup(&self, vlan: u16, address: MacAddress, now: u32) -> Option<PortId> {
        let (_, value) = self.find(key(vlan, address))?;
        if self.is_expired(value, now) { None } else { Some(port(value)) }
    }

    /// The table at a moment, for the addresses of a burst.
    #[inline]
    pub fn glance(&self, now: u32) -> Glance<'_> {
        let oldest = now.saturating_sub(self.age_seconds.load(Ordering::Relaxed));
        Glance { table: self, now: now.into(), oldest: oldest.into() }
    }

    /// Notes that `address` was seen in `vlan` at `at`, which may have at most `limit` addresses.
    #[inline]
    pub fn learn(&self, vlan: u16, address: MacAddress, at: PortId, limit: u32, now: u32) -> Learned {
        let key = key(vlan, address);
        let Some((entry, old)) = self.find(key) else { return self.add(key, at, limit, now) };
        if is_known(old, at, now) {
            return Learned::Known;
        }
        if old & STATIC != 0 {
            return Learned::Static;
        }
        if port(old) != at && self.count(at) >= limit {
            return Learned::Refused;
        }
        // Losing the race to another worker is as good: it saw the address in the same moment.
        self.change(entry, old, value(at, now));
        Learned::Known
    }

    /// Notes that `address` was seen in `vlan` at `at`, at most `limit` addresses of which are known, some time ago, at `seen`. `false` when
    /// that was too long ago, or something is known about the address by now, or there is no room for it.
    pub fn restore(&self, vlan: u16, address: MacAddress, at: PortId, limit: u32, seen: u32, now: u32) -> bool {
        let (key, value) = (key(vlan, address), value(at, seen.min(now)));
        self.find(key).is_none()
            && !self.is_expired(value, now)
            && self.count(at) < limit
            && self.insert(key, value, |old| self.is_expired(old, now))
    }

    /// Binds `address` in `vlan` to `at`: it does not age and is not learned elsewhere. Where there is no room, a learned address makes
    /// some: whoever fills the table must not keep others from their own address. `false` when only bound ones are in its way.
    pub fn bind(&self, vlan: u16, address: MacAddress, at: PortId) -> bool {
        let key = key(vlan, address);
        while let Some((entry, old)) = self.find(key) {
            if self.change(entry, old, value(at, 0) | STATIC) {
                return true;
            }
        }
        let bound = value(at, 0) | STATIC;
        self.insert(key, bound, |_| false) || self.insert(key, bound, |old| old & (STATIC | NONE) == 0)
    }

    /// Whether [`Self::bind`] would find a place for `address` in `vlan`.
    pub fn can_bind(&self, vlan: u16, address: MacAddress) -> bool {
        let key = key(vlan, address);
        self.candidates(key).any(|entry| {
            let old = entry.value.load(Ordering::Acquire);
            entry.key.load(Ordering::Acquire) == key || old & STATIC == 0
        })
    }

    /// Forgets every address of a port, static ones too.
    pub fn forget(&self, at: PortId) {
        self.remove_if(|value| port(value) == at);
    }

    /// Forgets the addresses that were learned at a port: another guest may be there now.
    pub fn forget_learned(&self, at: PortId) {
        self.remove_if(|value| port(value) == at && value & STATIC == 0);
    }

    /// Forgets what was not seen for longer than the age limit.
    pub fn sweep(&self, now: u32) {
        self.remove_if(|value| self.is_expired(value, now));
    }

    /// All entries that a lookup would find.
    pub fn entries(&self, now: u32) -> Vec<MacEntry> {
        let live = |entry: &Entry| {
            let (key, value) = (entry.key.load(Ordering::Acquire), entry.value.load(Ordering::Acquire));
            (key & USED != 0 && value != NONE && !self.is_expired(value, now)).then(|| MacEntry {
                address: MacAddress::from_u64(key),
                vlan: vlan(key),
                port: port(value),
                age_seconds: (value & STATIC == 0).then_some(age(value, now)),
            })
        };
        self.all().filter_map(live).collect()
    }

    /// How many addresses were learned at a port and not forgotten yet.
    pub fn count(&self, at: PortId) -> u32 {
        self.learned.get(at.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The entry of a key, and its value.
    #[inline]
    fn find(&self, key: u64) -> Option<(&Entry, u64)> {
        for entry in self.candidates(key) {
            if entry.key.load(Ordering::Acquire) == key {
                let value = entry.value.load(Ordering::Acquire);
                if value != NONE && entry.key.load(Ordering::Acquire) == key {
                    return Some((entry, value));
                }
            }
        }
        None
    }

    #[cold]
    #[inline(never)]
    fn add(&self, key: u64, at: PortId, limit: u32, now: u32) -> Learned {
        let has_place = self.count(at) < limit && self.insert(key, value(at, now), |old| self.is_expired(old, now));
        if has_place { Learned::Known } else { Learned::Refused }
    }

    /// Puts an entry into a free slot, or in place of one whose value `makes_room`.
    fn insert(&self, key: u64, value: u64, makes_room: impl Fn(u64) -> bool) -> bool {
        for entry in self.candidates(key) {
            let old = entry.value.load(Ordering::Acquire);
            let ours = match entry.key.load(Ordering::Acquire) {
                0 => entry.key.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok(),
                CLAIMED => false,
                _ => makes_room(old) && self.change(entry, old, NONE),
            };
            if ours {
                // The key goes before the value comes: no lookup may see the new value behind the old key.
                entry.key.store(CLAIMED, Ordering::Release);
                entry.value.store(value, Ordering::Release);
                self.count_learned(value, 1);
                entry.key.store(key, Ordering::Release);
                self.has_changed();
                return true;
            }
        }
        false
    }

    /// Exchanges the value of an entry if nobody else has, and keeps the ports' counts.
    fn change(&self, entry: &Entry, old: u64, new: u64) -> bool {
        let changed = entry.value.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if changed {
            self.count_learned(new, 1);
            self.count_learned(old, -1);
            // Not where it was only seen again.
            if (new ^ old) & (0xffff | STATIC | NONE) != 0 {
                self.has_changed();
            }
        }
        changed
    }

    /// Who has seen the change finds another state from now on, and who finds the same one has not seen it.
    fn has_changed(&self) {
        self.state.fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn is_expired(&self, value: u64, now: u32) -> bool {
        // What is static or no entry was seen later than any time.
        u64::from(now) > (value >> 16).wrapping_add(u64::from(self.age_seconds.load(Ordering::Relaxed)))
    }

    fn remove_if(&self, which: impl Fn(u64) -> bool) {
        for entry in self.all() {
            let key = entry.key.load(Ordering::Acquire);
            let value = entry.value.load(Ordering::Acquire);
            if key & USED != 0 && value != NONE && which(value) && self.change(entry, value, NONE) {
                entry.key.store(0, Ordering::Release);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.pairs.iter().flat_map(|Pair(entries)| entries)
    }

    /// Where an address may be, in the order in which places are taken.
    #[inline]
    fn candidates(&self, key: u64) -> impl Iterator<Item = &Entry> {
        let hash = hash(self.secrets, key);
        let pairs = [hash, hash ^ 1, hash >> 32, hash >> 32 ^ 1];
        pairs.into_iter().filter_map(|number| pair(&self.pairs, number)).flat_map(|Pair(entries)| entries)
    }

    fn count_learned(&self, value: u64, by: i32) {
        if value & (STATIC | NONE) == 0
            && let Some(count) = self.learned.get(port(value).index())
        {
            count.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
        }
    }
}

/// [`MacTable::glance`].
#[derive(Clone, Copy, Debug)]
pub struct Glance<'t> {
    table: &'t MacTable,
    now: u64,
    /// When what is not past its age was seen last, or later.
    oldest: u64,
}

impl Glance<'_> {
    /// The state of the table, to be asked for before anything is looked up: what is found after that holds while it stays the same, and
    /// [`Self::second`].
    #[inline]
    pub fn state(&self) -> u64 {
        self.table.state.load(Ordering::Acquire)
    }

    /// The moment of the glance, in seconds.
    #[inline]
    pub fn second(&self) -> u64 {
        self.now
    }

    /// The port that `destination` is behind, where [`MacTable::learn`] would find nothing to note about `source` at `at`. Both are in VLAN 0, and
    /// as [`MacAddress::to_u64`] has them.
    #[inline(never)]
    pub fn way(&self, source: u64, destination: u64, at: PortId) -> Option<PortId> {
        let ((_, seen), (_, value)) = (self.table.find(source | USED)?, self.table.find(destination | USED)?);
        self.judge(seen, value, at)
    }

    /// [`Self::way`] of up to [`MOST_WAYS`] pairs of stations; returns how many have one before the first that has none.
    ///
    /// In short loops one after the other, so that the processor looks up many addresses at once and waits for none.
    #[inline]
    pub fn ways(&self, stations: &[[u64; 2]], at: PortId, ways: &mut [PortId]) -> usize {
        let mut values = [[NONE; 2]; MOST_WAYS];
        self.look_first(stations, &mut values);
        let mut found = 0_usize;
        for ((&[source, destination], &[seen, value]), way) in stations.iter().zip(&values).zip(ways) {
            let port = if (seen | value) & NONE == 0 {
                self.judge(seen, value, at)
            } else {
                self.way(source, destination, at)
            };
            let Some(port) = port else { break };
            *way = port;
            found = found.wrapping_add(1);
        }
        found
    }

    /// The values of addresses that lie in their first pair; [`NONE`] for others. Both keys are compared, without a branch: no
    /// processor can foretell which one it is, and one that guesses wrong loses more time than that, and what it has begun with the next address.
    #[inline(never)]
    fn look_first(&self, stations: &[[u64; 2]], values: &mut [[u64; 2]; MOST_WAYS]) {
        let MacTable { pairs, secrets, .. } = self.table;
        let (pairs, secrets) = (&**pairs, *secrets);
        for (&address, value) in stations.as_flattened().iter().zip(values.as_flattened_mut()) {
            let key = address | USED;
            let Some(Pair([one, other])) = pair(pairs, hash(secrets, key)) else { return };
            let [first, second] = [one, other].map(|entry| entry.key.load(Ordering::Acquire));
            let (before, entry) = if first == key { (first, one) } else { (second, other) };
            let found = entry.value.load(Ordering::Acquire);
            let differs = (before ^ key) | (entry.key.load(Ordering::Acquire) ^ key);
            *value = if differs == 0 { found } else { NONE };
        }
    }

    #[inline(always)]
    fn judge(&self, seen: u64, value: u64, at: PortId) -> Option<PortId> {
        // What is static was seen later than any time.
        let is_known = (seen ^ u64::from(at.0)) & 0xffff == 0 && seen >> 16 >= self.now;
        (is_known && value >> 16 >= self.oldest).then(|| port(value))
    }
}

/// A folded multiplication: each bit of it depends on all of the key and of the secrets.
#[inline(always)]
pub(crate) fn hash([add, multiply]: [u64; 2], key: u64) -> u64 {
    let product = u128::from(key ^ add) * u128::from(multiply);
    let [low, high] = [product & u128::from(u64::MAX), product >> 64].map(|half| u64::try_from(half).unwrap_or(0));
    low ^ high
}

/// The pair that a hash names by its lowest bits.
#[inline(always)]
fn pair(pairs: &[Pair], hash: u64) -> Option<&Pair> {
    pairs.get(usize::try_from(hash).unwrap_or(0) & pairs.len().wrapping_sub(1))
}

#[inline]
fn key(vlan: u16, address: MacAddress) -> u64 {
    address.to_u64() | u64::from(vlan & 0xfff) << 48 | USED
}

/// Whether nothing is to be noted about an address that is seen at `at`.
#[inline]
fn is_known(value: u64, at: PortId, now: u32) -> bool {
    // A static one has the highest bit, and was seen later than any time.
    (value ^ u64::from(at.0)) & 0xffff == 0 && value >> 16 >= u64::from(now)
}

/// The VLAN of a key.
#[inline]
const fn vlan(key: u64) -> u16 {
    let [high, low, ..] = key.to_be_bytes();
    u16::from_be_bytes([high, low]) & 0xfff
}

#[inline]
fn value(port: PortId, now: u32) -> u64 {
    u64::from(port.0) | u64::from(now) << 16
}

#[inline]
fn port(value: u64) -> PortId {
    let [.., high, low] = value.to_be_bytes();
    PortId(u16::from_be_bytes([high, low]))
}

#[inline]
fn seen(value: u64) -> u32 {
    let [_, _, a, b, c, d, _, _] = value.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Seconds since an address was seen; 0 where a worker that read the clock later has seen it.
#[inline]
fn age(value: u64, now: u32) -> u32 {
    now.saturating_sub(seen(value))
}

// By its path, since ci/loom takes this file by its own.
#[cfg(test)]
#[path = "mac_table/proofs.rs"]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);
    const VLAN: u16 = 7;

    fn mac(number: u64) -> MacAddress {
        MacAddress::from_u64(0x0200_0000_0000 | number)
    }

    #[test]
    fn addresses_are_learned_move_and_age() {
        let table = MacTable::new(300);
        assert_eq!(table.lookup(VLAN, mac(1), 0), None);
        assert_eq!(table.learn(VLAN, mac(1), A, 10, 0), Learned::Known);
        assert_eq!(table.lookup(VLAN, mac(1), 300), Some(A));
        assert_eq!(table.lookup(VLAN, mac(1), 301), None);
        assert_eq!(table.learn(VLAN, mac(1), A, 10, 250), Learned::Known);
        assert_eq!(table.lookup(VLAN, mac(1), 301), Some(A));
        assert_eq!(table.learn(VLAN, mac(1), B, 10, 302), Learned::Known);
        assert_eq!(table.lookup(VLAN, mac(1), 302), Some(B));
        assert_eq!((table.count(A), table.count(B)), (0, 1));
        table.sweep(603);
        assert_eq!(table.count(B), 0);
        assert_eq!(table.entries(603), []);
    }

    #[test]
    fn vlans_have_addresses_of_their_own() {
        let table = MacTable::new(300);
        table.learn(0, mac(1), A, 10, 0);
        table.learn(4095, mac(1), B, 10, 0);
        assert_eq!([0, 1, 4095].map(|vlan| table.lookup(vlan, mac(1), 0)), [Some(A), None, Some(B)]);
        let mut vlans: Vec<_> = table.entries(0).iter().map(|entry| (entry.vlan, entry.address)).collect();
        vlans.sort_unstable();
        assert_eq!(vlans, [(0, mac(1)), (4095, mac(1))]);
    }

    #[test]
    fn another_guest_finds_its_port_as_new() {
        let table = MacTable::new(300);
        assert!(table.bind(VLAN, mac(9), A));
        (0..10).for_each(|number| assert_eq!(table.learn(VLAN, mac(number), A, 9, 0), Learned::Known, "{number}"));
        table.learn(VLAN, mac(20), B, 10, 0);
        assert_eq!(table.learn(VLAN, mac(30), A, 9, 0), Learned::Refused);
        table.forget_learned(A);
        assert_eq!([0, 9, 20].map(|number| table.lookup(VLAN, mac(number), 0)), [None, Some(A), Some(B)]);
        assert_eq!((table.count(A), table.learn(VLAN, mac(30), A, 9, 0)), (0, Learned::Known));
    }

    #[test]
    fn a_new_age_holds_at_once() {
        let table = MacTable::new(300);
        table.learn(VLAN, mac(1), A, 10, 0);
        table.set_age(5);
        assert_eq!(table.lookup(VLAN, mac(1), 6), None);
    }

    #[test]
    fn what_is_restored_has_its_age_and_takes_nobodys_place() {
        let table = MacTable::new(300);
        assert!(table.bind(VLAN, mac(9), B));
        table.learn(VLAN, mac(8), B, 10, 1000);
        let restore = |number, seen| table.restore(VLAN, mac(number), A, 2, seen, 1000);
        assert!(!restore(9, 1000), "it is bound to another port");
        assert!(!restore(8, 1000), "another port was faster");
        assert!(!restore(1, 699), "it was too old already");
        assert!(restore(1, 700) && restore(2, 2000));
        assert!(!restore(1, 1000) && !restore(3, 1000), "the port has its number");
        assert_eq!((table.count(A), table.count(B)), (2, 1));
        let ports = |now| [1, 2, 8, 9].map(|number| table.lookup(VLAN, mac(number), now));
        assert_eq!(ports(1000), [Some(A), Some(A), Some(B), Some(B)]);
        assert_eq!(ports(1001), [None, Some(A), Some(B), Some(B)]);
        assert_eq!(ports(1301), [None, None, None, Some(B)]);
    }

    #[test]
    fn a_port_has_its_limit_and_others_keep_theirs() {
        let table = MacTable::new(300);
        for number in 0..5 {
            assert_eq!(table.learn(VLAN, mac(number), A, 5, 0), Learned::Known);
        }
        assert_eq!(table.learn(VLAN, mac(5), A, 5, 0), Learned::Refused);
        assert_eq!(table.learn(VLAN, mac(5), B, 5, 0), Learned::Known);
        // A full port cannot take an address from another one either.
        assert_eq!(table.learn(VLAN, mac(5), A, 5, 1), Learned::Refused);
        assert_eq!(table.lookup(VLAN, mac(5), 1), Some(B));
        table.forget(A);
        assert_eq!((table.count(A), table.count(B)), (0, 1));
        assert_eq!(table.learn(VLAN, mac(6), A, 5, 0), Learned::Known);
    }

    #[test]
    fn a_bound_address_stays() {
        let table = MacTable::new(300);
        table.learn(VLAN, mac(1), B, 10, 0);
        assert!(table.bind(VLAN, mac(1), A));
        assert_eq!(table.count(B), 0);
        assert_eq!(table.learn(VLAN, mac(1), B, 10, 0), Learned::Static);
        assert_eq!(table.learn(VLAN, mac(1), A, 10, 0), Learned::Known);
        table.sweep(10_000);
        assert_eq!(table.lookup(VLAN, mac(1), 10_000), Some(A));
        assert_eq!(table.entries(10_000), [MacEntry { address: mac(1), vlan: VLAN, port: A, age_seconds: None }]);
        table.forget(A);
        assert_eq!(table.lookup(VLAN, mac(1), 0), None);
    }

    #[test]
    fn a_flood_of_addresses_ends_at_the_table_size_and_takes_nobodys_place() {
        let table = MacTable::new(300);
        table.learn(VLAN, mac(1), B, 10, 0);
        let known =
            (2..1_000_000).filter(|&number| table.learn(VLAN, mac(number), A, u32::MAX, 0) == Learned::Known).count();
        assert!(known > TABLE_ENTRIES / 2 && known < TABLE_ENTRIES, "{known}");
        assert_eq!(table.lookup(VLAN, mac(1), 0), Some(B));
        assert_eq!(table.count(A) as usize, known);
        // Once the flood has aged, its slots serve again.
        assert_eq!(table.learn(VLAN, mac(2_000_000), B, 10, 301), Learned::Known);
    }

    /// An address is bound when its guest comes, and others may have filled the table by then.
    #[test]
    fn who_fills_the_table_keeps_nobody_from_its_own_address() {
        let table = MacTable::new(300);
        let known =
            (0..1_000_000).filter(|&number| table.learn(VLAN, mac(number), A, u32::MAX, 0) == Learned::Known).count();
        let own = 2_000_000..2_001_000;
        assert!(own.clone().all(|number| table.can_bind(VLAN, mac(number)) && table.bind(VLAN, mac(number), B)));
        assert!(own.clone().all(|number| table.learn(VLAN, mac(number), A, u32::MAX, 0) == Learned::Static));
        let learned = table.count(A) as usize;
        assert!((known - own.count()..=known).contains(&learned), "{learned} of {known}");
        // Of bound ones none makes room.
        let table = MacTable::of_size(300, 2, 2, [1, 3]);
        let bound = (0..100).filter(|&number| table.bind(VLAN, mac(number), A)).count();
        assert_eq!(bound, 4);
        let has_room = |number| (table.can_bind(VLAN, mac(number)), table.bind(VLAN, mac(number), B));
        assert!((100..200).all(|number| has_room(number) == (false, false)));
    }

    /// Many at once, or one by one: what tells nothing to be learned, and where the destination is, is the same.
    #[test]
    fn ways_are_those_of_addresses_that_are_learned_and_looked_up_alone() {
        let (now, addresses) = (1000, 3 * TABLE_ENTRIES as u64 / 4);
        let table = MacTable::new(300);
        for number in 0..addresses {
            // Some at the other port, some past their age, some of an earlier second, some bound; others the table has no room for.
            let at = if number % 7 == 0 { B } else { A };
            match number % 11 {
                0 => table.bind(0, mac(number), at),
                1 => table.learn(0, mac(number), at, u32::MAX, 699) == Learned::Known,
                2 => table.learn(0, mac(number), at, u32::MAX, 700) == Learned::Known,
                _ => table.learn(0, mac(number), at, u32::MAX, now) == Learned::Known,
            };
        }
        let one = |[from, to]: [u64; 2]| {
            let known = table.find(from | USED).is_some_and(|(_, value)| is_known(value, A, now));
            known.then(|| table.lookup(0, MacAddress::from_u64(to), now)).flatten()
        };
        let (glance, mut some, mut elsewhere) = (table.glance(now), 0, 0);
        for start in 0..addresses + 100 {
            let stations =
                [0, 1, 2, 3].map(|step| [start + step, start + 5 * step + 9].map(|number| mac(number).to_u64()));
            let expected: Vec<_> = stations.iter().map_while(|stations| one(*stations)).collect();
            let mut ways = [PortId(99); 4];
            let found = glance.ways(&stations, A, &mut ways);
            assert_eq!(ways[..found], expected, "{start}");
            let [[from, to], ..] = stations;
            assert_eq!(glance.way(from, to, A), one([from, to]));
            some += found;
            let mut values = [[NONE; 2]; MOST_WAYS];
            glance.look_first(&stations[..1], &mut values);
            elsewhere += usize::from(values[0].contains(&NONE) && one([from, to]).is_some());
        }
        assert!(some > 1000 && elsewhere > 100, "{some} ways, {elsewhere} not in the first pair");
    }

    /// Nearly all lie where a burst looks first.
    #[test]
    fn of_ten_thousand_addresses_nearly_all_lie_in_their_first_pair() {
        let table = MacTable::new(300);
        for number in 0..10_000 {
            // For a few there may be no room.
            table.learn(0, mac(number), A, u32::MAX, 0);
        }
        let mut values = [[NONE; 2]; MOST_WAYS];
        let glance = table.glance(0);
        let in_first = (0..10_000).filter(|&number| {
            glance.look_first(&[[mac(number).to_u64(); 2]], &mut values);
            !values[0].contains(&NONE)
        });
        let count = in_first.count();
        assert!(count > 9_000, "{count}");
    }

    #[test]
    fn addresses_learned_by_many_threads_are_all_found() {
        let table = MacTable::new(300);
        std::thread::scope(|scope| {
            for worker in 0..4_u16 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..200 {
                        for number in 0..200 {
                            table.learn(VLAN, mac(number), PortId(worker), 1000, round);
                            if let Some(PortId(at)) = table.lookup(VLAN, mac(number), round) {
                                assert!(at < 4);
                            }
                        }
                    }
                });
            }
        });
        assert!((0..200).all(|number| table.lookup(VLAN, mac(number), 199).is_some()));
        table.sweep(1000);
        assert_eq!((0..4).map(|at| table.count(PortId(at))).sum::<u32>(), 0);
    }

    /// Workers read the clock every few rounds: one may still be in the second before that of an entry. It took the
    /// address for an old one, and flooded.
    #[test]
    fn an_address_seen_by_a_worker_that_is_a_second_ahead_is_known() {
        let table = MacTable::new(300);
        table.learn(VLAN, mac(1), A, 10, 101);
        assert_eq!(table.lookup(VLAN, mac(1), 100), Some(A));
        assert_eq!(table.entries(100), [MacEntry { address: mac(1), vlan: VLAN, port: A, age_seconds: Some(0) }]);
        table.sweep(100);
        assert_eq!(table.lookup(VLAN, mac(1), 100), Some(A));
    }

    /// Each was counted twice: a count ran below zero, and its port could learn nothing any more.
    #[test]
    fn an_address_that_moves_while_it_is_removed_is_counted_once() {
        let table = MacTable::new(300);
        table.learn(VLAN, mac(1), A, 10, 0);
        let (entry, old) = table.find(key(VLAN, mac(1))).unwrap();
        table.forget(A);
        assert!(!table.change(entry, old, value(B, 1)), "a worker that had found it moves it");
        assert_eq!((table.count(A), table.count(B)), (0, 0));

        table.learn(VLAN, mac(1), A, 10, 0);
        let (entry, old) = table.find(key(VLAN, mac(1))).unwrap();
        table.learn(VLAN, mac(1), B, 10, 1);
        assert!(!table.change(entry, old, NONE), "a sweep that had found it removes it");
        assert_eq!((table.count(A), table.count(B)), (0, 1));
        assert_eq!(table.lookup(VLAN, mac(1), 1), Some(B));
    }

    #[test]
    fn counts_stay_exact_while_addresses_move_and_are_removed() {
        let table = MacTable::new(300);
        std::thread::scope(|scope| {
            let table = &table;
            scope.spawn(|| (0..2_000).for_each(|_| table.sweep(1000)));
            for at in [A, B] {
                scope.spawn(move || {
                    for round in 0..500_000 {
                        table.learn(VLAN, mac(round % 512), at, 1000, 1);
                    }
                });
            }
        });
        for at in [A, B] {
            assert_eq!(table.count(at) as usize, table.entries(1).iter().filter(|entry| entry.port == at).count());
        }
    }

    /// A guest that took addresses for both buckets of another's kept that one from being learned, and got its frames
    /// by flooding.
    #[test]
    fn the_buckets_of_an_address_cannot_be_computed_elsewhere() {
        let victim = mac(0xaaaa);
        let own = MacTable::new(300);
        let slots = |address| own.candidates(key(VLAN, address)).map(std::ptr::from_ref).collect::<Vec<_>>();
        let wanted = slots(victim);
        let meets = |&address: &MacAddress| slots(address).iter().any(|slot| wanted.contains(slot));
        let table = MacTable::new(300);
        for address in (0x10_0000..).map(mac).filter(meets).take(64) {
            table.learn(VLAN, address, A, 64, 0);
        }
        assert_eq!(table.learn(VLAN, victim, B, 64, 0), Learned::Known);
        assert_eq!(table.lookup(VLAN, victim, 0), Some(B));
    }
}
