//! The vhost-user dialogue with one frontend, from connection to hang-up, as a state machine.
//!
//! Bytes and file descriptors go in; replies and work come out. No sockets, no clock, no waiting: `now` is an argument.
//! The caller ([`crate::server`], or a fuzz target) reads at most [`Session::wanted`] bytes at a time, so that the
//! descriptors that arrive with them belong to the message at hand, and hands them to [`Session::receive`].
//!
//! What takes long ([`Work`]: mapping memory, waiting for workers) is not done here. While work is out the session is
//! *parked*: it wants no bytes, later requests stay in the socket. [`Session::complete`] takes the result and answers.
//!
//! What a frontend handed over and is not needed any more is not closed here either, for that may take as long as the frontend
//! likes: [`Session::take_leftovers`].
//!
//! Each request ends in exactly one way: its own reply; an acknowledgement if the frontend asked for one (REPLY_ACK); a
//! refusal, told by the acknowledgement or, if none was asked for, by closing the connection; or a closed connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_frame::MacAddress;
use culvert_guest::call::{Call, Replaced};
use culvert_guest::device::{
    Device, DeviceConfig, DeviceError, Kick, RingChange, RingStatus, StoppedRing, Unresponsive,
};
use culvert_guest::memory::MAX_REGIONS;
use culvert_guest::{Memory, MemoryError, Region};
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::event::{self, NotAnEvent};
use crate::message::{self, HEADER_BYTES, Header, MAX_CONFIG_BYTES, MessageError, Request, RingDescriptor, Shape};

/// How long a message may take from its first byte to its last. A frontend may be silent between messages for as long
/// as it likes: QEMU connects before it allocates its guest's memory.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The protocol features that we offer, each of which works. We have nothing to request of a frontend, but user-mode
/// Linux 6.1 finds its interrupt only together with the channel for requests (BACKEND_REQ), so we take and keep it.
const PROTOCOL_FEATURES: Protocol = Protocol::BACKEND_REQ
    .union(Protocol::REPLY_ACK)
    .union(Protocol::MTU)
    .union(Protocol::RARP)
    .union(Protocol::CONFIG)
    .union(Protocol::CONFIGURE_MEM_SLOTS)
    .union(Protocol::RESET_DEVICE);

/// What is offered for a device. MQ only with several queue pairs: user-mode Linux 7.2 takes the number that comes with it for
/// one of rings, and finds that a single pair has too many.
fn protocol_features(config: &DeviceConfig) -> Protocol {
    if config.queue_pairs > 1 { PROTOCOL_FEATURES | Protocol::MQ } else { PROTOCOL_FEATURES }
}

/// What follows from a call.
#[derive(Debug)]
pub struct Outcome {
    /// To be sent to the frontend, before anything else.
    pub reply: Option<Vec<u8>>,
    /// A refusal that the reply tells, to be logged.
    pub refused: Option<Refused>,
    /// What to do next.
    pub next: Next,
}

/// What to do after a reply was sent.
#[derive(Debug)]
pub enum Next {
    /// Read on.
    Read,
    /// Do this and hand the result to [`Session::complete`].
    Work(Work),
    /// Close the connection, stop the rings ([`Session::stop_all`]).
    Close(CloseReason),
}

/// What a request needs done outside of the session.
#[derive(Debug)]
pub enum Work {
    /// Make a memory table: [`MemoryUpdate::map`], result [`Done::Mapped`].
    Map(MemoryUpdate),
    /// Have the workers change rings; if they acknowledge it drop the old table. Result [`Done::Changed`].
    Change {
        /// In order; may be empty.
        changes: Vec<RingChange>,
        /// The memory table that no ring uses any more after the changes.
        retired: Option<Arc<Memory>>,
    },
    /// Tell the network where the guest is (SEND_RARP). Result [`Done::Announced`].
    Announce(MacAddress),
}

/// The result of [`Work`].
#[derive(Debug)]
pub enum Done {
    /// Of [`Work::Map`].
    Mapped(Result<Memory, MemoryError>),
    /// Of [`Work::Change`].
    Changed(Result<Vec<StoppedRing>, Unchanged>),
    /// Of [`Work::Announce`].
    Announced,
}

/// The workers did not acknowledge: the old memory table, which they may still use, comes back.
#[derive(Debug)]
pub struct Unchanged {
    /// Why.
    pub error: Unresponsive,
    /// As it was in the work.
    pub retired: Option<Arc<Memory>>,
}

/// How to make the next memory table.
#[derive(Debug)]
pub enum MemoryUpdate {
    /// From nothing.
    Replace(Vec<(Region, OwnedFd)>),
    /// With a region more.
    Add(Option<Arc<Memory>>, Region, OwnedFd),
    /// With a region less.
    Remove(Option<Arc<Memory>>, Region),
}

impl MemoryUpdate {
    /// Maps the new table. This may take long: with huge pages the kernel may have to make room.
    ///
    /// # Errors
    /// The new table is not one that can be. The old one is untouched in any case.
    pub fn map(self) -> Result<Memory, MemoryError> {
        match self {
            Self::Replace(regions) => Memory::map(regions),
            Self::Add(Some(old), region, file) => old.with_region(region, file),
            Self::Add(None, region, file) => Memory::map(vec![(region, file)]),
            Self::Remove(Some(old), region) => old.without_region(region),
            Self::Remove(None, region) => Err(MemoryError::Unknown(region.guest_address)),
        }
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not well-formed.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It does not fit the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The memory table that it describes cannot be.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Ring's descriptor.
    #[error("ring {ring}: {error}")]
    Event {
        /// Number of the ring.
        ring: u32,
        /// What is wrong.
        error: NotAnEvent,
    },
    /// The descriptor of the channel for our requests.
    #[error("the channel for requests: {0}")]
    Channel(NotAnEvent),
    /// The frontend acknowledged protocol features that were not offered.
    #[error("protocol feature bits {0:#x} were never offered")]
    ProtocolFeatures(u64),
    /// The request belongs to a protocol feature that was not acknowledged.
    #[error("the protocol feature bits {0:#x} were not acknowledged")]
    NotNegotiated(u64),
    /// The configuration space has no writable field.
    #[error("the configuration space cannot be written")]
    ReadOnly,
    /// The workers are stuck.
    #[error(transparent)]
    Unresponsive(#[from] Unresponsive),
}

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{request} refused: {refusal}")]
pub struct Refused {
    /// Its name.
    pub request: String,
    /// Why.
    pub refusal: Refusal,
}

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The frontend closed it.
    #[error("the frontend closed the connection")]
    HungUp,
    /// The frontend closed it inside of a message.
    #[error("the frontend closed the connection in the middle of a message")]
    HungUpInside,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(std::io::Error),
    /// The header cannot be followed.
    #[error("the frontend sent a bad message header: {0}")]
    Header(MessageError),
    /// A request was refused, and there was no way to tell or no point in going on.
    #[error(transparent)]
    Refused(Refused),
    /// Descriptors came with something else than the first bytes of a message.
    #[error("the frontend sent file descriptors in the middle of a message")]
    LateDescriptors,
    /// More descriptors came than fit, or than we may open.
    #[error(
        "the frontend sent more file descriptors than any message has, or culvertd has too many open (see `ulimit -n`)"
    )]
    LostDescriptors,
    /// The rest of a message did not come.
    #[error("the frontend did not finish a message within {} s", MESSAGE_TIMEOUT.as_secs())]
    Timeout,
    /// The port's owner wanted it.
    #[error("{0}")]
    Quarantined(String),
    /// The port was removed.
    #[error("the port was removed")]
    Removed,
    /// The port was suspended.
    #[error("the port was suspended")]
    Suspended,
    /// The caller did not keep to the rules of this module.
    #[error("internal mistake: the session was used out of turn")]
    OutOfTurn,
}

/// What was agreed with a frontend, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionStatus {
    /// Acknowledged virtio features.
    pub features: u64,
    /// Acknowledged protocol features.
    pub protocol_features: u64,
    /// Memory regions in the table.
    pub memory_regions: usize,
    /// Memory in the table, in bytes.
    pub memory_bytes: u64,
    /// The rings, by number.
    pub rings: Vec<RingStatus>,
}

/// Something to be done that a frontend can make last as long as it likes.
#[derive(Debug)]
pub enum Leftover {
    /// To be closed.
    Descriptors(Vec<OwnedFd>),
    /// To be closed once no worker signals it any more.
    Call(Replaced),
    /// To be signalled once: an interrupt may be owed from before.
    Owed(Arc<Call>),
}

impl Leftover {
    /// Does it. An interrupt that a frontend makes block is waited for no longer than `limit`, if there is one; that takes
    /// a timer of the calling thread's.
    pub fn finish(self, limit: Option<Duration>) {
        match self {
            Self::Descriptors(descriptors) => drop(descriptors),
            Self::Call(replaced) => replaced.close(),
            // A frontend whose descriptor blocks is found out at the next interrupt.
            Self::Owed(call) => drop(limit.map_or_else(|| call.signal(), |limit| call.signal_within(limit))),
        }
    }
}

/// The dialogue with one frontend.
#[derive(Debug)]
pub struct Session {
    device: Device,
    protocol: Protocol,
    input: Input,
    state: State,
    /// Where a backend sends its requests: kept open, because the frontend takes its end for ours.
    request_channel: Option<OwnedFd>,
    leftovers: Vec<Leftover>,
    /// Memory tables whose retirement was not acknowledged; they end with the session.
    retired: Vec<Arc<Memory>>,
}

impl Session {
    /// A session with a frontend that has just connected.
    pub fn new(config: DeviceConfig) -> Self {
        Self {
            device: Device::new(config),
            protocol: Protocol::empty(),
            input: Input::default(),
            state: State::Open,
            request_channel: None,
            leftovers: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// How many bytes the session can take now; 0 while it is parked or over.
    pub fn wanted(&self) -> usize {
        match self.state {
            State::Open => self.input.missing(),
            State::Parked(_) | State::Over => 0,
        }
    }

    /// Whether a message has begun and not ended.
    pub fn is_inside_message(&self) -> bool {
        self.input.since.is_some()
    }

    /// When the message that has begun must have come.
    pub fn deadline(&self) -> Option<Instant> {
        self.input.since.and_then(|since| since.checked_add(MESSAGE_TIMEOUT))
    }

    /// Tells that time has passed: why to close the connection, if the deadline was missed.
    pub fn expire(&mut self, now: Instant) -> Option<CloseReason> {
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        late.then(|| {
            self.state = State::Over;
            self.forget_input();
            CloseReason::Timeout
        })
    }

    /// What is to be done after each call: [`Leftover::finish`], where nobody but this frontend has to wait for it.
    pub fn take_leftovers(&mut self) -> Vec<Leftover> {
        std::mem::take(&mut self.leftovers)
    }

    /// Takes descriptors that are to be closed.
    pub fn leave(&mut self, descriptors: Vec<OwnedFd>) {
        if !descriptors.is_empty() {
            self.leftovers.push(Leftover::Descriptors(descriptors));
        }
    }

    /// Takes bytes from the socket, at most [`Self::wanted`], and the descriptors that came with them.
    pub fn receive(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>, now: Instant) -> Outcome {
        if bytes.len() > self.wanted() {
            self.leave(descriptors);
            return self.close(CloseReason::OutOfTurn);
        }
        if !descriptors.is_empty() && (self.is_inside_message() || bytes.is_empty()) {
            self.leave(descriptors);
            return self.close(CloseReason::LateDescriptors);
        }
        if bytes.is_empty() {
            return Outcome::read(None);
        }
        self.input.since.get_or_insert(now);
        self.input.descriptors.extend(descriptors);
        match self.input.push(bytes) {
            Ok(true) => self.request(),
            Ok(false) => Outcome::read(None),
            Err(error) => self.close(CloseReason::Header(error)),
        }
    }

    /// Takes the result of the work that parked the session.
    pub fn complete(&mut self, done: Done) -> Outcome {
        let State::Parked(parked) = std::mem::replace(&mut self.state, State::Open) else {
            return self.close(CloseReason::OutOfTurn);
        };
        let header = parked.header;
        match (parked.waits_for, done) {
            (WaitsFor::Mapping, Done::Mapped(Ok(memory))) => {
                let (changes, retired) = self.device.set_memory(Some(Arc::new(memory)));
                self.change(header, changes, retired, Answer::Success)
            }
            (WaitsFor::Mapping, Done::Mapped(Err(error))) => self.refuse(header, error.into()),
            (WaitsFor::Change(answer, started), Done::Changed(Ok(stopped))) => {
                self.device.stopped(&stopped);
                self.leftovers.extend(started.into_iter().map(Leftover::Owed));
                self.answer(header, answer)
            }
            (WaitsFor::Change(..), Done::Changed(Err(unchanged))) => {
                // What the workers have now is not known: tell the frontend, then start from nothing.
                self.retired.extend(unchanged.retired);
                let reply = self.acknowledgement(header, FAILURE);
                let refused = Refused { request: message::name(header.request), refusal: unchanged.error.into() };
                Outcome { reply, ..self.close(CloseReason::Refused(refused)) }
            }
            (WaitsFor::Announcement, Done::Announced) => self.answer(header, Answer::Success),
            _ => self.close(CloseReason::OutOfTurn),
        }
    }

    /// Ends the dialogue: the changes that stop every ring which a worker may have. The session, and with it the
    /// guest's memory, must live on until they were acknowledged.
    pub fn stop_all(&mut self) -> Vec<RingChange> {
        self.state = State::Over;
        self.forget_input();
        self.device.stop_all()
    }

    /// What was agreed so far.
    pub fn status(&self) -> SessionStatus {
        let regions = self.device.memory().map(|memory| memory.regions());
        let sizes = regions.into_iter().flatten().map(|region| region.size);
        let (memory_regions, memory_bytes) = sizes.fold((0, 0_u64), |(n, sum), size| (n + 1, sum.saturating_add(size)));
        SessionStatus {
            features: self.device.acknowledged(),
            protocol_features: self.protocol.bits(),
            memory_regions,
            memory_bytes,
            rings: self.device.rings().collect(),
        }
    }

    /// A whole message has come.
    fn request(&mut self) -> Outcome {
        let mut input = std::mem::take(&mut self.input);
        let Some(header) = input.header else { return self.close(CloseReason::OutOfTurn) };
        let parsed = Request::parse(header.request, &input.body, &mut input.descriptors);
        self.leave(input.descriptors);
        let step = parsed
            .map_err(Refusal::from)
            .and_then(|request| self.negotiated(header).map(|()| request))
            .and_then(|request| self.step(header.request, request));
        match step {
            Ok(Step::Answer(answer)) => self.answer(header, answer),
            Ok(Step::Map(update)) => self.park(header, WaitsFor::Mapping, Work::Map(update)),
            Ok(Step::Change(changes, answer)) => self.change(header, changes, None, answer),
            Ok(Step::Announce(mac)) => self.park(header, WaitsFor::Announcement, Work::Announce(mac)),
            Err(refusal) => self.refuse(header, refusal),
        }
    }

    fn negotiated(&self, header: Header) -> Result<(), Refusal> {
        let needs = Shape::of(header.request).map_or(Protocol::empty(), |shape| shape.needs);
        let missing = needs.difference(self.protocol);
        if missing.is_empty() { Ok(()) } else { Err(Refusal::NotNegotiated(missing.bits())) }
    }

    /// What a request means. This is the whole of the protocol.
    fn step(&mut self, number: u32, request: Request) -> Result<Step, Refusal> {
        let device = &mut self.device;
        Ok(match request {
            Request::GetFeatures => Step::number(device.config().offered()),
            Request::SetFeatures(bits) => {
                device.set_features(bits)?;
                Step::SUCCESS
            }
            Request::GetProtocolFeatures => Step::number(protocol_features(device.config()).bits()),
            Request::SetProtocolFeatures(bits) => {
                let unknown = bits & !protocol_features(device.config()).bits();
                if unknown != 0 {
                    return Err(Refusal::ProtocolFeatures(unknown));
                }
                self.protocol = Protocol::from_bits_truncate(bits);
                Step::SUCCESS
            }
            // Owning a session twice changes nothing. RESET_OWNER is deprecated, and to be ignored.
            Request::SetOwner | Request::ResetOwner => Step::SUCCESS,
            // For a network device the number of queue pairs, not of rings: QEMU compares it with `queues=`.
            Request::GetQueueNum => Step::number(u64::from(device.config().queue_pairs)),
            Request::GetMaxMemSlots => Step::number(u64::try_from(MAX_REGIONS).unwrap_or(0)),
            Request::SetMemTable(regions) => Step::Map(MemoryUpdate::Replace(regions)),
            Request::AddMemReg(region, file) => Step::Map(MemoryUpdate::Add(device.memory().cloned(), region, file)),
            Request::RemMemReg(region) => Step::Map(MemoryUpdate::Remove(device.memory().cloned(), region)),
            Request::SetVringNum { ring, size } => Step::changes(device.set_size(ring, size)?),
            Request::SetVringAddr { ring, addresses } => Step::changes(device.set_addresses(ring, addresses)?),
            Request::SetVringBase { ring, position } => {
                device.set_position(ring, position)?;
                Step::SUCCESS
            }
            Request::GetVringBase { ring } => Step::Change(device.stop(ring)?, Answer::Position(ring)),
            Request::SetVringKick(RingDescriptor { ring, descriptor }) => {
                let kick = match self.event(ring, descriptor, |kick| event::kick(kick).map(|()| None))? {
                    Some(descriptor) => Kick::Descriptor(Arc::new(descriptor)),
                    None => Kick::Polled,
                };
                Step::changes(self.device.set_kick(ring, kick)?)
            }
            Request::SetVringCall(RingDescriptor { ring, descriptor }) => {
                let descriptor = self.event(ring, descriptor, event::call)?;
                let (call, replaced) = self.device.set_call(ring, descriptor)?;
                self.leftovers.extend(replaced.map(Leftover::Call));
                self.leftovers.push(Leftover::Owed(call));
                Step::SUCCESS
            }
            // Not kept: a ring's error is told by closing the connection.
            Request::SetVringErr(RingDescriptor { ring, descriptor }) => {
                let descriptor = self.event(ring, descriptor, event::call)?;
                self.leave(descriptor.into_iter().collect());
                Step::SUCCESS
            }
            Request::SetBackendReqFd(channel) => {
                let checked = event::channel(&channel);
                let unused = if checked.is_ok() { self.request_channel.replace(channel) } else { Some(channel) };
                self.leave(unused.into_iter().collect());
                checked.map_err(Refusal::Channel)?;
                Step::SUCCESS
            }
            Request::SetVringEnable { ring, state } => Step::changes(device.set_enabled(ring, state)?),
            Request::SendRarp(mac) => Step::Announce(mac),
            Request::NetSetMtu(mtu) => {
                device.check_mtu(mtu)?;
                Step::SUCCESS
            }
            Request::GetConfig { offset, size, flags } => {
                let bytes = config_bytes(&device.config().space(), offset, size).unwrap_or_default();
                Step::Answer(Answer::Reply(message::reply_config(number, offset, flags, &bytes)))
            }
            Request::SetConfig => return Err(Refusal::ReadOnly),
            Request::ResetDevice => Step::changes(device.reset()),
        })
    }

    /// A descriptor of a ring's: checked by `check`, which may return another to be used in its place.
    fn event(
        &mut self,
        ring: u32,
        descriptor: Option<OwnedFd>,
        check: impl FnOnce(&OwnedFd) -> Result<Option<OwnedFd>, NotAnEvent>,
    ) -> Result<Option<OwnedFd>, Refusal> {
        let known = self.device.check_ring(ring).map_err(Refusal::from);
        let Some(descriptor) = descriptor else { return known.map(|()| None) };
        match known.and_then(|()| check(&descriptor).map_err(|error| Refusal::Event { ring, error })) {
            Ok(None) => Ok(Some(descriptor)),
            Ok(Some(other)) => {
                self.leave(vec![descriptor]);
                Ok(Some(other))
            }
            Err(refusal) => {
                self.leave(vec![descriptor]);
                Err(refusal)
            }
        }
    }

    fn forget_input(&mut self) {
        let input = std::mem::take(&mut self.input);
        self.leave(input.descriptors);
    }

    fn change(
        &mut self,
        header: Header,
        changes: Vec<RingChange>,
        retired: Option<Arc<Memory>>,
        answer: Answer,
    ) -> Outcome {
        if changes.is_empty() && retired.is_none() {
            self.answer(header, answer)
        } else {
            let started = changes.iter().filter_map(|change| match change {
                RingChange::Start { setup, .. } => Some(Arc::clone(&setup.call)),
                RingChange::Stop { .. } | RingChange::Enable { .. } => None,
            });
            let waits_for = WaitsFor::Change(answer, started.collect());
            self.park(header, waits_for, Work::Change { changes, retired })
        }
    }

    fn park(&mut self, header: Header, waits_for: WaitsFor, work: Work) -> Outcome {
        self.state = State::Parked(Parked { header, waits_for });
        Outcome { reply: None, refused: None, next: Next::Work(work) }
    }

    fn answer(&mut self, header: Header, answer: Answer) -> Outcome {
        match answer {
            Answer::Success => Outcome::read(self.acknowledgement(header, SUCCESS)),
            Answer::Number(value) => Outcome::read(Some(message::reply_u64(header.request, value))),
            Answer::Reply(reply) => Outcome::read(Some(reply)),
            Answer::Position(ring) => match self.device.position(ring) {
                Ok(position) => Outcome::read(Some(message::reply_position(header.request, ring, position))),
                Err(error) => self.refuse(header, error.into()),
            },
        }
    }

    fn refuse(&mut self, header: Header, refusal: Refusal) -> Outcome {
        // After features that we do not have, nothing that the frontend says can be relied on.
        let fatal = matches!(refusal, Refusal::ProtocolFeatures(_) | Refusal::Device(DeviceError::Features(_)));
        let reply = self.acknowledgement(header, FAILURE);
        let refused = Refused { request: message::name(header.request), refusal };
        if reply.is_some() && !fatal {
            return Outcome { refused: Some(refused), ..Outcome::read(reply) };
        }
        Outcome { reply, ..self.close(CloseReason::Refused(refused)) }
    }

    /// REPLY_ACK's answer, if it was agreed on, asked for, and the request has no reply of its own.
    fn acknowledgement(&self, header: Header, value: u64) -> Option<Vec<u8>> {
        let replies = Shape::of(header.request).is_some_and(|shape| shape.replies);
        let wanted = header.need_reply && self.protocol.contains(Protocol::REPLY_ACK) && !replies;
        wanted.then(|| message::reply_u64(header.request, value))
    }

    fn close(&mut self, reason: CloseReason) -> Outcome {
        self.state = State::Over;
        self.forget_input();
        Outcome { reply: None, refused: None, next: Next::Close(reason) }
    }
}

impl Outcome {
    fn read(reply: Option<Vec<u8>>) -> Self {
        Self { reply, refused: None, next: Next::Read }
    }
}

/// The message that is arriving.
#[derive(Debug, Default)]
struct Input {
    /// When its first byte came.
    since: Option<Instant>,
    head: Vec<u8>,
    header: Option<Header>,
    body: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Input {
    fn missing(&self) -> usize {
        match self.header {
            None => HEADER_BYTES.saturating_sub(self.head.len()),
            Some(header) => header.size.saturating_sub(self.body.len()),
        }
    }

    /// Whether the message is whole.
    fn push(&mut self, bytes: &[u8]) -> Result<bool, MessageError> {
        if self.header.is_some() {
            self.body.extend_from_slice(bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if let Ok(head) = self.head.as_slice().try_into() {
                let header = Header::parse(head)?;
                self.body.reserve_exact(header.size);
                self.header = Some(header);
            }
        }
        Ok(self.header.is_some() && self.missing() == 0)
    }
}

#[derive(Debug)]
enum State {
    Open,
    Parked(Parked),
    Over,
}

/// The request that work is being done for.
#[derive(Debug)]
struct Parked {
    header: Header,
    waits_for: WaitsFor,
}

#[derive(Debug)]
enum WaitsFor {
    Mapping,
    /// And the interrupts that are owed then.
    Change(Answer, Vec<Arc<Call>>),
    Announcement,
}

/// What a request leads to.
#[derive(Debug)]
enum Step {
    Answer(Answer),
    Map(MemoryUpdate),
    Change(Vec<RingChange>, Answer),
    Announce(MacAddress),
}

impl Step {
    const SUCCESS: Self = Self::Answer(Answer::Success);

    fn number(value: u64) -> Self {
        Self::Answer(Answer::Number(value))
    }

    fn changes(changes: Vec<RingChange>) -> Self {
        Self::Change(changes, Answer::Success)
    }
}

/// How a request is answered in the end.
#[derive(Debug)]
enum Answer {
    /// By an acknowledgement, if wanted.
    Success,
    /// By this number.
    Number(u64),
    /// By these bytes.
    Reply(Vec<u8>),
    /// By this ring's position.
    Position(u32),
}

/// REPLY_ACK: zero is success, all else failure.
const SUCCESS: u64 = 0;
const FAILURE: u64 = 1;

/// Part of the configuration space; fields that we do not know are zero. None if the part is not inside of it.
fn config_bytes(space: &[u8], offset: u32, size: u32) -> Option<Vec<u8>> {
    let offset = usize::try_from(offset).ok()?;
    let size = usize::try_from(size).ok()?;
    let end = offset.checked_add(size).filter(|&end| end <= MAX_CONFIG_BYTES)?;
    Some((offset..end).map(|at| space.get(at).copied().unwrap_or(0)).collect())
}
