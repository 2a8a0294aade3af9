//! What a frame between a guest and a DPDK device costs the worker: two guests' rings, two net_rings and all of the datapath in one thread,
//! so that instructions can be counted where times say nothing.
//!
//! `device [looped] [BYTES [FRAMES]]`: frames of so many bytes (64), both ways. As a rule the devices are crossed: what one guest's network sends
//! comes into the other guest's, as over a wire. With `looped` each guest has a network with one device, which gives back what it is sent: all
//! addresses move with each burst, and their frames are flooded. It prints the time that a frame took to a device ([`to_device`]) and from
//! one ([`from_device`]). For instructions:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*device*to_device*' --callgrind-out-file=FILE target/release/examples/device 64
//! ```
//!
//! and the sum, divided by the frames that were printed. Valgrind knows no AVX-512, and DPDK is told not to use it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "for developers")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_driver::{Descriptor, Interface, Ram, Ring, Shape};
use culvert_guest::features::{self, INDIRECT_DESC, NET_MRG_RXBUF, VERSION_1};
use culvert_guest::{Call, Memory, ReceiveQueue, Region, RingLayout, TransmitBurst, TransmitQueue};
use culvert_nic::{Eal, EalConfig, Hugepages, Pool, PoolConfig, PortConfig, WorkerThread};
use culvert_switch::{
    Bridge, Egress, Forwarder, MacTable, NetworkId, Port, PortCounters, PortId, Rules, Topology, limits::Limiter,
    rates::Meter,
};
use culvert_worker::handover::Slot;
use culvert_worker::input::{Arrival, Input};
use culvert_worker::load::Work;

const FEATURES: u64 = VERSION_1 | NET_MRG_RXBUF | INDIRECT_DESC;
const QUEUE_SIZE: u16 = 256;
const HEADER_BYTES: u32 = 12;
const NOW: Duration = Duration::from_secs(1);
const BURST: u16 = 32;
/// Frames until all addresses are learned and all pages are there.
const WARM_UP: u64 = 20_000;

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let looped = words.next_if(|word| word == "looped").is_some();
    let mut numbers = words.map(|text| text.parse::<u64>().expect("a number"));
    let mut next = |default| numbers.next().unwrap_or(default);
    let (length, wanted) = (next(64) as u32, next(200_000));

    let extra_args = vec!["--force-max-simd-bitwidth=256".to_owned()];
    let config = EalConfig { memory_mb: 64, hugepages: Hugepages::Never, extra_args, ..EalConfig::default() };
    let eal = Eal::start(&config).expect("DPDK");
    let _registration = WorkerThread::register(&eal).expect("a thread of DPDK's");
    let pool = Pool::create(&eal, &PoolConfig::default()).expect("a pool");

    let mut guests = [0, 1].map(|number| Guest::new(number, length));
    let mut ports: Vec<_> = guests.iter_mut().map(|guest| Some(guest.port())).collect();
    let mut inputs: Vec<_> = guests.iter_mut().map(Guest::input).collect();
    let mut opened = Vec::new();
    for number in 0..2_u16 {
        let device =
            PortConfig { name: format!("nic-{number}"), device: format!("net_ring{number}"), ..PortConfig::default() };
        let mut device = culvert_nic::Port::open(&eal, &pool, &device).expect("a device");
        let (rx, tx) = device.take_queues();
        opened.push(device);
        let queues = tx.into_iter().map(|queue| Arc::new(Mutex::new(queue))).collect();
        ports.push(Some(port(2 + number, number, Egress::Nic(queues, Default::default(), pool.clone()))));
        // What goes out by one comes in by the other.
        let at = PortId(if looped { 2 + number } else { 3 - number });
        for queue in rx {
            let mut input = Input::nic(at, 0, Work::new(), Slot::new(queue), false);
            assert!(input.take(Instant::now()), "the queue is in its slot");
            inputs.push(input);
        }
    }
    let bridge = || Some(Bridge { table: Arc::new(MacTable::new(300)), groups: None });
    let topology = Topology::new(ports, vec![bridge(), bridge()]);
    let mut worker = Worker { storage: TransmitBurst::default(), forwarder: Forwarder::new(0) };

    let mut spent = [Duration::ZERO; 2];
    let mut passed = [0; 2];
    while passed[0] < wanted + WARM_UP {
        guests.iter_mut().for_each(Guest::turn);
        if passed[0] < WARM_UP {
            let moved = inputs.iter_mut().map(|input| worker.turn(&topology, input)).sum::<u64>();
            passed = passed.map(|before| before + moved / 2);
            if passed[0] >= WARM_UP {
                passed = [WARM_UP; 2];
            }
            continue;
        }
        let (from_guests, from_devices) = inputs.split_at_mut(2);
        let start = Instant::now();
        passed[0] += from_guests.iter_mut().map(|input| to_device(&mut worker, &topology, input)).sum::<u64>();
        let middle = Instant::now();
        passed[1] += from_devices.iter_mut().map(|input| from_device(&mut worker, &topology, input)).sum::<u64>();
        spent[0] += middle - start;
        spent[1] += middle.elapsed();
    }
    for counters in topology.ports().flat_map(|port| port.counters.iter()) {
        assert_eq!(counters.offered.get(), counters.tx_frames.get(), "all that was to leave has left");
    }
    for ((way, frames), time) in ["to", "from"].into_iter().zip(passed).zip(spent) {
        let frames = frames - WARM_UP;
        println!(
            "{frames} frames of {length} bytes {way} a device: {:.1} ns each",
            time.as_nanos() as f64 / frames as f64
        );
    }
}

#[inline(never)]
fn to_device(worker: &mut Worker, topology: &Topology, input: &mut Input) -> u64 {
    worker.turn(topology, input)
}

/// With a second look: the compiler makes one of two functions that are alike.
#[inline(never)]
fn from_device(worker: &mut Worker, topology: &Topology, input: &mut Input) -> u64 {
    let frames = worker.turn(topology, input);
    std::hint::black_box(input.port);
    frames
}

struct Worker {
    storage: TransmitBurst,
    forwarder: Forwarder,
}

impl Worker {
    /// One burst from an input, forwarded; returns how many frames that were.
    #[inline(always)]
    fn turn(&mut self, topology: &Topology, input: &mut Input) -> u64 {
        let port = input.port;
        let Some(Arrival::Frames(mut burst)) = input.receive(&mut self.storage) else { return 0 };
        self.forwarder.forward(topology, port, &mut burst, NOW);
        let frames = burst.len() as u64;
        burst.release();
        frames
    }
}

fn port(number: u16, network: u16, egress: Egress) -> Port {
    let rules = Rules::default();
    Port {
        id: PortId(number),
        network: NetworkId(network),
        attachment: 0,
        limiter: Arc::new(Limiter::new(&rules.limits)),
        meter: Arc::new(Meter::new(&rules.rates)),
        is_guest: matches!(egress, Egress::Guest(..)),
        rules: Arc::new(rules),
        egress,
        mirrors: Box::default(),
        is_mirror_target: false,
        taps: Box::default(),
        latencies: Box::default(),
        counters: Arc::new([PortCounters::default()]),
    }
}

/// A guest, its driver and its queues.
struct Guest {
    number: u16,
    driver: Interface,
    transmit: Option<TransmitQueue>,
    receive: Option<ReceiveQueue>,
    sent: u16,
}

impl Guest {
    fn new(number: u16, length: u32) -> Self {
        let shape = Shape { queue_size: QUEUE_SIZE, ..Shape::default() };
        let mut driver = Interface::in_ram(shape, 64, Ram::new(16 << 20, false));
        let stride = u64::from(HEADER_BYTES + length).next_multiple_of(64);
        let buffers = driver.ram().allocate(stride * u64::from(QUEUE_SIZE), 4096);
        for index in 0..QUEUE_SIZE {
            let address = buffers + stride * u64::from(index);
            let [to, from] = [1 - number, number].map(|side| [2, 0, 0, 0, 0, side as u8]);
            let mut frame = [&[0; HEADER_BYTES as usize][..], &to, &from, &[0x88, 0xb5]].concat();
            frame.resize((HEADER_BYTES + length) as usize, number as u8);
            driver.ram().write(address, &frame);
            let descriptor = Descriptor { address, length: HEADER_BYTES + length, flags: 0, next: 0 };
            driver.transmit.set_descriptor(index, descriptor);
            driver.transmit.offer_head(index);
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
        let transmit = TransmitQueue::new(memory.clone(), &layout(&driver.transmit), FEATURES, call()).unwrap();
        let receive = ReceiveQueue::new(memory, &layout(&driver.receive), FEATURES, call()).unwrap();
        Self { number, driver, transmit: Some(transmit), receive: Some(receive), sent: 0 }
    }

    fn port(&mut self) -> Port {
        let queue = self.receive.take().expect("the queue, once");
        let egress = Egress::Guest(Box::new([Arc::new(Mutex::new(queue))]), features::taken(FEATURES));
        port(self.number, self.number, egress)
    }

    /// What the worker polls: its transmit queue.
    fn input(&mut self) -> Input {
        let queue = self.transmit.take().expect("the queue, once");
        let mut input = Input::guest(PortId(self.number), 1, Work::new(), Slot::new(queue), true, false);
        assert!(input.take(Instant::now()), "the queue is in its slot");
        input
    }

    /// Offers what came back again, and sends a burst.
    fn turn(&mut self) {
        let receive = &self.driver.receive;
        receive.set_available_index(receive.used_index().wrapping_add(QUEUE_SIZE));
        self.sent = self.sent.wrapping_add(BURST);
        self.driver.transmit.set_available_index(self.sent);
    }
}

fn layout(ring: &Ring) -> RingLayout {
    let (descriptors, available, used) = ring.user_addresses();
    RingLayout { size: ring.size(), descriptors, available, used }
}
