//! What each request means: the whole of the protocol. A request is answered, or leads to work after which it is answered.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_frame::MacAddress;
use culvert_guest::device::{DeviceConfig, Kick, RingChange};
use culvert_guest::memory::MAX_REGIONS;
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use super::{Leftover, LogUpdate, MemoryUpdate, Refusal, Session, StateWish};
use crate::event::{self, NotAnEvent};
use crate::message::{self, Header, MAX_CONFIG_BYTES, NO_DESCRIPTOR, Request, RingDescriptor, Shape};

/// The protocol features that we offer, each of which works. We have nothing to request of a frontend, but user-mode
/// Linux 6.1 finds its interrupt only together with the channel for requests (BACKEND_REQ), so we take and keep it.
const PROTOCOL_FEATURES: Protocol = Protocol::BACKEND_REQ
    .union(Protocol::REPLY_ACK)
    .union(Protocol::MTU)
    .union(Protocol::RARP)
    .union(Protocol::CONFIG)
    .union(Protocol::CONFIGURE_MEM_SLOTS)
    .union(Protocol::RESET_DEVICE);

/// What is offered for a device. LOG_SHMFD only where a guest can move: QEMU would take it for that. MQ only with several queue pairs: user-mode Linux 7.2 takes the number that comes with it for
/// one of rings, and finds that a single pair has too many.
fn protocol_features(config: &DeviceConfig, has_state: bool) -> Protocol {
    let mut offered = PROTOCOL_FEATURES;
    offered.set(Protocol::MQ, config.queue_pairs > 1);
    offered.set(Protocol::LOG_SHMFD, config.migrates);
    offered.set(Protocol::DEVICE_STATE, has_state);
    offered
}

/// What a request leads to.
#[derive(Debug)]
pub enum Step {
    Answer(Answer),
    Map(MemoryUpdate),
    MapLog(LogUpdate),
    Change(Vec<RingChange>, Answer),
    Announce(MacAddress),
    State(StateWish),
}

impl Step {
    pub const SUCCESS: Self = Self::Answer(Answer::Success);

    pub fn number(value: u64) -> Self {
        Self::Answer(Answer::Number(value))
    }

    pub fn changes(changes: Vec<RingChange>) -> Self {
        Self::Change(changes, Answer::Success)
    }
}

/// How a request is answered in the end.
#[derive(Debug)]
pub enum Answer {
    /// By an acknowledgement, if wanted.
    Success,
    /// By this number.
    Number(u64),
    /// By these bytes.
    Reply(Vec<u8>),
    /// By this ring's position.
    Position(u32),
}

impl Session {
    pub(super) fn negotiated(&self, header: Header) -> Result<(), Refusal> {
        let needs = Shape::of(header.request).map_or(Protocol::empty(), |shape| shape.needs);
        let missing = needs.difference(self.protocol);
        if missing.is_empty() { Ok(()) } else { Err(Refusal::NotNegotiated(missing.bits())) }
    }

    /// What a request means. This is the whole of the protocol.
    pub(super) fn step(&mut self, number: u32, request: Request) -> Result<Step, Refusal> {
        let device = &mut self.device;
        Ok(match request {
            Request::GetFeatures => Step::number(device.config().offered()),
            Request::SetFeatures(bits) => Step::changes(device.set_features(bits)?),
            Request::GetProtocolFeatures => Step::number(protocol_features(device.config(), self.has_state).bits()),
            Request::SetProtocolFeatures(bits) => {
                let unknown = bits & !protocol_features(device.config(), self.has_state).bits();
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
            Request::SetLogBase { file, size, offset } => Step::MapLog(LogUpdate { file, size, offset }),
            Request::SetLogFd(descriptor) => {
                let descriptor = match event::call(&descriptor) {
                    Ok(None) => descriptor,
                    Ok(Some(other)) => {
                        self.leave(vec![descriptor]);
                        other
                    }
                    Err(error) => {
                        self.leave(vec![descriptor]);
                        return Err(Refusal::LogEvent(error));
                    }
                };
                let replaced = self.device.set_log_call(descriptor);
                self.leftovers.extend(replaced.map(Leftover::Call));
                Step::SUCCESS
            }
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
            Request::SetDeviceState { direction, phase, file } => {
                // Nothing moves while rings run: there is no other phase.
                let is_stopped = device.rings().all(|ring| !ring.running);
                match (direction, phase, is_stopped) {
                    (0, 0, true) => Step::State(StateWish::Save(file)),
                    (1, 0, true) => Step::State(StateWish::Load(file)),
                    _ => {
                        self.leave(vec![file]);
                        Step::number(NO_DESCRIPTOR | 1)
                    }
                }
            }
            Request::CheckDeviceState => Step::State(StateWish::Check),
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
}

/// Part of the configuration space; fields that we do not know are zero. None if the part is not inside of it.
fn config_bytes(space: &[u8], offset: u32, size: u32) -> Option<Vec<u8>> {
    let offset = usize::try_from(offset).ok()?;
    let size = usize::try_from(size).ok()?;
    let end = offset.checked_add(size).filter(|&end| end <= MAX_CONFIG_BYTES)?;
    Some((offset..end).map(|at| space.get(at).copied().unwrap_or(0)).collect())
}
