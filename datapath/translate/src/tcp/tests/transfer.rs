//! Bytes arrive whole and in order, both ways, whatever happens on the way.

use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Faults, Pair};
use super::{guest, kernel};

/// Bytes that tell where they belong.
pub(super) fn stream(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at.wrapping_mul(31) ^ (at >> 8) ^ salt) & 255).unwrap()).collect()
}

const MINUTES: Duration = Duration::from_secs(600);

#[test]
fn both_ways_from_the_guest() {
    let mut pair =
        Pair::new(guest::Kind::default(), kernel::Kind::default(), stream(3_000_000, 1), stream(2_000_000, 2));
    pair.open_from_guest();
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
    assert_eq!((pair.sent_again, pair.guest.sent_again), (0, 0));
}

#[test]
fn both_ways_from_the_host() {
    let mut pair =
        Pair::new(guest::Kind::default(), kernel::Kind::default(), stream(3_000_000, 1), stream(2_000_000, 2));
    pair.open_from_host();
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
    assert_eq!((pair.sent_again, pair.guest.sent_again), (0, 0));
}

#[test]
fn nothing_at_all() {
    for from_host in [false, true] {
        let mut pair = Pair::new(guest::Kind::default(), kernel::Kind::default(), Vec::new(), Vec::new());
        if from_host {
            pair.open_from_host()
        } else {
            pair.open_from_guest()
        }
        pair.run_to_the_end(MINUTES);
        pair.assert_delivered();
    }
}

fn guests() -> impl Strategy<Value = guest::Kind> {
    let mss = prop_oneof![Just(1460_u16), Just(536), Just(9000), Just(65_480), 48..2000_u16];
    let scale = prop_oneof![Just(None), (0..=14_u8).prop_map(Some)];
    let buffer = prop_oneof![Just(1_usize << 20), Just(65_535), Just(4000), 2000..500_000_usize];
    let burst = prop_oneof![Just(60_000_usize), Just(1448), 100..70_000_usize];
    (mss, scale, any::<bool>(), any::<bool>(), any::<bool>(), buffer, burst).prop_map(
        |(mss, scale, sack, timestamps, ecn, buffer, burst)| guest::Kind {
            mss,
            scale,
            sack,
            timestamps,
            ecn,
            buffer,
            burst: burst.min(65_000),
            ..guest::Kind::default()
        },
    )
}

fn kernels() -> impl Strategy<Value = kernel::Kind> {
    let rtt = prop_oneof![Just(0_u64), Just(200), Just(500), Just(5000), Just(100_000), 0..400_000_u64];
    let buffer = || prop_oneof![Just(256_usize << 10), Just(4096), 1000..1_000_000_usize];
    (rtt, buffer(), buffer(), buffer(), 1..100_000_usize, 1..3000_u64).prop_map(
        |(rtt, send_buffer, receive_buffer, far_buffer, chunk, interval)| kernel::Kind {
            rtt: Duration::from_micros(rtt),
            send_buffer,
            receive_buffer,
            far_buffer,
            chunk,
            interval: Duration::from_micros(interval),
        },
    )
}

fn faults() -> impl Strategy<Value = Faults> {
    let some = || prop_oneof![3 => Just(0_u32), 1 => 1..80_u32];
    (some(), some(), some(), some(), some(), some()).prop_map(
        |(lost_to_guest, lost_to_us, repeated, reordered, full, marked)| Faults {
            lost_to_guest,
            lost_to_us,
            repeated,
            reordered,
            full,
            marked,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, max_shrink_time: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn anything_between(
        guest in guests(), kernel in kernels(), faults in faults(), seed: u64, from_host: bool, ring in 1..300_usize,
        to_far in 0..300_000_usize, to_guest in 0..300_000_usize,
    ) {
        let mut pair = Pair::new(guest, kernel, stream(to_far, 3), stream(to_guest, 4));
        pair.faults = faults;
        pair.ring = ring;
        pair.seed(seed);
        if from_host { pair.open_from_host() } else { pair.open_from_guest() }
        pair.run_to_the_end(Duration::from_secs(24 * 3600));
        pair.assert_delivered();
    }
}
