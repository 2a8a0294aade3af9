//! UDP between the played guest and the world: the highest rate at which nothing is lost, found by halving as in RFC 2544, section 26.1, and
//! what each datagram takes of the translator at that rate.
//!
//! The far end is in the thread of the load: it takes and sends many in one call (recvmmsg(2), sendmmsg(2)), each datagram a packet of its own
//! on the wire. A trial that fails is made again, as the host may have had one of the cores. A full ring holds its guest back, which is no loss: the
//! rate is what was sent.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::translator::WORLD;

use super::packet::{UDP_HEAD, datagram, parse_datagram};
use super::running::{Running, under_load};
use super::station::{Room, Station};
use crate::clock::{ticks, ticks_of, ticks_per_nanosecond};
use crate::options::Options;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for size in [64, 1400] {
        for back in [false, true] {
            let options = options.clone();
            let name = format!("{size} B, {}", if back { super::BACK } else { super::THERE });
            cases.push(Case::new(name, move |peer| {
                under_load(&options, peer, 1, "", |running| {
                    Load::new(&options, running, size, back)?.measure(&options, running)
                })
            }));
        }
    }
    Ok(cases)
}

/// A guest and a far end between which datagrams of one length go one way.
struct Load {
    station: Station,
    far: UdpSocket,
    batch: Batch,
    head: [u8; UDP_HEAD],
    frame_bytes: u32,
    back: bool,
    /// Datagrams that arrived so far.
    arrived: u64,
}

/// What became of a trial.
struct Trial {
    sent: u64,
    arrived: u64,
    rate: f64,
    /// Processor time of the translator in seconds.
    cpu: f64,
}

impl Trial {
    fn passes(&self, millionths: f64) -> bool {
        self.sent > 0 && self.sent.saturating_sub(self.arrived) as f64 <= millionths / 1e6 * self.sent as f64
    }
}

impl Load {
    fn new(options: &Options, running: &Running, frame_bytes: u32, back: bool) -> Result<Self> {
        let translator = running.translators.first().context("a translator")?;
        let mut station = Station::connect(translator.socket(), options.ring, Room::FRAMES)?;
        let far = running.world().udp(&format!("{}:{PORT}", WORLD[0]))?;
        far.set_nonblocking(true)?;
        // As the world's kernel permits: what arrives while this thread does something else.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&far, 32 << 20)?;
        rustix::net::sockopt::set_socket_send_buffer_size_force(&far, 32 << 20)?;
        let head = datagram([FROM, PORT], frame_bytes);
        // The first one makes the flow, and tells from where it comes.
        let begin = Instant::now();
        station.lay(&[0; 12], &head, frame_bytes);
        station.send()?;
        loop {
            if let Ok((_, from)) = far.recv_from(&mut [0; 2048]) {
                far.connect(from)?;
                break;
            }
            ensure!(begin.elapsed() < LIMIT, "no datagram came");
        }
        let batch = Batch::new(frame_bytes as usize - UDP_HEAD);
        Ok(Self { station, far, batch, head, frame_bytes, back, arrived: 0 })
    }

    fn measure(&mut self, options: &Options, running: &Running) -> Result<Vec<Figure>> {
        let time = options.time() / 8;
        // As fast as it goes, to find where to search.
        let most = self.trial(running, f64::INFINITY, time.max(Duration::from_millis(200)))?;
        let through = most.arrived as f64 / most.sent.max(1) as f64 * most.rate;
        let none = self.search(running, most.rate, time, options.loss)?;
        let few = self.search(running, most.rate, time, options.loss.max(FEW))?;
        ensure!(few.rate > 0.0, "datagrams are lost at every rate");
        Ok(vec![
            Figure::gain("rate", "Mframes/s", none.rate / 1e6),
            Figure::gain("with 1000 of a million lost", "Mframes/s", few.rate / 1e6),
            Figure::gain("arriving of too many", "Mframes/s", through / 1e6),
            Figure::cost("processor time", "ns each", 1e9 * few.cpu / few.arrived.max(1) as f64),
        ])
    }

    /// The best trial with no more lost than so many of a million.
    fn search(&mut self, running: &Running, top: f64, time: Duration, permitted: f64) -> Result<Trial> {
        let mut best = Trial { sent: 0, arrived: 0, rate: 0.0, cpu: 0.0 };
        let (mut good, mut bad, mut rate) = (0.0, top, f64::INFINITY);
        // All that goes, first: who is held back loses nothing.
        while bad - good > top / 40.0 {
            let mut passed = false;
            for _ in 0..TRIES {
                let trial = self.trial(running, rate, time)?;
                passed = trial.passes(permitted);
                if passed {
                    if trial.rate > best.rate {
                        best = trial;
                    }
                    break;
                }
            }
            if rate.is_infinite() {
                if passed {
                    break;
                }
            } else if passed {
                good = rate;
            } else {
                bad = rate;
            }
            rate = f64::midpoint(good, bad);
        }
        Ok(best)
    }

    /// Sends at a rate for a time, and waits for what is under way.
    fn trial(&mut self, running: &Running, rate: f64, time: Duration) -> Result<Trial> {
        self.arrived = 0;
        let (before, start, mut sent) = (running.taken()?, Instant::now(), 0_u64);
        let (begin, per_tick) = (ticks(), rate / ticks_per_nanosecond() / 1e9);
        let end = begin + ticks_of(time);
        loop {
            let now = ticks();
            if now >= end {
                break;
            }
            let due = ((now - begin) as f64 * per_tick).min(1e15) as u64;
            sent += u64::from(self.send(due.saturating_sub(sent).min(u64::from(BURST)) as u16)?);
            self.take()?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        let (mut quiet, mut arrived) = (Instant::now(), self.arrived);
        while quiet.elapsed() < SETTLED {
            self.take()?;
            if self.arrived != arrived {
                (quiet, arrived) = (Instant::now(), self.arrived);
            }
        }
        self.station.check()?;
        let cpu = running.taken()?.since(before).running.as_secs_f64();
        Ok(Trial { sent, arrived: self.arrived, rate: sent as f64 / elapsed, cpu })
    }

    /// Sends up to so many; returns how many.
    fn send(&mut self, count: u16) -> Result<u16> {
        if self.back {
            return self.batch.send(&self.far, count);
        }
        let count = count.min(self.station.room());
        for _ in 0..count {
            self.station.lay(&[0; 12], &self.head, self.frame_bytes);
        }
        self.station.send()?;
        Ok(count)
    }

    /// Takes what has come.
    fn take(&mut self) -> Result<()> {
        let payload = self.frame_bytes as usize - UDP_HEAD;
        let mut arrived = 0;
        self.station.take(|frame| {
            if let Some((ports, bytes)) = parse_datagram(frame)
                && ports == [PORT, FROM]
            {
                arrived += (bytes / payload) as u64;
            }
        })?;
        self.arrived += if self.back { arrived } else { self.batch.take(&self.far)? };
        Ok(())
    }
}

/// Datagrams of one length that are sent, or taken, in one call.
struct Batch {
    bytes: Box<[u8]>,
    parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers lead into boxes of its own.
unsafe impl Send for Batch {}

impl Batch {
    fn new(length: usize) -> Self {
        let mut bytes: Box<[u8]> = vec![0; length].into();
        // All at the same place: what is sent is zeros, and what comes is not looked at.
        let part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let mut parts: Box<[libc::iovec]> = vec![part; usize::from(BURST)].into();
        let message = |part: &mut libc::iovec| {
            // SAFETY: all zero is an empty header.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            (header.msg_iov, header.msg_iovlen) = (part, 1);
            libc::mmsghdr { msg_hdr: header, msg_len: 0 }
        };
        let messages = parts.iter_mut().map(message).collect();
        Self { bytes, parts, messages }
    }

    fn send(&mut self, socket: &UdpSocket, count: u16) -> Result<u16> {
        debug_assert!(!self.bytes.is_empty() && self.parts.len() >= usize::from(count));
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: there are as many messages, of parts and bytes that live as long.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count.into(), flags as _) };
        moved(sent)
    }

    fn take(&mut self, socket: &UdpSocket) -> Result<u64> {
        let (count, flags) = (u32::from(BURST), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
        let (messages, none) = (self.messages.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as above; what comes is written over itself.
        moved(unsafe { libc::recvmmsg(socket.as_raw_fd(), messages, count, flags as _, none) }).map(u64::from)
    }
}

/// How many messages a call has moved that does not wait.
fn moved(outcome: i32) -> Result<u16> {
    if let Ok(count) = u16::try_from(outcome) {
        return Ok(count);
    }
    let error = std::io::Error::last_os_error();
    let waits = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ECONNREFUSED));
    if waits { Ok(0) } else { Err(error).context("the far end") }
}

/// The far end's port, and the guest's.
const PORT: u16 = 7;
const FROM: u16 = 20_000;

/// Datagrams that are moved at once.
const BURST: u16 = 64;

/// How often a trial is made at most.
const TRIES: usize = 3;

/// Datagrams of a million that are as good as none on a host that is never quiet.
const FEW: f64 = 1000.0;

/// Nothing comes any more.
const SETTLED: Duration = Duration::from_millis(20);

const LIMIT: Duration = Duration::from_secs(10);
