//! A culvertd with fixed answers, on a socket of its own.

use std::path::PathBuf;
use std::pin::Pin;

use culvert_api::v1;
use culvert_api::v1::culvert_server::{Culvert, CulvertServer};
use culvert_api::v1::port::Attachment;
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A running fake; it ends with the test's runtime.
pub struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("c.sock")).unwrap();
        let server = Server::builder().add_service(CulvertServer::new(Answers));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    /// A path for a file that a command writes.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("out.pcapng")
    }
}

struct Answers;

/// The only port that methods with a filter know.
fn check(port: &str) -> Result<(), Status> {
    if port.is_empty() || port == "vm-a" {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no port {port}; `culvertctl port list` shows the ports")))
}

/// The head of an ARP request from 02:00:00:00:00:0a.
pub fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x0a, 8, 6, 0, 1]);
    frame
}

#[tonic::async_trait]
impl Culvert for Answers {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let worker = v1::Worker { core: 1, loops: 1_000, busy_loops: 10, sleeps: 3, frames: 12_345_678 };
        Ok(Response::new(v1::GetStatusResponse {
            version: "0.1.0".to_owned(),
            pid: 4242,
            uptime_seconds: 3_725,
            config_file: "/etc/culvert/culvertd.toml".to_owned(),
            memory_mb: 256,
            hugepages: false,
            pages: "ordinary pages: none are free".to_owned(),
            workers: vec![worker],
            networks: 1,
            ports: 3,
            ports_up: 2,
        }))
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let ports = ["uplink0", "vm-a", "vm-b"].map(str::to_owned).into();
        let blue = v1::Network { name: "blue".to_owned(), mac_age_seconds: 300, ports, macs: 12 };
        Ok(Response::new(v1::ListNetworksResponse { networks: vec![blue] }))
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let port = request.into_inner().port;
        check(&port)?;
        let mut ports = ports();
        ports.retain(|known| port.is_empty() || known.name == port);
        Ok(Response::new(v1::ListPortsResponse { ports }))
    }

    async fn list_macs(&self, request: Request<v1::ListMacsRequest>) -> Result<Response<v1::ListMacsResponse>, Status> {
        check(&request.into_inner().port)?;
        let mac = |mac: &str, port: &str, age_seconds| v1::Mac {
            network: "blue".to_owned(),
            mac: mac.to_owned(),
            port: port.to_owned(),
            age_seconds,
        };
        let macs = vec![mac("02:00:00:00:00:0b", "uplink0", Some(75)), mac("02:00:00:00:00:0a", "vm-a", None)];
        Ok(Response::new(v1::ListMacsResponse { macs }))
    }

    async fn get_stats(&self, request: Request<v1::GetStatsRequest>) -> Result<Response<v1::GetStatsResponse>, Status> {
        check(&request.into_inner().port)?;
        let stats = v1::PortStats {
            port: "vm-a".to_owned(),
            rx_frames: 1_000,
            rx_bytes: 64_000,
            rx_forwarded: 990,
            rx_copies: 1_980,
            rx_dropped: 9,
            rx_in_flight: 1,
            rx_not_learned: 0,
            tx_offered: u64::MAX,
            tx_frames: u64::MAX - 15,
            tx_bytes: 7,
            tx_dropped: 12,
            tx_in_flight: 3,
            nic_missed: 1,
            nic_rx_errors: 2,
            nic_tx_errors: 4,
        };
        Ok(Response::new(v1::GetStatsResponse { ports: vec![stats] }))
    }

    async fn list_drops(
        &self,
        request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let port = request.into_inner().port;
        check(&port)?;
        let drop = |direction, reason: &str, count, remedy: &str, last_header, last_length| v1::PortDrop {
            port: "vm-a".to_owned(),
            direction,
            reason: reason.to_owned(),
            count,
            remedy: remedy.to_owned(),
            last_header,
            last_length,
        };
        let (rx, tx) = (v1::Direction::Rx.into(), v1::Direction::Tx.into());
        let drops = vec![
            drop(rx, "runt", 9, "Look for a broken driver.", vec![], 0),
            drop(tx, "no-buffer", 12, "Give the guest CPU.", arp(), 42),
        ];
        // The filter is the test's way to an answer without drops.
        Ok(Response::new(v1::ListDropsResponse { drops: if port.is_empty() { drops } else { vec![] } }))
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CaptureResponse, Status>> + Send>>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        check(&request.port)?;
        let frame = |time_ns, direction: v1::Direction| v1::CapturedFrame {
            time_ns,
            direction: direction.into(),
            length: 42,
            data: arp(),
        };
        let first = vec![frame(1_700_000_000_123_456_789, v1::Direction::Rx)];
        let second = vec![frame(1_700_000_001_000_000_000, v1::Direction::Tx)];
        let messages =
            [v1::CaptureResponse { frames: first, lost: 0 }, v1::CaptureResponse { frames: second, lost: 5 }];
        let frames = tokio_stream::iter(messages.map(Ok));
        if request.count == 0 {
            let endless = tokio_stream::StreamExt::chain(frames, tokio_stream::pending());
            return Ok(Response::new(Box::pin(endless)));
        }
        Ok(Response::new(Box::pin(frames)))
    }
}

fn ports() -> Vec<v1::Port> {
    let port = |name: &str, state: v1::PortState, reason: &str, attachment| v1::Port {
        name: name.to_owned(),
        network: "blue".to_owned(),
        state: state.into(),
        reason: reason.to_owned(),
        mtu: 1500,
        queues: 2,
        mac_limit: 64,
        attachment: Some(attachment),
    };
    let guest = |socket: &str, mac: &str, peer_pid, features, rings| {
        Attachment::Guest(v1::GuestAttachment {
            socket: socket.to_owned(),
            role: v1::Role::Listen.into(),
            mac: mac.to_owned(),
            peer_pid,
            features,
            rings,
        })
    };
    let nic = Attachment::Nic(v1::NicAttachment {
        device: "0000:03:00.0".to_owned(),
        driver: "net_ixgbe".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        speed_mbps: 10_000,
    });
    let features = 1 << 32 | 1 << 15;
    vec![
        port("uplink0", v1::PortState::Up, "", nic),
        port("vm-a", v1::PortState::Up, "", guest("/run/a/vhost.sock", "02:00:00:00:00:0a", 77, features, 4)),
        port("vm-b", v1::PortState::Failed, "the folder is gone; make it", guest("/run/b/vhost.sock", "", 0, 0, 0)),
    ]
}
