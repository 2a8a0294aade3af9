//! A wire that is long and bad: it delays frames and loses some, between two interfaces of a namespace.
//!
//! Not every kernel has netem; this needs packet sockets only. Which frames are lost depends on nothing but their number, so that runs are
//! alike. Whoever sends into it must neither segment nor sum late: `ethtool -K ... tx off tso off gso off`, see [`Impairment::prepare`].

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt};
use nix::sys::time::TimeVal;

use crate::place::Namespace;

/// The wire. It is cut when this is dropped.
pub struct Impairment {
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Impairment {
    /// Joins two interfaces of a namespace. Frames take `delay` each way, and one in `lost` is lost (0: none).
    ///
    /// # Errors
    /// There are no such interfaces, or the test is not root.
    pub fn new(namespace: &Namespace, interfaces: [&str; 2], delay: Duration, lost: u32) -> Result<Self> {
        let [one, other] = interfaces;
        let sockets = [namespace.packets(one)?, namespace.packets(other)?].map(Arc::new);
        for socket in &sockets {
            setsockopt(socket, ReceiveTimeout, &TimeVal::new(0, 100_000))?;
        }
        let mut wire = Self { stop: Arc::default(), lost: Arc::default(), threads: Vec::new() };
        let [one, other] = sockets;
        for (from, to) in [(Arc::clone(&one), Arc::clone(&other)), (other, one)] {
            let (put, take) = mpsc::channel();
            let (stop, count) = (Arc::clone(&wire.stop), Arc::clone(&wire.lost));
            wire.threads.push(thread::spawn(move || {
                read(&from, &stop, lost, &count, |frame| put.send((Instant::now() + delay, frame)).is_ok());
            }));
            wire.threads.push(thread::spawn(move || write(&to, &take)));
        }
        Ok(wire)
    }

    /// How many frames have been lost on it.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Makes an interface of a namespace send frames as they have to be on this wire.
    ///
    /// # Errors
    /// There is no such interface, or no ethtool.
    pub fn prepare(namespace: &Namespace, interface: &str) -> Result<()> {
        let off = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        let ethtool = || Ok(Command::new("ethtool").args(["-K", interface]).args(off).output()?);
        let output = namespace.run(ethtool).context("ethtool: run ci/setup")?;
        ensure!(output.status.success(), "ethtool -K {interface}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Impairment {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It fails only when the thread has panicked: the test has seen what that did.
            let _ = thread.join();
        }
    }
}

/// Takes frames off an interface, loses one in `lost` and puts the others on, until told to stop.
fn read(from: &OwnedFd, stop: &AtomicBool, lost: u32, count: &AtomicU64, put: impl Fn(Vec<u8>) -> bool) {
    let (mut bytes, mut state) = (vec![0; 1 << 16], 1_u32);
    while !stop.load(Ordering::Relaxed) {
        match recv(from.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) => {
                // Xorshift (Marsaglia, 2003).
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                if lost != 0 && state.is_multiple_of(lost) {
                    count.fetch_add(1, Ordering::Relaxed);
                } else if !put(bytes.get(..length).unwrap_or_default().to_vec()) {
                    return;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Sends each frame when it is due.
fn write(to: &OwnedFd, take: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, frame)) = take.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A full queue loses frames, as wires do.
        let _ = send(to.as_raw_fd(), &frame, MsgFlags::empty());
    }
}
