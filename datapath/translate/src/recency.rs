//! Flows in the order in which they were used last: which one ends next for having been silent, and which one makes
//! room for another.
//!
//! A doubly linked list through a table of indices: everything takes the same short time, however many there are. Knows
//! nothing of what the indices mean. Used by [`crate::udp`] and [`crate::icmp`].

use crate::time::Instant;

/// Indices by when each was used last.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// By index; `None`: not in the list.
    links: Vec<Option<Link>>,
    oldest: Option<u32>,
    newest: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    used: Instant,
    older: Option<u32>,
    newer: Option<u32>,
}

impl Recency {
    /// What it keeps of each index, in bytes.
    #[cfg(test)]
    pub(crate) const BYTES_OF_EACH: usize = size_of::<Option<Link>>();

    /// Says that `index` was used now. `now` does not go back.
    pub(crate) fn touch(&mut self, index: u32, now: Instant) {
        self.remove(index);
        let place = index as usize;
        if self.links.len() <= place {
            self.links.resize(place + 1, None);
        }
        let older = self.newest.replace(index);
        match older {
            Some(older) => self.change(older, |link| link.newer = Some(index)),
            None => self.oldest = Some(index),
        }
        if let Some(slot) = self.links.get_mut(place) {
            *slot = Some(Link { used: now, older, newer: None });
        }
    }

    /// Takes `index` out, if it is there.
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize).and_then(Option::take) else { return };
        match link.older {
            Some(older) => self.change(older, |other| other.newer = link.newer),
            None => self.oldest = link.newer,
        }
        match link.newer {
            Some(newer) => self.change(newer, |other| other.older = link.older),
            None => self.newest = link.older,
        }
    }

    /// The index that was used longest ago, and when.
    pub(crate) fn oldest(&self) -> Option<(u32, Instant)> {
        let index = self.oldest?;
        let link = self.links.get(index as usize)?.as_ref()?;
        Some((index, link.used))
    }

    fn change(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        if let Some(Some(link)) = self.links.get_mut(index as usize) {
            change(link);
        }
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn like_a_plain_queue(steps in proptest::collection::vec((0_u32..8, any::<bool>()), 0..200)) {
            let (start, mut recency, mut model) = (Instant::now(), Recency::default(), VecDeque::new());
            for (second, (index, touched)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(second as u64);
                model.retain(|&(other, _)| other != index);
                if touched {
                    recency.touch(index, now);
                    model.push_back((index, now));
                } else {
                    recency.remove(index);
                }
                prop_assert_eq!(recency.oldest(), model.front().copied());
            }
            while let Some(oldest) = model.pop_front() {
                prop_assert_eq!(recency.oldest(), Some(oldest));
                recency.remove(oldest.0);
            }
            prop_assert_eq!(recency.oldest(), None);
        }
    }
}
