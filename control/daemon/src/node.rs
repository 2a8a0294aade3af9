//! The running node: what the control server may ask of it, and its parts.
//!
//! - [`Node`]: the questions; tests of the server bring their own node with fixed figures;
//! - [`live`]: the answers of the real datapath;
//! - [`ports`]: opening the configured ports, and their states;
//! - [`backend`]: what vhost-user sockets ask of the workers; [`faults`]: what workers tell of guests;
//! - [`capture`]: frames from a tap to a client.
//!
//! Answers are in the words of the schema, so that there is no second set of types between the datapath and the wire.

pub mod backend;
pub mod capture;
pub mod faults;
pub mod live;
pub mod ports;

use culvert_api::v1;
use culvert_worker::DatapathError;
use tokio::sync::mpsc;

/// The running node as clients see it. The methods read counters and tables; they may wait for a worker for up to a
/// second, so that they are called on threads that may block, within a tokio runtime.
pub trait Node: Send + Sync + 'static {
    /// The daemon and its workers.
    fn status(&self) -> v1::GetStatusResponse;

    /// All networks, in the order in which they were added.
    fn networks(&self) -> Vec<v1::Network>;

    /// All ports, in the order in which they were added.
    fn ports(&self) -> Vec<v1::Port>;

    /// All learned addresses.
    fn macs(&self) -> Vec<v1::Mac>;

    /// The counters of all ports.
    fn stats(&self) -> Vec<v1::PortStats>;

    /// The refused frames of all ports, without the reasons that never occurred.
    fn drops(&self) -> Vec<v1::PortDrop>;

    /// Starts a capture. It ends when the receiver is dropped, or after `count` frames by closing the channel.
    ///
    /// # Errors
    /// Why this port cannot be captured now.
    fn capture(&self, request: &v1::CaptureRequest) -> Result<mpsc::Receiver<v1::CaptureResponse>, CaptureError>;
}

/// Why a capture does not start.
#[derive(Debug)]
pub enum CaptureError {
    /// The port is not in the datapath: it failed to open.
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
            Self::PortNotOpen => f.write_str("it is not open; see the reason in `culvertctl port show`"),
            Self::Datapath(error) => write!(f, "{error}"),
            Self::TooMany { limit } => write!(f, "{limit} captures run already; end one of them first"),
        }
    }
}

impl std::error::Error for CaptureError {}
