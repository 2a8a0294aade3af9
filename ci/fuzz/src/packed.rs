//! Both queues with packed rings, whose driver rewrites descriptors, tables and event areas between two calls, and whose device ends and is
//! taken up again: nothing panics, lengths agree, positions stay in the ring, and what a driver does well goes as with a split ring.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use culvert_driver::{Interface, PackedDescriptor, Ram, Shape};
use culvert_guest::device::RingSetup;
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::packed::PackedStart;
use culvert_guest::record::Records;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{MAX_QUEUE_SIZE, Memory, NetHeader, Packet, ReceiveQueue, TransmitBurst, TransmitQueue};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::guest::{layout, share};

/// Two rings of 64 entries with their buffers, and a little more.
const MEMORY_BYTES: u64 = 0x2_0000;
/// Of each ring in the file of records (`datapath/guest/src/record.rs`), and what its first word has in bits 32 to 47 when it says something.
const RECORD_WORDS: u64 = 8 + MAX_QUEUE_SIZE as u64;
const MAGIC: u64 = 0x7063;
const IN_RECORD: u16 = 0xff00;

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
    /// A frame is put; from 0x8000 on, room for one is found and used, or left.
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
    /// Any bytes anywhere; from [`IN_RECORD`] on, in a ring's record, as another process could have left it.
    Bytes {
        at: u16,
        bytes: [u8; 4],
    },
    /// As after a crash of ours, with the position that the frontend knows, and perhaps in the middle of a publication: of so many buffers
    /// from a position on.
    Restart {
        told: Option<u16>,
        interrupted: Option<(u16, u16)>,
    },
    /// The guest starts anew.
    Reset,
}

/// What is made once, for that takes longer than most inputs: memory of a guest, and the records of two rings.
struct Kept {
    ram: Rc<Ram>,
    memory: [Arc<Memory>; 2],
    records: Arc<Records>,
    record_file: Rc<Ram>,
}

thread_local! {
    static KEPT: Kept = Kept::new();
    static BURST: Cell<Option<TransmitBurst>> = const { Cell::new(None) };
}

impl Kept {
    fn new() -> Self {
        let ram = Rc::new(Ram::new(MEMORY_BYTES, false));
        let memory = [(); 2].map(|()| share(&ram));
        let file = memfd_create("records", MemfdFlags::CLOEXEC).expect("a file");
        let records = Records::new(Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into()), 2);
        assert!(records.ring(1).is_some() && records.failure().is_none(), "two records in a file");
        Self { ram, memory, records, record_file: Rc::new(Ram::of_file(file, 2 * 8 * RECORD_WORDS)) }
    }

    /// All of it, as if it were new.
    fn renew(&self) -> (Rc<Ram>, [Arc<Memory>; 2], Arc<Records>, Rc<Ram>) {
        let Self { ram, memory, records, record_file } = self;
        let others = memory.iter().map(Arc::strong_count).chain([Arc::strong_count(records)]);
        assert!(
            others.chain([ram, record_file].map(Rc::strong_count)).all(|count| count == 1),
            "it outlives its guest"
        );
        ram.clear();
        // As far as rings of 64 entries go.
        (0..2).for_each(|ring| write_record(record_file, ring, 0, &[0; 8 * (8 + 64)]));
        (ram.clone(), memory.clone(), records.clone(), record_file.clone())
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut device = Device::new(&input);
    for operation in input.operations.iter().take(200) {
        device.step(operation);
    }
    BURST.set(Some(device.burst));
}

struct Device {
    driver: Interface,
    /// Mapped once for each queue: no frame goes back to the guest that it came from, so nothing is copied within one mapping.
    memory: [Arc<Memory>; 2],
    records: Arc<Records>,
    /// The file that the records are in.
    record_file: Rc<Ram>,
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
        let (ram, memory, records, record_file) = KEPT.with(Kept::renew);
        let driver = Interface::in_ram(shape, 1000, ram);
        let bit = |has: bool, bit: u64| if has { bit } else { 0 };
        let features = VERSION_1
            | RING_PACKED
            | bit(input.event_idx, EVENT_IDX)
            | bit(input.indirect, INDIRECT_DESC)
            | bit(input.mergeable, NET_MRG_RXBUF);
        let (burst, transmit, receive) = (BURST.take().unwrap_or_default(), None, None);
        let mut device = Self { driver, memory, records, record_file, features, transmit, receive, burst };
        device.start(None);
        assert!(device.transmit.is_some() && device.receive.is_some(), "a new ring starts");
        device
    }

    fn start(&mut self, told: Option<u16>) {
        (self.transmit, self.receive) = (None, None);
        let setup = |number: u16| {
            let [first, second] = &self.memory;
            let (ring, memory) =
                if number == 0 { (&self.driver.receive, first) } else { (&self.driver.transmit, second) };
            let record = self.records.ring(number).expect("two records");
            RingSetup {
                memory: Arc::clone(memory),
                layout: layout(ring),
                features: self.features,
                kick: None,
                call: Arc::default(),
                enabled: true,
                packed: Some(PackedStart { record, told }),
                log: None,
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
            Operation::Put { length: length @ 0x8000.. } => self.reserve(length),
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
                let address = if far { u64::from(address) << 40 } else { base + 4 * u64::from(address) % MEMORY_BYTES };
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
            Operation::Bytes { at: at @ IN_RECORD.., bytes } => {
                let (place, number) = (at - IN_RECORD, u64::from(u32::from_le_bytes(bytes)));
                // Its state, which ring it is of, or the first entries of the list.
                let word = u64::from(place % 10);
                let number = if place & 0x40 == 0 { MAGIC << 32 | number } else { number << 32 | 60 };
                write_record(
                    &self.record_file,
                    u64::from(place >> 7),
                    if word < 6 { word } else { word + 2 },
                    &number.to_ne_bytes(),
                );
            }
            Operation::Bytes { at, bytes } => {
                self.driver.ram().write(self.driver.ram().guest_address() + u64::from(at), &bytes);
            }
            Operation::Restart { told, interrupted } => {
                if let Some((position, count)) = interrupted {
                    let state = MAGIC << 32 | u64::from(count) << 16 | u64::from(position);
                    (0..2).for_each(|ring| write_record(&self.record_file, ring, 0, &state.to_ne_bytes()));
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

    /// As it is done with what comes from a socket.
    fn reserve(&mut self, chosen: u16) {
        let least = u32::from(chosen % 1500);
        let most = least + if chosen & 0x2000 == 0 { 0 } else { 3000 };
        let found = self.receive.as_mut().map(|queue| queue.find_room(14, least, most));
        let is_found = matches!(found, Some(Ok(())));
        self.judge(found);
        if is_found && let Some(queue) = &mut self.receive {
            let room = queue.reserved().expect("the room that was found");
            if chosen & 0x4000 != 0 {
                room.commit(&NetHeader::default(), &[3; 14], u32::from(chosen % 4999));
            }
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
                if part % 2 == 1 {
                    self.receive.iter_mut().for_each(|queue| queue.look_ahead(part));
                }
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

/// Writes from one of a record's words on, as another process could.
fn write_record(file: &Ram, ring: u64, word: u64, bytes: &[u8]) {
    file.write(file.guest_address() + 8 * (ring * RECORD_WORDS + word), bytes);
}

fn check(packet: &Packet<'_>) {
    assert_eq!(packet.head.len(), HEAD_BYTES.min(packet.length as usize));
    let rest: u64 = packet.rest().map(|piece| u64::from(piece.length())).sum();
    assert_eq!(packet.head.len() as u64 + rest, u64::from(packet.length));
}
