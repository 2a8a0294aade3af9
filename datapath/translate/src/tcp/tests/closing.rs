//! How connections end: RFC 9293, 3.6, and RFC 5961.

use std::time::Duration;

use super::super::{Action, Failure, Flags};
use super::guest::{self, State};
use super::kernel;
use super::pair::Pair;
use super::transfer::stream;

const MINUTES: Duration = Duration::from_secs(600);

fn plain() -> guest::Kind {
    guest::Kind { timestamps: false, sack: false, scale: None, ..guest::Kind::default() }
}

fn opened() -> Pair {
    Pair::opened(plain(), kernel::Kind::default(), stream(1000, 1), stream(1000, 2))
}

#[test]
fn the_guest_closes_first_and_still_receives() {
    for kind in [guest::Kind::default(), plain()] {
        let mut pair = Pair::opened(kind, kernel::Kind::default(), stream(1000, 1), Vec::new());
        pair.guest.closes = true;
        pair.run(MINUTES, |pair| pair.kernel.is_shut_down);
        // The far end answers an hour later: the guest was probed meanwhile, and lives.
        pair.run(Duration::from_secs(3600), |_| false);
        assert!(pair.over.is_none(), "{}", pair.describe());
        pair.kernel.stream = stream(500_000, 2);
        pair.kernel.far_closes = true;
        pair.run(Duration::from_secs(60), |_| false);
        pair.kernel.on_change();
        pair.run_to_the_end(MINUTES);
        pair.assert_delivered();
    }
}

#[test]
fn the_far_end_closes_first_and_still_receives() {
    let mut pair = Pair::opened(guest::Kind::default(), kernel::Kind::default(), Vec::new(), stream(1000, 2));
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    assert!(pair.run(MINUTES, |pair| pair.guest.got_end));
    pair.run(Duration::from_secs(3600), |_| false);
    assert!(pair.over.is_none(), "{}", pair.describe());
    pair.guest.stream = stream(500_000, 1);
    pair.guest.closes = true;
    pair.run(MINUTES, |pair| pair.kernel.is_shut_down);
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

#[test]
fn both_close_at_once() {
    let mut pair = opened();
    pair.guest.closes = true;
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

/// RFC 9293, 3.6.1: whoever closes first waits; here not for long, and without its socket.
#[test]
fn time_wait_needs_no_socket_and_answers_a_late_fin() {
    let mut pair = opened();
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    assert!(pair.run(MINUTES, |pair| pair.guest.got_end));
    pair.guest.closes = true;
    assert!(pair.run(MINUTES, |pair| pair.kernel.is_closed));
    assert!(pair.over.is_none());
    let answer = pair.forge(-1, 1, &[], |header| header.fin = true);
    assert_eq!((answer.len(), answer[0].flags), (1, Flags::ACK));
    // RFC 1337: not cut short.
    assert!(pair.forge(0, 1, &[], |header| header.rst = true).is_empty());
    assert!(pair.over.is_none());
    let before = pair.now;
    pair.run_to_the_end(MINUTES);
    assert!(pair.now - before <= 2 * pair.config.time_wait);
    assert_eq!(pair.over, Some(Action::Close));
}

/// A window that opens stops the sender's timer, which is not what TIME-WAIT waits for.
#[test]
fn a_time_wait_ends_whatever_the_guest_says_of_its_window() {
    let mut pair = opened();
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    assert!(pair.run(MINUTES, |pair| pair.guest.got_end));
    pair.guest.closes = true;
    assert!(pair.run(MINUTES, |pair| pair.kernel.is_closed));
    for window in [0, 1000] {
        pair.forge(0, 1, &[], |header| header.window_size = window);
    }
    let before = pair.now;
    pair.run_to_the_end(MINUTES);
    assert!(pair.now - before <= pair.config.time_wait);
}

/// RFC 9293, 3.10.7.4: a new connection may follow at once.
#[test]
fn a_time_wait_gives_way_to_a_new_syn() {
    let mut pair = opened();
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    assert!(pair.run(MINUTES, |pair| pair.guest.got_end));
    pair.guest.closes = true;
    assert!(pair.run(MINUTES, |pair| pair.kernel.is_closed));
    let connection = pair.connection.as_ref().unwrap();
    for (distance, supersedes) in [(-1000, false), (0, true), (1000, true)] {
        let seq = pair.guest.seq(pair.guest.nxt).wrapping_add_signed(distance);
        let mut header = etherparse::TcpHeader::new(2, 1, seq, 1000);
        header.syn = true;
        let syn = super::super::Segment::parse(&header.to_bytes(), 0).unwrap();
        assert_eq!(connection.is_superseded_by(&syn), supersedes, "{distance}");
    }
}

#[test]
fn a_guest_that_aborts_resets_the_far_end() {
    let mut pair = opened();
    pair.guest.aborts = true;
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
    assert_eq!((pair.over, pair.transmitted.len()), (Some(Action::Reset), 0));
}

#[test]
fn a_far_end_that_resets_resets_the_guest() {
    let mut pair = opened();
    let now = pair.now;
    pair.connection.as_mut().unwrap().on_failed(now, Failure::Reset);
    pair.drive();
    pair.run(MINUTES, |_| false);
    assert_eq!((pair.guest.state, pair.over), (State::Reset, Some(Action::Close)));
}

/// RFC 5961, 3.2.
#[test]
fn only_an_exact_reset_counts() {
    for (distance, answers) in [(1, 1), (100, 1), (60_000, 1), (-1, 0), (1 << 20, 0), (i32::MIN, 0)] {
        let mut pair = opened();
        let answer = pair.forge(distance, 0, &[], |header| header.rst = true);
        assert_eq!((answer.len(), pair.over), (answers, None), "{distance}");
        assert!(answer.iter().all(|answer| answer.flags == Flags::ACK));
    }
    let mut pair = opened();
    assert!(pair.forge(0, 0, &[], |header| header.rst = true).is_empty());
    assert_eq!(pair.over, Some(Action::Reset));
}

/// RFC 5961, 4.2 and 7.
#[test]
fn a_syn_in_the_midst_is_challenged_but_not_often() {
    let mut pair = opened();
    for distance in [0, 1000, -1000, 1 << 30] {
        let answer = pair.forge(distance, 0, &[], |header| header.syn = true);
        assert_eq!((answer.len(), answer[0].flags), (1, Flags::ACK), "{distance}");
        assert!(pair.forge(distance, 0, &[], |header| header.syn = true).is_empty());
        pair.run(Duration::from_secs(1), |_| false);
    }
    assert!(pair.over.is_none());
}

/// The guest's ring is full when FIN is due: it waits, as does everything else.
#[test]
fn a_full_ring_delays_an_end_and_does_not_reset_it() {
    let mut pair = opened();
    pair.is_ring_closed = true;
    pair.kernel.stream.extend(stream(100_000, 7));
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    pair.run(Duration::from_secs(3600), |_| false);
    assert!(pair.over.is_none() && pair.transmitted.is_empty());
    pair.is_ring_closed = false;
    pair.guest.closes = true;
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

/// The same with a ring that fills at every point of a connection's life, and stays full for a while.
#[test]
fn a_ring_may_fill_at_any_time() {
    for at in 0..60 {
        for from_host in [false, true] {
            let mut pair =
                Pair::new(guest::Kind::default(), kernel::Kind::default(), stream(300_000, 1), stream(300_000, 2));
            pair.ring = 8;
            if from_host {
                pair.open_from_host()
            } else {
                pair.open_from_guest()
            }
            pair.run(MINUTES, |pair| pair.transmitted.len() >= at);
            pair.is_ring_closed = true;
            pair.run(Duration::from_secs(4), |_| false);
            pair.is_ring_closed = false;
            pair.run_to_the_end(MINUTES);
            pair.assert_delivered();
        }
    }
}

/// A RST that finds no room is sent later; when there never is any, the connection goes nevertheless.
#[test]
fn a_full_ring_delays_a_reset() {
    for stays_full in [false, true] {
        let mut pair = opened();
        pair.is_ring_closed = true;
        let now = pair.now;
        pair.connection.as_mut().unwrap().on_failed(now, Failure::Reset);
        pair.drive();
        pair.run(Duration::from_secs(5), |_| false);
        assert!(pair.over.is_none());
        pair.is_ring_closed = stays_full;
        assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
        pair.run(Duration::from_secs(1), |_| false);
        assert_eq!(pair.guest.state == State::Reset, !stays_full);
    }
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut pair = opened();
    pair.faults.lost_to_guest = 1000;
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    pair.run(Duration::from_millis(500), |_| false);
    assert!(!pair.guest.got_end && pair.over.is_none());
    pair.faults.lost_to_guest = 0;
    pair.guest.closes = true;
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

/// A guest that closed and forgot the connection, as Linux does after a minute in FIN-WAIT-2, is noticed.
#[test]
fn a_guest_that_forgot_its_half_is_noticed_soon() {
    let mut pair = opened();
    pair.guest.closes = true;
    pair.run(MINUTES, |pair| pair.kernel.is_shut_down);
    pair.guest.state = State::Closed;
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()), "{}", pair.describe());
    assert_eq!(pair.over, Some(Action::Reset));
}
