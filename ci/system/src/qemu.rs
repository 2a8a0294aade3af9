//! A Linux guest in QEMU with one vhost-user network device, driven over its serial console.
//!
//! It is emulated (tcg), so that the tests behave alike on every machine, with or without KVM. `ci/guest-image` says what
//! is in it. Start all guests of a test first, then wait for each to be ready: they boot side by side.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::paths::guest_file;

/// What kind of guest to start. Begin with [`GuestOptions::new`].
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Its name in messages.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Who creates the socket.
    pub role: Role,
    /// The virtio version that the device speaks.
    pub virtio: Virtio,
    /// Queue pairs; the guest gets as many processors.
    pub queues: u16,
    /// The device's MAC address.
    pub mac: String,
}

impl GuestOptions {
    /// One modern queue pair, culvertd listening; MAC address 02:00:00:00:00:`number`.
    pub fn new(name: &str, socket: &Path, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            socket: socket.to_owned(),
            role: Role::Listen,
            virtio: Virtio::Modern,
            queues: 1,
            mac: format!("02:00:00:00:00:{number:02x}"),
        }
    }
}

/// Who creates the socket, seen from culvertd, as in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// culvertd; QEMU connects, and connects again every second after a loss.
    Listen,
    /// QEMU.
    Connect,
}

impl Role {
    /// The value of culvertd's key `role`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Connect => "connect",
        }
    }
}

/// The virtio version that a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtio {
    /// 1.0 and later.
    Modern,
    /// 0.9.5 only (`disable-modern=on`).
    Legacy,
}

/// A running guest.
pub struct Guest {
    console: Console,
    name: String,
    address: String,
}

impl Guest {
    /// Starts QEMU and returns before the guest has booted.
    ///
    /// # Errors
    /// QEMU or the guest image is missing.
    pub fn start(options: &GuestOptions) -> Result<Self> {
        let console = Console::start(&options.name, "qemu-system-x86_64", &arguments(options)?)?;
        let number = options.mac.rsplit(':').next().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let number = number.with_context(|| format!("{} is no MAC address", options.mac))?;
        Ok(Self { console, name: options.name.clone(), address: format!("10.0.0.{number}") })
    }

    /// Waits until it has booted, and brings its network interface up with [`Guest::address`].
    ///
    /// # Errors
    /// It does not boot, or has no network interface.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.console.wait_for("GUEST-READY\n", BOOT_LIMIT)?;
        self.check(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", self.address))?;
        Ok(())
    }

    /// Its IPv4 address: 10.0.0.N, where N is the last byte of its MAC address.
    pub fn address(&self) -> &str {
        &self.address
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
    /// QEMU has ended.
    pub fn send(&mut self, command: &str) -> Result<()> {
        self.console.send(command)
    }

    /// Waits for the command of [`Guest::send`] and returns what it printed, and its status.
    ///
    /// # Errors
    /// The command did not end.
    pub fn finish(&mut self) -> Result<(String, i32)> {
        let printed = self.console.wait_for("@@END ", COMMAND_LIMIT)?;
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

    /// Starts an iperf3 server in it.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve_iperf(&mut self) -> Result<()> {
        self.check("iperf3 -s -D").map(drop)
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

/// QEMU's command line.
fn arguments(options: &GuestOptions) -> Result<Vec<String>> {
    let GuestOptions { queues, mac, .. } = options;
    let socket = options.socket.display();
    let role = match options.role {
        Role::Listen => "reconnect-ms=1000",
        Role::Connect => "server=on",
    };
    let virtio = match options.virtio {
        Virtio::Modern => "disable-legacy=on",
        Virtio::Legacy => "disable-modern=on",
    };
    // Each queue pair has two interrupts, the device two more.
    let multi = if *queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
    let (kernel, initrd) = (guest_file("vmlinuz")?, guest_file("initrd.cpio")?);
    let line = format!(
        "-accel tcg -cpu max -machine pc -smp {queues} -m 256 -nodefaults -no-user-config -no-reboot -display none \
         -append console=ttyS0\u{a0}quiet\u{a0}panic=-1 -chardev stdio,id=console,signal=off -serial chardev:console \
         -object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
         -chardev socket,id=vhost,path={socket},{role} -netdev vhost-user,id=net,chardev=vhost,queues={queues} \
         -device virtio-net-pci,netdev=net,mac={mac},romfile=,{virtio}{multi}"
    );
    let mut arguments: Vec<String> = line.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    arguments.extend(["-kernel".to_owned(), kernel.display().to_string()]);
    arguments.extend(["-initrd".to_owned(), initrd.display().to_string()]);
    Ok(arguments)
}

/// Booting takes about four seconds on an idle core.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The longest that a command in a guest may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
