//! What the tried code synchronises with: loom's, of which [`weaken`] takes the orderings away.

use std::sync::atomic::AtomicBool as Switch;

pub use loom::sync::atomic::{AtomicBool, Ordering};
pub use loom::sync::{Arc, Mutex};
pub use std::sync::PoisonError;

static WEAKENED: Switch = Switch::new(false);

/// From now on, in this process, every access is relaxed, and fences order nothing.
pub fn weaken() {
    WEAKENED.store(true, Ordering::SeqCst);
}

fn order(order: Ordering) -> Ordering {
    if WEAKENED.load(Ordering::SeqCst) { Ordering::Relaxed } else { order }
}

/// As std's.
pub fn fence(ordering: Ordering) {
    if !WEAKENED.load(Ordering::SeqCst) {
        loom::sync::atomic::fence(ordering);
    }
}

/// As std's.
#[derive(Debug)]
pub struct AtomicU64(loom::sync::atomic::AtomicU64);

impl AtomicU64 {
    /// As std's.
    pub fn new(value: u64) -> Self {
        Self(loom::sync::atomic::AtomicU64::new(value))
    }

    /// As std's.
    pub fn load(&self, ordering: Ordering) -> u64 {
        self.0.load(order(ordering))
    }

    /// As std's.
    pub fn store(&self, value: u64, ordering: Ordering) {
        self.0.store(value, order(ordering));
    }

    /// As std's.
    pub fn compare_exchange(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange(old, new, order(success), order(failure))
    }

    /// As std's.
    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.fetch_add(value, order(ordering))
    }
}

/// As std's.
#[derive(Debug)]
pub struct AtomicU32(loom::sync::atomic::AtomicU32);

impl AtomicU32 {
    /// As std's.
    pub fn new(value: u32) -> Self {
        Self(loom::sync::atomic::AtomicU32::new(value))
    }

    /// As std's.
    pub fn load(&self, ordering: Ordering) -> u32 {
        self.0.load(order(ordering))
    }

    /// As std's.
    pub fn store(&self, value: u32, ordering: Ordering) {
        self.0.store(value, order(ordering));
    }

    /// As std's.
    pub fn fetch_add(&self, value: u32, ordering: Ordering) -> u32 {
        self.0.fetch_add(value, order(ordering))
    }
}
