//! P11: configuration files that are bad, half, missing, odd, the same, read all the time, or have a port less.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;

use crate::case::{Expect, Part};
use crate::client::{Client, guest_port};
use crate::field::Field;

pub(super) fn reloads(field: &mut Field) -> Result<()> {
    field.exempt(Part::Process, "culvertd is started anew with a port in its file");
    field.exempt(Part::Resources, "culvertd is started anew with a port in its file");
    let filed = field.node().path("filed.sock");
    let section = format!("\n[[port]]\nname = \"filed\"\nnetwork = \"blue\"\nsocket = \"{}\"\n", filed.display());
    field.restart_with(|config| config.push_str(&section))?;
    let pid = field.daemon().pid();
    let file = field.node().path("culvertd.toml");
    let good = fs::read_to_string(&file)?;
    let guest = FrontendGuest::connect(&filed, Shape::default())?;
    field.daemon().wait_for_state("filed", "up")?;
    let mut client = Client::connect(&field.control_socket())?;

    let refused = |client: &mut Client, what: &str| -> Result<()> {
        let answer = client.ask(async |client| client.reload(culvert_api::v1::ReloadRequest {}).await);
        let told = answer.err().with_context(|| format!("{what} was taken"))?;
        ensure!(told.message().contains("culvertd.toml"), "{what}: {told}");
        Ok(())
    };
    // Half-written, in the middle of a text: cut between sections it would be a whole one that says something else.
    let is_inside = |length: &usize| good.get(..*length).is_some_and(|text| text.matches('"').count() % 2 == 1);
    let cuts: Vec<usize> = (1..good.len()).filter(is_inside).collect();
    let step = if field.is_full() { 1 } else { cuts.len() / 20 };
    for length in cuts.into_iter().step_by(step.max(1)) {
        write(&file, good.get(..length).context("ASCII")?.as_bytes())?;
        refused(&mut client, "half a file")?;
    }
    let huge = format!("{good}\n#{}", "x".repeat(2 << 20));
    for (what, bytes) in [
        ("a file of 2 MiB", huge.as_bytes()),
        ("no text", &[0xff; 100]),
        ("NUL", &[0; 100]),
        ("an unknown key", b"[daemon]\nuid = 0\n"),
        ("a port of no network", b"[[port]]\nname = \"x\"\nnetwork = \"nowhere\"\nsocket = \"/x\"\n"),
        ("two hundred levels", "[[[".repeat(100).as_bytes()),
    ] {
        write(&file, bytes)?;
        refused(&mut client, what)?;
    }
    fs::remove_file(&file)?;
    refused(&mut client, "no file")?;
    fs::create_dir(&file)?;
    refused(&mut client, "a folder")?;
    fs::remove_dir(&file)?;
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)?;
    refused(&mut client, "a fifo")?;
    fs::remove_file(&file)?;
    std::os::unix::fs::symlink("/dev/zero", &file)?;
    refused(&mut client, "a device")?;
    fs::remove_file(&file)?;
    field.daemon().wait_for_state("filed", "up").context("after bad files")?;

    // The same file, fifty times a second, while a client changes things.
    write(&file, good.as_bytes())?;
    let (supervisor, other) = (field.daemon().supervisor_pid().to_string(), field.node().path("other.sock"));
    let begin = Instant::now();
    for number in 0..100_u32 {
        let sent = Command::new("kill").args(["-s", "HUP", &supervisor]).status()?;
        ensure!(sent.success(), "the signal was not sent");
        if number % 10 == 0 {
            client.add_port("other", guest_port(&other))?;
            client.remove_port("other")?;
        }
        std::thread::sleep((Duration::from_millis(20) * (number + 1)).saturating_sub(begin.elapsed()));
    }
    let answer = client.ask(async |client| client.reload(culvert_api::v1::ReloadRequest {}).await)?.into_inner();
    ensure!(answer.actions.is_empty(), "the same file did something: {:?}", answer.actions);
    field.daemon().wait_for_state("filed", "up").context("after the same file")?;

    // A port less: its guest is sent away, nobody else is.
    write(&file, good.replace(&section, "").as_bytes())?;
    let answer = client.ask(async |client| client.reload(culvert_api::v1::ReloadRequest {}).await)?.into_inner();
    ensure!(answer.actions == ["close port filed"], "{:?}", answer.actions);
    guest.wait_closed()?;
    ensure!(!filed.exists(), "the socket is left");
    write(&file, good.as_bytes())?;
    client.ask(async |client| client.reload(culvert_api::v1::ReloadRequest {}).await)?;
    drop(FrontendGuest::connect(&filed, Shape::default())?);
    ensure!(field.daemon().pid() == pid, "culvertd was started again");
    field.expect(Expect::Log { port: String::new(), sentence: "culvertd.toml", lines: 0..=50 });
    Ok(())
}

/// As editors do it, so that no signal finds half of it.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes)?;
    Ok(fs::rename(new, file)?)
}
