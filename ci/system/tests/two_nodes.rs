//! Two nodes, each a culvertd in a network namespace of its own, joined by nothing but a wire: a VLAN trunk over af_packet on a veth pair.
//! Guests leave segmentation to their device; the wire has none, so culvertd does it.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Kind, OffloadBits, Shape, Side, Stream};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::place::Namespace;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::veth::Veth;

#[test]
fn vlans_cross_the_wire_and_do_not_mix() -> Result<()> {
    let mut nodes = Nodes::start(1500, "net_af_packet0,iface=wire")?;
    exchange(&mut nodes, 1500)?;
    nodes.stop()
}

#[test]
fn jumbo_frames_cross_the_wire() -> Result<()> {
    // A slot has room for a frame and the kernel's header; whole slots fill a block of whole pages, as the driver expects.
    let mut nodes = Nodes::start(9000, "net_af_packet0,iface=wire,blocksz=36864,framesz=9216,framecnt=256")?;
    exchange(&mut nodes, 9000)?;
    nodes.stop()
}

#[test]
fn linux_guests_on_two_nodes() -> Result<()> {
    let nodes = Nodes::start(1500, "net_af_packet0,iface=wire")?;
    let options = [0, 1].map(|node| GuestOptions::new("vm", &nodes.socket(node, "red"), NUMBERS[node]));
    let [mut a, mut b] = [options[0].boot()?, options[1].boot()?];
    a.wait_ready()?;
    b.wait_ready()?;
    let (v4, v6) = (b.address().to_owned(), b.add_ipv6()?);
    a.add_ipv6()?;
    for address in [v4, v6] {
        let took = a.send_tcp(&mut b, &address, TCP_BYTES).with_context(|| nodes.shown())?;
        println!("TCP to {address}: {:.0} Mbit/s, all bytes right", 8.0 * TCP_BYTES as f64 / took.as_secs_f64() / 1e6);
        let took = a.send_udp(&mut b, &address, UDP_BYTES, 1400).with_context(|| nodes.shown())?;
        println!("UDP to {address}: {:.0} Mbit/s, all bytes right", 8.0 * UDP_BYTES as f64 / took.as_secs_f64() / 1e6);
    }
    // What the guest sent was longer than what the wire lets pass.
    let stats = nodes.daemons[0].stats("red")?;
    let mean = stats["rx_bytes"].as_u64().unwrap_or(0) / stats["rx_frames"].as_u64().unwrap_or(1);
    println!("the guest's frames had {mean} bytes on average");
    ensure!(mean > 2000, "the guest has not left segmentation to its device: {stats}");
    nodes.stop()
}

/// Streams of all kinds, on both VLANs at the same time, between guests with the same addresses.
fn exchange(nodes: &mut Nodes, mtu: usize) -> Result<()> {
    let [sends, takes] =
        [Side::Sender, Side::Receiver].map(|side| OffloadBits::all(side).last().copied().context("a set"));
    let (sends, takes) = (sends?, takes?);
    let features = sends.features(Side::Sender) | takes.features(Side::Receiver);
    // For each VLAN the guest on the one node and that on the other.
    let mut vlans = Vec::new();
    for vlan in VLANS {
        let guest = |node: usize| {
            FrontendGuest::connect_with(&nodes.socket(node, vlan), Shape::default(), features, LARGEST_FRAME)
        };
        vlans.push([guest(0)?, guest(1)?]);
    }
    for [from, to] in [[0, 1], [1, 0]] {
        for kind in Kind::ALL {
            let stream = || Stream::new(kind, MACS[from], MACS[to], sends, takes).untagged().with_mtu(mtu);
            let mut streams = [stream(), stream()];
            let mut progress = Instant::now();
            while streams.iter().any(|stream| stream.sent() < STREAM_BYTES || !stream.is_complete()) {
                for (guests, stream) in vlans.iter_mut().zip(&mut streams) {
                    if turn(guests, [from, to], stream)? {
                        progress = Instant::now();
                    }
                }
                ensure!(progress.elapsed() < STALL, "{kind:?}: no frame came for {STALL:?}\n{}", nodes.shown());
            }
            ensure!(streams.iter().all(|stream| stream.seen().1 > 0), "no frame was segmented");
        }
    }
    // What goes to everybody stays on its VLAN: the second guest's next frame is its own VLAN's.
    for vlan in [0, 1] {
        let mut hello = [&[0xff; 6][..], &MACS[0], &[0x88, 0xb5], &[0; 46]].concat();
        hello[20] = vlan;
        ensure!(vlans[usize::from(vlan)][0].send(&hello)?, "a ring is full");
        ensure!(vlans[usize::from(vlan)][1].receive()? == hello, "a broadcast was changed");
    }
    for guests in &mut vlans {
        ensure!(guests.iter_mut().all(|guest| guest.interface.receive().is_none()), "a frame came on the wrong VLAN");
    }
    Ok(())
}

/// Sends the next frame of a stream when the one before has arrived, and checks what has come; whether something has.
fn turn(guests: &mut [FrontendGuest; 2], [from, to]: [usize; 2], stream: &mut Stream) -> Result<bool> {
    if stream.is_complete() && stream.sent() < STREAM_BYTES {
        let (header, frame, cuts) = stream.frame(usize::try_from(STREAM_BYTES - stream.sent())?);
        ensure!(guests[from].interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
        guests[from].kick()?;
    }
    let mut came = false;
    while let Some((header, frame)) = guests[to].interface.receive() {
        stream.accept(&header, &frame).map_err(anyhow::Error::msg)?;
        came = true;
    }
    Ok(came)
}

/// Two nodes with a guest's port on each VLAN, named after it, and a trunk between.
struct Nodes {
    nodes: Vec<Node>,
    daemons: Vec<Daemon>,
    _namespaces: [Namespace; 2],
}

impl Nodes {
    fn start(mtu: usize, uplink: &str) -> Result<Self> {
        let namespaces = [Namespace::new("a")?, Namespace::new("b")?];
        Veth::between([("wire", &namespaces[0]), ("wire", &namespaces[1])], mtu)?;
        let mut nodes = Vec::new();
        for (core, namespace) in namespaces.iter().enumerate() {
            let mut node = Node::new()?;
            node.set_worker_core(core);
            node.set_namespace(namespace);
            for (name, vlan) in VLANS.into_iter().zip([10, 20]) {
                node.add_guest(name, Role::Listen, &format!("vlan = {vlan}\nmtu = {mtu}"));
            }
            node.add_nic("uplink", uplink, &format!("trunk = [10, 20]\nmtu = {mtu}"));
            nodes.push(node);
        }
        let daemons = nodes.iter().map(Node::start).collect::<Result<Vec<_>>>()?;
        Ok(Self { nodes, daemons, _namespaces: namespaces })
    }

    fn socket(&self, node: usize, guest: &str) -> PathBuf {
        self.nodes[node].path(&format!("{guest}.sock"))
    }

    fn shown(&self) -> String {
        let shown = |daemon: &Daemon| {
            ["port list", "stats", "drops"]
                .map(|what| daemon.ctl(what).unwrap_or_else(|error| error.to_string()))
                .join("\n")
        };
        self.daemons.iter().map(shown).collect::<Vec<_>>().join("\n")
    }

    fn stop(self) -> Result<()> {
        for daemon in self.daemons {
            daemon.check_counters()?;
            daemon.stop()?;
        }
        Ok(())
    }
}

/// Names of the guests' ports, which are on the VLANs 10 and 20.
const VLANS: [&str; 2] = ["red", "green"];

/// Addresses of the guests on the two nodes, the same on both VLANs.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const NUMBERS: [u8; 2] = [1, 2];

const LARGEST_FRAME: u32 = 65_535 + 18;

/// What a stream, and what Linux guests transfer, in bytes.
const STREAM_BYTES: u64 = 4 << 20;
const TCP_BYTES: u64 = 20_000_000;
const UDP_BYTES: u64 = 2_000_000;

const STALL: Duration = Duration::from_secs(30);
