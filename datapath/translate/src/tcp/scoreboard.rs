//! What of our data the guest has although something before it is missing, as its SACK options tell (RFC 2018, RFC
//! 6675).
//!
//! A few ranges, in order; when there are more, the last is forgotten, which costs a needless retransmission at worst.

use super::seq::Seq;

/// Ranges behind the first unacknowledged byte, ascending, apart from each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scoreboard {
    ranges: [(Seq, Seq); RANGES],
    count: usize,
}

impl Scoreboard {
    /// Adds a range, which must lie behind `una` and not be empty; returns how many of its bytes are new.
    pub(super) fn add(&mut self, una: Seq, first: Seq, end: Seq) -> u32 {
        let before = self.bytes();
        let (mut first, mut end) = (first, end);
        let mut kept = Self::default();
        for (low, high) in self.iter() {
            if high.is_before(first) || low.is_after(end) {
                kept.push(low, high);
            } else {
                first = first.min(low);
                end = end.max(high);
            }
        }
        *self = Self::default();
        let mut pending = Some((first, end));
        for (low, high) in kept.iter() {
            if let Some((first, end)) = pending
                && first.cmp_from(una, low).is_lt()
            {
                self.push(first, end);
                pending = None;
            }
            self.push(low, high);
        }
        if let Some((first, end)) = pending {
            self.push(first, end);
        }
        self.bytes().saturating_sub(before)
    }

    /// Everything before `una` is acknowledged.
    pub(super) fn acknowledge(&mut self, una: Seq) {
        let mut kept = Self::default();
        for (first, end) in self.iter().filter(|(_, end)| end.is_after(una)) {
            kept.push(first.max(una), end);
        }
        *self = kept;
    }

    /// The first hole at or behind `from` that has a range behind it: its first byte, and the one behind its last.
    pub(super) fn hole(&self, from: Seq) -> Option<(Seq, Seq)> {
        let mut at = from;
        for (first, end) in self.iter() {
            if at.is_before(first) {
                return Some((at, first));
            }
            at = at.max(end);
        }
        None
    }

    /// The first byte at or behind `from` that is in no range.
    pub(super) fn skip(&self, from: Seq) -> Seq {
        let inside = self.iter().find(|(first, end)| !first.is_after(from) && end.is_after(from));
        inside.map_or(from, |(_, end)| end)
    }

    /// How many bytes the guest has.
    pub(super) fn bytes(&self) -> u32 {
        self.iter().map(|(first, end)| end - first).fold(0, u32::wrapping_add)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn iter(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        self.ranges.iter().take(self.count).copied()
    }

    fn push(&mut self, first: Seq, end: Seq) {
        if let Some(range) = self.ranges.get_mut(self.count) {
            *range = (first, end);
            self.count += 1;
        }
    }
}

/// How many ranges are remembered.
const RANGES: usize = 16;

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(scoreboard: &Scoreboard, una: Seq) -> Vec<(u32, u32)> {
        scoreboard.iter().map(|(first, end)| (first - una, end - una)).collect()
    }

    #[test]
    fn ranges_are_joined_and_kept_in_order() {
        let una = Seq(u32::MAX - 5);
        let mut scoreboard = Scoreboard::default();
        for (first, end, new) in [(30, 40, 10), (10, 20, 10), (50, 60, 10), (20, 30, 10), (15, 18, 0), (5, 55, 15)] {
            assert_eq!(scoreboard.add(una, una + first, una + end), new);
        }
        assert_eq!(ranges(&scoreboard, una), [(5, 60)]);
        scoreboard.acknowledge(una + 20);
        assert_eq!(scoreboard.bytes(), 40);
        scoreboard.acknowledge(una + 60);
        assert!(scoreboard.is_empty());
    }

    #[test]
    fn holes_have_something_behind_them() {
        let mut scoreboard = Scoreboard::default();
        assert_eq!(scoreboard.hole(Seq(0)), None);
        scoreboard.add(Seq(0), Seq(10), Seq(20));
        scoreboard.add(Seq(0), Seq(30), Seq(40));
        assert_eq!(scoreboard.hole(Seq(0)), Some((Seq(0), Seq(10))));
        assert_eq!(scoreboard.hole(Seq(5)), Some((Seq(5), Seq(10))));
        assert_eq!(scoreboard.hole(Seq(10)), Some((Seq(20), Seq(30))));
        assert_eq!(scoreboard.hole(Seq(35)), None);
        assert_eq!((scoreboard.skip(Seq(9)), scoreboard.skip(Seq(10))), (Seq(9), Seq(20)));
    }

    proptest! {
        /// Against a bit per byte: what is told as sacked is, and where nothing was forgotten nothing is missing.
        #[test]
        fn it_agrees_with_a_bitmap(una: u32, adds in prop::collection::vec((0..190_u32, 1..20_u32), 0..30)) {
            let una = Seq(una);
            let mut scoreboard = Scoreboard::default();
            let mut bitmap = [false; 256];
            for (first, length) in adds {
                scoreboard.add(una, una + first, una + first + length);
                bitmap[first as usize..(first + length) as usize].fill(true);
            }
            let found = ranges(&scoreboard, una);
            prop_assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let mut covered = [false; 256];
            for (first, end) in &found {
                prop_assert!(first < end);
                covered[*first as usize..*end as usize].fill(true);
            }
            for (covered, sacked) in covered.iter().zip(bitmap) {
                prop_assert!(!covered || sacked);
                prop_assert!(found.len() == RANGES || *covered == sacked);
            }
        }
    }
}
