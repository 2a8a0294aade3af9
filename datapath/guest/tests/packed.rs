//! Packed rings: what a hostile guest may do to them, where they go on after a crash, and that they do what split rings do. Crashes in the
//! middle of a publication: `src/packed/crash.rs`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

mod harness;

use std::sync::Arc;

use culvert_driver::{Buffer, PackedDescriptor, Place, Shape};
use culvert_frame::DropReason;
use culvert_guest::device::RingSetup;
use culvert_guest::features::RING_PACKED;
use culvert_guest::packed::{FIRST_POSITION, PackedStart};
use culvert_guest::receive::PutError;
use culvert_guest::record::Records;
use culvert_guest::split::StartError;
use culvert_guest::{Call, NetHeader, Piece, ReceiveQueue, RingFault, TransmitBurst, TransmitQueue};
use harness::{Pair, pair};

const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

fn small() -> Pair {
    pair(Shape { queue_size: SIZE, packed: true, ..Shape::default() })
}

/// Writes descriptors from index 0 on, available in the first lap; what does the device say?
fn transmit(pair: &mut Pair, table: &[PackedDescriptor]) -> Result<Vec<Option<DropReason>>, RingFault> {
    for (index, descriptor) in (0..SIZE).zip(table) {
        let flags = descriptor.flags ^ AVAIL;
        pair.driver.transmit.as_packed().set_descriptor(index, PackedDescriptor { flags, ..*descriptor });
    }
    let mut burst = TransmitBurst::default();
    let received = pair.transmit.receive(&mut burst)?;
    Ok((0..received.len()).map(|index| received.packet(index).err()).collect())
}

fn buffer(pair: &Pair, length: u32, flags: u16) -> PackedDescriptor {
    PackedDescriptor { address: pair.driver.ram().guest_address(), length, id: 3, flags }
}

/// hostile Q1
#[test]
fn a_chain_around_the_ring_ends() {
    let mut pair = small();
    let table = vec![buffer(&pair, 8, NEXT); usize::from(SIZE)];
    assert_eq!(transmit(&mut pair, &table), Err(RingFault::ChainTooLong(SIZE)));
}

/// hostile Q2: there is no index; a chain may only go on where the driver has offered something.
#[test]
fn a_chain_ends_where_the_offer_does() {
    for stale in [0, USED, AVAIL | USED] {
        let mut pair = small();
        // `transmit` turns AVAIL around.
        let table = [buffer(&pair, 80, NEXT), buffer(&pair, 80, stale ^ AVAIL)];
        assert_eq!(transmit(&mut pair, &table), Err(RingFault::Unavailable(1)));
    }
}

/// hostile Q3, Q16: all that is offered is taken once, whatever the driver says while we have it.
#[test]
fn what_we_hold_is_not_taken_again() {
    let mut pair = small();
    let put = |pair: &mut Pair| pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty());
    for _ in 0..SIZE {
        assert_eq!(put(&mut pair), Ok(()));
    }
    for index in 0..SIZE {
        // Available in the next lap.
        let descriptor = buffer(&pair, 2048, WRITE | USED);
        pair.driver.receive.as_packed().set_descriptor(index, descriptor);
    }
    assert_eq!(put(&mut pair), Err(PutError::NoBuffer));
    assert!(!pair.receive.has_half().unwrap());
    pair.receive.publish();
    assert!((0..SIZE).all(|index| pair.driver.receive.as_packed().is_used(Place { index, wrap: true })));
    assert_eq!(pair.receive.position(), 0, "the next lap begins");
}

/// hostile Q4
#[test]
fn addresses_outside_of_memory() {
    let ram = (small().driver.ram().guest_address(), small().driver.ram().size());
    let end = ram.0 + ram.1;
    for (address, length) in [(0, 80), (end - 79, 80), (end, 1), (u64::MAX - 10, 80), (ram.0, u32::MAX)] {
        let mut pair = small();
        let bad = PackedDescriptor { address, length, id: 0, flags: 0 };
        assert_eq!(transmit(&mut pair, &[bad]), Err(RingFault::Address { address, length }));
        let mut pair = small();
        let table = [buffer(&pair, 12, NEXT), bad];
        assert_eq!(transmit(&mut pair, &table), Err(RingFault::Address { address, length }));
    }
}

/// hostile Q5, Q6, Q7
#[test]
fn odd_lengths() {
    let cases = [
        (&[0][..], Some(DropReason::ShortHeader)),
        (&[11], Some(DropReason::ShortHeader)),
        (&[12], None),
        (&[0, 12, 0, 60, 0], None),
        (&[1; 16], None),
        (&[65_600, 10], Some(DropReason::Oversized)),
    ];
    for (lengths, result) in cases {
        let mut pair = small();
        let flags = |index: usize| if index + 1 < lengths.len() { NEXT } else { 0 };
        let table: Vec<_> =
            lengths.iter().enumerate().map(|(index, &length)| buffer(&pair, length, flags(index))).collect();
        assert_eq!(transmit(&mut pair, &table), Ok(vec![result]), "{lengths:?}");
        assert_eq!(pair.transmit.position() & 0x7fff, lengths.len() as u16 % SIZE);
    }
}

/// hostile Q8
#[test]
fn indirect_tables() {
    let table = |pair: &mut Pair, inner: PackedDescriptor, length: u32, flags: u16, offset: u64| {
        let at = pair.driver.ram().allocate(16 * 64, 16) + offset;
        for index in 0..60 {
            let mut bytes = inner.address.to_le_bytes().to_vec();
            bytes.extend(inner.length.to_le_bytes());
            bytes.extend(inner.id.to_le_bytes());
            bytes.extend(inner.flags.to_le_bytes());
            pair.driver.ram().write(at + 16 * index, &bytes);
        }
        let outer = PackedDescriptor { address: at, length, id: 0, flags: INDIRECT | flags };
        (at, transmit(pair, &[outer]))
    };
    for (length, flags, offset) in [(0, 0, 0), (15, 0, 0), (24, 0, 0), (16 * 17, 0, 0), (16, NEXT, 0), (16, 0, 4)] {
        let mut pair = small();
        let inner = buffer(&pair, 80, 0);
        let (address, result) = table(&mut pair, inner, length, flags, offset);
        assert_eq!(result, Err(RingFault::Indirect { address, length }), "{length} {flags}");
    }
    let mut pair = small();
    let inner = buffer(&pair, 80, INDIRECT);
    let nested = RingFault::Indirect { address: inner.address, length: 80 };
    assert_eq!(table(&mut pair, inner, 32, 0, 0).1, Err(nested));
    // Reserved flags in a table are ignored, NEXT among them; and WRITE, which DPDK's driver sets in tables for transmit.
    for flags in [0, NEXT, AVAIL, USED, WRITE] {
        let mut pair = small();
        let inner = buffer(&pair, 80, flags);
        assert_eq!(table(&mut pair, inner, 16 * 16, 0, 8).1, Ok(vec![None]));
    }
    // Not negotiated.
    let mut pair = small();
    let layout = harness::layout(&pair.driver.transmit);
    let features = (harness::MODERN | RING_PACKED) & !culvert_guest::features::INDIRECT_DESC;
    pair.transmit = TransmitQueue::new(pair.memory.clone(), &layout, features, Arc::default()).unwrap();
    let inner = buffer(&pair, 80, 0);
    assert!(matches!(table(&mut pair, inner, 16, 0, 0).1, Err(RingFault::Indirect { .. })));
}

/// hostile Q9
#[test]
fn directions() {
    let mut pair = small();
    let address = pair.driver.ram().guest_address();
    let table = [buffer(&pair, 80, NEXT), buffer(&pair, 80, WRITE)];
    assert_eq!(transmit(&mut pair, &table), Err(RingFault::Direction(address)));
    let mut pair = small();
    let readable = buffer(&pair, 2048, AVAIL);
    pair.driver.receive.as_packed().set_descriptor(0, readable);
    let result = pair.receive.put(&NetHeader::default(), &[0; 60], 60, std::iter::empty());
    assert_eq!(result, Err(PutError::Fault(RingFault::Direction(address))));
}

/// hostile Q20: nonsense in the driver's event area decides about interrupts and nothing else.
#[test]
fn event_garbage() {
    let mut burst = TransmitBurst::default();
    let mut pair = pair(Shape { queue_size: SIZE, event_idx: true, packed: true, ..Shape::default() });
    for round in 0..500_u16 {
        let noise = round.wrapping_mul(0x9e37);
        pair.driver.transmit.as_packed().set_driver_event(noise, noise >> 3);
        for _ in 0..=round % 5 {
            assert!(pair.driver.send(&[1; 60]));
        }
        assert_eq!(pair.transmit.receive(&mut burst).unwrap().len(), usize::from(round % 5) + 1);
    }
}

/// Buffers of one descriptor and of several by turns: what was looked at ahead is of the buffer whose turn it is.
#[test]
fn buffers_of_all_kinds_are_looked_at_ahead() {
    let mut pair = small();
    let room = pair.driver.ram().allocate(0x1_0000, 4096);
    pair.driver.receive.reset();
    let mut parts = [1, 3, 1, 1, 2, 1, 4, 1].into_iter().cycle();
    for round in 0..200_u64 {
        let mut offered = Vec::new();
        while let Some(count) = parts.next()
            && pair.driver.receive.free() >= count
        {
            let at = room + 0x800 * (offered.len() as u64);
            let bytes = 720 / count as u32;
            let part = |index| Buffer { address: at + index * u64::from(bytes), length: bytes, writable: true };
            let buffers: Vec<_> = (0..count as u64).map(part).collect();
            offered.push((pair.driver.receive.offer(&buffers).unwrap(), at));
        }
        pair.driver.receive.publish();
        // Fewer than there are, all, and more.
        pair.receive.look_ahead(round as usize % (offered.len() + 3));
        let frame = |index: usize| vec![(round as usize * 31 + index) as u8; 60 + (round as usize + index * 97) % 640];
        for index in 0..offered.len() {
            let bytes = frame(index);
            let (head, rest) = bytes.split_at(60);
            let rest = std::iter::once(Piece::from(rest));
            assert_eq!(pair.receive.put(&NetHeader::default(), head, bytes.len() as u32, rest), Ok(()));
        }
        pair.receive.publish();
        for (index, (id, at)) in offered.into_iter().enumerate() {
            let expected = frame(index);
            assert_eq!(pair.driver.receive.take_used(), Some((id, 12 + expected.len() as u32)));
            let mut bytes = vec![0; expected.len()];
            pair.driver.ram().read(at + 12, &mut bytes);
            assert_eq!(bytes, expected, "round {round}, buffer {index}");
        }
    }
}

/// Interrupts by place: exactly where the driver asks, over laps, in bursts of all lengths.
#[test]
fn the_guest_is_interrupted_at_the_place_that_it_names() {
    use std::os::fd::AsFd;
    let mut burst = TransmitBurst::default();
    let mut pair = pair(Shape { queue_size: SIZE, event_idx: true, packed: true, ..Shape::default() });
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let call = Arc::new(Call::new(Some(event.as_fd().try_clone_to_owned().unwrap())));
    let layout = harness::layout(&pair.driver.transmit);
    let features = harness::MODERN | RING_PACKED | culvert_guest::features::EVENT_IDX;
    pair.transmit = TransmitQueue::new(pair.memory.clone(), &layout, features, call).unwrap();
    for round in 0..400_u16 {
        let (count, ahead) = (1 + round % SIZE, round / SIZE % (SIZE + 4));
        let place = pair.driver.transmit.as_packed().next().ahead(ahead % SIZE, SIZE);
        let place = if ahead < SIZE { place } else { place.ahead(SIZE, SIZE) };
        pair.driver.transmit.as_packed().set_driver_event(place.position(), 2);
        for _ in 0..count {
            assert!(pair.driver.send(&[1; 60]));
        }
        drop(pair.transmit.receive(&mut burst).unwrap());
        let interrupted = rustix::io::read(&event, &mut [0; 8]).is_ok();
        assert_eq!(interrupted, ahead < count, "round {round}: {count} buffers, the one {ahead} on was named");
        while pair.driver.transmit.take_used().is_some() {}
    }
}

/// The same frames in the same chains, through a packed ring and a split one.
#[test]
fn packed_and_split_rings_do_the_same() {
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    for mergeable in [true, false] {
        let shape = |packed| Shape {
            queue_size: 64,
            mergeable,
            packed,
            receive_bytes: if mergeable { 700 } else { 9000 },
            receive_piece_bytes: if mergeable { u32::MAX } else { 1000 },
            ..Shape::default()
        };
        let mut pairs = [false, true].map(|packed| pair(shape(packed)));
        let mut bursts = [(); 2].map(|()| TransmitBurst::default());
        for _ in 0..600 {
            let frames: Vec<_> = (0..draw(6))
                .map(|_| {
                    let length = 14 + draw(8000) as u32;
                    let mut cuts: Vec<_> = (0..draw(4)).map(|_| 1 + draw(u64::from(length) - 1) as u32).collect();
                    cuts.sort_unstable();
                    cuts.dedup();
                    let frame: Vec<u8> = (0..length).map(|_| draw(256) as u8).collect();
                    (frame, cuts)
                })
                .collect();
            let results = [0, 1].map(|kind| {
                let (pair, burst) = (&mut pairs[kind], &mut bursts[kind]);
                let sent: Vec<_> =
                    frames.iter().map(|(frame, cuts)| pair.driver.send_with(&[0; 12], frame, cuts)).collect();
                let received = pair.transmit.receive(burst).unwrap();
                let put: Vec<_> = (0..received.len())
                    .map(|index| {
                        let packet = received.packet(index).unwrap();
                        pair.receive.put(&packet.header, packet.head, packet.length, packet.rest())
                    })
                    .collect();
                drop(received);
                pair.receive.publish();
                let got: Vec<_> = std::iter::from_fn(|| pair.driver.receive()).collect();
                (sent, put, got)
            });
            assert_eq!(results[0], results[1]);
        }
    }
}

/// The ring of a driver, with the record of where it stands.
struct Crashing {
    pair: Pair,
    records: Arc<Records>,
}

impl Crashing {
    fn new(event_idx: bool) -> Self {
        let pair = pair(Shape { queue_size: SIZE, event_idx, packed: true, ..Shape::default() });
        Self { pair, records: Records::new(None, 2) }
    }

    fn setup(&self, number: u16, told: Option<u16>) -> RingSetup {
        let ring = if number == 0 { &self.pair.driver.receive } else { &self.pair.driver.transmit };
        RingSetup {
            memory: self.pair.memory.clone(),
            layout: harness::layout(ring),
            features: harness::MODERN | RING_PACKED,
            kick: None,
            call: Arc::default(),
            enabled: true,
            packed: Some(PackedStart { record: self.records.ring(number).unwrap(), told }),
            log: None,
        }
    }

    /// Another process takes both rings up, told what the frontend has known since the start.
    fn crash(&mut self) {
        self.pair.receive = ReceiveQueue::start(&self.setup(0, Some(FIRST_POSITION))).unwrap();
        self.pair.transmit = TransmitQueue::start(&self.setup(1, Some(FIRST_POSITION))).unwrap();
    }

    /// Sends frames by chains of one to three buffers, passes them on, and checks what comes.
    fn exchange(&mut self, round: usize, count: usize) {
        let frames: Vec<Vec<u8>> = (0..count).map(|i| vec![(round * 7 + i) as u8; 60 + (round + i) % 900]).collect();
        for (i, frame) in frames.iter().enumerate() {
            let cuts = [&[][..], &[20], &[20, 40]][(round + i) % 3];
            assert!(self.pair.driver.send_with(&[0; 12], frame, cuts));
        }
        let mut burst = TransmitBurst::default();
        let received = self.pair.transmit.receive(&mut burst).unwrap();
        assert_eq!(received.len(), count, "round {round}");
        for index in 0..count {
            let packet = received.packet(index).unwrap();
            self.pair.receive.put(&packet.header, packet.head, packet.length, packet.rest()).unwrap();
        }
        drop(received);
        self.pair.receive.publish();
        for frame in frames {
            assert_eq!(self.pair.driver.receive().unwrap().1, frame, "round {round}");
        }
        while self.pair.driver.transmit.take_used().is_some() {}
    }
}

#[test]
fn a_queue_resumes_where_its_record_says() {
    let mut crashing = Crashing::new(false);
    crashing.crash();
    for round in 0..300 {
        crashing.exchange(round, 1 + round % 5);
        crashing.crash();
    }
}

#[test]
fn a_guest_that_has_rebooted_begins_anew() {
    let mut crashing = Crashing::new(false);
    crashing.crash();
    for round in 0..50 {
        crashing.exchange(round, 1 + round % 3);
        crashing.pair.driver.transmit.reset();
        crashing.pair.driver.receive.reset();
        crashing.pair.driver.refill();
        crashing.crash();
    }
}

/// QEMU throws away what its guest sends while culvertd is away, from where it believes the ring to stand: where it began.
#[test]
fn what_the_frontend_has_used_meanwhile_is_passed_over() {
    for (before, behind, thrown_away) in [(0, 5, 5), (10, 4, 0), (10, 12, 6), (10, 16, 9), (15, 9, 8), (3, 0, 0)] {
        let mut crashing = Crashing::new(false);
        crashing.crash();
        // Its idea of the ring is of an odd lap.
        let mut burst = TransmitBurst::default();
        for _ in 0..2 * usize::from(SIZE) + before {
            assert!(crashing.pair.driver.send(&[1; 60]));
            drop(crashing.pair.transmit.receive(&mut burst).unwrap());
            assert!(crashing.pair.driver.transmit.take_used().is_some());
        }
        let ring = crashing.pair.driver.transmit.as_packed();
        let first = ring.next();
        let address = crashing.pair.memory.regions().next().unwrap().guest_address;
        let part = Buffer { address, length: 80, writable: false };
        (0..behind).for_each(|_| assert!(ring.offer(&[part]).is_some()));
        ring.publish();
        let skipped = (usize::from(SIZE) - usize::from(first.index)) % usize::from(SIZE);
        assert!(thrown_away == 0 || skipped + thrown_away <= behind);
        for count in 0..thrown_away {
            let place = first.ahead((skipped + count) as u16, SIZE);
            let flags = if place.wrap { AVAIL | USED } else { 0 };
            let used = PackedDescriptor { flags, ..ring.descriptor(place.index) };
            ring.set_descriptor(place.index, PackedDescriptor { length: 0, ..used });
        }
        crashing.crash();
        let mut taken = 0;
        while crashing.pair.transmit.has_frames().unwrap() {
            taken += crashing.pair.transmit.receive(&mut burst).unwrap().len();
        }
        assert_eq!(taken, behind - thrown_away, "{before} {behind} {thrown_away}");
        let come_back = std::iter::from_fn(|| crashing.pair.driver.transmit.take_used()).count();
        assert_eq!(come_back, behind);
        crashing.crash();
        crashing.exchange(1, 5);
    }
}

#[test]
fn a_position_outside_of_the_ring_is_refused() {
    let crashing = Crashing::new(false);
    // One that is not new.
    crashing.pair.driver.ram().write(crashing.pair.driver.transmit.guest_addresses().0 + 14, &USED.to_le_bytes());
    for position in [SIZE, 0x7fff, 0xffff, SIZE | 0x8000] {
        let error = TransmitQueue::start(&crashing.setup(1, Some(position))).unwrap_err();
        assert_eq!(error, StartError::Position { position, size: SIZE });
    }
    assert!(TransmitQueue::start(&crashing.setup(1, Some(5))).is_ok());
}
