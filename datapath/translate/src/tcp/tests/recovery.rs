//! What is lost is sent again, soon, and little else: RFC 5681, 6298, 6582, 6675, 3168.

use std::time::Duration;

use super::super::{Flags, Seq, Transmit};
use super::guest;
use super::kernel;
use super::pair::{Faults, Pair};
use super::transfer::stream;

const MINUTES: Duration = Duration::from_secs(600);

fn without_sack() -> guest::Kind {
    guest::Kind { sack: false, timestamps: false, ..guest::Kind::default() }
}

/// A connection on which `lost` of the next data segments are lost, by their place, after which `bytes` more are sent.
/// Chunks are of one MSS. What was sent again, and how long it took.
fn lose(kind: guest::Kind, segments: usize, lost: &[u64]) -> (Vec<Transmit>, Duration) {
    let mut pair = Pair::opened(kind, kernel::Kind::default(), Vec::new(), stream(10_000, 2));
    let mss = 1448;
    pair.kernel.kind.chunk = mss;
    pair.kernel.kind.interval = Duration::from_micros(5);
    pair.kernel.stream.extend(stream(segments * mss, 9));
    pair.lost_places = lost.to_vec();
    pair.kernel.on_change();
    let start = pair.now;
    let all = pair.kernel.stream.len();
    assert!(pair.run(MINUTES, |pair| pair.guest.received.len() == all), "{}", pair.describe());
    let took = pair.now - start;
    pair.run(Duration::from_secs(5), |_| false);
    assert!(pair.guest.received == pair.kernel.stream);
    let mut highest = Seq(0);
    let mut again = Vec::new();
    for (_, transmit) in pair.transmitted.iter().filter(|(_, transmit)| transmit.payload.is_some()) {
        if highest != Seq(0) && transmit.seq.is_before(highest) {
            again.push(*transmit);
        } else {
            highest = transmit.seq + 1;
        }
    }
    (again, took)
}

/// RFC 6582, and RFC 6675: a round trip later, without a timeout.
#[test]
fn a_lost_segment_is_sent_again_fast() {
    for kind in [guest::Kind::default(), without_sack()] {
        let (again, took) = lose(kind, 30, &[5]);
        assert_eq!(again.len(), 1);
        assert!(took < Duration::from_millis(100), "{took:?}");
    }
}

/// RFC 6675: holes only.
#[test]
fn with_sack_only_holes_are_sent_again() {
    let (again, took) = lose(guest::Kind::default(), 40, &[5, 9, 10, 20]);
    let bytes: u32 = again.iter().map(|transmit| transmit.payload.unwrap().max).sum();
    assert_eq!(bytes, 4 * 1448, "{again:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// RFC 6582, 3.2: partial acknowledgements.
#[test]
fn without_sack_a_round_trip_per_hole() {
    let (again, took) = lose(without_sack(), 40, &[5, 9, 10, 20]);
    assert_eq!(again.len(), 4);
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// RFC 6298: nothing follows the last segment, so that only the timer helps.
#[test]
fn a_lost_tail_is_sent_again_by_the_timer() {
    for kind in [guest::Kind::default(), without_sack()] {
        let (again, took) = lose(kind, 10, &[9]);
        assert_eq!(again.len(), 1);
        assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(300), "{took:?}");
    }
}

/// Everything at once: what is sent again is not sent in a burst, and not twice.
#[test]
fn a_lost_window_is_sent_again_in_growing_steps() {
    let lost: Vec<u64> = (0..100).collect();
    for kind in [guest::Kind::default(), without_sack()] {
        let (again, took) = lose(kind, 100, &lost);
        let bytes: u32 = again.iter().map(|transmit| transmit.payload.unwrap().max).sum();
        assert_eq!(bytes, 100 * 1448);
        assert_eq!(again[0].payload.unwrap().max, 2 * u32::from(again[0].mss));
        assert!(took < Duration::from_millis(400), "{took:?}");
    }
}

/// Much at once: no more is asked for in one frame than a frame holds.
#[test]
fn a_lost_megabyte_is_sent_again_in_frames() {
    let segments = 800;
    let lost: Vec<u64> = (0..800).collect();
    for kind in [guest::Kind::default(), without_sack()] {
        let (again, _) = lose(guest::Kind { buffer: 4 << 20, ..kind }, segments, &lost);
        assert!(again.iter().any(|transmit| transmit.payload.unwrap().max > 60_000), "large steps were not reached");
    }
}

/// RFC 6298, 5.5: as long as nothing comes back, pauses double.
#[test]
fn pauses_double() {
    let mut pair = Pair::opened(without_sack(), kernel::Kind::default(), Vec::new(), stream(1000, 2));
    pair.faults.lost_to_guest = 1000;
    pair.kernel.stream.extend(stream(1000, 3));
    pair.kernel.on_change();
    pair.run(Duration::from_secs(4), |_| false);
    let times: Vec<_> = pair.transmitted.iter().map(|(at, _)| *at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(pauses, [200, 400, 800, 1600]);
    pair.faults.lost_to_guest = 0;
    pair.run(Duration::from_secs(10), |_| false);
    assert!(pair.guest.received == pair.kernel.stream);
}

/// RFC 3168, 6.1: both directions of it.
#[test]
fn congestion_is_told_and_heeded() {
    let kind = guest::Kind { ecn: true, ..guest::Kind::default() };
    let mut pair = Pair::opened(kind, kernel::Kind::default(), stream(1000, 1), stream(1000, 2));
    let told = pair.forge_marked(&stream(100, 7));
    assert!(told.flags.contains(Flags::ECE), "an echo, {told:?}");
    pair.guest.echoes = true;
    pair.kernel.stream.extend(stream(400_000, 3));
    pair.kernel.on_change();
    pair.run(Duration::from_secs(5), |_| false);
    let data: Vec<_> = pair.transmitted.iter().map(|(_, sent)| *sent).filter(|sent| sent.payload.is_some()).collect();
    assert!(data.iter().all(|sent| sent.ect), "data that was not sent before is marked as capable of it");
    assert!(data.iter().any(|sent| sent.flags.contains(Flags::CWR)));
    assert!(pair.transmitted.iter().all(|(_, sent)| sent.payload.is_some() || !sent.ect), "but no acknowledgement");
    assert!(pair.guest.received == pair.kernel.stream);
}

#[test]
fn without_ecn_nothing_is_marked() {
    let mut pair = Pair::new(guest::Kind::default(), kernel::Kind::default(), Vec::new(), stream(50_000, 2));
    pair.faults = Faults { marked: 1000, ..Faults::default() };
    pair.open_from_guest();
    pair.run_to_the_end(MINUTES);
    let bits = Flags::ECE | Flags::CWR;
    assert!(pair.transmitted.iter().all(|(_, sent)| !sent.ect && sent.flags.0 & bits.0 == 0));
}
