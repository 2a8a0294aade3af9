//! A network as a learning bridge, on DPDK ports: captures go in, captures come out, compared byte for byte.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::pcap;
use culvert_system::veth::Veth;

type Mac = [u8; 6];

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const C: Mac = [2, 0, 0, 0, 0, 0xc];
const BROADCAST: Mac = [0xff; 6];
const MULTICAST: Mac = [1, 0, 0x5e, 0, 0, 0xfb];
/// Spanning tree's address (IEEE 802.1Q, 8.6.3).
const LINK_LOCAL: Mac = [1, 0x80, 0xc2, 0, 0, 0];

#[test]
fn frames_go_where_they_belong() -> Result<()> {
    let mut lan = Lan::start(&["", "", ""], "300s")?;
    // Nobody is known: to all others.
    let first = frame(B, A, 60);
    lan.send(0, &[&first])?;
    lan.came([&[], &[&first], &[&first]])?;
    // The answer goes to the one port that A was seen on, and so does all that follows.
    let answer = frame(A, B, 1514);
    let again = frame(B, A, 777);
    lan.send(1, &[&answer])?;
    lan.send(0, &[&again])?;
    lan.came([&[&answer], &[&again], &[]])?;
    // Groups go to all others, also when they are many.
    let groups = [frame(BROADCAST, A, 61), frame(MULTICAST, A, 62), frame(BROADCAST, A, 63)];
    let groups = groups.each_ref().map(Vec::as_slice);
    lan.send(0, &groups)?;
    lan.came([&[], &groups, &groups])?;
    // An address nobody has: to all others, every time.
    let unknown = frame([2, 0, 0, 0, 0, 0x77], A, 64);
    lan.send(0, &[&unknown, &unknown])?;
    lan.came([&[], &[&unknown, &unknown], &[&unknown, &unknown]])?;
    // B moves to the third port.
    let moved = frame(A, B, 65);
    let after = frame(B, A, 66);
    lan.send(2, &[&moved])?;
    lan.send(0, &[&after])?;
    lan.came([&[&moved], &[], &[&after]])?;
    lan.daemon.check_counters()?;
    lan.daemon.stop()
}

#[test]
fn frames_that_must_not_pass() -> Result<()> {
    let mut lan = Lan::start(&["", "", ""], "300s")?;
    let hello = frame(BROADCAST, A, 60);
    lan.send(0, &[&hello])?;
    lan.came([&[], &[&hello], &[&hello]])?;
    for (reason, bytes) in [
        ("link-local", frame(LINK_LOCAL, A, 60)),
        ("group-source", frame(BROADCAST, MULTICAST, 60)),
        ("same-port", frame(A, C, 60)),
    ] {
        lan.send(0, &[&bytes])?;
        lan.came([&[], &[], &[]])?;
        lan.dropped("n0", "rx", reason, 1)?;
    }
    lan.daemon.check_counters()?;
    lan.daemon.stop()
}

#[test]
fn addresses_are_forgotten() -> Result<()> {
    let mut lan = Lan::start(&["", "", ""], "1s")?;
    let hello = frame(BROADCAST, B, 60);
    lan.send(1, &[&hello])?;
    lan.came([&[&hello], &[], &[&hello]])?;
    while lan.daemon.ask("mac list")?.as_array().is_some_and(|list| !list.is_empty()) {
        thread::sleep(Duration::from_millis(100));
    }
    let late = frame(B, A, 61);
    lan.send(0, &[&late])?;
    lan.came([&[], &[&late], &[&late]])?;
    lan.daemon.stop()
}

#[test]
fn jumbo_frames_go_where_the_mtu_allows() -> Result<()> {
    let mut lan = Lan::start(&["mtu = 9000", "mtu = 9000", ""], "300s")?;
    // The MTU leaves out the Ethernet header of 14 bytes, and a VLAN tag of 4 where there is one.
    let (jumbo, over, largest) = (frame(BROADCAST, A, 9014), frame(BROADCAST, A, 1515), frame(BROADCAST, A, 1514));
    let mut tagged = largest.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x2a]);
    let all: [&[u8]; 4] = [&jumbo, &over, &largest, &tagged];
    lan.send(0, &all)?;
    lan.came([&[], &all, &[&largest, &tagged]])?;
    lan.dropped("n2", "tx", "exceeds-mtu", 2)?;
    lan.daemon.check_counters()?;
    lan.daemon.stop()
}

#[test]
fn runts_are_refused() -> Result<()> {
    let mut node = Node::new()?;
    let (input, output) = (node.path("in.pcap"), node.path("out.pcap"));
    let whole = frame(BROADCAST, A, 60);
    let runts = [&whole[..1], &whole[..13], &whole[..14], &whole[..]];
    pcap::write(&input, runts)?;
    // The first is opened first, and a file is read as soon as it is open.
    node.add_nic("out", &format!("net_pcap0,tx_pcap={}", output.display()), "");
    node.add_nic("in", &format!("net_pcap1,rx_pcap={}", input.display()), "");
    let mut daemon = node.start()?;
    daemon.wait_for_counter("in", "rx_frames", 4)?;
    daemon.wait_for_counter("out", "tx_frames", 2)?;
    ensure!(pcap::read(&output)? == [&whole[..14], &whole[..]], "other frames came out");
    ensure!(drops(&daemon, "in", "rx", "runt")? == 2, "runts are not counted: {}", daemon.ctl("drops")?);
    daemon.check_counters()?;
    daemon.stop()
}

/// A network of DPDK ports `n0`, `n1`, ...: each listens on an interface and sends into a file.
struct Lan {
    node: Node,
    daemon: Daemon,
    _wires: Vec<Veth>,
    /// Frames sent into each port, and frames read from each port's file, so far.
    sent: Vec<u64>,
    read: Vec<usize>,
}

impl Lan {
    /// Starts it with one port for each of `keys`.
    fn start(keys: &[&str], mac_age: &str) -> Result<Self> {
        let mut node = Node::new()?;
        node.add(&format!("mac_age = \"{mac_age}\""));
        let mut wires = Vec::new();
        for (index, keys) in keys.iter().enumerate() {
            wires.push(Veth::new(&format!("n{index}"), &format!("w{index}"))?);
            let output = node.path(&format!("out{index}.pcap"));
            let device = format!("net_pcap{index},rx_iface=n{index},tx_pcap={}", output.display());
            node.add_nic(&format!("n{index}"), &device, keys);
        }
        let daemon = node.start()?;
        Ok(Self { node, daemon, _wires: wires, sent: vec![0; keys.len()], read: vec![0; keys.len()] })
    }

    /// Sends frames into a port, and returns when culvertd has done with them.
    fn send(&mut self, port: usize, frames: &[&[u8]]) -> Result<()> {
        let file = self.node.path("send.pcap");
        pcap::write(&file, frames.iter().copied())?;
        pcap::send(&file, &format!("w{port}"))?;
        self.sent[port] += frames.len() as u64;
        let name = format!("n{port}");
        self.daemon.wait_for_counter(&name, "rx_frames", self.sent[port])?;
        while self.daemon.stats(&name)?["rx_in_flight"] != 0 {}
        Ok(())
    }

    /// Checks which frames have come out of each port since the last time.
    fn came<const N: usize>(&mut self, expected: [&[&[u8]]; N]) -> Result<()> {
        for (port, expected) in expected.into_iter().enumerate() {
            let all = pcap::read(&self.node.path(&format!("out{port}.pcap")))?;
            let new = &all[self.read[port]..];
            let lengths = |frames: &mut dyn Iterator<Item = usize>| frames.map(|n| n.to_string()).collect::<Vec<_>>();
            ensure!(
                new.iter().map(Vec::as_slice).eq(expected.iter().copied()),
                "out of port {port} came frames of {:?} bytes, not those of {:?} bytes\n{}",
                lengths(&mut new.iter().map(Vec::len)),
                lengths(&mut expected.iter().map(|frame| frame.len())),
                self.daemon.ctl("stats")? + &self.daemon.ctl("drops")?
            );
            self.read[port] = all.len();
        }
        Ok(())
    }

    /// Checks how many frames a port has refused for a reason.
    fn dropped(&self, port: &str, side: &str, reason: &str, count: u64) -> Result<()> {
        let counted = drops(&self.daemon, port, side, reason)?;
        ensure!(counted == count, "{counted} {reason} drops, not {count}: {}", self.daemon.ctl("drops")?);
        Ok(())
    }
}

fn drops(daemon: &Daemon, port: &str, side: &str, reason: &str) -> Result<u64> {
    let drops = daemon.ask("drops")?;
    let drop = drops.as_array().into_iter().flatten();
    let mut drop = drop.filter(|drop| drop["port"] == port && drop["direction"] == side && drop["reason"] == reason);
    Ok(drop.next().and_then(|drop| drop["count"].as_u64()).unwrap_or(0))
}

/// A frame of `length` bytes, each length with content of its own.
fn frame(to: Mac, from: Mac, length: usize) -> Vec<u8> {
    // An EtherType for experiments (IEEE 802).
    let mut bytes = [&to[..], &from[..], &[0x88, 0xb5]].concat();
    let mut content = length;
    bytes.resize_with(length, || {
        content = content.wrapping_mul(31).wrapping_add(7);
        content.to_le_bytes()[0]
    });
    bytes
}
