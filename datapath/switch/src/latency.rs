//! How long frames of one port stay in Culvert, for somebody who looks on (`culvertctl latency`).
//!
//! Time begins when a worker looks into the ring or device that a burst comes from, and ends when its frames lie in the ring that they went to,
//! published, or are the device's. How long a frame waited in its guest's ring before nobody here knows.
//!
//! The worker that takes a burst up also delivers it: the processor's clock is read once before and once for each port that it goes to, and
//! nowhere while nobody measures. Frames that are dropped have no time. Workers count in memory that is all there before, and never wait.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use culvert_frame::Direction;
use culvert_guest::cycle_clock;

use crate::port::{MAX_PORTS, Port, PortId};

/// The times of one port's frames: of those that came from it, by where they went, and of those that went to it, by where they came from.
#[derive(Debug)]
pub struct Latency {
    from: Side,
    to: Side,
    scale: u64,
}

/// Frames of one direction, by the port at their other end.
struct Side {
    /// For each port the place of its times in `times`, from 1; 0: none yet.
    places: Box<[AtomicU8]>,
    /// How many places were given away.
    given: AtomicU8,
    times: Box<[Times]>,
}

/// How many frames stayed how long.
struct Times(Box<[AtomicU64]>);

/// A range of times, and how many frames stayed so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The shortest time, in nanoseconds.
    pub from_ns: u64,
    /// The longest time, in nanoseconds: at most a 32nd more than the shortest.
    pub to_ns: u64,
    /// How many frames.
    pub frames: u64,
}

/// The times of frames between the port and another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTimes {
    /// Names the other port's place among those of its direction, from 1 on, for as long as is measured; 0 is the place of all ports that came
    /// when the others were given away.
    pub place: u8,
    /// The other port, if it is still there.
    pub port: Option<PortId>,
    /// Ranges with frames, in ascending order.
    pub ranges: Vec<Range>,
}

/// How many ports are told apart in each direction; the times of all others are counted together.
pub const MOST_PEERS: u8 = 64;

/// Bits of a time that are kept.
const KEPT_BITS: u32 = 5;
/// Times up to that are told apart (17 s).
const LONGEST_NS: u64 = (1 << 34) - 1;
const RANGES: usize = index_of(LONGEST_NS) + 1;

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// Nothing is measured yet.
    pub fn new() -> Self {
        Self { from: Side::new(), to: Side::new(), scale: cycle_clock::nanoseconds(1 << 32) }
    }

    /// The times of frames that went this way: rx came from the port, tx went to it.
    pub fn pairs(&self, direction: Direction) -> Vec<PairTimes> {
        self.side(direction).pairs()
    }

    /// The times of all frames that went this way, in ascending order.
    pub fn all(&self, direction: Direction) -> Vec<Range> {
        let side = self.side(direction);
        (0..RANGES).filter_map(|index| range(index, side.times.iter().map(|times| times.count(index)).sum())).collect()
    }

    /// A port has gone: what is of its number from now on is another one.
    pub fn forget(&self, port: PortId) {
        for side in [&self.from, &self.to] {
            if let Some(place) = side.places.get(port.index()) {
                place.store(0, Ordering::Relaxed);
            }
        }
    }

    const fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Rx => &self.from,
            Direction::Tx => &self.to,
        }
    }

    fn count(&self, direction: Direction, other: PortId, ticks: u64, frames: u64) {
        let ns = u64::try_from((u128::from(ticks) * u128::from(self.scale)) >> 32).unwrap_or(u64::MAX);
        self.side(direction).count(other, ns, frames);
    }
}

/// A burst whose time is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed<'t> {
    /// Where it came from.
    pub(crate) source: &'t Port,
    /// When, by [`cycle_clock::ticks`].
    pub(crate) begun: u64,
}

impl Timed<'_> {
    /// So many of its frames are at `port` now.
    pub(crate) fn arrived(&self, port: &Port, frames: u64) {
        let ticks = cycle_clock::ticks().saturating_sub(self.begun);
        if frames == 0 {
            return;
        }
        for latency in &self.source.latencies {
            latency.count(Direction::Rx, port.id, ticks, frames);
        }
        for latency in &port.latencies {
            latency.count(Direction::Tx, self.source.id, ticks, frames);
        }
    }
}

impl Side {
    fn new() -> Self {
        Self {
            places: (0..MAX_PORTS).map(|_| AtomicU8::new(0)).collect(),
            given: AtomicU8::new(0),
            times: (0..=MOST_PEERS).map(|_| Times((0..RANGES).map(|_| AtomicU64::new(0)).collect())).collect(),
        }
    }

    fn count(&self, other: PortId, ns: u64, frames: u64) {
        let Some(place) = self.places.get(other.index()) else { return };
        let place = match place.load(Ordering::Relaxed) {
            0 => self.give(place),
            place => place,
        };
        // The first one is that of all others: a port without a place has 0.
        if let Some(times) = self.times.get(usize::from(place)) {
            times.add(ns, frames);
        }
    }

    /// Gives a port its place; none if all are given away.
    fn give(&self, place: &AtomicU8) -> u8 {
        let next = |given: u8| (given < MOST_PEERS).then_some(given.wrapping_add(1));
        let Ok(given) = self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) else { return 0 };
        let mine = given.wrapping_add(1);
        // Another worker may have been faster; then nobody has this place.
        place.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|theirs| theirs, |_| mine)
    }

    fn pairs(&self) -> Vec<PairTimes> {
        let mut ports = [None; MOST_PEERS as usize + 1];
        for (number, place) in (0..).zip(&self.places) {
            let place = usize::from(place.load(Ordering::Relaxed));
            if let Some(port) = ports.get_mut(place).filter(|_| place != 0) {
                *port = Some(PortId(number));
            }
        }
        let places = (0..).zip(ports).zip(&self.times);
        let pairs = places.map(|((place, port), times)| PairTimes { place, port, ranges: times.ranges() });
        pairs.filter(|pair| !pair.ranges.is_empty()).collect()
    }
}

impl Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("given", &self.given).finish_non_exhaustive()
    }
}

impl Times {
    fn add(&self, ns: u64, frames: u64) {
        if let Some(count) = self.0.get(index_of(ns)) {
            count.fetch_add(frames, Ordering::Relaxed);
        }
    }

    fn count(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn ranges(&self) -> Vec<Range> {
        (0..RANGES).filter_map(|index| range(index, self.count(index))).collect()
    }
}

/// The number of the range that a time is in: as in an HDR histogram each doubling has 32 of them.
#[expect(clippy::cast_possible_truncation, reason = "below 1000: the time has 34 bits at most")]
const fn index_of(ns: u64) -> usize {
    let ns = if ns < LONGEST_NS { ns } else { LONGEST_NS };
    let octave = (u64::BITS - ns.leading_zeros()).saturating_sub(KEPT_BITS + 1);
    (((octave as u64) << KEPT_BITS) + (ns >> octave)) as usize
}

/// The range of that number, if it has frames.
fn range(index: usize, frames: u64) -> Option<Range> {
    if frames == 0 {
        return None;
    }
    let index = u64::try_from(index).ok()?;
    let octave = (index >> KEPT_BITS).saturating_sub(1);
    let kept = index.saturating_sub(octave << KEPT_BITS);
    let from_ns = kept << octave;
    Some(Range { from_ns, to_ns: from_ns + (1 << octave) - 1, frames })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_one_narrow_range() {
        let mut last = None;
        for index in 0..RANGES {
            let Range { from_ns, to_ns, .. } = range(index, 1).unwrap();
            assert_eq!((index_of(from_ns), index_of(to_ns)), (index, index));
            assert_eq!(from_ns, last.map_or(0, |last: u64| last + 1));
            assert!(to_ns - from_ns <= from_ns / 32, "{from_ns} to {to_ns}");
            last = Some(to_ns);
        }
        assert_eq!(last, Some(LONGEST_NS));
        assert_eq!(index_of(u64::MAX), RANGES - 1);
    }

    #[test]
    fn times_are_kept_by_port_and_direction() {
        let latency = Latency { scale: 1 << 32, ..Latency::new() };
        latency.count(Direction::Rx, PortId(7), 1000, 32);
        latency.count(Direction::Rx, PortId(7), 10, 1);
        latency.count(Direction::Tx, PortId(7), 20, 2);
        latency.count(Direction::Rx, PortId(1023), 30, 3);
        latency.count(Direction::Rx, PortId(u16::MAX), 30, 3);
        let times = |from_ns, to_ns, frames| Range { from_ns, to_ns, frames };
        let pair = |place, port, ranges: &[Range]| PairTimes { place, port, ranges: ranges.to_vec() };
        let seven = [times(10, 10, 1), times(992, 1007, 32)];
        assert_eq!(
            latency.pairs(Direction::Rx),
            [pair(1, Some(PortId(7)), &seven), pair(2, Some(PortId(1023)), &[times(30, 30, 3)])]
        );
        assert_eq!(latency.pairs(Direction::Tx), [pair(1, Some(PortId(7)), &[times(20, 20, 2)])]);
        assert_eq!(latency.all(Direction::Rx), [times(10, 10, 1), times(30, 30, 3), times(992, 1007, 32)]);
        // What is behind a number that was free meanwhile is another port.
        latency.forget(PortId(7));
        latency.count(Direction::Rx, PortId(7), 40, 4);
        assert_eq!(
            latency.pairs(Direction::Rx),
            [
                pair(1, None, &seven),
                pair(2, Some(PortId(1023)), &[times(30, 30, 3)]),
                pair(3, Some(PortId(7)), &[times(40, 40, 4)])
            ]
        );
    }

    #[test]
    fn more_ports_than_are_told_apart_are_counted_together() {
        let latency = Latency::new();
        for port in 0..u16::from(MOST_PEERS) + 10 {
            latency.count(Direction::Tx, PortId(port), 5, 1);
        }
        let pairs = latency.pairs(Direction::Tx);
        assert_eq!(pairs.len(), usize::from(MOST_PEERS) + 1);
        let frames = |pair: &PairTimes| pair.ranges.iter().map(|range| range.frames).sum::<u64>();
        assert_eq!((pairs[0].place, pairs[0].port, frames(&pairs[0])), (0, None, 10));
        assert!(pairs[1..].iter().all(|pair| pair.port.is_some() && frames(pair) == 1));
    }
}
