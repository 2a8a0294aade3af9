//! Several threads for a guest of several queue pairs: its lanes.
//!
//! Each lane serves one queue pair and has flows, sockets and an event loop of its own; a flow stays on the lane on which
//! it began. The first one is the thread that there is always: it also has the dialogue with the frontend, the forwards,
//! the control socket, and whatever a guest sends that is neither TCP nor UDP to one peer. Lanes share nothing while frames
//! of their own flows pass. They meet
//!
//! - where a flow begins or ends, and where a frame is of no flow of the lane that it came to: [`Lanes`] knows who has the
//!   flow, and the frame is copied to that one;
//! - by [letters](letter), each lane in its next round. Nobody waits for another, but the first lane for what it asked of
//!   rings and for lists of flows, and what waits for a lane is bounded;
//! - in what is known of the guest, which rarely changes.
//!
//! A lane whose receive queue the guest has stopped or disabled sends its frames by the first one ([`Relay`]).
//!
//! Not here: the threads themselves, which the binary has, and rings ([`transport::rings`](crate::transport::rings)).

pub mod letter;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::RandomState;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_frame::Offload;
use culvert_guest::Packet;
use culvert_guest::device::{RingChange, StoppedRing};
use mio::Waker;

use crate::flow::{FlowEnds, StoredEnds, Target};
use crate::forward::Protocol;
use crate::fragment::Whole;
use crate::guest::Guest;
use crate::icmp_error::Budget;
use crate::link::Full;
use crate::packet::Payload;
use crate::refusal::{Counters, Refusal};
use crate::time::Instant;
use crate::translator::{MoveAnswer, MoveOrder};
use crate::transport::Totals;
use letter::{Letter, PostBox, ToGuest};

/// All lanes of a guest: what they share.
#[derive(Debug)]
pub struct Lanes {
    boxes: Vec<PostBox>,
    held: Mutex<Holdings>,
    guest: Mutex<Guest>,
    /// How often that has changed.
    guest_changes: AtomicU64,
    /// Whether the first lane has a receive ring that takes frames.
    first_is_there: AtomicBool,
    /// How many ICMP errors the guest may be sent.
    errors: Mutex<Budget>,
    secret: RandomState,
    started: Instant,
}

/// Who has what.
#[derive(Debug, Default)]
struct Holdings {
    flows: HashMap<(Protocol, StoredEnds), usize>,
    /// Ports of sockets of UDP with the peers that they are connected to.
    ports: HashSet<(u16, SocketAddr)>,
}

/// What a lane tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it has counted.
    pub counters: Counters,
    /// What its rings have counted.
    pub totals: Totals,
    /// Its flows: of TCP, UDP and echo.
    pub flows: [usize; 3],
}

/// A connection from the world that one lane has accepted for another. Its place in the budget is taken already.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub socket: OwnedFd,
    /// The far end, as the host knows it.
    pub far: SocketAddr,
    /// Where it leads.
    pub target: Target,
}

impl Lanes {
    /// One for each of these, which wake them; `guest` is what is known of the guest.
    pub fn new(wakers: Vec<Waker>, guest: Guest) -> Arc<Self> {
        Arc::new(Self {
            boxes: wakers.into_iter().map(PostBox::new).collect(),
            held: Mutex::default(),
            guest: Mutex::new(guest),
            guest_changes: AtomicU64::new(0),
            first_is_there: AtomicBool::new(false),
            errors: Mutex::default(),
            secret: RandomState::new(),
            started: Instant::now(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.boxes.len()
    }

    /// How many flows they have, of TCP and UDP.
    pub fn flows(&self) -> usize {
        self.held().flows.len()
    }

    /// Sends a letter. False: too much waits for that lane already.
    pub fn post(&self, to: usize, letter: Letter) -> bool {
        self.boxes.get(to).is_some_and(|to| to.put(letter))
    }

    /// Takes what was sent to a lane since the last time.
    pub fn take_letters(&self, lane: usize) -> Vec<Letter> {
        self.boxes.get(lane).map(PostBox::take).unwrap_or_default()
    }

    /// A lane ends, and with it the process.
    pub fn end(&self, lane: usize, reason: String) {
        if let Some(own) = self.boxes.get(lane) {
            own.close();
        }
        self.post(0, Letter::Ended(reason));
    }

    /// Takes the frames that the first lane is to put for others.
    pub fn take_relayed(&self) -> VecDeque<ToGuest> {
        let Some(first) = self.boxes.first() else { return VecDeque::new() };
        let (frames, waiting) = first.take_relayed();
        for lane in waiting {
            self.post(lane, Letter::Room);
        }
        frames
    }

    /// The first lane tells whether it has a receive ring that takes frames.
    pub fn set_first_is_there(&self, is_there: bool) {
        if self.first_is_there.swap(is_there, Ordering::Relaxed) != is_there && is_there {
            for lane in 1..self.count() {
                self.post(lane, Letter::Room);
            }
        }
    }

    /// A lane tells whether it has a receive ring that takes frames: connections from the world go to those that have.
    pub fn set_takes_connections(&self, lane: usize, takes: bool) {
        if let Some(own) = self.boxes.get(lane) {
            own.takes_connections.store(takes, Ordering::Relaxed);
        }
    }

    /// A lane tells of itself.
    pub fn report(&self, lane: usize, report: Report) {
        if let Some(own) = self.boxes.get(lane) {
            *locked(&own.report) = report;
        }
    }

    /// What lanes but the first have told last.
    pub fn reports(&self) -> impl Iterator<Item = Report> + '_ {
        self.boxes.iter().skip(1).map(|other| locked(&other.report).clone())
    }

    /// The flows of all lanes but the first, a line each, at most `most` lines of each lane. Waits for them.
    pub fn list_flows(&self, most: usize) -> Vec<String> {
        let asked: Vec<_> = (1..self.count())
            .filter_map(|lane| {
                let (answer, answered) = channel();
                self.post(lane, Letter::ListFlows { most, answer }).then_some(answered)
            })
            .collect();
        asked.into_iter().filter_map(|answered| answered.recv().ok()).flatten().collect()
    }

    /// Has all lanes but the first do their parts of what becomes of a guest that moves, and waits for them: `orders` has
    /// one for each.
    pub fn move_all(&self, orders: impl Iterator<Item = MoveOrder>) -> Vec<MoveAnswer> {
        let asked: Vec<_> = (1..self.count())
            .zip(orders)
            .filter_map(|(lane, order)| {
                let (answer, answered) = channel();
                self.post(lane, Letter::Move { order: Box::new(order), answer }).then_some(answered)
            })
            .collect();
        asked.into_iter().filter_map(|answered| answered.recv().ok()).collect()
    }

    fn held(&self) -> MutexGuard<'_, Holdings> {
        locked(&self.held)
    }
}

/// Whoever panics with it ends the process.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lane among the others, as its translator has it.
#[derive(Debug)]
pub struct Lane {
    lanes: Arc<Lanes>,
    number: usize,
    /// Who has the flow that was asked for last, if it is not here.
    owner: usize,
    /// Whose turn it is to get a connection.
    next: usize,
    /// What the others know of the guest, and after how many changes.
    known: Guest,
    changes: u64,
}

impl Lane {
    /// Number `number`, from 0, of `lanes`.
    pub fn new(lanes: &Arc<Lanes>, number: usize) -> Self {
        let known = *locked(&lanes.guest);
        Self { lanes: Arc::clone(lanes), number, owner: 0, next: 0, known, changes: 0 }
    }

    /// Whether it is the first one.
    pub const fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Which one it is.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Whether nobody else has a flow.
    ///
    /// # Errors
    /// [`Refusal::OtherLane`]: somebody has, and is who [`Self::pass_on`] passes frames to.
    pub fn is_free(&mut self, protocol: Protocol, ends: &FlowEnds) -> Result<(), Refusal> {
        let owner = self.lanes.held().flows.get(&(protocol, (*ends).into())).copied();
        self.is_ours(owner.unwrap_or(self.number))
    }

    /// A flow begins here.
    ///
    /// # Errors
    /// As with [`Self::is_free`].
    pub fn claim(&mut self, protocol: Protocol, ends: &FlowEnds) -> Result<(), Refusal> {
        let owner = *self.lanes.held().flows.entry((protocol, (*ends).into())).or_insert(self.number);
        self.is_ours(owner)
    }

    fn is_ours(&mut self, owner: usize) -> Result<(), Refusal> {
        if owner == self.number {
            return Ok(());
        }
        self.owner = owner;
        Err(Refusal::OtherLane)
    }

    /// What comes next is for the first lane.
    pub const fn leave_to_first(&mut self) -> Refusal {
        self.owner = 0;
        Refusal::OtherLane
    }

    /// A flow of ours has ended.
    pub fn release(&mut self, protocol: Protocol, ends: &FlowEnds) {
        self.lanes.held().flows.remove(&(protocol, (*ends).into()));
    }

    /// A socket of ours is to have this port and to be connected to this peer. False: there is one already, here or elsewhere.
    pub fn take_port(&mut self, port: u16, peer: SocketAddr) -> bool {
        self.lanes.held().ports.insert((port, peer))
    }

    /// Our socket with this port and this peer is closed.
    pub fn leave_port(&mut self, port: u16, peer: SocketAddr) {
        self.lanes.held().ports.remove(&(port, peer));
    }

    /// Whether one more ICMP error may be sent to the guest.
    pub fn may_tell_of_error(&mut self, now: Instant) -> bool {
        locked(&self.lanes.errors).take(now)
    }

    /// By what initial sequence numbers are chosen: a connection that comes again may come to another lane.
    pub fn sequence_clock(&self) -> (RandomState, Instant) {
        (self.lanes.secret.clone(), self.lanes.started)
    }

    /// Passes a frame of the guest's on, a copy, to whoever [`Refusal::OtherLane`] was about. False: too much waits there.
    pub fn pass_on(&self, frame: &Packet<'_>, offload: Offload) -> bool {
        let mut bytes = vec![0; frame.length as usize];
        Payload::of_frame(frame).copy_to(&mut bytes);
        self.lanes.post(self.owner, Letter::Frame { bytes, offload })
    }

    /// The same of a packet that was put together of fragments.
    pub fn pass_whole_on(&self, packet: Whole) -> bool {
        self.lanes.post(self.owner, Letter::Whole(Box::new(packet)))
    }

    /// Who gets the next connection from the world: each lane in turn that can take it. `None`: this one.
    pub fn next_for_connection(&mut self) -> Option<usize> {
        for _ in 0..self.lanes.count() {
            let lane = self.next % self.lanes.count();
            self.next = lane + 1;
            if lane == self.number {
                return None;
            }
            if self.lanes.boxes.get(lane).is_some_and(PostBox::can_take_connection) {
                return Some(lane);
            }
        }
        None
    }

    /// Gives it one, with its place in the budget.
    pub fn give_connection(&mut self, to: usize, connection: Accepted) {
        // That there is room was seen, and nobody else gives any; a lane that takes none has ended, and with it the process.
        self.lanes.post(to, Letter::Connection(connection));
    }

    /// Learns of the guest what others have: at the beginning of each round.
    pub fn look_at_guest(&mut self, guest: &mut Guest) {
        let changes = self.lanes.guest_changes.load(Ordering::Acquire);
        if changes != self.changes {
            self.changes = changes;
            self.known = *locked(&self.lanes.guest);
            *guest = self.known;
        }
    }

    /// Tells the others what was learned here, if it is new.
    #[inline]
    pub fn tell_of_guest(&mut self, guest: &mut Guest) {
        if *guest != self.known {
            self.merge_guest(guest);
        }
    }

    fn merge_guest(&mut self, guest: &mut Guest) {
        let mut shared = locked(&self.lanes.guest);
        // What others have learned meanwhile stays.
        if guest.mac != self.known.mac {
            shared.mac = guest.mac;
        }
        if guest.v4 != self.known.v4 {
            shared.v4 = guest.v4;
        }
        if guest.v6 != self.known.v6 {
            shared.v6 = guest.v6;
        }
        if guest.v6_link_local != self.known.v6_link_local {
            shared.v6_link_local = guest.v6_link_local;
        }
        if guest.longest_packet != self.known.longest_packet {
            shared.longest_packet = guest.longest_packet;
        }
        self.changes = self.lanes.guest_changes.fetch_add(1, Ordering::Release) + 1;
        self.known = *shared;
        *guest = *shared;
    }
}

/// The way of a lane's frames to the guest while its own receive queue takes none: they are copied to the first lane.
#[derive(Clone, Debug)]
pub struct Relay {
    lanes: Arc<Lanes>,
    number: usize,
}

impl Relay {
    /// Of lane number `number`.
    pub fn new(lanes: &Arc<Lanes>, number: usize) -> Self {
        Self { lanes: Arc::clone(lanes), number }
    }

    /// As [`GuestLink::put`](crate::link::GuestLink::put).
    ///
    /// # Errors
    /// [`Full`]: too much waits there, or the first lane has no guest either. [`Letter::Room`] comes when that has changed.
    pub fn put(&self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let Some(first) = self.lanes.boxes.first() else { return Err(Full) };
        if !self.lanes.first_is_there.load(Ordering::Relaxed) {
            return Err(Full);
        }
        first.relay(self.number, offload, head, payload)
    }
}

/// The rings of the other lanes, as the dialogue with the frontend has them: on the first lane.
#[derive(Debug)]
pub struct RingsElsewhere {
    lanes: Arc<Lanes>,
    of_lane: Vec<RingsOfLane>,
}

#[derive(Clone, Debug, Default)]
struct RingsOfLane {
    running: BTreeSet<u16>,
    /// How often the last of them was stopped: what was told of rings before means nothing any more.
    epoch: u64,
}

impl RingsElsewhere {
    /// No ring runs yet.
    pub fn new(lanes: &Arc<Lanes>) -> Self {
        Self { lanes: Arc::clone(lanes), of_lane: vec![RingsOfLane::default(); lanes.count()] }
    }

    /// Which lane has the ring that is to change.
    pub fn lane_of(&self, change: &RingChange) -> usize {
        let (RingChange::Stop { ring }
        | RingChange::Start { ring, .. }
        | RingChange::Enable { ring, .. }
        | RingChange::Log { ring, .. }) = change;
        usize::from(*ring / 2) % self.of_lane.len().max(1)
    }

    /// Has the lanes change their rings, and waits until it is done: nothing of a stopped ring is used then.
    pub fn change(&mut self, changes: Vec<RingChange>) -> Vec<StoppedRing> {
        let mut of_lane: Vec<Vec<RingChange>> = vec![Vec::new(); self.of_lane.len()];
        for change in changes {
            if let Some(changes) = of_lane.get_mut(self.lane_of(&change)) {
                changes.push(change);
            }
        }
        let mut answers = Vec::new();
        for (lane, changes) in of_lane.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
            let Some(rings) = self.of_lane.get_mut(lane) else { continue };
            changes.iter().for_each(|change| rings.note(change));
            let epoch = rings.epoch;
            let (answer, answered) = channel();
            if self.lanes.post(lane, Letter::Rings { changes, epoch, answer }) {
                answers.push(answered);
            }
        }
        // A lane that does not answer has ended, and with it the process.
        answers.into_iter().filter_map(|answered| answered.recv().ok()).flatten().collect()
    }

    /// Whether what a lane has told of its rings still holds.
    pub fn is_current(&self, lane: usize, epoch: u64) -> bool {
        self.of_lane.get(lane).is_some_and(|rings| rings.epoch == epoch && !rings.running.is_empty())
    }
}

impl RingsOfLane {
    fn note(&mut self, change: &RingChange) {
        match change {
            RingChange::Start { ring, .. } => {
                self.running.insert(*ring);
            }
            RingChange::Stop { ring } => {
                self.epoch += u64::from(self.running.remove(ring) && self.running.is_empty());
            }
            RingChange::Enable { .. } | RingChange::Log { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
