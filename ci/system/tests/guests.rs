//! Two Linux guests talk through culvertd: both socket roles, both virtio versions, several queues, both kinds of rings.

#![allow(clippy::indexing_slicing, clippy::unreachable, reason = "tests")]

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::qemu::{GuestOptions, Role, Virtio};

#[test]
fn modern_guest_listening_legacy_guest_connecting() -> Result<()> {
    talk([(Role::Listen, Virtio::Modern, 1), (Role::Connect, Virtio::Legacy, 1)])
}

#[test]
fn legacy_guest_listening_modern_guest_connecting() -> Result<()> {
    talk([(Role::Listen, Virtio::Legacy, 1), (Role::Connect, Virtio::Modern, 1)])
}

#[test]
fn two_queue_pairs_against_one() -> Result<()> {
    talk([(Role::Listen, Virtio::Modern, 2), (Role::Listen, Virtio::Modern, 1)])
}

#[test]
fn packed_rings_against_split_ones() -> Result<()> {
    talk_with([(Role::Listen, Virtio::Modern, 2), (Role::Connect, Virtio::Modern, 1)], ["packed=on", ""])
}

#[test]
fn packed_rings_on_both_sides() -> Result<()> {
    talk_with([(Role::Listen, Virtio::Modern, 1), (Role::Connect, Virtio::Modern, 2)], ["packed=on"; 2])
}

fn talk(kinds: [(Role, Virtio, u16); 2]) -> Result<()> {
    talk_with(kinds, [""; 2])
}

/// Lets two such guests ping each other and run iperf3 both ways, and checks the counters.
fn talk_with(kinds: [(Role, Virtio, u16); 2], properties: [&str; 2]) -> Result<()> {
    let mut node = Node::new()?;
    let mut options = Vec::new();
    let names = [("vm-a", 1), ("vm-b", 2)];
    for (((name, number), (role, virtio, queues)), properties) in names.into_iter().zip(kinds).zip(properties) {
        let socket = node.add_guest(name, role, &format!("queues = {queues}"));
        let properties = properties.to_owned();
        options.push(GuestOptions { role, virtio, queues, properties, ..GuestOptions::new(name, &socket, number) });
    }
    let mut daemon = node.start()?;
    let mut guests = options.iter().map(GuestOptions::boot).collect::<Result<Vec<_>>>()?;
    let [a, b] = &mut guests[..] else { unreachable!("two guests") };
    a.wait_ready()?;
    b.wait_ready()?;
    for port in ["vm-a", "vm-b"] {
        daemon.wait_for_state(port, "up")?;
    }
    for ((name, (_, virtio, queues)), properties) in
        [("vm-a", kinds[0]), ("vm-b", kinds[1])].into_iter().zip(properties)
    {
        let port = daemon.port(name)?;
        let modern = port["features"].as_array().is_some_and(|names| names.iter().any(|name| name == "version_1"));
        ensure!(modern == (virtio == Virtio::Modern), "{virtio:?}, but {port}");
        let packed = port["features"].as_array().is_some_and(|names| names.iter().any(|name| name == "ring_packed"));
        ensure!(packed == properties.contains("packed=on"), "{properties:?}, but {port}");
        ensure!(port["rings"].as_u64() >= Some(2 * u64::from(queues)), "{queues} queue pairs, but {port}");
    }

    // The first may be lost while addresses are resolved.
    a.ping(b.address(), 1)?;
    for (from, to) in [(0, 1), (1, 0)] {
        let address = guests[to].address().to_owned();
        let answered = guests[from].ping(&address, 10)?;
        ensure!(answered == 10, "{answered} of 10 pings were answered");
    }
    guests[1].serve_iperf()?;
    let address = guests[1].address().to_owned();
    for flags in ["", "-R"] {
        let rate = guests[0].iperf(&address, flags)?;
        println!("{kinds:?} iperf3 {flags}: {rate:.0} Mbit/s");
        ensure!(rate > 0.0, "iperf3 {flags} carried nothing");
    }
    daemon.check_counters()?;
    daemon.stop()
}
