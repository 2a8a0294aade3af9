//! What is written into a guest's memory is marked in its dirty log: its memory is compared before and after, whatever rings, buffers and
//! frames are like.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

mod harness;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_driver::{Interface, Shape};
use culvert_guest::dirty_log::PAGE_BYTES;
use culvert_guest::{Call, DirtyLog, NetHeader, ReceiveQueue, RingLog, Rooms, TransmitBurst, TransmitQueue};
use harness::{features, layout, share};
use rustix::fs::MemfdFlags;

const PAGE: usize = PAGE_BYTES as usize;

/// A guest that is about to move.
struct Moving {
    driver: Interface,
    transmit: TransmitQueue,
    receive: ReceiveQueue,
    marks: OwnedFd,
    log: RingLog,
    burst: TransmitBurst,
    numbers: Numbers,
}

/// Numbers that look random (xorshift), the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

fn new_log(bytes: u64) -> (OwnedFd, Arc<DirtyLog>) {
    let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    let log = DirtyLog::map(file.try_clone().unwrap(), bytes, 0).unwrap();
    (file, Arc::new(log))
}

impl Moving {
    fn new(shape: Shape, seed: u64) -> Self {
        let driver = Interface::new(shape, 9200);
        let memory = share(driver.ram());
        let (features, call) = (features(&shape), || Arc::new(Call::default()));
        let transmit = TransmitQueue::new(memory.clone(), &layout(&driver.transmit), features, call()).unwrap();
        let receive = ReceiveQueue::new(memory.clone(), &layout(&driver.receive), features, call()).unwrap();
        let (marks, log) = new_log(DirtyLog::needed(memory.end()));
        let log = RingLog { log, used: None, call: call() };
        let burst = TransmitBurst::default();
        let mut moving = Self { driver, transmit, receive, marks, log, burst, numbers: Numbers(seed | 1) };
        moving.log_all();
        moving
    }

    fn log_all(&mut self) {
        self.transmit.log(Some(&self.log));
        self.receive.log(Some(&self.log));
    }

    fn memory(&self) -> Vec<u8> {
        let ram = self.driver.ram();
        let mut bytes = vec![0; ram.size() as usize];
        ram.read(ram.guest_address(), &mut bytes);
        bytes
    }

    /// The pages that are marked, as numbers in the guest's memory; none are after that.
    fn take_marks(&self) -> BTreeSet<usize> {
        let first = (self.driver.ram().guest_address() / PAGE_BYTES) as usize;
        let mut bytes = vec![0; self.log.log.bytes() as usize];
        rustix::io::pread(&self.marks, &mut bytes, 0).unwrap();
        rustix::io::pwrite(&self.marks, &vec![0; bytes.len()], 0).unwrap();
        let bits = (0..)
            .zip(&bytes)
            .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit));
        bits.map(|page: usize| page.checked_sub(first).unwrap()).collect()
    }

    /// Does something of the device's: what has changed then is marked, and next to nothing else. Returns how many pages have changed.
    fn step(&mut self, what: &str, step: impl FnOnce(&mut Self)) -> usize {
        self.take_marks();
        let before = self.memory();
        step(self);
        let (after, marked) = (self.memory(), self.take_marks());
        let pages = before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate();
        let changed: BTreeSet<_> = pages.filter(|(_, (before, after))| before != after).map(|(page, _)| page).collect();
        let lost: Vec<_> = changed.difference(&marked).collect();
        assert!(lost.is_empty(), "{what}: pages {lost:?} have changed and are not marked");
        // The rings' own pages.
        let needless = marked.difference(&changed).count();
        assert!(needless <= 8, "{what}: {needless} pages are marked and have not changed");
        changed.len()
    }

    /// The guest sends frames; they come back to it as one burst, by one of the ways into a receive queue.
    fn echo(&mut self) -> usize {
        for _ in 0..=self.numbers.below(9) {
            let longest = [60, 200, 1514, 9000][self.numbers.below(4)];
            let length = 14 + self.numbers.below(longest);
            let frame: Vec<u8> = (0..length).map(|_| self.numbers.below(256) as u8).collect();
            let cuts: &[u32] = match self.numbers.below(3) {
                0 if length > 40 => &[7, 30],
                1 if length > 14 => &[14],
                _ => &[],
            };
            self.driver.send_with(&vec![0; self.header_bytes()], &frame, cuts);
        }
        let way = self.numbers.below(4);
        let changed = self.step("a burst", |moving| moving.pass(way));
        while self.driver.receive().is_some() {}
        changed
    }

    fn header_bytes(&self) -> usize {
        // What `features` makes of all shapes here.
        12
    }

    fn pass(&mut self, way: usize) {
        let Self { transmit, receive, burst, numbers, .. } = self;
        let received = transmit.receive(burst).unwrap();
        let all = (1_u32 << received.len()) - 1;
        let mut put = 0;
        if way < 2 {
            receive.look_ahead(received.len());
            (put, _) = receive.put_straight(&received, received.straight(all), 9200);
        }
        for index in (0..received.len()).filter(|index| put >> index & 1 == 0) {
            let packet = received.packet(index).unwrap();
            if way == 3 {
                reserve(receive, &packet.header, packet.head, packet.length - packet.head.len() as u32, numbers);
            } else {
                let _ = receive.put(&packet.header, packet.head, packet.length, packet.rest());
            }
            if numbers.below(4) == 0 {
                receive.publish();
            }
        }
        drop(received);
        receive.publish();
    }
}

/// Puts a frame whose payload the kernel writes: it is read from a pipe. Sometimes the room is left unused.
fn reserve(receive: &mut ReceiveQueue, header: &NetHeader, head: &[u8], payload_bytes: u32, numbers: &mut Numbers) {
    if receive.find_room(head.len() as u32, payload_bytes, payload_bytes).is_err() {
        return;
    }
    let Some(mut reserved) = receive.reserved() else { return };
    if numbers.below(5) == 0 {
        return;
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let payload: Vec<u8> = (0..payload_bytes).map(|_| numbers.below(256) as u8).collect();
    std::io::Write::write_all(&mut &theirs, &payload).unwrap();
    drop(theirs);
    let rooms: Rooms<'_> = reserved.rooms();
    let got =
        culvert_guest::descriptor::receive(std::os::fd::AsFd::as_fd(&ours), rooms, rustix::net::RecvFlags::empty());
    assert_eq!(got.unwrap(), payload.len());
    assert_eq!((&mut &ours).read(&mut [0]).unwrap(), 0);
    reserved.commit(header, head, payload_bytes);
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for packed in [false, true] {
        for event_idx in [false, true] {
            for indirect in [false, true] {
                let shape = Shape { queue_size: 32, packed, event_idx, indirect, ..Shape::default() };
                shapes.extend([
                    shape,
                    Shape { receive_bytes: 200, ..shape },
                    Shape { receive_bytes: 5000, receive_piece_bytes: 1111, ..shape },
                    Shape { mergeable: false, receive_bytes: 9216, ..shape },
                    Shape {
                        mergeable: false,
                        receive_bytes: 9216,
                        receive_piece_bytes: 4096,
                        split_header: true,
                        ..shape
                    },
                ]);
            }
        }
    }
    shapes
}

#[test]
fn each_page_that_changes_is_marked() {
    for (seed, shape) in (0x51ed..).zip(shapes()) {
        let mut moving = Moving::new(shape, seed);
        let mut changed = 0;
        for _ in 0..25 {
            changed += moving.echo();
            if moving.numbers.below(6) == 0 {
                moving.step("asking for kicks", |moving| {
                    moving.transmit.arm().unwrap();
                    moving.receive.arm().unwrap();
                });
                moving.step("asking for none", |moving| {
                    moving.transmit.disarm();
                    moving.receive.disarm();
                });
            }
        }
        assert!(changed > 50, "{shape:?}: {changed} pages");
    }
}

/// A process that takes a ring up while its guest moves does not know what the one before it has written last.
#[test]
fn a_ring_that_begins_to_log_marks_all_of_its_own_places() {
    for packed in [false, true] {
        let mut moving = Moving::new(Shape { packed, queue_size: 256, ..Shape::default() }, 1);
        for _ in 0..20 {
            moving.echo();
        }
        moving.take_marks();
        moving.log_all();
        let marked = moving.take_marks();
        let ram = moving.driver.ram();
        for ring in [&moving.driver.receive, &moving.driver.transmit] {
            let (descriptors, _, used) = ring.user_addresses();
            let (start, bytes) = if packed { (descriptors, 16 * 256) } else { (used, 6 + 8 * 256) };
            for at in [start, start + bytes - 1, used] {
                assert!(marked.contains(&((at - ram.user_address()) as usize / PAGE)), "packed: {packed}");
            }
        }
    }
}

#[test]
fn marks_go_where_they_are_to_go_from_the_moment_on() {
    for packed in [false, true] {
        let mut moving = Moving::new(Shape { packed, queue_size: 32, ..Shape::default() }, 7);
        for round in 0..30 {
            // Another log, or none, between two bursts.
            if round % 3 == 2 {
                moving.take_marks();
                moving.transmit.log(None);
                moving.receive.log(None);
                moving.driver.send(&[round; 100]);
                moving.pass(0);
                assert!(moving.driver.receive().is_some());
                assert!(moving.take_marks().is_empty(), "nothing is to be logged");
            }
            let (marks, log) = new_log(moving.log.log.bytes());
            let old = std::mem::replace(&mut moving.marks, marks);
            moving.log.log = log;
            moving.log_all();
            moving.echo();
            rustix::io::pwrite(&old, &vec![0; moving.log.log.bytes() as usize], 0).unwrap();
            moving.echo();
            let mut bytes = vec![0; moving.log.log.bytes() as usize];
            rustix::io::pread(&old, &mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "the old log is in use no more");
        }
    }
}

/// Writes to the used ring are marked where the frontend says beside where they are (`log_guest_addr`).
#[test]
fn the_used_ring_is_marked_where_the_frontend_says() {
    for packed in [false, true] {
        let mut moving = Moving::new(Shape { packed, queue_size: 32, ..Shape::default() }, 3);
        let ram = moving.driver.ram();
        let far = ram.guest_address() + ram.size() - 2 * PAGE_BYTES;
        let page = (ram.size() / PAGE_BYTES - 2) as usize;
        moving.log.used = Some(far);
        moving.log_all();
        assert!(moving.take_marks().contains(&page));
        moving.transmit.arm().unwrap();
        assert!(moving.take_marks().contains(&page));
        moving.log.used = None;
        moving.log_all();
        assert!(!moving.take_marks().contains(&page));
    }
}

/// hostile V14: a log that is too small, or taken away under use, costs marks and nothing else; that it was taken away is known.
#[test]
fn a_bad_log_costs_marks_and_nothing_else() {
    for packed in [false, true] {
        let mut moving = Moving::new(Shape { packed, queue_size: 32, ..Shape::default() }, 5);
        let (marks, log) = new_log(1);
        (moving.marks, moving.log.log) = (marks, log);
        moving.log_all();
        for (round, length) in (0..20_u8).zip([0_u64, 0x1000].into_iter().cycle()) {
            moving.driver.send(&[round; 100]);
            moving.pass(usize::from(round % 3));
            assert_eq!(moving.driver.receive().unwrap().1, [round; 100]);
            if round > 10 {
                rustix::fs::ftruncate(&moving.marks, length).unwrap();
            }
        }
        assert!(!moving.log.log.faulted(), "nothing of the guest's memory has a bit there");
        let (marks, log) = new_log(0x10_0000);
        rustix::fs::ftruncate(&marks, 0).unwrap();
        moving.log.log = log;
        moving.log_all();
        moving.driver.send(&[1; 100]);
        moving.pass(0);
        assert!(moving.driver.receive().is_some());
        assert!(moving.log.log.faulted());
    }
}

/// SET_LOG_FD's event is signalled when there are new marks.
#[test]
fn the_frontend_is_told_of_marks_if_it_wants_to_know() {
    let mut moving = Moving::new(Shape { queue_size: 32, ..Shape::default() }, 5);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    moving.log.call = Arc::new(Call::new(Some(event.try_clone().unwrap())));
    moving.log_all();
    moving.driver.send(&[1; 100]);
    moving.pass(0);
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert!(u64::from_ne_bytes(count) > 0);
}
