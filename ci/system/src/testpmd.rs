//! DPDK's testpmd: a guest without a virtual machine (virtio-user), and a switch to compare with (net_vhost).
//!
//! It needs neither hugepages nor devices. Several run side by side.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::console::Console;

/// A running testpmd.
pub struct Testpmd {
    console: Console,
}

/// How a virtio-user guest's device is.
#[derive(Clone, Copy, Debug)]
pub struct VirtioUser {
    /// Queue pairs.
    pub queues: u16,
    /// Whether it asks for mergeable receive buffers.
    pub mergeable: bool,
}

impl Testpmd {
    /// Starts it with virtual devices and further options, and returns when it takes commands.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(name: &str, devices: &[String], options: &[&str]) -> Result<Self> {
        let prefix = format!("--file-prefix={name}");
        let eal = "-l 0,1 --no-huge -m 256 --no-shconf --no-pci --no-telemetry";
        let mut arguments: Vec<&str> = eal.split(' ').collect();
        arguments.push(&prefix);
        arguments.extend(devices.iter().flat_map(|device| ["--vdev", device]));
        arguments.extend(["--", "-i", "--no-mlockall", "--total-num-mbufs=16384"]);
        arguments.extend(options);
        let mut console = Console::start(name, "dpdk-testpmd", &arguments)?;
        console.wait_for(PROMPT, LIMIT)?;
        Ok(Self { console })
    }

    /// A switch between two guests: what comes from one goes to the other, in testpmd's fastest mode. It creates both sockets.
    ///
    /// # Errors
    /// It does not start.
    pub fn switch(sockets: [&Path; 2]) -> Result<Self> {
        let devices: Vec<String> =
            sockets.iter().enumerate().map(|(i, socket)| format!("net_vhost{i},iface={}", socket.display())).collect();
        let mut switch = Self::start("switch", &devices, &["--forward-mode=io"])?;
        switch.command("start")?;
        Ok(switch)
    }

    /// A guest: it connects to `socket`.
    ///
    /// # Errors
    /// It does not start, or nobody listens.
    pub fn guest(name: &str, socket: &Path, device: VirtioUser, options: &[&str]) -> Result<Self> {
        let VirtioUser { queues, mergeable } = device;
        let queue_options = [format!("--rxq={queues}"), format!("--txq={queues}")];
        let device =
            format!("net_virtio_user0,path={},queues={queues},mrg_rxbuf={}", socket.display(), u8::from(mergeable));
        let mut all: Vec<&str> = queue_options.iter().map(String::as_str).collect();
        all.extend(options);
        Self::start(name, &[device], &all)
    }

    /// Gives it a command, and returns what it printed.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.console.send(command)?;
        self.console.wait_for(PROMPT, LIMIT)
    }

    /// A counter of a port, e.g. `RX-packets`.
    ///
    /// # Errors
    /// There is no such counter.
    pub fn counter(&mut self, port: u16, name: &str) -> Result<u64> {
        let printed = self.command(&format!("show port stats {port}"))?;
        let mut words = printed.split_whitespace().skip_while(|word| word.trim_end_matches(':') != name);
        let value = words.nth(1).and_then(|word| word.parse().ok());
        value.with_context(|| format!("testpmd has no counter {name}; it printed:\n{printed}"))
    }
}

const PROMPT: &str = "testpmd> ";

/// The longest that starting and a command may take.
const LIMIT: Duration = Duration::from_secs(60);
