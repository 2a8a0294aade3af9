//! Both queues with packed rings, whose driver rewrites descriptors, tables and event areas between two calls, and whose device ends and is
//! taken up again: nothing panics, lengths agree, positions stay in the ring, and what a driver does well goes as with a split ring.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use culvert_driver::{Interface, PackedDescriptor, Ram, Shape};
use culvert_guest::device::RingSetup;
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::packed::PackedStart;
use culvert_guest::record::Records;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{Memory, NetHeader, Packet, ReceiveQueue, Region, RingLayout, TransmitBurst, TransmitQueue};

#[derive(Arbitrary, Debug)]
struct Input {
    size: u8,
    event_idx: bool,
    mergeable: bool,
    indirect: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A frame by a well-formed chain.
    Send {
        length: u16,
        cuts: [u16; 3],
    },
    /// Takes what came.
    Take,
    /// A burst is received and put, all of it or a part.
    Forward {
        part: u8,
    },
    /// A frame is put.
    Put {
        length: u16,
    },
    Publish,
    Half,
    Arm,
    Abandon,
    /// A descriptor of a ring. With `offer` it is available in this or in the next lap.
    Descriptor {
        receive: bool,
        index: u8,
        address: u16,
        far: bool,
        length: u32,
        id: u16,
        flags: u16,
        offer: Option<bool>,
    },
    /// A driver's event area.
    Event {
        receive: bool,
        place: u16,
        flags: u16,
    },
    /// Any bytes anywhere.
    Bytes {
        at: u16,
        bytes: [u8; 4],
    },
    /// As after a crash of ours, with the position that the frontend knows, and perhaps in the middle of a publication.
    Restart {
        told: Option<u16>,
        interrupted: Option<(u16, u16)>,
    },
    /// The guest starts anew.
    Reset,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut device = Device::new(&input);
    for operation in input.operations.iter().take(200) {
        device.step(operation);
    }
}

struct Device {
    driver: Interface,
    memory: Arc<Memory>,
    records: Arc<Records>,
    features: u64,
    /// None after a fault.
    transmit: Option<TransmitQueue>,
    receive: Option<ReceiveQueue>,
    burst: TransmitBurst,
}

impl Device {
    fn new(input: &Input) -> Self {
        let queue_size = 1 << (input.size % 7);
        let shape = Shape {
            queue_size,
            mergeable: input.mergeable,
            event_idx: input.event_idx,
            receive_bytes: 512,
            packed: true,
            ..Shape::default()
        };
        let ram = Ram::new(0x4_0000, false);
        let driver = Interface::in_ram(shape, 1000, ram);
        let region = Region {
            guest_address: driver.ram().guest_address(),
            size: driver.ram().size(),
            user_address: driver.ram().user_address(),
            mmap_offset: 0,
        };
        let file = driver.ram().file().try_clone_to_owned().expect("a descriptor");
        let memory = Arc::new(Memory::map(vec![(region, file)]).expect("memory"));
        let bit = |has: bool, bit: u64| if has { bit } else { 0 };
        let features = VERSION_1
            | RING_PACKED
            | bit(input.event_idx, EVENT_IDX)
            | bit(input.indirect, INDIRECT_DESC)
            | bit(input.mergeable, NET_MRG_RXBUF);
        let records = Records::new(None, 2);
        let burst = TransmitBurst::default();
        let mut device = Self { driver, memory, records, features, transmit: None, receive: None, burst };
        device.start(None);
        assert!(device.transmit.is_some() && device.receive.is_some(), "a new ring starts");
        device
    }

    fn start(&mut self, told: Option<u16>) {
        (self.transmit, self.receive) = (None, None);
        let setup = |number: u16| {
            let ring = if number == 0 { &self.driver.receive } else { &self.driver.transmit };
            let (descriptors, available, used) = ring.user_addresses();
            let record = self.records.ring(number).expect("two records");
            RingSetup {
                memory: self.memory.clone(),
                layout: RingLayout { size: ring.size(), descriptors, available, used },
                features: self.features,
                kick: None,
                call: Arc::default(),
                enabled: true,
                packed: Some(PackedStart { record, told }),
            }
        };
        self.receive = ReceiveQueue::start(&setup(0)).ok();
        self.transmit = TransmitQueue::start(&setup(1)).ok();
    }

    fn step(&mut self, operation: &Operation) {
        let size = self.driver.transmit.size();
        match *operation {
            Operation::Send { length, cuts } => {
                let length = 1 + u32::from(length % 1000);
                let mut cuts: Vec<_> = cuts.iter().map(|cut| u32::from(*cut) % length).filter(|cut| *cut > 0).collect();
                cuts.sort_unstable();
                cuts.dedup();
                self.driver.send_with(&[0; 12], &vec![7; length as usize], &cuts);
            }
            Operation::Take => {
                let _ = std::iter::from_fn(|| self.driver.receive.take_used()).take(100).count();
                self.driver.refill();
            }
            Operation::Forward { part } => self.forward(usize::from(part)),
            Operation::Put { length } => {
                let bytes = vec![1; usize::from(length % 4000)];
                let head = &bytes[..bytes.len().min(HEAD_BYTES)];
                let put = self.receive.as_mut().map(|queue| {
                    let rest = culvert_guest::Piece::from(&bytes[head.len()..]);
                    queue.put(&NetHeader::default(), head, bytes.len() as u32, std::iter::once(rest))
                });
                self.judge(put);
            }
            Operation::Publish => self.receive.iter_mut().for_each(ReceiveQueue::publish),
            Operation::Half => {
                let half = self.receive.as_mut().map(|queue| queue.has_half().map(drop));
                self.judge(half);
            }
            Operation::Arm => {
                if self.transmit.as_mut().is_some_and(|queue| queue.arm().is_err()) {
                    self.transmit = None;
                }
                if let Some(queue) = &mut self.receive {
                    queue.publish();
                    let _ = queue.arm();
                    queue.disarm();
                }
            }
            Operation::Abandon => drop(self.receive.as_mut().map(ReceiveQueue::abandon)),
            Operation::Descriptor { receive, index, address, far, length, id, flags, offer } => {
                let base = self.driver.ram().guest_address();
                let address = if far { u64::from(address) << 40 } else { base + 4 * u64::from(address) };
                let ring = if receive { &mut self.driver.receive } else { &mut self.driver.transmit };
                let ring = ring.as_packed();
                let index = u16::from(index) % size;
                let place = culvert_driver::Place { index, wrap: offer.unwrap_or_default() };
                let lap = if offer.is_some() { place.available() } else { flags & (1 << 7 | 1 << 15) };
                let direction = if receive { 2 } else { 0 };
                let flags = flags & 7 ^ direction | lap;
                ring.set_descriptor(index, PackedDescriptor { address, length, id, flags });
            }
            Operation::Event { receive, place, flags } => {
                let ring = if receive { &mut self.driver.receive } else { &mut self.driver.transmit };
                ring.as_packed().set_driver_event(place, flags);
            }
            Operation::Bytes { at, bytes } => {
                self.driver.ram().write(self.driver.ram().guest_address() + u64::from(at), &bytes);
            }
            Operation::Restart { told, interrupted } => {
                if let Some((position, count)) = interrupted {
                    for number in 0..2 {
                        self.records.ring(number).expect("two records").interrupt(position, count);
                    }
                }
                self.start(told);
            }
            Operation::Reset => {
                self.driver.transmit.reset();
                self.driver.receive.reset();
                self.driver.refill();
                self.start(None);
            }
        }
        for position in
            [self.transmit.as_ref().map(TransmitQueue::position), self.receive.as_ref().map(ReceiveQueue::position)]
        {
            assert!(position.is_none_or(|position| position & 0x7fff < size), "{position:x?}");
        }
    }

    fn judge(&mut self, result: Option<Result<(), culvert_guest::receive::PutError>>) {
        if let Some(Err(culvert_guest::receive::PutError::Fault(_))) = result {
            self.receive = None;
        }
    }

    fn forward(&mut self, part: usize) {
        let Some(queue) = &mut self.transmit else { return };
        let (mut fault, mut broken) = (false, false);
        match queue.receive(&mut self.burst) {
            Err(_) => broken = true,
            Ok(mut received) => {
                received.truncate(part);
                for packet in (0..received.len()).filter_map(|index| received.packet(index).ok()) {
                    check(&packet);
                    if let Some(queue) = &mut self.receive {
                        let put = queue.put(&packet.header, packet.head, packet.length, packet.rest());
                        fault |= matches!(put, Err(culvert_guest::receive::PutError::Fault(_)));
                    }
                }
            }
        }
        if broken {
            self.transmit = None;
        }
        if fault {
            self.receive = None;
        }
    }
}

fn check(packet: &Packet<'_>) {
    assert_eq!(packet.head.len(), HEAD_BYTES.min(packet.length as usize));
    let rest: u64 = packet.rest().map(|piece| u64::from(piece.length())).sum();
    assert_eq!(packet.head.len() as u64 + rest, u64::from(packet.length));
}
