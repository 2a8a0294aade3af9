//! The running node: what the control server may ask of it, and its parts.
//!
//! - [`Node`]: the questions; tests of the server bring their own node with fixed figures;
//! - [`live`]: the answers of the real datapath; [`view`]: objects, [`trace`]: traces in the words of the schema;
//! - [`changes`]: from what is wanted to what runs; [`upkeep`]: what is tried again;
//! - [`ports`]: opening and closing; [`rules`]: wanted objects in the words of the datapath; [`links`]: links that guests
//!   follow;
//! - [`offers`]: what kubelet is offered;
//! - [`backend`]: what vhost-user sockets ask of the workers; [`faults`]: what workers tell of guests;
//! - [`watch`]: events that are seen by looking;
//! - [`addresses`], [`connections`]: what the next daemon goes on with;
//! - [`standstill`]: what another culvertd goes on with;
//! - [`balance`]: queues that move between workers;
//! - [`capture`]: frames from a tap to a client; [`latency`]: how long frames stay, to a client.
//!
//! Answers are in the words of the schema, so that there is no second set of types between the datapath and the wire.

mod addresses;
pub mod backend;
mod balance;
pub mod bars;
pub mod capture;
mod changes;
pub mod connections;
pub mod faults;
pub mod latency;
mod links;
pub mod live;
mod offers;
mod pods;
pub mod ports;
mod refused;
mod ring_records;
mod rules;
pub mod standstill;
mod trace;
mod upkeep;
mod view;
mod watch;

use std::time::Duration;

use culvert_api::v1;
use culvert_worker::DatapathError;
use tokio::sync::mpsc;

use crate::change::{Change, Refusal};
use crate::events::Events;

/// The running node as clients see it. The methods read counters and tables; they may wait for a worker for up to a
/// second, so that they are called on threads that may block, within a tokio runtime.
pub trait Node: Send + Sync + 'static {
    /// The daemon and its workers.
    fn status(&self) -> v1::GetStatusResponse;

    /// All networks: those of the file in its order, then those of clients in the order in which they were added.
    fn networks(&self) -> Vec<v1::Network>;

    /// All ports, in the same order.
    fn ports(&self) -> Vec<v1::Port>;

    /// All mirrors, in the same order.
    fn mirrors(&self) -> Vec<v1::Mirror>;

    /// All pods, in the same order.
    fn pods(&self) -> Vec<v1::Pod>;

    /// All learned addresses.
    fn macs(&self) -> Vec<v1::Mac>;

    /// The counters of all ports.
    fn stats(&self) -> Vec<v1::PortStats>;

    /// The refused frames of all ports, without the reasons that never occurred.
    fn drops(&self) -> Vec<v1::PortDrop>;

    /// The workers with the queues that each one polls.
    fn workers(&self) -> Vec<v1::WorkerQueues>;

    /// Moves queues between workers if that makes the variance of their loads smaller by `least_improvement` percent, or by what the
    /// configuration says; or only tells what would move.
    ///
    /// # Errors
    /// [`ChangeError::NotDone`].
    fn rebalance(&self, least_improvement: Option<u8>, dry_run: bool) -> Result<v1::RebalanceResponse, ChangeError>;

    /// Starts a capture. It ends when the receiver is dropped, or after `count` frames by closing the channel.
    ///
    /// # Errors
    /// Why this port cannot be captured now.
    fn capture(&self, request: &v1::CaptureRequest) -> Result<mpsc::Receiver<v1::CaptureResponse>, CaptureError>;

    /// Starts to measure how long frames of a port stay, with an answer after each `interval`. It ends when the receiver is dropped.
    ///
    /// # Errors
    /// Why this port cannot be measured now.
    fn measure_latency(
        &self,
        port: &str,
        interval: Duration,
    ) -> Result<mpsc::Receiver<v1::MeasureLatencyResponse>, MeasureError>;

    /// Changes what is wanted, and brings it about. It may take as long as a device takes to open; of several changes each
    /// waits for the one before.
    ///
    /// # Errors
    /// Why it is not done.
    fn change(&self, change: &Change) -> Result<v1::ChangeResponse, ChangeError>;

    /// Reads the configuration file again, and brings about what it says.
    ///
    /// # Errors
    /// Why it is not done.
    fn reload(&self) -> Result<v1::ReloadResponse, ChangeError>;

    /// What happens.
    fn events(&self) -> &Events;

    /// What the switch would do with a frame; `None` when the port is not open.
    fn trace(&self, request: &v1::TraceRequest) -> Option<v1::TraceResponse>;
}

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError {
    /// It is against the rules; nothing has changed.
    Refused(Refusal),
    /// It cannot be kept on the disk; nothing has changed.
    NotKept(String),
    /// It is wanted now, but not everything could be brought about: one sentence each.
    NotDone(Vec<String>),
}

/// Why a capture does not start.
#[derive(Debug)]
pub enum CaptureError {
    /// The filter cannot be read: why.
    Filter(String),
    /// The port is not in the datapath: it failed to open. Or no port of the network is.
    PortNotOpen,
    /// The workers do not take it up.
    Datapath(DatapathError),
    /// As many captures run as are allowed.
    TooMany {
        /// The number allowed.
        limit: usize,
    },
}

impl std::fmt::Display for CaptureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filter(problem) => write!(f, "filter {problem}"),
            Self::PortNotOpen => f.write_str(NOT_OPEN),
            Self::Datapath(error) => write!(f, "{error}"),
            Self::TooMany { limit } => write!(f, "{limit} captures run already; end one of them first"),
        }
    }
}

impl std::error::Error for CaptureError {}

/// Why a port is not measured.
#[derive(Debug)]
pub enum MeasureError {
    /// The port is not in the datapath: it failed to open.
    PortNotOpen,
    /// The workers do not take it up.
    Datapath(DatapathError),
    /// As many are measured as are allowed.
    TooMany {
        /// The number allowed.
        limit: usize,
    },
}

impl std::fmt::Display for MeasureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PortNotOpen => f.write_str(NOT_OPEN),
            Self::Datapath(error) => write!(f, "{error}"),
            Self::TooMany { limit } => write!(f, "{limit} clients measure already; end one of them first"),
        }
    }
}

impl std::error::Error for MeasureError {}

/// Of a port that cannot be asked anything.
const NOT_OPEN: &str = "it is not open; see the reason in `culvertctl port show`";

impl ChangeError {
    /// What to tell a person, one sentence for each mistake.
    pub fn sentences(&self) -> Vec<String> {
        match self {
            Self::Refused(Refusal::Mistakes(mistakes)) => mistakes.iter().map(ToString::to_string).collect(),
            Self::Refused(
                Refusal::Exists(sentence)
                | Refusal::Missing(sentence)
                | Refusal::NotNow(sentence)
                | Refusal::TooMany(sentence),
            )
            | Self::NotKept(sentence) => vec![sentence.clone()],
            Self::NotDone(sentences) => sentences.clone(),
        }
    }
}
