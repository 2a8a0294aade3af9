//! A receive queue whose driver rewrites ring, tables and buffers between two calls. Whatever it does, we write to nothing
//! but the used ring and buffers that are offered for writing, and complete no more chains than were offered.

use std::cell::Cell;
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::MAX_FRAME_BYTES;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{NetHeader, Piece, ReceiveQueue, descriptor};
use rustix::net::RecvFlags;

use crate::guest::{Guest, Length, MEMORY_BYTES, Setup, Write};

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Write(Write),
    /// A frame of that length, in pieces of that length.
    Put {
        length: Length,
        pieces: u16,
    },
    /// As many frames as a burst has.
    Fill {
        length: u8,
    },
    Publish,
    Restart,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut device = Device::new(input.setup);
    for operation in input.operations.iter().take(100) {
        match operation {
            Operation::Write(write) => device.write(write),
            Operation::Put { length, pieces } => {
                let length = length.bytes().min(MAX_FRAME_BYTES) as usize;
                // The upper half: the kernel puts the payload.
                if *pieces < 0x8000 { device.put(length, usize::from(*pieces)) } else { device.put_by_kernel(length) }
            }
            Operation::Fill { length } => (0..32).for_each(|_| device.put(usize::from(*length), 100)),
            Operation::Publish => device.publish(),
            Operation::Restart => device.start(),
        }
    }
    device.publish();
    device.before.check(&device.guest);
}

struct Device {
    setup: Setup,
    guest: Guest,
    queue: Option<ReceiveQueue>,
    /// How many entries behind the queue's position were offered, at most.
    offered: u16,
    before: Before,
}

impl Device {
    fn new(setup: Setup) -> Self {
        let mut device =
            Self { setup, guest: Guest::new(setup, true), queue: None, offered: 0, before: Before::default() };
        device.start();
        assert!(device.queue.is_some(), "an empty ring starts");
        device
    }

    fn write(&mut self, write: &Write) {
        self.before.end(&self.guest);
        self.guest.write(write);
    }

    fn start(&mut self) {
        self.before.end(&self.guest);
        let (memory, features) = (self.guest.memory.clone(), self.setup.features());
        let ahead = self.guest.ring.available_index().wrapping_sub(self.guest.ring.used_index());
        self.queue = ReceiveQueue::new(memory, &self.guest.layout, features, Default::default()).ok();
        assert_eq!(self.queue.is_some(), ahead <= self.guest.ring.size());
        self.offered = ahead;
    }

    /// Takes note of what the driver offers.
    fn look(&mut self) {
        let position = self.queue.as_ref().map_or(0, ReceiveQueue::position);
        let ahead = self.guest.ring.available_index().wrapping_sub(position);
        if ahead <= self.guest.ring.size() {
            self.offered = self.offered.max(ahead);
        }
    }

    fn put(&mut self, length: usize, pieces: usize) {
        self.look();
        let Some(queue) = &mut self.queue else { return };
        let (head, rest) = FRAME[..length].split_at(length.min(HEAD_BYTES));
        self.before.note(&self.guest);
        let result = queue.put(&NetHeader::default(), head, length as u32, rest.chunks(pieces.max(1)).map(Piece::from));
        // Where there was no buffer, nothing is written: that shows later as well.
        if !matches!(result, Err(PutError::NoBuffer)) {
            self.before.check(&self.guest);
        }
        if let Err(PutError::Fault(_)) = result {
            // As the switch does: what came before is published, then the queue is stopped.
            self.publish();
            self.queue = None;
        }
    }

    /// As [`Self::put`], with the payload received from a socket, which may have less than there is room for.
    fn put_by_kernel(&mut self, length: usize) {
        self.look();
        let Some(queue) = &mut self.queue else { return };
        let (head, rest) = FRAME[..length].split_at(length.min(HEAD_BYTES));
        let (sender, receiver) = SOCKETS.take().unwrap_or_else(sockets);
        self.before.note(&self.guest);
        let found = queue.find_room(head.len() as u32, rest.len() as u32, rest.len() as u32);
        if let Some(mut reserved) = queue.reserved() {
            assert_eq!(reserved.rooms().bytes() as usize, rest.len());
            let there = (&sender).write(&rest[..rest.len() - rest.len() / 3]).unwrap_or(0);
            if there > 0 {
                let count = descriptor::receive(receiver.as_fd(), reserved.rooms(), RecvFlags::DONTWAIT);
                assert_eq!(count.expect("bytes"), there);
            }
            reserved.commit(&NetHeader::default(), head, there as u32);
        }
        SOCKETS.set(Some((sender, receiver)));
        self.before.check(&self.guest);
        if let Err(PutError::Fault(_)) = found {
            self.publish();
            self.queue = None;
        }
    }

    fn publish(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        let position = queue.position();
        self.before.note(&self.guest);
        queue.publish();
        let completed = queue.position().wrapping_sub(position);
        assert!(completed <= self.offered, "{completed} chains completed of {} offered", self.offered);
        self.before.check(&self.guest);
        // What the queue has seen counts, even if the driver's index goes back.
        self.offered -= completed;
        self.look();
    }
}

/// A pair that blocks neither side.
fn sockets() -> (UnixStream, UnixStream) {
    let (sender, receiver) = UnixStream::pair().expect("a pair of sockets");
    sender.set_nonblocking(true).expect("a socket that does not block");
    (sender, receiver)
}

/// The memory as it was.
#[derive(Default)]
struct Before {
    bytes: Vec<u8>,
    /// Whether the driver has written nothing since.
    is_same: bool,
    /// Whether something was done to it that has not been checked.
    is_due: bool,
}

impl Before {
    /// Before something is done to it that [`Self::check`] checks.
    fn note(&mut self, guest: &Guest) {
        if !self.is_same {
            self.bytes.resize(MEMORY_BYTES as usize, 0);
            guest.ram.read(guest.ram.guest_address(), &mut self.bytes);
            self.is_same = true;
        }
        self.is_due = true;
    }

    /// Before the driver writes to it.
    fn end(&mut self, guest: &Guest) {
        self.check(guest);
        self.is_same = false;
    }

    /// Checks that only such bytes have changed as the driver offered for writing. After it they are as they are now.
    fn check(&mut self, guest: &Guest) {
        if !std::mem::take(&mut self.is_due) {
            return;
        }
        let Some(mut at) = self.change(guest, 0) else { return };
        let writable = writable(guest, &self.bytes);
        loop {
            let end = writable.iter().filter(|range| range.contains(&at)).map(|range| range.end).max();
            let end = end.unwrap_or_else(|| panic!("wrote to {at:#x}"));
            guest.ram.read(guest.ram.guest_address() + at as u64, &mut self.bytes[at..end]);
            match self.change(guest, end) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// The first byte from that one on that has changed.
    fn change(&self, guest: &Guest, from: usize) -> Option<usize> {
        let address = guest.ram.guest_address() + from as u64;
        Some(from + guest.ram.difference(address, &self.bytes[from..])?)
    }
}

/// What a device may write to.
fn writable(guest: &Guest, before: &[u8]) -> Vec<Range<usize>> {
    let base = guest.ram.guest_address();
    let entries = u64::from(guest.ring.size());
    let used = guest.ring.guest_addresses().2 - base;
    let mut writable = Vec::new();
    writable.push(used as usize..(used + 6 + 8 * entries) as usize);
    let table = guest.ring.guest_addresses().0 - base;
    for index in 0..entries {
        let (range, flags) = descriptor(before, base, (table + 16 * index) as usize);
        if flags & INDIRECT == 0 {
            writable.extend((flags & WRITE != 0).then_some(range));
            continue;
        }
        // A longer table is a fault.
        for entry in range.step_by(16).take(usize::from(guest.ring.size())) {
            let (range, flags) = descriptor(before, base, entry);
            writable.extend((flags & WRITE != 0).then_some(range));
        }
    }
    writable
}

/// The range of memory that the descriptor at `at` describes, empty if it is not in memory, and its flags.
fn descriptor(image: &[u8], base: u64, at: usize) -> (Range<usize>, u16) {
    let Some(bytes) = image.get(at..at + 16) else { return (0..0, 0) };
    let address = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    let flags = u16::from_le_bytes(bytes[12..14].try_into().expect("two bytes"));
    let start = address.wrapping_sub(base);
    let end = start.saturating_add(u64::from(length));
    if end > MEMORY_BYTES { (0..0, flags) } else { (start as usize..end as usize, flags) }
}

thread_local! {
    /// Kept from one input to the next: to make them takes longer than most inputs.
    static SOCKETS: Cell<Option<(UnixStream, UnixStream)>> = const { Cell::new(None) };
}
/// Any frame, with no byte of 0.
static FRAME: [u8; MAX_FRAME_BYTES as usize] = {
    let mut frame = [0; MAX_FRAME_BYTES as usize];
    let mut at = 0;
    while at < frame.len() {
        frame[at] = (at % 255) as u8 + 1;
        at += 1;
    }
    frame
};
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
