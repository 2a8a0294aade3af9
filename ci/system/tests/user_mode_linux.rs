//! User-mode Linux has a vhost-user frontend of its own: against another of its kind, and against a guest in QEMU.

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::uml;

#[test]
fn user_mode_guests_talk() -> Result<()> {
    let mut node = Node::new()?;
    let [a, b, c] = ["vm-a", "vm-b", "vm-c"].map(|name| node.add_guest(name, Role::Listen, ""));
    let daemon = node.start()?;
    let (mut a, mut b) = (uml::boot("vm-a", &a, 1)?, uml::boot("vm-b", &b, 2)?);
    let mut c = GuestOptions::new("vm-c", &c, 3).boot()?;
    for guest in [&mut a, &mut b, &mut c] {
        guest.wait_ready()?;
    }
    for other in [&mut b, &mut c] {
        a.ping(other.address(), 1)?;
        let answered = a.ping(other.address(), 10)?;
        ensure!(answered == 10, "{answered} of 10 pings were answered");
        other.serve_iperf()?;
        for flags in ["", "-R"] {
            let rate = a.iperf(other.address(), flags)?;
            println!("iperf3 {flags} with {}: {rate:.0} Mbit/s", other.address());
            ensure!(rate > 0.0, "iperf3 {flags} carried nothing");
        }
    }
    daemon.check_counters()?;
    daemon.stop()
}
