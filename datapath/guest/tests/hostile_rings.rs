//! What a guest may do to its rings, and that each of it ends as a fault or a dropped frame. The names carry the kind of
//! attack: loops, indices, addresses, lengths, indirect tables, directions.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod harness;

use culvert_driver::{Buffer, Descriptor, Shape};
use culvert_frame::DropReason;
use culvert_guest::receive::PutError;
use culvert_guest::split::StartError;
use culvert_guest::{NetHeader, ReceiveQueue, RingFault, TransmitBurst, TransmitQueue};
use harness::{Pair, pair};

const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn small() -> Pair {
    pair(Shape { queue_size: SIZE, ..Shape::default() })
}

/// Publishes `head` with the given descriptors in the table from index 0 on; what does the device say?
fn transmit(pair: &mut Pair, head: u16, table: &[Descriptor]) -> Result<Vec<Option<DropReason>>, RingFault> {
    for (index, descriptor) in (0..).zip(table) {
        pair.driver.transmit.set_descriptor(index, *descriptor);
    }
    pair.driver.transmit.offer_head(head);
    pair.driver.transmit.publish();
    let mut burst = TransmitBurst::default();
    let received = pair.transmit.receive(&mut burst)?;
    Ok((0..received.len()).map(|index| received.packet(index).err()).collect())
}

fn buffer(pair: &Pair, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address: pair.driver.ram().guest_address(), length, flags, next }
}

#[test]
fn chain_loops_end() {
    for cycle in [1, 2, SIZE] {
        let mut pair = small();
        let table: Vec<_> = (0..cycle).map(|i| buffer(&pair, 8, NEXT, (i + 1) % cycle)).collect();
        assert_eq!(transmit(&mut pair, 0, &table), Err(RingFault::ChainTooLong(SIZE)));
    }
}

#[test]
fn indices_outside_of_the_table() {
    for index in [SIZE, SIZE + 1, u16::MAX] {
        let fault = Err(RingFault::DescriptorIndex { index, size: SIZE });
        let mut pair = small();
        assert_eq!(transmit(&mut pair, index, &[]), fault);
        let mut pair = small();
        let table = [buffer(&pair, 8, NEXT, index)];
        assert_eq!(transmit(&mut pair, 0, &table), fault);
    }
}

#[test]
fn available_index_jumps_forward_and_back() {
    for index in [SIZE + 1, 1000, u16::MAX] {
        let mut pair = small();
        pair.driver.transmit.set_available_index(index);
        let fault = pair.transmit.receive(&mut TransmitBurst::default()).map(|_| ()).unwrap_err();
        assert_eq!(fault, RingFault::AvailableIndex { available: index, position: 0, size: SIZE });
        pair.driver.receive.set_available_index(index);
        // The receive queue looks only when what it knows of is used up.
        let faults =
            (0..=SIZE).find_map(|_| pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty()).err());
        assert_eq!(faults, Some(PutError::Fault(fault)));
    }
}

#[test]
fn an_available_index_that_goes_back_during_a_burst_is_a_fault() {
    // All chains are taken and not published yet when the index goes back: they must not be taken again.
    for back in [0, 1, SIZE - 1] {
        let mut pair = small();
        let put = |pair: &mut Pair| pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty());
        for _ in 0..SIZE {
            assert_eq!(put(&mut pair), Ok(()));
        }
        pair.driver.receive.set_available_index(back);
        let fault = RingFault::AvailableIndex { available: back, position: 0, size: SIZE };
        assert_eq!(put(&mut pair), Err(PutError::Fault(fault)));
        pair.receive.publish();
        assert_eq!(pair.driver.receive.used_index(), SIZE);
    }
    // The same with two chains among a thousand empty ones: a few large frames would go around the ring until they had
    // found enough room, and the count of chains would overflow.
    let size = 1024;
    let mut pair = pair(Shape { queue_size: size, ..Shape::default() });
    let put = |pair: &mut Pair, length: u32| {
        pair.receive.put(&NetHeader::default(), &vec![0; length as usize], length, std::iter::empty())
    };
    for _ in 0..size {
        assert_eq!(put(&mut pair, 60), Ok(()));
    }
    for index in 2..size {
        let empty = buffer(&pair, 0, WRITE, 0);
        pair.driver.receive.set_descriptor(index, empty);
    }
    pair.driver.receive.set_available_index(0);
    for length in [63_000, 65_000, 65_000, 65_000, 65_000] {
        let result = put(&mut pair, length);
        assert!(matches!(result, Err(PutError::Fault(RingFault::AvailableIndex { .. }))), "{result:?}");
    }
}

#[test]
fn a_ring_whose_indices_disagree_does_not_start() {
    let pair = small();
    pair.driver.transmit.set_available_index(SIZE + 1);
    let layout = harness::layout(&pair.driver.transmit);
    let error = TransmitQueue::new(pair.memory.clone(), &layout, harness::MODERN, Default::default()).unwrap_err();
    assert!(matches!(error, StartError::Fault(RingFault::AvailableIndex { .. })));
}

#[test]
fn addresses_outside_of_the_memory() {
    let ram_end = |pair: &Pair| pair.driver.ram().guest_address() + pair.driver.ram().size();
    for (offset, length) in [(0_i64, 64), (-32, 64), (-1, 2), (i64::MAX, 64)] {
        let mut pair = small();
        let address = ram_end(&pair).wrapping_add_signed(offset);
        let table = [Descriptor { address, length, flags: 0, next: 0 }];
        assert_eq!(transmit(&mut pair, 0, &table), Err(RingFault::Address { address, length }));
        // The same in the receive queue.
        let mut pair = small();
        for index in 0..SIZE {
            pair.driver
                .receive
                .set_descriptor(index, Descriptor { address, length: length.max(2000), flags: WRITE, next: 0 });
        }
        let result = pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty());
        assert!(matches!(result, Err(PutError::Fault(RingFault::Address { .. }))), "{result:?}");
    }
    let mut pair = small();
    let table = [Descriptor { address: u64::MAX - 4, length: u32::MAX, flags: 0, next: 0 }];
    assert!(matches!(transmit(&mut pair, 0, &table), Err(RingFault::Address { .. })));
}

#[test]
fn empty_buffers_are_tolerated() {
    let mut pair = small();
    let (a, z) = (buffer(&pair, 76, NEXT, 1), buffer(&pair, 0, NEXT, 1));
    let last = Descriptor { address: u64::MAX, length: 0, flags: 0, next: 0 };
    let a = Descriptor { next: 2, ..a };
    assert_eq!(transmit(&mut pair, 0, &[z, a, last]), Ok(vec![None]));
    let mut pair = small();
    assert_eq!(transmit(&mut pair, 0, &[z, z, last]), Err(RingFault::ChainTooLong(SIZE)));
    assert_eq!(transmit(&mut small(), 0, &[z, last]), Ok(vec![Some(DropReason::ShortHeader)]));
}

#[test]
fn chains_that_end_within_the_header_are_dropped() {
    for length in 0..12 {
        let mut pair = small();
        let table = [buffer(&pair, length, 0, 0)];
        assert_eq!(transmit(&mut pair, 0, &table), Ok(vec![Some(DropReason::ShortHeader)]), "{length}");
    }
    // Exactly the header: an empty frame, for the switch to refuse as a runt.
    let mut pair = small();
    let table = [buffer(&pair, 12, 0, 0)];
    assert_eq!(transmit(&mut pair, 0, &table), Ok(vec![None]));
}

#[test]
fn a_header_over_many_descriptors_works() {
    let mut pair = small();
    let table: Vec<_> =
        (0..13).map(|i| buffer(&pair, if i == 12 { 60 } else { 1 }, if i == 12 { 0 } else { NEXT }, i + 1)).collect();
    assert_eq!(transmit(&mut pair, 0, &table), Ok(vec![None]));
}

#[test]
fn wrong_directions() {
    let mut pair = small();
    let table = [buffer(&pair, 76, WRITE, 0)];
    assert!(matches!(transmit(&mut pair, 0, &table), Err(RingFault::Direction(_))));
    let mut pair = small();
    for index in 0..SIZE {
        let readable = buffer(&pair, 2000, 0, 0);
        pair.driver.receive.set_descriptor(index, readable);
    }
    let result = pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty());
    assert!(matches!(result, Err(PutError::Fault(RingFault::Direction(_)))));
}

#[test]
fn indirect_tables() {
    let ok = |pair: &Pair| pair.driver.ram().allocate(64 * 16, 16);
    // Odd lengths, too long, followed by next.
    for (length, flags) in [
        (0, INDIRECT),
        (15, INDIRECT),
        (17, INDIRECT),
        (16 * (u32::from(SIZE) + 1), INDIRECT),
        (u32::MAX, INDIRECT),
        (1 << 20, INDIRECT),
        (16, INDIRECT | NEXT),
    ] {
        let mut pair = small();
        let address = ok(&pair);
        let fault = transmit(&mut pair, 0, &[Descriptor { address, length, flags, next: 1 }]);
        assert_eq!(fault, Err(RingFault::Indirect { address, length }));
    }
    // Nested.
    let mut pair = small();
    let table = ok(&pair);
    let mut inner = table.to_le_bytes().to_vec();
    inner.extend([16, 0, 0, 0, 4, 0, 0, 0]);
    pair.driver.ram().write(table, &inner);
    let fault = transmit(&mut pair, 0, &[Descriptor { address: table, length: 16, flags: INDIRECT, next: 0 }]);
    assert_eq!(fault, Err(RingFault::Indirect { address: table, length: 16 }));
    // Outside of the memory, and misaligned.
    let mut pair = small();
    let end = pair.driver.ram().guest_address() + pair.driver.ram().size();
    let fault = transmit(&mut pair, 0, &[Descriptor { address: end - 16, length: 32, flags: INDIRECT, next: 0 }]);
    assert_eq!(fault, Err(RingFault::Address { address: end - 16, length: 32 }));
    let mut pair = small();
    let address = ok(&pair) + 4;
    let fault = transmit(&mut pair, 0, &[Descriptor { address, length: 32, flags: INDIRECT, next: 0 }]);
    assert_eq!(fault, Err(RingFault::Indirect { address, length: 32 }));
    // `next` inside of the table, outside of the table.
    let mut pair = small();
    let table = ok(&pair);
    let mut entry = pair.driver.ram().guest_address().to_le_bytes().to_vec();
    entry.extend([76, 0, 0, 0, 1, 0, 9, 0]);
    pair.driver.ram().write(table, &entry);
    let fault = transmit(&mut pair, 0, &[Descriptor { address: table, length: 16, flags: INDIRECT, next: 0 }]);
    assert_eq!(fault, Err(RingFault::DescriptorIndex { index: 9, size: 1 }));
}

#[test]
fn indirect_tables_that_were_not_negotiated() {
    let mut pair = small();
    let layout = harness::layout(&pair.driver.transmit);
    let features = harness::MODERN & !culvert_guest::features::INDIRECT_DESC;
    pair.transmit = TransmitQueue::new(pair.memory.clone(), &layout, features, Default::default()).unwrap();
    let address = pair.driver.ram().allocate(16, 16);
    let fault = transmit(&mut pair, 0, &[Descriptor { address, length: 16, flags: INDIRECT, next: 0 }]);
    assert_eq!(fault, Err(RingFault::Indirect { address, length: 16 }));
}

#[test]
fn the_same_head_twice_is_completed_twice_and_no_more() {
    let mut pair = small();
    let one = buffer(&pair, 76, 0, 0);
    pair.driver.transmit.set_descriptor(0, one);
    for _ in 0..3 {
        pair.driver.transmit.offer_head(0);
    }
    pair.driver.transmit.publish();
    let mut burst = TransmitBurst::default();
    assert_eq!(pair.transmit.receive(&mut burst).unwrap().len(), 3);
    assert_eq!(pair.driver.transmit.used_index(), 3);
}

#[test]
fn receive_chains_without_room_for_the_header_are_given_back() {
    let mut driver = small();
    let layout = harness::layout(&driver.driver.receive);
    driver.driver.receive.reset();
    let at = driver.driver.ram().guest_address();
    for _ in 0..4 {
        driver.driver.receive.offer(&[Buffer { address: at, length: 1, writable: true }]).unwrap();
    }
    driver.driver.receive.offer(&[Buffer { address: at, length: 2000, writable: true }]).unwrap();
    driver.driver.receive.publish();
    let mut queue = ReceiveQueue::new(driver.memory.clone(), &layout, harness::MODERN, Default::default()).unwrap();
    let mut put = || queue.put(&NetHeader::default(), &[1; 60], 60, std::iter::empty());
    for _ in 0..4 {
        assert_eq!(put(), Err(PutError::SmallBuffer));
    }
    assert_eq!(put(), Ok(()));
    queue.publish();
    let used: Vec<_> = std::iter::from_fn(|| driver.driver.receive.take_used()).map(|(_, length)| length).collect();
    assert_eq!(used, [0, 0, 0, 0, 72]);
}

#[test]
fn tiny_receive_chains_behind_the_first_hold_one_frame() {
    let mut pair = small();
    pair.driver.receive.reset();
    let ram = pair.driver.ram();
    let at = ram.allocate(4096, 64);
    for i in 0..u64::from(SIZE) {
        let length = if i == 0 { 12 } else { 4 };
        pair.driver.receive.offer(&[Buffer { address: at + 16 * i, length, writable: true }]).unwrap();
    }
    pair.driver.receive.publish();
    let layout = harness::layout(&pair.driver.receive);
    let mut queue = ReceiveQueue::new(pair.memory.clone(), &layout, harness::MODERN, Default::default()).unwrap();
    assert_eq!(queue.put(&NetHeader::default(), &[9; 61], 61, std::iter::empty()), Err(PutError::NoBuffer));
    assert_eq!(queue.put(&NetHeader::default(), &[9; 60], 60, std::iter::empty()), Ok(()));
    queue.publish();
    let used: Vec<_> = std::iter::from_fn(|| pair.driver.receive.take_used()).map(|(_, length)| length).collect();
    assert_eq!(used, [vec![12], vec![4; 15]].concat());
    let mut header = [0; 12];
    pair.driver.ram().read(at, &mut header);
    assert_eq!(header[10..], [16, 0]);
}

#[test]
fn a_ring_over_its_own_buffers_only_hurts_itself() {
    // The used ring is also a transmit buffer, and the descriptor table is a receive buffer.
    let mut pair = small();
    let (_, _, used) = pair.driver.transmit.guest_addresses();
    let table = [Descriptor { address: used, length: 76, flags: 0, next: 0 }];
    assert_eq!(transmit(&mut pair, 0, &table), Ok(vec![None]));
    let (descriptors, _, _) = pair.driver.receive.guest_addresses();
    for index in 0..SIZE {
        let over = Descriptor { address: descriptors, length: 16 * u32::from(SIZE), flags: WRITE, next: 0 };
        pair.driver.receive.set_descriptor(index, over);
    }
    for _ in 0..SIZE {
        // Whatever comes of it, it is a value.
        let _ = pair.receive.put(&NetHeader::default(), &[0xff; 100], 100, std::iter::empty());
        pair.receive.publish();
    }
}

/// All chains were walked for each frame, with all their empty buffers: a million of them for one frame in a ring of 1024.
#[test]
fn a_frame_is_not_looked_for_room_for_behind_more_buffers_than_the_ring_has() {
    let mut pair = small();
    pair.driver.receive.reset();
    let room = buffer(&pair, 12, WRITE, 0);
    pair.driver.receive.set_descriptor(0, room);
    for index in 1..SIZE {
        let flags = if index == SIZE - 1 { WRITE } else { WRITE | NEXT };
        let empty = buffer(&pair, 0, flags, index + 1);
        pair.driver.receive.set_descriptor(index, empty);
    }
    for head in std::iter::once(0).chain(std::iter::repeat_n(1, usize::from(SIZE) - 1)) {
        pair.driver.receive.offer_head(head);
    }
    pair.driver.receive.publish();
    let layout = harness::layout(&pair.driver.receive);
    let mut queue = ReceiveQueue::new(pair.memory.clone(), &layout, harness::MODERN, Default::default()).unwrap();
    let put = queue.put(&NetHeader::default(), &[9; 60], 60, std::iter::empty());
    assert_eq!(put, Err(PutError::SmallBuffer));
}
