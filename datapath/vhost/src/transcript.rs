//! What a frontend would have to say to bring a new session to where this one is: written down, so that a connection can outlive the
//! process (see [`crate::keep`]), and read back.
//!
//! Not a record of what was said: it is made from what the session knows, so its length is bounded, and nothing in it was undone
//! later. It is read like any other frontend's messages, by [`Session::receive`](crate::session::Session::receive); there is no second
//! parser for it. Pure: no sockets, no clock. Where a session is at a point that messages cannot bring about, there is no transcript.
//!
//! Format: for each message the number of its descriptors in one byte, then the message as on the socket, without the wish for an
//! answer. A message that is refused ends the session for that reason.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use culvert_guest::device::{Device, Kick, RingAddresses, RingSettings};
use culvert_guest::features::LOG_ALL;
use culvert_guest::{DirtyLog, Memory, Region};
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::FrontendReq;

use crate::message::{self, MAX_DESCRIPTORS};

/// The messages of a session and their descriptors, all in their order.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The messages.
    pub bytes: Vec<u8>,
    /// Copies of the session's.
    pub descriptors: Vec<OwnedFd>,
}

impl Transcript {
    /// Describes a session of this device, with these protocol features and this channel for our requests. `None`: no ring runs, or
    /// messages cannot bring that about.
    ///
    /// # Errors
    /// The kernel's, when there are too many descriptors.
    pub fn of(device: &Device, protocol: Protocol, channel: Option<&OwnedFd>) -> io::Result<Option<Self>> {
        let features = device.acknowledged();
        // A ring that could run and does not: the frontend has it in a place that is gone.
        let is_odd = |ring: RingSettings| match (ring.kick, ring.running) {
            (Kick::Unknown, None) => false,
            (_, Some(running)) => running != features & !LOG_ALL,
            (Kick::Polled | Kick::Descriptor(_), None) => true,
        };
        let Some(memory) = device.memory() else { return Ok(None) };
        if device.settings().any(is_odd) || !device.settings().any(|ring| ring.running.is_some()) {
            return Ok(None);
        }
        let mut transcript = Self::default();
        // The frontend may have acknowledged others since it used these.
        let mut used = protocol;
        if channel.is_some() {
            used |= Protocol::BACKEND_REQ;
        }
        let log = device.log().filter(|_| device.is_logging());
        if log.is_some() {
            // Nobody waits for the reply that its request has with this.
            used -= Protocol::LOG_SHMFD;
        }
        if memory.regions().len() > MAX_DESCRIPTORS {
            used |= Protocol::CONFIGURE_MEM_SLOTS;
        }
        if !used.is_empty() {
            transcript.add(FrontendReq::SET_PROTOCOL_FEATURES, &words(&[used.bits()]), []);
        }
        transcript.add(FrontendReq::SET_OWNER, &[], []);
        transcript.add(FrontendReq::SET_FEATURES, &words(&[features]), []);
        if let Some(channel) = channel {
            transcript.add(FrontendReq::SET_BACKEND_REQ_FD, &[], [channel.try_clone()?]);
        }
        if !transcript.add_memory(memory)? {
            return Ok(None);
        }
        if let Some(log) = log
            && !transcript.add_log(log)?
        {
            return Ok(None);
        }
        if let Some(call) = device.log_call().descriptor()? {
            transcript.add(FrontendReq::SET_LOG_FD, &[], [call]);
        }
        if used != protocol {
            transcript.add(FrontendReq::SET_PROTOCOL_FEATURES, &words(&[protocol.bits()]), []);
        }
        for (number, ring) in (0..).zip(device.settings()) {
            transcript.add_ring(number, ring)?;
        }
        Ok(Some(transcript))
    }

    /// False: there is a region without a file.
    fn add_memory(&mut self, memory: &Memory) -> io::Result<bool> {
        let mut regions = Vec::new();
        for (region, file) in memory.files() {
            let Some(file) = file else { return Ok(false) };
            regions.push((region, file.try_clone_to_owned()?));
        }
        let later = regions.split_off(regions.len().min(MAX_DESCRIPTORS));
        let count = u64::try_from(regions.len()).unwrap_or(0);
        let body: Vec<_> = words(&[count]).into_iter().chain(regions.iter().flat_map(|(at, _)| describe(at))).collect();
        self.add(FrontendReq::SET_MEM_TABLE, &body, regions.into_iter().map(|(_, file)| file));
        for (region, file) in later {
            let body = [words(&[0]), describe(&region)].concat();
            self.add(FrontendReq::ADD_MEM_REG, &body, [file]);
        }
        Ok(true)
    }

    /// False: it has no file.
    fn add_log(&mut self, log: &DirtyLog) -> io::Result<bool> {
        let (Some(file), bytes, offset) = log.file() else { return Ok(false) };
        self.add(FrontendReq::SET_LOG_BASE, &words(&[bytes, offset]), [file.try_clone_to_owned()?]);
        Ok(true)
    }

    /// The kick comes last: with it the ring starts as it is to be. The size comes after the place: a ring that does not run may have
    /// one at which it does not fit into the memory, and the place of a known size is checked.
    fn add_ring(&mut self, number: u32, ring: RingSettings) -> io::Result<()> {
        let numbered = u64::from(number);
        if let Some(RingAddresses { descriptors, available, used, log }) = ring.addresses {
            let flags = if log.is_some() { message::LOG_USED } else { 0 };
            let body = [halves(&[number, flags]), words(&[descriptors, used, available, log.unwrap_or(0)])].concat();
            self.add(FrontendReq::SET_VRING_ADDR, &body, []);
        }
        if ring.size != 0 {
            self.add(FrontendReq::SET_VRING_NUM, &halves(&[number, ring.size.into()]), []);
        }
        if let Some(position) = ring.position {
            self.add(FrontendReq::SET_VRING_BASE, &halves(&[number, position]), []);
        }
        if let Some(call) = ring.call.descriptor()? {
            self.add(FrontendReq::SET_VRING_CALL, &words(&[numbered]), [call]);
        }
        if let Some(enabled) = ring.enabled {
            self.add(FrontendReq::SET_VRING_ENABLE, &halves(&[number, enabled.into()]), []);
        }
        match ring.kick {
            Kick::Unknown => {}
            Kick::Polled => self.add(FrontendReq::SET_VRING_KICK, &words(&[numbered | message::NO_DESCRIPTOR]), []),
            Kick::Descriptor(kick) => {
                let kick = kick.as_fd().try_clone_to_owned()?;
                self.add(FrontendReq::SET_VRING_KICK, &words(&[numbered]), [kick]);
            }
        }
        Ok(())
    }

    fn add(&mut self, request: FrontendReq, body: &[u8], descriptors: impl IntoIterator<Item = OwnedFd>) {
        let before = self.descriptors.len();
        self.descriptors.extend(descriptors);
        // No message has more than MAX_DESCRIPTORS.
        self.bytes.push(u8::try_from(self.descriptors.len() - before).unwrap_or(u8::MAX));
        self.bytes.extend(message::request(request, body));
    }
}

/// A transcript that is being read, in the pieces that a session wants.
#[derive(Debug)]
pub struct Replay {
    bytes: VecDeque<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// What is left of a transcript is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was kept of the connection cannot be read")]
pub struct Damaged;

impl Replay {
    /// Reads a transcript.
    pub fn new(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Self {
        Self { bytes: bytes.into(), descriptors: descriptors.into() }
    }

    /// Whether all was read.
    pub fn is_over(&self) -> bool {
        self.bytes.is_empty() && self.descriptors.is_empty()
    }

    /// The next `wanted` bytes, and the descriptors that come with them. `inside`: of a message that has begun.
    ///
    /// # Errors
    /// There is less. What was taken out is dropped with the session.
    pub fn next(&mut self, wanted: usize, inside: bool) -> Result<(Vec<u8>, Vec<OwnedFd>), Damaged> {
        let count = if inside { 0 } else { usize::from(self.bytes.pop_front().ok_or(Damaged)?) };
        if count > self.descriptors.len() || wanted > self.bytes.len() {
            return Err(Damaged);
        }
        Ok((self.bytes.drain(..wanted).collect(), self.descriptors.drain(..count).collect()))
    }

    /// The descriptors that were not read, to be closed.
    pub fn into_rest(self) -> Vec<OwnedFd> {
        self.descriptors.into()
    }
}

fn describe(region: &Region) -> Vec<u8> {
    words(&[region.guest_address, region.size, region.user_address, region.mmap_offset])
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
}
