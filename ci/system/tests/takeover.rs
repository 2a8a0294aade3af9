//! Another build of culvertd takes over from the one that runs: guests of both roles go on, and do not see their link go. How long they do
//! not hear of each other is printed. Then takeovers that come to nothing: refused, too slow, and killed at every step.
//!
//! `CULVERT_TAKEOVERS` says how often it is done in each test, twice unless it does.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::Shape;
use culvert_system::beat::Beat;
use culvert_system::daemon::{BUILDS, Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::gaps::{boot_id, fix_neighbours, ping_over, print};
use culvert_system::guest::Guest;
use culvert_system::qemu::Role;
use culvert_system::testpmd::Testpmd;
use culvert_system::uml;
use culvert_system::wait::wait_until;

#[test]
fn qemu_guests_in_the_connect_role() -> Result<()> {
    qemu(Role::Connect, "")
}

#[test]
fn qemu_guests_in_the_listen_role() -> Result<()> {
    qemu(Role::Listen, "")
}

#[test]
fn qemu_guests_with_packed_rings() -> Result<()> {
    qemu(Role::Listen, "packed=on")
}

/// Its frontend cannot connect again.
#[test]
fn user_mode_linux() -> Result<()> {
    let mut node = Node::new()?;
    let [a, b] = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let daemon = node.start()?;
    let guests = [uml::boot("vm-a", &a, 1)?, uml::boot("vm-b", &b, 2)?];
    takeovers("user-mode Linux", &node, daemon, guests)
}

fn qemu(role: Role, properties: &str) -> Result<()> {
    let mut node = Node::new()?;
    let [a, b] = node.add_pair(role, properties);
    // Devices are closed and opened again.
    node.add_nic("uplink", "net_null0,no-rx=1", "");
    let daemon = node.start()?;
    takeovers(&format!("QEMU, role {} {properties}", role.key()), &node, daemon, [a.boot()?, b.boot()?])
}

fn takeovers(what: &str, node: &Node, mut daemon: Daemon, [mut a, mut b]: [Guest; 2]) -> Result<()> {
    a.wait_ready()?;
    b.wait_ready()?;
    fix_neighbours(&mut a, &mut b)?;
    let carrier = |guest: &mut Guest| guest.check("cat /sys/class/net/eth0/carrier_changes");
    let carriers = [carrier(&mut a)?, carrier(&mut b)?];
    let boots = [boot_id(&mut a)?, boot_id(&mut b)?];
    // A connection that is never idle, from before the first takeover until after the last.
    b.check("(guest-traffic receive 7001 5 > /tmp/received 2>&1; echo $? > /tmp/status) & until grep -q READY /tmp/received; do sleep 0.1; done")?;
    a.check("(guest-traffic send 10.0.0.2 7001 0 20 > /tmp/sent 2>&1; echo $? > /tmp/status) & true")?;
    let mut gaps = Vec::new();
    for round in 0..count()? {
        let before = counted(&daemon)?;
        let build = BUILDS[(round + 1) % 2];
        let gap = ping_over(&mut a, b.address(), || {
            daemon = node.take_over(&mut daemon, build)?;
            Ok(())
        });
        gaps.push(gap.with_context(|| daemon.console().last_words())?);
        ensure!(daemon.build()? == build, "{build} does not serve");
        let after = counted(&daemon)?;
        ensure!(after > before && before > 0, "frames counted: {before}, after the takeover {after}");
        daemon.check_counters()?;
    }
    print("takeovers", what, &mut gaps);
    let sent = a.check(
        "killall -TERM guest-traffic; while [ ! -e /tmp/status ]; do sleep 0.1; done; cat /tmp/status /tmp/sent",
    )?;
    let received = b.check("while [ ! -e /tmp/status ]; do sleep 0.1; done; cat /tmp/status /tmp/received")?;
    let bytes = |printed: &str| printed.split_whitespace().last().map(str::to_owned);
    ensure!(sent.starts_with('0') && received.starts_with('0'), "the connection broke: {sent} {received}");
    ensure!(bytes(&sent) == bytes(&received), "sent {sent}, received {received}");
    let address = b.address().to_owned();
    ensure!(a.ping(&address, 3)? == 3 && b.ping(a.address(), 3)? == 3, "a ring is stuck");
    ensure!([carrier(&mut a)?, carrier(&mut b)?] == carriers, "a guest has seen its link go down");
    ensure!([boot_id(&mut a)?, boot_id(&mut b)?] == boots, "a guest has rebooted");
    daemon.check_counters()?;
    daemon.stop()
}

/// How long no frame passes, as guests see it that need no core of their own; and none is lost.
#[test]
fn no_frame_is_lost() -> Result<()> {
    for (what, device) in [("frontends", None), ("frontends, with a device", Some("net_null0,no-rx=1"))] {
        let mut node = Node::new()?;
        let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
        if let Some(device) = device {
            node.add_nic("uplink", device, "");
        }
        let mut daemon = node.start()?;
        let beat = Beat::start(sockets.each_ref().map(PathBuf::as_path))?;
        let mut gaps = Vec::new();
        for round in 0..count()? {
            std::thread::sleep(BETWEEN);
            beat.seen()?;
            daemon = node.take_over(&mut daemon, BUILDS[(round + 1) % 2])?;
            std::thread::sleep(BETWEEN);
            let seen = beat.seen()?;
            ensure!(seen.lost == 0 && seen.frames > 0, "takeover {round}: {seen:?}");
            gaps.push(seen.gap);
        }
        print("takeovers", what, &mut gaps);
        daemon.check_counters()?;
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn virtio_user_with_packed_rings() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let [sender, receiver] = sockets.map(|socket| format!("net_virtio_user0,path={},packed_vq=1", socket.display()));
    let mut receiver = Testpmd::start("receiver", &[receiver], &["--forward-mode=rxonly"])?;
    let mut sender = Testpmd::start("sender", &[sender], &["--forward-mode=txonly", "--burst=1"])?;
    for name in ["vm-a", "vm-b"] {
        daemon.wait_for_state(name, "up")?;
    }
    receiver.command("start")?;
    sender.command("start")?;
    receiver.wait_for_counter(0, "RX-packets", 1000)?;
    for round in 0..count()? {
        let before = counted(&daemon)?;
        daemon = node.take_over(&mut daemon, BUILDS[(round + 1) % 2])?;
        let received = receiver.counter(0, "RX-packets")?;
        receiver.wait_for_counter(0, "RX-packets", received + 1000)?;
        ensure!(counted(&daemon)? > before, "counters have begun anew");
    }
    sender.command("stop")?;
    daemon.check_counters()?;
    daemon.stop()
}

/// Who cannot take over ends with a sentence, and nobody notices: without the hugepages that it wants, and when the one that runs offers
/// no takeover. Where none runs it starts as usual.
#[test]
fn what_cannot_be_taken_over_goes_on() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut old = node.launch_takeover(BUILDS[0])?;
    old.wait_for_next(0)?;
    let mut guests = connect(&sockets)?;
    talk(&mut guests)?;

    let good = node.config().clone();
    // More than there are.
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let free = memory.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u64>().ok());
    let wanted = free.context("HugePages_Free")? * 2 + 64;
    node.set_hugepages(wanted);
    let refused = ended(&mut node.launch_takeover(BUILDS[1])?, 64)?;
    ensure!(refused.contains(&format!("no hugepages for the {wanted} MiB")), "it says: {refused}");
    *node.config() = good;
    talk(&mut guests)?;

    let takeover = node.path("culvertd.sock.takeover");
    let aside = node.path("aside");
    std::fs::rename(&takeover, &aside)?;
    let refused = ended(&mut node.launch_takeover(BUILDS[1])?, 1)?;
    ensure!(refused.contains("the culvertd that runs offers no takeover"), "it says: {refused}");
    std::fs::rename(&aside, &takeover)?;

    talk(&mut guests)?;
    let mut new = node.take_over(&mut old, BUILDS[1])?;
    talk(&mut guests)?;
    ensure!(new.console().ended()?.is_none(), "it has ended");
    new.stop()
}

/// One that does not come up in time, at either of its processes: the one that runs goes on.
#[test]
fn a_culvertd_that_is_too_slow_does_not_take_over() -> Result<()> {
    for step in ["new-daemon-taken", "new-supervisor-taken"] {
        let mut node = Node::new()?;
        let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
        let mut old = node.start()?;
        let mut guests = connect(&sockets)?;
        talk(&mut guests)?;
        let before = old.pid();
        node.set_variable("CULVERT_INJECT", &format!("takeover-stall={step}"));
        let mut new = node.launch_takeover(BUILDS[1])?;
        old.console().wait_for("this one goes on", LIMIT)?;
        // The same daemon, and the same connections.
        talk(&mut guests).with_context(|| step.to_owned())?;
        ensure!(old.pid() == before, "{step}: another daemon runs");
        new.kill();
        talk(&mut guests)?;
        old.check_counters()?;
        old.stop()?;
    }
    Ok(())
}

/// Each of the four processes is killed when it comes to each of its steps: one of the two serves in the end, and the other has ended.
#[test]
fn killed_at_every_step() -> Result<()> {
    for step in STEPS {
        killed_at(step).with_context(|| format!("killed at {step}"))?;
    }
    Ok(())
}

fn killed_at(step: &str) -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    node.inject(&format!("takeover-kill={step}"));
    let mut old = node.start()?;
    let mut guests = connect(&sockets)?;
    talk(&mut guests)?;
    let old_daemon = old.pid();
    let mut new = node.launch_takeover(BUILDS[1])?;
    let deadline = Instant::now() + LIMIT;
    let old_serves = loop {
        match (old.console().ended()?.is_some(), new.console().ended()?.is_some()) {
            (false, false) => ensure!(Instant::now() < deadline, "both run on: {}", new.console().last_words()),
            (true, true) => bail!("none runs: {} {}", old.console().last_words(), new.console().last_words()),
            (old_ended, _) => break !old_ended,
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (survivor, gone) = if old_serves { (&mut old, &mut new) } else { (&mut new, &mut old) };
    survivor.wait_for_next(0)?;
    let status = survivor.ask("status")?;
    let supervisor = status["supervisor_pid"].as_u64();
    ensure!(supervisor == Some(survivor.supervisor_pid().into()), "{supervisor:?} serves: {status}");
    // Connections of guests outlive what can be outlived; they come again otherwise.
    let start = Instant::now();
    while talk(&mut guests).is_err() {
        ensure!(start.elapsed() < LIMIT, "no frame passes: {}", survivor.console().last_words());
        if let Ok(again) = connect(&sockets) {
            guests = again;
        }
    }
    if !old_serves {
        let old_daemon = PathBuf::from(format!("/proc/{old_daemon}"));
        wait_until("the old daemon has gone", || Ok(!old_daemon.exists()))?;
    }
    println!("killed at {step}: the {} one serves", if old_serves { "old" } else { "new" });
    gone.kill();
    talk(&mut guests).context("only together")?;
    survivor.check_counters()
}

/// Two guests without a machine, at these sockets.
fn connect(sockets: &[PathBuf; 2]) -> Result<[FrontendGuest; 2]> {
    let [a, b] = sockets.each_ref().map(|socket| FrontendGuest::connect(socket, Shape::default()));
    Ok([a?, b?])
}

/// A frame goes each way. Floods count against a limit: they go slowly.
fn talk(guests: &mut [FrontendGuest; 2]) -> Result<()> {
    for [from, to] in [[0, 1], [1, 0]] {
        let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, u8::try_from(from)?]].concat();
        frame.extend([0x88, 0xb5]);
        frame.resize(60, 7);
        let deadline = Instant::now() + Duration::from_secs(2);
        guests[from].send(&frame)?;
        while guests[to].interface.receive().is_none() {
            ensure!(Instant::now() < deadline, "no frame comes");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// What a culvertd said that must have ended with this code.
fn ended(daemon: &mut Daemon, code: i32) -> Result<String> {
    let status = daemon.console().wait(LIMIT)?;
    let said = daemon.console().wait_for_end(LIMIT)?;
    ensure!(status.code() == Some(code), "it ended with {status}: {said}");
    Ok(daemon.console().transcript())
}

/// Frames that came in at the first guest's port.
fn counted(daemon: &Daemon) -> Result<u64> {
    daemon.stats("vm-a")?["rx_frames"].as_u64().context("rx_frames")
}

/// How often it is done in each test.
fn count() -> Result<usize> {
    std::env::var("CULVERT_TAKEOVERS").map_or(Ok(2), |count| count.parse().context("CULVERT_TAKEOVERS"))
}

/// As `culvertd::takeover::step` has them, in their order.
const STEPS: [&str; 19] = [
    "new-supervisor-greeted",
    "old-supervisor-greeted",
    "new-daemon-prepared",
    "new-supervisor-prepared",
    "old-supervisor-asked",
    "old-daemon-asked",
    "old-daemon-still",
    "old-daemon-told",
    "old-supervisor-giving",
    "old-supervisor-given",
    "new-supervisor-receiving",
    "new-supervisor-received",
    "new-daemon-turn",
    "new-daemon-taken",
    "new-supervisor-taken",
    "old-supervisor-before-go",
    "new-supervisor-go",
    "new-daemon-go",
    "new-daemon-free",
];

const LIMIT: Duration = Duration::from_secs(60);

/// Of frames before a takeover, and after it.
const BETWEEN: Duration = Duration::from_millis(300);
