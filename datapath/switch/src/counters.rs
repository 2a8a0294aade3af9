//! What happened to the frames of a port.
//!
//! Two ledgers, each of which balances at any time:
//! - rx: `rx_frames` = `forwarded` + drops counted at rx + in flight;
//! - tx: `offered` = `tx_frames` + drops counted at tx + in flight;
//!
//! and over all ports the `copies` sent on are the frames `offered`. Each worker owns one set per port and is the only
//! writer of it, so counting is a plain add; [`PortTotals::sum`] reads outcomes before arrivals, so that "in flight" is
//! never negative.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use culvert_frame::{Direction, DropReason};

/// How many of a dropped frame's bytes are kept for showing.
pub const LAST_HEADER_BYTES: usize = 64;

/// One worker's counters for one port.
#[derive(Debug)]
#[repr(align(128))]
pub struct PortCounters {
    /// Frames that arrived.
    pub rx_frames: Counter,
    /// Their bytes, without virtio-net header and FCS.
    pub rx_bytes: Counter,
    /// Frames that went on to one or more ports.
    pub forwarded: Counter,
    /// To how many ports they went in all.
    pub copies: Counter,
    /// Sources that were not learned: the port's limit or the table's size was reached.
    pub not_learned: Counter,
    /// How often its guest had to wait for its rate: what it sent stayed in its ring.
    pub held: Counter,
    /// Frames that were to leave here.
    pub offered: Counter,
    /// Frames that left.
    pub tx_frames: Counter,
    /// Their bytes, without virtio-net header and FCS.
    pub tx_bytes: Counter,
    drops: [Counter; DropReason::COUNT],
    last: [LastHeader; DropReason::COUNT],
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes back what was added; only the owning worker may call this.
    pub(crate) fn take_back(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// The present count.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_frames: Counter::default(),
            rx_bytes: Counter::default(),
            forwarded: Counter::default(),
            copies: Counter::default(),
            not_learned: Counter::default(),
            held: Counter::default(),
            offered: Counter::default(),
            tx_frames: Counter::default(),
            tx_bytes: Counter::default(),
            drops: [const { Counter(AtomicU64::new(0)) }; DropReason::COUNT],
            last: [const { LastHeader::new() }; DropReason::COUNT],
        }
    }
}

impl PortCounters {
    /// Counts one refused frame and keeps its first bytes.
    #[cold]
    #[inline(never)]
    pub fn drop_frame(&self, reason: DropReason, length: u32, head: &[u8]) {
        if let (Some(count), Some(last)) = (self.drops.get(reason.index()), self.last.get(reason.index())) {
            count.add(1);
            last.set(length, head);
        }
    }

    /// After a panic: counts the frames that arrived, and of which nothing became, as [`DropReason::Failed`]; returns
    /// how many those are. Only the owning worker may call this, and its next one.
    pub(crate) fn fail_arrived(&self) -> u64 {
        let settled = self.forwarded.get() + self.dropped_at(Direction::Rx);
        self.fail(DropReason::Failed, self.rx_frames.get().saturating_sub(settled))
    }

    /// The same for frames that were offered, and neither left nor were refused: [`DropReason::Abandoned`].
    pub(crate) fn fail_offered(&self) {
        let settled = self.tx_frames.get() + self.dropped_at(Direction::Tx);
        self.fail(DropReason::Abandoned, self.offered.get().saturating_sub(settled));
    }

    fn fail(&self, reason: DropReason, count: u64) -> u64 {
        if let Some(drops) = self.drops.get(reason.index()) {
            drops.add(count);
        }
        count
    }

    fn dropped_at(&self, direction: Direction) -> u64 {
        DropReason::ALL
            .into_iter()
            .filter(|reason| reason.direction() == direction)
            .map(|reason| self.dropped(reason))
            .sum()
    }

    /// Frames refused for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.index()).map_or(0, Counter::get)
    }
}

/// The start of the last frame that was refused for one reason. One writer, which fills two places in turn, so that a
/// reader has the time until the next but one frame.
#[derive(Debug)]
struct LastHeader {
    /// How many were written; the last one is in the place of that number, modulo 2.
    count: AtomicU32,
    places: [HeaderPlace; 2],
}

#[derive(Debug)]
struct HeaderPlace {
    length: AtomicU32,
    words: [AtomicU64; LAST_HEADER_BYTES / 8],
}

impl HeaderPlace {
    const fn new() -> Self {
        Self { length: AtomicU32::new(0), words: [const { AtomicU64::new(0) }; LAST_HEADER_BYTES / 8] }
    }
}

impl LastHeader {
    const fn new() -> Self {
        Self { count: AtomicU32::new(0), places: [HeaderPlace::new(), HeaderPlace::new()] }
    }

    fn place(&self, count: u32) -> &HeaderPlace {
        let [even, odd] = &self.places;
        if count.is_multiple_of(2) { even } else { odd }
    }

    fn set(&self, length: u32, head: &[u8]) {
        // 0 means never: a count that wraps goes on at 2.
        let count = self.count.load(Ordering::Relaxed).checked_add(1).unwrap_or(2);
        let place = self.place(count);
        // Whoever sees what is written now sees that the count moved on since this place was the last one.
        fence(Ordering::Release);
        place.length.store(length, Ordering::Relaxed);
        let mut chunks = head.chunks(8);
        for word in &place.words {
            let mut bytes = [0; 8];
            let part = chunks.next().unwrap_or_default();
            bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            word.store(u64::from_be_bytes(bytes), Ordering::Relaxed);
        }
        self.count.store(count, Ordering::Release);
    }

    /// Count, length and bytes; `None` when there is none, or others came during each of many tries.
    fn get(&self) -> Option<(u32, u32, Vec<u8>)> {
        let mut words = [0; LAST_HEADER_BYTES / 8];
        let read = (0..1000).find_map(|_| {
            let count = self.count.load(Ordering::Acquire);
            let place = self.place(count);
            let length = place.length.load(Ordering::Relaxed);
            words.iter_mut().zip(&place.words).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            (self.count.load(Ordering::Relaxed) == count).then_some((count, length))
        });
        let (count, length) = read.filter(|(count, _)| *count > 0)?;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_be_bytes()).collect();
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Some((count, length, bytes))
    }
}

/// A port's counters over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Frames that arrived.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that went on to one or more ports.
    pub forwarded: u64,
    /// To how many ports they went in all.
    pub copies: u64,
    /// Sources that were not learned.
    pub not_learned: u64,
    /// How often its guest had to wait for its rate.
    pub held: u64,
    /// Frames that were to leave here.
    pub offered: u64,
    /// Frames that left.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// What was refused, reasons without any left out.
    pub drops: Vec<Drops>,
}

/// Frames of one port refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    /// Why.
    pub reason: DropReason,
    /// How many frames.
    pub count: u64,
    /// Length of the last one, in bytes.
    pub last_length: u32,
    /// Its first bytes, at most [`LAST_HEADER_BYTES`].
    pub last_header: Vec<u8>,
}

impl PortTotals {
    /// Sums up the sets of all workers.
    pub fn sum(sets: &[PortCounters]) -> Self {
        let total = |which: fn(&PortCounters) -> &Counter| sets.iter().map(|set| which(set).get()).sum::<u64>();
        let drops = DropReason::ALL.into_iter().filter_map(|reason| {
            let count = sets.iter().map(|set| set.dropped(reason)).sum::<u64>();
            let last = sets.iter().filter_map(|set| set.last.get(reason.index())?.get());
            // Which worker's was last cannot be known; the one with the most drops is as good as any.
            let (_, last_length, last_header) = last.max_by_key(|(count, ..)| *count).unwrap_or_default();
            (count > 0).then_some(Drops { reason, count, last_length, last_header })
        });
        let drops = drops.collect();
        let (tx_bytes, tx_frames) = (total(|set| &set.tx_bytes), total(|set| &set.tx_frames));
        let (copies, forwarded) = (total(|set| &set.copies), total(|set| &set.forwarded));
        fence(Ordering::Acquire);
        Self {
            drops,
            tx_bytes,
            tx_frames,
            copies,
            forwarded,
            not_learned: total(|set| &set.not_learned),
            held: total(|set| &set.held),
            offered: total(|set| &set.offered),
            rx_bytes: total(|set| &set.rx_bytes),
            rx_frames: total(|set| &set.rx_frames),
        }
    }

    /// Adds what was counted before, in another process. Of a reason's last headers these here stay.
    pub fn add(&mut self, before: &Self) {
        let Self { rx_frames, rx_bytes, forwarded, copies, not_learned, held, offered, tx_frames, tx_bytes, drops } =
            before;
        let sums = [
            (&mut self.rx_frames, rx_frames),
            (&mut self.rx_bytes, rx_bytes),
            (&mut self.forwarded, forwarded),
            (&mut self.copies, copies),
            (&mut self.not_learned, not_learned),
            (&mut self.held, held),
            (&mut self.offered, offered),
            (&mut self.tx_frames, tx_frames),
            (&mut self.tx_bytes, tx_bytes),
        ];
        sums.into_iter().for_each(|(sum, count)| *sum = sum.saturating_add(*count));
        for drops in drops {
            match self.drops.iter_mut().find(|here| here.reason == drops.reason) {
                Some(here) => here.count = here.count.saturating_add(drops.count),
                None => self.drops.push(drops.clone()),
            }
        }
    }

    /// Frames refused, counted on the given side.
    pub fn dropped(&self, direction: Direction) -> u64 {
        self.drops.iter().filter(|drops| drops.reason.direction() == direction).map(|drops| drops.count).sum()
    }

    /// Frames that arrived and of which it is not settled yet what becomes.
    pub fn rx_in_flight(&self) -> u64 {
        self.rx_frames.saturating_sub(self.forwarded + self.dropped(Direction::Rx))
    }

    /// Frames that are to leave and neither left nor were refused yet.
    pub fn tx_in_flight(&self) -> u64 {
        self.offered.saturating_sub(self.tx_frames + self.dropped(Direction::Tx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_keep_their_last_header() {
        let sets = [PortCounters::default(), PortCounters::default()];
        let frame: Vec<u8> = (0..100).collect();
        sets[0].drop_frame(DropReason::Runt, 9, &frame[..9]);
        sets[1].drop_frame(DropReason::NoBuffer, 1000, &frame);
        sets[1].drop_frame(DropReason::NoBuffer, 100, &frame[1..]);
        let totals = PortTotals::sum(&sets);
        assert_eq!(totals.drops.len(), 2);
        assert_eq!(totals.drops[0].last_header, frame[..9]);
        assert_eq!((totals.drops[1].count, totals.drops[1].last_length), (2, 100));
        assert_eq!(totals.drops[1].last_header, frame[1..65]);
        assert_eq!((totals.dropped(Direction::Rx), totals.dropped(Direction::Tx)), (1, 2));
    }

    #[test]
    fn what_was_counted_before_is_added() {
        let set = PortCounters::default();
        set.rx_frames.add(5);
        set.drop_frame(DropReason::Runt, 2, &[7, 7]);
        let drops = |reason, count| Drops { reason, count, last_length: 1, last_header: vec![1] };
        let before = PortTotals {
            rx_frames: 10,
            tx_bytes: u64::MAX,
            drops: vec![drops(DropReason::NoBuffer, 4), drops(DropReason::Runt, 3)],
            ..PortTotals::default()
        };
        let mut totals = PortTotals::sum(&[set]);
        totals.add(&before);
        assert_eq!((totals.rx_frames, totals.tx_bytes), (15, u64::MAX));
        assert_eq!((totals.dropped(Direction::Rx), totals.dropped(Direction::Tx)), (4, 4));
        assert_eq!(totals.drops[0].last_header, [7, 7]);
    }

    #[test]
    fn the_last_header_can_be_read_while_frames_are_dropped() {
        let counters = [PortCounters::default()];
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut mark = 0_u8;
                while !stop.load(Ordering::Relaxed) {
                    counters[0].drop_frame(DropReason::NoBuffer, 64, &[mark; 64]);
                    mark = mark.wrapping_add(1);
                    // As far apart as drops of a worker are.
                    (0..100).for_each(|_| std::hint::spin_loop());
                }
            });
            while counters[0].dropped(DropReason::NoBuffer) < 2 {}
            let mut seen = 0;
            for _ in 0..1000 {
                let totals = PortTotals::sum(&counters);
                let header = &totals.drops[0].last_header;
                assert!(header.windows(2).all(|pair| pair[0] == pair[1]), "a mixture of two frames: {header:?}");
                seen += usize::from(header.len() == 64);
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(seen, 1000);
        });
    }

    #[test]
    fn the_ledgers_balance() {
        let set = PortCounters::default();
        set.rx_frames.add(5);
        set.forwarded.add(3);
        set.drop_frame(DropReason::Runt, 1, &[0]);
        set.offered.add(2);
        set.tx_frames.add(1);
        let totals = PortTotals::sum(&[set]);
        assert_eq!((totals.rx_in_flight(), totals.tx_in_flight()), (1, 1));
    }
}
