//! A burst does to its frames what becomes of them one by one.
//!
//! Within a burst frames that begin alike go one way without being looked at again, and buffers are looked at ahead. Here the same
//! frames of guests and NICs go through two switches that are alike: in bursts, and each in a burst of its own while somebody looks on at all
//! ports: there is nothing to remember, and no frame takes a short way. What guests and NICs receive, what is counted and what is learned must be the same.
//! The NICs are net_rings: what is sent to one lies in it until it is looked at.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test"
)]

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use culvert_driver::{Interface, Ring, Shape};
use culvert_frame::MacAddress;
use culvert_guest::features::{self, INDIRECT_DESC, NET_MRG_RXBUF, VERSION_1};
use culvert_guest::{Call, Memory, ReceiveQueue, Region, RingLayout, TransmitBurst, TransmitQueue};
use culvert_nic::{
    BURST, Batch, Eal, EalConfig, Hugepages, NicOffloads, Pool, PoolConfig, PortConfig, RxChecksum, RxQueue, TxQueue,
};
use culvert_switch::guard::Guard;
use culvert_switch::limits::{Limiter, Limits};
use culvert_switch::port::MirrorTo;
use culvert_switch::rates::{Meter, Rates};
use culvert_switch::{
    Bridge, Burst, Egress, Forwarder, MacTable, NetworkId, Port, PortCounters, PortId, PortTotals, Rules, Tap,
    Topology, Vlans,
};
use proptest::prelude::*;

/// What all guests negotiate: checksums may be left to be done by those who send.
const FEATURES: u64 = INDIRECT_DESC | features::NET_CSUM;
const GUESTS: u8 = 4;
/// Their ports follow those of the guests.
const NICS: u8 = 2;
/// Behind which stations are.
const PORTS: u8 = GUESTS + NICS;
/// Where there are mirrors: of which ports, and whether of what arrives there and of what leaves there.
const MIRRORED: [(u16, bool, bool); 3] = [(0, true, false), (1, false, true), (GUESTS as u16, true, true)];
const MIRROR_TARGET: PortId = PortId(GUESTS as u16 - 1);
const NOW: Duration = Duration::from_secs(1);

/// What is particular to a guest and its port.
#[derive(Clone, Debug)]
struct Kind {
    vlans: Vlans,
    bound: bool,
    listed: bool,
    isolated: bool,
    limits: Limits,
    mac_limit: u32,
    mtu: u16,
    queue_size: u16,
    receive_bytes: u32,
    piece_bytes: u32,
    header: Header,
    /// Its rings are packed, unless it has the legacy header.
    packed: bool,
    /// It takes frames whose checksum is left to be done, or is known to be right.
    takes_checksums: bool,
}

impl Kind {
    fn is_packed(&self) -> bool {
        self.packed && self.header != Header::Legacy
    }

    fn features(&self) -> u64 {
        let packed = if self.is_packed() { features::RING_PACKED } else { 0 };
        let takes = if self.takes_checksums { features::NET_GUEST_CSUM } else { 0 };
        self.header.features() | packed | takes
    }

    /// How many frames it may send at once, each of which may have two buffers.
    fn most_frames(&self) -> usize {
        if self.queue_size == 16 { 7 } else { BURST }
    }
}

/// The virtio-net header of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// Twelve bytes; frames may spread over several buffers.
    Mergeable,
    /// Twelve bytes, in the frame's buffer.
    Modern,
    /// Ten bytes, in a buffer of its own.
    Legacy,
}

impl Header {
    const fn bytes(self) -> u32 {
        match self {
            Self::Mergeable | Self::Modern => 12,
            Self::Legacy => 10,
        }
    }

    const fn features(self) -> u64 {
        match self {
            Self::Mergeable => FEATURES | VERSION_1 | NET_MRG_RXBUF,
            Self::Modern => FEATURES | VERSION_1,
            Self::Legacy => FEATURES,
        }
    }
}

/// A frame that guest number `from` sends.
#[derive(Clone, Debug)]
struct Sent {
    header: [u8; 12],
    frame: Vec<u8>,
    cut: Option<u32>,
}

/// A guest, with its driver and the queue that it sends by.
struct Guest {
    header_bytes: usize,
    driver: Interface,
    transmit: TransmitQueue,
}

/// A NIC's queues: what is sent by one is received by the other.
#[derive(Clone)]
struct Nic {
    rx: Arc<Mutex<RxQueue>>,
    tx: Arc<Mutex<TxQueue>>,
    pool: Pool,
}

/// The NICs of both switches, opened once.
fn nics() -> &'static [Vec<Nic>; 2] {
    static NICS_OF_BOTH: OnceLock<([Vec<Nic>; 2], Vec<culvert_nic::Port>)> = OnceLock::new();
    let (nics, _) = NICS_OF_BOTH.get_or_init(|| {
        let config = EalConfig { memory_mb: 64, hugepages: Hugepages::Never, ..EalConfig::default() };
        let eal = Eal::start(&config).unwrap();
        let pool = Pool::create(&eal, &PoolConfig { buffers: Some(4096), ..PoolConfig::default() }).unwrap();
        let mut opened = Vec::new();
        let mut open = |number: u8| {
            let name = format!("net_ring{number}");
            let config = PortConfig { name: name.clone(), device: name, ..PortConfig::default() };
            let mut port = culvert_nic::Port::open(&eal, &pool, &config).unwrap();
            let (rx, tx) = port.take_queues();
            opened.push(port);
            let (rx, tx) = (rx.into_iter().next().unwrap(), tx.into_iter().next().unwrap());
            Nic { rx: Arc::new(Mutex::new(rx)), tx: Arc::new(Mutex::new(tx)), pool: pool.clone() }
        };
        let nics = [0, NICS].map(|first| (first..first + NICS).map(&mut open).collect());
        (nics, opened)
    });
    nics
}

/// Both tests have the same NICs: one at a time. A test that fails is no reason for the other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nic {
    /// What was sent to it.
    fn take(&self) -> Received {
        let (mut taken, mut batch) = (Vec::new(), Batch::new());
        while self.rx.lock().unwrap().receive(&mut batch) > 0 {
            for mbuf in batch.iter() {
                let bytes: Vec<u8> = mbuf.segments().flatten().copied().collect();
                assert_eq!(bytes.len(), mbuf.length() as usize);
                taken.push((Vec::new(), bytes));
            }
            batch.clear();
        }
        taken
    }

    /// Frames that it has received.
    fn burst(&self, frames: &[Sent]) -> Batch {
        let mut batch = Batch::new();
        for Sent { header, frame, .. } in frames {
            let mut mbuf = self.pool.allocate(frame.len() as u32).unwrap();
            let mut left = &frame[..];
            for room in mbuf.segments_mut() {
                let (now, later) = left.split_at(room.len());
                room.copy_from_slice(now);
                left = later;
            }
            mbuf.set_rx_checksum(match header[..2] {
                [1, _] => RxChecksum::Partial,
                [2, _] => RxChecksum::Good,
                [_, 1] => RxChecksum::Bad,
                _ => RxChecksum::Unknown,
            });
            batch.push(mbuf).unwrap();
        }
        batch
    }
}

struct Switch {
    guests: Vec<Guest>,
    nics: &'static [Nic],
    topology: Topology,
    table: Arc<MacTable>,
    forwarder: Forwarder,
    storage: TransmitBurst,
}

impl Switch {
    fn new(kinds: &[Kind], is_mirrored: bool, nics: &'static [Nic], is_watched: bool) -> Self {
        let table = Arc::new(MacTable::new(300));
        let (mut guests, mut ports) = (Vec::new(), Vec::new());
        for (number, kind) in (0_u16..).zip(kinds) {
            if let Some(nic) = nics.get(usize::from(number).wrapping_sub(usize::from(GUESTS))) {
                // Of a case that has failed before.
                drop(nic.take());
                let egress = Egress::Nic(Box::new([nic.tx.clone()]), NicOffloads::default(), nic.pool.clone());
                ports.push(Some(port(number, kind, is_mirrored, is_watched, &table, egress)));
                continue;
            }
            let shape = Shape {
                queue_size: kind.queue_size,
                receive_bytes: kind.receive_bytes,
                receive_piece_bytes: kind.piece_bytes,
                header_bytes: kind.header.bytes(),
                mergeable: kind.header == Header::Mergeable,
                // The smallest ring has no place for the headers of a burst that is cut.
                split_header: kind.header == Header::Legacy && kind.queue_size > 16,
                packed: kind.is_packed(),
                ..Shape::default()
            };
            let driver = Interface::new(shape, 4096);
            let ram = driver.ram();
            let region = Region {
                guest_address: ram.guest_address(),
                size: ram.size(),
                user_address: ram.user_address(),
                mmap_offset: 0,
            };
            let memory = Arc::new(Memory::map(vec![(region, ram.file().try_clone_to_owned().unwrap())]).unwrap());
            let call = || Arc::new(Call::default());
            let features = kind.features();
            let transmit = TransmitQueue::new(memory.clone(), &layout(&driver.transmit), features, call()).unwrap();
            let receive = ReceiveQueue::new(memory, &layout(&driver.receive), features, call()).unwrap();
            guests.push(Guest { header_bytes: kind.header.bytes() as usize, driver, transmit });
            let egress = Egress::Guest(Box::new([Arc::new(Mutex::new(receive))]), features::taken(features));
            ports.push(Some(port(number, kind, is_mirrored, is_watched, &table, egress)));
        }
        let topology = Topology::new(ports, vec![Some(Bridge { table: table.clone(), groups: None })]);
        Self { guests, nics, topology, table, forwarder: Forwarder::new(0), storage: TransmitBurst::default() }
    }

    /// Guest or NIC `from` sends all of `frames` at once.
    fn send(&mut self, from: u8, frames: &[Sent]) {
        if let Some(number) = from.checked_sub(GUESTS) {
            let mut batch = self.nics[usize::from(number)].burst(frames);
            self.forwarder.forward(&self.topology, PortId(from.into()), &mut Burst::Nic(&mut batch), NOW);
            assert_eq!(self.forwarder.take_faults().count(), 0);
            return;
        }
        let guest = &mut self.guests[usize::from(from)];
        for Sent { header, frame, cut } in frames {
            assert!(guest.driver.send_with(&header[..guest.header_bytes], frame, cut.as_slice()));
        }
        // What costs more than one turn is left for the next one.
        let mut left = frames.len();
        while left > 0 {
            let mut burst = Burst::Guest(guest.transmit.receive(&mut self.storage).unwrap());
            assert_eq!(burst.len(), left);
            self.forwarder.forward(&self.topology, PortId(from.into()), &mut burst, NOW);
            left -= burst.len();
        }
        assert_eq!(self.forwarder.take_faults().count(), 0);
    }

    /// Everything that can be told of it: what guests and NICs have received, what was counted, what was learned.
    fn outcome(&mut self) -> Outcome {
        let guests = self.guests.iter_mut().map(|guest| std::iter::from_fn(|| guest.driver.receive()).collect());
        let received = guests.chain(self.nics.iter().map(Nic::take));
        let totals = self.topology.ports().map(|port| PortTotals::sum(&port.counters)).collect();
        let mut learned: Vec<_> =
            self.table.entries(1).iter().map(|entry| (entry.vlan, entry.address, entry.port)).collect();
        learned.sort_unstable();
        (received.collect(), totals, learned)
    }
}

/// A port, to which its station is bound if it is to be.
fn port(number: u16, kind: &Kind, is_mirrored: bool, is_watched: bool, table: &MacTable, egress: Egress) -> Port {
    let mac = kind.bound.then(|| station(number as u8));
    if let Some(mac) = mac {
        kind.vlans.bound().into_iter().for_each(|vlan| assert!(table.bind(vlan, mac, PortId(number))));
    }
    let addresses = if kind.listed { Box::new(["10.0.0.0/24".parse().unwrap()]) as Box<[_]> } else { Box::default() };
    let rules = Rules {
        vlans: kind.vlans.clone(),
        guard: Guard { mac, addresses },
        limits: kind.limits,
        rates: Rates::default(),
        isolated: kind.isolated,
        mac_limit: kind.mac_limit,
        mtu: kind.mtu,
    };
    Port {
        id: PortId(number),
        network: NetworkId(0),
        attachment: 0,
        limiter: Arc::new(Limiter::new(&rules.limits)),
        meter: Arc::new(Meter::new(&rules.rates)),
        is_guest: matches!(egress, Egress::Guest(..)),
        rules: Arc::new(rules),
        egress,
        mirrors: MIRRORED
            .iter()
            .filter(|(mirrored, ..)| is_mirrored && *mirrored == number)
            .map(|&(_, rx, tx)| MirrorTo { target: MIRROR_TARGET, rx, tx })
            .collect(),
        is_mirror_target: is_mirrored && MIRROR_TARGET == PortId(number),
        taps: is_watched.then(|| Arc::new(Tap::new(64, 1))).into_iter().collect(),
        latencies: Box::default(),
        counters: Arc::new([PortCounters::default()]),
    }
}

/// Of each guest and NIC, of each port, and of the address table.
type Outcome = (Vec<Received>, Vec<PortTotals>, Vec<(u16, MacAddress, PortId)>);

/// The virtio-net header and the bytes of each frame.
type Received = Vec<(Vec<u8>, Vec<u8>)>;

fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}

fn station(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let trunk = |native| Vlans::Trunk { allowed: Arc::new([10, 20].into_iter().collect()), native };
    let vlans = prop_oneof![
        6 => Just(Vlans::Transparent),
        2 => Just(Vlans::Access { vlan: 10, qinq: false }),
        1 => Just(Vlans::Access { vlan: 10, qinq: true }),
        1 => Just(trunk(Some(10))),
        1 => Just(trunk(None)),
    ];
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let flooded = || prop_oneof![8 => Just(None), 1 => Just(Some(0_u32)), 1 => Just(Some(1))];
    let limits = (
        prop_oneof![4 => Just(1000_u32), 1 => 0..3_u32],
        prop_oneof![4 => Just(1500_u16), 1 => Just(100_u16), 1 => Just(3000_u16)],
        (flooded(), flooded()).prop_map(|(broadcast, unknown)| Limits { broadcast, unknown }),
    );
    let rings = prop_oneof![4 => Just((256, 2048)), 1 => Just((16, 2048)), 1 => Just((128, 128))];
    let pieces = prop_oneof![4 => Just(u32::MAX), 1 => Just(100_u32)];
    let header = prop_oneof![3 => Just(Header::Mergeable), 1 => Just(Header::Modern), 1 => Just(Header::Legacy)];
    let negotiated = (header, prop::bool::ANY, prop::bool::weighted(0.7));
    (vlans, flags, limits, rings, pieces, negotiated).prop_map(
        |(vlans, flags, limits, rings, piece_bytes, negotiated)| Kind {
            vlans,
            bound: flags.0,
            listed: flags.1,
            isolated: flags.2,
            mac_limit: limits.0,
            mtu: limits.1,
            limits: limits.2,
            queue_size: rings.0,
            receive_bytes: rings.1,
            piece_bytes,
            header: negotiated.0,
            packed: negotiated.1,
            takes_checksums: negotiated.2,
        },
    )
}

/// The start of a frame: addresses of few stations, so that many are alike; groups and tags among them.
fn any_start() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        12 => (0..PORTS + 2).prop_map(|number| station(number).0),
        1 => Just([0xff; 6]),
        1 => Just([0x01, 0x80, 0xc2, 0, 0, 3]),
        1 => Just([0x33, 0x33, 0, 0, 0, 1]),
    ];
    let behind = prop_oneof![
        6 => Just(vec![0x08, 0x00]),
        1 => Just(vec![0x88, 0xb5]),
        1 => Just(vec![0x81, 0x00, 0x00, 0x0a, 0x08, 0x00]),
        1 => Just(vec![0x81, 0x00, 0x20, 0x00, 0x08, 0x00]),
        1 => Just(vec![0x81, 0x00, 0x00, 0x14, 0x81, 0x00, 0x00, 0x01, 0x08, 0x00]),
    ];
    (address.clone(), address, behind).prop_map(|(to, from, behind)| [&to[..], &from, &behind].concat())
}

/// What follows it: an IPv4 header of a source that may be listed or not, and anything.
fn any_sent(start: Vec<u8>) -> impl Strategy<Value = Sent> {
    let length = prop_oneof![2 => 0..14_usize, 12 => 14..300_usize, 4 => 1400..1530_usize, 1 => 2000..2300_usize];
    let asks = prop_oneof![
        8 => Just([0_u8; 12]),
        1 => Just([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]),
        1 => Just([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        1 => Just([2, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
    ];
    let cut = prop_oneof![6 => Just(None), 1 => (1..9_u32).prop_map(Some)];
    (length, asks, cut, any::<bool>(), any::<u8>()).prop_map(move |(length, header, cut, listed, fill)| {
        let mut frame = start.clone();
        let source = [10, 0, u8::from(!listed), 7];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(source);
        frame.extend([10, 0, 0, 9]);
        frame.resize(length.max(1), fill);
        Sent { header, cut: cut.filter(|&cut| (cut as usize) < frame.len()), frame }
    })
}

/// A burst of one guest or NIC: frames of few kinds, in any order.
fn any_burst() -> impl Strategy<Value = (u8, Vec<Sent>)> {
    let frames = (prop::collection::vec(any_start(), 1..4), prop_oneof![3 => 1..8_usize, 1 => 8..BURST + 1])
        .prop_flat_map(|(starts, count)| {
            prop::collection::vec(prop::sample::select(starts).prop_flat_map(any_sent), count)
        });
    (0..PORTS, frames)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_fare_in_a_burst_as_alone(
        kinds in prop::collection::vec(any_kind(), usize::from(PORTS)),
        is_mirrored in prop::bool::weighted(0.2),
        // Where nobody takes what has arrived, floods find no more room.
        bursts in prop::collection::vec((any_burst(), prop::bool::weighted(0.6)), 1..12),
    ) {
        let _turn = turn();
        let [together, alone] = nics();
        let (mut together, mut alone) = (
            Switch::new(&kinds, is_mirrored, together, false),
            Switch::new(&kinds, is_mirrored, alone, true),
        );
        for ((from, mut frames), is_taken) in bursts {
            frames.truncate(kinds[usize::from(from)].most_frames());
            together.send(from, &frames);
            frames.chunks(1).for_each(|frame| alone.send(from, frame));
            if is_taken {
                prop_assert_eq!(together.outcome(), alone.outcome());
            }
        }
        prop_assert_eq!(together.outcome(), alone.outcome());
    }
}

/// What a small ring has on offer is looked at for each flooded frame, also for one that is too long for its port.
#[test]
fn floods_have_half_of_a_ring_whatever_was_flooded_before() {
    let kind = |queue_size| Kind {
        vlans: Vlans::Transparent,
        bound: false,
        listed: false,
        isolated: false,
        limits: Limits { broadcast: None, unknown: None },
        mac_limit: 1000,
        mtu: 1500,
        queue_size,
        receive_bytes: 2048,
        piece_bytes: u32::MAX,
        header: Header::Mergeable,
        packed: false,
        takes_checksums: false,
    };
    let kinds: Vec<Kind> = [256, 16, 256, 256, 256, 256].map(kind).into();
    let sent = |to: u8, from: u8, length: usize| {
        let mut frame = [&station(to).0[..], &station(from).0, &[8, 0]].concat();
        frame.resize(length, 0);
        Sent { header: [0; 12], frame, cut: None }
    };
    let _turn = turn();
    let [together, alone] = nics();
    let (mut together, mut alone) =
        (Switch::new(&kinds, false, together, false), Switch::new(&kinds, false, alone, true));
    let addressed: Vec<_> = (60..65).map(|length| sent(21, 22, length)).collect();
    let flooded: Vec<_> = (70..90).map(|length| sent(33, 20, length)).collect();
    for (from, frames) in [(1, vec![sent(33, 21, 60)]), (0, vec![sent(33, 20, 1529)]), (2, addressed), (0, flooded)] {
        together.send(from, &frames);
        frames.chunks(1).for_each(|frame| alone.send(from, frame));
    }
    assert_eq!(together.outcome(), alone.outcome());
}
