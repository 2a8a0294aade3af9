//! Freeing a thread from a system call that a frontend made block.
//!
//! A signal without a restarting handler makes the call return EINTR; in any other place it does nothing. The signal is
//! SIGURG, which is ignored where no handler is.

#![expect(unsafe_code, reason = "a signal handler, signals and timers for one thread")]

use std::sync::Once;
use std::time::Duration;

static INSTALL: Once = Once::new();

/// A thread that can be freed. Keep it no longer than the thread lives.
#[derive(Debug)]
pub struct Unblocker {
    process: libc::pid_t,
    thread: libc::pid_t,
}

impl Unblocker {
    /// Frees the thread that calls this.
    pub fn for_this_thread() -> Self {
        INSTALL.call_once(install);
        let number = rustix::process::Pid::as_raw;
        Self { process: number(Some(rustix::process::getpid())), thread: number(Some(rustix::thread::gettid())) }
    }

    /// Interrupts the thread's system call, if it is in one.
    pub fn unblock(&self) {
        // SAFETY: tgkill takes numbers only; the signal has a handler that does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, libc::SIGURG) };
    }
}

/// Does `work`, of which system calls fail with EINTR from `limit` on: a signal comes then, and again each `limit`, to this thread
/// alone. Without a timer, of which the kernel has many, it may block for ever.
pub(crate) fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    INSTALL.call_once(install);
    let _timer = Timer::start(limit);
    work()
}

/// A timer that signals the thread that has made it, until it is dropped.
struct Timer(libc::timer_t);

impl Timer {
    fn start(interval: Duration) -> Option<Self> {
        let every = libc::timespec {
            tv_sec: libc::time_t::try_from(interval.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: interval.subsec_nanos().max(1).into(),
        };
        let times = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: an all-zero sigevent is valid; the kernel reads `event` and `times` and writes `timer`, all of which live.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGURG;
            event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
            let mut timer: libc::timer_t = std::ptr::null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                return None;
            }
            let timer = Self(timer);
            (libc::timer_settime(timer.0, 0, &raw const times, std::ptr::null_mut()) == 0).then_some(timer)
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made in `start`, deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn install() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: an all-zero sigaction is valid: no flags, above all no SA_RESTART; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    #[test]
    fn a_write_that_blocks_is_interrupted() {
        let full = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (ready, is_ready) = mpsc::channel();
        let freed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| {
                ready.send(Unblocker::for_this_thread()).unwrap();
                let result = rustix::io::write(&full, &1_u64.to_ne_bytes());
                freed.store(true, Ordering::Release);
                result
            });
            let unblocker = is_ready.recv().unwrap();
            // Before it is in the call, a signal does nothing.
            while !freed.load(Ordering::Acquire) {
                unblocker.unblock();
                std::thread::yield_now();
            }
            assert_eq!(blocked.join().unwrap(), Err(Errno::INTR));
        });
    }

    #[test]
    fn a_write_that_blocks_ends_in_time() {
        let full = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let write = || rustix::io::write(&full, &1_u64.to_ne_bytes());
        assert_eq!(within(Duration::from_millis(5), write), Err(Errno::INTR));
        // What ends by itself is not disturbed, nor is what comes after.
        assert_eq!(within(Duration::from_secs(1000), || 7), 7);
        std::thread::sleep(Duration::from_millis(20));
    }
}
