//! What a frame from guest to guest costs the worker: two guests' rings and all of the datapath in one thread, without frontends,
//! namespaces or a second core, so that instructions can be counted where times say nothing.
//!
//! `instructions [packed] [timed] [BYTES [ADDRESSES [FRAMES [BURST]]]]`: frames of so many bytes (64), both ways, between so many stations on each side
//! (1), in bursts of so many (32); with `packed` both guests have packed rings, with `timed` the latency of one of them is measured.
//! It prints the time that [`work`] took for a frame. For instructions:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*instructions*work*' --callgrind-out-file=FILE target/release/examples/instructions 64
//! ```
//!
//! and the sum, divided by the frames that were printed. Valgrind knows no AVX-512: what it counts is the way with AVX2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "for developers")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_driver::{Buffer, Descriptor, Interface, Ram, Ring, Shape};
use culvert_frame::MacAddress;
use culvert_guest::features::{self, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::{Call, Memory, ReceiveQueue, Region, RingLayout, TransmitBurst, TransmitQueue};
use culvert_switch::{
    Bridge, Egress, Forwarder, Latency, MacTable, NetworkId, Port, PortCounters, PortId, Rules, Topology,
    limits::Limiter, rates::Meter,
};
use culvert_worker::handover::Slot;
use culvert_worker::input::{Arrival, Input};
use culvert_worker::load::Work;

const FEATURES: u64 = VERSION_1 | NET_MRG_RXBUF | INDIRECT_DESC;
const QUEUE_SIZE: u16 = 256;
const HEADER_BYTES: u32 = 12;
/// Bytes from one transmit buffer to the next.
const BUFFER_BYTES: u64 = 9216;
const NOW: Duration = Duration::from_secs(1);
const BURST: u64 = 32;

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let packed = words.next_if(|word| word == "packed").is_some();
    let timed = words.next_if(|word| word == "timed").is_some();
    let mut numbers = words.map(|text| text.parse::<u64>().expect("a number"));
    let mut next = |default| numbers.next().unwrap_or(default);
    let (length, addresses, wanted, burst) = (next(64) as u32, next(1), next(200_000), next(BURST));

    let mut guests = [1, 2].map(|number| Guest::new(number, length, addresses, burst as u16, packed));
    let table = Arc::new(MacTable::new(300));
    let mut ports = guests.each_mut().map(Guest::port);
    if timed {
        ports[0].latencies = Box::new([Arc::new(Latency::new())]);
    }
    let ports = ports.map(Some).into();
    let topology = Topology::new(ports, vec![Some(Bridge { table, groups: None })]);
    let mut worker = Worker {
        inputs: guests.each_mut().map(|guest| guest.input()),
        storage: TransmitBurst::default(),
        forwarder: Forwarder::new(0),
    };

    // Addresses are learned, pages are there.
    for _ in 0..2 * addresses / burst + u64::from(QUEUE_SIZE) {
        guests.iter_mut().for_each(Guest::turn);
        worker.turn(&topology);
    }
    let (mut frames, mut time) = (0, Duration::ZERO);
    while frames < wanted {
        guests.iter_mut().for_each(Guest::turn);
        let start = Instant::now();
        frames += work(&mut worker, &topology);
        time += start.elapsed();
    }
    let totals = topology.ports().flat_map(|port| port.counters.iter());
    let (arrived, delivered) =
        totals.fold((0, 0), |(rx, tx), counters| (rx + counters.rx_frames.get(), tx + counters.tx_frames.get()));
    assert!(arrived == delivered, "{arrived} frames arrived, {delivered} were delivered");
    println!("{frames} frames of {length} bytes: {:.1} ns each", time.as_nanos() as f64 / frames as f64);
}

/// What is measured.
#[inline(never)]
fn work(worker: &mut Worker, topology: &Topology) -> u64 {
    worker.turn(topology)
}

struct Worker {
    inputs: [Input; 2],
    storage: TransmitBurst,
    forwarder: Forwarder,
}

impl Worker {
    /// One burst from each guest, forwarded; returns how many frames that were.
    #[inline(always)]
    fn turn(&mut self, topology: &Topology) -> u64 {
        let mut frames = 0;
        for input in &mut self.inputs {
            let port = input.port;
            self.forwarder.begin(topology);
            if let Some(Arrival::Frames(mut burst)) = input.receive(&mut self.storage) {
                self.forwarder.forward(topology, port, &mut burst, NOW);
                frames += burst.len() as u64;
            }
        }
        frames
    }
}

/// A guest, its driver and its queues.
struct Guest {
    number: u8,
    addresses: u64,
    burst: u16,
    features: u64,
    length: u32,
    driver: Interface,
    transmit: Option<TransmitQueue>,
    receive: Option<ReceiveQueue>,
    /// Guest address of the first transmit buffer.
    buffers: u64,
    sent: u16,
    /// The station that sends the next frame.
    next_address: u64,
}

impl Guest {
    fn new(number: u8, length: u32, addresses: u64, burst: u16, packed: bool) -> Self {
        let shape = Shape { queue_size: QUEUE_SIZE, packed, ..Shape::default() };
        let features = FEATURES | if packed { RING_PACKED } else { 0 };
        let mut driver = Interface::in_ram(shape, 64, Ram::new(16 << 20, false));
        let buffers = driver.ram().allocate(BUFFER_BYTES * u64::from(QUEUE_SIZE), 4096);
        for index in 0..QUEUE_SIZE {
            let address = buffers + BUFFER_BYTES * u64::from(index);
            let mut frame = vec![0; HEADER_BYTES as usize + 12];
            frame.extend([0x88, 0xb5]);
            frame.resize((HEADER_BYTES + length) as usize, number);
            driver.ram().write(address, &frame);
            if !packed {
                let descriptor = Descriptor { address, length: HEADER_BYTES + length, flags: 0, next: 0 };
                driver.transmit.set_descriptor(index, descriptor);
                driver.transmit.offer_head(index);
            }
        }
        driver.transmit.want_interrupt(false);
        driver.receive.want_interrupt(false);
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
        let (transmit, receive) = (Some(transmit), Some(receive));
        Self {
            number,
            addresses,
            burst,
            features,
            length,
            driver,
            transmit,
            receive,
            buffers,
            sent: 0,
            next_address: 0,
        }
    }

    /// Its port, with its receive queue.
    fn port(&mut self) -> Port {
        let queue = self.receive.take().expect("the queue, once");
        let rules = Rules { mtu: 9000, mac_limit: u32::MAX, ..Rules::default() };
        Port {
            id: PortId(u16::from(self.number) - 1),
            network: NetworkId(0),
            attachment: 0,
            limiter: Arc::new(Limiter::new(&rules.limits)),
            meter: Arc::new(Meter::new(&rules.rates)),
            is_guest: true,
            rules: Arc::new(rules),
            egress: Egress::Guest(Box::new([Arc::new(Mutex::new(queue))]), features::taken(self.features)),
            mirrors: Box::default(),
            is_mirror_target: false,
            taps: Box::default(),
            latencies: Box::default(),
            counters: Arc::new([PortCounters::default()]),
        }
    }

    /// What the worker polls: its transmit queue.
    fn input(&mut self) -> Input {
        let queue = self.transmit.take().expect("the queue, once");
        let mut input = Input::guest(PortId(u16::from(self.number) - 1), 1, Work::new(), Slot::new(queue), true, false);
        assert!(input.take(Instant::now()), "the queue is in its slot");
        input
    }

    /// Offers what came back again, and sends a burst.
    fn turn(&mut self) {
        let is_packed = self.features & RING_PACKED != 0;
        if is_packed {
            while self.driver.receive.take_used().is_some() {}
            while self.driver.transmit.take_used().is_some() {}
            self.driver.refill();
        } else {
            let receive = &self.driver.receive;
            receive.set_available_index(receive.used_index().wrapping_add(QUEUE_SIZE));
        }
        for ahead in 0..self.burst {
            let slot = u64::from(self.sent.wrapping_add(ahead) & (QUEUE_SIZE - 1));
            let at = self.buffers + BUFFER_BYTES * slot + u64::from(HEADER_BYTES);
            let [to, from] = [3 - self.number, self.number].map(|side| station(side, self.next_address));
            self.driver.ram().write(at, &to);
            self.driver.ram().write(at + 6, &from);
            self.next_address = (self.next_address + 1) % self.addresses;
            if is_packed {
                let address = at - u64::from(HEADER_BYTES);
                let buffer = Buffer { address, length: HEADER_BYTES + self.length, writable: false };
                self.driver.transmit.offer(&[buffer]).expect("room in the ring");
            }
        }
        self.sent = self.sent.wrapping_add(self.burst);
        if is_packed {
            self.driver.transmit.publish();
        } else {
            self.driver.transmit.set_available_index(self.sent);
        }
    }
}

/// A station of a guest's, by its number.
fn station(guest: u8, number: u64) -> [u8; 6] {
    MacAddress::from_u64(0x0200_0000_0000 | u64::from(guest) << 32 | number).0
}

fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}
