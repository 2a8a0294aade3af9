//! What culvertd gives up: looked at from outside for each of its threads, tried from inside by probes (culvertd-inject), and told to
//! whoever asks for what it has given up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frame::{End, echo_request};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;
use culvert_system::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

// Capabilities (capability.h) as bits.
const CHOWN: u64 = 1;
const DAC_OVERRIDE: u64 = 1 << 1;
const SETPCAP: u64 = 1 << 8;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const FILES: u64 = CHOWN | DAC_OVERRIDE;

/// What the kernel says of a thread or process.
struct Status(String);

impl Status {
    fn of(path: &str) -> Result<Self> {
        Ok(Self(fs::read_to_string(format!("/proc/{path}/status"))?))
    }

    fn field(&self, name: &str) -> Result<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("no {name}"))
    }

    fn capabilities(&self, set: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.field(set)?, 16)?)
    }
}

/// The status of each of the daemon's threads, by name.
fn threads(daemon: &Daemon) -> Result<BTreeMap<String, Status>> {
    let pid = daemon.pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.map(|entry| {
        let status = Status::of(&format!("{pid}/task/{}", entry?.file_name().to_string_lossy()))?;
        Ok((status.field("Name")?.to_owned(), status))
    });
    threads.collect()
}

fn check_threads(daemon: &Daemon, capabilities: u64) -> Result<()> {
    let threads = threads(daemon)?;
    for kind in ["worker-0", "vhost-server", "vhost-helper", "upkeep", "faults", "pods", "log", "culvertd"] {
        ensure!(threads.contains_key(kind), "there is no thread {kind}: {:?}", threads.keys());
    }
    for (name, status) in threads {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let found = status.capabilities(set)?;
            ensure!(found == capabilities, "{name} has {set} {found:x}, not {capabilities:x}");
        }
        ensure!(status.capabilities("CapInh")? == 0 && status.capabilities("CapAmb")? == 0, "{name} hands some on");
        ensure!(status.field("NoNewPrivs")? == "1", "{name} can get new privileges");
        // Three for all threads, and three for each kind of thread.
        let filters = (status.field("Seccomp")?, status.field("Seccomp_filters")?);
        ensure!(filters == ("2", "6"), "{name} has {filters:?} filters");
    }
    let supervisor = Status::of(&daemon.supervisor_pid().to_string())?;
    let wanted = capabilities | SYS_ADMIN | NET_RAW | NET_ADMIN | SETPCAP;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let found = supervisor.capabilities(set)?;
        ensure!(found == wanted, "the supervisor has {set} {found:x}, not {wanted:x}");
    }
    ensure!(supervisor.field("NoNewPrivs")? == "1", "the supervisor can get new privileges");
    Ok(())
}

#[test]
fn every_thread_has_only_what_it_needs() -> Result<()> {
    let mut node = Node::new()?;
    node.add_guest("vm-a", Role::Listen, "");
    let daemon = node.start()?;
    check_threads(&daemon, FILES)?;
    daemon.stop()?;

    let mut node = Node::new()?;
    node.add_nic("up0", "net_tap0,iface=iso0", "");
    let mut daemon = node.start()?;
    daemon.wait_for_state("up0", "up")?;
    check_threads(&daemon, FILES | NET_ADMIN)?;
    // The next daemon is no better off.
    let before = daemon.pid();
    daemon.crash()?;
    while daemon.pid() == before || daemon.ctl("status").is_err() {}
    daemon.wait_for_state("up0", "up")?;
    check_threads(&daemon, FILES | NET_ADMIN)?;
    daemon.stop()
}

#[test]
fn without_isolation_nothing_is_given_up() -> Result<()> {
    let mut node = Node::new()?;
    node.set_isolation("off");
    let mut daemon = node.start()?;
    for (name, status) in threads(&daemon)? {
        ensure!(status.field("NoNewPrivs")? == "0" && status.field("Seccomp")? == "0", "{name} is isolated");
        ensure!(status.capabilities("CapEff")? & SYS_ADMIN != 0, "{name} has given up capabilities");
    }
    daemon.console().wait_for("daemon.isolation is \"off\"", LIMIT)?;
    daemon.stop()
}

#[test]
fn ports_that_need_what_was_given_up_are_refused_with_the_remedy() -> Result<()> {
    let mut node = Node::new()?;
    let outside = tempfile::tempdir_in("/var/tmp")?;
    let mut daemon = node.start()?;
    let socket = outside.path().join("vhost.sock");
    let cases = [
        (
            "tap",
            "--device net_tap0,iface=iso0".to_owned(),
            "add \"net_tap\" to daemon.device_kinds in the configuration file, and restart",
        ),
        ("raw", "--device net_af_packet0,iface=lo".to_owned(), "CAP_NET_RAW"),
        ("far", format!("--socket {}", socket.display()), "name one above it in daemon.folders and restart"),
        ("cap", format!("--device net_pcap0,tx_pcap={}/x", outside.path().display()), "daemon.folders"),
    ];
    for (name, what, sentence) in &cases {
        daemon.ctl(&format!("port add {name} --network blue {what}"))?;
        daemon.wait_for_state(name, "failed")?;
        let port = daemon.port(name)?;
        let reason = port.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default();
        ensure!(reason.contains(sentence), "{name}: {reason}");
    }
    ensure!(!socket.exists(), "there is a socket");
    daemon.stop()?;
    // With that folder, and that kind of device, the same ports are opened.
    let keys = format!("device_kinds = [\"net_tap\"]\nfolders = [\"{}\", ", outside.path().display());
    *node.config() = node.config().replacen("folders = [", &keys, 1);
    let mut daemon = node.start()?;
    for (port, state) in [("tap", "up"), ("far", "waiting"), ("cap", "up"), ("raw", "failed")] {
        daemon.wait_for_state(port, state)?;
    }
    daemon.stop()
}

/// What vhost-user takes of system calls: folders that are made, sockets in both roles, owners, labels, connections that outlive the
/// daemon. One that is missing in the lists ends the daemon.
#[test]
fn guests_ports_work_with_what_is_left_to_culvertd() -> Result<()> {
    let mut node = Node::new()?;
    node.set_isolation("kill");
    fs::create_dir(node.path("pod"))?;
    let keys = format!("socket_root = \"{}\"\nowner = \"107:107\"", node.path("pod").display());
    node.add_guest("pod/volume/vm-a", Role::Listen, &keys);
    *node.config() = node.config().replace("name = \"pod/volume/vm-a\"", "name = \"vm-a\"");
    node.add_guest("vm-b", Role::Listen, "");
    // A port that an earlier daemon has barred, until another guest comes than that process.
    fs::create_dir(node.path("state"))?;
    fs::write(node.path("state/barred"), "vm-b 1 its guest has stopped a worker\n")?;
    let mut daemon = node.start()?;

    let mut guests = Vec::new();
    for name in ["pod/volume/vm-a", "vm-b"] {
        guests.push(FrontendGuest::connect(&node.path(&format!("{name}.sock")), Shape::default())?);
    }
    wait_until("the port is barred no more", || Ok(fs::read_to_string(node.path("state/barred"))?.is_empty()))?;
    // A guest whose socket is not there yet; one with a label, which takes more than is left where there is no SELinux.
    let later = node.path("later.sock");
    daemon.ctl(&format!("port add later --network blue --role connect --socket {}", later.display()))?;
    let listener = UnixListener::bind(&later)?;
    drop(listener.accept()?);
    daemon.ctl("port del later")?;
    let label = "system_u:object_r:container_file_t:s0";
    daemon.ctl(&format!(
        "port add labelled --network blue --label {label} --socket {}",
        node.path("new/l.sock").display()
    ))?;
    daemon.ctl("port del labelled")?;
    ensure!(daemon.ask("status")?.get("restarts") == Some(&0.into()), "a forbidden system call has ended the daemon");

    let exchange = |guests: &mut [FrontendGuest]| -> Result<()> {
        let hello = echo_request(End::new(1), End::new(2), b"hello")?;
        let [a, b] = guests else { anyhow::bail!("two guests") };
        ensure!(a.send(&hello)?, "a ring is full");
        while b.receive()? != hello {}
        Ok(())
    };
    exchange(&mut guests)?;
    // Long after the last message the connections are kept.
    thread::sleep(Duration::from_secs(2));
    let before = daemon.pid();
    daemon.crash()?;
    daemon.wait_for_next(before)?;
    exchange(&mut guests)?;
    ensure!(
        daemon.ask("status")?.get("restarts") == Some(&1.into()),
        "a forbidden system call has ended the next daemon"
    );
    daemon.stop()
}

/// EPERM: the capability, or the filter of system calls.
const EPERM: &str = "1";
/// EACCES: Landlock.
const EACCES: &str = "13";

#[test]
fn what_is_forbidden_fails_on_each_kind_of_thread() -> Result<()> {
    let mut node = Node::new()?;
    node.set_isolation("full");
    node.inject("probe");
    let mut daemon = node.start()?;
    let log = daemon.console().wait_for("probes have ended", LIMIT)?;
    // "elsewhere" opens a mere handle, of no use by itself; "chown" changes nothing, on a folder it is what vhost-user sockets need.
    let expected = [
        ("read", [EACCES, EACCES, EACCES, EPERM, EACCES, EPERM]),
        ("make", [EACCES, EACCES, EACCES, EPERM, EACCES, EPERM]),
        ("elsewhere", ["done", "done", "done", EPERM, "done", EPERM]),
        ("chown", [EPERM, EPERM, EPERM, EPERM, "done", EPERM]),
        ("run", [EPERM, EPERM, EPERM, EPERM, EPERM, EPERM]),
        ("tcp", [EACCES, EPERM, EPERM, EPERM, EPERM, EPERM]),
        ("packets", [EPERM, EPERM, EPERM, EPERM, EPERM, EPERM]),
        ("unix", ["done", "done", "done", EPERM, "done", EPERM]),
        ("signal", [EPERM, EPERM, EPERM, EPERM, EPERM, EPERM]),
    ];
    for (act, ends) in expected {
        for (kind, end) in ["Control", "DevicePlugin", "Dpdk", "Log", "Vhost", "Worker"].into_iter().zip(ends) {
            let start = format!("probe {kind} {act}: ");
            let found = log.lines().find_map(|line| Some(line.split_once(&start)?.1));
            ensure!(found == Some(end), "{kind} {act}: {found:?}, not {end}");
        }
    }
    daemon.stop()?;

    // Without isolation all of it can be done.
    let mut node = Node::new()?;
    node.set_isolation("off");
    node.inject("probe");
    let mut daemon = node.start()?;
    let log = daemon.console().wait_for("probes have ended", LIMIT)?;
    let failed = log.lines().find(|line| line.contains(" probe ") && !line.ends_with(": done"));
    ensure!(failed.is_none(), "without isolation: {failed:?}");
    daemon.stop()
}

#[test]
fn what_only_an_intruder_does_ends_the_daemon() -> Result<()> {
    let mut node = Node::new()?;
    node.set_isolation("full");
    node.inject("probe-never");
    let mut daemon = node.launch()?;
    let before = daemon.console().wait_for("the daemon ended by signal 31 (SIGSYS); it is started again", LIMIT)?;
    ensure!(!before.contains("chroot has returned"), "chroot() has returned");
    daemon.console().wait_for("SIGSYS: the daemon made a system call that it never makes", LIMIT)?;
    Ok(())
}
