//! Timers around all edges of their wheels.

use std::collections::BTreeMap;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    timers_come_in_their_millisecond_and_in_order: 7_000,
    a_timer_that_is_stopped_or_set_earlier_comes_as_was_said_last: 70_000,
    the_next_place_is_the_first_that_is_taken: 62_000,
}

/// Milliseconds around the turns of the wheels, and past all of them.
const PRESENTS: [u64; 7] = [0, 255, 0xff_fe, 0xff_ffff, 0x7fff_ffff, 0xffff_ff00, 0x1_0000_fffe];
const DISTANCES: [u64; 10] = [1, 2, 255, 256, 257, 0xffff, 0x1_0001, 0xff_ffff, 0x100_0001, FARTHEST];

fn at(epoch: Instant, millisecond: u64) -> Instant {
    epoch + Duration::from_millis(millisecond)
}

/// A wheel whose present is a millisecond.
fn wheel(epoch: Instant, present: u64) -> TimerWheel {
    let mut wheel = TimerWheel::new(epoch);
    assert_eq!(wheel.expire(at(epoch, present)), None);
    wheel
}

/// Whose timers come, and when, as the event loop has them: it sleeps until there is something to do.
fn come(wheel: &mut TimerWheel, epoch: Instant) -> Vec<(u64, u32)> {
    let (mut all, mut looks) = (Vec::new(), 0);
    while let Some(deadline) = wheel.deadline() {
        let millisecond = u64::try_from(deadline.saturating_duration_since(epoch).as_millis()).unwrap();
        all.extend(std::iter::from_fn(|| wheel.expire(deadline)).map(|index| (millisecond, index)));
        looks += 1;
        assert!(looks <= 12, "a timer comes down three times at most");
    }
    all
}

/// Each of three timers comes once, in its millisecond, the earlier ones first: seven presents, ten distances each.
fn timers_come_in_their_millisecond_and_in_order(choices: &mut Choices) {
    let (epoch, present) = (Instant::now(), choices.of(&PRESENTS));
    let mut wheel = wheel(epoch, present);
    let times: BTreeMap<u32, u64> = (0..3).map(|index| (index, present + choices.of(&DISTANCES))).collect();
    times.iter().for_each(|(index, time)| wheel.set_earlier(*index, at(epoch, *time)));
    assert_eq!(wheel.len(), 3);
    let mut come = come(&mut wheel, epoch);
    assert!(come.is_sorted_by_key(|(time, _)| *time));
    // Of one millisecond in any order.
    come.sort_unstable();
    let mut expected: Vec<_> = times.into_iter().map(|(index, time)| (time, index)).collect();
    expected.sort_unstable();
    assert_eq!(come, expected);
    assert_eq!(wheel.len(), 0);
}

/// A timer that is stopped never comes, whatever lies in its place before and behind it; one that is set again comes at the earlier time, and
/// one that was stopped and is set again at the new one: three timers at two times, two steps with any of them, seven presents, six distances
/// each.
fn a_timer_that_is_stopped_or_set_earlier_comes_as_was_said_last(choices: &mut Choices) {
    let (epoch, present) = (Instant::now(), choices.of(&PRESENTS));
    let mut wheel = wheel(epoch, present);
    let distances = [1, 2, 255, 257, 0x1_0001, 0xff_ffff];
    let times = [present + choices.of(&distances), present + choices.of(&distances)];
    let mut model = BTreeMap::new();
    for index in 0..3 {
        let time = choices.of(&times);
        wheel.set_earlier(index, at(epoch, time));
        model.insert(index, time);
    }
    for _ in 0..2 {
        let index = choices.number(0..=2_u32);
        if choices.flag() {
            wheel.stop(index);
            model.remove(&index);
        } else {
            wheel.set_earlier(index, at(epoch, times[0]));
            model.entry(index).and_modify(|time| *time = times[0].min(*time)).or_insert(times[0]);
        }
    }
    assert_eq!(wheel.len(), model.len());
    let mut come = come(&mut wheel, epoch);
    come.sort_unstable();
    let mut expected: Vec<_> = model.into_iter().map(|(index, time)| (time, index)).collect();
    expected.sort_unstable();
    assert_eq!(come, expected);
}

/// The first bit at or behind a place is found, in whichever word it is: two bits at edges of words, all places.
fn the_next_place_is_the_first_that_is_taken(choices: &mut Choices) {
    let edges = [0, 1, 62, 63, 64, 127, 128, 191, 192, 254, 255];
    let (one, other) = (choices.of(&edges), choices.of(&edges));
    let mut bits = [0_u64; PLACES / 64];
    bits[one / 64] |= 1 << (one % 64);
    if choices.flag() {
        bits[other / 64] |= 1 << (other % 64);
    }
    let from = choices.number(0..=PLACES);
    let expected = (from..PLACES).find(|bit| bits[bit / 64] >> (bit % 64) & 1 == 1);
    assert_eq!(next_bit(&bits, from).map(usize::from), expected);
}
