//! HTTP on the metrics address: what is answered, and what hostile clients cannot do. There is no culvertd here, which is an answer, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use culvert_metrics::collect::Collector;
use culvert_metrics::server::{self, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const HURRIED: Limits =
    Limits { connections: 8, head: Duration::from_millis(300), connection: Duration::from_millis(1200) };
const LONG: Duration = Duration::from_secs(60);

async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::new(Path::new("/nowhere/culvertd.sock"));
    tokio::spawn(server::serve(listener, collector, HURRIED, std::future::pending()));
    address
}

/// Sends bytes, and returns all that comes until the server ends the connection.
async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    drop(read);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> String {
    say(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn without_culvertd_metrics_say_so_and_health_is_none() {
    let address = start().await;
    let metrics = get(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("culvert_up 0\n"), "{metrics}");
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
    for path in ["/healthz", "/readyz"] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("nobody answers at /nowhere"), "{answer}");
    }
    assert!(get(address, "/api/node.json").await.contains("\"problem\":\"nobody answers"));
}

#[tokio::test]
async fn the_page_may_do_nothing_but_ask_here() {
    let page = get(start().await, "/").await;
    assert!(page.contains("content-security-policy: default-src 'none'; style-src 'sha256-"), "{page}");
    assert!(
        page.contains("connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        "{page}"
    );
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let address = start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "FOO"] {
        let target = if method == "CONNECT" { "x:1" } else { "/metrics" };
        let answer = say(address, format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{method}: {answer}");
    }
    for path in ["/metrics/", "/../etc/passwd", "/api", "//", "/%2e%2e", "/healthz/x"] {
        assert!(get(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    let answer = say(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_no_request_ends_its_connection() {
    let address = start().await;
    let long = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    let lines = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000)).into_bytes();
    let header = [b"GET /metrics HTTP/1.1\r\nA: ".as_slice(), &[b'b'; 100_000], b"\r\n\r\n"].concat();
    let split = b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for bytes in [long, lines, header, split, preface, vec![0; 4096], b"\x16\x03\x01\x02\x00\x01".to_vec(), Vec::new()]
    {
        let answer = say(address, &bytes).await;
        let status = answer.lines().next().unwrap_or_default();
        let is_refused = status.is_empty() || status.starts_with("HTTP/1.1 4") || status.starts_with("HTTP/1.0 4");
        assert!(is_refused, "{:?}: {status}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
    assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200"));
}

/// A byte now and then, half a head, an answer that nobody reads, a body that does not end.
#[tokio::test]
async fn who_stalls_is_cut_off() {
    let address = start().await;
    let start = Instant::now();
    let drip = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for byte in b"GET /metrics HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("80 bytes in 8 s were waited for");
    });
    let half = tokio::spawn(async move { say(address, b"GET /metrics HT").await });
    let body = tokio::spawn(async move {
        say(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc").await
    });
    let kept = tokio::spawn(async move { say(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await });
    for task in [half, body, kept] {
        task.await.unwrap();
    }
    drip.await.unwrap();
    assert!(start.elapsed() < LONG);
    // Many requests at once whose answers nobody reads.
    let mut deaf = TcpStream::connect(address).await.unwrap();
    let requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000_000);
    let sent = timeout(LONG, deaf.write_all(&requests)).await.expect("it is waited for");
    assert!(sent.is_err(), "an unread connection takes everything");
}

/// C3: a thousand connections that say nothing do not keep anybody away.
#[tokio::test]
async fn a_thousand_connections_keep_nobody_away() {
    let address = start().await;
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let metrics = get(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    let line = metrics.lines().find(|line| line.starts_with("culvert_metrics_connections_total ")).unwrap();
    let count: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(count > 900, "{line}");
    assert!(!metrics.contains("culvert_metrics_connections_cut_off_total 0\n"), "{metrics}");
}
