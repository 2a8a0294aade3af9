//! Hours and days: what waits, what is given up, and what it costs.

use std::time::Duration;

use super::super::Action;
use super::guest::{self, State};
use super::kernel;
use super::pair::Pair;
use super::transfer::stream;

const HOUR: Duration = Duration::from_secs(3600);

fn opened() -> Pair {
    Pair::opened(guest::Kind::default(), kernel::Kind::default(), stream(1000, 1), stream(1000, 2))
}

#[test]
fn an_idle_connection_lives_for_a_day() {
    let mut pair = opened();
    pair.run(24 * HOUR, |_| false);
    assert!(pair.over.is_none());
    assert_eq!(pair.transmitted.len(), 12, "a probe every two hours");
    pair.guest.closes = true;
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    pair.run_to_the_end(HOUR);
    pair.assert_delivered();
}

/// The kernel tells all that holds: that there is room comes with each answer of the far end.
#[test]
fn a_socket_that_tells_of_room_by_the_way_is_not_asked_how_much() {
    let mut pair = opened();
    let questions = pair.kernel.questions;
    for round in 1..=10 {
        pair.kernel.stream.extend(stream(100, 3));
        pair.kernel.on_change();
        pair.kernel.writable = true;
        assert!(pair.run(HOUR, |pair| pair.kernel.discarded == 1000 + 100 * round));
    }
    assert_eq!(pair.kernel.questions, questions);
}

/// RFC 9293, 3.8.4.
#[test]
fn a_guest_that_vanished_is_noticed() {
    let mut pair = opened();
    pair.guest.state = State::Dead;
    assert!(pair.run(24 * HOUR, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
    let config = &pair.config;
    let expected = config.keep_alive + config.keep_alive_interval * u32::from(config.keep_alive_probes);
    assert_eq!(pair.elapsed().as_secs() - 60, expected.as_secs() - 60, "after its probes");
}

/// RFC 9293, 3.8.3: R2 is at least 100 seconds.
#[test]
fn a_guest_that_vanished_amid_data_is_given_up() {
    let mut pair = opened();
    pair.guest.state = State::Dead;
    pair.kernel.stream.extend(stream(1000, 3));
    pair.kernel.on_change();
    let start = pair.now;
    assert!(pair.run(24 * HOUR, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
    let took = pair.now - start;
    assert!(took > Duration::from_secs(100) && took < HOUR, "{took:?}");
    assert_eq!(pair.transmitted.len(), 1 + usize::from(pair.config.retries) + 1, "data, again, and a RST");
}

/// RFC 9293, 3.8.6.1: a closed window is probed, and opens later.
#[test]
fn a_guest_that_does_not_read_for_an_hour_gets_everything_later() {
    let kind = guest::Kind { buffer: 20_000, ..guest::Kind::default() };
    let mut pair = Pair::opened(kind, kernel::Kind::default(), Vec::new(), Vec::new());
    pair.guest.reads = false;
    pair.kernel.stream = stream(200_000, 3);
    pair.kernel.on_change();
    pair.run(HOUR, |_| false);
    assert!(pair.over.is_none() && pair.guest.received.len() <= 20_000 + 64);
    assert!(pair.transmitted.len() < 200, "probes become rare: {}", pair.transmitted.len());
    pair.guest.reads = true;
    pair.kernel.far_closes = true;
    pair.guest.closes = true;
    pair.run_to_the_end(HOUR);
    pair.assert_delivered();
}

#[test]
fn a_guest_that_never_reads_is_given_up() {
    let kind = guest::Kind { buffer: 20_000, ..guest::Kind::default() };
    let mut pair = Pair::opened(kind, kernel::Kind::default(), Vec::new(), Vec::new());
    pair.guest.reads = false;
    pair.kernel.stream = stream(200_000, 3);
    pair.kernel.on_change();
    assert!(pair.run(24 * HOUR, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
}

/// And whose socket has no room, for which it is asked again and again.
#[test]
fn a_guest_that_takes_no_more_frames_is_given_up() {
    let mut pair = Pair::opened(guest::Kind::default(), kernel::Kind::default(), Vec::new(), Vec::new());
    pair.kernel.stream = stream(200_000, 3);
    pair.kernel.on_change();
    pair.run(Duration::ZERO, |_| false);
    pair.is_ring_closed = true;
    pair.kernel.kind.send_buffer = 0;
    pair.guest.stream = stream(1000, 1);
    assert!(pair.run(24 * HOUR, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
}

#[test]
fn a_far_end_that_does_not_read_for_an_hour_gets_everything_later() {
    for rtt in [50, 100_000] {
        let kernel = kernel::Kind { rtt: Duration::from_micros(rtt), ..kernel::Kind::default() };
        let mut pair = Pair::opened(guest::Kind::default(), kernel, Vec::new(), Vec::new());
        pair.kernel.far_reads = false;
        pair.guest.stream = stream(2_000_000, 3);
        pair.run(HOUR, |_| false);
        assert!(pair.over.is_none());
        assert!(pair.kernel.questions < 1000, "questions become rare: {}", pair.kernel.questions);
        assert!(pair.guest.sent_again < 50, "what the kernel has is acknowledged: {}", pair.guest.sent_again);
        pair.kernel.far_reads = true;
        pair.kernel.far_closes = true;
        pair.guest.closes = true;
        pair.kernel.on_change();
        pair.run_to_the_end(HOUR);
        pair.assert_delivered();
    }
}

#[test]
fn a_far_end_that_never_reads_is_given_up() {
    let mut pair = Pair::opened(guest::Kind::default(), kernel::Kind::default(), Vec::new(), Vec::new());
    pair.kernel.far_reads = false;
    pair.guest.stream = stream(2_000_000, 3);
    assert!(pair.run(24 * HOUR, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
}

/// Data every few minutes for a day, in both directions.
#[test]
fn a_day_of_small_talk() {
    let mut pair = opened();
    for minute in 0..24 * 12 {
        pair.run(Duration::from_secs(300), |_| false);
        pair.guest.stream.extend(stream(100 + minute, minute));
        pair.kernel.stream.extend(stream(2000 + minute, minute));
        pair.kernel.on_change();
    }
    pair.guest.closes = true;
    pair.kernel.far_closes = true;
    pair.run_to_the_end(HOUR);
    pair.assert_delivered();
    assert_eq!((pair.sent_again, pair.guest.sent_again), (0, 0));
}

/// Whatever the round trip, the far end's window over it is what arrives: nothing waits for a timer of ours.
#[test]
fn throughput_is_the_window_over_the_round_trip() {
    for micros in [50, 100, 200, 500, 1000, 1900, 2100, 5000, 20_000, 100_000] {
        let kernel = kernel::Kind {
            rtt: Duration::from_micros(micros),
            far_buffer: 200_000,
            send_buffer: 800_000,
            ..kernel::Kind::default()
        };
        let mut pair = Pair::opened(guest::Kind::default(), kernel, Vec::new(), Vec::new());
        let round_trips: u32 = 100;
        let all = 200_000 * 100;
        pair.guest.stream = stream(all, 3);
        let start = pair.now;
        assert!(pair.run(HOUR, |pair| pair.kernel.far_received.len() == all));
        let took = pair.now - start;
        let least = Duration::from_micros(micros) * round_trips;
        assert!(took < least * 110 / 100 + Duration::from_millis(1), "{took:?} where {least:?} would do");
        assert_eq!(pair.guest.sent_again, 0, "{micros} us");
    }
}

/// A round trip longer than the guest's timer would bear without measuring it.
#[test]
fn slow_acknowledgements_do_not_make_the_guest_repeat() {
    for millis in [10, 100, 140, 300] {
        let kernel = kernel::Kind { rtt: Duration::from_millis(millis), ..kernel::Kind::default() };
        let kind = guest::Kind { rto: Duration::from_millis(millis + 200), ..guest::Kind::default() };
        let mut pair = Pair::new(kind, kernel, stream(3_000_000, 1), Vec::new());
        pair.open_from_guest();
        pair.run_to_the_end(HOUR);
        pair.assert_delivered();
        assert_eq!(pair.guest.sent_again, 0, "{millis} ms");
    }
}

/// A send buffer smaller than a segment.
#[test]
fn a_small_send_buffer_does_not_stall() {
    for send_buffer in [2000, 10_000, 40_000] {
        let kernel = kernel::Kind { send_buffer, ..kernel::Kind::default() };
        let kind = guest::Kind { mss: 65_480, ..guest::Kind::default() };
        let mut pair = Pair::new(kind, kernel, stream(500_000, 1), Vec::new());
        std::sync::Arc::get_mut(&mut pair.config).unwrap().mss = 65_480;
        pair.open_from_guest();
        pair.run_to_the_end(Duration::from_secs(60));
        pair.assert_delivered();
        let took = pair.elapsed() - pair.config.time_wait;
        assert!(took < Duration::from_secs(2), "{took:?} with {send_buffer} bytes");
    }
}

/// 10,000 connections, one after the other in one table's place: each ends.
#[test]
fn many_short_ones() {
    for round in 0..2000 {
        let mut pair =
            Pair::new(guest::Kind::default(), kernel::Kind::default(), stream(100, round), stream(300, round));
        if round % 2 == 0 {
            pair.open_from_guest()
        } else {
            pair.open_from_host()
        }
        pair.run_to_the_end(Duration::from_secs(10));
        pair.assert_delivered();
    }
}
