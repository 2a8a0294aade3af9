//! Timers on a wheel: one for each flow at most, set, moved and stopped in the same short time however many there are.
//!
//! Four wheels of 256 places turn in each other, as the digits of a counter do: a place of the first is a millisecond,
//! one of the last four and a half hours. A timer lies on the wheel of the highest digit in which its time differs from
//! the present, and comes down when that digit is reached (Varghese and Lauck, "Hashed and hierarchical timing
//! wheels"). So nobody has to wake for those that are far ahead, but for once in 256 places of their wheel.

use std::time::Duration;

use crate::time::Instant;

/// Timers by the index of their flow: twelve bytes each.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    /// When millisecond 0 was.
    epoch: Instant,
    /// Up to which millisecond everything is done.
    present: u64,
    /// The first timer of each place.
    places: Box<[[u32; PLACES]; WHEELS]>,
    /// Which places have any, a bit each.
    taken: [[u64; PLACES / 64]; WHEELS],
    timers: Vec<Timer>,
}

const WHEELS: usize = 4;
const PLACES: usize = 256;

/// No timer.
const NONE: u32 = u32::MAX;

/// In [`Timer::previous`]: there is none, and the rest is the place. There are fewer flows than that: `Limits` says so.
const FIRST: u32 = 1 << 31;

/// No timer is set further ahead than that, in milliseconds: 24 days. Such a one comes too early.
const FARTHEST: u64 = 1 << 31;

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The millisecond, its lower half.
    at: u32,
    next: u32,
    /// The one before it. Of the first of a place, [`FIRST`] and that; of one that is not set, [`NONE`].
    previous: u32,
}

impl Timer {
    const UNSET: Self = Self { at: 0, next: NONE, previous: NONE };

    const fn is_set(&self) -> bool {
        self.previous != NONE
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    wheel: u8,
    digit: u8,
}

impl Place {
    /// As [`Timer::previous`] of its first one.
    fn to_previous(self) -> u32 {
        FIRST | u32::from(u16::from_le_bytes([self.digit, self.wheel]))
    }

    fn from_previous(previous: u32) -> Option<Self> {
        let [digit, wheel, ..] = previous.to_le_bytes();
        (previous & FIRST != 0).then_some(Self { wheel, digit })
    }
}

impl TimerWheel {
    /// What it keeps of each timer, in bytes.
    #[cfg(test)]
    pub(crate) const BYTES_OF_EACH: usize = size_of::<Timer>();

    /// No timers.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            present: 0,
            places: Box::new([[NONE; PLACES]; WHEELS]),
            taken: [[0; PLACES / 64]; WHEELS],
            timers: Vec::new(),
        }
    }

    /// How many are set.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.timers.iter().filter(|timer| timer.is_set()).count()
    }

    /// Sets the timer of `index`, unless it is set to an earlier time. It comes up to a millisecond late, and too early
    /// where `at` is more than 24 days ahead.
    pub(crate) fn set_earlier(&mut self, index: u32, at: Instant) {
        let at = at.saturating_duration_since(self.epoch).as_nanos().div_ceil(1_000_000);
        let ahead = u64::try_from(at).unwrap_or(u64::MAX).saturating_sub(self.present).clamp(1, FARTHEST);
        let at = low(self.present + ahead);
        let present = low(self.present);
        let is_earlier = |timer: &Timer| timer.at.wrapping_sub(present) <= at.wrapping_sub(present);
        if self.timers.get(index as usize).is_some_and(|timer| timer.is_set() && is_earlier(timer)) {
            return;
        }
        self.stop(index);
        if self.timers.len() <= index as usize {
            self.timers.resize(index as usize + 1, Timer::UNSET);
        }
        self.put(index, at);
    }

    /// Stops the timer of `index`, if it is set.
    pub(crate) fn stop(&mut self, index: u32) {
        let Some(timer) = self.timers.get_mut(index as usize) else { return };
        if !timer.is_set() {
            return;
        }
        let Timer { next, previous, .. } = std::mem::replace(timer, Timer::UNSET);
        match Place::from_previous(previous) {
            Some(place) => self.set_first(place, next),
            None => {
                if let Some(before) = self.timers.get_mut(previous as usize) {
                    before.next = next;
                }
            }
        }
        if let Some(after) = self.timers.get_mut(next as usize) {
            after.previous = previous;
        }
    }

    /// When [`Self::expire`] has something to do: perhaps only to bring timers down.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (_, at) = self.next_place()?;
        Some(self.epoch + Duration::from_millis(at))
    }

    /// Stops a timer whose time has come, and tells whose it was; to be called until there is none.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u32> {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
        while let Some((place, at)) = self.next_place()
            && at <= now
        {
            self.present = at;
            if place.wheel == 0 {
                let index = self.first(place);
                self.stop(index);
                return Some(index);
            }
            self.bring_down(place);
        }
        self.present = self.present.max(now);
        None
    }

    /// The timers of a place whose time has begun go to where they belong now.
    fn bring_down(&mut self, place: Place) {
        let mut index = self.first(place);
        self.set_first(place, NONE);
        while let Some(&Timer { at, next, .. }) = self.timers.get(index as usize) {
            self.put(index, at);
            index = next;
        }
    }

    /// The next place that has timers, and when its time begins.
    fn next_place(&self) -> Option<(Place, u64)> {
        let present = low(self.present);
        (0..).zip(&self.taken).find_map(|(wheel, taken)| {
            let shift = 8 * u32::from(wheel);
            let [now, ..] = (present >> shift).to_le_bytes();
            // When the place of digit 0 begins.
            let start = present & u32::MAX.checked_shl(shift + 8).unwrap_or(0);
            // The present place of the first wheel may have some yet. The last wheel's places behind the present one are
            // those of its next turn.
            let from = if wheel == 0 { usize::from(now) } else { usize::from(now) + 1 };
            let digit = next_bit(taken, from).or_else(|| if wheel == 3 { next_bit(taken, 0) } else { None })?;
            let at = start | u32::from(digit) << shift;
            Some((Place { wheel, digit }, self.present + u64::from(at.wrapping_sub(present))))
        })
    }

    fn put(&mut self, index: u32, at: u32) {
        let differs = at ^ low(self.present);
        let wheel = u8::try_from(differs.checked_ilog2().unwrap_or(0) / 8).unwrap_or(0);
        let digit = at.to_le_bytes().get(usize::from(wheel)).copied().unwrap_or(0);
        let place = Place { wheel, digit };
        let next = self.first(place);
        if let Some(after) = self.timers.get_mut(next as usize) {
            after.previous = index;
        }
        if let Some(timer) = self.timers.get_mut(index as usize) {
            *timer = Timer { at, next, previous: place.to_previous() };
        }
        self.set_first(place, index);
    }

    fn first(&self, place: Place) -> u32 {
        let wheel = self.places.get(usize::from(place.wheel));
        wheel.and_then(|wheel| wheel.get(usize::from(place.digit))).copied().unwrap_or(NONE)
    }

    fn set_first(&mut self, place: Place, index: u32) {
        let (wheel, digit) = (usize::from(place.wheel), usize::from(place.digit));
        if let Some(first) = self.places.get_mut(wheel).and_then(|wheel| wheel.get_mut(digit)) {
            *first = index;
        }
        if let Some(bits) = self.taken.get_mut(wheel).and_then(|taken| taken.get_mut(digit / 64)) {
            let bit = 1 << (digit % 64);
            *bits = if index == NONE { *bits & !bit } else { *bits | bit };
        }
    }
}

/// The lower half.
fn low(millisecond: u64) -> u32 {
    u32::try_from(millisecond & u64::from(u32::MAX)).unwrap_or(0)
}

/// The first bit that is set at or behind `from`.
fn next_bit(bits: &[u64; PLACES / 64], from: usize) -> Option<u8> {
    let (word, bit) = (from / 64, from % 64);
    let first = bits.get(word)? & (u64::MAX << bit);
    let words = std::iter::once(first).chain(bits.iter().skip(word + 1).copied());
    let (at, word) = (word..).zip(words).find(|(_, word)| *word != 0)?;
    u8::try_from(at * 64 + word.trailing_zeros() as usize).ok()
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set { index: u32, ahead: u64 },
        Stop { index: u32 },
        Pass { millis: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let time = || prop_oneof![0..20_u64, 0..600_u64, 0..100_000_u64, 0..30_000_000_u64, 0..2_000_000_000_u64];
        let step = prop_oneof![
            4 => (0..40_u32, time()).prop_map(|(index, ahead)| Step::Set { index, ahead }),
            1 => (0..40_u32).prop_map(|index| Step::Stop { index }),
            3 => time().prop_map(|millis| Step::Pass { millis }),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn like_a_plain_map(steps in steps()) {
            let epoch = Instant::now();
            let (mut wheel, mut model) = (TimerWheel::new(epoch), BTreeMap::<u32, u64>::new());
            let at = |millis| epoch + Duration::from_millis(millis);
            let (mut now, mut woken) = (0, 0);
            for step in steps {
                match step {
                    Step::Set { index, ahead } => {
                        wheel.set_earlier(index, at(now + ahead));
                        let time = now + ahead.max(1);
                        model.entry(index).and_modify(|before| *before = time.min(*before)).or_insert(time);
                    }
                    Step::Stop { index } => {
                        wheel.stop(index);
                        model.remove(&index);
                    }
                    Step::Pass { millis } => {
                        let end = now + millis;
                        // As the event loop does: it sleeps until the deadline.
                        while let Some(deadline) = wheel.deadline().filter(|deadline| *deadline <= at(end)) {
                            let first = model.values().min().copied();
                            prop_assert!(first.is_some_and(|first| deadline <= at(first)), "not after the first");
                            while let Some(index) = wheel.expire(deadline) {
                                prop_assert_eq!(model.remove(&index).map(at), Some(deadline));
                            }
                            woken += 1;
                        }
                        prop_assert_eq!(wheel.expire(at(end)), None);
                        now = end;
                        prop_assert!(model.values().all(|time| *time > now));
                    }
                }
                prop_assert_eq!(wheel.deadline().is_some(), !model.is_empty());
            }
            prop_assert!(woken <= 4 * 200, "each timer comes down three times at most");
        }
    }

    #[test]
    fn fractions_of_milliseconds_are_not_too_early() {
        let epoch = Instant::now();
        let mut wheel = TimerWheel::new(epoch);
        let at = epoch + Duration::from_micros(5300);
        wheel.set_earlier(0, at);
        assert_eq!(wheel.expire(at), None);
        assert_eq!(wheel.expire(epoch + Duration::from_millis(6)), Some(0));
    }

    /// The time wraps after 49 days, and a timer may be beyond what the wheels hold.
    #[test]
    fn the_wheels_turn_on() {
        let epoch = Instant::now();
        let mut wheel = TimerWheel::new(epoch);
        let day = Duration::from_secs(24 * 3600);
        let mut now = epoch;
        for _ in 0..30 {
            now += 7 * day;
            assert_eq!(wheel.expire(now), None);
            wheel.set_earlier(3, now + day);
            wheel.set_earlier(4, now + 100 * day);
            let mut woken = Vec::new();
            while woken.len() < 2 {
                now = wheel.deadline().unwrap();
                woken.extend(std::iter::from_fn(|| wheel.expire(now)).map(|index| (index, now)));
            }
            assert_eq!(woken.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [3, 4]);
            assert!(woken[1].1 - woken[0].1 > 20 * day);
        }
    }

    #[test]
    fn a_timer_is_twelve_bytes() {
        assert_eq!(size_of::<Timer>(), 12);
    }
}
