//! Copies of a port's frames for somebody who looks on (`culvertctl capture`).
//!
//! A tap owns a fixed number of buffers. Workers fill free ones and never wait: a frame that finds none is counted as
//! missed. A port without a tap pays one test per frame.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crossbeam::queue::ArrayQueue;
use culvert_frame::Direction;
use culvert_guest::transmit::HEAD_BYTES;

use crate::burst::Frame;
use crate::vlan::{TAG_BYTES, TagEdit};

/// A bounded store of captured frames between workers and one reader.
#[derive(Debug)]
pub struct Tap {
    free: ArrayQueue<Box<Captured>>,
    filled: ArrayQueue<Box<Captured>>,
    missed: AtomicU64,
}

/// One captured frame.
#[derive(Debug)]
pub struct Captured {
    /// When, by the system's clock.
    pub time: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Its first bytes, as many as were asked for.
    pub bytes: Vec<u8>,
    snap_bytes: usize,
}

impl Tap {
    /// A tap that keeps the first `snap_bytes` of each frame and up to `buffers` frames that were not read yet.
    pub fn new(snap_bytes: usize, buffers: usize) -> Self {
        let tap = Self {
            free: ArrayQueue::new(buffers.max(1)),
            filled: ArrayQueue::new(buffers.max(1)),
            missed: AtomicU64::new(0),
        };
        for _ in 0..buffers.max(1) {
            let bytes = Vec::with_capacity(snap_bytes);
            let empty =
                Captured { time: SystemTime::UNIX_EPOCH, direction: Direction::Rx, length: 0, bytes, snap_bytes };
            let _ = tap.free.push(Box::new(empty));
        }
        tap
    }

    /// The next captured frame; hand it back with [`Self::give_back`].
    pub fn next(&self) -> Option<Box<Captured>> {
        self.filled.pop()
    }

    /// Makes a frame's buffer free again.
    pub fn give_back(&self, captured: Box<Captured>) {
        let _ = self.free.push(captured);
    }

    /// Frames that found no free buffer.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Takes a copy of a frame, with its tag edited.
    #[cold]
    #[inline(never)]
    pub(crate) fn take(&self, direction: Direction, frame: &Frame<'_>, edit: TagEdit) {
        let Some(mut captured) = self.free.pop() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        captured.time = SystemTime::now();
        captured.direction = direction;
        captured.length = edit.length(frame.length);
        let length = usize::try_from(captured.length).unwrap_or(usize::MAX).min(captured.snap_bytes);
        let mut head = [0; HEAD_BYTES + TAG_BYTES];
        let head_bytes = edit.apply(frame.head, &mut head);
        // Within the capacity: nothing is allocated.
        captured.bytes.resize(length, 0);
        let bytes = captured.bytes.as_mut_slice();
        frame.copy_with_head(head.get(..head_bytes).unwrap_or_default(), std::iter::once(bytes));
        let _ = self.filled.push(captured);
    }
}
