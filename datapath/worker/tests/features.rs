//! What a guest gets does not depend on how either guest's rings are made.
//!
//! Two guests for every combination of what the drivers may negotiate of their rings (packed, indirect tables, notifications by index,
//! mergeable buffers), of buffers (each frame whole in one, or in parts) and of offloads (none, checksums, segmentation of TCP, and of UDP). The same frames go from one to the other in bursts, as they do on
//! the fast path, and one by one, where there is nothing to look at ahead and nothing to remember. All must arrive as a model of the sender
//! expects it, and for the same offloads the same whatever the rings are.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_driver::{Interface, Kind, OffloadBits, Ring, Shape, Side, Stream};
use culvert_guest::features::{self, EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::{Call, Memory, ReceiveQueue, Region, RingLayout, TransmitBurst, TransmitQueue};
use culvert_switch::limits::Limiter;
use culvert_switch::rates::Meter;
use culvert_switch::{
    Bridge, Burst, Egress, Forwarder, MacTable, NetworkId, Port, PortCounters, PortId, PortTotals, Rules, Topology,
};

const NOW: Duration = Duration::from_secs(1);
/// Frames of a stream, and bytes of their payload at the most: some need three segments.
const FRAMES: usize = 10;
const PAYLOAD: usize = 4000;
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What is negotiated of a guest's rings.
#[derive(Clone, Copy, Debug)]
struct Rings {
    packed: bool,
    indirect: bool,
    event_idx: bool,
    mergeable: bool,
    /// Its buffers have one part each, with room for any frame; else several.
    whole: bool,
}

impl Rings {
    /// The simplest that there are.
    const PLAIN: Self = Self { packed: false, indirect: false, event_idx: false, mergeable: false, whole: false };

    /// All combinations.
    fn all() -> impl Iterator<Item = Self> {
        (0..32_u8).map(|bits| {
            let [packed, indirect, event_idx, mergeable, whole] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            Self { packed, indirect, event_idx, mergeable, whole }
        })
    }

    fn features(self) -> u64 {
        let Self { packed, indirect, event_idx, mergeable, .. } = self;
        let pairs =
            [(packed, RING_PACKED), (indirect, INDIRECT_DESC), (event_idx, EVENT_IDX), (mergeable, NET_MRG_RXBUF)];
        pairs.iter().filter(|(has, _)| *has).fold(VERSION_1, |all, (_, bit)| all | bit)
    }

    fn shape(self) -> Shape {
        let Self { packed, indirect, event_idx, mergeable, whole } = self;
        // A frame over several buffers, or one buffer of several parts.
        let (receive_bytes, receive_piece_bytes) = match (whole, mergeable) {
            (true, _) => (4400, u32::MAX),
            (false, true) => (1000, 600),
            (false, false) => (4400, 1500),
        };
        Shape {
            queue_size: 256,
            packed,
            indirect,
            event_idx,
            mergeable,
            receive_bytes,
            receive_piece_bytes,
            ..Shape::default()
        }
    }
}

struct Guest {
    driver: Interface,
    transmit: TransmitQueue,
    port: Port,
}

impl Guest {
    fn new(number: u16, rings: Rings, offloads: u64) -> Self {
        let features = rings.features() | offloads;
        let driver = Interface::new(rings.shape(), PAYLOAD as u32 + 100);
        let ram = driver.ram();
        let region = Region {
            guest_address: ram.guest_address(),
            size: ram.size(),
            user_address: ram.user_address(),
            mmap_offset: 0,
        };
        let memory = Arc::new(Memory::map(vec![(region, ram.file().try_clone_to_owned().unwrap())]).unwrap());
        let call = || Arc::new(Call::default());
        let transmit = TransmitQueue::new(memory.clone(), &layout(&driver.transmit), features, call()).unwrap();
        let receive = ReceiveQueue::new(memory, &layout(&driver.receive), features, call()).unwrap();
        let rules = Rules::default();
        let port = Port {
            id: PortId(number),
            network: NetworkId(0),
            attachment: 0,
            limiter: Arc::new(Limiter::new(&rules.limits)),
            meter: Arc::new(Meter::new(&rules.rates)),
            is_guest: true,
            rules: Arc::new(rules),
            egress: Egress::Guest(Box::new([Arc::new(Mutex::new(receive))]), features::taken(features)),
            mirrors: Box::default(),
            is_mirror_target: false,
            taps: Box::default(),
            latencies: Box::default(),
            counters: Arc::new([PortCounters::default()]),
        };
        Self { driver, transmit, port }
    }
}

fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}

/// A virtio-net header and a frame.
type Frame = (Vec<u8>, Vec<u8>);

/// What became of a stream: what arrived, and what was counted at each port.
#[derive(Debug, PartialEq)]
struct Outcome {
    arrived: Vec<Frame>,
    totals: Vec<PortTotals>,
}

/// Sends a stream through a switch, so many frames at once.
fn run(kind: Kind, rings: [Rings; 2], offloads: [OffloadBits; 2], burst: usize) -> Outcome {
    let [sender, receiver] = offloads;
    let mut stream = Stream::new(kind, SENDER, RECEIVER, sender, receiver).untagged();
    let bits = [sender.features(Side::Sender), receiver.features(Side::Receiver)];
    let [mut from, mut to] =
        [0, 1].map(|number| Guest::new(number, rings[usize::from(number)], bits[usize::from(number)]));
    let table = Arc::new(MacTable::new(300));
    let ports = vec![Some(from.port), Some(to.port)];
    let topology = Topology::new(ports, vec![Some(Bridge { table, groups: None })]);
    let (mut forwarder, mut storage) = (Forwarder::new(0), TransmitBurst::default());
    let mut arrived = Vec::new();
    for start in (0..FRAMES).step_by(burst) {
        let count = burst.min(FRAMES - start);
        for _ in 0..count {
            let (header, frame, mut cuts) = stream.frame(PAYLOAD);
            if rings[0].whole {
                cuts.clear();
            }
            assert!(from.driver.send_with(&header, &frame, &cuts));
        }
        let received = from.transmit.receive(&mut storage).unwrap();
        assert_eq!(received.len(), count, "{rings:?}");
        forwarder.forward(&topology, PortId(0), &mut Burst::Guest(received), NOW);
        assert_eq!(forwarder.take_faults().count(), 0);
        while let Some((mut header, frame)) = to.driver.receive() {
            stream.accept(&header, &frame).unwrap_or_else(|error| panic!("{kind:?}, {rings:?}, {offloads:?}: {error}"));
            // How many buffers it came in is a matter of the rings.
            header[10..].fill(0);
            arrived.push((header, frame));
        }
    }
    assert!(stream.is_complete(), "{kind:?}, {rings:?}, {offloads:?}: {} are missing", stream.in_flight());
    Outcome { arrived, totals: topology.ports().map(|port| PortTotals::sum(&port.counters)).collect() }
}

/// In bursts of several lengths and one by one: as through plain rings.
fn check(kind: Kind, rings: [Rings; 2], offloads: [OffloadBits; 2], expected: &Outcome) {
    for burst in [1, 4, FRAMES] {
        let outcome = run(kind, rings, offloads, burst);
        assert_eq!(outcome, *expected, "{kind:?}, {rings:?}, {offloads:?}, bursts of {burst}");
    }
}

/// No offloads, checksums, and segmentation of TCP, and of UDP as well.
fn steps() -> [OffloadBits; 4] {
    let checksum = OffloadBits { checksum: true, ..OffloadBits::default() };
    let tcp = OffloadBits { tso4: true, tso6: true, ecn: true, ..checksum };
    [OffloadBits::default(), checksum, tcp, OffloadBits { uso4: true, uso6: true, ..tcp }]
}

#[test]
fn all_rings_do_the_same() {
    for sender in steps() {
        for receiver in steps() {
            let (kind, offloads) = (Kind::ALL, [sender, receiver]);
            let expected = kind.map(|kind| run(kind, [Rings::PLAIN; 2], offloads, 1));
            for (number, from) in Rings::all().enumerate() {
                for (other, to) in Rings::all().enumerate().filter(|(_, to)| to.whole == from.whole) {
                    // All kinds of frames come to their turn with all of either side's rings.
                    let at = (number + other) % kind.len();
                    check(kind[at], [from, to], offloads, &expected[at]);
                }
            }
        }
    }
}

#[test]
fn all_offloads_do_the_same_with_all_that_rings_have() {
    let all = Rings { packed: true, indirect: true, event_idx: true, mergeable: true, whole: false };
    let whole = Rings { whole: true, ..all };
    for sender in OffloadBits::all(Side::Sender) {
        for receiver in OffloadBits::all(Side::Receiver) {
            for kind in Kind::ALL {
                let expected = run(kind, [Rings::PLAIN; 2], [sender, receiver], 1);
                for rings in [all, whole] {
                    assert_eq!(run(kind, [rings; 2], [sender, receiver], FRAMES), expected);
                }
            }
        }
    }
}
