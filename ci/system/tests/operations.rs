//! docs/OPERATIONS.md, followed step by step: each block of commands is run as it stands there, with the paths of a folder of the test's in
//! the place of the host's. Between them two guests are booted, and do what the document is about. Its installation is `ci/packaged`.
#![allow(clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::guest::Guest;
use culvert_system::paths::program;
use culvert_system::qemu::GuestOptions;

/// What the document has one do.
#[derive(Debug, PartialEq)]
enum Step {
    /// Commands of a block, and the word after `console`.
    Commands(String, Vec<String>),
    /// `<!-- test: … -->`: what a person does elsewhere.
    Act(String),
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(act) = line.strip_prefix("<!-- test: ") {
            steps.push(Step::Act(act.trim_end_matches(" -->").to_owned()));
        } else if let Some(kind) = line.strip_prefix("```console") {
            let block = lines.by_ref().take_while(|line| *line != "```");
            let commands = block.filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect();
            steps.push(Step::Commands(kind.trim().to_owned(), commands));
        }
    }
    steps
}

/// A host that the document is followed on.
struct Host {
    node: Node,
    /// Where commands are found first.
    programs: PathBuf,
}

impl Host {
    fn new() -> Result<Self> {
        let mut node = Node::new()?;
        *node.config() = node.config().replace("metrics_address = \"off\"", "metrics_address = \"127.0.0.1:9477\"");
        let programs = node.path("programs");
        fs::create_dir(&programs)?;
        let socket = node.path("culvertd.sock");
        let scripts = [
            ("culvertctl", format!("exec {} --socket {} \"$@\"", program("culvertctl")?.display(), socket.display())),
            ("culvertd", format!("exec {} \"$@\"", program("culvertd")?.display())),
        ];
        for (name, line) in scripts {
            let path = programs.join(name);
            fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { node, programs })
    }

    fn command(&self, line: &str) -> Command {
        let folder = self.node.path("");
        let folder = folder.display().to_string();
        let folder = folder.trim_end_matches('/');
        let line = line.replace("/run/culvert", folder).replace("/etc/culvert", folder);
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &line]).env("PATH", path).current_dir(folder).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("# {line}\n{text}{errors}");
        ensure!(output.status.success(), "`{line}` of docs/OPERATIONS.md ends with {}: {errors}", output.status);
        Ok(text.into_owned())
    }

    /// What a measurement says during which a guest pings the other one.
    fn measure(&self, line: &str, guest: &mut Guest) -> Result<String> {
        println!("# {line}");
        let mut measurement = self.command(line).stdout(Stdio::piped()).spawn()?;
        while measurement.try_wait()?.is_none() {
            guest.ping("10.0.0.2", 1)?;
        }
        let output = measurement.wait_with_output()?;
        ensure!(output.status.success(), "`{line}` ends with {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        println!("{text}");
        Ok(text)
    }

    fn boot(&self, daemon: &mut Daemon) -> Result<[Guest; 2]> {
        let boot = |name: &str, number| {
            GuestOptions::new(name, &self.node.path(&format!("ports/{name}/vhost.sock")), number).boot()
        };
        let mut guests = [boot("vm-a", 1)?, boot("vm-b", 2)?];
        guests.iter_mut().try_for_each(Guest::wait_ready)?;
        for port in ["vm-a", "vm-b"] {
            daemon.wait_for_state(port, "up")?;
        }
        let address = guests[1].address().to_owned();
        ensure!(guests[0].ping(&address, 3)? == 3, "the guests do not reach each other");
        Ok(guests)
    }
}

/// Waits for a capture to end while the guest asks for names.
fn ask_for_names(guest: &mut Guest, mut capture: Child) -> Result<()> {
    let start = Instant::now();
    loop {
        // Nobody answers, which is of no interest here.
        guest.run("nslookup www.example.org 10.0.0.2")?;
        if let Some(status) = capture.try_wait()? {
            ensure!(status.success(), "the capture ends with {status}");
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(120) {
            capture.kill()?;
            bail!("the capture does not end");
        }
    }
}

#[test]
fn a_person_follows_the_document() -> Result<()> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPERATIONS.md");
    let steps = steps(&fs::read_to_string(document)?);
    ensure!(steps.len() > 10, "{steps:?}");
    let host = Host::new()?;
    let mut daemon = host.node.start()?;
    let mut guests: Option<[Guest; 2]> = None;
    let mut done = 0;
    for step in steps {
        match &step {
            Step::Commands(kind, _) if kind == "install" => {}
            Step::Commands(kind, commands) if kind == "lookup" => {
                let [line] = &commands[..] else { bail!("{commands:?} is not one capture") };
                println!("# {line}");
                let capture = host.command(line).stdout(Stdio::null()).spawn()?;
                let Some([guest, _]) = &mut guests else { bail!("the document boots no guests") };
                ask_for_names(guest, capture)?;
            }
            Step::Commands(kind, commands) if kind == "latency" => {
                let [line] = &commands[..] else { bail!("{commands:?} is not one measurement") };
                let Some([guest, _]) = &mut guests else { bail!("the document boots no guests") };
                let output = host.measure(line, guest)?;
                ensure!(["P99", "vm-a", "vm-b"].iter().all(|text| output.contains(text)), "`{line}` says {output}");
                let page = fs::read_to_string(host.node.path("latency.html"))?;
                ensure!(page.contains("<polyline") && page.contains("99 %"), "the page is {page}");
            }
            Step::Commands(_, commands) => {
                for line in commands {
                    check(line, &host.run(line)?)?;
                    done += 1;
                }
            }
            Step::Act(act) if act == "boot" => guests = Some(host.boot(&mut daemon)?),
            Step::Act(act) if act == "rate" => {
                let Some([a, b]) = &mut guests else { bail!("there are no guests") };
                b.serve_iperf()?;
                let rate = a.iperf("10.0.0.2", "-t 3")?;
                println!("vm-a sends {rate} Mbit/s");
                // How exact it is, other tests know; an emulated guest may not even reach it.
                ensure!(rate < 115.0, "vm-a sends {rate} Mbit/s, and may send 100");
            }
            Step::Act(act) if act == "spoof" => {
                let Some([a, _]) = &mut guests else { bail!("there are no guests") };
                a.check("ip addr add 10.0.0.99/24 dev eth0")?;
                ensure!(a.run("ping -c 2 -W 1 -I 10.0.0.99 10.0.0.2")?.1 != 0, "a spoofed ping is answered");
            }
            Step::Act(other) => bail!("the test does not know how to {other}"),
        }
    }
    ensure!(done > 15, "{done} commands were run");
    daemon.stop()
}

/// What the document promises of a command.
fn check(line: &str, output: &str) -> Result<()> {
    let promised: &[&str] = match line {
        _ if line.starts_with("tshark") => &["www.example.org", "DNS"],
        _ if line.starts_with("culvertctl drops") => &["spoofed-address"],
        _ if line.starts_with("culvertctl trace") => &["spoofed-address"],
        _ if line.starts_with("culvertctl port show") => &["100mbit"],
        _ if line.ends_with("/healthz") || line.ends_with("/readyz") => &["ok"],
        _ if line.ends_with("/metrics") => &["culvert_up 1", "reason=\"spoofed-address\"", "# EOF"],
        _ => &[],
    };
    let missing = promised.iter().find(|text| !output.contains(**text));
    ensure!(missing.is_none(), "`{line}` does not tell {missing:?}: {output}");
    Ok(())
}

#[test]
fn every_link_and_file_of_the_documents_is_there() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for name in ["OPERATIONS.md", "ERRORS.md", "CONFIG.md", "METRICS.md"] {
        let text = fs::read_to_string(folder.join(name))?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split_once('#').map_or(link, |(file, _)| file);
            ensure!(folder.join(file).exists(), "{name} leads to {link}");
        }
    }
    Ok(())
}

/// The messages of docs/ERRORS.md are those of the programs.
#[test]
fn every_message_of_the_document_is_told_somewhere() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    for folder in ["control/daemon/src", "control/cli/src", "datapath/frame/src", "datapath/nic/src"] {
        read_sources(&root.join(folder), &mut sources)?;
    }
    // Literals go on in the next line, and the line's end is no part of them.
    let sources: String = sources.split("\\\n").map(str::trim_start).collect();
    let text = fs::read_to_string(root.join("docs/ERRORS.md"))?;
    let mut known = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().unwrap_or_default();
        for message in cell.split('`').skip(1).step_by(2) {
            let parts = message.split(['<', '>']).step_by(2).map(str::trim);
            for part in parts.filter(|part| part.len() > 3) {
                ensure!(sources.contains(part), "docs/ERRORS.md has {part:?}, which nothing says");
                known += 1;
            }
        }
    }
    ensure!(known > 20, "{known} messages were found");
    Ok(())
}

fn read_sources(folder: &Path, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
