//! UDP between the played guest and the world: the highest rate at which nothing is lost, found by halving as in RFC 2544, section 26.1, and
//! what each datagram takes of the translator at that rate.
//!
//! The far end is in the thread of the load: it takes many in one call (recvmmsg(2)), and leaves it to its kernel to cut what it sends into
//! datagrams (UDP_SEGMENT, udp(7)), as programs do that send many. One at a time its kernel sends some 250,000 a second on a core, less than
//! translators take. They are cut before the wire, on which each is a packet of its own, as a network card would do it; *in trains* the wire
//! carries them as one, as it is between pods of a node, and whoever receives them has asked for that (UDP_GRO), or the kernel cuts them then. A
//! trial that fails is made again, as the host may have had one of the cores. A full ring holds its guest back, which is no loss: the rate is what
//! was sent.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
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
    let ways = [Way::There, Way::Back, Way::BackInTrains];
    for (size, way) in [64, 1400].into_iter().flat_map(|size| ways.map(|way| (size, way))) {
        let options = options.clone();
        cases.push(Case::new(format!("{size} B, {}", way.name()), move |peer| {
            under_load(&options, peer, 1, "", |running| {
                Load::new(&options, running, size, way)?.measure(&options, running)
            })
        }));
    }
    Ok(cases)
}

/// Which way they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
    BackInTrains,
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::There => super::THERE.to_owned(),
            Self::Back => super::BACK.to_owned(),
            Self::BackInTrains => format!("{}, in trains", super::BACK),
        }
    }
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
    fn new(options: &Options, running: &Running, frame_bytes: u32, way: Way) -> Result<Self> {
        if way == Way::Back {
            cut_before_the_wire(running)?;
        }
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
        let payload = frame_bytes as usize - UDP_HEAD;
        let segment = payload as libc::c_int;
        let size = size_of_val(&segment) as libc::socklen_t;
        // SAFETY: the value outlives the call and has as many bytes as is said.
        let cut = unsafe {
            libc::setsockopt(far.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), size)
        };
        ensure!(cut == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        let (batch, back) = (Batch::new(payload), way != Way::There);
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

/// Has the world's end of the wire cut what several datagrams are sent as: the kernel does that just before.
fn cut_before_the_wire(running: &Running) -> Result<()> {
    let ethtool = || Ok(Command::new("ethtool").args(["-K", "pod", "tx-udp-segmentation", "off"]).output()?);
    let output = running.world().run(ethtool).context("ethtool: run ci/setup")?;
    ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Datagrams of one length that are sent, or taken, in one call.
struct Batch {
    length: usize,
    bytes: Box<[u8]>,
    _parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers lead into boxes of its own.
unsafe impl Send for Batch {}

impl Batch {
    fn new(length: usize) -> Self {
        let mut bytes: Box<[u8]> = vec![0; length * usize::from(BURST)].into();
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
        Self { length, bytes, _parts: parts, messages }
    }

    fn send(&mut self, socket: &UdpSocket, count: u16) -> Result<u16> {
        let count = usize::from(count).min(LARGEST / self.length);
        let bytes = self.bytes.get(..count * self.length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(0);
        }
        // SAFETY: the bytes outlive the call, which only reads them.
        let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
        Ok(moved(sent)? / self.length as u16)
    }

    fn take(&mut self, socket: &UdpSocket) -> Result<u64> {
        let (count, flags) = (u32::from(BURST), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
        let (messages, none) = (self.messages.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as above; what comes is written over itself.
        let taken = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages, count, flags as _, none) };
        moved(taken as isize).map(u64::from)
    }
}

/// How many messages or bytes a call has moved that does not wait.
fn moved(outcome: isize) -> Result<u16> {
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

/// Payload of the longest datagram of IPv4: those that are sent at once are one, before they are cut.
const LARGEST: usize = 65_507;

/// How often a trial is made at most.
const TRIES: usize = 3;

/// Datagrams of a million that are as good as none on a host that is never quiet.
const FEW: f64 = 1000.0;

/// Nothing comes any more.
const SETTLED: Duration = Duration::from_millis(20);

const LIMIT: Duration = Duration::from_secs(10);
