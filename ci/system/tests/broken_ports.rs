//! One port cannot work: an error for that port, and the others never notice.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use culvert_driver::{Descriptor, Shape};
use culvert_system::daemon::Node;
use culvert_system::frame::{End, echo_request};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;

#[test]
fn ports_that_cannot_be_opened() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let file = node.add_guest("a-file", Role::Listen, "");
    fs::write(&file, "precious")?;
    let live = node.add_guest("in-use", Role::Listen, "");
    let other = UnixListener::bind(&live)?;
    node.add_nic("no-file", "net_pcap0,rx_pcap=/nowhere/in.pcap,tx_pcap=/nowhere/out.pcap", "");
    node.add_nic("no-card", "0000:ff:1f.7", "");

    let daemon = node.start()?;
    for (port, part) in
        [("a-file", "a-file.sock"), ("in-use", "in-use.sock"), ("no-file", "net_pcap0"), ("no-card", "0000:ff:1f.7")]
    {
        let shown = daemon.port(port)?;
        println!("{port}: {}", shown["reason"]);
        ensure!(shown["state"] == "failed", "{shown}");
        ensure!(shown["reason"].as_str().is_some_and(|reason| reason.contains(part)), "{shown}");
    }
    ensure!(fs::read_to_string(&file)? == "precious", "culvertd has changed a file that is not its own");
    drop(other);
    let mut guests = connect(&sockets)?;
    converse(&mut guests)?;
    daemon.check_counters()?;
    daemon.stop()
}

#[test]
fn a_guest_with_a_broken_ring() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let broken = node.add_guest("vm-x", Role::Listen, "");
    let mut daemon = node.start()?;
    let mut guests = connect(&sockets)?;
    converse(&mut guests)?;
    for (name, harm) in HARMS {
        let mut victim = FrontendGuest::connect(&broken, Shape::default())?;
        daemon.wait_for_state("vm-x", "up")?;
        harm(&mut victim);
        victim.kick()?;
        daemon.wait_for_state("vm-x", "quarantined")?;
        let shown = daemon.port("vm-x")?;
        println!("{name}: {}", shown["reason"]);
        ensure!(shown["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{shown}");
        victim.wait_closed()?;
        converse(&mut guests)?;
    }
    // The next connection starts anew.
    let mut healed = FrontendGuest::connect(&broken, Shape::default())?;
    daemon.wait_for_state("vm-x", "up")?;
    let frame = echo_request(End::new(3), End::new(1), b"I am well again")?;
    healed.send(&frame)?;
    ensure!(guests[0].receive()? == frame, "the guest that was broken does not come through");
    daemon.check_counters()?;
    daemon.stop()
}

type Harm = fn(&mut FrontendGuest);

/// Ways to break a transmit ring.
const HARMS: [(&str, Harm); 4] = [
    ("a head beyond the ring", |guest| {
        guest.interface.transmit.offer_head(9999);
        guest.interface.transmit.publish();
    }),
    ("an index that jumps", |guest| {
        let index = guest.interface.transmit.available_index();
        guest.interface.transmit.set_available_index(index.wrapping_add(5000));
    }),
    ("a chain that loops", |guest| {
        let at = guest.interface.ram().guest_address();
        guest.interface.transmit.set_descriptor(0, Descriptor { address: at, length: 64, flags: 1, next: 0 });
        guest.interface.transmit.offer_head(0);
        guest.interface.transmit.publish();
    }),
    ("memory that is not the guest's", |guest| {
        let descriptor = Descriptor { address: 0xdead_beef_0000, length: 64, flags: 0, next: 0 };
        guest.interface.transmit.set_descriptor(0, descriptor);
        guest.interface.transmit.offer_head(0);
        guest.interface.transmit.publish();
    }),
];

fn connect(sockets: &[std::path::PathBuf; 2]) -> Result<Vec<FrontendGuest>> {
    sockets.iter().map(|socket| FrontendGuest::connect(socket, Shape::default())).collect()
}

/// Each guest sends the other frames, all of which must come.
fn converse(guests: &mut [FrontendGuest]) -> Result<()> {
    for round in 0..100_u32 {
        for (from, to, numbers) in [(0, 1, [1, 2]), (1, 0, [2, 1])] {
            let [source, destination] = numbers.map(End::new);
            let frame = echo_request(source, destination, &round.to_le_bytes())?;
            ensure!(guests[from].send(&frame)?, "a transmit ring is full");
            let got = guests[to].receive().with_context(|| format!("frame {round}"))?;
            ensure!(got == frame, "frame {round} was changed");
        }
    }
    Ok(())
}
