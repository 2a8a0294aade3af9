//! culvertd is killed under traffic and comes back: guests of both roles go on without a reboot, and no ring is stuck. How long guests
//! do not hear of each other is printed for each kill, with the median and the worst.
//!
//! `CULVERT_KILLS` says how often it is killed, three times unless it does. Every other time only the daemon is, which its supervisor
//! starts again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::{ANY_FLOOD, Daemon, Node};
use culvert_system::guest::Guest;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::testpmd::Testpmd;

#[test]
fn qemu_guests_in_the_connect_role() -> Result<()> {
    qemu(Role::Connect)
}

#[test]
fn qemu_guests_in_the_listen_role() -> Result<()> {
    qemu(Role::Listen)
}

/// Two guests that ping each other.
fn qemu(role: Role) -> Result<()> {
    let mut node = Node::new()?;
    let options = [("vm-a", 1), ("vm-b", 2)].map(|(name, number)| GuestOptions {
        role,
        ..GuestOptions::new(name, &node.add_guest(name, role, ""), number)
    });
    let mut daemon = node.start()?;
    let [a, b] = options;
    let (mut a, mut b) = (a.boot()?, b.boot()?);
    a.wait_ready()?;
    b.wait_ready()?;
    let boots = [boot_id(&mut a)?, boot_id(&mut b)?];
    let address = b.address().to_owned();
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        // Answers that are under way must not be taken for the next ones: each round has a ping of its own.
        a.send(&format!("ping -i {} -c {PINGS} -W 5 {address}", INTERVAL.as_secs_f64()))?;
        a.console().wait_for("seq=30 ", LIMIT)?;
        kill(&node, &mut daemon, round)?;
        let (printed, _) = a.finish_within(LIMIT)?;
        gaps.push(gap(&printed)?);
    }
    print_gaps(&format!("QEMU, role {}", role.key()), &mut gaps);
    ensure!(a.ping(&address, 3)? == 3 && b.ping(a.address(), 3)? == 3, "a ring is stuck");
    ensure!([boot_id(&mut a)?, boot_id(&mut b)?] == boots, "a guest has rebooted");
    daemon.check_counters()?;
    daemon.stop()
}

/// One guest of DPDK sends, the other one receives; both create their sockets, for virtio-user does not connect again as a client.
#[test]
fn virtio_user() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Connect, ANY_FLOOD));
    let mut daemon = node.start()?;
    let [sender, receiver] = sockets.map(|socket| format!("net_virtio_user0,path={},server=1", socket.display()));
    // Few frames at a time: the test is not of speed.
    let mut receiver = Testpmd::start("receiver", &[receiver], &["--forward-mode=rxonly"])?;
    let mut sender = Testpmd::start("sender", &[sender], &["--forward-mode=txonly", "--burst=1"])?;
    for name in ["vm-a", "vm-b"] {
        daemon.wait_for_state(name, "up")?;
    }
    receiver.command("start")?;
    sender.command("start")?;
    receiver.wait_for_counter(0, "RX-packets", 1000)?;
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        let killed = Instant::now();
        kill(&node, &mut daemon, round)?;
        let before = receiver.counter(0, "RX-packets")?;
        receiver.wait_for_counter(0, "RX-packets", before + 1000)?;
        gaps.push(killed.elapsed());
    }
    print_gaps("virtio-user, until 1,000 more frames have come", &mut gaps);
    sender.command("stop")?;
    daemon.check_counters()?;
    daemon.stop()
}

/// Kills the daemon, or all of culvertd, which is started again at once.
fn kill(node: &Node, daemon: &mut Daemon, round: usize) -> Result<()> {
    if round.is_multiple_of(2) {
        return daemon.crash();
    }
    daemon.console().kill();
    *daemon = node.launch()?;
    Ok(())
}

/// Which start of its kernel a guest is in.
fn boot_id(guest: &mut Guest) -> Result<String> {
    guest.check("cat /proc/sys/kernel/random/boot_id")
}

/// How often culvertd is killed in each test.
fn kills() -> Result<usize> {
    std::env::var("CULVERT_KILLS").map_or(Ok(3), |count| count.parse().context("CULVERT_KILLS"))
}

/// The longest time without an answer: by the requests that were not answered, and the answer that took longest.
fn gap(printed: &str) -> Result<Duration> {
    let number = |line: &str, key: &str| -> Option<f64> { line.split(key).nth(1)?.split(' ').next()?.parse().ok() };
    let answers: Vec<(f64, f64)> =
        printed.lines().filter_map(|line| Some((number(line, "seq=")?, number(line, "time=")?))).collect();
    let (last, _) = *answers.last().context("no answer at all")?;
    ensure!(last >= 200.0, "the last answer is to request {last}:\n{printed}");
    let missing = answers.windows(2).map(|pair| match pair {
        [(before, _), (after, _)] => (after - before) * INTERVAL.as_secs_f64(),
        _ => 0.0,
    });
    let slowest = answers.iter().map(|(_, milliseconds)| milliseconds / 1000.0);
    Ok(Duration::from_secs_f64(missing.chain(slowest).fold(0.0, f64::max)))
}

fn print_gaps(what: &str, gaps: &mut [Duration]) {
    gaps.sort();
    let (median, worst) = (gaps.get(gaps.len() / 2), gaps.last());
    println!(
        "{what}: {} kills, gap {:.0?} (worst {:.0?})",
        gaps.len(),
        median.unwrap_or(&Duration::ZERO),
        worst.unwrap_or(&Duration::ZERO)
    );
}

const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(10);
/// Requests of one ping: enough for the frontend's pause of a second.
const PINGS: u32 = 400;
