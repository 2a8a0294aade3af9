//! Guests that send each other frames through the forwarder: any virtio-net header, any bytes, any cuts, ports that come and
//! go, addresses that move and age.
//!
//! Checked: what a guest receives is, byte for byte, what others of its network have sent, in their order, nothing twice;
//! the virtio-net header before it is ours; and the ledgers balance.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Unstructured};
use culvert_driver::{Interface, Shape};
use culvert_frame::{Direction, MacAddress};
use culvert_guest::features::{NET_MRG_RXBUF, VERSION_1};
use culvert_guest::{ReceiveQueue, TransmitBurst, TransmitQueue};
use culvert_switch::network::NetworkId;
use culvert_switch::{Burst, Egress, Forwarder, MacTable, Port, PortCounters, PortId, PortTotals, Topology};

use crate::guest::{layout, share};

#[derive(Arbitrary, Debug)]
struct Input {
    ports: [PortSpec; PORTS],
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct PortSpec {
    second_network: bool,
    bound: bool,
    /// 0 to 2, or as good as none.
    mac_limit: u8,
    mtu: u16,
    mergeable: bool,
    /// Small buffers: 128 bytes.
    small_buffers: bool,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A guest sends a frame; the second word is its destination, the third its source.
    Send {
        port: u8,
        destination: u8,
        source: u8,
        length: u16,
        header: Option<[u8; 10]>,
        cut: u8,
    },
    /// Any bytes as a frame.
    SendBytes {
        port: u8,
        bytes: Vec<u8>,
    },
    /// A worker takes a burst from a port.
    Forward {
        port: u8,
    },
    /// A guest looks at what it received.
    Drain {
        port: u8,
    },
    /// The port's way out.
    Way {
        port: u8,
        way: Way,
    },
    Pass {
        seconds: u8,
    },
    Sweep,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Way {
    Down,
    Guest,
    Quarantined,
}

const PORTS: usize = 4;
/// Of the last port; the others have one.
const QUEUES: usize = 2;
const AGE_SECONDS: u32 = 300;

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut node = Node::new(input.ports);
    for operation in input.operations.iter().take(80) {
        node.operate(operation);
    }
    for port in 0..PORTS {
        node.forward(port);
    }
    for port in 0..PORTS {
        node.drain(port);
    }
    node.check_ledgers();
}

struct Node {
    specs: [PortSpec; PORTS],
    guests: Vec<Guest>,
    topology: Topology,
    tables: [Arc<MacTable>; 2],
    counters: Vec<Arc<[PortCounters]>>,
    forwarder: Forwarder,
    burst: TransmitBurst,
    /// Frames in the order in which they were forwarded, and the port that they came from.
    history: Vec<(usize, Vec<u8>)>,
    now: u32,
}

/// A guest with one transmit queue and one or more receive queues, each on an interface of its own.
struct Guest {
    interfaces: Vec<Interface>,
    transmit: TransmitQueue,
    receive: Vec<Arc<Mutex<ReceiveQueue>>>,
    way: Way,
    /// Frames offered and not forwarded yet.
    sent: Vec<Vec<u8>>,
    received: u64,
    /// For each queue, the first frame of the history that may come next.
    next: Vec<usize>,
}

impl Node {
    fn new(specs: [PortSpec; PORTS]) -> Self {
        let guests: Vec<_> = (0..PORTS).map(|port| Guest::new(port, specs[port])).collect();
        let counters = (0..PORTS).map(|_| [PortCounters::default()].into()).collect();
        let tables = [(); 2].map(|()| Arc::new(MacTable::new(AGE_SECONDS)));
        let mut node = Self {
            specs,
            guests,
            topology: Topology::default(),
            tables,
            counters,
            forwarder: Forwarder::new(0),
            burst: TransmitBurst::default(),
            history: Vec::new(),
            now: 0,
        };
        node.plug();
        node
    }

    /// A new topology, as the ports are now.
    fn plug(&mut self) {
        let port = |number: usize| {
            let (spec, guest) = (self.specs[number], &self.guests[number]);
            Port {
                id: PortId(number as u16),
                network: NetworkId(u16::from(spec.second_network)),
                attachment: 0,
                source: spec.bound.then(|| station(number as u8)),
                mac_limit: if spec.mac_limit < 3 { u32::from(spec.mac_limit) } else { 1000 },
                mtu: spec.mtu.max(68),
                egress: match guest.way {
                    Way::Down => Egress::Down,
                    Way::Quarantined => Egress::Quarantined,
                    Way::Guest => Egress::Guest(guest.receive.clone().into()),
                },
                taps: Box::default(),
                counters: self.counters[number].clone(),
            }
        };
        let tables = self.tables.iter().cloned().map(Some).collect();
        self.topology = Topology::new((0..PORTS).map(|number| Some(port(number))).collect(), tables);
    }

    fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Send { port, destination, source, length, header, cut } => {
                let mut frame = [address(*destination).0, address(*source).0].concat();
                frame.extend([0x88, 0xb5]);
                let start = self.history.len() + usize::from(*length);
                frame.extend((start..).map(|at| (at % 253) as u8).take(usize::from(*length % 2100)));
                self.send(*port, *header, &frame, u32::from(*cut));
            }
            Operation::SendBytes { port, bytes } => self.send(*port, None, bytes, 14),
            Operation::Forward { port } => self.forward(usize::from(*port) % PORTS),
            Operation::Drain { port } => self.drain(usize::from(*port) % PORTS),
            Operation::Way { port, way } => {
                self.guests[usize::from(*port) % PORTS].way = *way;
                self.plug();
            }
            Operation::Pass { seconds } => self.now += u32::from(*seconds),
            Operation::Sweep => self.tables.iter().for_each(|table| table.sweep(self.now)),
        }
    }

    fn send(&mut self, port: u8, header: Option<[u8; 10]>, frame: &[u8], cut: u32) {
        let guest = &mut self.guests[usize::from(port) % PORTS];
        let frame = &frame[..frame.len().min(LARGEST_FRAME)];
        let bytes = [&header.unwrap_or_default()[..], &[0; 2]].concat();
        let cut = cut.min(frame.len() as u32);
        // A full ring takes nothing.
        if guest.sent.len() < usize::from(QUEUE_SIZE) / 2 && guest.interfaces[0].send_with(&bytes, frame, &[cut]) {
            guest.sent.push(frame.to_vec());
        }
    }

    fn forward(&mut self, port: usize) {
        let guest = &mut self.guests[port];
        let received = guest.transmit.receive(&mut self.burst).expect("a good ring");
        assert_eq!(received.len(), guest.sent.len().min(32));
        self.history.extend(guest.sent.drain(..received.len()).map(|frame| (port, frame)));
        let mut burst = Burst::Guest(received);
        self.forwarder.forward(&self.topology, PortId(port as u16), &mut burst, self.now);
        drop(burst);
        assert_eq!(self.forwarder.take_faults().count(), 0);
    }

    fn drain(&mut self, port: usize) {
        let specs = self.specs;
        let guest = &mut self.guests[port];
        for (interface, next) in guest.interfaces.iter_mut().zip(&mut guest.next) {
            while let Some((header, frame)) = interface.receive() {
                assert_eq!(header[..10], [0; 10], "the virtio-net header is ours");
                let same = |(from, sent): &(usize, Vec<u8>)| {
                    *from != port && specs[*from].second_network == specs[port].second_network && *sent == frame
                };
                let place = self.history[*next..].iter().position(same);
                let place = place.expect("a frame that another port of the network sent, in order");
                *next += place + 1;
                guest.received += 1;
            }
        }
    }

    fn check_ledgers(&self) {
        let totals: Vec<_> = self.counters.iter().map(|sets| PortTotals::sum(sets)).collect();
        for (it, guest) in totals.iter().zip(&self.guests) {
            assert_eq!(it.rx_frames, it.forwarded + it.dropped(Direction::Rx));
            assert_eq!(it.offered, it.tx_frames + it.dropped(Direction::Tx));
            assert_eq!(it.tx_frames, guest.received);
        }
        let sum = |which: fn(&PortTotals) -> u64| totals.iter().map(which).sum::<u64>();
        assert_eq!(sum(|it| it.copies), sum(|it| it.offered));
        assert_eq!(sum(|it| it.rx_frames), self.history.len() as u64);
    }
}

impl Guest {
    fn new(port: usize, spec: PortSpec) -> Self {
        let queues = if port + 1 == PORTS { QUEUES } else { 1 };
        let shape = Shape {
            queue_size: QUEUE_SIZE,
            header_bytes: 12,
            mergeable: spec.mergeable,
            receive_bytes: if spec.small_buffers { 128 } else { 2048 },
            ..Shape::default()
        };
        let features = VERSION_1 | if spec.mergeable { NET_MRG_RXBUF } else { 0 };
        let interfaces: Vec<_> = (0..queues).map(|_| Interface::new(shape, LARGEST_FRAME as u32)).collect();
        let memories: Vec<_> = interfaces.iter().map(|interface| share(interface.ram())).collect();
        let receive = interfaces.iter().zip(&memories).map(|(interface, memory)| {
            let queue = ReceiveQueue::new(memory.clone(), &layout(&interface.receive), features, Arc::default());
            Arc::new(Mutex::new(queue.expect("a good ring")))
        });
        let receive = receive.collect();
        let transmit =
            TransmitQueue::new(memories[0].clone(), &layout(&interfaces[0].transmit), features, Arc::default());
        Self {
            receive,
            transmit: transmit.expect("a good ring"),
            interfaces,
            way: Way::Guest,
            sent: Vec::new(),
            received: 0,
            next: vec![0; queues],
        }
    }
}

const QUEUE_SIZE: u16 = 64;
const LARGEST_FRAME: usize = 2200;

/// The address that a port may be bound to.
fn station(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

/// A few stations, and a few groups.
fn address(number: u8) -> MacAddress {
    match number % 16 {
        12 => MacAddress::BROADCAST,
        13 => MacAddress([0x01, 0, 0x5e, 0, 0, 1]),
        14 => MacAddress([0x01, 0x80, 0xc2, 0, 0, number / 16]),
        15 => MacAddress([0x33, 0x33, 0, 0, 0, 1]),
        station => self::station(station),
    }
}
