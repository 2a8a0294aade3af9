//! The metrics process of a running culvertd: what it serves, what it may do, and that it outlives a daemon.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod process;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use process::{Running, Setup, kill};

const LIMIT: Duration = Duration::from_secs(60);

/// An address that nobody has.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start(setup: Setup) -> (Setup, Running, SocketAddr) {
    let (mut setup, address) = (setup, free());
    setup.config = setup.config.replace("metrics_address = \"off\"", &format!("metrics_address = \"{address}\""));
    let running = setup.start();
    (setup, running, address)
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Asks until the answer has `text`.
fn wait(address: SocketAddr, path: &str, text: &str) -> String {
    let start = Instant::now();
    loop {
        let answer = get(address, path).unwrap_or_default();
        if answer.contains(text) {
            return answer;
        }
        assert!(start.elapsed() < LIMIT, "{path} has no {text}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The children of the supervisor with an option.
fn child_with(running: &Running, option: &str) -> Option<u32> {
    let supervisor = running.child.id();
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.find(|pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(option))
    })
}

#[test]
fn ports_are_measured_and_health_is_told() {
    let (_setup, mut running, address) = start(Setup::new().guest("vm-a", ""));
    let metrics = wait(address, "/metrics", "culvert_up 1\n");
    for line in [
        "culvert_port_state{port=\"vm-a\",network=\"blue\",state=\"waiting\"} 1",
        "culvert_port_rx_frames_total{port=\"vm-a\",network=\"blue\"} 0",
        "culvert_ports{state=\"waiting\"} 1",
        "culvert_network_ports{network=\"blue\"} 1",
        "culvert_info{version=\"0.1.0\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(wait(address, "/healthz", "200 OK").ends_with("ok\n"));
    assert!(wait(address, "/readyz", "200 OK").ends_with("ok\n"));
    assert!(wait(address, "/api/node.json", "200 OK").contains("\"name\":\"vm-a\""));
    assert_eq!(running.end("TERM"), Some(0));
    assert!(get(address, "/metrics").is_none(), "it is served still");
}

#[test]
fn it_has_no_rights_and_no_guest() {
    let (_setup, running, address) = start(Setup::new().guest("vm-a", ""));
    wait(address, "/healthz", "200 OK");
    let pid = child_with(&running, "--metrics").unwrap();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let has =
            |line: &str| status.lines().any(|other| other.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        assert!(has("CapEff: 0000000000000000") && has("NoNewPrivs: 1") && has("Seccomp: 2"), "{status}");
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(!maps.contains("memfd:") && !maps.contains("hugepages"), "{maps}");
}

#[test]
fn it_outlives_the_daemon_and_comes_back_itself() {
    let (_setup, mut running, address) = start(Setup::new().guest("vm-a", ""));
    wait(address, "/healthz", "200 OK");
    let (daemon, metrics) = (child_with(&running, "--supervised").unwrap(), child_with(&running, "--metrics").unwrap());
    kill("STOP", daemon);
    let answer = wait(address, "/healthz", "503");
    assert!(answer.contains("culvertd"), "{answer}");
    assert!(wait(address, "/metrics", "culvert_up 0\n").starts_with("HTTP/1.1 200"));
    kill("KILL", daemon);
    wait(address, "/metrics", "culvert_restarts_total 1\n");
    assert_eq!(child_with(&running, "--metrics"), Some(metrics));
    kill("KILL", metrics);
    wait(address, "/healthz", "200 OK");
    assert_eq!(running.end("TERM"), Some(0));
}

#[test]
fn an_address_that_is_taken_costs_nothing_but_metrics() {
    let (setup, mut running, address) = start(Setup::new());
    wait(address, "/healthz", "200 OK");
    let mut other = Setup::new();
    other.config = other.config.replace("metrics_address = \"off\"", &format!("metrics_address = \"{address}\""));
    let mut second = other.start();
    assert!(second.log.contains("culvertd is ready"), "{}", second.log);
    // The first one goes, and the second one gets it.
    assert_eq!(running.end("TERM"), Some(0));
    wait(address, "/healthz", "200 OK");
    assert_eq!(second.end("TERM"), Some(0));
    drop(setup);
}
