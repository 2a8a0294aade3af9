//! How long frames of a port stay, counted for one client while it listens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use culvert_api::v1;
use culvert_frame::Direction;
use culvert_switch::latency::Range;
use culvert_switch::{Latency, PortId};
use culvert_worker::{Datapath, DatapathError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::live::Running;

/// Measurements that may run at a time.
pub const MAX_MEASUREMENTS: usize = 8;

/// Starts to measure a port; an answer comes after each `interval`. `place` is its place among [`MAX_MEASUREMENTS`]. Must be called within a
/// tokio runtime.
///
/// # Errors
/// When a worker does not answer.
pub(super) fn start(
    datapath: Arc<Datapath>,
    running: Weak<Mutex<Running>>,
    port: (PortId, String),
    interval: Duration,
    place: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<v1::MeasureLatencyResponse>, DatapathError> {
    let (id, name) = port;
    let measured = Measured { datapath, port: id, latency: Arc::new(Latency::new()) };
    // What was added already is taken away when `measured` goes.
    measured.datapath.add_latency(id, Arc::clone(&measured.latency))?;
    let (sender, receiver) = mpsc::channel(1);
    let latency = Arc::clone(&measured.latency);
    let mut reader = Reader { latency, running, id, name, peers: BTreeMap::new(), start: Instant::now() };
    tokio::spawn(async move {
        reader.tell(&sender, interval).await;
        drop(sender);
        // Whether the workers let go of it is of no interest to the client.
        drop(tokio::task::spawn_blocking(move || drop(measured)).await);
        drop(place);
    });
    Ok(receiver)
}

/// What a measurement counts in, which is taken away when this is dropped: by whoever may wait for workers.
struct Measured {
    datapath: Arc<Datapath>,
    port: PortId,
    latency: Arc<Latency>,
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Err(error) = self.datapath.remove_latency(self.port, &self.latency) {
            tracing::warn!("a measurement of latency ended, but is still made: {error}");
        }
    }
}

struct Reader {
    latency: Arc<Latency>,
    running: Weak<Mutex<Running>>,
    id: PortId,
    name: String,
    /// The names of the ports at the other end, by direction and place, as they were when they were seen first.
    peers: BTreeMap<(bool, u8), String>,
    start: Instant,
}

impl Reader {
    /// Tells until nobody reads any more, or the port has gone.
    async fn tell(&mut self, sender: &mpsc::Sender<v1::MeasureLatencyResponse>, interval: Duration) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = sender.closed() => return,
                _ = ticks.tick() => {}
            }
            let Some(answer) = self.answer() else { return };
            // A client that does not read is no reason to measure on.
            if !matches!(tokio::time::timeout(PATIENCE, sender.send(answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// What was counted so far; `None`: the port has gone.
    fn answer(&mut self) -> Option<v1::MeasureLatencyResponse> {
        let running = self.running.upgrade()?;
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.name(self.id) != self.name {
            return None;
        }
        let mut pairs = Vec::new();
        for (direction, is_rx) in [(Direction::Rx, true), (Direction::Tx, false)] {
            for times in self.latency.pairs(direction) {
                let peer = match (times.place, times.port) {
                    (0, _) => OTHERS.to_owned(),
                    // One that goes away keeps its name.
                    (place, Some(port)) if running.name(port) != NOBODY => {
                        self.peers.entry((is_rx, place)).or_insert_with(|| running.name(port).to_owned()).clone()
                    }
                    (place, _) => self.peers.get(&(is_rx, place)).cloned().unwrap_or_default(),
                };
                let (from, to) = if is_rx { (self.name.clone(), peer) } else { (peer, self.name.clone()) };
                pairs.push(v1::LatencyPair { from, to, ranges: view(&times.ranges) });
            }
        }
        let elapsed_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Some(v1::MeasureLatencyResponse { elapsed_ns, pairs })
    }
}

/// Ranges in the words of the schema.
pub(super) fn view(ranges: &[Range]) -> Vec<v1::LatencyRange> {
    let view = |range: &Range| v1::LatencyRange { from_ns: range.from_ns, to_ns: range.to_ns, frames: range.frames };
    ranges.iter().map(view).collect()
}

/// The name of all ports beyond those that are told apart.
const OTHERS: &str = "*";
/// What stands for the name of a port that has gone.
const NOBODY: &str = "-";
/// How long a client may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(10);
