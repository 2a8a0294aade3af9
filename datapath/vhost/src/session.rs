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
//!
//! In parts of their own: `input`, the message that arrives; `requests`, what each means; `work`, what is done elsewhere; `refusal`,
//! why not; `leftover`, what others have to close.

mod input;
mod leftover;
mod refusal;
mod requests;
mod work;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_guest::Memory;
use culvert_guest::device::{Device, DeviceConfig, DeviceError, RingChange, RingStatus};
use culvert_guest::record::Records;
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::FrontendReq;

use crate::message::{self, Header, NO_DESCRIPTOR, Request, Shape};
use crate::transcript::Transcript;
use input::Input;
pub use leftover::Leftover;
pub use refusal::{CloseReason, Refusal, Refused};
use requests::{Answer, Step};
pub use work::{Done, LogUpdate, MemoryUpdate, StateWish, Unchanged, Work};

/// How long a message may take from its first byte to its last. A frontend may be silent between messages for as long
/// as it likes: QEMU connects before it allocates its guest's memory.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Whether what is written to the guest's memory is logged: it moves to another machine.
    pub logging: bool,
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
    /// Whether the device has a state of its own that moves with its guest.
    has_state: bool,
    leftovers: Vec<Leftover>,
    /// Memory tables whose retirement was not acknowledged; they end with the session.
    retired: Vec<Arc<Memory>>,
    /// What else was to end with a change that was not acknowledged.
    unacknowledged: Vec<Leftover>,
}

impl Session {
    /// A session with a frontend that has just connected.
    pub fn new(config: DeviceConfig) -> Self {
        Self::with_records(config, None)
    }

    /// The same with records of packed rings that outlive the process.
    pub fn with_records(config: DeviceConfig, records: Option<Arc<Records>>) -> Self {
        Self {
            device: Device::new(config).with_records(records),
            protocol: Protocol::empty(),
            input: Input::default(),
            state: State::Open,
            request_channel: None,
            has_state: false,
            leftovers: Vec::new(),
            retired: Vec::new(),
            unacknowledged: Vec::new(),
        }
    }

    /// The device has a state beside its rings, which moves with its guest: [`Work::State`].
    #[must_use]
    pub fn with_state(self) -> Self {
        Self { has_state: true, ..self }
    }

    /// Why it cannot be noted for the next process where packed rings stand.
    pub fn unkept(&self) -> Option<&io::Error> {
        self.device.unkept()
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
            (WaitsFor::Mapping, Done::Mapped(Ok(memory))) => match self.device.check_memory(&memory) {
                Ok(()) => {
                    let (changes, retired) = self.device.set_memory(Some(Arc::new(memory)));
                    self.change(header, changes, retired, Answer::Success)
                }
                Err(error) => {
                    self.leftovers.push(Leftover::Memory(memory));
                    self.refuse(header, error.into())
                }
            },
            (WaitsFor::Mapping, Done::LogMapped(Ok(log))) => {
                let log = Arc::new(log);
                match self.device.set_log(Arc::clone(&log)) {
                    Ok((changes, old)) => {
                        let old = old.map(Leftover::Log).into_iter().collect();
                        self.change_and_leave(header, changes, None, Answer::Success, old)
                    }
                    Err(error) => {
                        self.leftovers.push(Leftover::Log(log));
                        self.refuse(header, error.into())
                    }
                }
            }
            (WaitsFor::Mapping, Done::LogMapped(Err(error))) => self.refuse(header, error.into()),
            (WaitsFor::Mapping, Done::Mapped(Err(error))) => self.refuse(header, error.into()),
            (WaitsFor::Change(answer, leftovers), Done::Changed(Ok(stopped))) => {
                self.device.stopped(&stopped);
                self.leftovers.extend(leftovers);
                self.answer(header, answer)
            }
            (WaitsFor::Change(_, leftovers), Done::Changed(Err(unchanged))) => {
                // What the workers have now is not known: tell the frontend, then start from nothing.
                self.retired.extend(unchanged.retired);
                self.unacknowledged.extend(leftovers);
                let reply = self.acknowledgement(header, FAILURE);
                let refused = Refused { request: message::name(header.request), refusal: unchanged.error.into() };
                Outcome { reply, ..self.close(CloseReason::Refused(refused)) }
            }
            (WaitsFor::Announcement, Done::Announced) => self.answer(header, Answer::Success),
            (WaitsFor::State { answers_file }, Done::State(done)) => {
                // We read and write the frontend's own file: none comes back.
                let file = if answers_file { NO_DESCRIPTOR } else { 0 };
                let error = if done { SUCCESS } else { FAILURE };
                self.answer(header, Answer::Number(file | error))
            }
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
            logging: self.device.is_logging(),
        }
    }

    /// What brings a new session to where this one is. `None`: no ring runs, or there is no such thing at this moment.
    ///
    /// # Errors
    /// The kernel's, when too many descriptors are open.
    pub fn transcript(&self) -> io::Result<Option<Transcript>> {
        match self.state {
            State::Open if !self.is_inside_message() && self.retired.is_empty() => {
                Transcript::of(&self.device, self.protocol, self.request_channel.as_ref())
            }
            State::Open | State::Parked(_) | State::Over => Ok(None),
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
            Ok(Step::MapLog(update)) => self.park(header, WaitsFor::Mapping, Work::MapLog(update)),
            Ok(Step::Change(changes, answer)) => self.change(header, changes, None, answer),
            Ok(Step::Announce(mac)) => self.park(header, WaitsFor::Announcement, Work::Announce(mac)),
            Ok(Step::State(wish)) => {
                let answers_file = !matches!(wish, StateWish::Check);
                self.park(header, WaitsFor::State { answers_file }, Work::State(wish))
            }
            Err(refusal) => self.refuse(header, refusal),
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
        self.change_and_leave(header, changes, retired, answer, Vec::new())
    }

    /// The same with more that is left over when the change is done.
    fn change_and_leave(
        &mut self,
        header: Header,
        changes: Vec<RingChange>,
        retired: Option<Arc<Memory>>,
        answer: Answer,
        mut leftovers: Vec<Leftover>,
    ) -> Outcome {
        leftovers.extend(self.device.forget_used_log().map(Leftover::Log));
        if changes.is_empty() && retired.is_none() {
            self.leftovers.extend(leftovers);
            self.answer(header, answer)
        } else {
            leftovers.extend(changes.iter().filter_map(|change| match change {
                RingChange::Start { setup, .. } => Some(Leftover::Owed(Arc::clone(&setup.call))),
                RingChange::Stop { .. } | RingChange::Enable { .. } | RingChange::Log { .. } => None,
            }));
            self.park(header, WaitsFor::Change(answer, leftovers), Work::Change { changes, retired })
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
        let mut fatal = matches!(refusal, Refusal::ProtocolFeatures(_) | Refusal::Device(DeviceError::Features(_)));
        if header.request == SET_LOG_BASE {
            // QEMU goes on as if it had the log, whatever the answer is. What we would write would be missing at the guest's next place:
            // so nothing is written any more, or, where nothing is logged yet, the request that begins with it is refused.
            fatal |= self.device.is_logging();
            self.leftovers.extend(self.device.forget_log().map(Leftover::Log));
        }
        let reply = self.acknowledgement(header, FAILURE);
        let refused = Refused { request: message::name(header.request), refusal };
        if reply.is_some() && !fatal {
            return Outcome { refused: Some(refused), ..Outcome::read(reply) };
        }
        Outcome { reply, ..self.close(CloseReason::Refused(refused)) }
    }

    /// REPLY_ACK's answer, if it was agreed on, asked for, and the request has no reply of its own. SET_LOG_BASE is always answered so with
    /// LOG_SHMFD: QEMU waits for a reply, and does not read what is in it.
    fn acknowledgement(&self, header: Header, value: u64) -> Option<Vec<u8>> {
        if header.request == SET_LOG_BASE && self.protocol.contains(Protocol::LOG_SHMFD) {
            return Some(message::reply_u64(header.request, value));
        }
        let replies =
            Shape::of(header.request).is_some_and(|shape| shape.replies && self.protocol.contains(shape.needs));
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
    /// And what is left over then: interrupts that are owed, a log that is out of use.
    Change(Answer, Vec<Leftover>),
    Announcement,
    /// Whether the answer tells of a file.
    State {
        answers_file: bool,
    },
}

// A number of the protocol, not one of a peer: the widening is exact.
const SET_LOG_BASE: u32 = FrontendReq::SET_LOG_BASE as u32;

/// REPLY_ACK: zero is success, all else failure.
const SUCCESS: u64 = 0;
const FAILURE: u64 = 1;
