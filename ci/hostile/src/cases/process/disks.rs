//! P10: disks that are full or read-only under the journal and under captures.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_system::console::Console;
use culvert_system::paths::program;

use crate::case::Part;
use crate::client::{Client, guest_port};
use crate::field::Field;

pub(super) fn journal(field: &mut Field) -> Result<()> {
    field.exempt(Part::Process, "culvertd is started anew on the small disk");
    field.exempt(Part::Resources, "culvertd is started anew on the small disk");
    field.exempt(Part::Log, "culvertd is started anew on the small disk");
    let small = field.node().path("small");
    fs::create_dir(&small)?;
    let disk = Disk::mount(&small, "64k")?;
    let state = field.node().path("state").display().to_string();
    field.restart_with(|config| *config = config.replace(&state, &small.join("state").display().to_string()))?;
    // The journal of the case's port was on the other disk.
    let victim = field.victim();
    let mut client = Client::connect(&field.control_socket())?;
    client.add_port(&victim, guest_port(&field.victim_socket()))?;
    let guest = |field: &mut Field, number: u32| guest_port(&field.node().path(&format!("small{number}.sock")));

    let mut filler = File::create(small.join("filler"))?;
    while filler.write_all(&[0; 512]).is_ok() {}
    let mut number = 0;
    let refusal = loop {
        // What is left of a page may do for some.
        let spec = guest(field, number);
        match client.add_port(&format!("small{number}"), spec) {
            Ok(_) => number += 1,
            Err(status) => break status,
        }
        ensure!(number < 500, "the disk does not become full");
    };
    let told = refusal.message();
    ensure!(told.contains("the journal cannot be written") && told.contains("No space left"), "{told}");
    ensure!(told.contains("state_dir"), "no remedy is told: {told}");
    // What was refused is not there, what was there still is, also in what the next culvertd finds.
    let ports = client.ports()?;
    ensure!(!ports.contains(&format!("small{number}")), "what was refused is there: {ports:?}");
    let removal = client.remove_port(&victim).err().context("a removal was taken that cannot be kept")?;
    ensure!(removal.message().contains("the journal cannot be written"), "{removal}");
    ensure!(client.ports()? == ports, "what was refused has changed something");
    check_journal(&small, &ports)?;

    // Room again.
    drop(filler);
    fs::remove_file(small.join("filler"))?;
    let spec = guest(field, number);
    client.add_port(&format!("small{number}"), spec).context("with room again")?;
    // Read-only, and writable again.
    disk.again("ro")?;
    let refusal = client.remove_port(&format!("small{number}")).err().context("a read-only disk was written")?;
    ensure!(refusal.message().contains("Read-only file system"), "{refusal}");
    disk.again("rw")?;
    for number in 0..=number {
        client.remove_port(&format!("small{number}"))?;
    }
    check_journal(&small, &client.ports()?)?;
    drop(client);
    // Its files are open until it ends.
    disk.leave();
    Ok(())
}

/// Asserts that the journal has those of these ports that are clients', and no others.
fn check_journal(small: &Path, ports: &[String]) -> Result<()> {
    let journal = fs::read_to_string(small.join("state/journal"))?;
    for port in ports.iter().filter(|port| !crate::field::NEIGHBOURS.contains(&port.as_str())) {
        ensure!(journal.contains(&format!("name = \"{port}\"")), "{port} is not in the journal:\n{journal}");
    }
    let count = journal.matches("[[port]]").count() + crate::field::NEIGHBOURS.len();
    ensure!(count == ports.len(), "the journal has other ports than {ports:?}:\n{journal}");
    Ok(())
}

pub(super) fn capture(field: &mut Field) -> Result<()> {
    super::super::control::twice(field, capture_once)
}

fn capture_once(field: &mut Field) -> Result<()> {
    let small = field.node().path("small-for-captures");
    fs::create_dir_all(&small)?;
    let _disk = Disk::mount(&small, "16k")?;
    let words = [
        "--socket".to_owned(),
        field.control_socket().display().to_string(),
        "capture".to_owned(),
        "left".to_owned(),
        "--write".to_owned(),
        small.join("left.pcapng").display().to_string(),
    ];
    let mut capture = Console::start("culvertctl capture", program("culvertctl")?, &words)?;
    capture.wait_for("No space left", Duration::from_secs(30))?;
    let status = capture.wait(Duration::from_secs(30))?;
    ensure!(!status.success(), "it ended with {status}");
    Ok(())
}

/// A small file system in memory.
struct Disk(Option<String>);

impl Disk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        let at = at.display().to_string();
        mount(&["-t", "tmpfs", "-o", &format!("size={size},nr_inodes=64"), "none", &at])?;
        Ok(Self(Some(at)))
    }

    fn again(&self, options: &str) -> Result<()> {
        mount(&["-o", &format!("remount,{options}"), self.0.as_deref().unwrap_or_default()])
    }

    /// Unmounts it when nobody uses it any more.
    fn leave(mut self) {
        if let Some(at) = self.0.take() {
            let _ = Command::new("umount").args(["--lazy", &at]).status();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(at) = &self.0 {
            let _ = Command::new("umount").arg("--lazy").arg(at).status();
        }
    }
}

fn mount(arguments: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(arguments).output()?;
    ensure!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
