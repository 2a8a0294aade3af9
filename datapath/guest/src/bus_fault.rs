//! Surviving SIGBUS from guest memory.
//!
//! Guest memory is a file that the frontend may truncate or punch holes into at any time, and that may find no huge page at
//! the first touch; the next access then raises SIGBUS. The handler here maps anonymous memory over the whole region, marks
//! it, and lets the access go on; the port is quarantined at the next check ([`Memory::faulted`](crate::Memory::faulted)). A
//! SIGBUS outside of every registered region, or one that a process sent, goes to the handler that was there before.
//!
//! Theory of operation: the handler may run in any thread at any instruction, so all that it reads is a fixed table of
//! atomics. A slot is written while it is `CLAIMED`, then becomes `ACTIVE`; it is freed *before* its range is unmapped. Each
//! claim has a number of its own, so that a handler which reads a slot while it is given to another region notices: half
//! of the one and half of the other could be a range that belongs to a third.

#![expect(unsafe_code, reason = "signal handler and mmap over a region")]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// How many memory regions of all guests together can be guarded: half of the mappings that the kernel lets a process have
/// (vm.max_map_count).
pub const MAX_GUARDED_REGIONS: usize = 32_768;

/// Tables of at most this many regions always find room: 1,024 ports with an old and a new table each need half of all
/// slots, and larger tables get none of that half. QEMU sends at most so many in one message.
pub const ORDINARY_REGIONS: usize = 8;

static SLOTS: [Slot; MAX_GUARDED_REGIONS] = [const { Slot::new() }; MAX_GUARDED_REGIONS];
static IN_USE: AtomicUsize = AtomicUsize::new(0);
/// Where to look for a free slot first: the lower ones are taken, most likely.
static LOWEST: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static INSTALL: Once = Once::new();
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

/// How many regions have been lost since the process started. A change tells the workers to look at their ports.
#[inline]
pub fn count() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Installs the handler, if that was not done yet. The first region does it as well; a program that loads libraries with
/// handlers of their own for a while, as DPDK's hugepage allocator has, does it before: what they put back is then ours.
pub fn install() {
    INSTALL.call_once(replace_handler);
}

/// Registration of one mapped region with the handler, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `length` bytes at `start`, both multiples of the page size, of a table of `regions`. `None` when there are too
    /// many.
    ///
    /// The mapping must outlive the guard and must be ours to replace.
    pub(crate) fn new(start: usize, length: usize, regions: usize) -> Option<Self> {
        install();
        let most = if regions > ORDINARY_REGIONS { MAX_GUARDED_REGIONS / 2 } else { MAX_GUARDED_REGIONS };
        let room = |used| (used < most).then_some(used + 1);
        IN_USE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        // There is a free slot for everybody who was counted, though perhaps only at the second look.
        let mut first = LOWEST.load(Ordering::Relaxed);
        loop {
            let claimed = (0..).zip(&SLOTS).skip(first).find(|(_, slot)| slot.claim(start, length));
            if let Some((slot, _)) = claimed {
                LOWEST.store(slot + 1, Ordering::Relaxed);
                return Some(Self { slot });
            }
            first = 0;
        }
    }

    /// Whether the region was lost.
    pub(crate) fn hit(&self) -> bool {
        SLOTS.get(self.slot).is_some_and(|slot| slot.hit.load(Ordering::Relaxed))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = SLOTS.get(self.slot) {
            slot.free();
            LOWEST.fetch_min(self.slot, Ordering::Relaxed);
            IN_USE.fetch_sub(1, Ordering::Release);
        }
    }
}

/// The two low bits of [`Slot::state`]; the others count claims.
const FREE: usize = 0;
const CLAIMED: usize = 1;
const ACTIVE: usize = 2;
const STATE_BITS: usize = 3;

#[derive(Debug)]
struct Slot {
    state: AtomicUsize,
    hit: AtomicBool,
    start: AtomicUsize,
    length: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicUsize::new(FREE),
            hit: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
        }
    }

    /// Takes the slot for a region; `false` when it is taken.
    fn claim(&self, start: usize, length: usize) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let number = (state & !STATE_BITS).wrapping_add(STATE_BITS + 1);
        let free = state & STATE_BITS == FREE;
        if !free || self.state.compare_exchange(state, number | CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // Whoever sees one of these sees the number above.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.hit.store(false, Ordering::Relaxed);
        self.state.store(number | ACTIVE, Ordering::Release);
        true
    }

    fn free(&self) {
        let number = self.state.load(Ordering::Relaxed) & !STATE_BITS;
        self.state.store(number | FREE, Ordering::Release);
    }

    /// Start and length of the region, if there is one: of one and the same, whatever happens to the slot meanwhile.
    fn region(&self) -> Option<(usize, usize)> {
        let state = self.state.load(Ordering::Acquire);
        if state & STATE_BITS != ACTIVE {
            return None;
        }
        let region = (self.start.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some(region)
    }
}

/// The handler that was installed before ours; written once, before ours is installed.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written only inside `INSTALL`, before the handler that reads it can run.
unsafe impl Sync for Previous {}

fn replace_handler() {
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
    // SAFETY: the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    // What a process sent has no address (sigaction(2)).
    if code > 0 {
        // SAFETY: a SIGBUS that the kernel raised carries an address.
        let address = unsafe { (*info).si_addr() } as usize;
        if SLOTS.iter().any(|slot| replace(slot, address)) {
            return;
        }
    }
    forward(signal, info, context, code);
}

/// Maps anonymous memory over the slot's region, if `address` lies in it. The thread that faulted uses that region, so nobody
/// unmaps it meanwhile.
fn replace(slot: &Slot, address: usize) -> bool {
    let Some((start, length)) = slot.region().filter(|&(start, length)| address.wrapping_sub(start) < length) else {
        return false;
    };
    // SAFETY: errno's address is this thread's own; what was interrupted finds it as it was. The range is one whole mapping
    // that its owner registered and has not unmapped: a slot is freed first.
    let mapped = unsafe {
        let errno = *libc::__errno_location();
        let mapped = libc::mmap(
            start as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
        mapped
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    slot.hit.store(true, Ordering::Relaxed);
    FAULTS.fetch_add(1, Ordering::Relaxed);
    true
}

/// Hands a SIGBUS that is not ours to the previous handler, or lets it do what it would have done.
fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void, code: libc::c_int) {
    // SAFETY: PREVIOUS was filled before this handler was installed; the kernel's arguments are passed on unchanged, to
    // a handler of the kind that its flags tell.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        match previous.sa_sigaction {
            // A fault cannot be ignored; a signal that was sent can.
            libc::SIG_IGN if code <= 0 => {}
            libc::SIG_DFL | libc::SIG_IGN => end_by(signal),
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
                if code <= 0 && is_default(signal) {
                    // The standard library's takes back its handler and expects the access to be repeated: nothing will be.
                    end_by(signal);
                }
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

/// Ends the process as the signal does where there is no handler.
///
/// # Safety
/// Only in a handler of this signal.
unsafe fn end_by(signal: libc::c_int) {
    // SAFETY: both are async-signal-safe. SA_NODEFER: the signal is delivered at once.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn is_default(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero sigaction is valid, and filled by the call.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_DFL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::atomic::AtomicBool;

    /// A handler in one thread may look at a slot while another thread gives it to another region.
    #[test]
    fn a_slot_is_never_half_of_one_region_and_half_of_another() {
        let (slot, done) = (Slot::new(), AtomicBool::new(false));
        let seen = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    if let Some((start, length)) = slot.region() {
                        assert_eq!(start, length);
                        seen += 1;
                    }
                }
                seen
            });
            for number in 0..400_000 {
                assert!(slot.claim(number, number));
                assert!(!slot.claim(number, number), "it is taken");
                slot.free();
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        // On a machine that gave the reader no time there was nothing to see.
        println!("{seen} looks found a region");
    }

    #[test]
    fn large_tables_leave_half_of_the_slots_to_ordinary_ones() {
        // No memory is behind these guards; nothing touches what they guard.
        let address = |number: usize| (1 << 46) + number * 4096;
        let large = |number| Guard::new(address(number), 4096, ORDINARY_REGIONS + 1);
        let guards: Vec<_> = (0..).map_while(large).collect();
        assert!(guards.len() <= MAX_GUARDED_REGIONS / 2);
        assert!(Guard::new(address(guards.len()), 4096, ORDINARY_REGIONS).is_some());
        drop(guards);
        assert!(large(0).is_some());
    }

    /// Runs what `ends` does in a process of its own.
    fn elsewhere(what: &str) -> ExitStatus {
        let this = std::env::current_exe().unwrap();
        let name = "bus_fault::tests::what_a_signal_does_elsewhere";
        let child = Command::new(this).args(["--exact", name, "--nocapture"]).env(WHAT, what).status();
        child.unwrap()
    }

    const WHAT: &str = "CULVERT_TEST_BUS_FAULT";

    #[test]
    fn what_a_signal_does_elsewhere() {
        let Ok(what) = std::env::var(WHAT) else { return };
        install();
        // SAFETY: sends a signal to this thread, no more.
        let send = || unsafe { libc::raise(libc::SIGBUS) };
        match what.as_str() {
            "sent" => {
                send();
            }
            "ignored" => {
                // SAFETY: as `install` does at the start of a process that ignores the signal.
                unsafe { (*PREVIOUS.0.get()).assume_init_mut().sa_sigaction = libc::SIG_IGN };
                send();
                std::process::exit(7);
            }
            _ => {
                let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                // SAFETY: a fresh mapping behind the end of its file, which nobody guards.
                unsafe {
                    let flags = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
                    let at = rustix::mm::mmap(std::ptr::null_mut(), 4096, flags.0, flags.1, &file, 0).unwrap();
                    at.cast::<u8>().read_volatile();
                }
            }
        }
        std::process::exit(0);
    }

    #[test]
    fn faults_elsewhere_and_signals_from_others_go_where_they_went_before() {
        assert_eq!(elsewhere("fault").signal(), Some(libc::SIGBUS));
        assert_eq!(elsewhere("sent").signal(), Some(libc::SIGBUS), "culvertd must not live on without its handler");
        assert_eq!(elsewhere("ignored").code(), Some(7));
    }
}
