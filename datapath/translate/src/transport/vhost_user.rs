//! A guest whose rings lie in memory that it shares with us: vhost-user, as a server (passt's way) or as a client.
//!
//! The dialogue with the frontend ([`SinglePort`]) runs in the caller's thread, like everything else: a ring is taken
//! up and let go of between two bursts. Each ring has its kick watched. A transmit ring (our rx) is read while it has
//! frames, then armed; a receive ring is armed only when a frame found no room in it. With several queue pairs, frames
//! to the guest are spread over its receive rings by their flow; all transmit rings are served in turn.
//!
//! What the guest does to its rings is its own affair: it costs it its connection, never us the process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use culvert_frame::{Offload, Offloads, header};
use culvert_guest::device::{RingChange, RingSetup, StoppedRing};
use culvert_guest::receive::PutError;
use culvert_guest::{
    Memory, NetHeader, Piece, ReceiveQueue, Reserved, RingFault, Rooms, TransmitBurst, TransmitQueue, bus_fault,
};
use culvert_vhost::single::{Counts, Rings, SingleError, SinglePort};
use culvert_vhost::{PortSocket, SocketState, single};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::link::Full;
use crate::time::Instant;
use crate::transport::finish::{self, Backlog, Sink, Workspace};
use crate::transport::{Burst, Frames, News, Totals, Watch};

/// Most queue pairs of one guest.
pub const MAX_QUEUE_PAIRS: u16 = culvert_guest::device::MAX_QUEUE_PAIRS;

/// Tokens that are used: those of the socket, then one for each ring.
pub const TOKENS: usize = single::TOKENS + 2 * MAX_QUEUE_PAIRS as usize;

/// How often rings are looked at whose guest has no kick. None that we know of does without.
const WITHOUT_KICK: Duration = Duration::from_millis(1);

/// The device.
#[derive(Debug)]
pub struct VhostUser {
    port: SinglePort,
    watch: Watch,
    transmit: Transmit,
    receive: Receive,
    bus_faults: u64,
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
            watch: Watch::new(registry, first)?,
            transmit: Transmit::default(),
            receive: Receive::default(),
            bus_faults: bus_fault::count(),
            was_there: false,
            counts: Counts::default(),
            quarantined: 0,
        })
    }

    /// See [`Transport::event`](super::Transport::event).
    pub fn event(&mut self, token: Token, now: Instant) {
        let Some(index) = self.watch.index(token) else { return };
        let Some(ring) = index.checked_sub(single::TOKENS) else {
            let mut rings = AllRings { watch: &self.watch, transmit: &mut self.transmit, receive: &mut self.receive };
            self.port.event(token, &mut rings, now.to_std());
            return;
        };
        if ring % 2 == 1 {
            if let Some(Some(ring)) = self.transmit.rings.get_mut(ring / 2) {
                ring.wake();
            }
        } else if let Some(Some(ring)) = self.receive.rings.get_mut(ring / 2) {
            ring.wake();
            self.receive.room = true;
        }
    }

    /// See [`Transport::turn`](super::Transport::turn).
    pub fn turn(&mut self, now: Instant) -> News {
        let bus_faults = bus_fault::count();
        if bus_faults != self.bus_faults {
            self.bus_faults = bus_faults;
            let transmit = self.transmit.rings.iter().flatten().map(|ring| &ring.memory);
            let receive = self.receive.rings.iter().flatten().map(|ring| &ring.memory);
            if transmit.chain(receive).any(|memory| memory.faulted()) {
                // What was found of its rings meanwhile is what is left in their place.
                self.receive.fault = Some(RingFault::MemoryLost.to_string());
            }
        }
        let fault = self.receive.fault.take().or(self.transmit.fault.take());
        let mut rings = AllRings { watch: &self.watch, transmit: &mut self.transmit, receive: &mut self.receive };
        // What a frontend did that has gone since is not held against the next.
        if let Some(reason) = fault.filter(|_| self.port.counts().ended == self.counts.ended) {
            self.quarantined += 1;
            self.port.quarantine(reason, &mut rings, now.to_std());
        }
        self.port.turn(&mut rings, now.to_std());
        self.transmit.wake_those_without_kick();
        self.receive.wake_those_without_kick();
        self.receive.drain();

        let before = std::mem::replace(&mut self.counts, self.port.counts());
        let left = self.counts.ended != before.ended;
        let there = self.receive.is_there();
        let came = there && (left || !self.was_there);
        self.was_there = there;
        News { came, left, room: std::mem::take(&mut self.receive.room) && there }
    }

    /// See [`Transport::deadline`](super::Transport::deadline).
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let unseen = self.transmit.is_awake() && !self.transmit.stays_awake;
        let at_once = unseen || self.receive.room || self.has_fault();
        let slow = self.transmit.is_without_kick() || self.receive.is_without_kick();
        let rings = if at_once { Some(now) } else { slow.then(|| now + WITHOUT_KICK) };
        [rings, self.port.deadline(now.to_std()).map(Instant::from_std)].into_iter().flatten().min()
    }

    /// See [`Transport::has_frames`](super::Transport::has_frames).
    pub fn has_frames(&mut self) -> bool {
        self.transmit.rings.iter_mut().flatten().filter(|ring| is_awake(ring)).any(|ring| {
            // What is wrong with it is found by whoever takes the frames.
            ring.queue.has_frames().unwrap_or(true)
        })
    }

    /// See [`Transport::stay_awake`](super::Transport::stay_awake).
    pub fn stay_awake(&mut self, stay: bool) {
        self.transmit.stays_awake = stay;
    }

    /// See [`Transport::halves`](super::Transport::halves).
    pub fn halves(&mut self) -> (RingSource<'_>, RingLink<'_>) {
        (RingSource(&mut self.transmit), RingLink(&mut self.receive))
    }

    /// See [`Transport::leave_name`](super::Transport::leave_name).
    pub fn leave_name(&mut self) {
        self.port.leave_name();
    }

    /// See [`Transport::quarantine`](super::Transport::quarantine); done in the next turn.
    pub fn quarantine(&mut self, reason: String) {
        self.receive.fault.get_or_insert(reason);
    }

    /// The socket: whether there is a frontend, and what is agreed with it.
    pub const fn state(&self) -> &SocketState {
        self.port.state()
    }

    /// What passed so far.
    pub const fn totals(&self) -> Totals {
        Totals {
            connections: self.counts.begun,
            quarantined: self.quarantined,
            rx_disabled: self.transmit.disabled,
            tx_refused: self.receive.refused,
            tx_segmented: self.receive.segmented,
        }
    }

    const fn has_fault(&self) -> bool {
        self.receive.fault.is_some() || self.transmit.fault.is_some()
    }
}

/// All rings, for the session to change them.
struct AllRings<'a> {
    watch: &'a Watch,
    transmit: &'a mut Transmit,
    receive: &'a mut Receive,
}

impl Rings for AllRings<'_> {
    fn change(&mut self, changes: Vec<RingChange>) -> Vec<StoppedRing> {
        let mut stopped = Vec::new();
        for change in changes {
            match change {
                RingChange::Stop { ring } => stopped.push(StoppedRing { ring, position: self.stop(ring) }),
                RingChange::Start { ring, setup } => self.start(ring, &setup),
                RingChange::Enable { ring, enabled } => self.enable(ring, enabled),
            }
        }
        stopped
    }
}

impl AllRings<'_> {
    fn start(&mut self, number: u16, setup: &RingSetup) {
        let index = usize::from(number / 2);
        let RingSetup { memory, kick, enabled, .. } = setup;
        let (memory, enabled) = (Arc::clone(memory), *enabled);
        let started = if number % 2 == 1 {
            TransmitQueue::start(setup).map(|queue| {
                let kick = self.watched(number, kick.clone());
                let ring = TransmitRing { queue, memory, kick, enabled, state: State::Awake };
                put_at(&mut self.transmit.rings, index, ring);
            })
        } else {
            ReceiveQueue::start(setup).map(|queue| {
                let kick = self.watched(number, kick.clone());
                let ring =
                    ReceiveRing { queue, memory, kick, enabled, state: State::Awake, backlog: Backlog::default() };
                put_at(&mut self.receive.rings, index, ring);
                self.receive.room = true;
            })
        };
        if let Err(error) = started {
            self.receive.fault.get_or_insert(format!("ring {number} cannot be started: {error}"));
        }
    }

    fn stop(&mut self, number: u16) -> u16 {
        let index = usize::from(number / 2);
        let (kick, position) = if number % 2 == 1 {
            let Some(ring) = self.transmit.rings.get_mut(index).and_then(Option::take) else { return 0 };
            (ring.kick, ring.queue.position())
        } else {
            let Some(ring) = self.receive.rings.get_mut(index).and_then(Option::take) else { return 0 };
            (ring.kick, ring.queue.position())
        };
        if let Some(kick) = kick {
            // It was registered by `watched`.
            let _ = self.watch.registry.deregister(&mut SourceFd(&kick.as_fd().as_raw_fd()));
        }
        position
    }

    fn enable(&mut self, number: u16, enabled: bool) {
        let index = usize::from(number / 2);
        if number % 2 == 1 {
            if let Some(Some(ring)) = self.transmit.rings.get_mut(index) {
                ring.enabled = enabled;
            }
        } else if let Some(Some(ring)) = self.receive.rings.get_mut(index) {
            ring.enabled = enabled;
            self.receive.room |= enabled;
        }
    }

    /// Watches a kick. None: there is none, or epoll does not take it.
    fn watched(&self, number: u16, kick: Option<Arc<OwnedFd>>) -> Option<Arc<OwnedFd>> {
        let token = self.watch.token(single::TOKENS + usize::from(number));
        kick.filter(|kick| {
            let descriptor = kick.as_fd().as_raw_fd();
            self.watch.registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE).is_ok()
        })
    }
}

fn put_at<T>(rings: &mut Vec<Option<T>>, index: usize, ring: T) {
    if rings.len() <= index {
        rings.resize_with(index + 1, || None);
    }
    if let Some(place) = rings.get_mut(index) {
        *place = Some(ring);
    }
}

/// Who looks at a ring next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// We do.
    Awake,
    /// Its guest kicks.
    Armed,
    /// Nobody: the guest broke it.
    Broken,
}

/// The guest's transmit rings.
#[derive(Debug, Default)]
struct Transmit {
    rings: Vec<Option<TransmitRing>>,
    storage: TransmitBurst,
    /// Whose turn it is.
    next: usize,
    /// Rings without frames are not armed: somebody looks at them.
    stays_awake: bool,
    /// Frames from disabled rings.
    disabled: u64,
    fault: Option<String>,
}

#[derive(Debug)]
struct TransmitRing {
    queue: TransmitQueue,
    memory: Arc<Memory>,
    kick: Option<Arc<OwnedFd>>,
    enabled: bool,
    state: State,
}

impl TransmitRing {
    fn wake(&mut self) {
        if self.state == State::Armed {
            self.state = State::Awake;
            self.queue.disarm();
        }
    }

    /// Whether there is a frame; if there is none the ring is armed, or `stays_awake`.
    fn has_frames(&mut self, stays_awake: bool) -> Result<bool, RingFault> {
        if self.queue.has_frames()? {
            return Ok(true);
        }
        if stays_awake {
            return Ok(false);
        }
        if self.queue.arm()? {
            self.state = State::Armed;
            return Ok(false);
        }
        self.queue.disarm();
        Ok(true)
    }
}

impl Transmit {
    fn is_awake(&self) -> bool {
        self.rings.iter().flatten().any(is_awake)
    }

    fn is_without_kick(&self) -> bool {
        self.rings.iter().flatten().any(|ring| ring.kick.is_none() && ring.state == State::Armed)
    }

    fn wake_those_without_kick(&mut self) {
        self.rings.iter_mut().flatten().filter(|ring| ring.kick.is_none()).for_each(TransmitRing::wake);
    }

    /// The next ring in turn that has a frame.
    fn with_frames(&mut self) -> Option<usize> {
        for step in 0..self.rings.len() {
            let index = (self.next + step) % self.rings.len();
            let Some(Some(ring)) = self.rings.get_mut(index).filter(|ring| ring.as_ref().is_some_and(is_awake)) else {
                continue;
            };
            let looked = match ring.has_frames(self.stays_awake) {
                Ok(true) if ring.enabled => {
                    self.next = index + 1;
                    return Some(index);
                }
                // Frames on a disabled ring are taken and thrown away (vhost-user, "Ring states").
                Ok(true) => ring.queue.receive(&mut self.storage).map(|burst| self.disabled += burst.len() as u64),
                Ok(false) => Ok(()),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = looked {
                ring.state = State::Broken;
                self.fault.get_or_insert(fault.to_string());
            }
        }
        None
    }
}

fn is_awake(ring: &TransmitRing) -> bool {
    ring.state == State::Awake
}

/// Frames from a guest's transmit rings.
#[derive(Debug)]
pub struct RingSource<'a>(&'a mut Transmit);

impl RingSource<'_> {
    /// See [`Source::receive`](super::Source::receive).
    pub fn receive(&mut self) -> Burst<'_> {
        let Some(index) = self.0.with_frames() else { return Burst::NONE };
        let Some(Some(ring)) = self.0.rings.get_mut(index) else { return Burst::NONE };
        match ring.queue.receive(&mut self.0.storage) {
            Ok(received) => Burst { asks: received.asks(), frames: Frames::Rings(received) },
            Err(fault) => {
                ring.state = State::Broken;
                self.0.fault.get_or_insert(fault.to_string());
                Burst::NONE
            }
        }
    }
}

/// The guest's receive rings.
#[derive(Debug, Default)]
struct Receive {
    rings: Vec<Option<ReceiveRing>>,
    workspace: Workspace,
    /// There may be room again.
    room: bool,
    /// Frames that fit into no buffer.
    refused: u64,
    segmented: u64,
    fault: Option<String>,
}

#[derive(Debug)]
struct ReceiveRing {
    queue: ReceiveQueue,
    memory: Arc<Memory>,
    kick: Option<Arc<OwnedFd>>,
    enabled: bool,
    /// Armed: the guest has no room, and kicks when it has.
    state: State,
    backlog: Backlog,
}

impl Sink for ReceiveQueue {
    fn takes(&self) -> Offloads {
        self.takes()
    }

    fn put(&mut self, header: &NetHeader, head: &[u8], payload: &[u8]) -> Result<(), PutError> {
        let length = u32::try_from(head.len() + payload.len()).map_err(|_| PutError::SmallBuffer)?;
        self.put(header, head, length, std::iter::once(Piece::from(payload)))
    }
}

impl ReceiveRing {
    fn wake(&mut self) {
        if self.state == State::Armed {
            self.state = State::Awake;
            self.queue.disarm();
        }
    }

    /// Tries `put` until it is done or the guest is to kick when it has more room.
    ///
    /// # Errors
    /// [`PutError::NoBuffer`]: the ring is armed, or was refilled again and again. Any other.
    fn try_to<T>(&mut self, mut put: impl FnMut(&mut Self) -> Result<T, PutError>) -> Result<T, PutError> {
        if self.state != State::Awake {
            return Err(PutError::NoBuffer);
        }
        for _ in 0..REFILLS {
            match put(self) {
                Err(PutError::NoBuffer) => {}
                result => return result,
            }
            // The guest may be waiting for what was put to make room.
            self.queue.publish();
            if self.queue.arm()? {
                self.state = State::Armed;
                break;
            }
            self.queue.disarm();
        }
        Err(PutError::NoBuffer)
    }
}

/// How often a ring that was refilled meanwhile is tried again at once.
const REFILLS: u32 = 4;

impl Receive {
    /// Whether some ring takes frames.
    fn is_there(&self) -> bool {
        self.rings.iter().flatten().any(is_usable)
    }

    fn is_without_kick(&self) -> bool {
        self.rings.iter().flatten().any(|ring| ring.kick.is_none() && ring.state == State::Armed)
    }

    fn wake_those_without_kick(&mut self) {
        for ring in self.rings.iter_mut().flatten().filter(|ring| ring.kick.is_none() && ring.state == State::Armed) {
            ring.wake();
            self.room = true;
        }
    }

    /// Puts segments that waited for room.
    fn drain(&mut self) {
        for ring in self.rings.iter_mut().flatten().filter(|ring| !ring.backlog.is_empty()) {
            let drained = ring.try_to(|ring| ring.backlog.drain(&mut ring.queue));
            ring.queue.publish();
            // Refilled again and again: there is room by now.
            self.room |= drained == Err(PutError::NoBuffer) && ring.state == State::Awake;
            note(&mut self.fault, ring, drained);
        }
    }
}

/// The ring for a frame of this flow.
#[inline]
fn choose<'a>(rings: &'a mut [Option<ReceiveRing>], head: &[u8]) -> Option<&'a mut ReceiveRing> {
    let count = rings.iter().flatten().filter(|ring| is_usable(ring)).count();
    let chosen = if count > 1 { header::flow_hash(head) as usize % count } else { 0 };
    rings.iter_mut().flatten().filter(|ring| is_usable(ring)).nth(chosen)
}

fn is_usable(ring: &ReceiveRing) -> bool {
    ring.enabled && ring.state != State::Broken
}

/// Notes a fault.
fn note<T>(fault: &mut Option<String>, ring: &mut ReceiveRing, result: Result<T, PutError>) {
    if let Err(PutError::Fault(found)) = result {
        ring.state = State::Broken;
        fault.get_or_insert(found.to_string());
    }
}

/// Frames to a guest's receive rings.
#[derive(Debug)]
pub struct RingLink<'a>(&'a mut Receive);

impl RingLink<'_> {
    /// What the guest's driver takes undone.
    pub fn takes(&self) -> Offloads {
        self.0.rings.iter().flatten().find(|ring| is_usable(ring)).map_or(Offloads::NONE, |ring| ring.queue.takes())
    }

    /// See [`GuestLink::put`](crate::link::GuestLink::put). A frame that no buffer of the guest is large enough for is
    /// lost, and counted.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let Receive { rings, workspace, room, refused, segmented, fault } = &mut *self.0;
        let ring = choose(rings, head).ok_or(Full)?;
        let result = ring.try_to(|ring| {
            ring.backlog.drain(&mut ring.queue)?;
            finish::put(&mut ring.queue, offload, head, payload, workspace, &mut ring.backlog)
        });
        match result {
            Ok(cut) => {
                *segmented += u64::from(cut);
                // Segments are left over: the ring is to be armed.
                *room |= !ring.backlog.is_empty();
                Ok(())
            }
            Err(PutError::SmallBuffer) => {
                *refused += 1;
                Ok(())
            }
            Err(PutError::NoBuffer) => {
                // Refilled again and again: there is room by now.
                *room |= ring.state == State::Awake;
                Err(Full)
            }
            Err(PutError::Fault(_)) => {
                note(fault, ring, result);
                Err(Full)
            }
        }
    }

    /// See [`GuestLink::reserve`](crate::link::GuestLink::reserve).
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(
        &mut self,
        offload: Offload,
        head: &[u8],
        payload_bytes: u32,
    ) -> Result<Option<RingReservation<'_>>, Full> {
        let Receive { rings, room, fault, .. } = &mut *self.0;
        let ring = choose(rings, head).ok_or(Full)?;
        let takes = ring.queue.takes();
        if !finish::simplest(offload, head.len() + payload_bytes as usize, takes).receivable(takes) {
            return Ok(None);
        }
        let head_bytes = u32::try_from(head.len()).unwrap_or(u32::MAX);
        // One segment is enough: a guest may wait for what it gets before it offers more.
        let least = match offload {
            Offload::Segment(segmentation) => payload_bytes.min(segmentation.size.into()),
            Offload::None | Offload::Valid | Offload::Checksum(_) => payload_bytes,
        };
        let found = ring.try_to(|ring| {
            ring.backlog.drain(&mut ring.queue)?;
            ring.queue.find_room(head_bytes, least, payload_bytes)
        });
        match found {
            Ok(()) => Ok(ring.queue.reserved().map(|reserved| RingReservation { reserved, takes })),
            // To be cut into segments, or lost.
            Err(PutError::SmallBuffer) => Ok(None),
            Err(PutError::NoBuffer) => {
                *room |= ring.state == State::Awake;
                Err(Full)
            }
            Err(PutError::Fault(_)) => {
                note(fault, ring, found);
                Err(Full)
            }
        }
    }

    /// Shows the guest what was put.
    pub fn flush(&mut self) {
        self.0.rings.iter_mut().flatten().for_each(|ring| ring.queue.publish());
    }
}

/// Room for one frame in a ring.
#[derive(Debug)]
pub struct RingReservation<'a> {
    reserved: Reserved<'a>,
    takes: Offloads,
}

impl RingReservation<'_> {
    /// See [`Reservation::rooms`](super::Reservation::rooms).
    #[inline]
    pub fn rooms(&mut self) -> Rooms<'_> {
        self.reserved.rooms()
    }

    /// See [`Reservation::commit`](super::Reservation::commit).
    #[inline]
    pub fn commit(self, offload: Offload, head: &[u8], payload_bytes: u32) {
        let offload = finish::simplest(offload, head.len() + payload_bytes as usize, self.takes);
        self.reserved.commit(&NetHeader::of(&offload.fields()), head, payload_bytes);
    }
}
