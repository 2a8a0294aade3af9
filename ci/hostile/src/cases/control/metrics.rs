//! C11: the metrics address. Whoever reaches it may come, and come as he likes; culvertd's process for it serves others meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::case::Part;
use crate::field::Field;
use crate::process::Resources;

/// More than a client gets for anything: 20 s for its connection, and 5 s more.
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) fn clients_as_they_like(field: &mut Field) -> Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    field.restart_with(|config| {
        *config = config.replace("metrics_address = \"off\"", &format!("metrics_address = \"{address}\""));
    })?;
    for part in [Part::Process, Part::Resources] {
        field.exempt(part, "culvertd was started with a metrics address; the case looks itself, after a first round");
    }
    let deadline = Instant::now() + PATIENCE;
    while get(address, "/readyz").is_err() {
        ensure!(Instant::now() < deadline, "{address} is not served");
        thread::sleep(Duration::from_millis(50));
    }
    let (supervisor, daemon) = (field.daemon().supervisor_pid(), field.daemon().pid());
    let pids = [metrics_process(supervisor)?, daemon];
    let settled = || -> Result<[Resources; 2]> {
        // Connections that are about to end.
        thread::sleep(Duration::from_millis(1500));
        Ok([Resources::of(pids[0])?, Resources::of(pids[1])?])
    };
    // What the second round leaves has leaked; what the first one leaves may be room that the heap keeps.
    round(address)?;
    let before = settled()?;
    round(address)?;
    for ((name, after), before) in ["the metrics process", "the daemon"].iter().zip(settled()?).zip(&before) {
        let found = after.differences(before);
        ensure!(found.is_empty(), "{name}: {}", found.join("; "));
    }
    ensure!([metrics_process(supervisor)?, field.daemon().pid()] == pids, "another process serves metrics, or runs");
    Ok(())
}

fn round(address: SocketAddr) -> Result<()> {
    garbage(address)?;
    serves(address).context("after what is no request")?;
    // Reads nothing of all that it asks for.
    let mut deaf = connect(address)?;
    deaf.set_write_timeout(Some(Duration::from_millis(500)))?;
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let taken = (0..2000).find(|_| deaf.write_all(&requests).is_err());
    ensure!(taken.is_some(), "two million requests are taken from a client that reads no answer");
    serves(address).context("beside a client that reads nothing")?;
    // Say nothing, or half of what they have to say.
    let mut held = vec![deaf];
    for number in 0..300 {
        let mut client = connect(address)?;
        if number % 2 == 0 {
            // It may be closed already: others have come.
            let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
        held.push(client);
        if number % 50 == 49 {
            serves(address).with_context(|| format!("beside {number} clients that wait"))?;
        }
    }
    // One that goes on asking, a byte now and then, and another that connects and leaves as fast as it goes.
    let begin = Instant::now();
    let mut slow = connect(address)?;
    let mut closed = false;
    while !closed && begin.elapsed() < PATIENCE {
        closed = slow.write_all(b"G").is_err();
        for _ in 0..50 {
            connect(address)?.shutdown(Shutdown::Both)?;
        }
        serves(address).context("beside clients that come and go")?;
        thread::sleep(Duration::from_millis(200));
    }
    ensure!(closed, "a byte five times a second is taken for ever");
    for (number, client) in held.into_iter().enumerate() {
        wait_closed(client).with_context(|| format!("client {number} that waits"))?;
    }
    Ok(())
}

/// Bytes that are no request, or one that may not be: each is refused, and its connection ends.
fn garbage(address: SocketAddr) -> Result<()> {
    let long = |before: &str, after: &str| [before.as_bytes(), &[b'a'; 200_000], after.as_bytes()].concat();
    let lines = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000)).into_bytes();
    let noise: Vec<u8> = (0..8192_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for bytes in [
        long("GET /", " HTTP/1.1\r\nHost: x\r\n\r\n"),
        long("GET /metrics HTTP/1.1\r\nA: ", "\r\n\r\n"),
        lines,
        noise,
        vec![0; 65_536],
        b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        b"GET /\r\nSet-Cookie: x HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut client = connect(address)?;
        // The server may close before all is sent.
        let _ = client.write_all(&bytes);
        let mut answer = Vec::new();
        match client.read_to_end(&mut answer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the connection stays open after {}", start(&bytes));
            }
            // A connection that is reset has ended as well.
            Ok(_) | Err(_) => {}
        }
        let is_refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.0 4");
        ensure!(is_refused, "{}: {}", start(&bytes), start(&answer));
    }
    Ok(())
}

/// Somebody who behaves is answered.
fn serves(address: SocketAddr) -> Result<()> {
    let text = get(address, "/metrics")?;
    ensure!(
        text.contains("\nculvert_up 1\n") && text.ends_with("# EOF\n"),
        "the metrics are {}",
        start(text.as_bytes())
    );
    get(address, "/healthz").map(drop)
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut client = connect(address)?;
    write!(client, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).with_context(|| format!("no answer to {path}"))?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", start(answer.as_bytes()));
    Ok(answer)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    Ok(client)
}

fn wait_closed(mut client: TcpStream) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.read(&mut [0; 65_536]) {
            Ok(0) => return Ok(()),
            Ok(_) => ensure!(Instant::now() < deadline, "answers come without end"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("its connection is open after {PATIENCE:?}")
            }
            Err(_) => return Ok(()),
        }
    }
}

/// The child of the supervisor that serves metrics.
fn metrics_process(supervisor: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
    let serves = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--metrics"))
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(serves).context("there is no metrics process")
}

fn start(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..60).unwrap_or(bytes)).into_owned()
}
