//! The threads beside the first one, for a guest of several queue pairs: each serves one pair, with an event loop, sockets
//! and flows of its own. What they are for each other is in [`culvert_translate::lane`].

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_guest::RingFault;
use culvert_translate::lane::letter::Letter;
use culvert_translate::lane::{Lane, Lanes, Relay, Report};
use culvert_translate::limits::Limits;
use culvert_translate::settings::Settings;
use culvert_translate::socket::KernelSockets;
use culvert_translate::time::Instant;
use culvert_translate::translator::{MoveOrder, Translator};
use culvert_translate::transport::rings::RingSet;
use culvert_translate::transport::{Link, Source};
use mio::{Events, Poll, Token};

use crate::patience::Patience;
use crate::pcap::Pcap;
use crate::recorded::Recorded;
use crate::repair::RepairSocket;
use crate::round;
use crate::running::list_flows;
use crate::wait::wait;

/// Wakes a thread for letters. Tokens of sockets are below 2^35.
pub const LETTERS: Token = Token(1 << 50);
const RINGS: Token = Token(1 << 40);

/// Events that are taken at once.
const EVENTS: usize = 256;

/// How old what is told of a thread may be while it has no rest.
const REPORT: Duration = Duration::from_millis(100);

/// A thread that sleeps although nothing is due looks after itself once in a while.
const LONG: Duration = Duration::from_secs(3600);

/// A thread to be.
#[derive(Debug)]
pub struct LaneLoop {
    number: usize,
    lanes: Arc<Lanes>,
    poll: Poll,
    translator: Translator,
    sockets: KernelSockets,
    rings: RingSet,
    relay: Relay,
    pcap: Option<Arc<Mutex<Pcap>>>,
    patience: Patience,
    /// As they were counted in the round before.
    memory_faults: u64,
    /// Of the rings: see [`Letter::Fault`].
    epoch: u64,
    reported: Instant,
}

/// What a thread is made of, besides its event loop.
#[derive(Debug)]
pub struct Parts {
    /// Which one, from 1.
    pub number: usize,
    /// All of them.
    pub lanes: Arc<Lanes>,
    /// What was configured.
    pub settings: Settings,
    /// Its part of what the guest may use.
    pub limits: Limits,
    /// Where frames are recorded.
    pub pcap: Option<Arc<Mutex<Pcap>>>,
    /// Whoever helps when the guest moves.
    pub repairer: Option<Arc<RepairSocket>>,
}

impl LaneLoop {
    /// Opens what it needs. Events come to `poll`, those of letters as [`LETTERS`].
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn open(poll: Poll, parts: Parts) -> Result<Self> {
        let Parts { number, lanes, settings, limits, pcap, repairer } = parts;
        let registry = poll.registry();
        let mut sockets = KernelSockets::new(registry.try_clone()?).context("cannot make sockets")?;
        if let Some(repairer) = repairer {
            sockets.set_repairer(repairer);
        }
        let rings = RingSet::new(registry, RINGS)?;
        let now = Instant::now();
        Ok(Self {
            translator: Translator::of_lane(settings, limits, now, 0, Lane::new(&lanes, number)),
            relay: Relay::new(&lanes, number),
            number,
            lanes,
            poll,
            sockets,
            rings,
            pcap,
            patience: Patience::new(now),
            memory_faults: 0,
            epoch: 0,
            reported: now,
        })
    }

    /// Starts it. Something comes once it has made all the system calls that a new thread makes.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(self) -> Result<Receiver<()>> {
        let (tell, told) = channel();
        let (lanes, number) = (Arc::clone(&self.lanes), self.number);
        begin(lanes, number, move || {
            let _ = tell.send(());
            self.run()
        })?;
        Ok(told)
    }

    fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.wait(&mut events)?;
            self.round(&events, Instant::now());
        }
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let now = Instant::now();
        let deadlines = [self.translator.deadline(), self.rings.deadline(now)];
        let deadline = deadlines.into_iter().flatten().fold(now + LONG, Instant::min);
        if deadline > now || now >= self.reported + REPORT {
            self.report(now);
        }
        let Self { poll, patience, rings, translator, .. } = self;
        let moved = translator.counters().rx_bytes + translator.counters().tx_bytes;
        wait(poll, events, patience, deadline, moved, || rings.has_frames())?;
        self.rings.stay_awake(self.patience.is_worth_it());
        Ok(())
    }

    fn report(&mut self, now: Instant) {
        self.reported = now;
        let translator = &self.translator;
        let flows = [translator.tcp().len(), translator.udp().len(), translator.echo().len()];
        let report = Report { counters: translator.counters().clone(), totals: self.rings.totals(), flows };
        self.lanes.report(self.number, report);
    }

    fn round(&mut self, events: &Events, now: Instant) {
        self.translator.begin();
        let mut letters = self.lanes.take_letters(self.number);
        let (mut room, mut orders) = (false, Vec::new());
        letters.retain_mut(|letter| match letter {
            Letter::Rings { changes, epoch, answer } => {
                // What was found of rings that are gone is not to be told of the next.
                self.tell_of_fault();
                self.epoch = *epoch;
                // Whoever asked has ended if it does not take the answer.
                let _ = answer.send(self.rings.change(std::mem::take(changes)));
                false
            }
            Letter::ListFlows { most, answer } => {
                let mut lines = Vec::new();
                list_flows(&self.translator, &self.sockets, &mut |line| {
                    lines.push(line.to_owned());
                    lines.len() < *most
                });
                let _ = answer.send(lines);
                false
            }
            Letter::Room => {
                room = true;
                false
            }
            Letter::Move { order, answer } => {
                orders.push((std::mem::replace(&mut **order, MoveOrder::GoOn), answer.clone()));
                false
            }
            _ => true,
        });
        for event in events.iter().filter(|event| event.token() != LETTERS) {
            self.rings.event(event.token());
        }
        self.tell_of_fault();
        self.rings.turn();
        self.lanes.set_takes_connections(self.number, self.rings.is_there());
        room |= self.rings.take_room();

        let Self { translator, sockets, rings, relay, pcap, .. } = self;
        let (source, link) = rings.halves();
        let mut link = Recorded { link: Link::Lane(link, relay), pcap: pcap.as_deref() };
        for (order, answer) in orders {
            // Whoever asked has ended if it does not take the answer.
            let _ = answer.send(translator.obey(now, order, sockets, &mut link));
        }
        if room {
            translator.link_ready(now, sockets, &mut link);
        }
        round::serve(now, events, letters, translator, sockets, &mut Source::Rings(source), &mut link);
        translator.finish(now, sockets, &mut link);
        let memory_faults = translator.counters().memory_faults;
        if memory_faults > self.memory_faults {
            self.memory_faults = memory_faults;
            rings.note_fault(RingFault::MemoryLost.to_string());
        }
    }

    fn tell_of_fault(&mut self) {
        if let Some(reason) = self.rings.take_fault() {
            self.lanes.post(0, Letter::Fault { lane: self.number, epoch: self.epoch, reason });
        }
    }
}

/// Starts thread `number`. However it ends, the first one is told, and the process ends.
fn begin(lanes: Arc<Lanes>, number: usize, run: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let whole = move || {
        let mut end = End { lanes, number, reason: "it panicked".to_owned() };
        if let Err(error) = run() {
            end.reason = format!("{error:#}");
        }
    };
    std::thread::Builder::new().name(format!("lane-{number}")).spawn(whole).context("cannot start a thread")?;
    Ok(())
}

/// Tells the first thread of the end of this one.
struct End {
    lanes: Arc<Lanes>,
    number: usize,
    reason: String,
}

impl Drop for End {
    fn drop(&mut self) {
        self.lanes.end(self.number, std::mem::take(&mut self.reason));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use culvert_translate::guest::Guest;
    use mio::Waker;

    use super::*;

    /// What the first thread is told when `run` is all that another one does.
    fn end_of(run: impl FnOnce() -> Result<()> + Send + 'static) -> String {
        let mut polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let wakers = polls.iter().map(|poll| Waker::new(poll.registry(), LETTERS).unwrap()).collect();
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let lanes = Lanes::new(wakers, Guest { mac: None, v4, v6, v6_link_local: None, longest_packet: None });
        begin(Arc::clone(&lanes), 1, run).unwrap();
        polls[0].poll(&mut Events::with_capacity(1), None).unwrap();
        match lanes.take_letters(0).pop() {
            Some(Letter::Ended(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn however_a_thread_ends_the_first_one_is_told() {
        assert_eq!(end_of(|| panic!("as the test wants it")), "it panicked");
        assert_eq!(end_of(|| anyhow::bail!("epoll_wait failed")), "epoll_wait failed");
    }
}
