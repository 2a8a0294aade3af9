//! A guest whose rings lie in memory that it shares with us: vhost-user, as a server (passt's way) or as a client.
//!
//! The dialogue with the frontend ([`SinglePort`]) runs in the caller's thread, like everything else: a ring is taken
//! up and let go of between two bursts. Its rings are [`rings`]; with [lanes](crate::lane) those of the first queue pair are
//! here, and the dialogue has the others changed where they are.
//!
//! What the guest does to its rings is its own affair: it costs it its connection, never us the process.

use std::os::unix::net::UnixStream;

use culvert_guest::device::{RingChange, StoppedRing};
use culvert_vhost::session::StateWish;
use culvert_vhost::single::{Counts, Rings, SingleError, SinglePort};
use culvert_vhost::{PortSocket, SocketState, single};
use mio::{Registry, Token};

use crate::lane::RingsElsewhere;
use crate::time::Instant;
use crate::transport::rings::{self, RingLink, RingSet, RingSource};
use crate::transport::{News, Totals};

/// Most queue pairs of one guest.
pub const MAX_QUEUE_PAIRS: u16 = culvert_guest::device::MAX_QUEUE_PAIRS;

/// Tokens that are used: those of the socket, then those of the rings.
pub const TOKENS: usize = single::TOKENS + rings::TOKENS;

/// The device.
#[derive(Debug)]
pub struct VhostUser {
    port: SinglePort,
    first: Token,
    rings: RingSet,
    /// The rings that other threads serve.
    elsewhere: Option<RingsElsewhere>,
    was_there: bool,
    /// Connections when last looked.
    counts: Counts,
    quarantined: u64,
}

impl VhostUser {
    /// Creates the socket, or looks for the one that the frontend creates, or takes up `connected`. Uses
    /// [`TOKENS`] tokens of `registry` from `first` on.
    ///
    /// # Errors
    /// The socket cannot be created: which, why and what to do.
    pub fn new(
        socket: PortSocket,
        connected: Option<UnixStream>,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, SingleError> {
        Ok(Self {
            port: SinglePort::new(socket, connected, registry, first)?,
            first,
            rings: RingSet::new(registry, Token(first.0 + single::TOKENS))?,
            elsewhere: None,
            was_there: false,
            counts: Counts::default(),
            quarantined: 0,
        })
    }

    /// Has other threads serve all queue pairs but the first one. To be called before the first event.
    pub fn spread(&mut self, elsewhere: RingsElsewhere) {
        self.elsewhere = Some(elsewhere);
    }

    /// See [`Transport::event`](super::Transport::event).
    pub fn event(&mut self, token: Token, now: Instant) {
        let Some(index) = token.0.checked_sub(self.first.0).filter(|index| *index < TOKENS) else { return };
        if index < single::TOKENS {
            let mut rings = AllRings { here: &mut self.rings, elsewhere: self.elsewhere.as_mut() };
            self.port.event(token, &mut rings, now.to_std());
        } else {
            self.rings.event(token);
        }
    }

    /// See [`Transport::turn`](super::Transport::turn).
    pub fn turn(&mut self, now: Instant) -> News {
        let fault = self.rings.take_fault();
        let mut rings = AllRings { here: &mut self.rings, elsewhere: self.elsewhere.as_mut() };
        // What a frontend did that has gone since is not held against the next.
        if let Some(reason) = fault.filter(|_| self.port.counts().ended == self.counts.ended) {
            self.quarantined += 1;
            self.port.quarantine(reason, &mut rings, now.to_std());
        }
        self.port.turn(&mut rings, now.to_std());
        self.rings.turn();

        let before = std::mem::replace(&mut self.counts, self.port.counts());
        let left = self.counts.ended != before.ended;
        let there = self.rings.is_there();
        let came = there && (left || !self.was_there);
        self.was_there = there;
        // Also where there is no ring any more: what waits for room ends with the guest that it was for.
        News { came, left, room: self.rings.take_room() }
    }

    /// See [`Transport::deadline`](super::Transport::deadline).
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let port = self.port.deadline(now.to_std()).map(Instant::from_std);
        [self.rings.deadline(now), port].into_iter().flatten().min()
    }

    /// See [`Transport::has_frames`](super::Transport::has_frames).
    pub fn has_frames(&mut self) -> bool {
        self.rings.has_frames()
    }

    /// See [`Transport::stay_awake`](super::Transport::stay_awake).
    pub fn stay_awake(&mut self, stay: bool) {
        self.rings.stay_awake(stay);
    }

    /// See [`Transport::halves`](super::Transport::halves).
    pub fn halves(&mut self) -> (RingSource<'_>, RingLink<'_>) {
        self.rings.halves()
    }

    /// See [`Transport::leave_name`](super::Transport::leave_name).
    pub fn leave_name(&mut self) {
        self.port.leave_name();
    }

    /// See [`Transport::quarantine`](super::Transport::quarantine); done in the next turn.
    pub fn quarantine(&mut self, reason: String) {
        self.rings.note_fault(reason);
    }

    /// The guest broke a ring that `lane` serves, as that tells. What was told of rings that are
    /// gone is not held against the next.
    pub fn fault_elsewhere(&mut self, lane: usize, epoch: u64, reason: String) {
        if self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.is_current(lane, epoch)) {
            self.quarantine(reason);
        }
    }

    /// What the frontend wants of the translator's state: to be answered by [`Self::answer_state`].
    pub fn take_state_wish(&mut self) -> Option<StateWish> {
        self.port.take_state_wish()
    }

    /// Whether that is done, or has begun.
    pub fn answer_state(&mut self, done: bool, now: Instant) {
        let mut rings = AllRings { here: &mut self.rings, elsewhere: self.elsewhere.as_mut() };
        self.port.answer_state(done, &mut rings, now.to_std());
    }

    /// Whether some receive ring of those that are here takes frames.
    pub fn is_there(&self) -> bool {
        self.was_there
    }

    /// The longest packet that the guest's receive buffers hold, in bytes, where its features limit that.
    pub const fn longest_packet(&self) -> Option<u16> {
        self.rings.longest_packet()
    }

    /// The socket: whether there is a frontend, and what is agreed with it.
    pub const fn state(&self) -> &SocketState {
        self.port.state()
    }

    /// What passed so far.
    pub fn totals(&self) -> Totals {
        Totals { connections: self.counts.begun, quarantined: self.quarantined, ..self.rings.totals() }
    }
}

/// All rings, for the session to change them.
struct AllRings<'a> {
    here: &'a mut RingSet,
    elsewhere: Option<&'a mut RingsElsewhere>,
}

impl Rings for AllRings<'_> {
    fn change(&mut self, changes: Vec<RingChange>) -> Vec<StoppedRing> {
        let Some(elsewhere) = &mut self.elsewhere else { return self.here.change(changes) };
        let (here, there) = changes.into_iter().partition(|change| elsewhere.lane_of(change) == 0);
        let mut stopped = self.here.change(here);
        stopped.extend(elsewhere.change(there));
        stopped
    }
}
