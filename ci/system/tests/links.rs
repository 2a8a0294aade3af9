//! Guests that follow a link: when the cable of the node's uplink is pulled, they see no carrier; when it is back, they go on.

use anyhow::Result;
use culvert_system::daemon::Node;
use culvert_system::guest::Guest;
use culvert_system::place::Namespace;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::veth::Veth;

#[test]
fn guests_see_the_link_of_the_uplink() -> Result<()> {
    let [here, far] = [Namespace::new("here")?, Namespace::new("far")?];
    Veth::between([("wire", &here), ("wire", &far)], 1500)?;
    let mut node = Node::new()?;
    node.set_namespace(&here);
    node.add_nic("uplink0", "net_af_packet0,iface=wire", "");
    // One guest for each role, and one that follows no link.
    let guest = |node: &mut Node, name: &str, number, role, keys: &str| GuestOptions {
        role,
        ..GuestOptions::new(name, &node.add_guest(name, role, keys), number)
    };
    let follow = "follow_link = \"uplink0\"";
    let listening = guest(&mut node, "vm-a", 1, Role::Listen, follow);
    let connecting = guest(&mut node, "vm-b", 2, Role::Connect, follow);
    let other = guest(&mut node, "vm-c", 3, Role::Listen, "");
    let mut daemon = node.start()?;
    let [mut a, mut b, mut c] = [listening.boot()?, connecting.boot()?, other.boot()?];
    for guest in [&mut a, &mut b, &mut c] {
        guest.wait_ready()?;
    }
    let (to_b, to_c) = (b.address().to_owned(), c.address().to_owned());
    for round in 1..=3 {
        for guest in [&mut a, &mut b, &mut c] {
            wait_for_carrier(guest, 1)?;
        }
        for name in ["uplink0", "vm-a", "vm-b", "vm-c"] {
            daemon.wait_for_state(name, "up")?;
        }
        a.check(&format!("until ping -c 1 -W 1 {to_b} && ping -c 1 -W 1 {to_c}; do :; done"))?;

        far.ip("link set wire down")?;
        for guest in [&mut a, &mut b] {
            wait_for_carrier(guest, 0)?;
        }
        for name in ["uplink0", "vm-a", "vm-b"] {
            daemon.wait_for_state(name, "down")?;
        }
        daemon.wait_for_state("vm-c", "up")?;
        wait_for_carrier(&mut c, 1)?;
        far.ip("link set wire up")?;
        println!("round {round}: the link went down and came back, for two guests of three");
    }
    for guest in [&mut a, &mut b] {
        wait_for_carrier(guest, 1)?;
    }
    daemon.stop()
}

/// Waits until the guest's interface has a carrier, 1, or none, 0.
fn wait_for_carrier(guest: &mut Guest, carrier: u8) -> Result<()> {
    guest.check(&format!("until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do sleep 0.1; done"))?;
    Ok(())
}
