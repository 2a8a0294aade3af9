//! The rings of a guest that shares its memory: those that one thread serves, all of them or, with
//! [lanes](crate::lane), those of one queue pair.
//!
//! Each ring has its kick watched. A transmit ring (our rx) is read while it has frames, then armed; a receive ring is armed
//! only when a frame found no room in it. With several queue pairs, frames to the guest are spread over its receive rings
//! by their flow; all transmit rings are served in turn.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use culvert_frame::{Offload, Offloads, header};
use culvert_guest::device::{MAX_QUEUE_PAIRS, RingChange, RingSetup, StoppedRing};
use culvert_guest::features;
use culvert_guest::receive::PutError;
use culvert_guest::{
    DirtyLog, Memory, NetHeader, Piece, ReceiveQueue, Reserved, RingFault, RingLog, Rooms, TransmitBurst,
    TransmitQueue, bus_fault,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::link::Full;
use crate::time::Instant;
use crate::transport::finish::{self, Backlog, Sink, Workspace};
use crate::transport::{Burst, Frames, Totals};

/// Tokens that are used: one for each ring that there may be.
pub const TOKENS: usize = 2 * MAX_QUEUE_PAIRS as usize;

/// How often rings are looked at whose guest has no kick. None that we know of does without.
const WITHOUT_KICK: Duration = Duration::from_millis(1);

/// Some rings of a guest.
#[derive(Debug)]
pub struct RingSet {
    registry: Registry,
    first: usize,
    transmit: Transmit,
    receive: Receive,
    bus_faults: u64,
}

impl RingSet {
    /// No rings yet. Uses [`TOKENS`] tokens of `registry` from `first` on.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new(registry: &Registry, first: Token) -> std::io::Result<Self> {
        Ok(Self {
            registry: registry.try_clone()?,
            first: first.0,
            transmit: Transmit::default(),
            receive: Receive::default(),
            bus_faults: bus_fault::count(),
        })
    }

    /// Something happened at one of the tokens. Others are ignored.
    pub fn event(&mut self, token: Token) {
        let Some(ring) = token.0.checked_sub(self.first) else { return };
        if ring % 2 == 1 {
            if let Some(Some(ring)) = self.transmit.rings.get_mut(ring / 2) {
                ring.wake();
            }
        } else if let Some(Some(ring)) = self.receive.rings.get_mut(ring / 2) {
            ring.wake();
            self.receive.room = true;
        }
    }

    /// What the guest did to its rings or its memory since the last time.
    pub fn take_fault(&mut self) -> Option<String> {
        let bus_faults = bus_fault::count();
        if bus_faults != self.bus_faults {
            self.bus_faults = bus_faults;
            let transmit = self.transmit.rings.iter().flatten().map(|ring| (&ring.memory, &ring.log));
            let receive = self.receive.rings.iter().flatten().map(|ring| (&ring.memory, &ring.log));
            let is_lost = |(memory, log): (&Arc<Memory>, &Option<Arc<DirtyLog>>)| {
                memory.faulted() || log.as_ref().is_some_and(|log| log.faulted())
            };
            if transmit.chain(receive).any(is_lost) {
                // What was found of its rings meanwhile is what is left in their place.
                self.receive.fault = Some(RingFault::MemoryLost.to_string());
            }
        }
        self.receive.fault.take().or(self.transmit.fault.take())
    }

    /// Notes a fault that was found elsewhere.
    pub fn note_fault(&mut self, reason: String) {
        self.receive.fault.get_or_insert(reason);
    }

    /// Does what is due: once in each round.
    pub fn turn(&mut self) {
        self.transmit.wake_those_without_kick();
        self.receive.wake_those_without_kick();
        self.receive.drain();
    }

    /// Whether there is a receive ring that takes frames.
    pub fn is_there(&self) -> bool {
        self.receive.is_there()
    }

    /// Whether there may be room again since the last time.
    pub fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.receive.room)
    }

    /// When the next round is due, whatever happens.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let unseen = self.transmit.is_awake() && !self.transmit.stays_awake;
        let fault =
            self.receive.fault.is_some() || self.transmit.fault.is_some() || bus_fault::count() != self.bus_faults;
        let at_once = unseen || fault || self.receive.room;
        let slow = self.transmit.is_without_kick() || self.receive.is_without_kick();
        if at_once { Some(now) } else { slow.then(|| now + WITHOUT_KICK) }
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

    /// The longest packet that the receive rings' buffers hold, in bytes, where the features limit that.
    pub const fn longest_packet(&self) -> Option<u16> {
        self.receive.longest_packet
    }

    /// What these rings lost or refused; not what became of connections.
    pub fn totals(&self) -> Totals {
        Totals {
            rx_disabled: self.transmit.disabled,
            tx_refused: self.receive.refused,
            tx_segmented: self.receive.segmented,
            ..Totals::default()
        }
    }

    /// Changes rings, in the order given. Nothing of a stopped one is used any more when this returns.
    pub fn change(&mut self, changes: Vec<RingChange>) -> Vec<StoppedRing> {
        // Or there may be another way where there was none, or the other way round.
        self.receive.room = true;
        let mut stopped = Vec::new();
        for change in changes {
            match change {
                RingChange::Stop { ring } => stopped.push(StoppedRing { ring, position: self.stop(ring) }),
                RingChange::Start { ring, setup } => self.start(ring, &setup),
                RingChange::Enable { ring, enabled } => self.enable(ring, enabled),
                RingChange::Log { ring, log } => self.log(ring, log.as_ref()),
            }
        }
        stopped
    }

    fn start(&mut self, number: u16, setup: &RingSetup) {
        let index = usize::from(number / 2);
        let RingSetup { memory, kick, enabled, features, .. } = setup;
        let (memory, enabled) = (Arc::clone(memory), *enabled);
        let log = setup.log.as_ref().map(|log| Arc::clone(&log.log));
        let started = if number % 2 == 1 {
            TransmitQueue::start(setup).map(|queue| {
                let kick = self.watched(number, kick.clone());
                let ring = TransmitRing { queue, memory, log, kick, enabled, state: State::Awake };
                put_at(&mut self.transmit.rings, index, ring);
            })
        } else {
            ReceiveQueue::start(setup).map(|queue| {
                let kick = self.watched(number, kick.clone());
                let ring =
                    ReceiveRing { queue, memory, log, kick, enabled, state: State::Awake, backlog: Backlog::default() };
                put_at(&mut self.receive.rings, index, ring);
                self.receive.longest_packet = features::longest_received_packet(*features);
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
            let _ = self.registry.deregister(&mut SourceFd(&kick.as_fd().as_raw_fd()));
        }
        position
    }

    fn log(&mut self, number: u16, log: Option<&RingLog>) {
        let index = usize::from(number / 2);
        let kept = log.map(|log| Arc::clone(&log.log));
        if number % 2 == 1 {
            if let Some(Some(ring)) = self.transmit.rings.get_mut(index) {
                ring.queue.log(log);
                ring.log = kept;
            }
        } else if let Some(Some(ring)) = self.receive.rings.get_mut(index) {
            ring.queue.log(log);
            ring.log = kept;
        }
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
        let token = Token(self.first + usize::from(number));
        kick.filter(|kick| {
            let descriptor = kick.as_fd().as_raw_fd();
            self.registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE).is_ok()
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
    /// Where its writes are logged, if they are.
    log: Option<Arc<DirtyLog>>,
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
    /// The longest packet, in bytes, that buffers hold under the features agreed last.
    longest_packet: Option<u16>,
}

#[derive(Debug)]
struct ReceiveRing {
    queue: ReceiveQueue,
    memory: Arc<Memory>,
    /// Where its writes are logged, if they are.
    log: Option<Arc<DirtyLog>>,
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
    /// Whether some ring takes frames.
    #[inline]
    pub fn is_there(&self) -> bool {
        self.0.is_there()
    }

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
        let Receive { rings, workspace, room, refused, segmented, fault, .. } = &mut *self.0;
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

    /// See [`GuestLink::is_full`](crate::link::GuestLink::is_full).
    pub fn is_full(&self) -> bool {
        let mut usable = self.0.rings.iter().flatten().filter(|ring| is_usable(ring)).peekable();
        usable.peek().is_some() && usable.all(|ring| ring.state == State::Armed)
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
