//! Captured frames from a tap in the datapath to one client, in messages of bounded size.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use culvert_api::v1;
use culvert_frame::{Direction, MAX_FRAME_BYTES};
use culvert_switch::tap::Captured;
use culvert_switch::{PortId, Tap, Wanted};
use culvert_worker::{Datapath, DatapathError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::filter::Choice;

/// Captures that may run at a time.
pub const MAX_CAPTURES: usize = 8;

/// Starts a capture on `ports`, each with its name; `place` is its place among [`MAX_CAPTURES`]. Must be called within a tokio runtime.
///
/// # Errors
/// When a worker does not answer.
pub fn start(
    datapath: Arc<Datapath>,
    ports: Vec<(PortId, String)>,
    request: &v1::CaptureRequest,
    choice: Choice,
    place: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<v1::CaptureResponse>, DatapathError> {
    let whole = usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX);
    let wanted = usize::try_from(request.snap_length).unwrap_or(usize::MAX);
    let snap_bytes = if wanted == 0 { whole } else { wanted.min(whole) };
    let buffers = STORE_BYTES.checked_div(snap_bytes).unwrap_or(0).clamp(MIN_BUFFERS, MAX_BUFFERS);
    let choice: Option<Box<dyn Wanted>> = if choice.is_everything() { None } else { Some(Box::new(choice)) };
    let tap = Tap::of_wanted(snap_bytes, buffers, choice);
    let labels = (0..).zip(&ports).map(|(label, (port, _))| (*port, Arc::new(tap.beside(label))));
    let taps = Taps { taps: labels.collect(), datapath };
    for (port, tap) in &taps.taps {
        // What was added already is taken away when `taps` goes.
        taps.datapath.add_tap(*port, Arc::clone(tap))?;
    }
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let names = ports.into_iter().map(|(_, name)| name).collect();
    let left = if request.count == 0 { u64::MAX } else { request.count };
    let mut reader = Reader { tap, names, left, missed: 0 };
    tokio::spawn(async move {
        reader.copy_to(&sender).await;
        // Whether the workers let go of the taps is of no interest to the client.
        drop(sender);
        drop(tokio::task::spawn_blocking(move || drop(taps)).await);
        drop(place);
    });
    Ok(receiver)
}

/// The taps of a capture, which are taken away when this is dropped: by whoever may wait for workers.
struct Taps {
    datapath: Arc<Datapath>,
    taps: Vec<(PortId, Arc<Tap>)>,
}

impl Drop for Taps {
    fn drop(&mut self) {
        for (port, tap) in &self.taps {
            if let Err(error) = self.datapath.remove_tap(*port, tap) {
                tracing::warn!("a capture ended, but its frames are still copied: {error}");
            }
        }
    }
}

struct Reader {
    tap: Tap,
    /// Of its ports, by label.
    names: Vec<String>,
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
            message.frames.push(self.view(&captured));
            self.tap.give_back(captured);
            self.left = self.left.saturating_sub(1);
        }
        message
    }

    fn view(&self, captured: &Captured) -> v1::CapturedFrame {
        let since = captured.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        v1::CapturedFrame {
            time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            direction: direction(captured.direction).into(),
            length: captured.length,
            data: captured.bytes.clone(),
            port: self.names.get(usize::from(captured.label)).cloned().unwrap_or_default(),
        }
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
