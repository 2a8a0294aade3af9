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

fn translators() -> Vec<v1::Translator> {
    let statistics = [
        ("rx_frames", 7),
        ("rx_bytes", 700),
        ("tx_frames", 8),
        ("tx_bytes", 800),
        ("tcp_flows", 2),
        ("udp_flows", 1),
        ("tcp_flows_total", 90),
        ("refused_malformed", 3),
        ("refused_too_fast", 4),
    ];
    let statistics = statistics.map(|(name, value)| (name.to_owned(), value)).into();
    let folder = "/run/culvert/translators";
    let problem = format!("the translator at {folder}/vm-b.sock.ctl cannot be reached: Connection refused");
    vec![
        v1::Translator { socket: format!("{folder}/vm-a.sock"), statistics, ..v1::Translator::default() },
        v1::Translator { socket: format!("{folder}/vm-b.sock"), problem, ..v1::Translator::default() },
    ]
}

#[tonic::async_trait]
impl Culvert for Answers {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let worker = v1::Worker {
            core: 1,
            loops: 1_000,
            busy_loops: 10,
            sleeps: 3,
            frames: 12_345_678,
            poll_gaps: 2,
            longest_gap_us: 5_021_340,
            busy_ns: 1_000_000_000,
        };
        Ok(Response::new(v1::GetStatusResponse {
            version: "0.1.0".to_owned(),
            pid: 4242,
            supervisor_pid: 4241,
            restarts: 2,
            last_end: "signal 11 (SIGSEGV)".to_owned(),
            uptime_seconds: 3_725,
            config_file: "/etc/culvert/culvertd.toml".to_owned(),
            memory_mb: 256,
            hugepages: false,
            pages: "ordinary pages: none are free".to_owned(),
            workers: vec![worker],
            networks: 1,
            ports: 3,
            ports_max: 1024,
            ports_up: 2,
            mirrors: 1,
            pods: 2,
            bugs: 0,
            warnings: vec!["daemon.state_dir changed in f.toml; restart culvertd".to_owned()],
            translators: translators(),
        }))
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let ports = ["uplink0", "vm-a", "vm-b"].map(str::to_owned).into();
        let blue =
            v1::Network { name: "blue".to_owned(), mac_age_seconds: 300, ports, macs: 12, ..v1::Network::default() };
        let blue = v1::Network { snooping: true, guest_ports: Some(16), origin: v1::Origin::File.into(), ..blue };
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
            vlan: if port == "vm-a" { 10 } else { 0 },
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
            rx_held: 5,
            tx_offered: u64::MAX,
            tx_frames: u64::MAX - 15,
            tx_bytes: 7,
            tx_dropped: 12,
            tx_in_flight: 3,
            nic_missed: 1,
            nic_rx_errors: 2,
            nic_tx_errors: 4,
            latency: None,
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

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let v1::WatchEventsRequest { port, past, follow } = request.into_inner();
        let event = |number, kind: v1::EventKind, port: &str, text: &str| v1::Event {
            number,
            time_ns: 1_700_000_000_123_456_789,
            kind: kind.into(),
            port: port.to_owned(),
            text: text.to_owned(),
        };
        let mut events = vec![
            event(1, v1::EventKind::Started, "", "culvertd has started"),
            event(2, v1::EventKind::Quarantined, "vm-a", "the guest broke a ring; restart it"),
        ];
        events.retain(|event| port.is_empty() || event.port == port);
        events.truncate(past.try_into().unwrap());
        let mut messages = vec![Ok(v1::WatchEventsResponse { events, lost: 0 })];
        if follow {
            let events = vec![event(9, v1::EventKind::Up, "vm-a", "frames pass")];
            messages.push(Ok(v1::WatchEventsResponse { events, lost: 6 }));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn get_log_level(
        &self,
        _: Request<v1::GetLogLevelRequest>,
    ) -> Result<Response<v1::LogLevelResponse>, Status> {
        Ok(Response::new(v1::LogLevelResponse { filter: "info".to_owned(), at_start: "info".to_owned() }))
    }

    async fn set_log_level(
        &self,
        request: Request<v1::SetLogLevelRequest>,
    ) -> Result<Response<v1::LogLevelResponse>, Status> {
        let filter = request.into_inner().filter;
        let filter = if filter.is_empty() { "info".to_owned() } else { filter };
        Ok(Response::new(v1::LogLevelResponse { filter, at_start: "info".to_owned() }))
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CaptureResponse, Status>> + Send>>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        check(&request.port)?;
        if request.filter == "nonsense" {
            return Err(Status::invalid_argument("filter has \"nonsense\" where an address should be"));
        }
        // Of a network only what comes in, if nothing else is asked for.
        assert!(request.network.is_empty() || (request.network == "blue" && request.direction() == v1::Direction::Rx));
        let frame = |time_ns, direction: v1::Direction| v1::CapturedFrame {
            time_ns,
            direction: direction.into(),
            length: 42,
            data: arp(),
            port: "vm-a".to_owned(),
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

    type MeasureLatencyStream = Pin<Box<dyn Stream<Item = Result<v1::MeasureLatencyResponse, Status>> + Send>>;

    /// An answer each time that the interval would be over.
    async fn measure_latency(
        &self,
        request: Request<v1::MeasureLatencyRequest>,
    ) -> Result<Response<Self::MeasureLatencyStream>, Status> {
        let v1::MeasureLatencyRequest { port, interval_ms } = request.into_inner();
        check(&port)?;
        let range = |from_ns, to_ns, frames| v1::LatencyRange { from_ns, to_ns, frames };
        let pair = |from: &str, to: &str, ranges: Vec<_>| v1::LatencyPair { from: from.into(), to: to.into(), ranges };
        let answers = (1..=3).map(move |number: u64| {
            let ranges = vec![range(992, 1007, 989 * number), range(20_480, 20_991, 11 * number)];
            let pairs = vec![pair("vm-a", "vm-b", ranges), pair("*", "vm-a", vec![range(500, 507, 1)])];
            let elapsed_ns = number * u64::from(interval_ms) * 1_000_000;
            Ok(v1::MeasureLatencyResponse { elapsed_ns, pairs })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let queue = |port: &str, queue, load_permille, frames| v1::PolledQueue {
            port: port.to_owned(),
            queue,
            load_permille,
            frames,
            busy_ns: u64::from(load_permille) * 1_000_000,
        };
        let queues = vec![queue("vm-a", 0, 412, 4_000_000), queue("vm-a", 1, 3, 0)];
        let busy = v1::WorkerQueues { core: 1, load_permille: 415, queues };
        let idle = v1::WorkerQueues { core: 2, ..v1::WorkerQueues::default() };
        Ok(Response::new(v1::ListWorkersResponse { workers: vec![busy, idle] }))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let v1::RebalanceRequest { dry_run, least_improvement } = request.into_inner();
        let least_improvement = least_improvement.unwrap_or(25);
        let moved = v1::QueueMove { port: "vm-a".to_owned(), queue: 1, from_core: 1, to_core: 2, load_permille: 403 };
        let load = |core, before_permille, after_permille| v1::WorkerLoad { core, before_permille, after_permille };
        let workers = vec![load(1, 960, 557), load(2, 0, 403)];
        // The threshold is the test's way to an answer without moves.
        let moves = if least_improvement <= 97 || dry_run { vec![moved] } else { vec![] };
        Ok(Response::new(v1::RebalanceResponse { moves, improvement: 97, least_improvement, workers }))
    }

    async fn list_mirrors(
        &self,
        _: Request<v1::ListMirrorsRequest>,
    ) -> Result<Response<v1::ListMirrorsResponse>, Status> {
        let mirror = v1::Mirror {
            name: "watch".to_owned(),
            from: vec!["vm-a".to_owned(), "uplink0".to_owned()],
            to: "vm-b".to_owned(),
            rx: true,
            tx: false,
            origin: v1::Origin::Client.into(),
            active: false,
        };
        Ok(Response::new(v1::ListMirrorsResponse { mirrors: vec![mirror] }))
    }

    async fn add_network(
        &self,
        request: Request<v1::AddNetworkRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        asked(&request.into_inner())
    }

    async fn set_network(
        &self,
        request: Request<v1::SetNetworkRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        asked(&request.into_inner())
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let note = format!("there was no network {}", request.into_inner().name);
        Ok(Response::new(v1::ChangeResponse { changed: false, note }))
    }

    async fn add_port(&self, request: Request<v1::AddPortRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let request = request.into_inner();
        if request.name == "bad" {
            return Err(Status::invalid_argument(
                "port.vlan = 0: is wrong; correct it\nport.mtu = 0: is wrong; correct it",
            ));
        }
        asked(&request)
    }

    async fn set_port(&self, request: Request<v1::SetPortRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        asked(&request.into_inner())
    }

    async fn remove_port(&self, _: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        Ok(Response::new(v1::ChangeResponse { changed: true, note: String::new() }))
    }

    async fn add_mirror(&self, request: Request<v1::AddMirrorRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        asked(&request.into_inner())
    }

    async fn remove_mirror(&self, _: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        Ok(Response::new(v1::ChangeResponse { changed: false, note: String::new() }))
    }

    async fn list_pods(&self, _: Request<v1::ListPodsRequest>) -> Result<Response<v1::ListPodsResponse>, Status> {
        let pod = v1::Pod {
            name: "0f1e2d3c4b5a-eth0".to_owned(),
            folders: vec!["/a/one".to_owned(), "/a/two".to_owned()],
            netns: "/var/run/netns/cni-1".to_owned(),
            tap: "tap0".to_owned(),
            description: "lab/fw".to_owned(),
            origin: v1::Origin::Client.into(),
            helped: vec!["/a/one/vm.sock".to_owned()],
            problems: vec!["folder /a/two cannot be read; correct its mode".to_owned()],
        };
        let bare = v1::Pod { name: "bare".to_owned(), folders: vec!["/b".to_owned()], ..v1::Pod::default() };
        Ok(Response::new(v1::ListPodsResponse { pods: vec![pod, bare] }))
    }

    async fn add_pod(&self, request: Request<v1::AddPodRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        asked(&request.into_inner())
    }

    async fn remove_pod(&self, _: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        Ok(Response::new(v1::ChangeResponse { changed: true, note: String::new() }))
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadResponse>, Status> {
        let actions = vec!["close port vm-b".to_owned(), "open port vm-c".to_owned()];
        Ok(Response::new(v1::ReloadResponse { actions, waiting: vec!["datapath.memory_mb".to_owned()] }))
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceResponse>, Status> {
        let v1::TraceRequest { port, frame } = request.into_inner();
        check(&port)?;
        let step = |what: &str, why: &str| v1::TraceStep { what: what.to_owned(), why: why.to_owned() };
        let leaves = format!("leaves at vm-b, {} bytes", frame.len());
        let steps = vec![step("goes to all ports of its VLAN", "it is for all"), step(&leaves, "")];
        let fate = |port: &str, dropped: &str, copy| v1::TraceFate {
            port: port.to_owned(),
            dropped: dropped.to_owned(),
            copy,
        };
        let fates = vec![fate("vm-b", "", false), fate("uplink0", "too-long", true)];
        Ok(Response::new(v1::TraceResponse { steps, fates, refused: String::new() }))
    }
}

fn access(port: v1::Port) -> v1::Port {
    let origin = v1::Origin::Client.into();
    let description = "database of Anna".to_owned();
    let port = v1::Port { rx_rate: Some("100mbit".to_owned()), rx_burst: Some(9), tx_frame_rate: Some(7), ..port };
    v1::Port { vlan: Some(10), qinq: true, broadcast_limit: Some(1000), isolated: true, origin, description, ..port }
}

/// What was asked for, as the answer's note: the test sees that each flag has arrived.
fn asked(request: &impl std::fmt::Debug) -> Result<Response<v1::ChangeResponse>, Status> {
    Ok(Response::new(v1::ChangeResponse { changed: true, note: format!("{request:?}") }))
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
        origin: v1::Origin::File.into(),
        ..v1::Port::default()
    };
    let guest = |socket: &str, mac: &str, peer_pid, features, rings| {
        Attachment::Guest(v1::GuestAttachment {
            socket: socket.to_owned(),
            role: v1::Role::Listen.into(),
            mac: mac.to_owned(),
            peer_pid,
            features,
            rings,
            addresses: if peer_pid == 0 { vec![] } else { vec!["10.0.0.5".to_owned(), "fd00::/64".to_owned()] },
            offloads: true,
            follow_link: if peer_pid == 0 { String::new() } else { "uplink0".to_owned() },
            socket_root: if peer_pid == 0 { String::new() } else { "/run/a".to_owned() },
            owner: if peer_pid == 0 { String::new() } else { "107:107".to_owned() },
            label: if peer_pid == 0 { String::new() } else { "a:b:c".to_owned() },
        })
    };
    let nic = Attachment::Nic(v1::NicAttachment {
        device: "0000:03:00.0".to_owned(),
        driver: "net_ixgbe".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        speed_mbps: 10_000,
        promiscuous: true,
        link: v1::Link::Up.into(),
    });
    let features = 1 << 32 | 1 << 15;
    vec![
        v1::Port { trunk: vec!["10".to_owned(), "30-39".to_owned()], ..port("uplink0", v1::PortState::Up, "", nic) },
        access(port("vm-a", v1::PortState::Up, "", guest("/run/a/vhost.sock", "02:00:00:00:00:0a", 77, features, 4))),
        port("vm-b", v1::PortState::Failed, "the folder is gone; make it", guest("/run/b/vhost.sock", "", 0, 0, 0)),
    ]
}
