//! An idle daemon with guests attached leaves the processor alone.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::qemu::{GuestOptions, Role};

#[test]
fn idle_guests_cost_next_to_nothing() -> Result<()> {
    let mut node = Node::new()?;
    let options = [("vm-a", 1), ("vm-b", 2)]
        .map(|(name, number)| GuestOptions::new(name, &node.add_guest(name, Role::Listen, ""), number));
    let daemon = node.start()?;
    let mut guests = options.iter().map(GuestOptions::boot).collect::<Result<Vec<_>>>()?;
    for guest in &mut guests {
        guest.wait_ready()?;
    }
    let address = guests[1].address().to_owned();
    ensure!(guests[0].ping(&address, 3)? > 0, "the guests do not talk");

    // Processor time, not elapsed time: how busy the machine is does not matter.
    let before = daemon.cpu_time()?;
    thread::sleep(WATCHED);
    let used = daemon.cpu_time()? - before;
    let percent = 100.0 * used.as_secs_f64() / WATCHED.as_secs_f64();
    println!("idle with two guests: {percent:.2} % of a core");
    ensure!(percent < 5.0, "culvertd polls although nothing comes: {percent:.2} % of a core");
    daemon.stop()
}

const WATCHED: Duration = Duration::from_secs(10);
