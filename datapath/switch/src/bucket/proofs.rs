//! Buckets against what is reckoned with fractions.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    what_is_earned_is_exact_and_stands_still_at_the_end: 490,
    no_more_passes_than_was_earned_and_the_depth: 520_000,
    a_wait_is_long_enough_and_hardly_longer: 3_500,
}

/// What was earned is the whole part of time times rate, or all that a number holds: rates from 0 to the highest number, times from 0 to
/// 584 years and to the last moment.
fn what_is_earned_is_exact_and_stands_still_at_the_end(choices: &mut Choices) {
    let rate = choices.of(&[
        0,
        1,
        7,
        999_999_999,
        1_000_000_000,
        1_000_000_001,
        49_999_999_999,
        50_000_000_000,
        u64::MAX / 2,
        u64::MAX,
    ]);
    let seconds = choices.of(&[0, 1, 31_536_000, 346_896_000, 18_446_744_073, u64::MAX - 1, u64::MAX]);
    let nanos = choices.of(&[0, 1, 499_999_999, 500_000_000, 123_456_789, 999_999_998, 999_999_999]);
    let fraction = u128::from(nanos) * u128::from(rate) / 1_000_000_000;
    let exact = u128::from(seconds) * u128::from(rate) + fraction;
    let earned = Bucket::new(rate, 0).earned(Duration::new(seconds, nanos));
    assert_eq!(earned, u64::try_from(exact).unwrap_or(u64::MAX));
}

/// Rates of which a unit takes a whole number of nanoseconds, or not.
const RATES: [u64; 4] = [0, 1, 3, 1_000_000_000];

/// A bucket has what a sum with fractions has: it fills with the time up to its depth, what is taken is gone, and the last that passes may
/// take too much, which is paid first: four rates, depths 0 to 3, three steps in time, each a wait, and one thing that may pass or has
/// passed.
fn no_more_passes_than_was_earned_and_the_depth(choices: &mut Choices) {
    let (rate, depth) = (choices.of(&RATES), choices.number(0..=3_u64));
    let bucket = Bucket::new(rate, depth);
    let mut now = Duration::from_secs(1);
    // What is left, in whole units, and what was earned when that was reckoned; below 0 it is a debt.
    let earned = |now: Duration| i128::try_from(now.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap();
    let (mut left, mut reckoned) = (i128::from(depth), earned(now));
    for _ in 0..3 {
        now += choices.of(&[
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_nanos(333_333_334),
            Duration::from_secs(2),
        ]);
        left = (left + earned(now) - reckoned).min(depth.into());
        reckoned = earned(now);
        assert_eq!(i128::from(bucket.room(now)), left.max(0));
        let units = choices.of(&[0, 1, 2, 5]);
        if choices.flag() {
            let may = left > 0;
            assert_eq!(bucket.take(units, now), may);
            left -= if may { i128::from(units) } else { 0 };
        } else {
            bucket.spend(units, now);
            left -= i128::from(units);
        }
        assert_eq!(i128::from(bucket.room(now)), left.max(0));
    }
}

/// After a wait as many units are left as were asked for, or a full bucket, and a unit's time sooner there are not; nothing waits for what
/// comes never: five rates, depths and debts up to 4, any phase of a second.
fn a_wait_is_long_enough_and_hardly_longer(choices: &mut Choices) {
    let rate = choices.of(&[0, 1, 3, 1_000_000_000, 3_000_000_001]);
    let (depth, spent, units) = (choices.number(0..=4_u64), choices.number(0..=6_u64), choices.number(1..=5_u64));
    let now = Duration::new(5, choices.of(&[0, 1, 333_333_333, 999_999_999]));
    let bucket = Bucket::new(rate, depth);
    bucket.spend(spent, now);
    let wanted = units.min(depth);
    let is_there = i128::from(depth) - i128::from(spent) >= i128::from(wanted);
    let wait = bucket.wait(units, now);
    assert_eq!(wait == Duration::MAX, depth == 0 || (!is_there && rate == 0));
    assert_eq!(wait == Duration::ZERO, depth > 0 && is_there);
    if wait < Duration::MAX {
        assert!(bucket.room(now + wait) >= wanted);
        let unit = Duration::from_nanos(1_000_000_000_u64.checked_div(rate).unwrap_or(0) + 2);
        assert!(wait <= unit || bucket.room(now + wait - unit) < wanted);
    }
}
