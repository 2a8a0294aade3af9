//! Queues that move between the two workers of a culvertd, because somebody says so and by themselves, while frames pass.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::place::Namespace;
use culvert_system::qemu::Role;
use culvert_system::veth::Veth;
use rustix::net::{SendFlags, send};
use serde_json::Value;

/// Two pairs of guests: the first of each sends to the second.
const NAMES: [&str; 4] = ["vm-a", "vm-b", "vm-c", "vm-d"];

/// So many frames of each sender are on their way at most: the receivers have room for them.
const ON_THEIR_WAY: usize = 64;

struct Guests {
    of: Vec<FrontendGuest>,
    sent: usize,
}

impl Guests {
    /// Connects all, one after the other: each starts at the worker that has the fewest queues, so both senders are at the same one.
    fn connect(node: &Node, daemon: &mut Daemon) -> Result<Self> {
        let mut of = Vec::new();
        for name in NAMES {
            let guest = FrontendGuest::connect(&node.path(&format!("{name}.sock")), Shape::default());
            of.push(guest.with_context(|| daemon.console().last_words())?);
            daemon.wait_for_state(name, "up")?;
        }
        let mut guests = Self { of, sent: 0 };
        for speaker in 0..NAMES.len() {
            ensure!(guests.of[speaker].send(&frame(speaker, None, 0))?, "a ring is full");
            for listener in (0..NAMES.len()).filter(|listener| *listener != speaker) {
                ensure!(guests.of[listener].receive()? == frame(speaker, None, 0), "another frame");
            }
        }
        Ok(guests)
    }

    /// Both pairs pass frames until that is enough; each comes, in order.
    fn talk(&mut self, mut is_enough: impl FnMut(usize) -> Result<bool>) -> Result<()> {
        let (mut received, mut over) = ([self.sent; 2], false);
        while !over || received != [self.sent; 2] {
            if !over && received.iter().all(|received| self.sent - received < ON_THEIR_WAY) {
                for sender in [0, 2] {
                    ensure!(self.of[sender].send(&frame(sender, Some(sender + 1), self.sent))?, "a ring is full");
                }
                self.sent += 1;
                over = is_enough(self.sent)?;
            }
            for (received, sender) in received.iter_mut().zip([0, 2]) {
                let guest = &mut self.of[sender + 1];
                // Of the last ones each is waited for.
                let came = if over && *received < self.sent {
                    Some(guest.receive()?)
                } else {
                    guest.interface.receive().map(|(_, frame)| frame)
                };
                if let Some(came) = came {
                    ensure!(
                        came == frame(sender, Some(sender + 1), *received),
                        "{}: not frame {received}, but {:02x?}",
                        NAMES[sender],
                        &came[..came.len().min(24)]
                    );
                    *received += 1;
                }
            }
        }
        Ok(())
    }

    fn check(&self, daemon: &mut Daemon) -> Result<()> {
        for name in ["vm-a", "vm-c"] {
            let stats = daemon.stats(name)?;
            // And the one by which it made itself known.
            ensure!(stats["rx_forwarded"] == self.sent + 1 && stats["rx_dropped"] == 0, "{stats}");
        }
        for name in ["vm-b", "vm-d"] {
            let stats = daemon.stats(name)?;
            ensure!(stats["tx_dropped"] == 0, "{stats}");
        }
        daemon.check_counters()
    }
}

fn node(keys: &str) -> Result<Node> {
    let mut node = Node::new()?;
    // Whoever moves queues has the system calls for it.
    node.set_isolation("kill");
    *node.config() = node.config().replace("worker_cores = [0]", &format!("worker_cores = [0, 1]\n{keys}"));
    for name in NAMES {
        node.add_guest(name, Role::Listen, "");
    }
    Ok(node)
}

/// The core of the worker that polls each port.
fn cores(daemon: &Daemon) -> Result<BTreeMap<String, u64>> {
    let workers = daemon.ask("worker list")?;
    let mut cores = BTreeMap::new();
    for worker in workers.as_array().context("no list")? {
        for queue in worker["queues"].as_array().context("no list")? {
            let (port, core) =
                (queue["port"].as_str().context("no port")?, worker["core"].as_u64().context("no core")?);
            cores.insert(port.to_owned(), core);
        }
    }
    Ok(cores)
}

#[test]
fn queues_move_when_somebody_says_so() -> Result<()> {
    let node = node("rebalance_improvement = 5\n")?;
    let mut daemon = node.start()?;
    let mut guests = Guests::connect(&node, &mut daemon)?;
    let connected = Instant::now();
    let before = cores(&daemon)?;
    ensure!(before["vm-a"] == before["vm-c"] && before["vm-b"] == before["vm-d"], "{before:?}");
    // What is only told. Where the machine has other work, one may seem to take much more than the other for a while.
    let (begin, mut told) = (Instant::now(), Value::Null);
    guests.talk(|sent| {
        if sent % 10_000 != 0 {
            return Ok(false);
        }
        ensure!(begin.elapsed() < LIMIT, "nothing would move: {told}; {}", daemon.ctl("worker list")?);
        told = daemon.ask("worker rebalance --dry-run")?;
        Ok(told["moves"].as_array().is_some_and(|moves| moves.len() == 1))
    })?;
    ensure!(cores(&daemon)? == before, "something has moved");
    ensure!(["vm-a", "vm-c"].map(Into::into).contains(&told["moves"][0]["port"]), "{told}");
    let nothing = daemon.ctl("worker rebalance --improvement 100")?;
    ensure!(nothing.starts_with("nothing to do") || told["improvement_percent"] == 100, "{nothing}");

    // In the midst of frames.
    let (mut printed, begin) = (String::new(), guests.sent);
    guests.talk(|sent| {
        if sent == begin + 500 {
            printed = daemon.ctl("worker rebalance")?;
        }
        Ok(sent >= begin + 5000)
    })?;
    print!("{printed}");
    ensure!(printed.contains("core 0") && printed.contains("core 1"), "{printed}");
    let after = cores(&daemon)?;
    ensure!(after["vm-a"] != after["vm-c"], "{after:?}");
    ensure!((&after["vm-b"], &after["vm-d"]) == (&before["vm-b"], &before["vm-d"]), "{after:?}");
    print!("{}", daemon.ctl("worker list")?);

    // It is done.
    guests.talk(|sent| Ok(sent >= begin + 10_000))?;
    let again = daemon.ctl("worker rebalance")?;
    ensure!(again.starts_with("nothing to do"), "{again}");
    guests.check(&mut daemon)?;

    // A guest whose queue has moved goes on after a crash, and leaves nothing behind. Its address is known to the next daemon if
    // the last one knew it for a second.
    guests.talk(|_| Ok(connected.elapsed() > Duration::from_secs(3)))?;
    let pid = daemon.pid();
    daemon.crash()?;
    daemon.wait_for_next(pid)?;
    let begin = guests.sent;
    guests.talk(|sent| Ok(sent >= begin + 1000))?;
    daemon.check_counters()?;
    daemon.stop()
}

#[test]
fn queues_move_by_themselves() -> Result<()> {
    let node = node("rebalance = \"auto\"\nrebalance_interval = \"1s\"\nrebalance_load = 0\n")?;
    let mut daemon = node.start()?;
    let mut guests = Guests::connect(&node, &mut daemon)?;
    let (begin, mut looked, mut after) = (Instant::now(), Instant::now(), cores(&daemon)?);
    guests.talk(|_| {
        if looked.elapsed() >= Duration::from_millis(100) {
            (looked, after) = (Instant::now(), cores(&daemon)?);
            ensure!(begin.elapsed() < LIMIT, "nothing has moved: {}", daemon.ctl("worker list")?);
        }
        Ok(after["vm-a"] != after["vm-c"])
    })?;
    daemon.console().wait_for("has moved from the worker on core", LIMIT)?;
    guests.check(&mut daemon)?;
    daemon.stop()
}

/// The queues of devices move as guests' do.
#[test]
fn queues_of_devices_move() -> Result<()> {
    let [here, far] = [Namespace::new("here")?, Namespace::new("far")?];
    let mut node = Node::new()?;
    node.set_namespace(&here);
    *node.config() = node.config().replace("worker_cores = [0]", "worker_cores = [0, 1]\nrebalance_improvement = 5");
    // Each starts at the worker that has the fewest: the first and the third one at the same.
    for number in 0..3 {
        let wire = format!("wire{number}");
        Veth::between([(&wire, &here), (&wire, &far)], 1500)?;
        node.add_nic(&format!("uplink{number}"), &format!("net_af_packet{number},iface={wire}"), "");
    }
    // Each has a guest of its own: two workers at the queue of one may be too much where they have to wait for their cores.
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let mut guests = Vec::new();
    for socket in &sockets {
        let guest = FrontendGuest::connect(socket, Shape::default());
        guests.push(guest.with_context(|| daemon.console().last_words())?);
    }
    ["uplink0", "uplink1", "uplink2"].iter().try_for_each(|name| daemon.wait_for_state(name, "up"))?;
    let before = cores(&daemon)?;
    ensure!(before["uplink0"] == before["uplink2"], "{before:?}");
    for (speaker, name) in ["vm-a", "vm-b"].into_iter().enumerate() {
        ensure!(guests[speaker].send(&frame(GUESTS[speaker], None, 0))?, "the ring is full");
        daemon.wait_for_counter(name, "rx_forwarded", 1)?;
        guests[1 - speaker].receive()?;
    }

    let wires = [far.packets("wire0")?, far.packets("wire2")?];
    let (mut sent, mut last) = (0, 0);
    let mut talk = || -> Result<usize> {
        // Fewer than the interfaces' rings have room for.
        for _ in 0..16 {
            for (sender, wire) in wires.iter().enumerate() {
                send(wire, &frame(sender, Some(GUESTS[sender]), sent), SendFlags::empty())?;
            }
            sent += 1;
        }
        for (sender, guest) in guests.iter_mut().enumerate() {
            for number in sent - 16..sent {
                let came = guest.receive()?;
                ensure!(came == frame(sender, Some(GUESTS[sender]), number), "not frame {number} of {sender}");
            }
        }
        Ok(sent)
    };
    let (begin, mut printed) = (Instant::now(), String::new());
    while !printed.contains("uplink") {
        ensure!(begin.elapsed() < LIMIT, "nothing moves: {printed} {}", daemon.ctl("worker list")?);
        while talk()? < last + 1600 {}
        last += 1600;
        printed = daemon.ctl("worker rebalance")?;
    }
    print!("{printed}");
    let after = cores(&daemon)?;
    ensure!(after["uplink0"] != after["uplink2"], "{after:?}");
    while talk()? < last + 1600 {}
    daemon.check_counters()?;
    daemon.stop()
}

/// The numbers of guests that hear devices.
const GUESTS: [usize; 2] = [7, 8];

/// A frame of a guest to another one, or to all, told by its number.
fn frame(from: usize, to: Option<usize>, number: usize) -> Vec<u8> {
    let address = |guest: usize| [2, 0, 0, 0, 0, guest as u8];
    let mut frame = [to.map_or([0xff; 6], address), address(from)].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(60 + number % 1000, 0);
    frame
}

/// Generous: the machine may have other work.
const LIMIT: Duration = Duration::from_secs(120);
