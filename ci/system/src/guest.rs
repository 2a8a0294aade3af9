//! A Linux guest that a test drives over its console: commands, ping, iperf3.
//!
//! `ci/guest-image` says what is in it; [`qemu`](crate::qemu) and [`uml`](crate::uml) start one. Start all guests of a test first, then
//! wait for each to be ready: they boot side by side.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::traffic::{self, Endpoint};

/// A running guest. Number N has the addresses 02:00:00:00:00:N and 10.0.0.N, and fd00::N once it was told.
pub struct Guest {
    console: Console,
    name: String,
    number: u8,
    address: String,
}

impl Guest {
    /// A guest that was just started.
    pub(crate) fn new(name: &str, number: u8, console: Console) -> Self {
        Self { console, name: name.to_owned(), number, address: format!("10.0.0.{number}") }
    }

    /// Waits until it has booted, and brings its network interface up with its addresses.
    ///
    /// # Errors
    /// It does not boot, or has no network interface.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_booted()?;
        let address = &self.address;
        self.check(&format!("ip link set eth0 up && ip addr add {address}/24 dev eth0"))?;
        Ok(())
    }

    /// Waits until it has booted. Its network interface stays down, and has no address but its MAC.
    ///
    /// # Errors
    /// It does not boot, or has no network interface.
    pub fn wait_booted(&mut self) -> Result<()> {
        self.wait_prompt()?;
        let mac = mac(self.number);
        self.check(&format!("ip link set eth0 address {mac}")).map(drop)
    }

    /// Waits until it has booted, whatever its network interface is called.
    ///
    /// # Errors
    /// It does not boot.
    pub fn wait_prompt(&mut self) -> Result<()> {
        self.console.wait_for("GUEST-READY\n", BOOT_LIMIT).map(drop)
    }

    /// Its IPv4 address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Gives it its IPv6 address, and returns that.
    ///
    /// # Errors
    /// The guest does not take it.
    pub fn add_ipv6(&mut self) -> Result<String> {
        let address = format!("fd00::{:x}", self.number);
        self.check(&format!("ip addr add {address}/64 dev eth0 nodad"))?;
        Ok(address)
    }

    /// Sends `bytes` on one TCP connection to `to` at its `address`, where each is compared with what was sent. Returns how
    /// long that took.
    ///
    /// # Errors
    /// A byte was changed, or the connection stalls.
    pub fn send_tcp(&mut self, to: &mut Self, address: &str, bytes: u64) -> Result<Duration> {
        traffic::tcp(self, to, address, TRAFFIC_PORT, bytes)
    }

    /// Sends `bytes` in UDP datagrams of `datagram` bytes, many in one system call (`UDP_SEGMENT`), to `to` at its `address`, where each is
    /// compared with what was sent. Returns how long that took.
    ///
    /// # Errors
    /// A byte was changed, or a datagram never arrives.
    pub fn send_udp(&mut self, to: &mut Self, address: &str, bytes: u64, datagram: u32) -> Result<Duration> {
        traffic::udp(self, to, address, TRAFFIC_PORT, bytes, datagram)
    }

    /// The offloads of its network interface that are on, as `ethtool -k` names them.
    ///
    /// # Errors
    /// The guest does not answer the console.
    pub fn offloads(&mut self) -> Result<Vec<String>> {
        let printed = self.check("ethtool -k eth0")?;
        let on = printed
            .lines()
            .filter_map(|line| line.trim().strip_suffix(": on").or(line.trim().strip_suffix(": on [fixed]")));
        Ok(on.map(str::to_owned).collect())
    }

    /// How many frames its network interface has received so far, and their bytes.
    ///
    /// # Errors
    /// The guest does not answer the console.
    pub fn received(&mut self) -> Result<(u64, u64)> {
        let printed = self.check("cd /sys/class/net/eth0/statistics && cat rx_packets rx_bytes")?;
        let mut numbers = printed.split_whitespace().map(str::parse);
        let mut next = || numbers.next().with_context(|| format!("the statistics are:\n{printed}"));
        Ok((next()??, next()??))
    }

    /// Goes on with the console of another QEMU, where the guest is now, and returns the one before.
    pub fn move_to(&mut self, console: Console) -> Console {
        std::mem::replace(&mut self.console, console)
    }

    /// Its console, for what the other functions do not offer.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// Runs a shell command in it, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// The command failed or did not end.
    pub fn check(&mut self, command: &str) -> Result<String> {
        let (printed, status) = self.run(command)?;
        ensure!(status == 0, "{}: \"{command}\" failed with status {status}:\n{printed}", self.name);
        Ok(printed)
    }

    /// Runs a shell command in it and returns what it printed, and its status.
    ///
    /// # Errors
    /// The command did not end.
    pub fn run(&mut self, command: &str) -> Result<(String, i32)> {
        self.send(command)?;
        self.finish()
    }

    /// Starts a shell command in it; [`Guest::finish`] must follow.
    ///
    /// # Errors
    /// The guest has ended.
    pub fn send(&mut self, command: &str) -> Result<()> {
        self.console.send(command)
    }

    /// Waits for the command of [`Guest::send`] and returns what it printed, and its status.
    ///
    /// # Errors
    /// The command did not end.
    pub fn finish(&mut self) -> Result<(String, i32)> {
        self.finish_within(COMMAND_LIMIT)
    }

    /// As [`Guest::finish`], with a limit of the caller's own.
    ///
    /// # Errors
    /// The command did not end.
    pub fn finish_within(&mut self, limit: Duration) -> Result<(String, i32)> {
        let printed = self.console.wait_for("@@END ", limit)?;
        let status = self.console.wait_for("\n", COMMAND_LIMIT)?;
        Ok((printed, status.parse()?))
    }

    /// Sends `count` echo requests to `address`, five a second, and returns how many were answered.
    ///
    /// # Errors
    /// The guest does not answer the console.
    pub fn ping(&mut self, address: &str, count: u32) -> Result<u32> {
        let (printed, _) = self.run(&format!("ping -c {count} -i 0.2 -W 1 {address}"))?;
        let received = printed.split(" packets received").next().and_then(|text| text.rsplit(' ').next());
        received.and_then(|count| count.parse().ok()).with_context(|| format!("ping printed:\n{printed}"))
    }

    /// Starts an iperf3 server in it, and returns when it can be reached.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve_iperf(&mut self) -> Result<()> {
        self.check("iperf3 -s -D && until netstat -ltn | grep -q :5201; do sleep 0.1; done").map(drop)
    }

    /// Runs iperf3 for three seconds against the server at `address` and returns what the receiver got, in Mbit/s. `flags` are
    /// further arguments: `-R` for the other direction, `-u` for UDP.
    ///
    /// # Errors
    /// No connection, or it stalls.
    pub fn iperf(&mut self, address: &str, flags: &str) -> Result<f64> {
        let printed = self.check(&format!("iperf3 -J -t 3 --connect-timeout 5000 -c {address} {flags}"))?;
        let report: serde_json::Value = serde_json::from_str(&printed)?;
        let rate = ["/end/sum_received/bits_per_second", "/end/sum/bits_per_second"]
            .iter()
            .find_map(|path| report.pointer(path).and_then(serde_json::Value::as_f64));
        Ok(rate.with_context(|| format!("iperf3 printed:\n{printed}"))? / 1e6)
    }
}

impl Endpoint for Guest {
    fn start(&mut self, arguments: &str) -> Result<()> {
        self.send(&format!("guest-traffic {arguments}"))
    }

    fn wait_listening(&mut self) -> Result<()> {
        self.console.wait_for("READY\n", COMMAND_LIMIT).map(drop)
    }

    fn finish(&mut self, limit: Duration) -> Result<String> {
        let (printed, status) = self.finish_within(limit)?;
        ensure!(status == 0, "{}: guest-traffic failed with status {status}:\n{printed}", self.name);
        Ok(printed)
    }
}

/// The MAC address of a guest.
pub(crate) fn mac(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// Booting takes about four seconds on an idle core.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The longest that a command in a guest may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Where a guest receives.
const TRAFFIC_PORT: u16 = 7001;
