//! DPDK's testpmd: a guest without a virtual machine (virtio-user), and a switch to compare with (net_vhost).
//!
//! It needs neither hugepages nor devices. Several run side by side.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::place::Place;

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
    /// Whether it asks for buffers to be used in order (`VIRTIO_F_IN_ORDER`).
    pub in_order: bool,
    /// Whether it asks for packed rings.
    pub packed: bool,
}

impl Testpmd {
    /// Starts it with virtual devices and further options, and returns when it takes commands.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(name: &str, devices: &[String], options: &[&str]) -> Result<Self> {
        Self::start_in(&Place::default(), name, devices, options)
    }

    /// As [`Testpmd::start`], in a place. It polls on that core, else on the second.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_in(place: &Place, name: &str, devices: &[String], options: &[&str]) -> Result<Self> {
        let prefix = format!("--file-prefix={name}");
        // One thread for the commands, one that polls.
        let threads = place.core.map_or("0@0,1@1".to_owned(), |core| format!("0@{core},1@{core}"));
        // Without stdbuf its output would come only when 4 KiB of it are there.
        let line = "-oL dpdk-testpmd --no-huge -m 256 --no-shconf --no-pci --no-telemetry --lcores";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend([&*threads, &prefix]);
        arguments.extend(devices.iter().flat_map(|device| ["--vdev", device]));
        arguments.extend(["--", "-i", "--no-mlockall", "--total-num-mbufs=16384"]);
        arguments.extend(options);
        let mut console = Console::start_in(place, name, "stdbuf", &arguments)?;
        console.wait_for_answer(PROMPT, LIMIT)?;
        Ok(Self { console })
    }

    /// A switch between two guests: what comes from one goes to the other, in testpmd's fastest mode. It creates both sockets.
    ///
    /// # Errors
    /// It does not start.
    pub fn switch(sockets: [&Path; 2]) -> Result<Self> {
        Self::switch_in(&Place::default(), sockets, false)
    }

    /// As [`Testpmd::switch`], in a place; `tso`: segmentation requests pass, too (net_vhost's `tso=1`, not its default).
    ///
    /// # Errors
    /// It does not start.
    pub fn switch_in(place: &Place, sockets: [&Path; 2], tso: bool) -> Result<Self> {
        let devices: Vec<String> = (0..).zip(sockets).map(|(i, socket)| vhost_device(i, socket, tso)).collect();
        Self::forward_in(place, &devices, &["--forward-mode=io"])
    }

    /// A switch between devices in pairs, which forwards from now on as `options` say.
    ///
    /// # Errors
    /// It does not start.
    pub fn forward_in(place: &Place, devices: &[String], options: &[&str]) -> Result<Self> {
        let mut switch = Self::start_in(place, "switch", devices, options)?;
        switch.command("start")?;
        Ok(switch)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.console.pid()
    }

    /// A guest that connects to `socket` and joins its network device, port 0, to a capture, port 1. `capture` is an argument of
    /// DPDK's net_pcap: `rx_pcap=FILE` is played into the network, `tx_pcap=FILE` records what comes. It waits for `start`.
    ///
    /// # Errors
    /// It does not start, or nobody listens.
    pub fn player(name: &str, socket: &Path, device: VirtioUser, capture: &str) -> Result<Self> {
        let VirtioUser { queues, mergeable, in_order, packed } = device;
        let (socket, packed) = (socket.display(), u8::from(packed));
        let (mergeable, in_order) = (u8::from(mergeable), u8::from(in_order));
        // Several queues need a control queue; virtio-user serves that one itself.
        let control = u8::from(queues > 1);
        // net_pcap has as many queues as it is given files.
        let capture = vec![capture; usize::from(queues)].join(",");
        let devices = [
            format!(
                "net_virtio_user0,path={socket},queues={queues},cq={control},mrg_rxbuf={mergeable},in_order={in_order},\
                 packed_vq={packed}"
            ),
            format!("net_pcap0,{capture}"),
        ];
        let queues = [format!("--rxq={queues}"), format!("--txq={queues}")];
        // Without the flag testpmd throws away what the capture has before it starts.
        Self::start(name, &devices, &["--forward-mode=io", "--no-flush-rx", &queues[0], &queues[1]])
    }

    /// Gives it a command, and returns what it printed.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.console.send(command)?;
        // It repeats the command; prompts before that belong to events.
        self.console.wait_for_answer(&format!("{command}\n"), LIMIT)?;
        self.console.wait_for_answer(PROMPT, LIMIT)
    }

    /// All that it has printed so far: with `set verbose 1` also each frame that came.
    pub fn transcript(&self) -> String {
        self.console.transcript()
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

    /// Waits until a counter of a port has reached `value`.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn wait_for_counter(&mut self, port: u16, name: &str, value: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let count = self.counter(port, name)?;
            if count >= value {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "testpmd's {name} of port {port} stays at {count}, not {value}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The `--vdev` of DPDK's vhost library for a guest's socket, which it creates; `tso`: segmentation requests pass.
pub fn vhost_device(number: usize, socket: &Path, tso: bool) -> String {
    format!("net_vhost{number},iface={},tso={}", socket.display(), u8::from(tso))
}

const PROMPT: &str = "testpmd> ";

/// The longest that starting and a command may take.
const LIMIT: Duration = Duration::from_secs(60);
