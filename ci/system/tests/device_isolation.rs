//! Each kind of device that takes no card, with culvertd isolated: opened at its start, and at run time by the threads that serve
//! clients, which may do less. A system call that is forbidden and not in the lists ends culvertd here. ci/system-calls counts on these
//! tests for what drivers need.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frame::{End, echo_request};
use culvert_system::pcap;
use culvert_system::place::ip;
use culvert_system::qemu::Role;
use culvert_system::veth::Veth;
use culvert_system::wait::wait_until;
use serde_json::Value;

/// A port, and the interface from which frames reach it.
struct Device {
    port: &'static str,
    argument: &'static str,
    outside: &'static str,
}

const DEVICES: [Device; 5] = [
    Device { port: "packet", argument: "net_af_packet0,iface=in0", outside: "out0" },
    Device { port: "xdp", argument: "net_af_xdp0,iface=in1", outside: "out1" },
    Device { port: "capture", argument: "net_pcap0,iface=in2", outside: "out2" },
    Device { port: "tap", argument: "net_tap0,iface=own0", outside: "own0" },
    Device {
        port: "bond",
        argument: "net_bonding0,mode=1,member=(net_tap1,iface=own1),member=(net_tap2,iface=own2)",
        outside: "own1",
    },
];

/// DPDK's thread that looks at the links of a bond's members was forbidden to, and a bond of taps carried nothing.
#[test]
fn devices_of_the_configuration_file() -> Result<()> {
    let _wires = wires()?;
    let mut node = node()?;
    for device in &DEVICES {
        node.add_nic(device.port, device.argument, "");
    }
    let mut daemon = node.start()?;
    check(&node, &mut daemon)?;
    end(daemon)
}

/// Before, the list of those that start DPDK lacked what hugepages take. DPDK takes more of them at run time.
#[test]
fn devices_in_hugepages() -> Result<()> {
    let (_wires, _pages) = (wires()?, Hugepages::add(128)?);
    let mut node = node()?;
    node.set_hugepages(64);
    let mut daemon = node.start()?;
    add(&daemon)?;
    check(&node, &mut daemon)?;
    end(daemon)
}

#[test]
fn devices_that_are_added_at_run_time() -> Result<()> {
    let _wires = wires()?;
    let mut node = node()?;
    // Switches among themselves, each in a network of its own: frames would go round for ever.
    let theirs = node.path("dpdk.sock");
    let ours = node.add_guest("guest", Role::Listen, "");
    *node.config() =
        node.config().replace("name = \"guest\"\nnetwork = \"blue\"", "name = \"guest\"\nnetwork = \"red\"");
    for network in ["red", "green", "yellow", "white"] {
        node.add(&format!("[[network]]\nname = \"{network}\""));
    }
    let mut daemon = node.start()?;
    add(&daemon)?;
    let switches = [
        ("frontend", "green", format!("net_virtio_user0,path={}", ours.display())),
        ("their-backend", "yellow", format!("net_vhost0,iface={}", theirs.display())),
        ("their-frontend", "white", format!("net_virtio_user1,path={}", theirs.display())),
    ];
    for (port, network, argument) in &switches {
        daemon.ctl(&format!("port add {port} --network {network} --device {argument}"))?;
        daemon.wait_for_state(port, if *port == "their-backend" { "down" } else { "up" })?;
    }
    for port in ["guest", "their-backend"] {
        daemon.wait_for_state(port, "up")?;
    }
    check(&node, &mut daemon)?;
    for port in DEVICES.iter().map(|device| device.port).chain(["their-frontend", "their-backend", "frontend"]) {
        daemon.ctl(&format!("port del {port}"))?;
    }
    end(daemon)
}

fn node() -> Result<Node> {
    // Where libxdp keeps the programs that several share. ci/isolated has mounts of its own.
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status()?;
    ensure!(mounted.success(), "/sys/fs/bpf cannot be mounted");
    let mut node = Node::new()?;
    node.set_isolation("kill");
    let kinds = "device_kinds = [\"net_af_packet\", \"net_af_xdp\", \"net_pcap\", \"net_tap\"]";
    *node.config() = node.config().replacen("[daemon]\n", &format!("[daemon]\n{kinds}\n"), 1);
    Ok(node)
}

fn wires() -> Result<Vec<Veth>> {
    let wires = [("in0", "out0"), ("in1", "out1"), ("in2", "out2")].map(|(here, there)| Veth::new(here, there));
    for interface in ["in1", "out1"] {
        // AF_XDP takes no frames of more than a page.
        ip(&format!("link set {interface} mtu 1500"))?;
    }
    wires.into_iter().collect()
}

fn add(daemon: &Daemon) -> Result<()> {
    for device in &DEVICES {
        daemon.ctl(&format!("port add {} --network blue --device {}", device.port, device.argument))?;
    }
    Ok(())
}

/// All are up, and a frame that comes in by each goes out by all others.
fn check(node: &Node, daemon: &mut Daemon) -> Result<()> {
    for device in &DEVICES {
        daemon.wait_for_state(device.port, "up")?;
    }
    let file = node.path("send.pcap");
    for (number, device) in (1..).zip(&DEVICES) {
        let mut frame = echo_request(End::new(number), End::new(100), b"hello")?;
        frame.splice(..6, [0xff; 6]);
        pcap::write(&file, [&frame[..]])?;
        let others = || -> Result<Vec<u64>> {
            let others = DEVICES.iter().filter(|other| other.port != device.port);
            others.map(|other| count(daemon, other.port, "tx_frames")).collect()
        };
        let before = others()?;
        send(daemon, &file, device)?;
        let deadline = Instant::now() + LIMIT;
        while others()?.iter().zip(&before).any(|(now, before)| now <= before) {
            let stats = daemon.ctl("stats")?;
            ensure!(Instant::now() < deadline, "what came in by {} has not gone out: {stats}", device.port);
        }
    }
    Ok(())
}

/// Again and again until it has come: an interface takes its time until it is up.
fn send(daemon: &Daemon, file: &Path, device: &Device) -> Result<()> {
    let came = || count(daemon, device.port, "rx_frames");
    let (before, deadline) = (came()?, Instant::now() + LIMIT);
    while came()? == before {
        ensure!(Instant::now() < deadline, "nothing comes in by {}: {}", device.port, daemon.ctl("stats")?);
        pcap::send(file, device.outside)?;
    }
    Ok(())
}

fn count(daemon: &Daemon, port: &str, counter: &str) -> Result<u64> {
    Ok(daemon.stats(port)?.get(counter).and_then(Value::as_u64).unwrap_or(0))
}

fn end(daemon: Daemon) -> Result<()> {
    ensure!(daemon.ask("status")?.get("restarts") == Some(&0.into()), "a forbidden system call has ended culvertd");
    daemon.stop()
}

/// More free hugepages, given back when this is dropped.
struct Hugepages(String);

const HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Hugepages {
    fn add(pages: u64) -> Result<Self> {
        let before = fs::read_to_string(HUGEPAGES)?.trim().to_owned();
        let guard = Self(before.clone());
        let wanted = before.parse::<u64>()? + pages;
        // Others' memory may lie in pieces for a moment.
        wait_until(&format!("this machine has memory for {pages} hugepages"), || {
            fs::write(HUGEPAGES, wanted.to_string())?;
            Ok(fs::read_to_string(HUGEPAGES)?.trim().parse::<u64>()? >= wanted)
        })?;
        Ok(guard)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let _ = fs::write(HUGEPAGES, &self.0);
    }
}

const LIMIT: Duration = Duration::from_secs(20);
