//! Why a request is refused, and why a connection comes to its end.

use std::io;

use culvert_guest::device::{DeviceError, Unresponsive};
use culvert_guest::{LogError, MemoryError};

use super::MESSAGE_TIMEOUT;
use crate::event::NotAnEvent;
use crate::message::MessageError;
use crate::transcript::Damaged;

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
    /// The dirty log that it describes cannot be.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The descriptor that is to tell of new marks in the log.
    #[error("the log's event: {0}")]
    LogEvent(NotAnEvent),
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
    Socket(io::Error),
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
    /// What was kept of an earlier process's connection is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
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
