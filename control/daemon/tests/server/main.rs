//! The control server against clients that behave and clients that do not, on a node with fixed figures.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod figures;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use culvertd::arguments::Arguments;
use culvertd::change::{Change, Verb};
use culvertd::config::{Clients, Kind};
use culvertd::listening_socket::{ListeningSocket, Purpose};
use culvertd::server::{Access, Limits, serve};
use figures::Figures;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

/// A server on a socket of its own.
struct Running {
    folder: tempfile::TempDir,
    figures: Arc<Figures>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(limits: Limits) -> Self {
        Self::start_for(limits, Access::new(&Clients::default()))
    }

    fn start_for(limits: Limits, access: Access) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ListeningSocket::bind(&folder.path().join("c.sock"), Purpose::Control, None).unwrap();
        let figures = Arc::new(Figures::default());
        let (stop, stopping) = oneshot::channel::<()>();
        let node = Arc::clone(&figures);
        let task = tokio::spawn(async move {
            let stop = async {
                let _ = stopping.await;
            };
            serve(&socket, node, limits, access, stop).await.unwrap();
        });
        Self { folder, figures, stop, task }
    }

    fn patient() -> Self {
        Self::start(Limits::default())
    }

    async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("c.sock")).await.unwrap()
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.folder.path().join("c.sock");
        let connect = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        Endpoint::from_static("http://culvertd").connect_with_connector(tower::service_fn(connect)).await
    }

    async fn client(&self) -> CulvertClient<Channel> {
        CulvertClient::new(self.channel().await.unwrap())
    }

    /// Asserts that clients are served.
    async fn assert_serves(&self) {
        let status = self.client().await.get_status(v1::GetStatusRequest {}).await.unwrap();
        assert_eq!(status.into_inner().version, "1.2.3");
    }
}

/// A time that is over soon, for limits that must be reached.
const SOON: Limits = Limits { patience: Duration::from_millis(250), connections: 128, of_one_process: 128 };

fn port(name: &str) -> String {
    name.to_owned()
}

#[tokio::test]
async fn every_method_answers() {
    let server = Running::patient();
    let mut client = server.client().await;
    assert_eq!(client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().workers.len(), 1);
    assert_eq!(client.list_networks(v1::ListNetworksRequest {}).await.unwrap().into_inner().networks.len(), 2);
    assert_eq!(client.list_ports(v1::ListPortsRequest::default()).await.unwrap().into_inner().ports.len(), 2);
    assert_eq!(client.list_macs(v1::ListMacsRequest::default()).await.unwrap().into_inner().macs.len(), 3);
    assert_eq!(client.get_stats(v1::GetStatsRequest::default()).await.unwrap().into_inner().ports.len(), 2);
    assert_eq!(client.list_drops(v1::ListDropsRequest::default()).await.unwrap().into_inner().drops.len(), 2);
    assert_eq!(client.list_mirrors(v1::ListMirrorsRequest {}).await.unwrap().into_inner().mirrors.len(), 1);
    assert_eq!(client.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers.len(), 1);
    let least = async |percent| {
        let request = v1::RebalanceRequest { least_improvement: percent, ..v1::RebalanceRequest::default() };
        server.client().await.rebalance(request).await.map(|answer| answer.into_inner().least_improvement)
    };
    assert_eq!((least(None).await.unwrap(), least(Some(100)).await.unwrap()), (25, 100));
    assert_eq!(least(Some(101)).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.list_pods(v1::ListPodsRequest {}).await.unwrap().into_inner().pods.len(), 1);
}

#[tokio::test]
async fn filters_keep_what_is_meant() {
    let server = Running::patient();
    let mut client = server.client().await;
    let ports = client.list_ports(v1::ListPortsRequest { port: port("vm-b") }).await.unwrap().into_inner().ports;
    assert_eq!(ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["vm-b"]);
    let stats = client.get_stats(v1::GetStatsRequest { port: port("vm-a") }).await.unwrap().into_inner().ports;
    assert_eq!(stats.iter().map(|stats| stats.port.as_str()).collect::<Vec<_>>(), ["vm-a"]);
    let drops = client.list_drops(v1::ListDropsRequest { port: port("vm-a") }).await.unwrap().into_inner().drops;
    assert_eq!(drops.iter().map(|drop| drop.port.as_str()).collect::<Vec<_>>(), ["vm-a"]);
    for (network, port, expected) in [("blue", "", 2), ("", "vm-b", 2), ("red", "vm-b", 1), ("red", "vm-a", 0)] {
        let request = v1::ListMacsRequest { network: network.to_owned(), port: port.to_owned() };
        assert_eq!(client.list_macs(request).await.unwrap().into_inner().macs.len(), expected, "{network} {port}");
    }
}

#[tokio::test]
async fn unknown_names_are_told_with_a_remedy() {
    let server = Running::patient();
    let mut client = server.client().await;
    let error = client.get_stats(v1::GetStatsRequest { port: port("vm-z") }).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.message(), "there is no port vm-z; `culvertctl port list` shows the ports");
    let request = v1::ListMacsRequest { network: "green".to_owned(), port: String::new() };
    let error = client.list_macs(request).await.unwrap_err();
    assert_eq!(error.message(), "there is no network green; `culvertctl network list` shows the networks");
    let error = client.capture(v1::CaptureRequest::default()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::InvalidArgument, "port is empty; name the port or network to capture")
    );
}

/// Hostile names never reach the node.
#[tokio::test]
async fn names_that_break_the_rule_are_refused() {
    let server = Running::patient();
    let mut client = server.client().await;
    for name in ["../x", "/abs", &"a".repeat(300), "a\nb", "\u{430}", "a\0"] {
        let error = client.list_ports(v1::ListPortsRequest { port: port(name) }).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name:?}");
        assert!(error.message().ends_with("is not a name: use 1 to 63 characters of a-z, 0-9 and -"));
    }
}

#[tokio::test]
async fn a_capture_streams_and_ends_with_its_client() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = v1::CaptureRequest { port: port("vm-a"), snap_length: 4, ..v1::CaptureRequest::default() };
    let mut frames = client.capture(request).await.unwrap().into_inner();
    for number in 0..100 {
        let message = frames.message().await.unwrap().unwrap();
        assert_eq!(message.frames.iter().map(|frame| frame.time_ns).collect::<Vec<_>>(), [number]);
    }
    drop(frames);
    server.figures.capture_ended.notified().await;
}

#[tokio::test]
async fn a_capture_with_a_count_ends_by_itself() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = v1::CaptureRequest { port: port("vm-a"), snap_length: 0, count: 3, ..v1::CaptureRequest::default() };
    let mut frames = client.capture(request).await.unwrap().into_inner();
    let mut count = 0;
    while frames.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_capture_that_cannot_start_tells_why() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = v1::CaptureRequest { port: port("vm-b"), snap_length: 0, count: 0, ..v1::CaptureRequest::default() };
    let error = client.capture(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.message(),
        "port vm-b cannot be captured: it is not open; see the reason in `culvertctl port show`"
    );
}

#[tokio::test]
async fn a_measurement_has_a_port_that_is_open_and_an_interval_within_bounds() {
    let server = Running::patient();
    let client = server.client().await;
    let measure = async |name: &str, interval_ms| {
        let request = v1::MeasureLatencyRequest { port: port(name), interval_ms };
        let mut answers = client.clone().measure_latency(request).await?.into_inner();
        let first = answers.message().await.unwrap().unwrap();
        assert_eq!(answers.message().await.unwrap(), None);
        Ok::<_, tonic::Status>(first.elapsed_ns / 1_000_000)
    };
    assert_eq!(measure("vm-a", 0).await.unwrap(), 1000);
    assert_eq!(measure("vm-a", 100).await.unwrap(), 100);
    let refused = async |name: &str, interval_ms| {
        let error = measure(name, interval_ms).await.unwrap_err();
        (error.code(), error.message().to_owned())
    };
    let out_of_range = "interval_ms is out of range; it may be 100 to 60000, or 0 for 1000";
    assert_eq!(refused("vm-a", 99).await, (Code::InvalidArgument, out_of_range.to_owned()));
    assert_eq!(refused("vm-a", 60_001).await, (Code::InvalidArgument, out_of_range.to_owned()));
    assert_eq!(refused("", 0).await.1, "port is empty; name the port to measure");
    assert_eq!(refused("vm-z", 0).await.0, Code::NotFound);
    let closed = "port vm-b cannot be measured: it is not open; see the reason in `culvertctl port show`";
    assert_eq!(refused("vm-b", 0).await, (Code::Unavailable, closed.to_owned()));
}

/// Each field becomes the key of its name.
#[tokio::test]
async fn changes_reach_the_node_in_the_words_of_the_configuration() {
    let server = Running::patient();
    let mut client = server.client().await;
    let network = v1::NetworkSpec { mac_age: Some("5m".to_owned()), snooping: Some(true), guest_ports: Some(4) };
    let text = |text: &str| Some(text.to_owned());
    let spec = v1::PortSpec {
        network: text("blue"),
        socket: text("/s\" \n"),
        role: text("connect"),
        device: text("net_null0"),
        mac: text("02:00:00:00:00:01"),
        queues: Some(2),
        mtu: Some(9000),
        mac_limit: Some(3),
        vlan: Some(10),
        qinq: Some(false),
        trunk: vec!["10".to_owned(), "30-39".to_owned()],
        native: Some(4),
        addresses: vec!["10.0.0.1".to_owned()],
        broadcast_limit: Some(5),
        unknown_limit: Some(6),
        isolated: Some(true),
        offloads: Some(false),
        promiscuous: Some(true),
        follow_link: text("up"),
        socket_root: text("/r"),
        owner: text("107:107"),
        label: text("l"),
        description: text("d"),
        rx_rate: text("1mbit"),
        rx_burst: Some(7),
        rx_frame_rate: Some(8),
        rx_frame_burst: Some(9),
        tx_rate: text("2mbit"),
        tx_burst: Some(10),
        tx_frame_rate: Some(11),
        tx_frame_burst: Some(12),
    };
    let mirror = v1::MirrorSpec { from: vec!["a".to_owned()], to: text("b"), direction: text("rx") };
    let remove = |name: &str| v1::RemoveRequest { name: name.to_owned() };
    let answer = client.add_network(v1::AddNetworkRequest { name: "n".to_owned(), network: Some(network.clone()) });
    assert_eq!(answer.await.unwrap().into_inner(), v1::ChangeResponse { changed: true, note: "a sentence".to_owned() });
    let unset = vec!["mac_age".to_owned()];
    let set = v1::SetNetworkRequest { name: "n".to_owned(), network: None, unset: unset.clone() };
    client.set_network(set).await.unwrap();
    client.remove_network(remove("n")).await.unwrap();
    client.add_port(v1::AddPortRequest { name: "p".to_owned(), port: Some(spec.clone()) }).await.unwrap();
    let none = v1::PortSpec::default();
    let set = v1::SetPortRequest { name: "p".to_owned(), port: Some(none), unset: unset.clone() };
    client.set_port(set).await.unwrap();
    client.remove_port(remove("p")).await.unwrap();
    client.add_mirror(v1::AddMirrorRequest { name: "m".to_owned(), mirror: Some(mirror) }).await.unwrap();
    client.remove_mirror(remove("m")).await.unwrap();
    let pod = v1::PodSpec {
        folders: vec!["/a".to_owned(), "/b".to_owned()],
        netns: text("/n"),
        tap: text("t"),
        description: text("of vm-a"),
    };
    client.add_pod(v1::AddPodRequest { name: "d".to_owned(), pod: Some(pod) }).await.unwrap();
    client.remove_pod(remove("d")).await.unwrap();

    let keys = |pairs: &[(&'static str, &str)]| pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let change = |kind, name: &str, verb| Change { kind, name: name.to_owned(), verb };
    let port = keys(&[
        ("network", "\"blue\""),
        ("socket", "\"/s\\\" \\n\""),
        ("role", "\"connect\""),
        ("device", "\"net_null0\""),
        ("mac", "\"02:00:00:00:00:01\""),
        ("queues", "2"),
        ("mtu", "9000"),
        ("mac_limit", "3"),
        ("vlan", "10"),
        ("qinq", "false"),
        ("trunk", "[\"10\", \"30-39\"]"),
        ("native", "4"),
        ("addresses", "[\"10.0.0.1\"]"),
        ("broadcast_limit", "5"),
        ("unknown_limit", "6"),
        ("rx_rate", "\"1mbit\""),
        ("rx_burst", "7"),
        ("rx_frame_rate", "8"),
        ("rx_frame_burst", "9"),
        ("tx_rate", "\"2mbit\""),
        ("tx_burst", "10"),
        ("tx_frame_rate", "11"),
        ("tx_frame_burst", "12"),
        ("isolated", "true"),
        ("offloads", "false"),
        ("promiscuous", "true"),
        ("follow_link", "\"up\""),
        ("socket_root", "\"/r\""),
        ("owner", "\"107:107\""),
        ("label", "\"l\""),
        ("description", "\"d\""),
    ]);
    let pod =
        keys(&[("folders", "[\"/a\", \"/b\"]"), ("netns", "\"/n\""), ("tap", "\"t\""), ("description", "\"of vm-a\"")]);
    let mut found = std::mem::take(&mut *server.figures.changes.lock().unwrap());
    // How TOML quotes a text is its own matter.
    if let Verb::Add(keys) = &mut found[3].verb {
        let value: toml::Table = format!("x = {}", keys[1].1).parse().unwrap();
        assert_eq!(value["x"].as_str(), Some("/s\" \n"));
        keys[1].1 = "\"/s\\\" \\n\"".to_owned();
    }
    assert_eq!(
        found,
        [
            change(
                Kind::Network,
                "n",
                Verb::Add(keys(&[("mac_age", "\"5m\""), ("snooping", "true"), ("guest_ports", "4")]))
            ),
            change(Kind::Network, "n", Verb::Set { keys: keys(&[]), unset: unset.clone() }),
            change(Kind::Network, "n", Verb::Remove),
            change(Kind::Port, "p", Verb::Add(port)),
            change(Kind::Port, "p", Verb::Set { keys: keys(&[]), unset }),
            change(Kind::Port, "p", Verb::Remove),
            change(
                Kind::Mirror,
                "m",
                Verb::Add(keys(&[("from", "[\"a\"]"), ("to", "\"b\""), ("direction", "\"rx\"")]))
            ),
            change(Kind::Mirror, "m", Verb::Remove),
            change(Kind::Pod, "d", Verb::Add(pod)),
            change(Kind::Pod, "d", Verb::Remove),
        ]
    );
}

#[tokio::test]
async fn refused_changes_have_codes_and_sentences() {
    let server = Running::patient();
    let mut client = server.client().await;
    for (name, code, message) in [
        ("mistakes", Code::InvalidArgument, "port.vlan: is wrong; correct it\nport.mtu: is wrong; correct it"),
        ("exists", Code::AlreadyExists, "a sentence"),
        ("missing", Code::NotFound, "a sentence"),
        ("not-now", Code::FailedPrecondition, "a sentence"),
        ("too-many", Code::ResourceExhausted, "a sentence"),
        ("not-kept", Code::Unavailable, "a sentence"),
        ("not-done", Code::Unavailable, "a sentence\na sentence"),
    ] {
        let error = client.remove_port(v1::RemoveRequest { name: name.to_owned() }).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    }
    let error = client.remove_port(v1::RemoveRequest { name: "mistakes".to_owned() }).await.unwrap_err();
    let details = error.get_error_details();
    let fields = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|wrong| (wrong.field.as_str(), wrong.description.as_str())).collect();
    assert_eq!(fields, [("port.vlan", "is wrong; correct it"), ("port.mtu", "is wrong; correct it")]);
    let error = client.remove_port(v1::RemoveRequest { name: "many".to_owned() }).await.unwrap_err();
    assert_eq!(error.message().lines().count(), 33);
    assert!(error.message().ends_with("and 8 more; `culvertd --check --config FILE` tells all mistakes in a file"));
}

/// However many changes wait, questions are answered.
#[tokio::test]
async fn slow_changes_do_not_hold_up_questions() {
    let server = Running::patient();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = server.client().await;
        waiting
            .push(tokio::spawn(async move { client.remove_port(v1::RemoveRequest { name: "slow".to_owned() }).await }));
    }
    server.assert_serves().await;
    for change in waiting {
        server.figures.end_slow.send(()).unwrap();
        change.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reload_tells_what_was_done() {
    let server = Running::patient();
    let answer = server.client().await.reload(v1::ReloadRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (answer.actions, answer.waiting),
        (vec!["open port vm-c".to_owned()], vec!["daemon.state_dir".to_owned()])
    );
}

#[tokio::test]
async fn a_trace_needs_an_open_port_and_a_frame_that_can_be() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = |port: &str, length| v1::TraceRequest { port: port.to_owned(), frame: vec![0; length] };
    let answer = client.trace(request("vm-a", 42)).await.unwrap().into_inner();
    assert_eq!(answer.refused, "42 bytes");
    for (port, length, code, message) in [
        ("", 42, Code::InvalidArgument, "port is empty; name the port that the frame comes from"),
        ("vm-z", 42, Code::NotFound, "there is no port vm-z; `culvertctl port list` shows the ports"),
        (
            "vm-b",
            42,
            Code::Unavailable,
            "port vm-b cannot be traced: it is not open; see the reason in `culvertctl port show`",
        ),
    ] {
        let error = client.trace(request(port, length)).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    }
}

#[tokio::test]
async fn events_that_were_come_first_and_those_that_will_be_follow() {
    let server = Running::patient();
    let tell = |port: &str, text: &str| server.figures.events.tell(v1::EventKind::Up, port, text);
    for (port, text) in [("vm-a", "1"), ("vm-b", "2"), ("vm-a", "3")] {
        tell(port, text);
    }
    let mut client = server.client().await;
    let request = |port: &str, past, follow| v1::WatchEventsRequest { port: port.to_owned(), past, follow };
    let texts = |message: v1::WatchEventsResponse| {
        message.events.into_iter().map(|event| (event.number, event.text)).collect::<Vec<_>>()
    };
    let mut past = client.watch_events(request("", 2, false)).await.unwrap().into_inner();
    assert_eq!(texts(past.message().await.unwrap().unwrap()), [(2, "2".to_owned()), (3, "3".to_owned())]);
    assert!(past.message().await.unwrap().is_none());
    let mut all = client.watch_events(request("vm-a", 9, true)).await.unwrap().into_inner();
    assert_eq!(texts(all.message().await.unwrap().unwrap()), [(1, "1".to_owned()), (3, "3".to_owned())]);
    tell("vm-b", "4");
    tell("vm-a", "5");
    assert_eq!(texts(all.message().await.unwrap().unwrap()), [(5, "5".to_owned())]);
    let error = client.watch_events(request("../x", 0, false)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

/// As long as nobody reads, what a client misses is counted, and takes no memory.
#[tokio::test]
async fn a_client_that_does_not_read_events_misses_them() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = v1::WatchEventsRequest { follow: true, ..v1::WatchEventsRequest::default() };
    let mut events = client.watch_events(request).await.unwrap().into_inner();
    let text = "x".repeat(1000);
    // More than fits in what waits for the client (HTTP/2's windows), and in what it may be behind.
    for _ in 0..20_000 {
        server.figures.events.tell(v1::EventKind::Up, "vm-a", text.clone());
    }
    server.figures.events.tell(v1::EventKind::Up, "vm-a", "the last one");
    let (mut seen, mut lost) = (0, 0);
    loop {
        let message = events.message().await.unwrap().unwrap();
        lost += message.lost;
        seen += u64::try_from(message.events.len()).unwrap();
        if message.events.iter().any(|event| event.text == "the last one") {
            break;
        }
    }
    assert!(lost > 0, "{seen} seen");
    assert_eq!(seen + lost, 20_001);
}

#[tokio::test]
async fn the_log_level_is_changed_and_told() {
    let server = Running::patient();
    let mut client = server.client().await;
    let set = |filter: &str| v1::SetLogLevelRequest { filter: filter.to_owned() };
    assert_eq!(client.get_log_level(v1::GetLogLevelRequest {}).await.unwrap_err().code(), Code::Unavailable);
    let arguments = Arguments::parse_from(["culvertd", "--log-level", "warn"]);
    let _log = culvertd::log::start(&arguments).unwrap();
    let answer = client.set_log_level(set("info,culvert_vhost=debug")).await.unwrap().into_inner();
    assert_eq!((answer.filter.as_str(), answer.at_start.as_str()), ("info,culvert_vhost=debug", "warn"));
    assert!(tracing::enabled!(tracing::Level::INFO));
    assert_eq!(client.get_log_level(v1::GetLogLevelRequest {}).await.unwrap().into_inner(), answer);
    let error = client.set_log_level(set("loud=x=y")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("filter loud=x=y cannot be read"), "{}", error.message());
    let error = client.set_log_level(set("info,debgu")).await.unwrap_err();
    assert_eq!(error.message(), "filter debgu is no level; write off, error, warn, info, debug, trace");
    assert_eq!(client.set_log_level(set("")).await.unwrap().into_inner().filter, "warn");
    assert!(!tracing::enabled!(tracing::Level::INFO));
    let (events, _) = server.figures.events.watch("", 1);
    assert_eq!(events.first().unwrap().text, "the log has warn from here on");
}

/// A client that is neither root nor culvertd's user nor named.
#[tokio::test]
async fn who_may_only_ask_changes_nothing() {
    let server = Running::start_for(Limits::default(), Access::of_nobody());
    let mut client = server.client().await;
    client.get_status(v1::GetStatusRequest {}).await.unwrap();
    client.list_ports(v1::ListPortsRequest::default()).await.unwrap();
    client.watch_events(v1::WatchEventsRequest::default()).await.unwrap();
    client.rebalance(v1::RebalanceRequest { dry_run: true, ..v1::RebalanceRequest::default() }).await.unwrap();
    let name = || port("vm-z");
    let refused = [
        client.add_port(v1::AddPortRequest { name: name(), port: None }).await.unwrap_err(),
        client.set_network(v1::SetNetworkRequest::default()).await.unwrap_err(),
        client.remove_pod(v1::RemoveRequest { name: name() }).await.unwrap_err(),
        client.reload(v1::ReloadRequest {}).await.unwrap_err(),
        client.capture(v1::CaptureRequest { port: port("vm-a"), ..v1::CaptureRequest::default() }).await.unwrap_err(),
        client.measure_latency(v1::MeasureLatencyRequest { port: port("vm-a"), interval_ms: 0 }).await.unwrap_err(),
        client.set_log_level(v1::SetLogLevelRequest::default()).await.unwrap_err(),
        client.rebalance(v1::RebalanceRequest::default()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().ends_with("do it as root or as one of daemon.admin_users"), "{}", status.message());
    }
    assert!(server.figures.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_request_of_more_than_64_kib_is_refused_and_the_connection_kept() {
    let server = Running::patient();
    let mut client = server.client().await;
    let error = client.list_ports(v1::ListPortsRequest { port: "a".repeat(64 * 1024) }).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    assert!(error.message().contains("65536"), "{}", error.message());
    client.get_status(v1::GetStatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn an_unknown_method_is_refused_and_the_connection_kept() {
    let server = Running::patient();
    let channel = server.channel().await.unwrap();
    let mut other = tonic::client::Grpc::new(channel.clone());
    other.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::GetStatusRequest, v1::GetStatusResponse>::default();
    let path = "/culvert.v1.Culvert/Explode".parse().unwrap();
    let error = other.unary(tonic::Request::new(v1::GetStatusRequest {}), path, codec).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    CulvertClient::new(channel).get_status(v1::GetStatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_cancelled() {
    let server = Running::start(SOON);
    let mut client = tonic::client::Grpc::new(server.channel().await.unwrap());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::GetStatusRequest, v1::GetStatusResponse>::default();
    let path = "/culvert.v1.Culvert/GetStatus".parse().unwrap();
    let request = tonic::Request::new(tokio_stream::pending());
    let error = client.client_streaming(request, path, codec).await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    server.assert_serves().await;
}

#[tokio::test]
async fn other_protocols_are_cut_off() {
    let server = Running::patient();
    for bytes in ["{\"port\": [[[[", "GET /status HTTP/1.1\r\n\r\n", "\0\0\0\0", &"[".repeat(100_000)] {
        let mut stream = server.stream().await;
        // A part may be refused already; what counts is that the end comes.
        let _ = stream.write_all(bytes.as_bytes()).await;
        stream.shutdown().await.unwrap_or_default();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        server.assert_serves().await;
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let server = Running::start(SOON);
    for hello in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = server.stream().await;
        stream.write_all(hello).await.unwrap();
        read_to_the_end(&mut stream).await;
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_cut_off() {
    let server = Running::start(SOON);
    let mut stream = server.stream().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // An empty SETTINGS frame (RFC 9113, 6.5), then half of the next one.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(&[0, 0, 9, 1]).await.unwrap();
    read_to_the_end(&mut stream).await;
}

async fn read_to_the_end(stream: &mut UnixStream) {
    let mut answer = Vec::new();
    // Cut off with data unread the end comes as an error: an end all the same.
    let _ = stream.read_to_end(&mut answer).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = Running::start(Limits { connections: 2, ..Limits::default() });
    let mut first = server.client().await;
    first.get_status(v1::GetStatusRequest {}).await.unwrap();
    let second = server.stream().await;
    for _ in 0..1_000 {
        read_to_the_end(&mut server.stream().await).await;
    }
    first.get_status(v1::GetStatusRequest {}).await.unwrap();
    drop(second);
    // The place is free once the server has seen the end.
    let mut third = server.stream().await;
    let mut byte = [0];
    while !matches!(third.read(&mut byte).await, Ok(1)) {
        third = server.stream().await;
    }
}

#[tokio::test]
async fn it_stops_though_a_capture_runs() {
    let server = Running::patient();
    let mut client = server.client().await;
    let request = v1::CaptureRequest { port: port("vm-a"), snap_length: 0, count: 0, ..v1::CaptureRequest::default() };
    let mut frames = client.capture(request).await.unwrap().into_inner();
    frames.message().await.unwrap().unwrap();
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(!server.folder.path().join("c.sock").exists());
}
