//! QEMU's monitor: questions and commands as JSON (QEMU's "QMP Reference Manual"), and what QEMU tells by itself.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A connection to a running QEMU.
pub struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// The line that is not complete.
    begun: Vec<u8>,
    events: Vec<Value>,
}

impl Monitor {
    /// Connects to a QEMU that was just started.
    ///
    /// # Errors
    /// It does not make its socket, or does not speak the protocol.
    pub fn connect(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("QEMU's monitor {}", path.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        let lines = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, lines, begun: Vec::new(), events: Vec::new() };
        let greeting = monitor.next(LIMIT)?.context("QEMU does not greet")?;
        ensure!(greeting.get("QMP").is_some(), "QEMU greets with {greeting}");
        monitor.run("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// QEMU refuses it, with what it says; or has ended.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").with_context(|| format!("QEMU does not take {command}"))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.next(left)?.with_context(|| format!("{command} is not answered"))?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {}", error.get("desc").and_then(Value::as_str).unwrap_or("refused"));
            }
            self.events.push(answer);
        }
    }

    /// Waits until it has told of such an event since the last call for this kind, and returns when that was.
    ///
    /// # Errors
    /// It has not within `limit`, or has ended.
    pub fn wait_for(&mut self, event: &str, limit: Duration) -> Result<SystemTime> {
        let deadline = Instant::now() + limit;
        loop {
            let is_this = |told: &Value| told.get("event").and_then(Value::as_str) == Some(event);
            if let Some(position) = self.events.iter().position(is_this) {
                return time_of(&self.events.remove(position));
            }
            let told = self.next(deadline.saturating_duration_since(Instant::now()))?;
            self.events.push(told.with_context(|| format!("QEMU does not tell of {event} within {limit:?}"))?);
        }
    }

    /// The next line that QEMU says, if there is one within `limit`.
    fn next(&mut self, limit: Duration) -> Result<Option<Value>> {
        // 0 would be for ever.
        self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        match self.lines.read_until(b'\n', &mut self.begun) {
            Ok(0) => bail!("QEMU has closed its monitor"),
            Ok(_) => {
                let line = std::mem::take(&mut self.begun);
                Ok(Some(serde_json::from_slice(&line).context("QEMU's monitor says what is no JSON")?))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("QEMU's monitor"),
        }
    }
}

/// When an event was, by the machine's clock.
fn time_of(event: &Value) -> Result<SystemTime> {
    let part = |name: &str| event.pointer(&format!("/timestamp/{name}")).and_then(Value::as_u64);
    let (seconds, micros) = part("seconds").zip(part("microseconds")).with_context(|| format!("no time in {event}"))?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// How long QEMU may take to start, or to answer.
const LIMIT: Duration = Duration::from_secs(30);
