//! `culvertctl support-bundle`: one archive with all that a report of a fault needs, and no secret.
//!
//! Each part is asked for by itself: one that there is not is replaced by the reason. What people write, the configuration and the log, goes
//! through [`redact`].

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::arguments::{DaemonCommand, Format, MacCommand, NetworkCommand, PodCommand, PortCommand};
use crate::arguments::{MirrorCommand, WorkerCommand};
use crate::client::{self, Client};
use crate::{answer, doctor, redact};

/// Writes the archive; returns what to say.
///
/// # Errors
/// It cannot be written.
pub async fn run(file: Option<PathBuf>, config: &Path, control_socket: &Path) -> Result<String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("culvert-support-{}", since.as_secs());
    let path = file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    // It tells much about a node, if no secrets: its owner alone may read it.
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let made = made.with_context(|| format!("{} cannot be written", path.display()))?;
    let mut archive = Archive {
        folder: name,
        time: since.as_secs(),
        tar: tar::Builder::new(GzEncoder::new(made, Compression::default())),
    };
    archive.add("about.txt", &about())?;
    archive.add("config.toml", &of_file(config, redact::config))?;
    for (name, source) in FACTS {
        archive.add(name, &of_file(Path::new(source), redact::text))?;
    }
    archive.add("log.txt", &redact::text(&log()))?;
    let (findings, _) = doctor::run(config, control_socket, Format::Table).await?;
    archive.add("doctor.txt", &redact::text(&findings))?;
    match client::connect(control_socket).await {
        Ok(client) => archive.add_answers(&client).await?,
        Err(error) => archive.add("culvertd.txt", &format!("{error:#}\n"))?,
    }
    archive.tar.into_inner()?.finish()?.flush()?;
    Ok(format!(
        "{} is written; look at it before you send it: it names this node's networks and guests\n",
        path.display()
    ))
}

struct Archive {
    folder: String,
    time: u64,
    tar: tar::Builder<GzEncoder<File>>,
}

impl Archive {
    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len())?);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        Ok(self.tar.append_data(&mut header, format!("{}/{name}", self.folder), text.as_bytes())?)
    }

    async fn add_answers(&mut self, client: &Client) -> Result<()> {
        let stats = |worker| DaemonCommand::Stats { port: None, worker };
        let questions = [
            ("status", DaemonCommand::Status),
            ("networks", DaemonCommand::Network(NetworkCommand::List)),
            ("ports", DaemonCommand::Port(PortCommand::List)),
            ("mirrors", DaemonCommand::Mirror(MirrorCommand::List)),
            ("pods", DaemonCommand::Pod(PodCommand::List)),
            ("workers", DaemonCommand::Worker(WorkerCommand::List)),
            ("macs", DaemonCommand::Mac(MacCommand::List { network: String::new(), port: String::new() })),
            ("stats", stats(false)),
            ("stats-workers", stats(true)),
            ("drops", DaemonCommand::Drops { port: None }),
            ("events", DaemonCommand::Events { port: None, past: 1024 }),
            ("log-level", DaemonCommand::LogLevel { filter: None, reset: false }),
        ];
        for (name, question) in questions {
            let text = match answer(&mut client.clone(), question, Format::Json).await {
                Ok(text) => text,
                Err(error) => format!("{error:#}\n"),
            };
            self.add(&format!("{name}.json"), &redact::text(&text))?;
        }
        Ok(())
    }
}

fn about() -> String {
    format!("culvertctl {}\nwritten {}\n", env!("CARGO_PKG_VERSION"), crate::events::time_now())
}

/// A file's text, or why there is none.
fn of_file(path: &Path, redact: impl Fn(&str) -> String) -> String {
    match std::fs::read(path) {
        Ok(bytes) => redact(&String::from_utf8_lossy(bytes.get(..MAX_FILE_BYTES).unwrap_or(&bytes))),
        Err(error) => format!("{} cannot be read: {error}\n", path.display()),
    }
}

/// The last lines of culvertd's log, where journald has it.
fn log() -> String {
    let journal = Command::new("journalctl")
        .args([
            "--no-pager",
            "--quiet",
            "--lines=5000",
            "--output=short-iso",
            "--unit=culvertd",
            "--unit=culvert-translator@*",
        ])
        .stdin(Stdio::null())
        .output();
    match journal {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) if output.status.success() => "journald has no lines of culvertd; add its log by hand\n".to_owned(),
        Ok(output) => format!("journalctl: {}\n", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("journalctl cannot be run: {error}; add culvertd's log by hand\n"),
    }
}

/// What tells about kernel and processor.
const FACTS: [(&str, &str); 9] = [
    ("kernel/version", "/proc/version"),
    ("kernel/cmdline", "/proc/cmdline"),
    ("kernel/modules", "/proc/modules"),
    ("kernel/lsm", "/sys/kernel/security/lsm"),
    ("os-release", "/etc/os-release"),
    ("cpu/info", "/proc/cpuinfo"),
    ("cpu/isolated", "/sys/devices/system/cpu/isolated"),
    ("memory", "/proc/meminfo"),
    ("interrupts", "/proc/interrupts"),
];
/// So much of each file at most.
const MAX_FILE_BYTES: usize = 4 << 20;
