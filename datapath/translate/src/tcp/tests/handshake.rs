//! How connections begin: RFC 9293, 3.5.

use std::time::Duration;

use super::super::{Action, Failure, Flags, Options, Transmit};
use super::guest::{self, State};
use super::kernel;
use super::pair::{Connect, OUR_ISN, Pair};
use super::transfer::stream;

const MINUTES: Duration = Duration::from_secs(600);

fn pair() -> Pair {
    Pair::new(guest::Kind::default(), kernel::Kind::default(), stream(5000, 1), stream(5000, 2))
}

fn plain() -> guest::Kind {
    guest::Kind { timestamps: false, sack: false, scale: None, ..guest::Kind::default() }
}

#[test]
fn nothing_is_answered_before_the_socket_is_connected() {
    let mut pair = pair();
    pair.connect = Connect::Never;
    pair.open_from_guest();
    assert!(!pair.run(MINUTES, |pair| !pair.transmitted.is_empty()));
}

#[test]
fn a_refused_socket_refuses_the_guest() {
    let mut pair = pair();
    pair.connect = Connect::Fails(Failure::Reset);
    pair.open_from_guest();
    pair.run(MINUTES, |_| false);
    assert_eq!((pair.guest.state, pair.over), (State::Reset, Some(Action::Close)));
    assert_eq!(pair.transmitted.len(), 1);
}

#[test]
fn of_an_unreachable_far_end_the_guest_hears_nothing() {
    let mut pair = pair();
    pair.connect = Connect::Fails(Failure::Unreachable);
    pair.is_listening = true;
    pair.open_from_guest();
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
    assert_eq!((pair.transmitted.len(), pair.over), (0, Some(Action::Close)));
}

/// RFC 9293, figure 6.
#[test]
fn both_may_open_at_the_same_time() {
    for guest in [guest::Kind::default(), plain()] {
        let mut pair = Pair::new(guest, kernel::Kind::default(), stream(5000, 1), stream(5000, 2));
        pair.guest.connect();
        pair.open_from_host();
        pair.run_to_the_end(MINUTES);
        pair.assert_delivered();
        assert!(syns(&pair).len() >= 2, "SYN, then SYN and ACK");
    }
}

fn syns(pair: &Pair) -> Vec<(Duration, Transmit)> {
    let syns = pair.transmitted.iter().filter(|(_, transmit)| transmit.flags.contains(Flags::SYN));
    syns.map(|(at, transmit)| (*at - pair.start, *transmit)).collect()
}

#[test]
fn a_guest_that_does_not_answer_is_asked_several_times() {
    let mut pair = pair();
    pair.guest.state = State::Dead;
    pair.open_from_host();
    pair.run(MINUTES, |pair| pair.over.is_some());
    assert_eq!(pair.over, Some(Action::Reset));
    let seconds: Vec<u64> = syns(&pair).iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(seconds, [0, 1, 2, 3, 4, 5, 7]);
    assert!(syns(&pair).iter().skip(1).all(|(_, syn)| !syn.flags.contains(Flags::ECE)), "RFC 3168, 6.1.1.1");
}

#[test]
fn a_guest_without_room_is_given_up_as_well() {
    let mut pair = pair();
    pair.is_ring_closed = true;
    pair.open_from_host();
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
}

#[test]
fn a_closed_port_resets_the_far_end() {
    let mut pair = pair();
    pair.guest.state = State::Closed;
    pair.open_from_host();
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
    assert_eq!((pair.over, syns(&pair).len()), (Some(Action::Reset), 1));
}

/// RFC 7323, 2.2 and 3.2; RFC 2018, 2: only what was offered is answered.
#[test]
fn options_are_answered_as_they_are_offered() {
    let mut pair = Pair::new(plain(), kernel::Kind::default(), Vec::new(), Vec::new());
    pair.open_from_guest();
    pair.run(MINUTES, |pair| !pair.transmitted.is_empty());
    assert_eq!(syns(&pair)[0].1.options, Options { mss: Some(1460), ..Options::default() });

    let mut pair = Pair::new(guest::Kind::default(), kernel::Kind::default(), Vec::new(), Vec::new());
    pair.open_from_guest();
    pair.run(MINUTES, |pair| !pair.transmitted.is_empty());
    let answer = syns(&pair)[0].1;
    assert_eq!((answer.options.window_scale, answer.options.sack_permitted), (Some(8), true));
    assert!(answer.options.timestamps.is_some());
    assert_eq!(answer.flags, Flags::SYN | Flags::ACK, "no ECN was offered");
}

#[test]
fn a_syn_that_comes_again_is_answered_again() {
    let mut pair = pair();
    pair.open_from_guest();
    pair.run(MINUTES, |pair| !pair.transmitted.is_empty());
    let isn = pair.guest.seq(0).wrapping_sub(1);
    let answer = pair.forge(0, 0, &[], |header| {
        *header = etherparse::TcpHeader::new(2, 1, isn, 1000);
        header.syn = true;
        header.set_options(&[etherparse::TcpOptionElement::Timestamp(0xffff_ff80, 0)]).unwrap();
    });
    assert_eq!((answer.len(), answer[0].flags), (1, Flags::SYN | Flags::ACK));
}

/// RFC 9293, 3.10.7.4, fifth: before the handshake is over, what acknowledges something else is refused.
#[test]
fn a_wrong_acknowledgement_of_our_syn_is_refused() {
    for wrong in [-1, 1, 1000, i32::MIN] {
        let mut pair = Pair::new(plain(), kernel::Kind::default(), Vec::new(), Vec::new());
        pair.open_from_guest();
        pair.run(MINUTES, |pair| !pair.transmitted.is_empty());
        let answer = pair.forge(0, 0, &[], |header| {
            header.acknowledgment_number = (OUR_ISN + 1).0.wrapping_add_signed(wrong);
        });
        assert_eq!((answer.len(), answer[0].flags), (1, Flags::RST), "{wrong}");
        assert_eq!(answer[0].seq.0, (OUR_ISN + 1).0.wrapping_add_signed(wrong));
        pair.run_to_the_end(MINUTES);
        pair.assert_delivered();
    }
}

/// RFC 9293, 3.10.7.3: likewise before the guest's SYN.
#[test]
fn an_old_segment_instead_of_a_syn_is_refused() {
    let mut pair = Pair::new(plain(), kernel::Kind::default(), stream(100, 1), stream(100, 2));
    pair.delay = Duration::from_secs(1);
    pair.open_from_host();
    let answer = pair.forge(0, 0, &[], |header| header.acknowledgment_number = 77);
    assert_eq!((answer.len(), answer[0].flags, answer[0].seq.0), (1, Flags::RST, 77));
    assert!(pair.forge(0, 0, &[], |header| (header.rst, header.acknowledgment_number) = (true, 77)).is_empty());
    assert!(pair.forge(0, 0, &[], |header| header.ack = false).is_empty());
    pair.delay = Duration::from_micros(30);
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

/// A guest that started anew with the same port: RFC 9293, figure 10; the old connection is reset, and the new one
/// opens.
#[test]
fn a_guest_that_restarted_gets_a_new_connection() {
    let mut pair = Pair::opened(plain(), kernel::Kind::default(), stream(100, 1), stream(100, 2));
    let mut fresh = guest::Guest::new(pair.now, 12_345, plain(), stream(200, 5));
    fresh.connect();
    pair.guest = fresh;
    assert!(pair.run(MINUTES, |pair| pair.over.is_some()));
    assert_eq!(pair.over, Some(Action::Reset));
}

/// Before the socket is connected, the last SYN counts.
#[test]
fn another_syn_supersedes_one_that_still_connects() {
    let mut pair = pair();
    pair.connect = Connect::Never;
    pair.open_from_guest();
    pair.run(Duration::from_millis(10), |_| false);
    let connection = pair.connection.as_ref().unwrap();
    let isn = pair.guest.seq(0).wrapping_sub(1);
    let mut header = etherparse::TcpHeader::new(2, 1, isn, 1000);
    header.syn = true;
    let same = super::super::Segment::parse(&header.to_bytes(), 0).unwrap();
    header.sequence_number = isn.wrapping_add(99);
    let other = super::super::Segment::parse(&header.to_bytes(), 0).unwrap();
    assert!(!connection.is_superseded_by(&same) && connection.is_superseded_by(&other));
}
