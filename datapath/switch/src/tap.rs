//! Copies of a port's frames for somebody who looks on (`culvertctl capture`).
//!
//! A tap owns a fixed number of buffers. Workers fill free ones and never wait: a frame that finds none is counted as
//! missed. A port without a tap pays a test or two per burst. Several taps, of several ports, may share their buffers.
//!
//! To look at a frame costs several times what it costs to forward it. So frames that nobody has room for are not looked at one by one, and
//! the sender of those that are looked at pays for it ([`TAP_COST`](crate::forward::TAP_COST)): other ports keep their rate.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crossbeam::queue::ArrayQueue;
use culvert_frame::Direction;
use culvert_guest::transmit::HEAD_BYTES;

use crate::burst::Frame;
use crate::vlan::{TAG_BYTES, TagEdit};

/// The place where copies of a port's frames go.
#[derive(Debug)]
pub struct Tap {
    store: Arc<Store>,
    label: u16,
}

/// Which frames a tap takes.
pub trait Wanted: Debug + Send + Sync {
    /// Whether a frame is wanted, of which `head` are the first bytes (all, or as many as are captured, 128 at least) and
    /// `length` the number in all. Asked by workers: it may not wait or fail.
    fn is_wanted(&self, direction: Direction, head: &[u8], length: u32) -> bool;
}

/// Whether some of a port's taps has room for a frame. If not, its frames are to be told to [`miss`] instead of looked at.
#[inline]
pub(crate) fn has_room(taps: &[Arc<Tap>]) -> bool {
    !taps.is_empty() && any_has_room(taps)
}

#[cold]
#[inline(never)]
fn any_has_room(taps: &[Arc<Tap>]) -> bool {
    taps.iter().any(|tap| tap.has_room())
}

/// So many frames have passed that no tap had room for.
#[inline]
pub(crate) fn miss(taps: &[Arc<Tap>], frames: u64) {
    if !taps.is_empty() {
        all_miss(taps, frames);
    }
}

#[cold]
#[inline(never)]
fn all_miss(taps: &[Arc<Tap>], frames: u64) {
    taps.iter().for_each(|tap| tap.miss(frames));
}

/// A bounded store of captured frames between workers and one reader.
#[derive(Debug)]
struct Store {
    free: ArrayQueue<Box<Captured>>,
    filled: ArrayQueue<Box<Captured>>,
    missed: AtomicU64,
    wanted: Option<Box<dyn Wanted>>,
}

/// One captured frame.
#[derive(Debug)]
pub struct Captured {
    /// When, by the system's clock.
    pub time: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// That of the tap that took it.
    pub label: u16,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Its first bytes, as many as were asked for.
    pub bytes: Vec<u8>,
    snap_bytes: usize,
}

impl Tap {
    /// A tap that keeps the first `snap_bytes` of each frame and up to `buffers` frames that were not read yet.
    pub fn new(snap_bytes: usize, buffers: usize) -> Self {
        Self::of_wanted(snap_bytes, buffers, None)
    }

    /// As [`Self::new`], for those frames that are wanted.
    pub fn of_wanted(snap_bytes: usize, buffers: usize, wanted: Option<Box<dyn Wanted>>) -> Self {
        let capacity = if wanted.is_some() { snap_bytes.max(HEAD_BYTES) } else { snap_bytes };
        let store = Store {
            free: ArrayQueue::new(buffers.max(1)),
            filled: ArrayQueue::new(buffers.max(1)),
            missed: AtomicU64::new(0),
            wanted,
        };
        for _ in 0..buffers.max(1) {
            let (time, direction, bytes) = (SystemTime::UNIX_EPOCH, Direction::Rx, Vec::with_capacity(capacity));
            let empty = Captured { time, direction, label: 0, length: 0, bytes, snap_bytes };
            let _ = store.free.push(Box::new(empty));
        }
        Self { store: Arc::new(store), label: 0 }
    }

    /// One for another port with the same buffers; its frames have `label`.
    pub fn beside(&self, label: u16) -> Self {
        Self { store: Arc::clone(&self.store), label }
    }

    /// The next captured frame; hand it back with [`Self::give_back`].
    pub fn next(&self) -> Option<Box<Captured>> {
        self.store.filled.pop()
    }

    /// Makes a frame's buffer free again.
    pub fn give_back(&self, captured: Box<Captured>) {
        let _ = self.store.free.push(captured);
    }

    /// Frames that found no free buffer.
    pub fn missed(&self) -> u64 {
        self.store.missed.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        !self.store.free.is_empty()
    }

    fn miss(&self, frames: u64) {
        self.store.missed.fetch_add(frames, Ordering::Relaxed);
    }

    /// Takes a copy of a frame, with its tag edited.
    #[cold]
    #[inline(never)]
    pub(crate) fn take(&self, direction: Direction, frame: &Frame<'_>, edit: TagEdit) {
        let store = self.store.as_ref();
        let Some(mut captured) = store.free.pop() else {
            return self.miss(1);
        };
        captured.label = self.label;
        captured.direction = direction;
        captured.length = edit.length(frame.length);
        let snap_bytes = captured.snap_bytes;
        let most = if store.wanted.is_some() { snap_bytes.max(HEAD_BYTES) } else { snap_bytes };
        let length = usize::try_from(captured.length).unwrap_or(usize::MAX).min(most);
        let mut head = [0; HEAD_BYTES + TAG_BYTES];
        let head_bytes = edit.apply(frame.head, &mut head);
        // Within the capacity: nothing is allocated.
        captured.bytes.resize(length, 0);
        let bytes = captured.bytes.as_mut_slice();
        frame.copy_with_head(head.get(..head_bytes).unwrap_or_default(), std::iter::once(bytes));
        let refuses = |wanted: &dyn Wanted| !wanted.is_wanted(direction, &captured.bytes, captured.length);
        if store.wanted.as_deref().is_some_and(refuses) {
            let _ = store.free.push(captured);
            return;
        }
        captured.bytes.truncate(snap_bytes);
        captured.time = SystemTime::now();
        let _ = store.filled.push(captured);
    }
}
