//! culvertd dies under traffic and comes back: guests of both roles go on without a reboot. How long it takes is printed.

use std::time::Instant;

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::qemu::{GuestOptions, Role};

#[test]
fn traffic_goes_on_after_kill_9() -> Result<()> {
    let mut node = Node::new()?;
    let a = GuestOptions::new("vm-a", &node.add_guest("vm-a", Role::Listen, ""), 1);
    let b = GuestOptions {
        role: Role::Connect,
        ..GuestOptions::new("vm-b", &node.add_guest("vm-b", Role::Connect, ""), 2)
    };
    let mut daemon = node.start()?;
    let (mut a, mut b) = (a.boot()?, b.boot()?);
    a.wait_ready()?;
    b.wait_ready()?;
    // Twenty a second, each answer printed when it comes. Both guests' both directions take part.
    a.send(&format!("ping -i 0.05 {}", b.address()))?;
    a.console().wait_for("seq=20 ", LIMIT)?;
    for round in 1..=3 {
        daemon.kill();
        let killed = Instant::now();
        a.console().skip();
        daemon = node.start()?;
        let answers = killed.elapsed();
        a.console().wait_for("bytes from", LIMIT)?;
        println!("round {round}: culvertd answers {answers:.2?}, guests talk {:.2?} after the kill", killed.elapsed());
        // Steady again, not a single stray answer.
        for _ in 0..20 {
            a.console().wait_for("bytes from", LIMIT)?;
        }
    }
    // The same ping runs since before the first kill: no guest has rebooted.
    ensure!(!a.console().transcript().contains("@@END 1"), "ping has ended");
    daemon.check_counters()?;
    daemon.stop()
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
