//! Freeing a thread from a system call that a frontend made block.
//!
//! A signal without a restarting handler makes the call return EINTR; in any other place it does nothing. The signal is
//! SIGURG, which is ignored where no handler is.

#![expect(unsafe_code, reason = "a signal handler, and a signal to one thread")]

use std::sync::Once;

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
}
