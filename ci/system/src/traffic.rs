//! Data from one end to another, each byte of which is checked where it arrives.
//!
//! An [`Endpoint`] is a guest, or a [`Host`]: a network namespace of this machine. Both run `guest-traffic`, of which
//! ci/guest-traffic.c is the source: what was lost, moved or changed is told, and what arrived is acknowledged to the sender.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::paths::guest_file;
use crate::place::{Namespace, Place};

/// Where `guest-traffic` can run. One at a time.
pub trait Endpoint {
    /// Starts it with `arguments`, separated by spaces.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&mut self, arguments: &str) -> Result<()>;

    /// Waits until the receiver that was started can be reached.
    ///
    /// # Errors
    /// It fails, or does not say so.
    fn wait_listening(&mut self) -> Result<()>;

    /// Waits until it has succeeded, and returns what it printed.
    ///
    /// # Errors
    /// It failed, or did not end within `limit`.
    fn finish(&mut self, limit: Duration) -> Result<String>;
}

/// A network namespace of this machine as an end.
pub struct Host {
    place: Place,
    running: Option<Console>,
}

impl Host {
    /// Programs will run in this namespace.
    pub fn new(namespace: &Namespace) -> Self {
        Self { place: Place { namespace: Some(namespace.name().to_owned()), ..Place::default() }, running: None }
    }

    /// Tells a sender that sends until it is told to end that it is time.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell_to_end(&mut self) -> Result<()> {
        self.running()?.signal("TERM")
    }

    /// Waits until it has ended, well or not.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn wait_over(&mut self, limit: Duration) -> Result<()> {
        self.running()?.wait(limit).map(drop)
    }

    fn running(&mut self) -> Result<&mut Console> {
        self.running.as_mut().context("guest-traffic was not started")
    }
}

impl Endpoint for Host {
    fn start(&mut self, arguments: &str) -> Result<()> {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let program = guest_file("guest-traffic")?;
        self.running = Some(Console::start_in(&self.place, "guest-traffic", program, &arguments)?);
        Ok(())
    }

    fn wait_listening(&mut self) -> Result<()> {
        self.running()?.wait_for("READY\n", LISTEN_LIMIT).map(drop)
    }

    fn finish(&mut self, limit: Duration) -> Result<String> {
        let console = self.running()?;
        let status = console.wait(limit)?;
        ensure!(status.success(), "guest-traffic ended with {status}; {}", console.last_words());
        // The last of what it printed may come later than its end.
        console.wait_for_end(LISTEN_LIMIT)
    }
}

/// Sends `bytes` on one TCP connection to `address`, where `to` receives on a port of that number. Returns how long that took.
///
/// # Errors
/// A byte was changed, or the connection stalls.
pub fn tcp(from: &mut dyn Endpoint, to: &mut dyn Endpoint, address: &str, port: u16, bytes: u64) -> Result<Duration> {
    slow_tcp(from, to, address, port, bytes, [0, 0])
}

/// As [`tcp`], with pauses of the sender and of the receiver, in milliseconds for each 64 KiB.
///
/// # Errors
/// A byte was changed, or the connection stalls.
pub fn slow_tcp(
    from: &mut dyn Endpoint,
    to: &mut dyn Endpoint,
    address: &str,
    port: u16,
    bytes: u64,
    [sender, receiver]: [u32; 2],
) -> Result<Duration> {
    let send = format!("send {address} {port} {bytes} {sender}");
    transfer(from, to, &format!("receive {port} {receiver}"), &send, bytes)
}

/// Sends `bytes` in UDP datagrams of `datagram` bytes, many in one system call (`UDP_SEGMENT`), to `address`, where `to` receives
/// on a port of that number. Returns how long that took.
///
/// # Errors
/// A byte was changed, or a datagram never arrives.
pub fn udp(
    from: &mut dyn Endpoint,
    to: &mut dyn Endpoint,
    address: &str,
    port: u16,
    bytes: u64,
    datagram: u32,
) -> Result<Duration> {
    let send = format!("send-udp {address} {port} {bytes} {datagram}");
    transfer(from, to, &format!("receive-udp {port}"), &send, bytes)
}

fn transfer(from: &mut dyn Endpoint, to: &mut dyn Endpoint, receive: &str, send: &str, bytes: u64) -> Result<Duration> {
    to.start(receive)?;
    to.wait_listening()?;
    let start = Instant::now();
    from.start(send)?;
    from.finish(TRANSFER_LIMIT).context("the sender")?;
    let took = start.elapsed();
    let printed = to.finish(TRANSFER_LIMIT).context("the receiver")?;
    ensure!(printed.trim() == bytes.to_string(), "{} of {bytes} bytes came", printed.trim());
    Ok(took)
}

const LISTEN_LIMIT: Duration = Duration::from_secs(60);

/// The longest that data of a test may take to arrive, on a busy machine.
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);
