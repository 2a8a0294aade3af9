//! culvertd as a process, with DPDK's virtual devices: its life, its ports, and its answers. Guests are another matter:
//! see the system tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod process;

use std::path::Path;

use culvert_api::v1;
use process::{Setup, culvertd, write_pcap};

#[tokio::test]
async fn it_starts_answers_and_stops() {
    for signal in ["TERM", "INT"] {
        let setup = Setup::new().guest("vm-a", "");
        let socket = setup.socket("vm-a");
        let mut culvertd = setup.start();
        let status = culvertd.client().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.pid, status.supervisor_pid), (culvertd.daemon(), culvertd.child.id()));
        assert_eq!((status.restarts, status.last_end.as_str()), (0, ""));
        assert_eq!((status.networks, status.ports, status.ports_up, status.workers.len()), (1, 1, 0, 1));
        assert_eq!(status.config_file, setup.path("c.toml").to_str().unwrap());
        assert!(socket.exists());
        assert_eq!(culvertd.end(signal), Some(0));
        assert!(!socket.exists() && !culvertd.socket.exists());
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_does_not_stop_the_others() {
    let setup = Setup::new().port("good", "device = \"net_null0\"");
    let line = format!("device = \"net_pcap0,rx_pcap={}\"", setup.path("no/f").display());
    let setup = setup.port("no-file", &line);
    std::fs::write(setup.path("file"), "precious").unwrap();
    let line = format!("socket = \"{}\"", setup.path("file").display());
    let setup = setup.port("no-socket", &line);
    let culvertd = setup.start();
    let ports = culvertd.client().await.list_ports(v1::ListPortsRequest::default()).await.unwrap().into_inner().ports;
    let states: Vec<_> = ports.iter().map(v1::Port::state).collect();
    assert_eq!(states, [v1::PortState::Up, v1::PortState::Failed, v1::PortState::Failed]);
    assert!(ports[1].reason.contains("/no/f") && ports[1].reason.contains("No such file"), "{}", ports[1].reason);
    let path = setup.path("file").display().to_string();
    assert_eq!(ports[2].reason, format!("{path} exists and is not a socket; remove it, or choose another `socket`"));
    assert_eq!(std::fs::read(setup.path("file")).unwrap(), b"precious");
    let Some(v1::port::Attachment::Nic(nic)) = &ports[0].attachment else { panic!("{ports:?}") };
    assert_eq!(nic.driver, "net_null");
}

/// net_null is an endless source of frames from and to 00:00:00:00:00:00, which have nowhere to go.
#[tokio::test]
async fn frames_are_counted_learned_and_captured() {
    let setup = Setup::new().port("source", "device = \"net_null0\"");
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let request = v1::CaptureRequest {
        port: "source".to_owned(),
        snap_length: 20,
        count: 1_000,
        ..v1::CaptureRequest::default()
    };
    let mut messages = client.capture(request).await.unwrap().into_inner();
    let mut captured = 0;
    while let Some(message) = messages.message().await.unwrap() {
        captured += message.frames.len();
        assert!(message.frames.iter().all(|frame| frame.length == 64 && frame.data == [0; 20]));
        assert!(message.frames.iter().all(|frame| frame.direction() == v1::Direction::Rx));
    }
    assert_eq!(captured, 1_000);

    let stats = client.get_stats(v1::GetStatsRequest::default()).await.unwrap().into_inner().ports;
    let [source] = stats.as_slice() else { panic!("{stats:?}") };
    assert!(source.rx_frames > 1_000);
    assert_eq!(source.rx_frames, source.rx_forwarded + source.rx_dropped + source.rx_in_flight);
    let drops = client.list_drops(v1::ListDropsRequest::default()).await.unwrap().into_inner().drops;
    assert!(drops.iter().all(|drop| drop.port == "source" && drop.direction() == v1::Direction::Rx));
    assert!(drops.iter().any(|drop| drop.reason == "same-port" && drop.remedy.contains("learned")), "{drops:?}");
    let macs = client.list_macs(v1::ListMacsRequest::default()).await.unwrap().into_inner().macs;
    let [mac] = macs.as_slice() else { panic!("{macs:?}") };
    assert_eq!((mac.network.as_str(), mac.mac.as_str(), mac.port.as_str()), ("blue", "00:00:00:00:00:00", "source"));
    let networks = client.list_networks(v1::ListNetworksRequest {}).await.unwrap().into_inner().networks;
    assert_eq!((networks[0].macs, networks[0].ports.as_slice()), (1, &["source".to_owned()][..]));
}

/// The frames of a capture file are there before the ports after it are: they wait for them.
#[tokio::test]
async fn the_first_frames_find_all_ports() {
    let setup = Setup::new();
    let (input, output) = (setup.path("in.pcap"), setup.path("out.pcap"));
    let sent = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0xff; 48]].concat();
    write_pcap(&input, &[&sent]);
    let device = |line: &str, path: &Path| format!("device = \"{line}={}\"", path.display());
    let setup =
        setup.port("in", &device("net_pcap0,rx_pcap", &input)).port("out", &device("net_pcap1,tx_pcap", &output));
    let mut culvertd = setup.start();
    let mut client = culvertd.client().await;
    let request = v1::GetStatsRequest { port: "out".to_owned() };
    while client.get_stats(request.clone()).await.unwrap().into_inner().ports[0].tx_frames == 0 {}
    assert_eq!(culvertd.end("TERM"), Some(0));
    assert!(std::fs::read(&output).unwrap().ends_with(&sent));
}

#[tokio::test]
async fn captures_are_limited_and_a_failed_port_has_none() {
    let setup = Setup::new().port("source", "device = \"net_null0\"");
    let line = format!("device = \"net_pcap0,rx_pcap={}\"", setup.path("no/f").display());
    let setup = setup.port("bad", &line);
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let request = |port: &str| v1::CaptureRequest {
        port: port.to_owned(),
        snap_length: 1,
        count: 0,
        ..v1::CaptureRequest::default()
    };
    let error = client.capture(request("bad")).await.unwrap_err();
    assert!(error.message().ends_with("it is not open; see the reason in `culvertctl port show`"));
    let mut running = Vec::new();
    for _ in 0..culvertd::node::capture::MAX_CAPTURES {
        running.push(client.capture(request("source")).await.unwrap());
    }
    let error = client.capture(request("source")).await.unwrap_err();
    assert_eq!(error.message(), "port source cannot be captured: 8 captures run already; end one of them first");
    drop(running);
    // A place is free when the server has seen the end.
    while client.capture(request("source")).await.is_err() {}
}

/// Broadcasts without end from one device to another one.
#[tokio::test]
async fn latency_is_measured_between_ports_while_somebody_listens() {
    let setup = Setup::new();
    let input = setup.path("in.pcap");
    write_pcap(&input, &[&[&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0xff; 48]].concat()]);
    let endless = format!("device = \"net_pcap0,rx_pcap={},infinite_rx=1\"", input.display());
    let setup = setup.port("in", &endless).port("out", "device = \"net_null0\"");
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let request = |port: &str| v1::MeasureLatencyRequest { port: port.to_owned(), interval_ms: 100 };
    let mut answers = client.measure_latency(request("out")).await.unwrap().into_inner();
    let frames = |ranges: &[v1::LatencyRange]| ranges.iter().map(|range| range.frames).sum::<u64>();
    let mut before = 0;
    for _ in 0..3 {
        let answer = answers.message().await.unwrap().unwrap();
        let Some(pair) = answer.pairs.iter().find(|pair| pair.to == "out") else { continue };
        assert_eq!(pair.from, "in");
        assert!(pair.ranges.is_sorted_by_key(|range| range.from_ns), "{pair:?}");
        // Nothing passes in no time, and not all of them have met another program on this core.
        assert!(pair.ranges[0].from_ns > 0 && pair.ranges[0].from_ns < 100_000_000, "{pair:?}");
        assert!(frames(&pair.ranges) > before, "{before}: {pair:?}");
        before = frames(&pair.ranges);
    }
    assert!(before > 0);
    let asking = client.clone();
    let latency = async |port: &str| {
        let request = v1::GetStatsRequest { port: port.to_owned() };
        asking.clone().get_stats(request).await.unwrap().into_inner().ports.remove(0).latency
    };
    let of_out = latency("out").await.unwrap();
    assert!(frames(&of_out.tx) >= before, "{of_out:?}");
    assert_eq!(latency("in").await, None);
    let mut others = Vec::new();
    for _ in 1..culvertd::node::latency::MAX_MEASUREMENTS {
        others.push(client.measure_latency(request("in")).await.unwrap());
    }
    let error = client.measure_latency(request("in")).await.unwrap_err();
    assert_eq!(error.message(), "port in cannot be measured: 8 clients measure already; end one of them first");
    drop((answers, others));
    // It ends when the server has seen that nobody listens any more.
    while latency("out").await.is_some() || latency("in").await.is_some() {}
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let setup = Setup::new();
    let first = setup.start();
    let second = culvertd(&setup.path("c.toml")).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8_lossy(&second.stderr);
    let expected = format!("another daemon listens on it (process {})", first.daemon());
    assert!(message.contains(&expected), "{message}");
    assert!(first.socket.exists());
}

#[test]
fn after_a_kill_the_next_one_starts() {
    let setup = Setup::new();
    let mut first = setup.start();
    first.end("KILL");
    assert!(first.socket.exists());
    let mut second = setup.start();
    assert!(second.log.contains("culvertd is ready"), "{}", second.log);
    assert_eq!(second.end("TERM"), Some(0));
}

#[test]
fn mistakes_in_the_configuration_are_exit_code_64() {
    let setup = Setup::new().port("A", "mtuu = 1");
    let file = setup.write();
    for further in [&[][..], &["--check"]] {
        let output = culvertd(&file).args(further).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        let message = String::from_utf8_lossy(&output.stderr);
        let name = file.display();
        let expected = [
            format!("{name}:12: port.socket or device: is missing; add "),
            format!("{name}:13: port.name = \"A\": is not a name; use "),
            format!("{name}:15: port.mtuu = 1: is no key that culvertd knows here; did you mean \"mtu\"?"),
        ];
        assert_eq!(message.lines().count(), 3, "{message}");
        for (line, start) in message.lines().zip(expected) {
            assert!(line.starts_with(&start), "{line}");
        }
    }
}

#[test]
fn a_configuration_without_mistakes_is_told() {
    let setup = Setup::new().port("a", "device = \"net_null0\"");
    setup.write();
    let output = culvertd(&setup.path("c.toml")).arg("--check").output().unwrap();
    assert!(output.status.success());
    let expected =
        format!("{}: no mistakes; networks: 1, ports: 1, mirrors: 0, pods: 0\n", setup.path("c.toml").display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_wrong_log_level_is_told() {
    let setup = Setup::new();
    setup.write();
    let output = culvertd(&setup.path("c.toml")).args(["--log-level", "culvertd=loud"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("write error, warn, info, debug or trace"), "{message}");
}
