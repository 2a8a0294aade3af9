//! A node with fixed figures: networks blue and red, port vm-a that captures endlessly and port vm-b that failed.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_api::v1;
use culvertd::change::{Change, Refusal};
use culvertd::config::Mistake;
use culvertd::events::Events;
use culvertd::node::{CaptureError, ChangeError, MeasureError, Node};
use tokio::sync::{Notify, mpsc};

pub struct Figures {
    /// Notified when a capture's receiver is gone.
    pub capture_ended: Arc<Notify>,
    pub events: Events,
    /// The changes that were made.
    pub changes: Mutex<Vec<Change>>,
    /// A change of the name `slow` takes until something comes here.
    slow: Mutex<Receiver<()>>,
    /// Ends such a change.
    pub end_slow: Sender<()>,
}

impl Default for Figures {
    fn default() -> Self {
        let (end_slow, slow) = channel();
        Self {
            capture_ended: Arc::default(),
            events: Events::default(),
            changes: Mutex::default(),
            slow: Mutex::new(slow),
            end_slow,
        }
    }
}

impl Node for Figures {
    fn status(&self) -> v1::GetStatusResponse {
        let worker = v1::Worker { core: 1, ..v1::Worker::default() };
        v1::GetStatusResponse { version: "1.2.3".to_owned(), workers: vec![worker], ..v1::GetStatusResponse::default() }
    }

    fn networks(&self) -> Vec<v1::Network> {
        ["blue", "red"].map(|name| v1::Network { name: name.to_owned(), ..v1::Network::default() }).into()
    }

    fn ports(&self) -> Vec<v1::Port> {
        ["vm-a", "vm-b"].map(|name| v1::Port { name: name.to_owned(), ..v1::Port::default() }).into()
    }

    fn mirrors(&self) -> Vec<v1::Mirror> {
        vec![v1::Mirror { name: "watch".to_owned(), ..v1::Mirror::default() }]
    }

    fn pods(&self) -> Vec<v1::Pod> {
        vec![v1::Pod { name: "launcher".to_owned(), ..v1::Pod::default() }]
    }

    fn workers(&self) -> Vec<v1::WorkerQueues> {
        vec![v1::WorkerQueues { core: 1, ..v1::WorkerQueues::default() }]
    }

    fn rebalance(&self, least_improvement: Option<u8>, _: bool) -> Result<v1::RebalanceResponse, ChangeError> {
        let least_improvement = least_improvement.unwrap_or(25).into();
        Ok(v1::RebalanceResponse { least_improvement, ..v1::RebalanceResponse::default() })
    }

    fn macs(&self) -> Vec<v1::Mac> {
        let mac = |network: &str, port: &str| v1::Mac {
            network: network.to_owned(),
            port: port.to_owned(),
            ..v1::Mac::default()
        };
        vec![mac("blue", "vm-a"), mac("blue", "vm-b"), mac("red", "vm-b")]
    }

    fn stats(&self) -> Vec<v1::PortStats> {
        ["vm-a", "vm-b"].map(|port| v1::PortStats { port: port.to_owned(), ..v1::PortStats::default() }).into()
    }

    fn drops(&self) -> Vec<v1::PortDrop> {
        ["vm-a", "vm-b"].map(|port| v1::PortDrop { port: port.to_owned(), ..v1::PortDrop::default() }).into()
    }

    fn capture(&self, request: &v1::CaptureRequest) -> Result<mpsc::Receiver<v1::CaptureResponse>, CaptureError> {
        if request.port != "vm-a" {
            return Err(CaptureError::PortNotOpen);
        }
        let (sender, receiver) = mpsc::channel(4);
        let count = if request.count == 0 { u64::MAX } else { request.count };
        let ended = Arc::clone(&self.capture_ended);
        tokio::spawn(async move {
            for time_ns in 0..count {
                let frames = vec![v1::CapturedFrame { time_ns, ..v1::CapturedFrame::default() }];
                if sender.send(v1::CaptureResponse { frames, lost: 0 }).await.is_err() {
                    break;
                }
            }
            ended.notify_one();
        });
        Ok(receiver)
    }

    fn measure_latency(
        &self,
        port: &str,
        interval: Duration,
    ) -> Result<mpsc::Receiver<v1::MeasureLatencyResponse>, MeasureError> {
        if port != "vm-a" {
            return Err(MeasureError::PortNotOpen);
        }
        let (sender, receiver) = mpsc::channel(1);
        let elapsed_ns = u64::try_from(interval.as_nanos()).unwrap();
        let _ = sender.try_send(v1::MeasureLatencyResponse { elapsed_ns, pairs: Vec::new() });
        Ok(receiver)
    }

    /// Remembers the change; a name of its own leads to each kind of answer.
    fn change(&self, change: &Change) -> Result<v1::ChangeResponse, ChangeError> {
        let sentence = || "a sentence".to_owned();
        let mistake = |key: &str| Mistake {
            file: String::new(),
            line: None,
            key: key.to_owned(),
            value: None,
            problem: "is wrong".to_owned(),
            remedy: "correct it".to_owned(),
        };
        let refused = match change.name.as_str() {
            "mistakes" => Refusal::Mistakes(vec![mistake("port.vlan"), mistake("port.mtu")]),
            "many" => Refusal::Mistakes(vec![mistake("port.vlan"); 40]),
            "exists" => Refusal::Exists(sentence()),
            "missing" => Refusal::Missing(sentence()),
            "not-now" => Refusal::NotNow(sentence()),
            "too-many" => Refusal::TooMany(sentence()),
            "not-kept" => return Err(ChangeError::NotKept(sentence())),
            "not-done" => return Err(ChangeError::NotDone(vec![sentence(), sentence()])),
            "slow" => {
                self.slow.lock().unwrap().recv().unwrap();
                return Ok(v1::ChangeResponse::default());
            }
            _ => {
                self.changes.lock().unwrap().push(change.clone());
                return Ok(v1::ChangeResponse { changed: true, note: sentence() });
            }
        };
        Err(ChangeError::Refused(refused))
    }

    fn reload(&self) -> Result<v1::ReloadResponse, ChangeError> {
        let (actions, waiting) = (vec!["open port vm-c".to_owned()], vec!["daemon.state_dir".to_owned()]);
        Ok(v1::ReloadResponse { actions, waiting })
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn trace(&self, request: &v1::TraceRequest) -> Option<v1::TraceResponse> {
        let refused = format!("{} bytes", request.frame.len());
        (request.port == "vm-a").then(|| v1::TraceResponse { refused, ..v1::TraceResponse::default() })
    }
}
