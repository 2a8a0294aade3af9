//! Changes while culvertd runs: ports come and go beside others that lose nothing, and whatever moment culvertd is killed at, it comes
//! back with the state before or after the change that was under way.
//!
//! `CULVERT_PORTS` says how many ports a client adds, 250 otherwise; `ci/test --full` has it add 1,000.
#![allow(clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use culvert_driver::{Kind, OffloadBits, Shape, Stream};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;
use serde_json::Value;
use tonic::transport::Endpoint;

#[test]
fn others_lose_no_frame_while_200_ports_come_and_go() -> Result<()> {
    while_frames_pass(come_and_go)
}

/// By one client after the other. How long it takes is told, and not judged: a machine that does other work may take any time.
#[test]
fn others_lose_no_frame_while_many_ports_are_added_and_removed() -> Result<()> {
    let count = std::env::var("CULVERT_PORTS").map_or(Ok(250), |count| count.parse())?;
    while_frames_pass(|node, _| {
        let mut times = add_and_remove(count, &node.path("culvertd.sock"), &node.path(""))?;
        times.sort();
        let of = |permille: usize| times.get((times.len() - 1) * permille / 1000).copied().unwrap_or_default();
        println!("{} requests: median {:.1?}, p99 {:.1?}, the longest {:.1?}", times.len(), of(500), of(990), of(1000));
        Ok(())
    })
}

/// Adds so many ports, each with a socket, and removes them; how long each request took.
fn add_and_remove(count: u32, control_socket: &Path, folder: &Path) -> Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix://{}", control_socket.display()))?;
        let mut client = CulvertClient::connect(endpoint).await?;
        let mut times = Vec::new();
        for number in 0..count {
            let network = if number % 2 == 0 { "blue" } else { "green" };
            if number == 0 {
                client.add_network(v1::AddNetworkRequest { name: "green".to_owned(), network: None }).await?;
            }
            let port = v1::PortSpec {
                network: Some(network.to_owned()),
                socket: Some(folder.join(format!("p{number}.sock")).display().to_string()),
                ..v1::PortSpec::default()
            };
            let start = Instant::now();
            let request = v1::AddPortRequest { name: format!("p{number}"), port: Some(port) };
            let answer = client.add_port(request).await?.into_inner();
            times.push(start.elapsed());
            ensure!(answer.changed && answer.note.is_empty(), "p{number}: {}", answer.note);
        }
        for number in 0..count {
            let start = Instant::now();
            client.remove_port(v1::RemoveRequest { name: format!("p{number}") }).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    })
}

/// Makes changes while two guests send to each other as fast as it goes, and nothing of that may be lost.
fn while_frames_pass(changes: impl FnOnce(&Node, &Daemon) -> Result<()> + Send) -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let connect = |socket| FrontendGuest::connect(socket, Shape::default());
    let mut guests = [connect(&sockets[0])?, connect(&sockets[1])?];
    // Each knows the other's place before anything else is there.
    for (from, to) in [(0, 1), (1, 0)] {
        let hello = [&[0xff; 6][..], &MACS[from], &[0x88, 0xb5], &[0; 46]].concat();
        ensure!(guests[from].send(&hello)?, "a ring is full");
        ensure!(guests[to].receive()? == hello, "a broadcast was changed");
    }
    let mut flows = [(0, 1), (1, 0)].map(|(from, to)| {
        let kind = Kind { tcp: false, v6: false };
        (from, to, Stream::new(kind, MACS[from], MACS[to], OffloadBits::default(), OffloadBits::default()), 0)
    });

    let start = Instant::now();
    let passed = thread::scope(|scope| {
        let (node, daemon) = (&node, &daemon);
        let changes = scope.spawn(move || changes(node, daemon));
        let mut progress = Instant::now();
        // Traffic until the last change, and all of it must arrive.
        while !changes.is_finished() || flows.iter().any(|(_, _, stream, _)| !stream.is_complete()) {
            for (from, to, stream, frames) in &mut flows {
                if !changes.is_finished() {
                    while stream.in_flight() < IN_FLIGHT {
                        let (header, frame, cuts) = stream.frame(1000);
                        ensure!(guests[*from].interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
                        *frames += 1;
                    }
                    guests[*from].kick()?;
                }
                while let Some((header, frame)) = guests[*to].interface.receive() {
                    stream.accept(&header, &frame).map_err(anyhow::Error::msg)?;
                    progress = Instant::now();
                }
            }
            ensure!(progress.elapsed() < STALL, "no frame came for {STALL:?}");
        }
        changes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    passed.with_context(|| format!("{:?}\n{}", daemon.ctl("stats"), daemon.console().last_words()))?;
    println!("ports came and went in {:.1?}, {} frames passed meanwhile", start.elapsed(), flows[0].3 + flows[1].3);
    for ((_, _, stream, frames), port) in flows.iter().zip(["vm-a", "vm-b"]) {
        // One broadcast besides.
        let stats = daemon.stats(port)?;
        ensure!(stats["rx_forwarded"] == frames + 1 && stats["rx_dropped"] == 0, "{frames} frames, but {stats}");
        ensure!(stream.is_complete(), "frames are missing");
    }
    let names: Vec<String> = ports(&daemon)?.into_keys().collect();
    ensure!(names == ["vm-a", "vm-b"], "ports are left: {names:?}");
    daemon.wait_for_state("vm-a", "up")?;
    daemon.check_counters()?;
    daemon.stop()
}

/// Adds, changes and removes ports, some of them with guests, every second in a network of its own; mirrors and reloads in between.
fn come_and_go(node: &Node, daemon: &Daemon) -> Result<()> {
    daemon.ctl("network add green")?;
    let mut guests = Vec::new();
    for number in 0..PORTS {
        let socket = node.path(&format!("p{number}.sock"));
        let network = ["blue", "green"][number % 2];
        daemon.ctl(&format!("port add p{number} --network {network} --socket {}", socket.display()))?;
        if number % 5 == 0 {
            guests.push(FrontendGuest::connect(&socket, Shape::default())?);
        }
        daemon.ctl(&format!("port set p{number} --vlan {} --broadcast-limit 100 --isolated", 1 + number))?;
        if number % 10 == 3 {
            daemon.ctl(&format!("mirror add m{number} --from p{} --to p{number}", number - 2))?;
            daemon.ctl("reload")?;
            daemon.ctl(&format!("mirror del m{number}"))?;
        }
        // At most 50 at a time: some go with their guest still there, some after it.
        if number >= 50 {
            if number % 3 == 0 {
                guests.truncate(5);
            }
            daemon.ctl(&format!("port del p{}", number - 50))?;
        }
    }
    for number in PORTS - 50..PORTS {
        daemon.ctl(&format!("port del p{number}"))?;
    }
    daemon.ctl("network del green")?;
    Ok(())
}

#[test]
fn killed_at_any_moment_the_state_is_old_or_new() -> Result<()> {
    let mut node = Node::new()?;
    node.add_guest("vm-a", Role::Listen, "");
    let mut random = Random(0x1234_5678_9abc_def1);
    // What the changes that were answered have led to: name and VLAN of each port.
    let mut expected = BTreeMap::from([("vm-a".to_owned(), Value::Null)]);
    let (mut old, mut new, mut answered) = (0, 0, 0);
    for round in 0..ROUNDS {
        let daemon = node.start()?;
        let pid = daemon.supervisor_pid().to_string();
        let delay = Duration::from_micros(random.below(40_000));
        // The change that the kill has interrupted.
        let interrupted = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                thread::sleep(delay);
                Command::new("kill").args(["-KILL", &pid]).status()
            });
            let interrupted = loop {
                let (change, after) = random.change(&node, &expected);
                match daemon.ctl(&change) {
                    Ok(_) => {
                        expected = after;
                        answered += 1;
                    }
                    Err(error) => break (change, after, error),
                }
            };
            killer.join().map(|_| interrupted)
        });
        let Ok((change, after, error)) = interrupted else { bail!("the killing thread has panicked") };
        drop(daemon);

        let daemon = node.start()?;
        let found = ports(&daemon)?;
        if found == expected {
            old += 1;
        } else if found == after {
            new += 1;
            expected = after;
        } else {
            bail!(
                "round {round}, killed after {delay:?} in \"{change}\" ({error:#}):\n{found:?} is neither the old state\n\
                 {expected:?} nor the new one\n{after:?}"
            );
        }
        daemon.stop()?;
    }
    println!(
        "{ROUNDS} kills, {answered} changes answered before them; of those interrupted {new} had been made, {old} not"
    );
    Ok(())
}

/// Name and VLAN of each port.
fn ports(daemon: &Daemon) -> Result<BTreeMap<String, Value>> {
    let list = daemon.ask("port list")?;
    let ports = list.as_array().context("a list")?.iter();
    Ok(ports.map(|port| (port["name"].as_str().unwrap_or_default().to_owned(), port["vlan"].clone())).collect())
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A change for culvertctl, and what the ports are after it.
    fn change(&mut self, node: &Node, ports: &BTreeMap<String, Value>) -> (String, BTreeMap<String, Value>) {
        let mut after = ports.clone();
        let (name, vlan) = (format!("p{}", self.below(20)), 1 + self.below(4094));
        let verb = match (ports.contains_key(&name), self.below(2)) {
            (true, 0) => {
                after.remove(&name);
                return (format!("port del {name}"), after);
            }
            (true, _) => format!("set {name}"),
            (false, _) => {
                let socket = node.path(&format!("{name}.sock"));
                format!("add {name} --network blue --socket {}", socket.display())
            }
        };
        after.insert(name, Value::from(vlan));
        (format!("port {verb} --vlan {vlan}"), after)
    }
}

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

const PORTS: usize = 200;

const ROUNDS: u64 = 30;

/// Frames under way at most in each direction: fewer than a ring holds, so that none may be lost.
const IN_FLIGHT: usize = 40;

const STALL: Duration = Duration::from_secs(30);
