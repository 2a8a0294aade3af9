//! A whole vhost-user dialogue: messages that are right, nearly right or nonsense, in pieces, with descriptors of all kinds,
//! while workers run the rings that it sets up and the guest writes to its memory, or truncates it.
//!
//! Checked: the session asks for no more than a message can have; each request is answered in one way; no ring is started
//! twice, or enabled while it does not run, or started where no ring can be; at the end all rings can be stopped, and then
//! all memory is given back and all descriptors are closed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::MacAddress;
use culvert_guest::device::{DeviceConfig, RingChange, RingSetup, StoppedRing, Unresponsive};
use culvert_guest::features::LOG_ALL;
use culvert_guest::receive::PutError;
use culvert_guest::{Memory, NetHeader, ReceiveQueue, RingLog, TransmitBurst, TransmitQueue};
use culvert_vhost::session::{Done, Next, Outcome, Session, Unchanged, Work};

use crate::descriptor::{self, Kind};

#[derive(Arbitrary, Debug)]
struct Input {
    /// How far the frontend has come in good order.
    start: u8,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Message(Message),
    /// Bytes that need not be messages.
    Bytes(Vec<u8>),
    /// Time passes.
    Wait {
        milliseconds: u16,
    },
    /// The workers do not acknowledge the next change.
    Stuck,
    /// The guest writes to its memory.
    Write {
        at: u16,
        bytes: [u8; 8],
    },
    /// The workers look at their rings.
    Poll,
    /// The frontend takes its file's bytes away.
    Truncate,
}

#[derive(Arbitrary, Debug)]
struct Message {
    request: u8,
    ring: u8,
    need_reply: bool,
    body: Body,
    /// Beyond those that belong to it.
    descriptors: Vec<Kind>,
    /// Into how large pieces it is cut.
    piece: u8,
}

#[derive(Arbitrary, Debug)]
enum Body {
    Good,
    Words(Vec<Word>),
    Bytes(Vec<u8>),
}

/// Numbers that mean something somewhere.
#[derive(Arbitrary, Debug)]
enum Word {
    Small(u8),
    Halves(u8, u16),
    Guest(u16),
    User(u16),
    MemorySize,
    Any(u64),
}

impl Word {
    fn value(&self) -> u64 {
        match *self {
            Self::Small(value) => value.into(),
            Self::Halves(low, high) => u64::from(low) | u64::from(high) << 32,
            Self::Guest(at) => GUEST + u64::from(at),
            Self::User(at) => USER + u64::from(at),
            Self::MemorySize => MEMORY_BYTES,
            Self::Any(value) => value,
        }
    }
}

/// User and guest address of the frontend's memory, and its size: room for four rings of 64 entries, and buffers.
const USER: u64 = 0x7f00_0000_0000;
const GUEST: u64 = 0x4000_0000;
const MEMORY_BYTES: u64 = 0x1_0000;
const RING_ENTRIES: u32 = 64;

const CONFIG: DeviceConfig = DeviceConfig {
    queue_pairs: 2,
    mtu: 1500,
    mac: Some(MacAddress([2, 0, 0, 0, 0, 10])),
    offloads: true,
    migrates: true,
};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let free = descriptor::lowest_free();
    let mut dialogue = Dialogue::new();
    for &request in GOOD_ORDER.get(..[0, 5, 9, GOOD_ORDER.len()][usize::from(input.start % 4)]).unwrap_or_default() {
        dialogue.send(&good(request, 0), request, Vec::new(), u8::MAX);
    }
    for operation in input.operations.iter().take(60) {
        dialogue.operate(operation);
        if dialogue.closed {
            break;
        }
    }
    dialogue.end();
    assert_eq!(descriptor::lowest_free(), free, "a descriptor stays open");
}

struct Dialogue {
    session: Session,
    workers: Workers,
    memory: OwnedFd,
    now: Instant,
    closed: bool,
}

impl Dialogue {
    fn new() -> Self {
        Self {
            session: Session::new(CONFIG),
            workers: Workers::default(),
            memory: descriptor::memory(MEMORY_BYTES),
            now: Instant::now(),
            closed: false,
        }
    }

    fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Message(message) => self.message(message),
            Operation::Bytes(bytes) => self.bytes(bytes, Vec::new(), usize::MAX),
            Operation::Wait { milliseconds } => {
                self.now += Duration::from_millis(u64::from(*milliseconds));
                let late = self.session.deadline().is_some_and(|deadline| deadline <= self.now);
                let expired = self.session.expire(self.now);
                assert_eq!(expired.is_some(), late);
                self.closed |= late;
            }
            Operation::Stuck => self.workers.stuck = true,
            Operation::Write { at, bytes } => {
                // Beyond the end of a truncated file nothing is written; the file must not grow again.
                if rustix::fs::fstat(&self.memory).is_ok_and(|status| status.st_size > 0) {
                    let at = u64::from(*at).min(MEMORY_BYTES - 8);
                    rustix::io::pwrite(&self.memory, bytes, at).expect("the guest's memory");
                }
            }
            Operation::Poll => self.workers.poll(),
            Operation::Truncate => rustix::fs::ftruncate(&self.memory, 0).expect("a shorter file"),
        }
    }

    fn message(&mut self, message: &Message) {
        let request = REQUESTS[usize::from(message.request) % REQUESTS.len()];
        let body = match &message.body {
            Body::Good => good(request, message.ring % 5),
            Body::Words(words) => words.iter().take(40).flat_map(|word| word.value().to_ne_bytes()).collect(),
            Body::Bytes(bytes) => bytes.clone(),
        };
        let flags = if message.need_reply { NEED_REPLY } else { 0 };
        let open = |kind: &Kind| descriptor::open(*kind, &self.memory);
        let descriptors = message.descriptors.iter().take(10).map(open).collect();
        self.send(&body, request | flags, descriptors, message.piece);
    }

    /// `request` with [`NEED_REPLY`] or without.
    fn send(&mut self, body: &[u8], request: u32, more: Vec<OwnedFd>, piece: u8) {
        let (number, flags) = (request & !NEED_REPLY, if request & NEED_REPLY == 0 { 1 } else { 1 | 8 });
        let header = [number, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
        let mut descriptors: Vec<_> =
            own_descriptors(number).iter().map(|kind| descriptor::open(*kind, &self.memory)).collect();
        if number == 6 {
            descriptors.push(descriptor::log().try_clone().expect("another descriptor"));
        }
        descriptors.extend(more);
        self.bytes(&[header, body.to_vec()].concat(), descriptors, usize::from(piece).max(1));
    }

    fn bytes(&mut self, bytes: &[u8], mut descriptors: Vec<OwnedFd>, piece: usize) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.closed {
            let wanted = self.session.wanted();
            assert!((1..=4096).contains(&wanted), "{wanted}");
            let (now, later) = rest.split_at(wanted.min(rest.len()).min(piece));
            let outcome = self.session.receive(now, std::mem::take(&mut descriptors), self.now);
            rest = later;
            self.follow(outcome);
        }
    }

    fn follow(&mut self, mut outcome: Outcome) {
        let mut replies = 0;
        loop {
            if let Some(reply) = &outcome.reply {
                replies += 1;
                let size = u32::from_ne_bytes(reply[8..12].try_into().expect("a header"));
                assert_eq!(reply.len(), 12 + size as usize);
                assert_eq!(reply[4..8], 5_u32.to_ne_bytes(), "version 1, a reply");
            }
            assert!(replies <= 1);
            let work = match outcome.next {
                Next::Read => return,
                Next::Close(reason) => {
                    assert!(!reason.to_string().contains("internal"), "{reason}");
                    self.closed = true;
                    return;
                }
                Next::Work(work) => work,
            };
            assert_eq!(self.session.wanted(), 0, "a parked session wants nothing");
            let done = match work {
                Work::Map(update) => {
                    let mapped = update.map();
                    Done::Mapped(mapped)
                }
                Work::MapLog(update) => Done::LogMapped(update.map()),
                Work::Announce(mac) => {
                    assert!(!mac.is_group());
                    Done::Announced
                }
                Work::State(_) => Done::State(false),
                Work::Change { changes, retired } => {
                    self.workers.tables.extend(retired.iter().map(Arc::downgrade));
                    Done::Changed(self.workers.change(changes).map_err(|error| Unchanged { error, retired }))
                }
            };
            outcome = self.session.complete(done);
        }
    }

    fn end(mut self) {
        let status = self.session.status();
        assert_eq!(status.rings.len(), usize::from(CONFIG.rings()));
        let stops = self.session.stop_all();
        self.workers.stuck = false;
        self.workers.change(stops).expect("workers that answer");
        assert!(self.workers.running.is_empty(), "a ring runs after its session");
        drop(self.session);
        assert!(self.workers.tables.iter().all(|table| table.upgrade().is_none()), "memory stays mapped");
    }
}

/// Workers that do at once what they are told.
#[derive(Default)]
struct Workers {
    running: BTreeMap<u16, Running>,
    burst: TransmitBurst,
    tables: Vec<Weak<Memory>>,
    stuck: bool,
}

struct Running {
    queue: Queue,
    enabled: bool,
    setup: RingSetup,
}

enum Queue {
    /// The guest broke its ring.
    Broken,
    Receive(ReceiveQueue),
    Transmit(TransmitQueue),
}

impl Workers {
    fn change(&mut self, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        if std::mem::take(&mut self.stuck) {
            return Err(Unresponsive);
        }
        let mut stopped = Vec::new();
        for change in changes {
            match change {
                RingChange::Stop { ring } => {
                    let position = match self.running.remove(&ring).map(|running| running.queue) {
                        Some(Queue::Receive(queue)) => queue.position(),
                        Some(Queue::Transmit(queue)) => queue.position(),
                        Some(Queue::Broken) | None => 0,
                    };
                    stopped.push(StoppedRing { ring, position });
                }
                RingChange::Start { ring, setup } => {
                    self.tables.push(Arc::downgrade(&setup.memory));
                    let running = Running::new(ring, setup);
                    assert!(self.running.insert(ring, running).is_none(), "ring {ring} was started twice");
                }
                RingChange::Log { ring, log } => {
                    let running = self.running.get_mut(&ring).expect("a ring that runs logs or ceases to");
                    running.log(log);
                }
                RingChange::Enable { ring, enabled } => {
                    let running = self.running.get_mut(&ring).expect("a ring that runs is enabled or disabled");
                    running.enabled = enabled;
                }
            }
        }
        Ok(stopped)
    }

    fn poll(&mut self) {
        for running in self.running.values_mut().filter(|running| running.enabled) {
            take_marks(running.setup.log.is_some());
            running.poll(&mut self.burst);
            running.check_marks();
        }
    }
}

impl Running {
    fn log(&mut self, log: Option<RingLog>) {
        self.setup.log = log;
        match &mut self.queue {
            Queue::Broken => {}
            Queue::Receive(queue) => queue.log(self.setup.log.as_ref()),
            Queue::Transmit(queue) => queue.log(self.setup.log.as_ref()),
        }
    }

    /// Nothing but the log's own bytes has changed in the file that it is in. What of the memory is marked is another test's affair: a guest
    /// that has its frames written over its own descriptors may lose marks.
    fn check_marks(&self) {
        let Some(RingLog { log, .. }) = &self.setup.log else { return };
        let (_, bytes, offset) = log.file();
        let inside = offset..offset.saturating_add(bytes);
        let mut marks = vec![0; usize::try_from(descriptor::LOG_BYTES).expect("a few pages")];
        rustix::io::pread(descriptor::log(), &mut marks, 0).expect("the log");
        assert!((0..).zip(marks).all(|(at, byte)| byte == 0 || inside.contains(&at)), "marks outside of the log");
    }

    fn new(ring: u16, setup: RingSetup) -> Self {
        setup.layout.check(&setup.memory, setup.features).expect("a ring is started only where one can be");
        assert_eq!(setup.features & !CONFIG.offered(), 0, "features that were not offered");
        let queue = if ring.is_multiple_of(2) {
            ReceiveQueue::start(&setup).map(Queue::Receive)
        } else {
            TransmitQueue::start(&setup).map(Queue::Transmit)
        };
        Self { queue: queue.unwrap_or(Queue::Broken), enabled: setup.enabled, setup }
    }

    fn poll(&mut self, burst: &mut TransmitBurst) {
        let good = match &mut self.queue {
            Queue::Broken => return,
            Queue::Receive(queue) => {
                let result = queue.put(&NetHeader::default(), &[0xaa; 60], 60, std::iter::empty());
                queue.publish();
                !matches!(result, Err(PutError::Fault(_)))
            }
            Queue::Transmit(queue) => queue.receive(burst).map(drop).is_ok() && queue.arm().is_ok(),
        };
        // What was read of a truncated file is nothing.
        let good = good && !self.setup.memory.faulted();
        if !good {
            self.queue = Queue::Broken;
        }
    }
}

/// Clears the dirty log, as a frontend does that has seen what is marked.
fn take_marks(is_logging: bool) {
    if !is_logging {
        return;
    }
    let zeros = vec![0; usize::try_from(descriptor::LOG_BYTES).expect("a few pages")];
    rustix::io::pwrite(descriptor::log(), &zeros, 0).expect("the log");
}

/// In a request's number: the frontend wants an acknowledgement.
const NEED_REPLY: u32 = 1 << 31;

/// All that are known, and some that are not (vhost-user specification).
const REQUESTS: [u32; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 24, 25, 26, 31, 34, 36, 37, 38, 39, 40,
    45,
];

/// What brings ring 0 to run: owner and features, memory and ring, kick.
const GOOD_ORDER: [u32; 12] = [1, 15, 16, 3, 2, 5, 8, 10, 9, 12, 13, 18];

/// The body of a good request.
fn good(request: u32, ring: u8) -> Vec<u8> {
    let halves = |low: u32, high: u32| [low.to_ne_bytes(), high.to_ne_bytes()].concat();
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let at = USER + u64::from(ring) * 0x1000;
    let ring = u32::from(ring);
    match request {
        // With another number than 0 writes are to be logged.
        2 if ring == 0 => words(&[CONFIG.offered() & !LOG_ALL]),
        2 => words(&[CONFIG.offered()]),
        5 => [halves(1, 0), words(&[GUEST, MEMORY_BYTES, USER, 0])].concat(),
        6 => words(&[descriptor::LOG_BYTES, 0]),
        8 => halves(ring, RING_ENTRIES),
        9 => [halves(ring, 0), words(&[at, at + 0x800, at + 0x400, 0])].concat(),
        10 => halves(ring, 0),
        11 => halves(ring, 0),
        12..=14 => words(&[u64::from(ring)]),
        // MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
        16 => words(&[1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 13 | 1 << 15]),
        18 => halves(ring, 1),
        19 => words(&[u64::from_ne_bytes([2, 0, 0, 0, 0, 10, 0, 0])]),
        20 => words(&[1500]),
        24 => [halves(0, 12), vec![0; 16]].concat(),
        25 => [halves(0, 6), vec![0; 10]].concat(),
        37 => words(&[0, GUEST + MEMORY_BYTES, MEMORY_BYTES, USER + MEMORY_BYTES, 0]),
        38 => words(&[0, GUEST, MEMORY_BYTES, USER, 0]),
        _ => Vec::new(),
    }
}

/// The descriptors that belong to a good request.
fn own_descriptors(request: u32) -> &'static [Kind] {
    match request {
        5 | 37 => &[Kind::Memory],
        7 | 12..=14 => &[Kind::Event],
        _ => &[],
    }
}
