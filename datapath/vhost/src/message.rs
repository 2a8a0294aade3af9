//! vhost-user messages: header, request numbers, and bodies as small typed values (vhost-user specification,
//! "Message Specification" and "Front-end message types").
//!
//! Parsing only: what a request means, and whether it fits at this moment, is for [`crate::session`]. A request number
//! stays a number until it is found in the table of requests, which tells the sizes and counts of descriptors
//! that are allowed, and whether the request has a reply of its own. All numbers are in the byte order of the machine.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use culvert_frame::MacAddress;
use culvert_guest::Region;
use culvert_guest::device::RingAddresses;
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag as Flag};

/// Bytes of a header: request, flags and size of the body, 32 bits each.
pub const HEADER_BYTES: usize = 12;

/// Largest body that is read, in bytes; header and body together are at most 4 KiB.
pub const MAX_BODY_BYTES: usize = 4096 - HEADER_BYTES;

/// Most descriptors that any request carries: one for each region of SET_MEM_TABLE.
pub const MAX_DESCRIPTORS: usize = 8;

/// Most descriptors that the kernel lets one message carry (SCM_MAX_FD).
pub const MOST_DESCRIPTORS: usize = 253;

/// Largest part of the configuration space that GET_CONFIG can ask for, in bytes.
pub const MAX_CONFIG_BYTES: usize = 256;

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The version field of the header is not 1.
    #[error("protocol version {0} instead of 1")]
    Version(u32),
    /// A reply where only requests can be.
    #[error("a reply where a request was expected")]
    Reply,
    /// More than [`MAX_BODY_BYTES`].
    #[error("a body of {0} bytes, more than {MAX_BODY_BYTES}")]
    Huge(u32),
    /// Not in the table of requests.
    #[error("an unknown request")]
    Unknown,
    /// The body does not have a size that this request can have.
    #[error("a body of {0} bytes, which this request cannot have")]
    Size(usize),
    /// Too many or too few file descriptors.
    #[error("{0} file descriptors, which this request cannot have")]
    Descriptors(usize),
    /// A field has a value that is never valid.
    #[error("{what} is {value:#x}")]
    Field {
        /// Name of the field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    /// Whether the frontend wants to hear the result (REPLY_ACK).
    pub need_reply: bool,
    /// Bytes of the body, at most [`MAX_BODY_BYTES`].
    pub size: usize,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// Wrong version, a reply, or a body above the limit. The stream cannot be followed any further then.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, MessageError> {
        let mut fields = Fields(&bytes);
        let (Some(request), Some(flags), Some(size)) = (fields.u32(), fields.u32(), fields.u32()) else {
            return Err(MessageError::Size(bytes.len()));
        };
        let version = flags & Flag::VERSION.bits();
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        if flags & Flag::REPLY.bits() != 0 {
            return Err(MessageError::Reply);
        }
        let length = usize::try_from(size).ok().filter(|&size| size <= MAX_BODY_BYTES);
        let length = length.ok_or(MessageError::Huge(size))?;
        Ok(Self { request, need_reply: flags & Flag::NEED_REPLY.bits() != 0, size: length })
    }
}

/// A request, parsed.
#[derive(Debug)]
pub enum Request {
    /// Which virtio features are offered?
    GetFeatures,
    /// The acknowledged virtio features.
    SetFeatures(u64),
    /// The frontend takes the session.
    SetOwner,
    /// Deprecated; ignored.
    ResetOwner,
    /// A new memory table.
    SetMemTable(Vec<(Region, OwnedFd)>),
    /// Where to log what is written into the guest's memory.
    SetLogBase {
        /// The file that the log is in.
        file: OwnedFd,
        /// Bytes of the log.
        size: u64,
        /// Where in the file it begins.
        offset: u64,
    },
    /// How to tell that something was logged.
    SetLogFd(OwnedFd),
    /// Size of a ring.
    SetVringNum {
        /// Number of the ring.
        ring: u32,
        /// Entries.
        size: u32,
    },
    /// Place of a ring.
    SetVringAddr {
        /// Number of the ring.
        ring: u32,
        /// User addresses.
        addresses: RingAddresses,
    },
    /// Position of a ring.
    SetVringBase {
        /// Number of the ring.
        ring: u32,
        /// Index of the next available entry.
        position: u32,
    },
    /// Stop a ring and tell its position.
    GetVringBase {
        /// Number of the ring.
        ring: u32,
    },
    /// How the guest tells of available buffers; none: it must be polled.
    SetVringKick(RingDescriptor),
    /// How to interrupt the guest; none: it polls.
    SetVringCall(RingDescriptor),
    /// How to tell of errors; none: not at all.
    SetVringErr(RingDescriptor),
    /// Which protocol features are offered?
    GetProtocolFeatures,
    /// The acknowledged protocol features.
    SetProtocolFeatures(u64),
    /// How many queue pairs are there?
    GetQueueNum,
    /// Enable or disable a ring.
    SetVringEnable {
        /// Number of the ring.
        ring: u32,
        /// 1 or 0.
        state: u32,
    },
    /// The guest has moved here; tell the network.
    SendRarp(MacAddress),
    /// Where to send requests of our own.
    SetBackendReqFd(OwnedFd),
    /// The MTU that the guest will be told.
    NetSetMtu(u64),
    /// Part of the configuration space.
    GetConfig {
        /// First byte.
        offset: u32,
        /// How many.
        size: u32,
        /// Returned as they are.
        flags: u32,
    },
    /// Change of the configuration space.
    SetConfig,
    /// Back to the initial state.
    ResetDevice,
    /// How many regions can the memory table have?
    GetMaxMemSlots,
    /// One region more.
    AddMemReg(Region, OwnedFd),
    /// One region less.
    RemMemReg(Region),
    /// Save the device's state into a file, or load it from there.
    SetDeviceState {
        /// 0: save, 1: load.
        direction: u32,
        /// When: 0 while everything is stopped.
        phase: u32,
        /// The file, mostly a pipe.
        file: OwnedFd,
    },
    /// Is the state saved, or loaded?
    CheckDeviceState,
}

/// The body of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
#[derive(Debug)]
pub struct RingDescriptor {
    /// Number of the ring.
    pub ring: u32,
    /// The descriptor, or none if the frontend says that there is none.
    pub descriptor: Option<OwnedFd>,
}

impl Request {
    /// Reads the body of a request and takes those of `descriptors` that the request keeps. What is left, after an error all
    /// of them, is for the caller to close: that may take long.
    ///
    /// # Errors
    /// Any [`MessageError`] that concerns a body. The stream can be followed further.
    pub fn parse(request: u32, body: &[u8], descriptors: &mut Vec<OwnedFd>) -> Result<Self, MessageError> {
        let shape = Shape::of(request).ok_or(MessageError::Unknown)?;
        if !shape.body.contains(&body.len()) {
            return Err(MessageError::Size(body.len()));
        }
        if !shape.descriptors.contains(&descriptors.len()) {
            return Err(MessageError::Descriptors(descriptors.len()));
        }
        // The sizes were checked: a body that ends early is a mistake in the table.
        (shape.parse)(Fields(body), descriptors)
    }
}

/// What is known of a request before its body is looked at.
pub struct Shape {
    /// Number of the request.
    pub request: u32,
    /// Its name in the specification, without VHOST_USER_.
    pub name: &'static str,
    /// Whether it has a reply of its own, instead of the one that REPLY_ACK gives.
    pub replies: bool,
    /// The protocol feature that must be acknowledged before.
    pub needs: Protocol,
    body: RangeInclusive<usize>,
    descriptors: RangeInclusive<usize>,
    parse: Parse,
}

type Parse = fn(Fields, &mut Vec<OwnedFd>) -> Result<Request, MessageError>;

impl Shape {
    /// Finds a request by its number.
    pub fn of(request: u32) -> Option<&'static Self> {
        REQUESTS.iter().find(|shape| shape.request == request)
    }

    const fn new(request: FrontendReq, name: &'static str, body: RangeInclusive<usize>, parse: Parse) -> Self {
        // A number of the table, not one of a peer: the widening is exact.
        let request = request as u32;
        Self { request, name, replies: false, needs: Protocol::empty(), body, descriptors: 0..=0, parse }
    }

    const fn replies(self) -> Self {
        Self { replies: true, ..self }
    }

    const fn needs(self, needs: Protocol) -> Self {
        Self { needs, ..self }
    }

    const fn descriptors(self, descriptors: RangeInclusive<usize>) -> Self {
        Self { descriptors, ..self }
    }
}

/// Name of a request for messages to people.
pub fn name(request: u32) -> String {
    Shape::of(request).map_or_else(|| format!("request {request}"), |shape| shape.name.to_owned())
}

/// The requests that we answer; all others are unknown, also those of the specification.
static REQUESTS: [Shape; 29] = [
    Shape::new(FrontendReq::GET_FEATURES, "GET_FEATURES", 0..=0, |_, _| Ok(Request::GetFeatures)).replies(),
    Shape::new(FrontendReq::SET_FEATURES, "SET_FEATURES", 8..=8, |mut body, _| {
        Ok(Request::SetFeatures(body.need_u64()?))
    }),
    Shape::new(FrontendReq::SET_OWNER, "SET_OWNER", 0..=0, |_, _| Ok(Request::SetOwner)),
    Shape::new(FrontendReq::RESET_OWNER, "RESET_OWNER", 0..=0, |_, _| Ok(Request::ResetOwner)),
    Shape::new(
        FrontendReq::SET_MEM_TABLE,
        "SET_MEM_TABLE",
        8 + REGION_BYTES..=8 + MAX_DESCRIPTORS * REGION_BYTES,
        mem_table,
    )
    .descriptors(1..=MAX_DESCRIPTORS),
    // With LOG_SHMFD it has a reply of its own. Without, the log would lie at an address of the frontend's, which is nothing to us.
    Shape::new(FrontendReq::SET_LOG_BASE, "SET_LOG_BASE", 16..=16, |mut body, descriptors| {
        let (size, offset) = (body.need_u64()?, body.need_u64()?);
        Ok(Request::SetLogBase { file: descriptors.pop().ok_or(MessageError::Descriptors(0))?, size, offset })
    })
    .descriptors(1..=1),
    // The specification has no body; some frontends send a number.
    Shape::new(FrontendReq::SET_LOG_FD, "SET_LOG_FD", 0..=8, |_, descriptors| {
        Ok(Request::SetLogFd(descriptors.pop().ok_or(MessageError::Descriptors(0))?))
    })
    .descriptors(1..=1),
    Shape::new(FrontendReq::SET_VRING_NUM, "SET_VRING_NUM", 8..=8, |mut body, _| {
        Ok(Request::SetVringNum { ring: body.need_u32()?, size: body.need_u32()? })
    }),
    Shape::new(FrontendReq::SET_VRING_ADDR, "SET_VRING_ADDR", 40..=40, ring_addresses),
    Shape::new(FrontendReq::SET_VRING_BASE, "SET_VRING_BASE", 8..=8, |mut body, _| {
        Ok(Request::SetVringBase { ring: body.need_u32()?, position: body.need_u32()? })
    }),
    Shape::new(FrontendReq::GET_VRING_BASE, "GET_VRING_BASE", 8..=8, |mut body, _| {
        Ok(Request::GetVringBase { ring: body.need_u32()? })
    })
    .replies(),
    Shape::new(FrontendReq::SET_VRING_KICK, "SET_VRING_KICK", 8..=8, |body, descriptors| {
        Ok(Request::SetVringKick(ring_descriptor(body, descriptors)?))
    })
    .descriptors(0..=1),
    Shape::new(FrontendReq::SET_VRING_CALL, "SET_VRING_CALL", 8..=8, |body, descriptors| {
        Ok(Request::SetVringCall(ring_descriptor(body, descriptors)?))
    })
    .descriptors(0..=1),
    Shape::new(FrontendReq::SET_VRING_ERR, "SET_VRING_ERR", 8..=8, |body, descriptors| {
        Ok(Request::SetVringErr(ring_descriptor(body, descriptors)?))
    })
    .descriptors(0..=1),
    Shape::new(FrontendReq::GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", 0..=0, |_, _| {
        Ok(Request::GetProtocolFeatures)
    })
    .replies(),
    Shape::new(FrontendReq::SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", 8..=8, |mut body, _| {
        Ok(Request::SetProtocolFeatures(body.need_u64()?))
    }),
    Shape::new(FrontendReq::GET_QUEUE_NUM, "GET_QUEUE_NUM", 0..=0, |_, _| Ok(Request::GetQueueNum))
        .replies()
        .needs(Protocol::MQ),
    Shape::new(FrontendReq::SET_VRING_ENABLE, "SET_VRING_ENABLE", 8..=8, |mut body, _| {
        Ok(Request::SetVringEnable { ring: body.need_u32()?, state: body.need_u32()? })
    }),
    Shape::new(FrontendReq::SEND_RARP, "SEND_RARP", 8..=8, rarp).needs(Protocol::RARP),
    Shape::new(FrontendReq::NET_SET_MTU, "NET_SET_MTU", 8..=8, |mut body, _| Ok(Request::NetSetMtu(body.need_u64()?)))
        .needs(Protocol::MTU),
    Shape::new(FrontendReq::SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", 0..=8, |body, descriptors| {
        // The body has no meaning: user-mode Linux sends a number, QEMU nothing.
        if matches!(body.0.len(), 0 | 8) {
            Ok(Request::SetBackendReqFd(descriptors.pop().ok_or(MessageError::Descriptors(0))?))
        } else {
            Err(MessageError::Size(body.0.len()))
        }
    })
    .descriptors(1..=1)
    .needs(Protocol::BACKEND_REQ),
    Shape::new(FrontendReq::GET_CONFIG, "GET_CONFIG", 12..=12 + MAX_CONFIG_BYTES, |mut body, _| {
        Ok(Request::GetConfig { offset: body.need_u32()?, size: body.need_u32()?, flags: body.need_u32()? })
    })
    .replies()
    .needs(Protocol::CONFIG),
    Shape::new(FrontendReq::SET_CONFIG, "SET_CONFIG", 12..=12 + MAX_CONFIG_BYTES, |_, _| Ok(Request::SetConfig))
        .needs(Protocol::CONFIG),
    Shape::new(FrontendReq::RESET_DEVICE, "RESET_DEVICE", 0..=0, |_, _| Ok(Request::ResetDevice))
        .needs(Protocol::RESET_DEVICE),
    Shape::new(FrontendReq::GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", 0..=0, |_, _| Ok(Request::GetMaxMemSlots))
        .replies()
        .needs(Protocol::CONFIGURE_MEM_SLOTS),
    Shape::new(FrontendReq::ADD_MEM_REG, "ADD_MEM_REG", 8 + REGION_BYTES..=8 + REGION_BYTES, add_region)
        .descriptors(1..=1)
        .needs(Protocol::CONFIGURE_MEM_SLOTS),
    // Some frontends attach the region's descriptor: to be accepted and closed, says the specification.
    Shape::new(FrontendReq::REM_MEM_REG, "REM_MEM_REG", 8 + REGION_BYTES..=8 + REGION_BYTES, |mut body, _| {
        body.need_u64()?;
        Ok(Request::RemMemReg(region(&mut body)?))
    })
    .descriptors(0..=1)
    .needs(Protocol::CONFIGURE_MEM_SLOTS),
    Shape::new(FrontendReq::SET_DEVICE_STATE_FD, "SET_DEVICE_STATE_FD", 8..=8, |mut body, descriptors| {
        let (direction, phase) = (body.need_u32()?, body.need_u32()?);
        Ok(Request::SetDeviceState { direction, phase, file: descriptors.pop().ok_or(MessageError::Descriptors(0))? })
    })
    .replies()
    .descriptors(1..=1)
    .needs(Protocol::DEVICE_STATE),
    Shape::new(FrontendReq::CHECK_DEVICE_STATE, "CHECK_DEVICE_STATE", 0..=0, |_, _| Ok(Request::CheckDeviceState))
        .replies()
        .needs(Protocol::DEVICE_STATE),
];

/// Bytes of one memory region description.
const REGION_BYTES: usize = 32;

/// A table of regions. User-mode Linux sends a body of fixed size with unused regions at its end.
fn mem_table(mut body: Fields, descriptors: &mut Vec<OwnedFd>) -> Result<Request, MessageError> {
    let sent = body.0.len();
    let count = body.need_u32()?;
    body.need_u32()?;
    if usize::try_from(count) != Ok(descriptors.len()) {
        return Err(MessageError::Descriptors(descriptors.len()));
    }
    if !body.0.len().is_multiple_of(REGION_BYTES) {
        return Err(MessageError::Size(sent));
    }
    let regions = (0..count).map(|_| region(&mut body)).collect::<Result<Vec<_>, MessageError>>()?;
    Ok(Request::SetMemTable(regions.into_iter().zip(descriptors.drain(..)).collect()))
}

fn add_region(mut body: Fields, descriptors: &mut Vec<OwnedFd>) -> Result<Request, MessageError> {
    body.need_u64()?;
    let region = region(&mut body)?;
    let descriptor = descriptors.pop().ok_or(MessageError::Descriptors(0))?;
    Ok(Request::AddMemReg(region, descriptor))
}

fn region(body: &mut Fields) -> Result<Region, MessageError> {
    Ok(Region {
        guest_address: body.need_u64()?,
        size: body.need_u64()?,
        user_address: body.need_u64()?,
        mmap_offset: body.need_u64()?,
    })
}

fn ring_addresses(mut body: Fields, _: &mut Vec<OwnedFd>) -> Result<Request, MessageError> {
    let ring = body.need_u32()?;
    let flags = body.need_u32()?;
    if flags & !LOG_USED != 0 {
        return Err(MessageError::Field { what: "the flags field", value: u64::from(flags) });
    }
    let (descriptors, used, available) = (body.need_u64()?, body.need_u64()?, body.need_u64()?);
    let log = body.need_u64()?;
    let log = (flags & LOG_USED != 0).then_some(log);
    Ok(Request::SetVringAddr { ring, addresses: RingAddresses { descriptors, available, used, log } })
}

fn ring_descriptor(mut body: Fields, descriptors: &mut Vec<OwnedFd>) -> Result<RingDescriptor, MessageError> {
    let value = body.need_u64()?;
    let none = value & NO_DESCRIPTOR != 0;
    let ring = u32::try_from(value & !NO_DESCRIPTOR);
    let ring = ring.map_err(|_| MessageError::Field { what: "the ring number", value })?;
    if none != descriptors.is_empty() {
        return Err(MessageError::Descriptors(descriptors.len()));
    }
    Ok(RingDescriptor { ring, descriptor: descriptors.pop() })
}

fn rarp(mut body: Fields, _: &mut Vec<OwnedFd>) -> Result<Request, MessageError> {
    let value = body.need_u64()?;
    let [a, b, c, d, e, f, _, _] = value.to_ne_bytes();
    let mac = MacAddress([a, b, c, d, e, f]);
    if mac.is_group() || mac == MacAddress::default() {
        return Err(MessageError::Field { what: "the MAC address", value });
    }
    Ok(Request::SendRarp(mac))
}

/// A reply that is one number: also REPLY_ACK's answer, 0 for success.
pub fn reply_u64(request: u32, value: u64) -> Vec<u8> {
    reply(request, &[&value.to_ne_bytes()])
}

/// The reply to GET_VRING_BASE.
pub fn reply_position(request: u32, ring: u32, position: u32) -> Vec<u8> {
    reply(request, &[&ring.to_ne_bytes(), &position.to_ne_bytes()])
}

/// The reply to GET_CONFIG; an error is told by no bytes.
pub fn reply_config(request: u32, offset: u32, flags: u32, space: &[u8]) -> Vec<u8> {
    let size = u32::try_from(space.len()).unwrap_or(0);
    reply(request, &[&offset.to_ne_bytes(), &size.to_ne_bytes(), &flags.to_ne_bytes(), space])
}

/// A request as a frontend sends it that wants no answer.
pub fn request(request: FrontendReq, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(0);
    // A number of the table, not one of a peer: the widening is exact.
    [&(request as u32).to_ne_bytes(), &VERSION.to_ne_bytes(), &size.to_ne_bytes(), body].concat()
}

fn reply(request: u32, fields: &[&[u8]]) -> Vec<u8> {
    let body = fields.concat();
    let size = u32::try_from(body.len()).unwrap_or(0);
    let flags = VERSION | Flag::REPLY.bits();
    [&request.to_ne_bytes(), &flags.to_ne_bytes(), &size.to_ne_bytes(), body.as_slice()].concat()
}

/// The only protocol version.
const VERSION: u32 = 1;

/// In the flags of SET_VRING_ADDR: writes to the used ring are to be logged (VHOST_VRING_F_LOG).
pub(crate) const LOG_USED: u32 = 1;

/// In the body of a kick, call or err: no descriptor is attached.
pub(crate) const NO_DESCRIPTOR: u64 = 1 << 8;

/// The rest of a body, read from its front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*first))
    }

    fn need_u32(&mut self) -> Result<u32, MessageError> {
        self.u32().ok_or(MessageError::Size(self.0.len()))
    }

    fn need_u64(&mut self) -> Result<u64, MessageError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(MessageError::Size(self.0.len()))?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*first))
    }
}

#[cfg(test)]
mod proofs;
