//! A transmit queue whose driver rewrites ring, tables and buffers between two calls, compared with `virtio-queue`: see
//! [`culvert_driver::Reference`] for what is malformed, and `datapath/guest/tests/differential.rs` for the same with
//! drivers that mostly behave.

use std::cell::Cell;

use arbitrary::{Arbitrary, Unstructured};
use culvert_driver::{Next, Reference};
use culvert_frame::{DropReason, MAX_FRAME_BYTES};
use culvert_guest::transmit::{BURST, BURST_DESCRIPTORS, HEAD_BYTES};
use culvert_guest::{NetHeader, Packet, TransmitBurst, TransmitQueue};

use crate::guest::{self, Guest, Setup, TABLES, Write};

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Write(Write),
    Receive,
    Arm,
    Disarm,
    /// As after a crash of ours: a new queue on the old ring.
    Restart,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut device = Device::new(input.setup);
    for operation in input.operations.iter().take(100) {
        match operation {
            Operation::Write(write) => device.guest.write(write),
            Operation::Receive => device.receive(),
            Operation::Arm => device.arm(),
            Operation::Disarm => device.queue.iter().for_each(TransmitQueue::disarm),
            Operation::Restart => device.start(),
        }
    }
    device.receive();
    device.put_back();
}

/// Looks at what a guest's ring holds as it is, once, and at what came of it once more.
pub(crate) fn look(guest: Guest, setup: Setup) {
    let mut device = Device::on(guest, setup);
    device.receive();
    device.receive();
    device.put_back();
}

struct Device {
    setup: Setup,
    guest: Guest,
    /// None after a fault.
    queue: Option<TransmitQueue>,
    burst: TransmitBurst,
    reference: Reference,
    /// The available index when the queue last looked.
    seen: u16,
}

impl Device {
    fn new(setup: Setup) -> Self {
        let device = Self::on(Guest::new(setup, false), setup);
        assert!(device.queue.is_some(), "an empty ring starts");
        device
    }

    fn on(guest: Guest, setup: Setup) -> Self {
        let reference = guest::reference(&guest, setup);
        let burst = BURST_KEPT.take().unwrap_or_default();
        let mut device = Self { setup, guest, queue: None, burst, reference, seen: 0 };
        device.start();
        device
    }

    /// Keeps for the next input what takes longer to make than most inputs.
    fn put_back(self) {
        guest::put_back(self.reference);
        BURST_KEPT.set(Some(self.burst));
    }

    fn start(&mut self) {
        self.queue = None;
        self.reference.restart(&self.guest.ring, self.setup.event_idx, self.setup.indirect);
        // The ring alone: only what it finds of the available index is looked at.
        self.reference.load_first(&self.guest.ram, TABLES as usize);
        let bad = matches!(self.reference.look(0, false), Next::Malformed(why) if why.contains("available index"));
        let (memory, features) = (self.guest.memory.clone(), self.setup.features());
        match TransmitQueue::new(memory, &self.guest.layout, features, Default::default()) {
            Ok(queue) => {
                assert!(!bad);
                assert_eq!(queue.position(), self.guest.ring.used_index());
                self.queue = Some(queue);
                self.look();
            }
            Err(error) => assert!(bad, "{error}"),
        }
    }

    /// Notes the available index; whether it went back since the last time.
    fn look(&mut self) -> bool {
        let index = self.guest.ring.available_index();
        let position = self.queue.as_ref().map_or(0, TransmitQueue::position);
        let back = index.wrapping_sub(position) < self.seen.wrapping_sub(position);
        self.seen = index;
        back
    }

    fn arm(&mut self) {
        let went_back = self.look();
        let Some(queue) = &mut self.queue else { return };
        let ahead = self.guest.ring.available_index().wrapping_sub(queue.position());
        match queue.arm() {
            Ok(idle) => {
                assert!(!went_back && ahead <= self.guest.ring.size());
                assert_eq!(idle, ahead == 0);
            }
            Err(_) => {
                assert!(went_back || ahead > self.guest.ring.size());
                self.queue = None;
            }
        }
    }

    fn receive(&mut self) {
        let went_back = self.look();
        let Some(queue) = &mut self.queue else { return };
        // The driver may have written to the used index, which is ours.
        let position = queue.position();
        self.reference.load(&self.guest.ram);
        let (mut expected, mut descriptors) = (Vec::new(), 0);
        let malformed = loop {
            if expected.len() == BURST {
                break went_back;
            }
            match self.reference.look(expected.len() as u16, false) {
                Next::Nothing => break went_back,
                Next::Malformed(_) => break true,
                Next::Chain { head, buffers, walked } => {
                    descriptors += walked;
                    expected.push((head, self.reference.read(&buffers)));
                }
            }
        };
        let mut count = 0;
        let fault = match queue.receive(&mut self.burst) {
            Err(fault) => Some(fault),
            Ok(received) => {
                count = received.len() as u16;
                // With very long chains, descriptors of length 0 counted, a burst is shorter.
                assert!(descriptors >= BURST_DESCRIPTORS || (received.len() == expected.len() && !malformed));
                for (index, (head, bytes)) in expected.iter().take(received.len()).enumerate() {
                    let packet = received.packet(index);
                    assert_eq!(packet.map(|packet| whole(&packet)), frame(bytes, self.setup.header_bytes()));
                    if let Ok(packet) = packet {
                        assert_eq!(Some(packet.header), NetHeader::parse(bytes));
                    }
                    self.reference.complete(*head, 0);
                }
                None
            }
        };
        assert_eq!(queue.position(), position.wrapping_add(count));
        assert_eq!(self.reference.difference(&self.guest.ram), None);
        if let Some(fault) = fault {
            assert!(malformed, "{fault}");
            self.queue = None;
        }
    }
}

/// What must be made of one chain's bytes.
fn frame(bytes: &[u8], header_bytes: usize) -> Result<Vec<u8>, DropReason> {
    let frame = bytes.get(header_bytes..).ok_or(DropReason::ShortHeader)?;
    if frame.len() > MAX_FRAME_BYTES as usize { Err(DropReason::Oversized) } else { Ok(frame.to_vec()) }
}

fn whole(packet: &Packet<'_>) -> Vec<u8> {
    assert_eq!(packet.head.len(), HEAD_BYTES.min(packet.length as usize));
    let mut bytes = packet.head.to_vec();
    for piece in packet.rest() {
        let start = bytes.len();
        bytes.resize(start + piece.length() as usize, 0);
        assert_eq!(piece.copy_to(0, &mut bytes[start..]), bytes.len() - start);
    }
    assert_eq!(bytes.len(), packet.length as usize);
    bytes
}

thread_local! {
    static BURST_KEPT: Cell<Option<TransmitBurst>> = const { Cell::new(None) };
}
