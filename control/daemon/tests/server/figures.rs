//! A node with fixed figures: networks blue and red, port vm-a that captures endlessly and port vm-b that failed.

use std::sync::Arc;

use culvert_api::v1;
use culvertd::node::{CaptureError, Node};
use tokio::sync::{Notify, mpsc};

#[derive(Default)]
pub struct Figures {
    /// Notified when a capture's receiver is gone.
    pub capture_ended: Arc<Notify>,
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
}
