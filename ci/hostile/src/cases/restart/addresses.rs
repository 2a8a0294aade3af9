//! What culvertd has learned outlives its daemon: frames to an address that was known reach its port alone.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;
use serde_json::Value;

use super::group::RECOVERY;
use crate::field::Field;

/// Crashes once, again at once, with a port in another network, and a stop.
pub fn stay_known(_: &mut Field) -> Result<()> {
    let mut node = Node::new()?;
    node.add("[[network]]\nname = \"red\"\n");
    let [socket_a, socket_b, socket_c] = PORTS.map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let connect = |socket: &Path| FrontendGuest::connect(socket, Shape::default());
    let (mut a, mut b, mut c) = (connect(&socket_a)?, connect(&socket_b)?, connect(&socket_c)?);
    ensure!(known(&daemon)?.is_empty(), "there are addresses that nobody has");
    speak([&mut a, &mut b, &mut c])?;
    let all = [(1, "vm-a"), (2, "vm-b"), (3, "vm-c")].map(|(number, port)| (text(number), port.to_owned()));
    let [of_a, of_b, of_c] = all.clone();
    let (not_c, not_a) = ([of_a, of_b.clone()], [of_b, of_c]);
    wait_for("three addresses", || Ok(known(&daemon)? == all))?;
    wait_for("connections and addresses in the supervisor's keeping", || kept(&daemon))?;

    crash(&mut daemon)?;
    ensure!(known(&daemon)? == all, "{:?} is known after a crash", known(&daemon)?);
    for number in 0..100 {
        let frame = frame(2, 1, number);
        ensure!(a.send(&frame)?, "the ring is full");
        ensure!(b.receive()? == frame, "another frame came");
    }
    // Behind it nothing is on its way.
    let last = frame(BROADCAST, 1, 0);
    a.send(&last)?;
    ensure!(b.receive()? == last && c.receive()? == last, "c got a frame that was not for it");

    // A daemon that is killed before it has anything to keep: guests have to connect again, and have not yet.
    let before = daemon.pid();
    daemon.crash()?;
    wait_for("the next daemon", || Ok(![0, before].contains(&daemon.pid())))?;
    crash(&mut daemon)?;
    for guest in [&a, &b, &c] {
        guest.wait_closed()?;
    }
    ensure!(known(&daemon)? == all, "{:?} is known after two crashes", known(&daemon)?);
    // Where a guest attaches anew, what was known goes: it may be another one.
    a = connect(&socket_a)?;
    ensure!(known(&daemon)? == not_a, "{:?} is known at a new guest's port", known(&daemon)?);
    (b, c) = (connect(&socket_b)?, connect(&socket_c)?);
    speak([&mut a, &mut b, &mut c])?;
    wait_for("connections and addresses in the supervisor's keeping", || kept(&daemon))?;

    // The file has the port in another network when the next daemon reads it.
    let file = node.path("culvertd.toml");
    let at = |network: &str| format!("name = \"vm-c\"\nnetwork = \"{network}\"");
    fs::write(&file, fs::read_to_string(&file)?.replace(&at("blue"), &at("red")))?;
    crash(&mut daemon)?;
    ensure!(known(&daemon)? == not_c, "{:?} is known though vm-c is in another network", known(&daemon)?);

    // Who stops culvertd begins anew.
    daemon.stop()?;
    let daemon = node.start()?;
    ensure!(known(&daemon)?.is_empty(), "{:?} is known after a stop", known(&daemon)?);
    daemon.stop()
}

/// Kills the daemon and waits for the next one.
fn crash(daemon: &mut Daemon) -> Result<()> {
    let before = daemon.pid();
    daemon.crash()?;
    daemon.wait_for_next(before)
}

/// Each guest says something to all.
fn speak(guests: [&mut FrontendGuest; 3]) -> Result<()> {
    let [a, b, c] = guests;
    for number in 1..=3 {
        let said = frame(BROADCAST, number, 0);
        let (speaker, others) = match number {
            1 => (&mut *a, [&mut *b, &mut *c]),
            2 => (&mut *b, [&mut *a, &mut *c]),
            _ => (&mut *c, [&mut *a, &mut *b]),
        };
        speaker.send(&said)?;
        for other in others {
            ensure!(other.receive()? == said, "another frame came");
        }
    }
    Ok(())
}

/// Whether the supervisor has all connections and all three addresses. There is no request that tells.
fn kept(daemon: &Daemon) -> Result<bool> {
    let (mut connections, mut addresses) = (0, false);
    for entry in fs::read_dir(format!("/proc/{}/fd", daemon.supervisor_pid()))? {
        let path = entry?.path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let content = |path: &Path| fs::read(path).unwrap_or_default();
        if target.starts_with("/memfd:connection (deleted)") {
            connections += usize::from(!content(&path).is_empty());
        } else if target.starts_with("/memfd:addresses (deleted)") {
            let text = String::from_utf8(content(&path))?;
            addresses |= (1..=3).all(|number| text.contains(&format!("0 02000000000{number} ")));
        }
    }
    Ok(connections == PORTS.len() && addresses)
}

/// Learned addresses and their ports, in order.
fn known(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let list = daemon.ask("mac list")?;
    let word = |entry: &Value, key: &str| Some(entry.get(key)?.as_str()?.to_owned());
    let pair = |entry| word(entry, "mac").zip(word(entry, "port")).with_context(|| format!("{entry}"));
    let mut known: Vec<_> = list.as_array().context("no list")?.iter().map(pair).collect::<Result<_>>()?;
    known.sort();
    Ok(known)
}

fn wait_for(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + RECOVERY;
    while !is()? {
        ensure!(Instant::now() < deadline, "there is not: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn text(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// A frame between guests by their numbers, with a number of its own.
fn frame(to: u8, from: u8, number: u8) -> Vec<u8> {
    let to = if to == BROADCAST { [0xff; 6] } else { [2, 0, 0, 0, 0, to] };
    [&to[..], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], &[number; 46]].concat()
}

const PORTS: [&str; 3] = ["vm-a", "vm-b", "vm-c"];
const BROADCAST: u8 = 0;
