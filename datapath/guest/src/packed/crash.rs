//! What becomes of a packed ring when its process ends between any two of its stores: into the ring, or into the record.
//!
//! Every way that a small ring can stand is gone through, every burst from there, and every store after which one process ends, and the
//! next one as well while it takes the ring up. Each buffer must come back once, in order, with its length.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use super::{AVAIL, Descriptor, FIRST_POSITION, PackedRing, PackedStart, Place, USED};
use crate::chain::Access;
use crate::features::{RING_PACKED, VERSION_1};
use crate::layout::RingLayout;
use crate::memory::{Memory, Region};
use crate::packed::chain::walk;
use crate::record::Record;
use crate::split::{DESC_NEXT, DESC_WRITE};

thread_local! {
    /// How many stores this process has left, if that is not any number, and whether there were more.
    static LEFT: Cell<(Option<u32>, bool)> = const { Cell::new((None, false)) };
}

/// Whether a store happens: no further one does once the process has ended.
pub(crate) fn permits() -> bool {
    LEFT.with(|left| match left.get() {
        (None, _) => true,
        (Some(0), _) => {
            left.set((Some(0), true));
            false
        }
        (Some(count), _) => {
            left.set((Some(count - 1), false));
            true
        }
    })
}

/// Runs a process that ends after so many stores; returns whether it did.
fn ends_after(stores: u32, process: impl FnOnce()) -> bool {
    LEFT.set((Some(stores), false));
    process();
    LEFT.replace((None, false)).1
}

const RAM: u64 = 0x1000;
const CHAINS: [u16; 3] = [1, 2, 3];
const LONGEST_BURST: usize = 4;

/// The driver's side.
#[derive(Clone, Debug)]
struct Driver {
    next: Place,
    next_used: Place,
    /// Names and numbers of descriptors of what is offered.
    offered: VecDeque<(u16, u16)>,
    next_id: u16,
}

/// A ring, its record and its driver.
struct World {
    memory: Arc<Memory>,
    layout: RingLayout,
    record: Record,
    driver: Driver,
}

/// All of that at one moment.
#[derive(Clone)]
struct Snapshot {
    table: Vec<Descriptor>,
    event: u32,
    record: Vec<u64>,
    driver: Driver,
}

impl Driver {
    const fn new() -> Self {
        Self { next: Place::START, next_used: Place::START, offered: VecDeque::new(), next_id: 0 }
    }
}

impl World {
    fn new(size: u16) -> Self {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, RAM).unwrap();
        let region = Region { guest_address: 0, size: RAM, user_address: 0, mmap_offset: 0 };
        let memory = Arc::new(Memory::map(vec![(region, file)]).unwrap());
        let layout = RingLayout { size, descriptors: 0, available: 0x800, used: 0x804 };
        Self { memory, layout, record: Record::own(), driver: Driver::new() }
    }

    fn at(&self, index: u16) -> *mut u64 {
        assert!(index < self.layout.size);
        self.memory.user_pointer(16 * u64::from(index), 16).unwrap().cast()
    }

    fn device_event(&self) -> *mut u32 {
        self.memory.user_pointer(self.layout.used, 4).unwrap().cast()
    }

    /// The driver's view of where it is.
    fn index(&self, place: Place) -> u16 {
        place.index(self.layout.size)
    }

    fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: `at` is sixteen bytes of the memory, aligned.
        unsafe { super::read_descriptor(self.at(index).cast()) }
    }

    fn set_descriptor(&self, index: u16, Descriptor { address, length, id, flags }: Descriptor) {
        let rest = u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48;
        // SAFETY: as above.
        unsafe {
            self.at(index).write_volatile(address);
            self.at(index).add(1).write_volatile(rest);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let table = (0..self.layout.size).map(|index| self.descriptor(index)).collect();
        // SAFETY: `device_event` is four bytes of the memory, aligned.
        let event = unsafe { self.device_event().read_volatile() };
        Snapshot { table, event, record: self.record.words(), driver: self.driver.clone() }
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        for (index, descriptor) in (0..).zip(&snapshot.table) {
            self.set_descriptor(index, *descriptor);
        }
        // SAFETY: as in `snapshot`.
        unsafe { self.device_event().write_volatile(snapshot.event) };
        self.record.restore(&snapshot.record);
        self.driver = snapshot.driver.clone();
    }

    /// How the ring stands, whatever its buffers are named.
    fn stand(&self) -> (u16, Vec<u16>) {
        let flags = (0..self.layout.size).map(|index| self.descriptor(index).flags & (AVAIL | USED));
        (self.driver.next.position(self.layout.size), flags.collect())
    }

    /// The driver offers a chain, if there is room for it.
    fn offer(&mut self, count: u16) -> Option<u16> {
        let Driver { next, offered, next_id, .. } = self.driver.clone();
        let held: u16 = offered.iter().map(|(_, count)| count).sum();
        if held + count > self.layout.size {
            return None;
        }
        for ahead in (0..count).rev() {
            let place = next.ahead(ahead);
            let flags = place.offered(self.layout.size) | DESC_WRITE | if ahead + 1 < count { DESC_NEXT } else { 0 };
            self.set_descriptor(self.index(place), Descriptor { address: 0x900, length: 64, id: next_id, flags });
        }
        self.driver.next = next.ahead(count);
        self.driver.offered.push_back((next_id, count));
        self.driver.next_id = next_id.wrapping_add(1);
        Some(next_id)
    }

    /// The driver takes back what was used: names.
    fn take_used(&mut self) -> Vec<u16> {
        let mut taken = Vec::new();
        while let Some(&(id, count)) = self.driver.offered.front() {
            let place = self.driver.next_used;
            let used = self.descriptor(self.index(place));
            if used.flags & (AVAIL | USED) != place.used(self.layout.size) {
                break;
            }
            assert_eq!((used.id, used.length), (id, written(id)), "what was used at {place:?}");
            self.driver.next_used = place.ahead(count);
            self.driver.offered.pop_front();
            taken.push(id);
        }
        taken
    }

    /// A process takes the ring up; the frontend knows nothing of it but its start.
    fn start(&self) -> PackedRing {
        let start = PackedStart { record: self.record.clone(), told: Some(FIRST_POSITION) };
        let features = VERSION_1 | RING_PACKED;
        PackedRing::new(Arc::clone(&self.memory), &self.layout, features, Arc::default(), start).unwrap()
    }

    /// The guest reboots: its driver makes the ring anew.
    fn reboot(&mut self) {
        let none = Descriptor { address: 0, length: 0, id: 0, flags: 0 };
        (0..self.layout.size).for_each(|index| self.set_descriptor(index, none));
        // SAFETY: as in `snapshot`.
        unsafe { self.device_event().write_volatile(0) };
        self.driver = Driver::new();
    }

    /// The ring goes on as if nothing had happened: what was offered comes back, of that `finished` buffers and those that have come back
    /// without being used once more, and so does a lap behind it.
    fn check_goes_on(&mut self, mut come_back: Vec<u16>, finished: usize, expected: &[u16]) {
        let mut ring = self.start();
        come_back.extend(self.take_used());
        assert!(come_back.len() >= finished, "{come_back:?} of {expected:?}");
        let pending: u16 = self.driver.offered.iter().map(|(_, count)| count).sum();
        assert_eq!(ring.offered(), pending, "{:?}", self.driver);
        serve(&mut ring);
        come_back.extend(self.take_used());
        assert_eq!(come_back, expected);
        for _ in 0..self.layout.size {
            let id = self.offer(1).unwrap();
            serve(&mut ring);
            assert_eq!(self.take_used(), [id]);
        }
    }
}

/// What the device tells that it has written into a buffer.
fn written(id: u16) -> u32 {
    u32::from(id) * 3 + 1
}

/// The device uses what is offered, in one burst.
fn serve(ring: &mut PackedRing) {
    while let Some(first) = ring.look(ring.next(), ring.held()).unwrap() {
        let walked = walk(ring, ring.next(), ring.held(), first, Access::Write, &mut 0, |_| {}).unwrap();
        ring.take(walked.id, walked.entries, written(walked.id));
    }
    ring.publish();
}

/// All ways that a ring can stand when all of it was used, by chains of these lengths.
fn stands(size: u16) -> Vec<Snapshot> {
    let mut world = World::new(size);
    drop(world.start());
    let mut seen = HashSet::from([world.stand()]);
    let mut stands = vec![world.snapshot()];
    let mut next = 0;
    while let Some(stand) = stands.get(next).cloned() {
        next += 1;
        for count in CHAINS {
            world.restore(&stand);
            if world.offer(count).is_some() {
                serve(&mut world.start());
                world.take_used();
                if seen.insert(world.stand()) {
                    stands.push(world.snapshot());
                }
            }
        }
    }
    stands
}

/// All bursts of up to so many chains, of so many descriptors at most.
fn bursts(longest: usize, size: u16) -> Vec<Vec<u16>> {
    let mut bursts = vec![Vec::new()];
    let mut next = 0;
    while let Some(burst) = bursts.get(next).cloned() {
        next += 1;
        for count in CHAINS {
            if burst.len() < longest && burst.iter().sum::<u16>() + count <= size {
                bursts.push([&burst[..], &[count]].concat());
            }
        }
    }
    bursts
}

/// One burst from one stand.
struct Trial<'t> {
    world: &'t mut World,
    stand: &'t Snapshot,
    burst: &'t [u16],
    /// How often a process ended.
    ends: u32,
}

impl Trial<'_> {
    /// Lets a process end after each of its stores; with `twice` the next one as well, and in between the guest reboot.
    fn run(&mut self, twice: bool) {
        self.world.restore(self.stand);
        let expected: Vec<_> = self.burst.iter().map(|&count| self.world.offer(count).unwrap()).collect();
        let offer = self.world.snapshot();
        for stores in 0.. {
            self.world.restore(&offer);
            let mut ring = self.world.start();
            let ended = ends_after(stores, || serve(&mut ring));
            drop(ring);
            let crashed = self.world.snapshot();
            // Once its entries are listed, and that they are to be published, all of a burst comes back without being taken again.
            let listed = self.burst.len();
            let finished = if stores as usize > listed { listed } else { 0 };
            for is_busy in [false, true] {
                self.go_on(&crashed, finished, &expected, is_busy, twice);
            }
            if twice {
                self.check_reboot(&crashed);
            }
            if !ended {
                return;
            }
        }
    }

    fn go_on(&mut self, crashed: &Snapshot, finished: usize, expected: &[u16], is_busy: bool, twice: bool) {
        for stores in 0.. {
            self.ends += 1;
            let world = &mut *self.world;
            world.restore(crashed);
            let (mut come_back, mut expected) = (Vec::new(), expected.to_vec());
            if is_busy {
                // The driver goes on meanwhile, as far as it can.
                come_back.extend(world.take_used());
                expected.extend(std::iter::from_fn(|| world.offer(1)));
            }
            let ended = twice && ends_after(stores, || drop(world.start()));
            world.check_goes_on(come_back, finished, &expected);
            if !ended {
                return;
            }
        }
    }

    fn check_reboot(&mut self, crashed: &Snapshot) {
        for chains in [&[][..], &[1], &[2], &[1; 8]] {
            self.world.restore(crashed);
            self.world.reboot();
            let expected: Vec<_> = chains.iter().filter_map(|&count| self.world.offer(count)).collect();
            self.world.check_goes_on(Vec::new(), 0, &expected);
        }
    }
}

/// Goes through all for a size; every so many stands let two processes end. Returns how often one ended.
fn go_through(size: u16, twice: usize) -> u32 {
    let (stands, bursts) = (stands(size), bursts(LONGEST_BURST, size));
    let (mut world, mut ends) = (World::new(size), 0);
    for (number, stand) in stands.iter().enumerate() {
        for burst in &bursts {
            let mut trial = Trial { world: &mut world, stand, burst, ends: 0 };
            trial.run(number % twice == 0);
            ends += trial.ends;
        }
    }
    println!("size {size}: {} stands, {} bursts, {ends} ends", stands.len(), bursts.len());
    ends
}

#[test]
fn each_buffer_of_a_small_ring_comes_back_once_wherever_two_processes_end() {
    // So that it is known that they are gone through.
    assert!(go_through(1, 1) > 20);
    assert!(go_through(2, 1) > 800);
    assert!(go_through(4, 1) > 50_000);
}

/// Two processes end in some stands only: all of them would take a minute.
#[test]
fn each_buffer_comes_back_once_wherever_a_process_ends() {
    assert!(go_through(8, 64) > 1_000_000);
}
