//! Q17: interrupts that go nowhere, that are full, and that block whoever writes them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::attack::{FULL, SMALL, VICTIM, check_served, echo, fill_counter};
use super::floods::duration;
use crate::case::{Case, Part, case};
use crate::field::Field;
use crate::guest::{Guest, RECEIVE, TRANSMIT};
use crate::raw_frontend::{NO_DESCRIPTOR, numbers, request};

/// The cases of this file.
pub const CASES: &[Case] = &[
    case("Q17", "interrupt-is-full", "The interrupt's counter is at its end: frames pass.", call_full),
    case(
        "Q17",
        "interrupt-starts-to-block",
        "The interrupt is made to block while it is written: quarantine, neighbours lose nothing.",
        call_blocks,
    ),
    case("Q17", "interrupt-is-its-own-kick", "The interrupt is the kick of the same guest: frames pass.", call_is_kick),
    case("Q17", "interrupt-is-a-full-pipe", "A pipe that nobody reads: frames pass.", call_full_pipe),
    case(
        "Q17",
        "interrupt-is-a-broken-pipe",
        "A pipe whose reader has gone: frames pass, no SIGPIPE.",
        call_broken_pipe,
    ),
    case("Q17", "interrupt-is-a-full-socket", "A socket that nobody reads: frames pass.", call_full_socket),
    case("Q17", "interrupt-is-a-closed-socket", "A socket whose other end has gone: frames pass.", call_closed_socket),
    case("Q17", "interrupt-is-taken-away", "No interrupt, then one, again and again: frames pass.", call_taken_away),
];

fn call_full(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    fill_counter(guest.call_of(TRANSMIT))?;
    fill_counter(guest.call_of(RECEIVE))?;
    (0..30).try_for_each(|number| check_served(&mut guest, number))
}

/// Makes an eventfd block, or not, for everybody who has it.
fn set_blocking(event: &OwnedFd, blocking: bool) -> Result<()> {
    let flags = fcntl_getfl(event)?;
    let flags = if blocking { flags - OFlags::NONBLOCK } else { flags | OFlags::NONBLOCK };
    Ok(fcntl_setfl(event, flags)?)
}

/// A thread that raises a counter without end, and waits where it is full and blocks.
struct Raiser {
    stop: Arc<AtomicBool>,
    event: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Raiser {
    /// Makes the descriptor block, for culvertd as well, and begins.
    fn start(event: &OwnedFd) -> Result<Self> {
        set_blocking(event, true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ours) = (stop.clone(), event.try_clone()?);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = rustix::io::write(&ours, &1_u64.to_ne_bytes());
            }
        });
        Ok(Self { stop, event: event.try_clone()?, thread: Some(thread) })
    }

    /// Sets the counter a little before its end, for which this thread and culvertd race: who sees the last room, and writes when the
    /// other one has taken it, waits.
    fn again(&self) -> Result<()> {
        set_blocking(&self.event, false)?;
        let mut old = [0; 8];
        loop {
            let _ = rustix::io::read(&self.event, &mut old);
            match rustix::io::write(&self.event, &(FULL - 2000).to_ne_bytes()) {
                Err(Errno::AGAIN) => {}
                result => {
                    result?;
                    return set_blocking(&self.event, true);
                }
            }
        }
    }
}

impl Drop for Raiser {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = set_blocking(&self.event, false);
        let mut old = [0; 8];
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            let _ = rustix::io::read(&self.event, &mut old);
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn call_blocks(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let raiser = Raiser::start(guest.call_of(TRANSMIT))?;
    let mut frame = echo(0, 60);
    // To itself: nobody else has to do with it.
    frame.splice(..6, VICTIM);
    let deadline = Instant::now() + 4 * duration(field);
    let mut caught = false;
    while !caught && Instant::now() < deadline {
        raiser.again()?;
        let round = Instant::now();
        while round.elapsed() < Duration::from_micros(700) {
            guest.interface.send(&frame);
        }
        guest.kick(TRANSMIT)?;
        // A worker may also be without a processor for a while.
        caught =
            is_held_up(&guest, Duration::from_millis(30)) && guest.frontend.wait_closed(Duration::from_secs(2)).is_ok();
    }
    if caught {
        field.expect_quarantine("the descriptor for interrupts blocks");
    } else {
        println!("     interrupt-starts-to-block: the worker was never caught");
        // It may have been at the very end.
        field.exempt(Part::Log, "whether it is caught is a matter of nanoseconds");
    }
    drop(raiser);
    Ok(())
}

/// Whether nothing of a full transmit ring is taken for so long.
fn is_held_up(guest: &Guest, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while guest.interface.transmit.pending() > 0 {
        if Instant::now() > deadline {
            return true;
        }
        thread::sleep(Duration::from_micros(100));
    }
    false
}

/// Plays frames with another descriptor for the interrupts of both rings.
fn with_call(field: &mut Field, call: &OwnedFd) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for ring in [RECEIVE, TRANSMIT] {
        guest.frontend.must(request::SET_VRING_CALL, &numbers(&[u64::from(ring)]), &[call.as_fd()])?;
    }
    (0..30).try_for_each(|number| check_served(&mut guest, number))
}

/// Each frame that goes back kicks, and each kick is looked at.
fn call_is_kick(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for ring in [RECEIVE, TRANSMIT] {
        let body = numbers(&[u64::from(ring)]);
        guest.frontend.must(request::SET_VRING_CALL, &body, &[guest.kick_of(TRANSMIT).as_fd()])?;
    }
    (0..30).try_for_each(|number| check_served(&mut guest, number))?;
    // With no more frames it comes to rest.
    thread::sleep(Duration::from_millis(50));
    let before = field.daemon().cpu_time()?;
    thread::sleep(Duration::from_millis(200));
    let used = field.daemon().cpu_time()? - before;
    println!("     interrupt-is-its-own-kick: {used:?} of processor time in 200 ms");
    check_served(&mut guest, 99)
}

fn call_full_pipe(field: &mut Field) -> Result<()> {
    let (_reader, writer) = std::io::pipe()?;
    let writer = OwnedFd::from(writer);
    set_blocking(&writer, false)?;
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    set_blocking(&writer, true)?;
    with_call(field, &writer)
}

fn call_broken_pipe(field: &mut Field) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    with_call(field, &writer.into())
}

fn call_full_socket(field: &mut Field) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    while rustix::io::write(&theirs, &[0; 4096]).is_ok() {}
    theirs.set_nonblocking(false)?;
    let result = with_call(field, &theirs.into());
    drop(ours);
    result
}

fn call_closed_socket(field: &mut Field) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    drop(ours);
    with_call(field, &theirs.into())
}

fn call_taken_away(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for number in 0..50 {
        for ring in [RECEIVE, TRANSMIT] {
            let frontend = &guest.frontend;
            if number % 2 == 0 {
                let body = numbers(&[u64::from(ring) | NO_DESCRIPTOR]);
                frontend.must(request::SET_VRING_CALL, &body, &[])?;
            } else {
                let body = numbers(&[u64::from(ring)]);
                frontend.must(request::SET_VRING_CALL, &body, &[guest.call_of(ring).as_fd()])?;
            }
        }
        check_served(&mut guest, number)?;
    }
    Ok(())
}
