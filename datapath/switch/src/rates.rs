//! How much a port may send and receive: bytes and frames a second, in each direction.
//!
//! What is counted is what would be on a wire: frames after segmentation (one of 64 KiB that is still to be cut counts as its
//! segments do, each with its headers), with Ethernet header and tags, without FCS, preamble and gap.
//!
//! Each rate is a token [bucket](crate::bucket): `burst` may pass at once. A frame passes when anything is left, whatever its
//! length; what it took too much is paid before the next one passes, so that over time not a byte too much does. Where several
//! workers move a port's frames at one moment, each may pass a frame (towards us: a burst) on what is left, and that is paid as well.
//!
//! Time is an argument. Workers share a [`Meter`] through an `Arc`; `metering` asks it for whole bursts.

use std::time::Duration;

use culvert_frame::Offload;

use crate::bucket::Bucket;

/// The rates of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of what arrives at the port: a guest sends it.
    pub rx: Rate,
    /// Of what leaves to it.
    pub tx: Rate,
}

/// What may pass in one direction; `None` is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    pub bytes: Option<Allowance>,
    /// Frames.
    pub frames: Option<Allowance>,
}

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// A second; 0 lets nothing pass but one burst.
    pub per_second: u64,
    /// At once; 0 lets nothing pass.
    pub burst: u64,
}

/// What a frame is on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Bytes, without FCS.
    pub bytes: u64,
    /// Frames.
    pub frames: u32,
}

/// A port's rates and what was spent of them.
#[derive(Debug)]
pub struct Meter {
    /// Of what arrives.
    pub rx: Gate,
    /// Of what leaves.
    pub tx: Gate,
}

/// One direction of a [`Meter`].
#[derive(Debug)]
pub struct Gate {
    bytes: Option<Bucket>,
    frames: Option<Bucket>,
}

/// What may pass a [`Gate`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    bytes: u64,
    frames: u64,
}

/// Bytes that may pass at once where nothing is said: a frame of 64 KiB that is cut into segments of an MTU of 1500, and a frame.
pub const LEAST_BURST_BYTES: u64 = 72 * 1024;

/// Frames that may pass at once where nothing is said: one burst of a worker.
pub const LEAST_BURST_FRAMES: u64 = 32;

/// What is at least waited for where frames are held back, in parts of a second: they come in bursts then, not one by one.
const LEAST_WAIT: u64 = 1000;

/// What is waited for at most: then it is looked at again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Rate {
    /// Whether there is none, so that [`Gate`] need not be asked.
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.bytes.is_none() && self.frames.is_none()
    }
}

impl Allowance {
    /// So many bytes a second, and `burst` at once: 10 ms worth where nothing is said, and [`LEAST_BURST_BYTES`] at least.
    pub fn of_bytes(per_second: u64, burst: Option<u64>) -> Self {
        Self { per_second, burst: burst.unwrap_or_else(|| (per_second / 100).max(LEAST_BURST_BYTES)) }
    }

    /// So many frames a second, and `burst` at once: 10 ms worth where nothing is said, and [`LEAST_BURST_FRAMES`] at least.
    pub fn of_frames(per_second: u64, burst: Option<u64>) -> Self {
        Self { per_second, burst: burst.unwrap_or_else(|| (per_second / 100).max(LEAST_BURST_FRAMES)) }
    }

    const fn bucket(self) -> Bucket {
        Bucket::new(self.per_second, self.burst)
    }

    /// Units that are waited for where frames are held back.
    fn worth_waiting_for(self) -> u64 {
        (self.per_second / LEAST_WAIT).min(self.burst / 2).max(1)
    }
}

impl Wire {
    /// A frame of `length` bytes to which that is left to be done.
    #[inline]
    pub fn of(offload: Offload, length: u32) -> Self {
        let (frames, headers) = match offload {
            Offload::None | Offload::Valid | Offload::Checksum(_) => (1, 0),
            Offload::Segment(segmentation) => (segmentation.segments(length).max(1), segmentation.header_bytes),
        };
        // The first segment has the frame's own headers.
        Self { bytes: u64::from(length) + u64::from(headers) * u64::from(frames - 1), frames }
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, frames: self.frames.saturating_add(other.frames) }
    }
}

impl Meter {
    /// Full buckets for these rates.
    pub fn new(rates: &Rates) -> Self {
        Self { rx: Gate::new(&rates.rx), tx: Gate::new(&rates.tx) }
    }
}

impl Gate {
    fn new(rate: &Rate) -> Self {
        Self { bytes: rate.bytes.map(Allowance::bucket), frames: rate.frames.map(Allowance::bucket) }
    }

    /// What may pass now. `now` is the time since any fixed moment.
    pub fn room(&self, now: Duration) -> Room {
        let room = |bucket: &Option<Bucket>| bucket.as_ref().map_or(u64::MAX, |bucket| bucket.room(now));
        Room { bytes: room(&self.bytes), frames: room(&self.frames) }
    }

    /// Counts what has passed.
    pub fn spend(&self, wire: Wire, now: Duration) {
        self.bytes.iter().for_each(|bucket| bucket.spend(wire.bytes, now));
        self.frames.iter().for_each(|bucket| bucket.spend(wire.frames.into(), now));
    }

    /// How long frames that may not pass now are held back: until a millisecond's worth may pass or half of a burst, and at most
    /// [`LONGEST_WAIT`]. `None`: some may pass.
    pub fn hold(&self, rate: &Rate, now: Duration) -> Option<Duration> {
        if !self.room(now).is_empty() {
            return None;
        }
        let wait = |bucket: &Option<Bucket>, allowance: Option<Allowance>| {
            let units = allowance.map_or(1, Allowance::worth_waiting_for);
            bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(units, now))
        };
        Some(wait(&self.bytes, rate.bytes).max(wait(&self.frames, rate.frames)).min(LONGEST_WAIT))
    }
}

impl Room {
    /// Whether nothing may pass.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }

    /// Whether one more frame may pass; if so, it is taken of what is left.
    #[inline]
    pub fn take(&mut self, wire: Wire) -> bool {
        if self.is_empty() {
            return false;
        }
        self.bytes = self.bytes.saturating_sub(wire.bytes);
        self.frames = self.frames.saturating_sub(wire.frames.into());
        true
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_frame::{SegmentKind, Segmentation};

    const SECOND: Duration = Duration::from_secs(1);

    const fn frames(bytes: u64) -> Wire {
        Wire { bytes, frames: 1 }
    }

    fn gate(bytes: Option<Allowance>, frames: Option<Allowance>) -> (Gate, Rate) {
        let rate = Rate { bytes, frames };
        (Gate::new(&rate), rate)
    }

    /// What passes of frames of that length, in bytes, for somebody who always has more: one burst of 32 whenever the gate lets
    /// some pass, until `end`.
    fn passed(gate: &Gate, rate: &Rate, length: u64, end: Duration) -> u64 {
        let (mut now, mut passed) = (Duration::ZERO, 0);
        while now < end {
            let mut room = gate.room(now);
            let burst = (0..32).take_while(|_| room.take(frames(length))).count() as u64;
            gate.spend(Wire { bytes: burst * length, frames: u32::try_from(burst).unwrap() }, now);
            passed += burst * length;
            // Less than a nanosecond at the fastest rate is taken for one.
            now += gate.hold(rate, now).unwrap_or(Duration::from_nanos(100));
        }
        passed
    }

    #[test]
    fn over_long_runs_no_byte_too_much_passes_and_hardly_one_too_little() {
        // 1 Mbit/s to 400 Gbit/s, for some 100,000 frames each.
        for (rate, seconds) in [(125_000, 1000), (1_250_000, 100), (125_000_000, 2), (12_500_000_001, 1)] {
            for length in [60, 1514, 9014] {
                let (gate, limits) = gate(Some(Allowance::of_bytes(rate, None)), None);
                let burst = limits.bytes.unwrap().burst;
                let all = passed(&gate, &limits, length, SECOND * seconds);
                let (least, most) = (rate * u64::from(seconds), rate * u64::from(seconds) + burst + length);
                // What it waits for may be left at the end.
                assert!((least - rate / 500 - length..=most).contains(&all), "{rate} {length}: {least} {all} {most}");
            }
        }
    }

    #[test]
    fn two_workers_share_one_rate() {
        let (gate, _) = gate(Some(Allowance::of_bytes(10_000_000, None)), None);
        let worker = || {
            let mut passed = 0;
            for now in (0..=100_000).map(|step| Duration::from_micros(step * 20)) {
                let mut room = gate.room(now);
                let burst = (0..8).take_while(|_| room.take(frames(1514))).count() as u64;
                gate.spend(Wire { bytes: burst * 1514, frames: 8 }, now);
                passed += burst * 1514;
            }
            passed
        };
        let both: u64 = std::thread::scope(|scope| {
            [scope.spawn(worker), scope.spawn(worker)].map(|thread| thread.join().unwrap()).iter().sum()
        });
        // Two seconds and a full bucket, and a burst of each.
        let most = 20_000_000 + 100_000 + 2 * 8 * 1514;
        assert!((20_000_000..=most).contains(&both), "{both}");
    }

    #[test]
    fn time_that_stands_still_lets_one_burst_pass() {
        let (gate, limits) = gate(Some(Allowance { per_second: 1_000_000, burst: 15_140 }), None);
        for now in [SECOND, 100 * SECOND, 1_000_000 * SECOND] {
            let mut room = gate.room(now);
            let burst = (0..1000).take_while(|_| room.take(frames(1514))).count();
            gate.spend(Wire { bytes: burst as u64 * 1514, frames: 10 }, now);
            assert_eq!((burst, gate.room(now).is_empty()), (10, true));
            assert!((0..1000).all(|_| !gate.room(now).take(frames(1))));
        }
        // Whoever is behind waits, and nothing overflows.
        assert!(gate.hold(&limits, Duration::ZERO).is_some_and(|wait| wait <= LONGEST_WAIT));
    }

    #[test]
    fn frames_and_bytes_hold_both() {
        let (gate, limits) = gate(
            Some(Allowance { per_second: 1_000_000, burst: 10_000 }),
            Some(Allowance { per_second: 100, burst: 5 }),
        );
        let mut room = gate.room(SECOND);
        assert_eq!((0..100).take_while(|_| room.take(frames(60))).count(), 5);
        room = gate.room(SECOND);
        assert_eq!((0..100).take_while(|_| room.take(frames(6000))).count(), 2);
        gate.spend(Wire { bytes: 60, frames: 5 }, SECOND);
        assert_eq!(gate.hold(&limits, SECOND), Some(SECOND / 100));
        gate.spend(Wire { bytes: 109_940, frames: 0 }, SECOND);
        // The debt of bytes takes 100 ms, and a millisecond's worth one more.
        assert_eq!(gate.hold(&limits, SECOND), Some(SECOND * 101 / 1000));
    }

    #[test]
    fn nothing_passes_where_nothing_may() {
        let (gate, limits) = gate(None, Some(Allowance { per_second: 0, burst: 0 }));
        assert!(gate.room(SECOND).is_empty());
        assert_eq!(gate.hold(&limits, SECOND), Some(LONGEST_WAIT));
        assert!(Rate::default().is_none() && !limits.is_none());
    }

    #[test]
    fn bursts_have_a_least_size() {
        let bytes = |per_second| Allowance::of_bytes(per_second, None).burst;
        assert_eq!([bytes(1), bytes(1_250_000), bytes(125_000_000)], [73_728, 73_728, 1_250_000]);
        let frames = |per_second| Allowance::of_frames(per_second, None).burst;
        assert_eq!([frames(1), frames(100_000)], [32, 1000]);
        assert_eq!(Allowance::of_bytes(1, Some(7)).burst, 7);
        // The longest frame, in its segments of an MTU of 1500, over IPv6 with a tag and options of TCP.
        let segments = 65_535_u64.div_ceil(1500 - 40 - 32);
        assert!(LEAST_BURST_BYTES > 65_535 + segments * (18 + 40 + 32) + 1518);
    }

    #[test]
    fn a_frame_that_is_to_be_cut_counts_as_its_segments() {
        let kind = SegmentKind::Tcp4;
        let segmentation = Segmentation { kind, ecn: false, size: 1000, network: 14, transport: 34, header_bytes: 54 };
        // 54 bytes of headers and 1000 of payload in each, 500 in the last one.
        let cut = Wire::of(Offload::Segment(segmentation), 54 + 3500);
        assert_eq!(cut, Wire { bytes: 4 * 54 + 3500, frames: 4 });
        assert_eq!(Wire::of(Offload::None, 1514), Wire { bytes: 1514, frames: 1 });
    }
}
