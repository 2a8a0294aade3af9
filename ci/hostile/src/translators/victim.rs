//! The victim: a translator, and a guest of which each frame can be chosen.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::Shape;
use culvert_system::place::Namespace;
use culvert_system::translator::{Pod, Translator};

use crate::cases::frames::packets::{Received, Segment, flag, icmp_of};
use crate::guest::{Guest, RECEIVE, TRANSMIT};

/// A translator and its guest.
pub struct Victim<'p> {
    pod: &'p Pod,
    translator: Translator,
    /// `None` while one has left and the next has not come.
    guest: Option<Guest>,
    /// Frames that were sent.
    sent: u64,
    heard: VecDeque<Vec<u8>>,
}

/// A connection of the guest's, played by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The peer's address.
    pub destination: Ipv4Addr,
    /// The guest's port.
    pub from: u16,
    /// The peer's port.
    pub to: u16,
    /// Of the guest's next byte.
    pub seq: u32,
    /// Of the peer's next byte.
    pub ack: u32,
}

impl Connection {
    /// A segment of it without payload, with the guest's numbers.
    pub fn segment(&self) -> Segment<'_> {
        let Self { destination, from, to, seq, ack } = *self;
        Segment { destination, from, to, seq, ack, flags: flag::ACK, ..Segment::default() }
    }
}

impl<'p> Victim<'p> {
    /// Connects a guest.
    ///
    /// # Errors
    /// The translator refuses it.
    pub fn connect(pod: &'p Pod, translator: Translator) -> Result<Self> {
        let guest = connect(&translator)?;
        Ok(Self { pod, translator, guest: Some(guest), sent: 0, heard: VecDeque::new() })
    }

    /// Its translator's world.
    pub fn world(&self) -> &'p Namespace {
        self.pod.world()
    }

    /// Its translator's pod.
    pub fn pod(&self) -> &'p Namespace {
        self.pod.pod()
    }

    /// Its translator.
    pub fn translator(&mut self) -> &mut Translator {
        &mut self.translator
    }

    /// Sends a frame, and waits until the translator has taken it.
    ///
    /// # Errors
    /// It takes none.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_all([frame.to_vec()])
    }

    /// Sends frames as fast as the translator takes them, and waits until it has taken all. What comes meanwhile is kept, of floods the
    /// last.
    ///
    /// # Errors
    /// It takes none any more.
    pub fn send_all(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let guest = self.guest.as_mut().context("there is no guest")?;
        for frame in frames {
            let deadline = Instant::now() + LIMIT;
            while !guest.interface.send(&frame) {
                guest.kick(TRANSMIT)?;
                listen(guest, &mut self.heard);
                ensure!(Instant::now() < deadline, "the translator takes no frames; {}", self.translator.told());
                thread::yield_now();
            }
            self.sent += 1;
            if self.sent.is_multiple_of(KICK_EVERY) {
                guest.kick(TRANSMIT)?;
                listen(guest, &mut self.heard);
            }
        }
        guest.kick(TRANSMIT)?;
        let deadline = Instant::now() + LIMIT;
        while guest.interface.transmit.used_index() != guest.interface.transmit.available_index() {
            listen(guest, &mut self.heard);
            ensure!(Instant::now() < deadline, "the translator does not take the frames; {}", self.translator.told());
            thread::sleep(Duration::from_micros(200));
        }
        listen(guest, &mut self.heard);
        Ok(())
    }

    /// The memory of its translator's own, in KiB: not the guest's, of which it touches more and more.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<u64> {
        self.translator.status("RssAnon:")?.trim_end_matches("kB").trim().parse().context("RssAnon")
    }

    fn listen(&mut self) {
        if let Some(guest) = &mut self.guest {
            listen(guest, &mut self.heard);
        }
    }

    /// The frames that came and were not looked at.
    pub fn heard(&mut self) -> Vec<Vec<u8>> {
        self.listen();
        self.heard.drain(..).collect()
    }

    /// Waits for a frame in which `find` finds something. Others are passed over.
    ///
    /// # Errors
    /// There is none within the limit.
    pub fn wait_for<T>(&mut self, what: &str, mut find: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.listen();
            while let Some(frame) = self.heard.pop_front() {
                if let Some(found) = find(&frame) {
                    return Ok(found);
                }
            }
            ensure!(Instant::now() < deadline, "the guest does not get {what}; {}", self.translator.told());
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Waits for a segment to one of the guest's ports that `find` likes.
    ///
    /// # Errors
    /// There is none within the limit.
    pub fn wait_for_segment(&mut self, port: u16, what: &str, find: impl Fn(&Received) -> bool) -> Result<Received> {
        self.wait_for(what, |frame| Received::of(frame).filter(|segment| segment.to == port && find(segment)))
    }

    /// Opens a connection to a port of the world.
    ///
    /// # Errors
    /// It is refused, or nobody answers.
    pub fn open(&mut self, from: u16, to: u16) -> Result<Connection> {
        self.open_as(&Segment { from, to, seq: ISN, ..Segment::default() })
    }

    /// Opens a connection by a SYN of the caller's; the window holds on.
    ///
    /// # Errors
    /// It is refused, or nobody answers.
    pub fn open_as(&mut self, syn: &Segment<'_>) -> Result<Connection> {
        let Segment { destination, from, to, seq, window, .. } = *syn;
        self.send(&Segment { flags: flag::SYN, ..syn.clone() }.frame())?;
        let is_answer = |segment: &Received| segment.flags & (flag::SYN | flag::RST) != 0;
        let answer = self.wait_for_segment(from, "an answer to its SYN", is_answer)?;
        ensure!(answer.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK, "refused: {answer:?}");
        let connection =
            Connection { destination, from, to, seq: seq.wrapping_add(1), ack: answer.seq.wrapping_add(1) };
        self.send(&Segment { window, ..connection.segment() }.frame())?;
        Ok(connection)
    }

    /// Sends some bytes over a connection to a port where they are echoed, and waits until they are back.
    ///
    /// # Errors
    /// They do not come back.
    pub fn echo(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<()> {
        let segment = Segment { payload: bytes, flags: flag::ACK | flag::PSH, ..connection.segment() };
        self.send(&segment.frame())?;
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            let expected = connection.ack.wrapping_add(back.len() as u32);
            let more = self.wait_for_segment(connection.from, "its bytes back", |segment| {
                segment.seq == expected && !segment.payload.is_empty()
            })?;
            back.extend(more.payload);
        }
        ensure!(back == bytes, "other bytes came back");
        connection.seq = connection.seq.wrapping_add(bytes.len() as u32);
        connection.ack = connection.ack.wrapping_add(back.len() as u32);
        let acknowledgement = connection.segment().frame();
        self.send(&acknowledgement)
    }

    /// Ends a connection at once.
    ///
    /// # Errors
    /// The translator takes no frame.
    pub fn reset(&mut self, connection: &Connection) -> Result<()> {
        self.send(&Segment { flags: flag::RST | flag::ACK, ..connection.segment() }.frame())
    }

    /// Waits for an ICMP error; returns its type and code.
    ///
    /// # Errors
    /// There is none within the limit.
    pub fn wait_for_icmp(&mut self, what: &str) -> Result<(u8, u8)> {
        self.wait_for(what, |frame| icmp_of(frame).filter(|(kind, _)| !matches!(kind, 0 | 8)))
    }

    /// What its translator has counted.
    ///
    /// # Errors
    /// It does not answer.
    pub fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let told = self.translator.ask("stats")?;
        let lines = told.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect())
    }

    /// One counter of its translator's.
    ///
    /// # Errors
    /// It does not answer, or has none of that name.
    pub fn count(&self, name: &str) -> Result<u64> {
        let stats = self.stats()?;
        stats.get(name).copied().with_context(|| format!("no {name} among {:?}", stats.keys()))
    }

    /// Sends frames, and sees that each is refused for the one reason.
    ///
    /// # Errors
    /// Some are not, or for another.
    pub fn must_refuse(&mut self, reason: &str, what: &str, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let name = format!("refused_{reason}");
        let (before, sent) = (self.stats()?, self.sent);
        self.send_all(frames)?;
        let (after, sent) = (self.stats()?, self.sent - sent);
        let more = |name: &str| after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
        let refused: Vec<_> = after
            .keys()
            .filter(|name| name.starts_with("refused_") && more(name) > 0)
            .map(|name| (name, more(name)))
            .collect();
        ensure!(more(&name) == sent, "{what}: of {sent} frames were refused {refused:?}");
        Ok(())
    }

    /// Waits until a gauge of its translator's is at most `most`.
    ///
    /// # Errors
    /// It is not within the limit.
    pub fn wait_until_at_most(&self, name: &str, most: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.count(name)?;
            if now <= most {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} is still {now} after {limit:?}, not {most}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its guest leaves, and another one comes.
    ///
    /// # Errors
    /// The translator refuses it.
    pub fn reconnect(&mut self) -> Result<()> {
        // The second one is refused as long as the first one is there.
        drop(self.guest.take());
        self.guest = Some(connect(&self.translator)?);
        self.heard.clear();
        Ok(())
    }

    /// Sees that the translator still serves: it forwards a datagram; then it is told to end, and does.
    ///
    /// # Errors
    /// It does not.
    pub fn end(mut self) -> Result<()> {
        if let Some(status) = self.translator.console().ended()? {
            bail!("the translator ended with {status}; {}", self.translator.last_words());
        }
        self.stats().context("the translator does not answer")?;
        drop(self.guest);
        let status = self.translator.stop()?;
        ensure!(status.success(), "the translator ended with {status}");
        Ok(())
    }
}

/// Takes in what came, of a flood the last.
fn listen(guest: &mut Guest, heard: &mut VecDeque<Vec<u8>>) {
    while let Some((_, frame)) = guest.interface.receive() {
        if heard.len() == MOST_HEARD {
            heard.pop_front();
        }
        heard.push_back(frame);
    }
    if guest.interface.take_kick() {
        // What the translator has for it waits for room; it notices at the next kick if this one fails.
        let _ = guest.kick(RECEIVE);
    }
}

fn connect(translator: &Translator) -> Result<Guest> {
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let deadline = Instant::now() + LIMIT;
    loop {
        match Guest::connect(translator.socket(), shape, 0) {
            Ok(guest) => return Ok(guest),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Of each connection that is played by hand.
const ISN: u32 = 1_000_000;

/// How many frames go with one kick.
const KICK_EVERY: u64 = 64;

/// Of what a flood brings, the rest is forgotten.
const MOST_HEARD: usize = 65_536;

/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(20);
