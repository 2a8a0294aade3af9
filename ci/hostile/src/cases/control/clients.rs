//! C2 to C4: clients that stall, that come in crowds, and those that may not come at all.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_api::v1;
use culvert_system::daemon::Node;
use culvert_system::paths::program;
use tonic::Code;

use super::http2::Watch;
use crate::client::{Client, guest_port};
use crate::field::Field;
use crate::http2::{DATA, END_HEADERS, HEADERS, Http2, PREFACE, SETTINGS, headers};

/// More than culvertd gives a client for anything: twice five seconds.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn stall(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let watch = Watch::start(&socket);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        // Nothing at all; half of the preface; the preface alone; half a frame; a request without its message; half of it.
        stalled.push(Http2::silent(&socket)?);
        let mut half = Http2::silent(&socket)?;
        half.send(PREFACE.get(..11).unwrap_or_default())?;
        stalled.push(half);
        let mut alone = Http2::silent(&socket)?;
        alone.send(PREFACE)?;
        stalled.push(alone);
        let mut frame_half = Http2::connect(&socket)?;
        frame_half.send(&[0, 0, 50, HEADERS])?;
        stalled.push(frame_half);
        let mut waiting = Http2::connect(&socket)?;
        waiting.frame(HEADERS, END_HEADERS, 1, &headers("AddPort"))?;
        waiting.frame(DATA, 0, 1, &[0, 0, 0, 1, 0, 1, 2, 3])?;
        stalled.push(waiting);
    }
    // Asks for more than it ever reads.
    let mut deaf = Http2::connect(&socket)?;
    deaf.stream().set_write_timeout(Some(Duration::from_millis(300)))?;
    for number in 0..10_000 {
        if deaf.request(2 * number + 1, "ListPorts", &[]).is_err() {
            break;
        }
    }
    // Has no room for answers, and answers pings: it may stay, with as many requests as a connection has.
    let mut closed_window = Http2::silent(&socket)?;
    closed_window.send(PREFACE)?;
    closed_window.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])?;
    for number in 0..100 {
        closed_window.request(2 * number + 1, "ListPorts", &[])?;
    }
    let closed_window = thread::spawn(move || {
        // Until culvertd or its own patience ends it.
        let _ = closed_window.wait(u32::MAX >> 1);
    });
    // A byte each half a second: the preface has to be there in time.
    let mut slow = Http2::silent(&socket)?;
    let begin = Instant::now();
    let cut = (0..).find(|number: &usize| {
        thread::sleep(Duration::from_millis(500));
        let byte = PREFACE.get(*number..=*number).unwrap_or(b"x");
        slow.send(byte).is_err() || begin.elapsed() > PATIENCE
    });
    ensure!(begin.elapsed() < PATIENCE, "a byte each half a second is taken for ever: {cut:?}");
    for (number, client) in stalled.iter_mut().enumerate() {
        client.wait_closed(PATIENCE).with_context(|| format!("client {number} that stalls"))?;
    }
    deaf.wait_closed(PATIENCE).context("the client that never reads")?;
    closed_window.join().map_err(|_| anyhow::anyhow!("the client without a window panicked"))?;
    watch.end()
}

pub(super) fn thousand_connections(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let held: Vec<UnixStream> = (0..1000).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    // culvertctl is another process.
    field.daemon().ask("status").context("while one process has a thousand connections")?;
    let mut open = 0;
    for mut stream in &held {
        stream.set_nonblocking(true)?;
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => open += 1,
            // The end, or a server's settings.
            _ => {}
        }
    }
    ensure!(open <= 32, "{open} connections of one process are held");
    drop(held);
    let mut client = Client::connect(&socket);
    let deadline = Instant::now() + PATIENCE;
    while client.is_err() && Instant::now() < deadline {
        client = Client::connect(&socket);
    }
    client?.ports()?;
    Ok(())
}

pub(super) fn hundred_changes(field: &mut Field) -> Result<()> {
    super::twice(field, hundred_changes_once)
}

fn hundred_changes_once(field: &mut Field) -> Result<()> {
    const CLIENTS: usize = 100;
    let (socket, guest) = (field.control_socket(), field.node().path("crowd/vhost.sock"));
    let mut client = Client::with_connections(&socket, 25)?;
    let add = |mtu: u32| {
        let spec = v1::PortSpec { mtu: Some(mtu), ..guest_port(&guest) };
        v1::AddPortRequest { name: "crowd".to_owned(), port: Some(spec) }
    };
    let changed =
        |answers: &[Result<bool, tonic::Status>]| answers.iter().filter(|answer| matches!(answer, Ok(true))).count();

    // Whoever waits too long for his turn is told so, and nothing is done for him.
    let late = |answers: &[Result<bool, tonic::Status>]| {
        answers.iter().filter(|answer| answer.as_ref().is_err_and(|status| status.code() == Code::Cancelled)).count()
    };

    // The same: one makes it, the others have it.
    let same = client.at_once(CLIENTS, |_, mut client| {
        let request = add(1500);
        async move { client.add_port(request).await.map(|answer| answer.into_inner().changed) }
    })?;
    let good = same.iter().filter(|answer| answer.is_ok()).count();
    ensure!(good + late(&same) == CLIENTS && changed(&same) == 1, "one of the same: {same:?}");
    // Each another one: the last one holds, on the disk as well.
    let set = client.at_once(CLIENTS, |number, mut client| {
        let mtu = 1000 + u32::try_from(number).unwrap_or(0);
        let spec = v1::PortSpec { mtu: Some(mtu), ..v1::PortSpec::default() };
        let request = v1::SetPortRequest { name: "crowd".to_owned(), port: Some(spec), unset: Vec::new() };
        async move { client.set_port(request).await.map(|answer| answer.into_inner().changed) }
    })?;
    ensure!(changed(&set) + late(&set) == CLIENTS && changed(&set) > 0, "each another one: {set:?}");
    let mtu = field.daemon().port("crowd")?.get("mtu").and_then(serde_json::Value::as_u64).context("an MTU")?;
    let journal = fs::read_to_string(field.node().path("state/journal"))?;
    ensure!(journal.contains(&format!("mtu = {mtu}\n")), "{mtu} runs, and the journal has\n{journal}");
    // Gone once; another port of the name for one of them.
    let gone = client.at_once(CLIENTS, |_, mut client| {
        let request = v1::RemoveRequest { name: "crowd".to_owned() };
        async move { client.remove_port(request).await.map(|answer| answer.into_inner().changed) }
    })?;
    let missing = |answer: &Result<bool, tonic::Status>| {
        matches!(answer, Ok(false)) || answer.as_ref().is_err_and(|status| status.code() == Code::NotFound)
    };
    let missed = gone.iter().filter(|answer| missing(answer)).count();
    ensure!(changed(&gone) == 1 && missed + late(&gone) == CLIENTS - 1, "gone once: {gone:?}");
    let different = client.at_once(CLIENTS, |number, mut client| {
        let request = add(1000 + u32::try_from(number).unwrap_or(0));
        async move { client.add_port(request).await.map(|answer| answer.into_inner().changed) }
    })?;
    let refused = different.iter().filter_map(|answer| answer.as_ref().err());
    let exists = refused.filter(|status| status.code() == Code::AlreadyExists).count();
    ensure!(changed(&different) == 1 && exists + late(&different) == CLIENTS - 1, "one of a hundred: {different:?}");
    ensure!(client.remove_port("crowd")?, "there is no port");
    Ok(())
}

pub(super) fn sockets_for_others(field: &mut Field) -> Result<()> {
    // The folder of the test is its own; on a node everybody may enter.
    let folder = field.node().path("");
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    let (control, guest) = (field.control_socket(), field.victim_socket());
    let said = as_nobody(&program("culvertctl")?, &["--socket", &control.display().to_string(), "status"])?;
    ensure!(said.contains("you may not use"), "culvertctl of another user said: {said}");
    for socket in [&control, &guest] {
        let address = format!("UNIX-CONNECT:{}", socket.display());
        let said = as_nobody(Path::new("socat"), &["-", &address])?;
        ensure!(said.contains("Permission denied"), "{}: {said}", socket.display());
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o700))?;

    // Whoever may write to the folder could replace the socket: culvertd does not start there.
    let open = Node::new()?;
    fs::set_permissions(open.path(""), Permissions::from_mode(0o1777))?;
    let mut refused = open.launch()?;
    refused.console().wait_for("everyone may write to its folder", PATIENCE)?;
    ensure!(!refused.console().wait(PATIENCE)?.success(), "it started");
    // As for the journal: it is not used, and that is told.
    let state = Node::new()?;
    fs::create_dir(state.path("state"))?;
    fs::set_permissions(state.path("state"), Permissions::from_mode(0o777))?;
    let unkept = state.start()?;
    let refusal = unkept.ctl("network add red").err().context("a change was taken that cannot be kept")?.to_string();
    ensure!(refusal.contains("everyone may write to it"), "{refusal}");
    ensure!(fs::read_dir(state.path("state"))?.next().is_none(), "something was written there");
    unkept.stop()?;
    Ok(())
}

pub(super) fn readers(field: &mut Field) -> Result<()> {
    let mut node = Node::new()?;
    let config = node.config();
    *config = config.replacen("[daemon]\n", "[daemon]\nsocket_group = 65534\nadmin_users = []\n", 1);
    fs::set_permissions(node.path(""), Permissions::from_mode(0o755))?;
    let daemon = node.start()?;
    let socket = node.path("culvertd.sock").display().to_string();
    let ctl = |line: &str| as_user(&program("culvertctl")?, 65534, &[&["--socket", &socket], &*words(line)].concat());
    for question in ["status", "port list", "drops", "events", "log-level", "worker rebalance --dry-run"] {
        let output = ctl(question)?;
        ensure!(output.status.success(), "{question}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for change in [
        "network add red",
        "port add x --network blue --socket /tmp/x",
        "reload",
        "log-level debug",
        "worker rebalance",
        "capture vm-a --count 1",
        "latency vm-a",
    ] {
        let output = ctl(change)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("you may only ask"), "{change}: {said}");
    }
    let stranger = as_user(&program("culvertctl")?, 65533, &["--socket", &socket, "status"])?;
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    ensure!(said.contains("you may not use"), "a stranger: {said}");
    daemon.ctl("network add red").context("as root")?;
    daemon.stop()?;
    let _ = field;
    Ok(())
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// What a program says that another user runs, which must fail.
fn as_nobody(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = as_user(program, 65534, arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "another user came in: {}", String::from_utf8_lossy(&output.stdout));
    Ok(said)
}

/// What becomes of a program that another user runs, who is in the group of the same number alone.
fn as_user(program: &Path, user: u32, arguments: &[&str]) -> Result<Output> {
    let user = user.to_string();
    let user = ["--reuid", &user, "--regid", &user, "--clear-groups", "--"];
    let mut command = Command::new("setpriv");
    // The program itself may be where nobody may look.
    let copy = tempfile::Builder::new().prefix("culvert-").tempdir()?;
    fs::set_permissions(copy.path(), Permissions::from_mode(0o755))?;
    let program = if program.is_absolute() {
        let there = copy.path().join("program");
        fs::copy(program, &there)?;
        there
    } else {
        program.to_owned()
    };
    Ok(command.args(user).arg(program).args(arguments).stdin(std::process::Stdio::null()).output()?)
}
