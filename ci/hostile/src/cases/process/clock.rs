//! P13: the wall clock jumps. Only captures may notice: their times are the wall's, everything else counts monotonic time.
//!
//! The machine's clock stays as it is. culvertd gets a library in front of libc's (`wall_clock.c`), which adds to the wall clock what
//! a file says at that moment.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frame::{End, echo_request};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;

use crate::client::Client;
use crate::field::Field;

const HOUR: i64 = 3600;
const BEFORE_1970: i64 = -2_000_000_000;

pub(super) fn jumps(_: &mut Field) -> Result<()> {
    let mut node = Node::new()?;
    let (library, offset) = (node.path("wall_clock.so"), node.path("offset"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases/process/wall_clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status()?;
    ensure!(built.success(), "cc cannot build {}", source.display());
    jump(&offset, 0)?;
    node.set_variable("LD_PRELOAD", &library.display().to_string());
    node.set_variable("WALL_CLOCK_OFFSET", &offset.display().to_string());
    // Addresses age in ten seconds, which is less than any jump.
    *node.config() = node.config().replace("name = \"blue\"\n", "name = \"blue\"\nmac_age = \"10s\"\n");
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let [a, b] = &sockets;
    let mut guests = [FrontendGuest::connect(a, Shape::default())?, FrontendGuest::connect(b, Shape::default())?];
    converse(&mut guests)?;
    let pid = daemon.pid();
    // An hour both ways; fifty years ahead; before 1970, where times of captures cannot follow.
    for seconds in [HOUR, -HOUR, 0, 50 * 365 * 24 * HOUR, BEFORE_1970] {
        jump(&offset, seconds)?;
        let seen = capture_time(&node, &mut guests)?;
        ensure!(
            (seen - seconds).abs() < 600 || seconds == BEFORE_1970,
            "culvertd's wall clock is {seen} s off, not {seconds}: the jump has no effect"
        );
        // Longer than sweeps and retries take.
        thread::sleep(Duration::from_millis(1500));
        for port in ["vm-a", "vm-b"] {
            daemon.wait_for_state(port, "up").with_context(|| format!("{port} after {seconds} s"))?;
        }
        let macs = daemon.ask("mac list")?;
        ensure!(macs.as_array().map(Vec::len) == Some(2), "addresses have gone after {seconds} s: {macs}");
        let uptime =
            daemon.ask("status")?.get("uptime_seconds").and_then(serde_json::Value::as_u64).context("uptime")?;
        ensure!(uptime < 3000, "it counts {uptime} s since its start");
        converse(&mut guests).with_context(|| format!("after {seconds} s"))?;
        // Clients' patience, and changes.
        let mut client = Client::connect(&node.path("culvertd.sock"))?;
        client.add_port("other", crate::client::guest_port(&node.path("other.sock")))?;
        client.remove_port("other")?;
    }
    ensure!(daemon.pid() == pid, "culvertd was started again");
    daemon.stop()
}

/// Lets the wall clock of culvertd be so many seconds ahead from now on.
fn jump(file: &Path, seconds: i64) -> Result<()> {
    // culvertd has it mapped: it must never be shorter.
    let file = File::options().write(true).create(true).truncate(false).open(file)?;
    Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
}

/// By how many seconds the time of a captured frame is ahead of the machine's clock.
fn capture_time(node: &Node, guests: &mut [FrontendGuest; 2]) -> Result<i64> {
    let mut client = Client::connect(&node.path("culvertd.sock"))?;
    let request = culvert_api::v1::CaptureRequest { port: "vm-a".to_owned(), count: 1, ..Default::default() };
    let mut frames = client.ask(async |client| client.capture(request).await)?.into_inner();
    converse(guests)?;
    let message = client.ask(async |_| frames.message().await)?.context("no frame is captured")?;
    let time = message.frames.first().context("no frame")?.time_ns / 1_000_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(time)? - i64::try_from(now)?)
}

/// Each guest sends the other frames, all of which must come.
fn converse(guests: &mut [FrontendGuest; 2]) -> Result<()> {
    let [a, b] = guests;
    for round in 0..10 {
        send(a, b, [1, 2], round)?;
        send(b, a, [2, 1], round)?;
    }
    Ok(())
}

fn send(from: &mut FrontendGuest, to: &mut FrontendGuest, numbers: [u8; 2], round: u32) -> Result<()> {
    let [source, destination] = numbers.map(End::new);
    let frame = echo_request(source, destination, &round.to_le_bytes())?;
    ensure!(from.send(&frame)?, "a transmit ring is full");
    ensure!(to.receive()? == frame, "frame {round} was changed");
    Ok(())
}
