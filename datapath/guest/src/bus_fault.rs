//! Surviving SIGBUS from guest memory.
//!
//! Guest memory is a file that the frontend may truncate or punch holes into at any time; the next access then raises
//! SIGBUS. The handler here maps anonymous memory over the whole region, marks it, and lets the access go on; the port is
//! quarantined at the next check ([`Memory::faulted`](crate::Memory::faulted)). A SIGBUS outside of every registered
//! region goes to the handler that was there before.
//!
//! Theory of operation: the handler may run in any thread at any instruction, so all that it reads is a fixed table of
//! atomics. A slot is written while it is `CLAIMED`, then becomes `ACTIVE`; it is freed *before* its range is unmapped.

#![expect(unsafe_code, reason = "signal handler and mmap over a region")]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// How many memory regions of all guests together can be guarded.
pub const MAX_GUARDED_REGIONS: usize = 4096;

static SLOTS: [Slot; MAX_GUARDED_REGIONS] = [const { Slot::new() }; MAX_GUARDED_REGIONS];
static FAULTS: AtomicU64 = AtomicU64::new(0);
static INSTALL: Once = Once::new();
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

/// How many regions have been lost since the process started. A change tells the workers to look at their ports.
#[inline]
pub fn count() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Registration of one mapped region with the handler, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `length` bytes at `start`, both multiples of the page size. `None` when the table is full.
    ///
    /// The mapping must outlive the guard and must be ours to replace.
    pub(crate) fn new(start: usize, length: usize) -> Option<Self> {
        INSTALL.call_once(install);
        let (index, slot) = SLOTS.iter().enumerate().find(|(_, slot)| {
            slot.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        slot.start.store(start, Ordering::Relaxed);
        slot.length.store(length, Ordering::Relaxed);
        slot.hit.store(false, Ordering::Relaxed);
        slot.state.store(ACTIVE, Ordering::Release);
        Some(Self { slot: index })
    }

    /// Whether the region was lost.
    pub(crate) fn hit(&self) -> bool {
        SLOTS.get(self.slot).is_some_and(|slot| slot.hit.load(Ordering::Relaxed))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = SLOTS.get(self.slot) {
            slot.state.store(FREE, Ordering::Release);
        }
    }
}

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const ACTIVE: u8 = 2;

struct Slot {
    state: AtomicU8,
    hit: AtomicBool,
    start: AtomicUsize,
    length: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            hit: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
        }
    }
}

/// The handler that was installed before ours; written once, before ours is installed.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written only inside `INSTALL`, before the handler that reads it can run.
unsafe impl Sync for Previous {}

fn install() {
    // SAFETY: an all-zero sigaction is valid; `handle` has the signature of an SA_SIGINFO handler and is
    // async-signal-safe (atomics and mmap only). PREVIOUS is written by the first call, before our handler is installed.
    unsafe {
        libc::sigaction(libc::SIGBUS, std::ptr::null(), PREVIOUS.0.get().cast());
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; SIGBUS carries an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS {
        if slot.state.load(Ordering::Acquire) != ACTIVE {
            continue;
        }
        let (start, length) = (slot.start.load(Ordering::Relaxed), slot.length.load(Ordering::Relaxed));
        if address.wrapping_sub(start) >= length {
            continue;
        }
        // SAFETY: the range is one whole mapping that its owner registered and has not unmapped: a slot is freed first.
        let mapped = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            slot.hit.store(true, Ordering::Relaxed);
            FAULTS.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    forward(signal, info, context);
}

/// Hands a SIGBUS that is not ours to the previous handler, or lets it end the process as it would have.
fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: PREVIOUS was filled before this handler was installed; the kernel's arguments are passed on unchanged, to
    // a handler of the kind that its flags tell.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
