//! The flows of a protocol, found by their number or by their ends. Used by [`crate::tcp::flows`] and [`crate::udp`].

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use slab::Slab;

use crate::flow::{FlowEnds, StoredEnds};

/// A flow that knows its ends.
pub(crate) trait HasEnds {
    /// As they are kept: the same for as long as it lives.
    fn stored_ends(&self) -> &StoredEnds;

    /// The same as anybody can read them.
    #[inline]
    fn ends(&self) -> FlowEnds {
        (*self.stored_ends()).into()
    }
}

/// Flows by number and by ends. The ends lie with the flows alone: to find them by these costs five bytes a flow.
#[derive(Debug)]
pub(crate) struct FlowTable<F> {
    flows: Slab<F>,
    by_ends: HashTable<u32>,
    /// Keyed, so that nobody can choose ends that collide.
    hasher: RandomState,
}

impl<F: HasEnds> FlowTable<F> {
    /// No flows.
    pub(crate) fn new() -> Self {
        Self { flows: Slab::new(), by_ends: HashTable::new(), hasher: RandomState::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.flows.capacity()
    }

    /// The number that the next flow gets.
    pub(crate) fn next_index(&self) -> u32 {
        // There are fewer than 2^32: `Limits` says so.
        u32::try_from(self.flows.vacant_key()).unwrap_or(u32::MAX)
    }

    /// Adds a flow, whose ends no other has.
    pub(crate) fn insert(&mut self, flow: F) -> u32 {
        let index = self.next_index();
        let Self { flows, by_ends, hasher } = self;
        let hash = hasher.hash_one(flow.stored_ends());
        flows.insert(flow);
        by_ends.insert_unique(hash, index, |&other| {
            flows.get(other as usize).map_or(0, |flow| hasher.hash_one(flow.stored_ends()))
        });
        index
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&F> {
        self.flows.get(index as usize)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut F> {
        self.flows.get_mut(index as usize)
    }

    /// The number of the flow with these ends.
    #[inline]
    pub(crate) fn find(&self, ends: &FlowEnds) -> Option<u32> {
        let ends = StoredEnds::from(*ends);
        let is_it = |&index: &u32| self.flows.get(index as usize).is_some_and(|flow| *flow.stored_ends() == ends);
        self.by_ends.find(self.hasher.hash_one(ends), is_it).copied()
    }

    /// Takes a flow out, if it is there.
    pub(crate) fn remove(&mut self, index: u32) -> Option<F> {
        let flow = self.flows.try_remove(index as usize)?;
        if let Ok(entry) = self.by_ends.find_entry(self.hasher.hash_one(flow.stored_ends()), |&other| other == index) {
            entry.remove();
        }
        Some(flow)
    }

    /// All flows with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &F)> {
        self.flows.iter().map(|(index, flow)| (u32::try_from(index).unwrap_or(u32::MAX), flow))
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    impl HasEnds for StoredEnds {
        fn stored_ends(&self) -> &StoredEnds {
            self
        }
    }

    fn ends(port: u16) -> FlowEnds {
        let at = |last, port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), port));
        FlowEnds { guest: at(2, port), peer: at(9, 80) }
    }

    proptest! {
        #[test]
        fn like_a_plain_map(steps in proptest::collection::vec((0_u16..50, any::<bool>()), 0..300)) {
            let (mut table, mut model) = (FlowTable::<StoredEnds>::new(), BTreeMap::new());
            for (port, is_wanted) in steps {
                prop_assert_eq!(table.find(&ends(port)), model.get(&port).copied());
                match (table.find(&ends(port)), is_wanted) {
                    (None, true) => {
                        let next = table.next_index();
                        prop_assert_eq!(table.insert(ends(port).into()), next);
                        model.insert(port, next);
                    }
                    (Some(index), false) => {
                        prop_assert_eq!(table.remove(index), Some(ends(port).into()));
                        prop_assert_eq!((table.remove(index), table.get(index)), (None, None));
                        model.remove(&port);
                    }
                    _ => {}
                }
                prop_assert_eq!((table.len(), table.by_ends.len()), (model.len(), model.len()));
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            let mut all: Vec<_> = table.iter().map(|(_, ends)| ends.ends().guest.port()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_keys().collect::<Vec<_>>());
        }
    }
}
