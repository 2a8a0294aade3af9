//! A guest that breaks every rule: what it sends is dropped or answered as RFC 9293 says, and costs little.

use std::time::Duration;

use etherparse::{TcpHeader, TcpOptionElement};
use proptest::prelude::*;

use super::super::{Action, Connection, Flags, SackBlocks, Segment, Seq};
use super::guest;
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

/// Goes on as if nothing had happened.
fn assert_unharmed(mut pair: Pair) {
    let more = pair.guest.stream.len();
    pair.guest.stream.extend(stream(5000, more));
    pair.kernel.stream.extend(stream(5000, 8));
    pair.guest.closes = true;
    pair.kernel.far_closes = true;
    pair.kernel.on_change();
    pair.run_to_the_end(MINUTES);
    pair.assert_delivered();
}

fn set_flags(header: &mut TcpHeader, flags: u8) {
    header.fin = flags & 1 != 0;
    header.syn = flags & 2 != 0;
    header.rst = flags & 4 != 0;
    header.psh = flags & 8 != 0;
    header.ack = flags & 16 != 0;
    header.urg = flags & 32 != 0;
    header.ece = flags & 64 != 0;
    header.cwr = flags & 128 != 0;
}

/// Those with SYN beside FIN or RST are not even read.
#[test]
fn any_flags_are_borne_by_an_open_connection() {
    for flags in 0..=255_u8 {
        if flags & 2 != 0 && flags & 5 != 0 {
            continue;
        }
        let (has_fin, has_rst) = (flags & 1 != 0, flags & 4 != 0);
        let mut pair = opened();
        let answers = pair.forge(0, 0, &[], |header| set_flags(header, flags));
        assert!(answers.len() <= 1, "{flags:#x}");
        let expected = if has_rst { Some(Action::Reset) } else { None };
        assert_eq!(pair.over, expected, "{flags:#x}");
        if flags & 16 == 0 && flags & 4 == 0 {
            assert!(answers.iter().all(|answer| answer.flags == Flags::ACK), "{flags:#x}");
            assert!(!pair.kernel.is_shut_down);
        }
        if !(has_rst || has_fin && flags & 16 != 0) {
            assert_unharmed(pair);
        }
    }
}

#[test]
fn any_flags_are_borne_before_and_after() {
    for flags in (0..=255_u8).filter(|flags| flags & 2 == 0 || flags & 5 == 0) {
        // Connecting, SYN-SENT, SYN-RECEIVED, LAST-ACK or so, TIME-WAIT.
        for (moment, distance) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (3, 1000), (4, -1000)] {
            let mut pair = Pair::new(plain(), kernel::Kind::default(), stream(100, 1), stream(100, 2));
            if moment == 4 && flags & 0x12 == 2 {
                // A new connection.
                continue;
            }
            pair.guest.closes = moment < 4;
            if moment == 1 {
                pair.open_from_host()
            } else {
                pair.open_from_guest()
            }
            match moment {
                0 => pair.run(Duration::from_micros(50), |_| false),
                1 => true,
                2 => pair.run(MINUTES, |pair| !pair.transmitted.is_empty()),
                3 => pair.run(MINUTES, |pair| pair.kernel.is_shut_down),
                _ => {
                    pair.run(MINUTES, |pair| pair.guest.got_end);
                    pair.guest.closes = true;
                    pair.run(MINUTES, |pair| pair.kernel.is_closed)
                }
            };
            assert!(pair.connection.is_some(), "{flags:#x} at {moment}");
            pair.guest.state = guest::State::Dead;
            let answers = pair.forge(distance, 0, &[], |header| set_flags(header, flags));
            assert!(answers.len() <= 2, "{flags:#x} at {moment}");
            pair.run(24 * MINUTES, |pair| pair.over.is_some());
            assert!(pair.over.is_some(), "{flags:#x} at {moment}: {}", pair.describe());
        }
    }
}

/// RFC 7323, 2.3: 14 at most. RFC 9293, 3.7.1: an MSS that no network has.
#[test]
fn absurd_options_of_a_syn_are_bounded() {
    for (scale, mss) in [(255, 0), (15, 1), (14, 65_535)] {
        let mut pair = Pair::new(plain(), kernel::Kind::default(), Vec::new(), stream(50_000, 2));
        pair.guest.state = guest::State::Dead;
        let mut header = TcpHeader::new(2, 1, 77, 65_535);
        header.syn = true;
        header.set_options(&[TcpOptionElement::WindowScale(scale), TcpOptionElement::MaximumSegmentSize(mss)]).unwrap();
        pair.put_to_us(guest::Frame { header: header.to_bytes().to_vec(), payload: Vec::new(), is_marked: false });
        pair.run(Duration::from_secs(1), |_| false);
        let answer = pair.transmitted[0].1;
        let mut header = TcpHeader::new(2, 1, 78, 65_535);
        header.ack = true;
        header.acknowledgment_number = answer.seq.0.wrapping_add(1);
        pair.guest.kind.mss = 1460;
        pair.put_to_us(guest::Frame { header: header.to_bytes().to_vec(), payload: Vec::new(), is_marked: false });
        pair.run(Duration::from_millis(100), |_| false);
        let data: Vec<_> =
            pair.transmitted.iter().map(|(_, sent)| *sent).filter(|sent| sent.payload.is_some()).collect();
        assert!(!data.is_empty() && data.iter().all(|sent| (40..=1460).contains(&sent.mss)), "{data:?}");
        assert!(data.iter().all(|sent| sent.payload.unwrap().max <= 64 * u32::from(sent.mss)));
    }
}

/// RFC 2018, 5: ranges that make no sense are passed over.
#[test]
fn sack_that_makes_no_sense_is_passed_over() {
    let kind = guest::Kind { timestamps: false, ..guest::Kind::default() };
    let mut pair = Pair::opened(kind, kernel::Kind::default(), Vec::new(), stream(1000, 2));
    pair.delay = Duration::from_millis(1);
    pair.kernel.stream.extend(stream(100_000, 3));
    pair.kernel.on_change();
    pair.run(Duration::from_micros(500), |pair| pair.transmitted.len() > 1);
    let before = pair.transmitted.len();
    let una = pair.guest.peer_seq(1000);
    let mut window = 100;
    for (first, end) in [
        (una.wrapping_sub(1000), una),
        (una, una),
        (una.wrapping_add(5000), una.wrapping_add(4000)),
        (una.wrapping_add(100_000), una.wrapping_add(200_000)),
        (una.wrapping_add(1 << 31), una.wrapping_add(10)),
        (una.wrapping_add(10), una.wrapping_add(1 << 31)),
        (una, una.wrapping_sub(1)),
        (0, u32::MAX),
        (u32::MAX, 0),
    ] {
        pair.forge(0, 0, &[], |header| {
            let block = Some((first, end));
            let options = [TcpOptionElement::SelectiveAcknowledgement((first, end), [block, block, None])];
            header.set_options(&options).unwrap();
            // Another each time: not a duplicate.
            window += 1;
            header.window_size = window;
        });
    }
    assert_eq!(pair.sent_again, 0, "{} sent", pair.transmitted.len() - before);
    pair.delay = Duration::from_micros(30);
    assert_unharmed(pair);
}

/// RFC 9293, 3.10.7.4, fifth, and RFC 5961, 5.2.
#[test]
fn acknowledgements_of_what_was_not_sent_are_answered_and_ignored() {
    for distance in [1, 1000, 1 << 30, i32::MAX, i32::MIN, -(1 << 30)] {
        let mut pair = opened();
        let answers = pair.forge(0, distance, b"not taken", |_| {});
        assert_eq!((answers.len(), answers[0].flags), (1, Flags::ACK), "{distance}");
        assert_eq!(pair.kernel.written, 1000);
        assert_unharmed(pair);
    }
}

/// The first bytes count, whatever comes later for the same numbers.
#[test]
fn other_bytes_for_what_was_taken_are_not_taken() {
    let mut pair = opened();
    pair.guest.state = guest::State::Dead;
    pair.forge(-500, 0, &[0xee; 500], |_| {});
    assert_eq!(pair.kernel.written, 1000);
    pair.forge(-500, 0, &[0xee; 600], |_| {});
    assert_eq!(pair.kernel.written, 1100, "only what is new");
    pair.run(Duration::from_secs(1), |_| false);
    assert!(pair.kernel.far_received[..1000] == pair.guest.stream);
    assert!(pair.kernel.far_received[1000..] == [0xee; 100]);
}

#[test]
fn nothing_beyond_the_window_is_taken() {
    let kernel = kernel::Kind { send_buffer: 5000, ..kernel::Kind::default() };
    let mut pair = Pair::opened(plain(), kernel, stream(1000, 1), Vec::new());
    pair.kernel.far_reads = false;
    pair.kernel.kind.far_buffer = 0;
    let told = pair.connection.as_ref().map(|_| pair.kernel.written).unwrap();
    pair.forge(0, 0, &stream(60_000, 1), |_| {});
    assert!(pair.kernel.written - told <= 5000);
    let distance = 1 << 20;
    assert_eq!(pair.forge(distance, 0, b"far ahead", |_| {}).len(), 1, "is answered");
    assert!(pair.kernel.written - told <= 5000);
}

/// RFC 9293, 3.10.7.4, seventh: behind FIN there is nothing.
#[test]
fn nothing_behind_the_end_is_taken() {
    let mut pair = opened();
    pair.forge(0, 0, b"the end", |header| header.fin = true);
    assert!(pair.kernel.is_shut_down);
    for distance in [0, 3, 7, 8, 100] {
        pair.forge(distance, 0, b"more than the end", |header| header.fin = distance == 3);
    }
    assert_eq!(pair.kernel.written, 1007);
}

/// RFC 6093: whatever the pointer says, it is data like other data.
#[test]
fn urgent_data_is_data() {
    for pointer in [0, 1, 3, 5, 6, 0x7fff, 0xffff] {
        let mut pair = opened();
        pair.guest.state = guest::State::Dead;
        pair.forge(0, 0, b"urgent", |header| (header.urg, header.urgent_pointer) = (true, pointer));
        pair.run(Duration::from_secs(1), |_| false);
        assert!(pair.kernel.far_received[1000..] == *b"urgent");
    }
}

/// RFC 7323, 5.3 and 3.2.
#[test]
fn old_and_missing_timestamps_are_not_taken() {
    let mut pair = Pair::opened(guest::Kind::default(), kernel::Kind::default(), stream(1000, 1), stream(1000, 2));
    let recent = 60_000_u32.wrapping_add(0xffff_ff00);
    for (value, is_taken) in
        [(recent.wrapping_sub(60_001), false), (recent.wrapping_sub(1 << 30), false), (recent.wrapping_add(5), true)]
    {
        let written = pair.kernel.written;
        let answers = pair.forge(0, 0, b"x", |header| {
            header.set_options(&[TcpOptionElement::Timestamp(value, 0)]).unwrap();
        });
        assert_eq!(pair.kernel.written > written, is_taken, "{value}");
        assert!(is_taken || answers.len() == 1, "an old one is answered");
    }
    let written = pair.kernel.written;
    assert!(pair.forge(1, 0, b"y", |_| {}).is_empty());
    assert_eq!(pair.kernel.written, written);
}

/// Nothing is kept of what comes too early.
#[test]
fn early_segments_are_answered_and_not_kept() {
    let mut pair = opened();
    for distance in 0..10_000 {
        pair.run(Duration::from_millis(1), |_| false);
        let answers = pair.forge(1 + distance % 50_000, 0, b"early", |_| {});
        assert_eq!((answers.len(), answers[0].flags), (1, Flags::ACK));
    }
    assert_eq!(pair.kernel.written, 1000);
    assert_unharmed(pair);
}

/// RFC 5961, 7.
#[test]
fn storms_are_not_answered_in_kind() {
    let mut pair = opened();
    let mut answers = 0;
    for round in 0..10_000 {
        answers += pair.forge(1 + round % 60_000, 0, &[], |header| header.rst = true).len();
        answers += pair.forge(-5000, 0, &[], |_| {}).len();
        answers += pair.forge(round, 0, &[], |header| header.syn = true).len();
    }
    assert_eq!(answers, 1);
    assert!(pair.over.is_none());
    assert_unharmed(pair);
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Connection>() <= 512, "{} bytes", size_of::<Connection>());
}

fn any_segment() -> impl Strategy<Value = (u8, i32, i32, u16, Vec<(u32, u32)>, usize)> {
    let distance = || prop_oneof![Just(0), -2000..2000_i32, any::<i32>()];
    let sack = prop::collection::vec((0..5000_u32, 0..5000_u32), 0..4);
    (any::<u8>(), distance(), distance(), any::<u16>(), sack, 0..3000_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, max_shrink_time: 20_000, ..ProptestConfig::default() })]

    /// Whatever a guest sends, when it falls silent its connection ends.
    #[test]
    fn a_guest_gone_mad_is_forgotten(segments in prop::collection::vec(any_segment(), 1..60), from_host: bool, at in 0..8_usize) {
        let mut pair = Pair::new(plain(), kernel::Kind::default(), stream(20_000, 1), stream(20_000, 2));
        if from_host { pair.open_from_host() } else { pair.open_from_guest() }
        pair.run(MINUTES, |pair| pair.transmitted.len() >= at);
        pair.guest.state = guest::State::Dead;
        for (flags, seq, ack, window, sack, length) in segments {
            let Some(connection) = pair.connection.as_mut() else { break };
            let mut blocks = SackBlocks::default();
            let una = Seq(pair.guest.peer_seq(pair.guest.received.len()).wrapping_add_signed(ack));
            for (first, end) in sack {
                blocks.push(una + first, una + end);
            }
            let segment = Segment {
                seq: Seq(pair.guest.seq(pair.guest.nxt).wrapping_add_signed(seq)),
                ack: (flags & 16 != 0).then_some(una),
                flags: Flags(flags),
                window,
                options: super::super::Options { sack: blocks, ..super::super::Options::default() },
                length: u32::try_from(length).unwrap(),
                congested: flags & 1 == 0,
            };
            if let Some(range) = connection.on_segment(pair.now, &segment) {
                prop_assert!(range.start < range.end && range.end <= segment.length);
                let taken = pair.kernel.write(&vec![0; (range.end - range.start) as usize]);
                connection.on_written(pair.now, &range, u32::try_from(taken).unwrap());
            }
            pair.drive();
            pair.run(Duration::from_millis(3), |_| false);
        }
        pair.run(Duration::from_secs(24 * 3600), |pair| pair.connection.is_none());
        prop_assert!(pair.connection.is_none(), "{}", pair.describe());
    }
}
