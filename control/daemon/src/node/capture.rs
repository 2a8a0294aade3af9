//! Captured frames from a tap in the datapath to one client, in messages of bounded size.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use culvert_api::v1;
use culvert_frame::{Direction, MAX_FRAME_BYTES};
use culvert_switch::tap::Captured;
use culvert_switch::{PortId, Tap};
use culvert_worker::{Datapath, DatapathError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Captures that may run at a time.
pub const MAX_CAPTURES: usize = 8;

/// Starts a capture on `port`; `place` is its place among [`MAX_CAPTURES`]. Must be called within a tokio runtime.
///
/// # Errors
/// When a worker does not answer.
pub fn start(
    datapath: Arc<Datapath>,
    port: PortId,
    request: &v1::CaptureRequest,
    place: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<v1::CaptureResponse>, DatapathError> {
    let whole = usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX);
    let wanted = usize::try_from(request.snap_length).unwrap_or(usize::MAX);
    let snap_bytes = if wanted == 0 { whole } else { wanted.min(whole) };
    let buffers = STORE_BYTES.checked_div(snap_bytes).unwrap_or(0).clamp(MIN_BUFFERS, MAX_BUFFERS);
    let tap = Arc::new(Tap::new(snap_bytes, buffers));
    datapath.add_tap(port, Arc::clone(&tap))?;
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let mut reader = Reader { tap, left: if request.count == 0 { u64::MAX } else { request.count }, missed: 0 };
    tokio::spawn(async move {
        reader.copy_to(&sender).await;
        // Whether the workers let go of the tap is of no interest to the client.
        drop(sender);
        let removed = tokio::task::spawn_blocking(move || datapath.remove_tap(port, &reader.tap)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!("a capture ended, but its frames are still copied: {error}");
        }
        drop(place);
    });
    Ok(receiver)
}

struct Reader {
    tap: Arc<Tap>,
    /// Frames until the end.
    left: u64,
    /// Frames that the tap had missed when the last message was made.
    missed: u64,
}

impl Reader {
    /// Copies until the wished number of frames is reached or nobody reads any more.
    async fn copy_to(&mut self, sender: &mpsc::Sender<v1::CaptureResponse>) {
        while self.left > 0 {
            let message = self.message();
            if message.frames.is_empty() && message.lost == 0 {
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            } else if sender.send(message).await.is_err() {
                return;
            }
        }
    }

    /// The frames that are there, up to a message's size.
    fn message(&mut self) -> v1::CaptureResponse {
        let missed = self.tap.missed();
        let mut message = v1::CaptureResponse { frames: Vec::new(), lost: missed.saturating_sub(self.missed) };
        self.missed = missed;
        let mut bytes = 0_usize;
        while self.left > 0 && bytes < MESSAGE_BYTES {
            let Some(captured) = self.tap.next() else { break };
            bytes = bytes.saturating_add(captured.bytes.len()).saturating_add(FRAME_OVERHEAD);
            message.frames.push(view(&captured));
            self.tap.give_back(captured);
            self.left = self.left.saturating_sub(1);
        }
        message
    }
}

fn view(captured: &Captured) -> v1::CapturedFrame {
    let since = captured.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::CapturedFrame {
        time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        direction: direction(captured.direction).into(),
        length: captured.length,
        data: captured.bytes.clone(),
    }
}

/// A direction in the words of the schema.
pub fn direction(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Rx => v1::Direction::Rx,
        Direction::Tx => v1::Direction::Tx,
    }
}

/// Memory for frames that were not read yet, when all buffers are full; each capture has at least [`MIN_BUFFERS`].
const STORE_BYTES: usize = 16 << 20;
const MIN_BUFFERS: usize = 256;
const MAX_BUFFERS: usize = 8192;
/// A message ends after the frame that reaches this size.
const MESSAGE_BYTES: usize = 256 << 10;
/// What a frame takes besides its data.
const FRAME_OVERHEAD: usize = 32;
const MESSAGES_AHEAD: usize = 4;
/// How long to wait for frames when there are none.
const PAUSE: Duration = Duration::from_millis(10);
