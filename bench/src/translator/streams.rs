//! Bulk data on one connection or many, on one guest or several, with the played guest: what the translator carries when the guest is not the
//! limit, and what each gigabyte takes of it. The floor is a program that moves the same bytes between sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::translator::WORLD;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::far::{Far, PORT};
use super::flows::Flows;
use super::running::{Running, Taken, pod, under_load};
use super::station::{Room, Station};
use crate::core_to_core;
use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |count: usize| {
        let options = options.clone();
        let name = if count == 1 { "1 stream".to_owned() } else { format!("{count} streams") };
        Case::new(name, move |peer| {
            let [there, back] = [false, true].map(|back| match peer {
                Peer::Sockets64 => floor(&options, 0x1_0000, count, back),
                Peer::Sockets => floor(&options, 0x4_0000, count, back),
                _ => through(&options, peer, 1, count, back),
            });
            Ok(figures(there?, back?))
        })
    };
    Ok([1, 10, 100, 1000].map(case).into())
}

pub fn cases_of_guests(options: &Options) -> Result<Vec<Case>> {
    let case = |guests: usize| {
        let options = options.clone();
        let name = if guests == 1 { "1 guest".to_owned() } else { format!("{guests} guests") };
        Case::new(name, move |peer| {
            let [there, back] = [false, true].map(|back| through(&options, peer, guests, 4, back));
            let (there, back) = (there?, back?);
            let mut all = figures(there, back);
            all.push(Figure::cost("memory of each", "KiB", back.memory / guests as f64));
            Ok(all)
        })
    };
    Ok([1, 4, 16].map(case).into())
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    bytes: f64,
    seconds: f64,
    /// Processor time, in seconds.
    cpu: f64,
    /// KiB.
    memory: f64,
}

impl Carried {
    fn rate(self) -> f64 {
        8e-9 * self.bytes / self.seconds
    }

    fn cost(self) -> f64 {
        1e9 * self.cpu / self.bytes
    }
}

fn figures(there: Carried, back: Carried) -> Vec<Figure> {
    vec![
        Figure::gain(super::THERE, "Gbit/s", there.rate()),
        Figure::cost(super::THERE_CPU, super::CPU_UNIT, there.cost()),
        Figure::gain(super::BACK, "Gbit/s", back.rate()),
        Figure::cost(super::BACK_CPU, super::CPU_UNIT, back.cost()),
    ]
}

/// With so many streams of each guest.
fn through(options: &Options, peer: Peer, guests: usize, streams: usize, back: bool) -> Result<Carried> {
    under_load(options, peer, guests, "-m 1500", |running| {
        let mut all = Vec::new();
        let mut far = Far::new(running.world())?;
        for translator in &running.translators {
            let station = Station::connect(translator.socket(), options.ring, Room::SEGMENTS)?;
            let mut flows = Flows::new(station, streams, PORT);
            far.open(&mut flows, 0..streams)?;
            all.push(flows);
        }
        far.watch(back)?;
        let mut load = Load { all, far, streams, next: 0, back };
        load.drive(WARM_UP)?;
        let (taken, before, start) = (running.taken()?, load.bytes(), Instant::now());
        let sent = load.drive(options.time())?;
        let bytes = if back { load.bytes() - before } else { sent };
        let carried = carried(running, bytes, start.elapsed(), running.taken()?.since(taken).running)?;
        ensure!(bytes > 0, "nothing was carried");
        Ok(carried)
    })
}

fn carried(running: &Running, bytes: u64, time: Duration, cpu: Duration) -> Result<Carried> {
    let (bytes, memory) = (bytes as f64, running.memory()?);
    Ok(Carried { bytes, seconds: time.as_secs_f64(), cpu: cpu.as_secs_f64(), memory })
}

/// All guests and the far end.
struct Load {
    all: Vec<Flows>,
    far: Far,
    streams: usize,
    /// Which connections of each guest are next to send.
    next: usize,
    /// The world sends.
    back: bool,
}

impl Load {
    /// Drives them for a time; returns how many bytes the far end has moved.
    fn drive(&mut self, time: Duration) -> Result<u64> {
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < time {
            for _ in 0..16 {
                for flows in &mut self.all {
                    if !self.back {
                        for index in self.next..self.next + self.streams.min(AT_ONCE) {
                            flows.fill(index % self.streams, PIECES)?;
                        }
                    }
                    flows.turn()?;
                }
                self.next = (self.next + AT_ONCE) % self.streams.max(1);
                bytes += self.far.turn(self.back)?;
            }
        }
        Ok(bytes)
    }

    /// Bytes that guests have received.
    fn bytes(&self) -> u64 {
        self.all.iter().map(Flows::bytes).sum()
    }
}

/// The same bytes between sockets, by calls of so many bytes, on the translator's core.
fn floor(options: &Options, call: usize, streams: usize, back: bool) -> Result<Carried> {
    let pod = pod(options, Peer::Culvert, None)?;
    let (mut far, mut sockets) = (Far::new(pod.world())?, Vec::new());
    for _ in 0..streams {
        sockets.push(pod.pod().connect(&format!("{}:{PORT}", WORLD[0]))?);
        far.wait_accept()?;
    }
    far.watch(back)?;
    let (stop, thread) = (AtomicBool::new(false), AtomicI32::new(0));
    let work = || {
        core_to_core::bind(options.switch_core());
        thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
        let outcome = move_bytes(&sockets, call, back, &stop);
        stop.store(true, Ordering::Release);
        outcome
    };
    let load = || {
        core_to_core::bind(options.load_core());
        let outcome = drive_floor(options, &mut far, back, &stop, &thread);
        stop.store(true, Ordering::Release);
        outcome
    };
    let (worked, outcome) = std::thread::scope(|scope| {
        let (work, load) = (scope.spawn(work), scope.spawn(load));
        (work.join(), load.join())
    });
    worked.unwrap_or_else(|_| bail!("the program between the sockets panicked"))?;
    outcome.unwrap_or_else(|_| bail!("the load panicked"))
}

/// The far end of the floor; `thread` is the one that is measured.
fn drive_floor(options: &Options, far: &mut Far, back: bool, stop: &AtomicBool, thread: &AtomicI32) -> Result<Carried> {
    let mut drive = |time: Duration| -> Result<u64> {
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < time && !stop.load(Ordering::Acquire) {
            for _ in 0..16 {
                bytes += far.turn(back)?;
            }
        }
        Ok(bytes)
    };
    drive(WARM_UP)?;
    let taken = || Taken::of_thread(std::process::id(), thread.load(Ordering::Acquire));
    let (before, start) = (taken()?, Instant::now());
    // What is under way at the end is little beside what was carried.
    let bytes = drive(options.time())? as f64;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), taken()?.since(before).running.as_secs_f64());
    Ok(Carried { bytes, seconds, cpu, memory: 0.0 })
}

/// Sends, or receives if `back`, by calls of so many bytes, until it is to stop.
fn move_bytes(sockets: &[TcpStream], call: usize, back: bool, stop: &AtomicBool) -> Result<()> {
    let (mut bytes, mut events) = (vec![0; call], Vec::with_capacity(64));
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = if back { epoll::EventFlags::IN } else { epoll::EventFlags::OUT };
    for (index, socket) in (0..).zip(sockets) {
        socket.set_nonblocking(true)?;
        epoll::add(&ready, socket, epoll::EventData::new_u64(index), flags)?;
    }
    let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while !stop.load(Ordering::Acquire) {
        events.clear();
        epoll::wait(&ready, spare_capacity(&mut events), Some(&limit))?;
        for event in &events {
            let data = event.data;
            let mut socket = sockets.get(data.u64() as usize).context("a socket")?;
            let moved = if back { socket.read(&mut bytes) } else { socket.write(&bytes) };
            if let Err(error) = moved
                && error.kind() != ErrorKind::WouldBlock
            {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// How many connections of a guest have their turn, and how many frames each may send in it.
const AT_ONCE: usize = 8;
const PIECES: u16 = 8;

/// Until windows have grown.
const WARM_UP: Duration = Duration::from_millis(500);
