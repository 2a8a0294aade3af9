//! Datagrams of one flow that came one after the other, gathered to go on as one: those of the guest's by one call,
//! after which the kernel cuts them apart (UDP_SEGMENT, udp(7)), at the end of its way through the protocols or in the
//! network card; those for the guest in one frame, where it takes such (USO; virtio 1.3, 5.1.6.2).
//!
//! All are of the same size, but for the last one, which may be shorter. Nothing waits here longer than one round of
//! the event loop.

use crate::packet::Payload;
use crate::sockets::datagram::Marks;

/// What was gathered.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Whose, and how marked; `None` when there is nothing.
    of: Option<(u32, Marks)>,
    /// Bytes of each datagram.
    size: u16,
    count: u16,
    bytes: Vec<u8>,
}

/// Most datagrams: what Linux took at first (UDP_MAX_SEGMENTS).
const MAX_COUNT: u16 = 64;
/// Most bytes of all: what fits one packet of either family.
const MAX_BYTES: usize = 65_000;
/// Larger datagrams gain nothing by being copied.
const MAX_SIZE: u32 = 16_384;

impl Train {
    /// Adds a datagram of flow `index`, if it goes with those that are there. Otherwise those are to be sent first.
    pub(super) fn add(&mut self, index: u32, marks: Marks, payload: Payload<'_>) -> bool {
        let Ok(length) = u16::try_from(payload.length()) else { return false };
        if length == 0 || payload.length() > MAX_SIZE {
            return false;
        }
        if self.of.is_none() {
            (self.of, self.size, self.count) = (Some((index, marks)), length, 0);
        }
        let is_complete = self.bytes.len() != usize::from(self.size) * usize::from(self.count);
        let (start, end) = (self.bytes.len(), self.bytes.len() + usize::from(length));
        if self.of != Some((index, marks))
            || is_complete
            || length > self.size
            || self.count >= MAX_COUNT
            || end > MAX_BYTES
        {
            return false;
        }
        self.bytes.resize(end, 0);
        payload.copy_to(self.bytes.get_mut(start..).unwrap_or_default());
        self.count += 1;
        true
    }

    /// Whose datagrams there are.
    pub(super) fn flow(&self) -> Option<u32> {
        self.of.map(|(index, _)| index)
    }

    /// Their bytes, how many are each one's, and their marks.
    pub(super) fn content(&self) -> Option<(&[u8], u16, Marks)> {
        self.of.map(|(_, marks)| (&self.bytes[..], self.size, marks))
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.of = None;
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { hop_limit: 64, traffic_class: 0 };

    fn add(train: &mut Train, index: u32, bytes: usize) -> bool {
        train.add(index, MARKS, Payload::of_bytes(&vec![1; bytes]))
    }

    #[test]
    fn datagrams_of_a_size_go_together_until_a_shorter_one() {
        let mut train = Train::default();
        assert_eq!(train.content(), None);
        assert!(add(&mut train, 3, 100) && add(&mut train, 3, 100));
        assert!(!add(&mut train, 4, 100), "another flow's");
        assert!(!add(&mut train, 3, 101), "longer");
        assert!(!train.add(3, Marks { hop_limit: 1, ..MARKS }, Payload::of_bytes(&[1; 100])), "other marks");
        assert!(!add(&mut train, 3, 0));
        assert!(add(&mut train, 3, 50));
        assert!(!add(&mut train, 3, 50) && !add(&mut train, 3, 100), "one was shorter");
        assert_eq!((train.flow(), train.content()), (Some(3), Some((&[1; 250][..], 100, MARKS))));
        train.clear();
        assert_eq!((train.flow(), train.content()), (None, None));
        assert!(add(&mut train, 4, 101));
    }

    #[test]
    fn trains_have_bounds() {
        for (bytes, most) in [(1, 64), (1400, 46), (16_384, 3), (16_385, 0)] {
            let mut train = Train::default();
            assert_eq!((0..100).take_while(|_| add(&mut train, 3, bytes)).count(), most);
            assert_eq!(train.flow().is_some(), most > 0);
        }
    }
}
