//! What the control server may ask of the running node.
//!
//! One implementation stands on the real datapath; tests bring their own with fixed figures. Answers are in the words
//! of the schema, so that there is no second set of types between the datapath and the wire.

use culvert_api::v1;
use tokio::sync::mpsc;

/// The running node as clients see it. All methods return at once: they read counters and tables, and wait for no
/// worker.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// The port is not in the datapath: it failed to open.
    PortNotOpen,
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
            Self::TooMany { limit } => write!(f, "{limit} captures run already; end one of them first"),
        }
    }
}

impl std::error::Error for CaptureError {}
