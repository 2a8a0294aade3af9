//! Where the packed rings of one port stand, so that the next process can go on there.
//!
//! A packed ring does not tell how far its device is, as `used.idx` of a split ring does. So each ring has a record: its position, and
//! what is being published just now. It lies in a file in memory that outlives the process, or, where nothing is to outlive it, in
//! memory of our own. A record is written by whoever owns the ring, before and after each publication; control reads it when no worker
//! has the ring.
//!
//! What was left by an earlier process is checked like anything else: it can name a wrong place in the ring, and nothing more.

#![expect(unsafe_code, reason = "mapping the file")]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::layout::{MAX_QUEUE_SIZE, RingLayout};

/// The records of one port's rings.
#[derive(Debug)]
pub struct Records {
    storage: Storage,
    rings: u16,
}

#[derive(Debug)]
enum Storage {
    Own(Box<[AtomicU64]>),
    File(Mapping),
}

/// A file of words, mapped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

/// The record of one ring.
#[derive(Clone, Debug)]
pub struct Record {
    records: Arc<Records>,
    /// Its first word.
    first: usize,
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
    /// Records for so many rings, in memory of our own: they end with the process.
    pub fn own(rings: u16) -> Arc<Self> {
        let words = (0..words(rings)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { storage: Storage::Own(words), rings })
    }

    /// Records for so many rings in a file, which gets the length that they need. What it has already stays.
    ///
    /// # Errors
    /// The kernel's, also when there is no memory for them.
    pub fn in_file(file: &File, rings: u16) -> io::Result<Arc<Self>> {
        let words = words(rings);
        let bytes = words * size_of::<AtomicU64>();
        let length = u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Set aside now: a page that is missing later would end the process.
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at a place that the kernel chooses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Self { storage: Storage::File(Mapping { start, words }), rings }))
    }

    /// The record of a ring; `None` where there are fewer.
    pub fn ring(self: &Arc<Self>, number: u16) -> Option<Record> {
        let first = usize::from(number) * RECORD_WORDS;
        (number < self.rings).then(|| Record { records: Arc::clone(self), first })
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.storage {
            Storage::Own(words) => words,
            // SAFETY: mapped with that length as long as this lives, aligned to a page; atomics may be shared.
            Storage::File(mapping) => unsafe { std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.words) },
        }
    }
}

// SAFETY: the mapping belongs to this value, and is used as atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `in_file` with that length, unmapped once.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

impl Record {
    /// A record that ends with the process.
    pub fn own() -> Self {
        Self { records: Records::own(1), first: 0 }
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
        let word = self.get(STATE);
        let is_same = layout
            .is_none_or(|layout| identity(layout).into_iter().zip(IDENTITY..).all(|(part, at)| self.get(at) == part));
        let [_, magic, publishing, position] = halves(word);
        (magic == MAGIC && is_same).then_some(State { position, publishing })
    }

    /// Begins anew, for the ring at `layout`.
    pub(crate) fn begin(&self, layout: &RingLayout, position: u16) {
        self.clear();
        fence(Ordering::Release);
        for (part, at) in identity(layout).into_iter().zip(IDENTITY..) {
            self.set(at, part);
        }
        self.publishing(position, 0);
    }

    /// Notes that the first `count` of the entries are being published from `position` on; none: all before it was.
    #[inline]
    pub(crate) fn publishing(&self, position: u16, count: u16) {
        fence(Ordering::Release);
        self.set(STATE, u64::from(MAGIC) << 32 | u64::from(count) << 16 | u64::from(position));
        fence(Ordering::Release);
    }

    /// Entry `index` of the list of those that are to be published.
    #[inline]
    pub(crate) fn entry(&self, index: u16) -> u64 {
        self.get(LIST + usize::from(index))
    }

    /// Writes an entry of that list.
    #[inline]
    pub(crate) fn set_entry(&self, index: u16, entry: u64) {
        self.set(LIST + usize::from(index), entry);
    }

    #[inline]
    fn get(&self, at: usize) -> u64 {
        let at = at.min(RECORD_WORDS - 1);
        self.records.words().get(self.first + at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, at: usize, value: u64) {
        let at = at.min(RECORD_WORDS - 1);
        if let Some(word) = self.records.words().get(self.first + at) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Which ring it is of: another guest's lies elsewhere in its frontend's memory, save by chance.
fn identity(layout: &RingLayout) -> [u64; 4] {
    [layout.descriptors, layout.available, layout.used, u64::from(layout.size)]
}

fn words(rings: u16) -> usize {
    usize::from(rings) * RECORD_WORDS
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    const LAYOUT: RingLayout = RingLayout { size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 };

    #[test]
    fn a_record_outlives_its_mapping() {
        let file = File::from(rustix::fs::memfd_create("records", MemfdFlags::CLOEXEC).unwrap());
        let record = Records::in_file(&file, 4).unwrap().ring(3).unwrap();
        assert_eq!(record.state(None), None);
        record.begin(&LAYOUT, 7 | 0x8000);
        record.set_entry(1023, 77);
        record.publishing(8, 2);
        drop(record);
        let records = Records::in_file(&file, 4).unwrap();
        let record = records.ring(3).unwrap();
        assert_eq!(record.state(Some(&LAYOUT)), Some(State { position: 8, publishing: 2 }));
        assert_eq!(record.entry(1023), 77);
        assert_eq!(record.state(Some(&RingLayout { size: 128, ..LAYOUT })), None);
        assert_eq!(records.ring(2).unwrap().state(None), None);
        assert!(records.ring(4).is_none());
        record.clear();
        assert_eq!(record.state(None), None);
    }
}
