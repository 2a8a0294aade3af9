//! DPDK's own guest, virtio-user in testpmd: mergeable buffers on and off, one and two queue pairs, buffers used in order or not, split
//! and packed rings. Frames come out as they went in.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::pcap;
use culvert_system::qemu::Role;
use culvert_system::testpmd::{Testpmd, VirtioUser};

#[test]
fn mergeable_one_queue_pair() -> Result<()> {
    exchange(VirtioUser { queues: 1, mergeable: true, in_order: false, packed: false })
}

#[test]
fn mergeable_two_queue_pairs() -> Result<()> {
    exchange(VirtioUser { queues: 2, mergeable: true, in_order: false, packed: false })
}

#[test]
fn plain_one_queue_pair() -> Result<()> {
    exchange(VirtioUser { queues: 1, mergeable: false, in_order: false, packed: false })
}

#[test]
fn plain_two_queue_pairs() -> Result<()> {
    exchange(VirtioUser { queues: 2, mergeable: false, in_order: false, packed: false })
}

#[test]
fn mergeable_in_order() -> Result<()> {
    exchange(VirtioUser { queues: 1, mergeable: true, in_order: true, packed: false })
}

#[test]
fn plain_in_order() -> Result<()> {
    exchange(VirtioUser { queues: 2, mergeable: false, in_order: true, packed: false })
}

#[test]
fn packed_mergeable_one_queue_pair() -> Result<()> {
    exchange(VirtioUser { queues: 1, mergeable: true, in_order: false, packed: true })
}

#[test]
fn packed_plain_two_queue_pairs() -> Result<()> {
    exchange(VirtioUser { queues: 2, mergeable: false, in_order: false, packed: true })
}

#[test]
fn packed_mergeable_in_order() -> Result<()> {
    exchange(VirtioUser { queues: 2, mergeable: true, in_order: true, packed: true })
}

#[test]
fn packed_plain_in_order() -> Result<()> {
    exchange(VirtioUser { queues: 1, mergeable: false, in_order: true, packed: true })
}

/// Mbufs that are used several times at once go by tables of descriptors, which DPDK's driver marks as to be written.
#[test]
fn shared_buffers_pass() -> Result<()> {
    for packed in [0, 1] {
        let mut node = Node::new()?;
        let socket = node.add_guest("vm-a", Role::Listen, "");
        let mut daemon = node.start()?;
        let devices = [format!("net_virtio_user0,path={},mrg_rxbuf=1,packed_vq={packed}", socket.display())];
        let options = ["--forward-mode=flowgen", "--flowgen-clones=16"];
        let mut sender = Testpmd::start("sender", &devices, &options)?;
        daemon.wait_for_state("vm-a", "up")?;
        sender.command("start")?;
        daemon.wait_for_counter("vm-a", "rx_frames", 10_000)?;
        ensure!(daemon.port("vm-a")?["state"] == "up", "{}", daemon.port("vm-a")?);
        sender.command("stop")?;
        daemon.check_counters()?;
        daemon.stop()?;
    }
    Ok(())
}

/// One guest plays a capture into culvertd on each of its queues; the other records what it gets.
fn exchange(device: VirtioUser) -> Result<()> {
    let mut node = Node::new()?;
    // What is for nobody known gets half of a ring only.
    let keys = [("vm-a", ""), ("vm-b", "mac = \"02:00:00:00:00:02\"")];
    let queues = format!("queues = {}", device.queues);
    let sockets = keys.map(|(name, mac)| node.add_guest(name, Role::Listen, &format!("{queues}\n{mac}")));
    let mut daemon = node.start()?;
    let (input, output) = (node.path("in.pcap"), node.path("out.pcap"));
    // Fewer, on all queues together, than a ring holds, so that none may be lost however slow the receiver is.
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(frame).collect();
    pcap::write(&input, frames.iter().map(Vec::as_slice))?;

    let mut receiver = Testpmd::player("receiver", &sockets[1], device, &format!("tx_pcap={}", output.display()))?;
    daemon.wait_for_state("vm-b", "up")?;
    receiver.command("start")?;
    let mut sender = Testpmd::player("sender", &sockets[0], device, &format!("rx_pcap={}", input.display()))?;
    daemon.wait_for_state("vm-a", "up")?;
    for name in ["vm-a", "vm-b"] {
        let port = daemon.port(name)?;
        let has = |feature| port["features"].as_array().is_some_and(|names| names.iter().any(|name| name == feature));
        ensure!((has("in_order"), has("ring_packed")) == (device.in_order, device.packed), "{device:?}, but {port}");
    }
    sender.command("start")?;
    let sent = u64::from(FRAMES) * u64::from(device.queues);
    daemon.wait_for_counter("vm-b", "tx_frames", sent)?;
    receiver.wait_for_counter(1, "TX-packets", sent)?;
    sender.command("stop")?;
    receiver.command("stop")?;

    // Queues are independent of each other, so the order is not told with more than one.
    let mut expected: Vec<Vec<u8>> = (0..device.queues).flat_map(|_| frames.clone()).collect();
    let mut got = pcap::read(&output)?;
    if device.queues > 1 {
        expected.sort();
        got.sort();
    }
    ensure!(got.len() == expected.len(), "{} frames of {} came", got.len(), expected.len());
    ensure!(got == expected, "frames were changed or came in another order");
    daemon.check_counters()?;
    daemon.stop()
}

/// A frame of a length and content of its own.
fn frame(number: u8) -> Vec<u8> {
    let length = 60 + usize::from(number) * 11 % 1455;
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    let mut content = number;
    bytes.resize_with(length, || {
        content = content.wrapping_mul(31).wrapping_add(7);
        content
    });
    bytes
}

/// Frames for each queue.
const FRAMES: u8 = 100;
