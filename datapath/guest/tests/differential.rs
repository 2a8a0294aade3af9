//! Random chains through our queues and through `virtio-queue` ([`culvert_driver::Reference`]), on copies of one memory:
//! the same frames come out, or the same bytes lie in memory afterwards, used ring included.
//!
//! The equivalence. While all chains are well-formed, both agree in every byte. A malformed chain (`Reference` says which
//! ones are) is a [`RingFault`] of ours: a transmit queue may then hold back the frames that came in the same burst before
//! it, at most [`BURST`] less one, never deliver one after it; a receive queue refuses that frame, and those before it stay.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

mod harness;

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use culvert_driver::{Buffer, Next, Put, Ram, Reference, Ring, Shape};
use culvert_frame::{DropReason, MAX_FRAME_BYTES};
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, VERSION_1};
use culvert_guest::receive::PutError;
use culvert_guest::transmit::{BURST, HEAD_BYTES};
use culvert_guest::{
    Memory, NetHeader, Packet, Piece, ReceiveQueue, Region, RingFault, RingLayout, TransmitBurst, TransmitQueue,
};
use proptest::prelude::*;

/// The memory: rings, then indirect tables, then data up to the end.
const SIZE: u64 = 0x5_0000;
const TABLES: Range<u64> = 0x8000..0x2_0000;
const DATA: Range<u64> = 0x2_0000..SIZE;
/// Bytes set aside for each indirect table.
const TABLE_BYTES: u64 = 0x800;

/// A ring and what happens to it.
#[derive(Clone, Debug)]
struct Program {
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// Header bytes, and whether frames may spread over several chains.
    header: (usize, bool),
    start: u16,
    /// Where a second memory region begins.
    cut: Option<u64>,
    rounds: Vec<Round>,
}

/// What the driver offers, and what the device does then.
#[derive(Clone, Debug)]
struct Round {
    chains: Vec<Chain>,
    corruptions: Vec<Corruption>,
    /// Lengths of frames to receive, and whether to publish after each.
    puts: Vec<(usize, bool)>,
}

#[derive(Clone, Debug)]
struct Chain {
    /// Offset in the data, length.
    buffers: Vec<(u64, u32)>,
    /// The first buffer that is in an indirect table.
    indirect_from: Option<usize>,
}

/// A field overwritten by a value that may be bad.
#[derive(Clone, Debug)]
enum Corruption {
    Descriptor { index: u16, field: Field },
    Table { table: u64, index: u16, field: Field },
    Head { index: u16 },
    AvailableIndex { ahead: u16 },
}

#[derive(Clone, Debug)]
enum Field {
    /// From the start of the memory.
    Address(u64),
    AddressBy(i64),
    /// So that the buffer ends at, before or behind the end of a region.
    Edge {
        cut: bool,
        by: i64,
    },
    Length(u32),
    LengthBy(i32),
    /// All fields: an indirect table, which may be one already in use.
    Table {
        slot: u64,
        by: u64,
        entries: u32,
        flags: u16,
    },
    Flags(u16),
    Next(u16),
}

fn any_length() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => Just(0_u32),
        6 => prop::sample::select(&[1_u32, 9, 10, 11, 12, 13, 14, 26, 64, 127, 128, 129, 139, 140, 141, 1526, 2048][..]),
        4 => 0..2000_u32,
        1 => 60_000..70_000_u32,
    ]
}

/// Often at the end of the memory, or of a page, where another region may begin.
fn any_buffer() -> impl Strategy<Value = (u64, u32)> {
    let end = prop_oneof![4 => DATA, 1 => DATA.prop_map(|at| at.next_multiple_of(4096)), 1 => Just(SIZE)];
    (end, any_length()).prop_map(|(end, length)| (end.saturating_sub(u64::from(length)).max(DATA.start), length))
}

fn any_chain() -> impl Strategy<Value = Chain> {
    let count = prop_oneof![6 => 1..4_usize, 2 => 4..20_usize, 1 => 20..100_usize];
    // Some in many small pieces: more buffers for one frame than the ring has entries.
    let buffers = (count, prop::bool::weighted(0.2)).prop_flat_map(|(count, fine)| {
        let longest = if fine { 40 } else { u32::MAX };
        let buffer = any_buffer().prop_map(move |(at, length)| (at, length.min(longest)));
        prop::collection::vec(buffer, count)
    });
    let indirect_from = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => (0..4_usize).prop_map(Some)];
    (buffers, indirect_from).prop_map(|(buffers, indirect_from)| Chain { buffers, indirect_from })
}

fn any_corruption() -> impl Strategy<Value = Corruption> {
    let address = prop_oneof![DATA, SIZE - 64..SIZE + 64, TABLES, Just(u64::MAX), Just(u64::MAX - 15), any::<u64>()];
    let length = prop_oneof![any_length(), (0..70_u32).prop_map(|entries| 16 * entries), any::<u32>(), Just(u32::MAX)];
    let field = prop_oneof![
        address.prop_map(Field::Address),
        prop::sample::select(&[-16, -8, -4, -1, 1, 4, 8, 16][..]).prop_map(Field::AddressBy),
        (any::<bool>(), -2..3_i64).prop_map(|(cut, by)| Field::Edge { cut, by }),
        length.prop_map(Field::Length),
        prop::sample::select(&[-16, -2, -1, 1, 2, 16][..]).prop_map(Field::LengthBy),
        (0..8_u16).prop_map(Field::Flags),
        (
            0..3_u64,
            prop::sample::select(&[0, 0, 0, 4, 8, 16][..]),
            0..20_u32,
            prop::sample::select(&[4, 4, 4, 5, 6][..])
        )
            .prop_map(|(slot, by, entries, flags)| Field::Table { slot, by, entries, flags }),
        prop_oneof![4 => 0..80_u16, 1 => any::<u16>()].prop_map(Field::Next),
    ];
    // What is offered first is what surely is in use.
    let table = prop_oneof![0..3_u64, 0..(TABLES.end - TABLES.start) / TABLE_BYTES];
    let table = table.prop_map(|slot| TABLES.start + slot * TABLE_BYTES);
    prop_oneof![
        6 => (prop_oneof![0..6_u16, 0..64_u16], field.clone()).prop_map(|(index, field)| Corruption::Descriptor { index, field }),
        6 => (table, 0..8_u16, field).prop_map(|(table, index, field)| Corruption::Table { table, index, field }),
        1 => prop_oneof![0..80_u16, any::<u16>()].prop_map(|index| Corruption::Head { index }),
        1 => prop_oneof![0..80_u16, any::<u16>()].prop_map(|ahead| Corruption::AvailableIndex { ahead }),
    ]
}

fn any_round() -> impl Strategy<Value = Round> {
    let corruptions = prop_oneof![1 => Just(0_usize), 1 => 1..6_usize]
        .prop_flat_map(|count| prop::collection::vec(any_corruption(), count));
    let put = (prop_oneof![2 => 14..1600_usize, 1 => 14..66_000_usize], any::<bool>());
    (prop::collection::vec(any_chain(), 0..40), corruptions, prop::collection::vec(put, 0..20))
        .prop_map(|(chains, corruptions, puts)| Round { chains, corruptions, puts })
}

fn any_program() -> impl Strategy<Value = Program> {
    (
        prop::sample::select(&[1_u16, 2, 8, 32, 64, 128][..]),
        any::<bool>(),
        prop::bool::weighted(0.9),
        prop::sample::select(&[(12, true), (12, false), (10, false)][..]),
        prop_oneof![Just(0_u16), 65_500..=65_535_u16, any::<u16>()],
        prop::option::of((DATA.start / 4096..DATA.end / 4096).prop_map(|page| page * 4096)),
        prop::collection::vec(any_round(), 1..6),
    )
        .prop_map(|(size, event_idx, indirect, header, start, cut, rounds)| Program {
            size,
            event_idx,
            indirect,
            header,
            start,
            cut,
            rounds,
        })
}

/// A driver, our memory, and the reference.
struct Rig {
    ram: Rc<Ram>,
    ring: Ring,
    reference: Reference,
    memory: Arc<Memory>,
    layout: RingLayout,
    features: u64,
    cut: Option<u64>,
}

impl Rig {
    fn new(program: &Program) -> Self {
        let ram = Rc::new(Ram::new(SIZE, false));
        let base = ram.guest_address();
        let pattern: Vec<u8> = (0..DATA.end - DATA.start).map(|at| (at * 7 % 253) as u8).collect();
        ram.write(base + DATA.start, &pattern);
        let mut ring = Ring::new(ram.clone(), program.size, program.event_idx);
        ring.start_at(program.start);

        let edges = [Some(0), program.cut.filter(|&cut| cut > 0), Some(SIZE)];
        let edges: Vec<_> = edges.into_iter().flatten().collect();
        let regions: Vec<_> = edges.windows(2).map(|edge| base + edge[0]..base + edge[1]).collect();
        let map = |range: &Range<u64>| {
            let (guest_address, size) = (range.start, range.end - range.start);
            let (user_address, mmap_offset) = (ram.user(guest_address), guest_address - base);
            let region = Region { guest_address, size, user_address, mmap_offset };
            (region, ram.file().try_clone_to_owned().unwrap())
        };
        let memory = Arc::new(Memory::map(regions.iter().map(map).collect()).unwrap());
        let (descriptors, available, used) = ring.user_addresses();
        let layout = RingLayout { size: program.size, descriptors, available, used };
        let (header_bytes, mergeable) = program.header;
        let features = [
            (program.event_idx, EVENT_IDX),
            (program.indirect, INDIRECT_DESC),
            (header_bytes == 12, VERSION_1),
            (mergeable, NET_MRG_RXBUF),
        ];
        let features = features.into_iter().filter(|(has, _)| *has).map(|(_, bit)| bit).sum();
        let reference = Reference::new(&ram, &ring, program.event_idx, program.indirect, regions);
        Self { ram, ring, reference, memory, layout, features, cut: program.cut }
    }

    /// Puts the chains of a round into the ring, as many as fit, spoils it, and shows the result to both devices.
    fn offer(&mut self, round: &Round, writable: bool) {
        while self.ring.take_used().is_some() {}
        let base = self.ram.guest_address();
        let mut tables = TABLES.step_by(TABLE_BYTES as usize).map(|at| base + at);
        for chain in &round.chains {
            // Heads that were offered without a chain take up entries, too.
            if self.ring.pending() >= self.ring.size() {
                break;
            }
            let buffers = chain.buffers.iter();
            let mut buffers: Vec<_> =
                buffers.map(|&(at, length)| Buffer { address: base + at, length, writable }).collect();
            let offered = match chain.indirect_from {
                None => self.ring.offer(&buffers),
                Some(direct) => {
                    buffers.truncate(direct + (TABLE_BYTES / 16) as usize);
                    let Some(table) = tables.next() else { break };
                    let direct = direct.min(buffers.len() - 1);
                    self.ring.offer_partly_indirect(table, &buffers, direct)
                }
            };
            if offered.is_none() {
                break;
            }
        }
        for corruption in &round.corruptions {
            self.corrupt(corruption);
        }
        let spoiled = round.corruptions.iter().find_map(|corruption| match corruption {
            // Our receive queue looks at the index only when it has no more chains: tests/hostile_rings.rs.
            Corruption::AvailableIndex { ahead } if !writable => Some(self.ring.used_index().wrapping_add(*ahead)),
            _ => None,
        });
        match spoiled {
            Some(index) => self.ring.set_available_index(index),
            None => drop(self.ring.publish()),
        }
        self.reference.load(&self.ram);
    }

    fn corrupt(&mut self, corruption: &Corruption) {
        let (table, index, field) = match corruption {
            Corruption::AvailableIndex { .. } => return,
            Corruption::Head { index } => {
                if self.ring.pending() < self.ring.size() {
                    self.ring.offer_head(*index);
                }
                return;
            }
            Corruption::Descriptor { index, field } => (self.ring.guest_addresses().0, index % self.ring.size(), field),
            Corruption::Table { table, index, field } => (self.ram.guest_address() + table, *index, field),
        };
        let at = table + 16 * u64::from(index);
        let (mut address, mut length) = ([0; 8], [0; 4]);
        self.ram.read(at, &mut address);
        self.ram.read(at + 8, &mut length);
        let (address, length) = (u64::from_le_bytes(address), u32::from_le_bytes(length));
        let base = self.ram.guest_address();
        let set_address = |address: u64| self.ram.write(at, &address.to_le_bytes());
        let set_length = |length: u32| self.ram.write(at + 8, &length.to_le_bytes());
        let set_flags = |flags: u16| self.ram.write(at + 12, &flags.to_le_bytes());
        match *field {
            Field::Address(address) => set_address(base.wrapping_add(address)),
            Field::AddressBy(by) => set_address(address.wrapping_add_signed(by)),
            Field::Edge { cut, by } => {
                let edge = base + if cut { self.cut.unwrap_or(SIZE) } else { SIZE };
                set_address(edge.wrapping_sub(u64::from(length)).wrapping_add_signed(by));
            }
            Field::Length(length) => set_length(length),
            Field::LengthBy(by) => set_length(length.wrapping_add_signed(by)),
            Field::Table { slot, by, entries, flags } => {
                set_address(base + TABLES.start + slot * TABLE_BYTES + by);
                set_length(16 * entries);
                set_flags(flags);
            }
            Field::Flags(flags) => set_flags(flags),
            Field::Next(next) => self.ram.write(at + 14, &next.to_le_bytes()),
        }
    }
}

/// What must be made of one transmit chain.
fn expected_frame(bytes: &[u8], header_bytes: usize) -> Result<Vec<u8>, DropReason> {
    let frame = bytes.get(header_bytes..).ok_or(DropReason::ShortHeader)?;
    if frame.len() > MAX_FRAME_BYTES as usize { Err(DropReason::Oversized) } else { Ok(frame.to_vec()) }
}

fn whole(packet: &Packet<'_>) -> Vec<u8> {
    assert_eq!(packet.head.len(), HEAD_BYTES.min(packet.length as usize));
    let mut bytes = packet.head.to_vec();
    for piece in packet.rest() {
        let start = bytes.len();
        bytes.resize(start + piece.length() as usize, 0);
        piece.copy_to(0, &mut bytes[start..]);
    }
    assert_eq!(bytes.len(), packet.length as usize);
    bytes
}

fn transmit(program: &Program) -> Result<(), TestCaseError> {
    let mut rig = Rig::new(program);
    let (header_bytes, _) = program.header;
    let mut queue = TransmitQueue::new(rig.memory.clone(), &rig.layout, rig.features, Arc::default()).unwrap();
    rig.reference.load(&rig.ram);
    rig.reference.disable_kick();
    prop_assert_eq!(rig.reference.difference(&rig.ram), None);
    let mut burst = TransmitBurst::default();
    for round in &program.rounds {
        rig.offer(round, false);
        // All that the reference sees, up to the first malformed chain.
        let mut expected = VecDeque::new();
        let malformed = loop {
            match rig.reference.look(expected.len() as u16, false) {
                Next::Nothing => break None,
                Next::Malformed(why) => break Some(why),
                Next::Chain { head, buffers, .. } => expected.push_back((head, rig.reference.read(&buffers))),
            }
        };
        let fault = loop {
            let received = match queue.receive(&mut burst) {
                Ok(received) if received.is_empty() => break None,
                Ok(received) => received,
                Err(fault) => break Some(fault),
            };
            for index in 0..received.len() {
                let Some((head, bytes)) = expected.pop_front() else {
                    return Err(TestCaseError::fail(format!("a frame that is none: {malformed:?}")));
                };
                let frame = expected_frame(&bytes, header_bytes);
                let packet = received.packet(index);
                prop_assert_eq!(&packet.map(|packet| whole(&packet)), &frame);
                if let Ok(packet) = packet {
                    prop_assert_eq!(Some(packet.header), NetHeader::parse(&bytes));
                }
                rig.reference.complete(head, 0);
            }
            drop(received);
            prop_assert_eq!(rig.reference.difference(&rig.ram), None);
        };
        prop_assert_eq!(malformed.is_some(), fault.is_some(), "{:?} against {:?}", malformed, fault);
        prop_assert!(expected.len() < if malformed.is_some() { BURST } else { 1 }, "{} left", expected.len());
        prop_assert_eq!(rig.reference.difference(&rig.ram), None);
        if fault.is_some() {
            break;
        }
    }
    Ok(())
}

fn receive(program: &Program) -> Result<(), TestCaseError> {
    let mut rig = Rig::new(program);
    let (header_bytes, mergeable) = program.header;
    let mut queue = ReceiveQueue::new(rig.memory.clone(), &rig.layout, rig.features, Arc::default()).unwrap();
    rig.reference.load(&rig.ram);
    rig.reference.disable_kick();
    for round in &program.rounds {
        rig.offer(round, true);
        for &(length, publish) in &round.puts {
            let frame: Vec<u8> = (0..length).map(|at| (at % 251) as u8 ^ 0x5a).collect();
            let (head, rest) = frame.split_at(length.min(HEAD_BYTES));
            let pieces = rest.chunks(1000).map(Piece::from);
            let ours = queue.put(&NetHeader::default(), head, length as u32, pieces);
            let theirs = rig.reference.put(header_bytes, mergeable, &frame);
            let same = match ours {
                Ok(()) => Put::Done,
                Err(PutError::NoBuffer) => Put::NoBuffer,
                Err(PutError::SmallBuffer) => Put::SmallBuffer,
                Err(PutError::Fault(_)) => Put::Malformed,
            };
            prop_assert_eq!(same, theirs, "{:?}", ours);
            if publish || theirs == Put::Malformed {
                queue.publish();
                prop_assert_eq!(rig.reference.difference(&rig.ram), None);
            }
            if theirs == Put::Malformed {
                return Ok(());
            }
        }
        queue.publish();
        prop_assert_eq!(rig.reference.difference(&rig.ram), None);
    }
    Ok(())
}

/// The same for frames of a guest's that are put in bursts, as many of each as possible by the straight way.
fn receive_bursts(program: &Program) -> Result<(), TestCaseError> {
    let mut rig = Rig::new(program);
    let (header_bytes, mergeable) = program.header;
    let mut queue = ReceiveQueue::new(rig.memory.clone(), &rig.layout, rig.features, Arc::default()).unwrap();
    rig.reference.load(&rig.ram);
    rig.reference.disable_kick();
    // The sender's header may be as long as the receiver's, or not.
    let shape = Shape { queue_size: 64, header_bytes: if program.size > 8 { 12 } else { 10 }, ..Shape::default() };
    let mut sender = harness::pair(Shape { mergeable: shape.header_bytes == 12, ..shape });
    let mut burst = TransmitBurst::default();
    for round in &program.rounds {
        rig.offer(round, true);
        for puts in round.puts.split_inclusive(|(_, publish)| *publish) {
            let mut frames = Vec::new();
            for length in puts.iter().map(|&(length, _)| length.min(MAX_FRAME_BYTES as usize)) {
                let frame: Vec<u8> = (0..length).map(|at| (at % 251) as u8 ^ 0x5a).collect();
                let cuts: &[u32] = if length % 5 == 0 { &[3] } else { &[] };
                prop_assert!(sender.driver.send_with(&[0; 12][..shape.header_bytes as usize], &frame, cuts));
                frames.push(frame);
            }
            let received = sender.transmit.receive(&mut burst).unwrap();
            prop_assert_eq!(received.len(), frames.len());
            let longest = if program.event_idx { u32::MAX } else { 1514 };
            queue.look_ahead(frames.len());
            let mut left = u32::MAX >> (32 - frames.len());
            while left != 0 {
                let (put, bytes) = queue.put_straight(&received, left, longest);
                let lengths = (0..frames.len()).filter(|index| put >> index & 1 != 0).map(|index| frames[index].len());
                prop_assert!(lengths.clone().all(|length| length <= longest as usize));
                prop_assert_eq!(lengths.sum::<usize>() as u64, bytes);
                for index in (0..frames.len()).filter(|index| put >> index & 1 != 0) {
                    prop_assert_eq!(rig.reference.put(header_bytes, mergeable, &frames[index]), Put::Done);
                }
                left &= !put;
                if left == 0 {
                    break;
                }
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                let packet = received.packet(index).unwrap();
                let ours = queue.put(&NetHeader::default(), packet.head, packet.length, packet.rest());
                let theirs = rig.reference.put(header_bytes, mergeable, &frames[index]);
                let same = match ours {
                    Ok(()) => Put::Done,
                    Err(PutError::NoBuffer) => Put::NoBuffer,
                    Err(PutError::SmallBuffer) => Put::SmallBuffer,
                    Err(PutError::Fault(_)) => Put::Malformed,
                };
                prop_assert_eq!(same, theirs, "{:?}", ours);
                if theirs == Put::Malformed {
                    queue.publish();
                    prop_assert_eq!(rig.reference.difference(&rig.ram), None);
                    return Ok(());
                }
            }
            queue.publish();
            prop_assert_eq!(rig.reference.difference(&rig.ram), None);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn receive_queues_agree_on_bursts(program in any_program()) {
        receive_bursts(&program)?;
    }

    #[test]
    fn transmit_queues_agree(program in any_program()) {
        transmit(&program)?;
    }

    #[test]
    fn receive_queues_agree(program in any_program()) {
        receive(&program)?;
    }
}

/// A ring of `size` with one chain; what does the transmit queue say?
fn one_chain(size: u16, buffers: usize, indirect_from: Option<usize>) -> Result<(), RingFault> {
    let chain = Chain { buffers: vec![(DATA.start, 20); buffers], indirect_from };
    let round = Round { chains: vec![chain], corruptions: Vec::new(), puts: Vec::new() };
    let program = Program {
        size,
        event_idx: false,
        indirect: true,
        header: (12, true),
        start: 0,
        cut: None,
        rounds: vec![round],
    };
    let mut rig = Rig::new(&program);
    let mut queue = TransmitQueue::new(rig.memory.clone(), &rig.layout, rig.features, Arc::default()).unwrap();
    rig.offer(&program.rounds[0], false);
    let mut burst = TransmitBurst::default();
    let received = queue.receive(&mut burst)?;
    assert_eq!(received.len(), 1);
    assert_eq!(received.packet(0).unwrap().length as usize, 20 * buffers - 12);
    Ok(())
}

/// Virtio 1.3, 2.7.5.3.1: as long as the ring is allowed, longer is not; the descriptor of a table is no buffer.
#[test]
fn a_chain_may_be_as_long_as_the_ring() {
    assert_eq!(one_chain(16, 16, None), Ok(()));
    for direct in [0, 1, 15] {
        assert_eq!(one_chain(16, 16, Some(direct)), Ok(()), "{direct} buffers before the table");
    }
    assert_eq!(one_chain(16, 17, Some(3)), Err(RingFault::ChainTooLong(16)));
    assert!(matches!(one_chain(16, 17, Some(0)), Err(RingFault::Indirect { .. })));
}

#[test]
fn descriptors_are_made_as_the_tests_think() {
    let program = Program {
        size: 8,
        event_idx: false,
        indirect: true,
        header: (12, true),
        start: 0,
        cut: None,
        rounds: Vec::new(),
    };
    let mut rig = Rig::new(&program);
    let base = rig.ram.guest_address();
    let buffers = [1, 2, 3, 4].map(|n| Buffer { address: base + DATA.start + n, length: n as u32, writable: false });
    rig.ring.offer_partly_indirect(base + TABLES.start, &buffers, 2).unwrap();
    rig.ring.publish();
    rig.reference.load(&rig.ram);
    assert!(matches!(rig.reference.look(0, false), Next::Chain { buffers: seen, .. } if seen == buffers));
    assert_eq!(rig.reference.look(0, true), Next::Malformed("a buffer has the wrong direction"));
    assert_eq!(rig.reference.look(1, false), Next::Nothing);
}
