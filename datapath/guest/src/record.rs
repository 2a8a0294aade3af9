//! Where the packed rings of one port stand, so that the next process can go on there.
//!
//! A packed ring does not tell how far its device is, as `used.idx` of a split ring does. So each ring has a record: its position, and
//! what is being published just now. It lies in a file in memory that outlives the process, or, where nothing is to outlive it, in
//! memory of our own. A record is written by whoever owns the ring, before and after each publication; control reads it when no worker
//! has the ring.
//!
//! What was left by an earlier process is checked like anything else: it can name a wrong place in the ring, and nothing more.

#![expect(unsafe_code, reason = "memory that may be a file's, shared by its rings")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::layout::{MAX_QUEUE_SIZE, RingLayout};

/// The records of one port's rings. There is no file before a ring needs one: most are split.
#[derive(Debug)]
pub struct Records {
    path: Option<PathBuf>,
    rings: u16,
    words: OnceLock<Arc<Words>>,
    failure: OnceLock<io::Error>,
}

/// Words of our own or of a file.
#[derive(Debug)]
struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
    is_file: bool,
}

/// The record of one ring.
#[derive(Clone, Debug)]
pub struct Record {
    words: Arc<Words>,
    /// The first of its [`RECORD_WORDS`].
    first: NonNull<AtomicU64>,
}

/// What a record says of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// All before this was published: an index, and the wrap counter in bit 15.
    pub(crate) position: u16,
    /// How many buffers were being published from there on; they are in the list of [`Record::entry`].
    pub(crate) publishing: u16,
}

impl Records {
    /// Records for so many rings: in the file at `path`, which is made where it is missing and keeps what it has; without a path, or where
    /// there can be no file, in memory of our own.
    pub fn new(path: Option<PathBuf>, rings: u16) -> Arc<Self> {
        Arc::new(Self { path, rings, words: OnceLock::new(), failure: OnceLock::new() })
    }

    /// The record of a ring; `None` where there are fewer. The first time, this opens the file.
    pub fn ring(&self, number: u16) -> Option<Record> {
        if number >= self.rings {
            return None;
        }
        let words = self.words.get_or_init(|| Arc::new(self.open()));
        // SAFETY: there are RECORD_WORDS for each of the rings.
        let first = unsafe { words.start.add(usize::from(number) * RECORD_WORDS) };
        Some(Record { words: Arc::clone(words), first })
    }

    /// Why there is no file, if there should be one.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.get()
    }

    fn open(&self) -> Words {
        let count = usize::from(self.rings) * RECORD_WORDS;
        let file = self.path.as_ref().map(|path| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            Words::of_file(&file, count)
        });
        match file {
            Some(Ok(words)) => words,
            Some(Err(error)) => {
                let _ = self.failure.set(error);
                Words::own(count)
            }
            None => Words::own(count),
        }
    }
}

impl Words {
    fn own(count: usize) -> Self {
        let words: Box<[AtomicU64]> = std::iter::repeat_with(|| AtomicU64::new(0)).take(count).collect();
        Self { start: NonNull::from(Box::leak(words)).cast(), count, is_file: false }
    }

    fn of_file(file: &File, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<AtomicU64>();
        let length = u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Set aside now: a page that is missing later would end the process.
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at a place that the kernel chooses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, count, is_file: true })
    }
}

// SAFETY: the memory belongs to this value, and is used as atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Drop for Words {
    fn drop(&mut self) {
        let Self { start, count, is_file } = *self;
        if is_file {
            // SAFETY: mapped in `of_file` with that length, unmapped once.
            let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), count * size_of::<AtomicU64>()) };
        } else {
            // SAFETY: leaked in `own` as a box of so many, freed once.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.as_ptr(), count)) });
        }
    }
}

// SAFETY: it holds the words that it points into, which are used as atomics only.
unsafe impl Send for Record {}
// SAFETY: as above.
unsafe impl Sync for Record {}

impl Record {
    /// A record that ends with the process.
    pub fn own() -> Self {
        let words = Arc::new(Words::own(RECORD_WORDS));
        Self { first: words.start, words }
    }

    /// Forgets the ring: its frontend knows where it stands.
    pub fn clear(&self) {
        self.set(STATE, 0);
    }

    /// Where the ring stands, wherever it lies; an index and in bit 15 the wrap counter. `None`: it says nothing.
    pub fn position(&self) -> Option<u16> {
        self.state(None).map(|state| state.position)
    }

    /// What it says; of any ring, or of that at `layout` only.
    pub(crate) fn state(&self, layout: Option<&RingLayout>) -> Option<State> {
        let [_, magic, publishing, position] = halves(self.get(STATE));
        let is_same = magic == MOVING
            || layout.is_none_or(|layout| {
                identity(layout).into_iter().zip(IDENTITY..).all(|(part, at)| self.get(at) == part)
            });
        ((magic == MAGIC || magic == MOVING) && is_same).then_some(State { position, publishing })
    }

    /// Begins for the ring at `layout`. There is no moment at which it does not say where the ring stands, once it did.
    pub(crate) fn begin(&self, layout: &RingLayout, position: u16) {
        if self.state(Some(layout)).is_none() {
            self.say(MOVING, position, 0);
            for (part, at) in identity(layout).into_iter().zip(IDENTITY..) {
                self.set(at, part);
            }
        }
        self.publishing(position, 0);
    }

    /// Notes that the first `count` of the entries are being published from `position` on; none: all before it was.
    #[inline]
    pub(crate) fn publishing(&self, position: u16, count: u16) {
        self.say(MAGIC, position, count);
    }

    /// Entry `index` of the list of those that are to be published.
    #[inline]
    pub(crate) fn entry(&self, index: u16) -> u64 {
        self.get(LIST + usize::from(index))
    }

    /// The first `count` of them.
    #[inline]
    pub(crate) fn entries(&self, count: u16) -> impl Iterator<Item = u64> {
        let list = self.word(LIST);
        let count = usize::from(count.min(MAX_QUEUE_SIZE));
        // SAFETY: the list has MAX_QUEUE_SIZE words, which are held.
        let list = unsafe { std::slice::from_raw_parts(list, count) };
        list.iter().map(|entry| entry.load(Ordering::Relaxed))
    }

    /// Writes an entry of that list.
    #[inline]
    pub(crate) fn set_entry(&self, index: u16, entry: u64) {
        self.set(LIST + usize::from(index), entry);
    }

    #[inline]
    fn say(&self, magic: u16, position: u16, count: u16) {
        fence(Ordering::Release);
        self.set(STATE, u64::from(magic) << 32 | u64::from(count) << 16 | u64::from(position));
        fence(Ordering::Release);
    }

    #[inline]
    fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, at: usize, value: u64) {
        #[cfg(test)]
        if !crate::packed::crash::permits() {
            return;
        }
        self.word(at).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < RECORD_WORDS && self.words.count >= RECORD_WORDS);
        // SAFETY: inside of the record's words, which are held.
        unsafe { self.first.add(at.min(RECORD_WORDS - 1)).as_ref() }
    }
}

/// Which ring it is of: another guest's lies elsewhere in its frontend's memory, save by chance.
fn identity(layout: &RingLayout) -> [u64; 4] {
    [layout.descriptors, layout.available, layout.used, u64::from(layout.size)]
}

/// From the highest to the lowest.
fn halves(word: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    [[a, b], [c, d], [e, f], [g, h]].map(u16::from_be_bytes)
}

// Words of a record: its state; which ring it is of; behind the first cache line the list.
const STATE: usize = 0;
const IDENTITY: usize = 1;
const LIST: usize = 8;
const RECORD_WORDS: usize = LIST + MAX_QUEUE_SIZE as usize;

/// In each record that says something.
const MAGIC: u16 = 0x7063;
/// In one that is just being moved to another ring, of which it holds already.
const MOVING: u16 = 0x7064;

#[cfg(test)]
impl Record {
    /// All that it holds, its first entries among it.
    pub(crate) fn words(&self) -> Vec<u64> {
        (0..LIST + 8).map(|at| self.get(at)).collect()
    }

    /// Puts back what it held.
    pub(crate) fn restore(&self, words: &[u64]) {
        words.iter().enumerate().for_each(|(at, word)| self.word(at).store(*word, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: RingLayout = RingLayout { size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 };

    #[test]
    fn a_record_outlives_its_mapping() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let open = |rings| Records::new(Some(path.clone()), rings);
        let records = open(4);
        assert!(!path.exists(), "no ring is packed");
        let record = records.ring(3).unwrap();
        assert_eq!(record.state(None), None);
        record.begin(&LAYOUT, 7 | 0x8000);
        record.set_entry(1023, 77);
        record.publishing(8, 2);
        drop((record, records));
        let records = open(4);
        let record = records.ring(3).unwrap();
        assert_eq!(record.state(Some(&LAYOUT)), Some(State { position: 8, publishing: 2 }));
        assert_eq!(record.entry(1023), 77);
        assert_eq!(record.state(Some(&RingLayout { size: 128, ..LAYOUT })), None);
        assert_eq!(records.ring(2).unwrap().state(None), None);
        assert!(records.ring(4).is_none());
        // More queues later.
        assert_eq!(open(8).ring(3).unwrap().position(), Some(8));
        record.clear();
        assert_eq!(record.state(None), None);
        assert!(records.failure().is_none());
    }

    #[test]
    fn without_a_file_rings_run_all_the_same() {
        let records = Records::new(Some("/proc/none/records".into()), 2);
        records.ring(1).unwrap().begin(&LAYOUT, 5);
        assert_eq!(records.ring(1).unwrap().position(), Some(5));
        assert!(records.failure().is_some());
    }
}
