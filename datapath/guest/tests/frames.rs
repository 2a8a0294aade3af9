//! Frames through both queues in every shape that well-behaved drivers use.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod harness;

use culvert_driver::Shape;
use culvert_frame::DropReason;
use culvert_guest::receive::PutError;
use culvert_guest::{NetHeader, Packet, TransmitBurst};
use harness::pair;

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn whole(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = packet.head.to_vec();
    for piece in packet.rest() {
        let mut part = vec![0; piece.length() as usize];
        assert_eq!(piece.copy_to(0, &mut part), part.len());
        bytes.extend(part);
    }
    assert_eq!(bytes.len(), packet.length as usize);
    bytes
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (header_bytes, mergeable) in [(12, true), (12, false), (10, false)] {
        for event_idx in [false, true] {
            for (split_header, packed) in [(false, false), (false, true), (true, false), (true, true)] {
                let receive_bytes = if mergeable { 1526 } else { 70_000 };
                shapes.push(Shape {
                    queue_size: 128,
                    header_bytes,
                    mergeable,
                    event_idx,
                    receive_bytes,
                    split_header,
                    packed,
                    ..Shape::default()
                });
            }
        }
    }
    shapes
}

#[test]
fn frames_of_all_lengths_pass_in_every_shape() {
    let mut burst = TransmitBurst::default();
    for shape in shapes() {
        let mut pair = pair(shape);
        for length in [14, 60, 64, 127, 128, 129, 1514, 1515, 4000, 65_550] {
            let sent = frame(length);
            for cuts in [&[][..], &[1], &[14], &[13, 13, 14], &[10, 11, 12, 13, 14]] {
                assert!(pair.driver.send_with(&vec![0; shape.header_bytes as usize], &sent, cuts));
                let received = pair.transmit.receive(&mut burst).unwrap();
                assert_eq!(received.len(), 1);
                let packet = received.packet(0).unwrap();
                assert_eq!(whole(&packet), sent, "{shape:?} {length} {cuts:?}");
                pair.receive.put(&NetHeader::default(), packet.head, packet.length, packet.rest()).unwrap();
                drop(received);
                pair.receive.publish();
                let (header, got) = pair.driver.receive().unwrap();
                assert_eq!(got, sent, "{shape:?} {length} {cuts:?}");
                assert_eq!(header[..10], [0; 10]);
                assert!(pair.driver.receive().is_none());
            }
        }
    }
}

/// What lies in the storage behind a burst are pieces of an earlier one, whose memory may be unmapped.
#[test]
fn there_is_no_frame_behind_the_end_of_a_burst() {
    for packed in [false, true] {
        let mut burst = TransmitBurst::default();
        let mut pair = pair(Shape { queue_size: 32, packed, ..Shape::default() });
        assert!(pair.driver.send(&frame(1000)) && pair.driver.send(&frame(1000)));
        assert!(pair.transmit.receive(&mut burst).unwrap().packet(1).is_ok());
        assert!(pair.driver.send(&frame(1000)));
        assert!(pair.transmit.receive(&mut burst).unwrap().packet(1).is_err());
    }
}

#[test]
fn bursts_wrap_around_the_ring_and_the_index() {
    for packed in [false, true] {
        let mut burst = TransmitBurst::default();
        let mut pair = pair(Shape { queue_size: 32, packed, ..Shape::default() });
        for round in 0..5000_usize {
            let count = 1 + round % 32;
            for i in 0..count {
                assert!(pair.driver.send(&frame(64 + i)));
            }
            let received = pair.transmit.receive(&mut burst).unwrap();
            assert_eq!(received.len(), count);
            for i in 0..count {
                let packet = received.packet(i).unwrap();
                pair.receive.put(&NetHeader::default(), packet.head, packet.length, packet.rest()).unwrap();
            }
            drop(received);
            pair.receive.publish();
            for i in 0..count {
                assert_eq!(pair.driver.receive().unwrap().1, frame(64 + i));
            }
        }
        assert!(pair.transmit.receive(&mut burst).unwrap().is_empty());
    }
}

#[test]
fn chains_stay_with_us_until_the_burst_is_dropped() {
    for packed in [false, true] {
        let mut burst = TransmitBurst::default();
        let mut pair = pair(Shape { packed, ..Shape::default() });
        pair.driver.send(&frame(64));
        let received = pair.transmit.receive(&mut burst).unwrap();
        assert_eq!(pair.driver.transmit.used_index(), 0);
        drop(received);
        assert_eq!(pair.driver.transmit.used_index(), 1);
        assert_eq!(pair.transmit.position() & 0x7fff, 1);
    }
}

#[test]
fn nothing_is_seen_before_publication() {
    for packed in [false, true] {
        let mut pair = pair(Shape { packed, ..Shape::default() });
        pair.receive.put(&NetHeader::default(), &frame(60), 60, std::iter::empty()).unwrap();
        assert!(pair.driver.receive().is_none());
        pair.receive.publish();
        assert!(pair.driver.receive().is_some());
    }
}

#[test]
fn a_full_receive_ring_takes_no_part_of_a_frame() {
    for packed in [false, true] {
        let mut pair = pair(Shape { queue_size: 4, receive_bytes: 256, packed, ..Shape::default() });
        let big = frame(5 * 256);
        let put = |pair: &mut harness::Pair, bytes: &[u8]| {
            pair.receive.put(&NetHeader::default(), bytes, bytes.len() as u32, std::iter::empty())
        };
        assert_eq!(put(&mut pair, &big), Err(PutError::NoBuffer));
        for _ in 0..4 {
            put(&mut pair, &frame(100)).unwrap();
        }
        assert_eq!(put(&mut pair, &frame(100)), Err(PutError::NoBuffer));
        pair.receive.publish();
        for _ in 0..4 {
            assert_eq!(pair.driver.receive().unwrap().1, frame(100));
        }
        assert!(pair.driver.receive().is_none());
    }
}

#[test]
fn a_frame_larger_than_an_unmergeable_buffer_is_refused_and_smaller_ones_pass() {
    for packed in [false, true] {
        let mut pair = pair(Shape { mergeable: false, receive_bytes: 1526, packed, ..Shape::default() });
        let put = |pair: &mut harness::Pair, length: usize| {
            pair.receive.put(&NetHeader::default(), &frame(length), length as u32, std::iter::empty())
        };
        assert_eq!(put(&mut pair, 1515), Err(PutError::SmallBuffer));
        assert_eq!(put(&mut pair, 1514), Ok(()));
        pair.receive.publish();
        assert_eq!(pair.driver.receive().unwrap().1, frame(1514));
    }
}

#[test]
fn a_queue_resumes_where_the_used_index_stands() {
    let mut driver = culvert_driver::Interface::new(Shape::default(), 2000);
    driver.transmit.start_at(65_530);
    let memory = harness::share(driver.ram());
    let mut burst = TransmitBurst::default();
    for round in 0..20 {
        // A fresh queue each time, as after a crash.
        let call = std::sync::Arc::default();
        let layout = harness::layout(&driver.transmit);
        let mut queue = culvert_guest::TransmitQueue::new(memory.clone(), &layout, harness::MODERN, call).unwrap();
        driver.send(&frame(60 + round));
        let received = queue.receive(&mut burst).unwrap();
        assert_eq!(received.len(), 1);
        assert_eq!(whole(&received.packet(0).unwrap()), frame(60 + round));
    }
}

#[test]
fn an_armed_queue_is_kicked_once_and_a_polled_one_never() {
    for packed in [false, true] {
        for event_idx in [false, true] {
            let mut burst = TransmitBurst::default();
            let mut pair = pair(Shape { event_idx, packed, ..Shape::default() });
            assert!(pair.transmit.arm().unwrap());
            pair.driver.send(&frame(60));
            // `send` published: ask what it saw by arming again with the frame there.
            assert!(!pair.transmit.arm().unwrap());
            drop(pair.transmit.receive(&mut burst).unwrap());
            assert!(pair.transmit.arm().unwrap());
            assert!(offer_asks_for_kick(&mut pair));
            drop(pair.transmit.receive(&mut burst).unwrap());
            pair.transmit.disarm();
            assert!(!offer_asks_for_kick(&mut pair));
        }
    }
}

fn offer_asks_for_kick(pair: &mut harness::Pair) -> bool {
    let at = pair.driver.ram().guest_address();
    while pair.driver.transmit.take_used().is_some() {}
    pair.driver.transmit.offer(&[culvert_driver::Buffer { address: at, length: 80, writable: false }]).unwrap();
    pair.driver.transmit.publish()
}

#[test]
fn indirect_chains_pass() {
    for packed in [false, true] {
        let mut burst = TransmitBurst::default();
        let mut pair = pair(Shape { packed, ..Shape::default() });
        let ram = pair.driver.ram();
        let (table, data) = (ram.allocate(16 * 3, 16), ram.allocate(2000, 64));
        ram.write(data, &[0; 12]);
        ram.write(data + 12, &frame(1500));
        let buffers = [(data, 12), (data + 12, 700), (data + 712, 800)]
            .map(|(address, length)| culvert_driver::Buffer { address, length, writable: false });
        pair.driver.transmit.offer_indirect(table, &buffers).unwrap();
        pair.driver.transmit.publish();
        let received = pair.transmit.receive(&mut burst).unwrap();
        assert_eq!(whole(&received.packet(0).unwrap()), frame(1500));
    }
}

#[test]
fn the_guest_is_interrupted_only_when_it_asks() {
    for packed in [false, true] {
        use std::os::fd::AsFd;
        for event_idx in [false, true] {
            let mut pair = pair(Shape { event_idx, packed, ..Shape::default() });
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
            let call = std::sync::Arc::new(culvert_guest::Call::new(Some(event.as_fd().try_clone_to_owned().unwrap())));
            let layout = harness::layout(&pair.driver.receive);
            let features = harness::features(&Shape { event_idx, packed, ..Shape::default() });
            pair.receive = culvert_guest::ReceiveQueue::new(pair.memory.clone(), &layout, features, call).unwrap();
            let interrupted = |pair: &mut harness::Pair| {
                pair.receive.put(&NetHeader::default(), &frame(60), 60, std::iter::empty()).unwrap();
                pair.receive.publish();
                rustix::io::read(&event, &mut [0; 8]).is_ok()
            };
            pair.driver.receive.want_interrupt(true);
            assert!(interrupted(&mut pair));
            while pair.driver.receive().is_some() {}
            pair.driver.receive.want_interrupt(false);
            assert!(!interrupted(&mut pair));
        }
    }
}

#[test]
fn an_oversized_frame_is_refused_and_the_next_passes() {
    for packed in [false, true] {
        let mut burst = TransmitBurst::default();
        let mut pair = pair(Shape { packed, ..Shape::default() });
        let at = pair.driver.ram().guest_address();
        let huge = [culvert_driver::Buffer { address: at, length: 65_600, writable: false }; 3];
        pair.driver.transmit.offer(&huge).unwrap();
        pair.driver.transmit.publish();
        pair.driver.send(&frame(60));
        let received = pair.transmit.receive(&mut burst).unwrap();
        assert_eq!(received.packet(0).unwrap_err(), DropReason::Oversized);
        assert_eq!(whole(&received.packet(1).unwrap()), frame(60));
    }
}
