//! culvertd is killed under traffic and comes back: guests of both roles go on without a reboot, and no ring is stuck. How long guests
//! do not hear of each other is printed for each kill, with the median and the worst.
//!
//! `CULVERT_KILLS` says how often it is killed, twice unless it does. Every other time only the daemon is, which its supervisor
//! starts again; then guests notice nothing.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::gaps::{boot_id, fix_neighbours, ping_over, print};
use culvert_system::guest::Guest;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::testpmd::Testpmd;
use culvert_system::uml;

#[test]
fn qemu_guests_in_the_connect_role() -> Result<()> {
    qemu(Role::Connect, "")
}

#[test]
fn qemu_guests_in_the_listen_role() -> Result<()> {
    qemu(Role::Listen, "")
}

/// A packed ring does not tell how far its device is: that is noted for the next daemon.
#[test]
fn qemu_guests_with_packed_rings_in_the_connect_role() -> Result<()> {
    qemu(Role::Connect, "packed=on")
}

#[test]
fn qemu_guests_with_packed_rings_in_the_listen_role() -> Result<()> {
    qemu(Role::Listen, "packed=on")
}

#[test]
fn a_crash_of_the_daemon_is_nothing_to_qemu_guests_with_packed_rings() -> Result<()> {
    qemu_with_crashes(Role::Listen, "packed=on")
}

#[test]
fn a_crash_of_the_daemon_is_nothing_to_qemu_guests_in_the_connect_role() -> Result<()> {
    qemu_with_crashes(Role::Connect, "")
}

#[test]
fn a_crash_of_the_daemon_is_nothing_to_qemu_guests_in_the_listen_role() -> Result<()> {
    qemu_with_crashes(Role::Listen, "")
}

/// The same with DPDK's switch, to compare with.
#[test]
fn qemu_guests_on_testpmd() -> Result<()> {
    let node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.path(&format!("{name}.sock")));
    let devices = [0, 1].map(|at| format!("net_vhost{at},iface={},client=1", sockets[at].display()));
    let options = [("vm-a", 1), ("vm-b", 2)];
    let options = options.map(|(name, number)| GuestOptions {
        role: Role::Connect,
        ..GuestOptions::new(name, &sockets[usize::from(number) - 1], number)
    });
    let start = || -> Result<Testpmd> {
        let mut switch = Testpmd::start("switch", &devices, &["--forward-mode=io"])?;
        switch.command("start")?;
        Ok(switch)
    };
    let [a, b] = options;
    let (mut a, mut b) = (a.boot()?, b.boot()?);
    let mut switch = Some(start()?);
    a.wait_ready()?;
    b.wait_ready()?;
    fix_neighbours(&mut a, &mut b)?;
    let mut gaps = Vec::new();
    for _ in 0..kills()? {
        let killed = ping_over(&mut a, b.address(), || {
            drop(switch.take());
            switch = Some(start()?);
            Ok(())
        });
        gaps.push(killed?);
    }
    print("kills", "QEMU, role connect, on testpmd's net_vhost", &mut gaps);
    Ok(())
}

/// Two guests that ping each other.
fn qemu(role: Role, properties: &str) -> Result<()> {
    let mut node = Node::new()?;
    let [a, b] = node.add_pair(role, properties);
    let mut daemon = node.start()?;
    let (mut a, mut b) = (a.boot()?, b.boot()?);
    a.wait_ready()?;
    b.wait_ready()?;
    fix_neighbours(&mut a, &mut b)?;
    let boots = [boot_id(&mut a)?, boot_id(&mut b)?];
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        let gap = ping_over(&mut a, b.address(), || kill(&node, &mut daemon, round));
        gaps.push(gap.with_context(|| daemon.console().last_words())?);
    }
    print("kills", &format!("QEMU, role {} {properties}", role.key()), &mut gaps);
    let address = b.address().to_owned();
    ensure!(a.ping(&address, 3)? == 3 && b.ping(a.address(), 3)? == 3, "a ring is stuck");
    ensure!([boot_id(&mut a)?, boot_id(&mut b)?] == boots, "a guest has rebooted");
    daemon.check_counters()?;
    daemon.stop()
}

/// The daemon alone is killed: the guests' connections outlive it, no guest sees its link go down, and they need no help to find each
/// other again.
fn qemu_with_crashes(role: Role, properties: &str) -> Result<()> {
    let mut node = Node::new()?;
    let [a, b] = node.add_pair(role, properties);
    let daemon = node.start()?;
    crashes(&format!("QEMU, role {} {properties}", role.key()), daemon, [a.boot()?, b.boot()?])
}

/// Its frontend cannot connect again: a crash is all that it can survive.
#[test]
fn a_crash_of_the_daemon_is_nothing_to_user_mode_linux() -> Result<()> {
    let mut node = Node::new()?;
    let [a, b] = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let daemon = node.start()?;
    crashes("user-mode Linux", daemon, [uml::boot("vm-a", &a, 1)?, uml::boot("vm-b", &b, 2)?])
}

fn crashes(what: &str, mut daemon: Daemon, [mut a, mut b]: [Guest; 2]) -> Result<()> {
    a.wait_ready()?;
    b.wait_ready()?;
    let carrier = |guest: &mut Guest| guest.check("cat /sys/class/net/eth0/carrier_changes");
    let carriers = [carrier(&mut a)?, carrier(&mut b)?];
    let boots = [boot_id(&mut a)?, boot_id(&mut b)?];
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        if round > 0 {
            std::thread::sleep(APART);
        }
        let before = daemon.pid();
        let gap = ping_over(&mut a, b.address(), || daemon.crash());
        gaps.push(gap.with_context(|| daemon.console().last_words())?);
        daemon.wait_for_next(before)?;
    }
    print("kills", &format!("{what}, its daemon crashed"), &mut gaps);
    let address = b.address().to_owned();
    ensure!(a.ping(&address, 3)? == 3 && b.ping(a.address(), 3)? == 3, "a ring is stuck");
    ensure!([carrier(&mut a)?, carrier(&mut b)?] == carriers, "a guest has seen its link go down");
    ensure!([boot_id(&mut a)?, boot_id(&mut b)?] == boots, "a guest has rebooted");
    daemon.check_counters()?;
    daemon.stop()
}

#[test]
fn virtio_user() -> Result<()> {
    virtio_user_server("packed_vq=0")
}

#[test]
fn virtio_user_with_packed_rings() -> Result<()> {
    virtio_user_server("packed_vq=1")
}

/// One guest of DPDK sends, the other one receives; both create their sockets, for virtio-user does not connect again as a client.
fn virtio_user_server(properties: &str) -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Connect, ""));
    let mut daemon = node.start()?;
    let devices = sockets.map(|socket| format!("net_virtio_user0,path={},server=1,{properties}", socket.display()));
    let (sender, mut receiver) = sender_and_receiver(&mut daemon, devices)?;
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        let killed = Instant::now();
        kill(&node, &mut daemon, round)?;
        gaps.push(more_frames(&mut receiver, killed)?);
    }
    end("virtio-user", properties, gaps, sender, daemon)
}

/// As clients they live through crashes of the daemon alone.
#[test]
fn a_crash_of_the_daemon_is_nothing_to_virtio_user_with_packed_rings() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let devices = sockets.map(|socket| format!("net_virtio_user0,path={},packed_vq=1", socket.display()));
    let (sender, mut receiver) = sender_and_receiver(&mut daemon, devices)?;
    let mut gaps = Vec::new();
    for round in 0..kills()? {
        if round > 0 {
            std::thread::sleep(APART);
        }
        let (before, killed) = (daemon.pid(), Instant::now());
        daemon.crash()?;
        gaps.push(more_frames(&mut receiver, killed)?);
        daemon.wait_for_next(before)?;
    }
    end("virtio-user, its daemon crashed", "packed_vq=1", gaps, sender, daemon)
}

/// Starts both, and returns when frames pass. Few frames at a time: the tests are not of speed.
fn sender_and_receiver(daemon: &mut Daemon, [sender, receiver]: [String; 2]) -> Result<(Testpmd, Testpmd)> {
    let mut receiver = Testpmd::start("receiver", &[receiver], &["--forward-mode=rxonly"])?;
    let mut sender = Testpmd::start("sender", &[sender], &["--forward-mode=txonly", "--burst=1"])?;
    for name in ["vm-a", "vm-b"] {
        daemon.wait_for_state(name, "up")?;
    }
    receiver.command("start")?;
    sender.command("start")?;
    receiver.wait_for_counter(0, "RX-packets", 1000)?;
    Ok((sender, receiver))
}

/// How long it takes until 1,000 more frames have come.
fn more_frames(receiver: &mut Testpmd, since: Instant) -> Result<Duration> {
    let before = receiver.counter(0, "RX-packets")?;
    receiver.wait_for_counter(0, "RX-packets", before + 1000)?;
    Ok(since.elapsed())
}

fn end(what: &str, properties: &str, mut gaps: Vec<Duration>, mut sender: Testpmd, daemon: Daemon) -> Result<()> {
    print("kills", &format!("{what} {properties}, until 1,000 more frames have come"), &mut gaps);
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

/// How often culvertd is killed in each test.
fn kills() -> Result<usize> {
    std::env::var("CULVERT_KILLS").map_or(Ok(2), |count| count.parse().context("CULVERT_KILLS"))
}

/// When a daemon dies sooner after the one before, guests have to connect again.
const APART: Duration = Duration::from_secs(11);
