//! The CPU time that another thread has used: tells a thread that hangs in a loop from one that gets no core.

#![expect(unsafe_code, reason = "the clock of another thread")]

use std::time::Duration;

/// The CPU clock of one thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock {
    clock: libc::clockid_t,
}

impl ThreadClock {
    /// The clock of the thread that calls this; `None` where the kernel has none.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the thread lives, as it calls this; the clock's number is written to a local of the right type.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (error == 0).then_some(Self { clock })
    }

    /// How much CPU time the thread has used so far; `None` when it has ended.
    pub fn read(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to a local of the right type; a number that is no clock any more is refused.
        let failed = unsafe { libc::clock_gettime(self.clock, &raw mut time) } != 0;
        let seconds = u64::try_from(time.tv_sec).ok().filter(|_| !failed)?;
        Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Instant;

    #[test]
    fn a_clock_advances_while_its_thread_works_and_stands_while_it_waits() {
        let (send, clock) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let busy = &AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                send.send(ThreadClock::of_this_thread().unwrap()).unwrap();
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                send.send(ThreadClock::of_this_thread().unwrap()).unwrap();
                let _ = gone.recv();
            });
            let clock_of_it = clock.recv().unwrap();
            let (start, before) = (Instant::now(), clock_of_it.read().unwrap());
            while clock_of_it.read().unwrap() - before < Duration::from_millis(20) {
                assert!(start.elapsed() < Duration::from_secs(20), "it works, and its clock stands");
                std::thread::sleep(Duration::from_millis(1));
            }
            busy.store(false, Ordering::Relaxed);
            clock.recv().unwrap();
            // It waits now, or is about to: some time later its clock does not advance any more.
            let stands = || {
                let before = clock_of_it.read().unwrap();
                std::thread::sleep(Duration::from_millis(20));
                clock_of_it.read().unwrap() == before
            };
            while !stands() {
                assert!(start.elapsed() < Duration::from_secs(20), "it waits, and its clock advances");
            }
            drop(go);
        });
    }
}
