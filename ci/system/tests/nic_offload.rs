//! A DPDK port that has offloads, virtio-user as an uplink: what a guest leaves to its device is handed on to that port's.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Kind, OffloadBits, Shape, Side, Stream};
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;
use culvert_system::testpmd::Testpmd;

/// testpmd is the other side of the wire, and tells of each frame what was left to it.
#[test]
fn the_uplink_gets_frames_unsegmented() -> Result<()> {
    let mut node = Node::new()?;
    let (guest, wire) = (node.add_guest("vm-a", Role::Listen, ""), node.path("wire.sock"));
    let vhost = format!("net_vhost0,iface={},tso=1", wire.display());
    // With its checksum offloads on (0xc) net_vhost leaves sums as they come and tells.
    let mut peer = Testpmd::start("peer", &[vhost], &["--forward-mode=rxonly", "--rx-offloads=0xc"])?;
    peer.command("set verbose 1")?;
    peer.command("start")?;
    node.add_nic("uplink", &format!("net_virtio_user0,path={}", wire.display()), "");
    let mut daemon = node.start()?;
    let leaves = OffloadBits { checksum: true, tso4: true, tso6: true, ..OffloadBits::default() };
    let mut guest = FrontendGuest::connect_with(&guest, Shape::default(), leaves.features(Side::Sender), LARGEST)?;
    for (v6, ether_type) in [(false, "0x0800"), (true, "0x86dd")] {
        let mut stream = Stream::new(Kind { tcp: true, v6 }, MACS[0], MACS[1], leaves, leaves).untagged();
        // A frame of many segments, and one of one.
        for (limit, many, flag) in [(30_000, true, "RTE_MBUF_F_RX_LRO"), (500, false, "RTE_MBUF_F_RX_L4_CKSUM_NONE")] {
            let (header, frame, cuts) = loop {
                let next = stream.frame(limit);
                if (next.0[1] != 0) == many {
                    break next;
                }
            };
            ensure!(guest.interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
            guest.kick()?;
            let line = format!("type={ether_type} - length={} ", frame.len());
            let told = wait_for(&peer, &line)?;
            println!("{line}: {told}");
            ensure!(told.contains(flag), "a frame of {} bytes came without {flag}: {told}", frame.len());
        }
    }
    // Nothing is left to do for a frame that came with its sums.
    let none = OffloadBits::default();
    let (header, frame, cuts) = Stream::new(Kind { tcp: true, v6: false }, MACS[0], MACS[1], none, none).frame(600);
    ensure!(guest.interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
    guest.kick()?;
    let told = wait_for(&peer, &format!("length={} ", frame.len()))?;
    ensure!(!told.contains("RTE_MBUF_F_RX_L4_CKSUM_NONE"), "a frame with its sums came without: {told}");
    daemon.wait_for_counter("uplink", "tx_frames", 5)?;
    daemon.check_counters()?;
    daemon.stop()
}

/// Another culvertd is the other side of the wire; its guest gets what the first one's guest has sent, whole.
#[test]
fn frames_stay_whole_across_two_daemons() -> Result<()> {
    let [sends, takes] =
        [Side::Sender, Side::Receiver].map(|side| OffloadBits::all(side).last().copied().context("a set"));
    let (sends, takes) = (sends?, takes?);
    let mut far = Node::new()?;
    let (far_guest, wire) = (far.add_guest("vm-b", Role::Listen, ""), far.add_guest("wire", Role::Listen, ""));
    let far_daemon = far.start()?;
    let mut near = Node::new()?;
    let near_guest = near.add_guest("vm-a", Role::Listen, "");
    near.add_nic("uplink", &format!("net_virtio_user0,path={}", wire.display()), "");
    let near_daemon = near.start()?;

    let features = sends.features(Side::Sender) | takes.features(Side::Receiver);
    let connect = |socket| FrontendGuest::connect_with(socket, Shape::default(), features, LARGEST);
    let mut guests = [connect(&near_guest)?, connect(&far_guest)?];
    for [from, to] in [[0, 1], [1, 0]] {
        for kind in Kind::ALL {
            let mut stream = Stream::new(kind, MACS[from], MACS[to], sends, takes);
            let mut progress = Instant::now();
            while stream.sent() < STREAM_BYTES || !stream.is_complete() {
                if stream.is_complete() {
                    let (header, frame, cuts) = stream.frame(usize::try_from(STREAM_BYTES - stream.sent())?);
                    ensure!(guests[from].interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
                    guests[from].kick()?;
                }
                while let Some((header, frame)) = guests[to].interface.receive() {
                    stream.accept(&header, &frame).map_err(anyhow::Error::msg)?;
                    progress = Instant::now();
                }
                ensure!(
                    progress.elapsed() < LIMIT,
                    "{kind:?} from {from}: no frame came\n{}{}",
                    near_daemon.ctl("drops")?,
                    far_daemon.ctl("drops")?
                );
            }
            println!("{kind:?} from {from}: {:?} frames whole and segments", stream.seen());
            ensure!(!kind.tcp || from == 1 || stream.seen().0 > 0, "no frame stayed whole");
        }
    }
    for daemon in [near_daemon, far_daemon] {
        daemon.check_counters()?;
        daemon.stop()?;
    }
    Ok(())
}

/// Waits until testpmd has told of a frame, and returns the flags that it told.
fn wait_for(peer: &Testpmd, line: &str) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let transcript = peer.transcript();
        let mut rest = transcript.lines().skip_while(|found| !found.contains(line));
        if let Some(flags) = rest.nth(1) {
            return Ok(flags.trim().to_owned());
        }
        ensure!(Instant::now() < deadline, "testpmd got no frame with \"{line}\"; it printed\n{transcript}");
        thread::sleep(Duration::from_millis(20));
    }
}

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

const LARGEST: u32 = 65_535 + 18;

const STREAM_BYTES: u64 = 4 << 20;

const LIMIT: Duration = Duration::from_secs(30);
