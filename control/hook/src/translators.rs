//! The translators that run for this pod's VM, each watched: one that ends is started again, and QEMU connects again.
//!
//! A translator is ready when its control socket answers. Two sidecars of one pod that do not know which binding they are
//! for (KubeVirt before July 2026) share the work by a lock beside the socket: one runs the translator, the other waits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_api::translator;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::edit::{Tap, TranslatorWish};

/// The translators, by the VMI's interface.
#[derive(Debug)]
pub struct Translators {
    program: PathBuf,
    running: Mutex<BTreeMap<String, Watched>>,
}

/// One that is watched.
#[derive(Debug)]
struct Watched {
    wish: TranslatorWish,
    stop: watch::Sender<bool>,
    failures: watch::Receiver<Failures>,
    watcher: JoinHandle<()>,
}

/// How often a translator has ended, and what it said last.
#[derive(Clone, Debug, Default)]
struct Failures {
    count: u32,
    last: String,
}

impl Translators {
    /// None yet; `program` is culvert-translator.
    pub fn new(program: PathBuf) -> Self {
        Self { program, running: Mutex::new(BTreeMap::new()) }
    }

    /// Makes the translators that run those that are wished for, and waits until they serve.
    ///
    /// # Errors
    /// One does not serve in time, or ends again and again. It is tried further.
    pub async fn ensure(&self, wishes: Vec<TranslatorWish>, until: Instant) -> Result<()> {
        let mut readiness = Vec::new();
        {
            let mut running = self.running.lock().await;
            let unwanted = running.extract_if(.., |_, watched| !wishes.contains(&watched.wish));
            for (_, watched) in unwanted.collect::<Vec<_>>() {
                watched.end().await;
            }
            for wish in wishes {
                let name = wish.interface.clone();
                let watched = running.entry(name).or_insert_with(|| Watched::start(self.program.clone(), wish));
                readiness.push((watched.wish.clone(), watched.failures.clone()));
            }
        }
        for (wish, failures) in readiness {
            ready(&wish, &failures, until).await?;
        }
        Ok(())
    }

    /// Whether a guest is connected to one of them.
    pub async fn serve_a_guest(&self) -> bool {
        let connected = connected_sockets().unwrap_or_default();
        let running = self.running.lock().await;
        running.values().any(|Watched { wish, .. }| match &wish.tap {
            Some(tap) => tap.device.as_deref().is_some_and(has_carrier),
            None => wish
                .socket
                .file_name()
                .is_some_and(|name| connected.iter().any(|socket| socket == name.as_encoded_bytes())),
        })
    }

    /// Ends all of them.
    pub async fn end(&self) {
        for (_, watched) in std::mem::take(&mut *self.running.lock().await) {
            watched.end().await;
        }
    }
}

impl Watched {
    fn start(program: PathBuf, wish: TranslatorWish) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (report, failures) = watch::channel(Failures::default());
        let watcher = tokio::spawn(run_for_ever(program, wish.clone(), stopped, report));
        Self { wish, stop, failures, watcher }
    }

    async fn end(self) {
        // The watcher may have ended by itself.
        let _ = self.stop.send(true);
        if let Err(error) = self.watcher.await {
            tracing::error!("watching the translator of interface {:?} failed: {error}", self.wish.interface);
        }
    }
}

/// Waits until a translator serves.
async fn ready(wish: &TranslatorWish, failures: &watch::Receiver<Failures>, until: Instant) -> Result<()> {
    let control = translator::control_socket(&wish.socket);
    loop {
        let path = control.clone();
        let answer = tokio::task::spawn_blocking(move || translator::ask(&path, "stats", ASK_PATIENCE)).await;
        if answer.is_ok_and(|answer| answer.is_ok()) {
            return Ok(());
        }
        let Failures { count, last } = failures.borrow().clone();
        if count >= HOPELESS || Instant::now() >= until {
            let name = &wish.interface;
            if count == 0 {
                bail!("the translator of interface {name:?} does not answer yet");
            }
            bail!(
                "the translator of interface {name:?} does not serve; it ended {count} times, the last time with: {last}"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Starts the translator, and again whenever it ends, until it is stopped.
async fn run_for_ever(
    program: PathBuf,
    wish: TranslatorWish,
    mut stopped: watch::Receiver<bool>,
    report: watch::Sender<Failures>,
) {
    let name = wish.interface.clone();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let ended = run_once(&program, &wish, stopped.clone()).await;
        if *stopped.borrow() {
            return;
        }
        let why = match ended {
            Ok(said) => said,
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!("the translator of interface {name:?} ended and is started again: {why}");
        report.send_modify(|failures| {
            failures.count += 1;
            failures.last = why;
        });
        if started.elapsed() > LONG_LIFE {
            pause = FIRST_PAUSE;
            report.send_modify(|failures| failures.count = 0);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = wait_for(&mut stopped) => return,
        }
    }
}

/// Runs the translator once; what it said last, or how it ended.
async fn run_once(program: &Path, wish: &TranslatorWish, mut stopped: watch::Receiver<bool>) -> Result<String> {
    let _lock = tokio::select! {
        lock = lock(&wish.socket) => lock?,
        () = wait_for(&mut stopped) => return Ok(String::new()),
    };
    let mut child = Command::new(program)
        .args(arguments(wish))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    tracing::info!("the translator of interface {:?} is process {}", wish.interface, child.id().unwrap_or_default());
    let said = child.stderr.take().map(|stderr| tokio::spawn(pass_on(wish.interface.clone(), stderr)));
    let status = tokio::select! {
        status = child.wait() => status?,
        () = wait_for(&mut stopped) => {
            let status = terminate(&mut child).await?;
            remove_names(&wish.socket);
            status
        }
    };
    let last = match said {
        Some(said) => said.await.unwrap_or_default(),
        None => String::new(),
    };
    Ok(if last.is_empty() { status.to_string() } else { format!("{last} ({status})") })
}

/// Waits until the watcher is told to stop, or nobody is left to tell it.
async fn wait_for(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// The translator's command line.
fn arguments(wish: &TranslatorWish) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--foreground".into()];
    match &wish.tap {
        None => arguments.push("--vhost-user".into()),
        // culvertd brings the tap's other end to a socket beside that of --socket.
        Some(Tap { mtu, .. }) => {
            arguments.push("--packet-help".into());
            arguments.extend(mtu.iter().flat_map(|mtu| ["--mtu".into(), mtu.to_string().into()]));
        }
    }
    arguments.push("--socket".into());
    arguments.push(wish.socket.clone().into());
    arguments.extend(["--interface", &wish.pod_interface, "--no-map-gw"].map(Into::into));
    arguments.extend(wish.forwards.iter().map(Into::into));
    arguments
}

/// Copies what a translator says to our log, line by line, and returns the last line.
async fn pass_on(interface: String, stderr: tokio::process::ChildStderr) -> String {
    let mut reader = BufReader::new(stderr);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        eprintln!("{interface}: {}", line.trim_end());
        line.trim().clone_into(&mut last);
    }
}

/// Asks it to end, and makes it end when it does not.
async fn terminate(child: &mut Child) -> Result<ExitStatus> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // Without success it is killed below.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = tokio::time::timeout(TERM_PATIENCE, child.wait()).await {
        return Ok(status?);
    }
    child.kill().await?;
    Ok(child.wait().await?)
}

/// Waits until no other sidecar runs the translator of this socket. Whoever holds the descriptor is the one.
async fn lock(socket: &Path) -> Result<std::os::fd::OwnedFd> {
    let path = beside(socket, LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        // Anew each time: whoever had it may have removed it.
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o660))
            .with_context(|| format!("{} cannot be made", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if leads_to(&path, &file) => return Ok(file),
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_POLL).await,
            Err(error) => return Err(error).with_context(|| format!("{} cannot be locked", path.display())),
        }
    }
}

/// Whether `path` is the name of `file`.
fn leads_to(path: &Path, file: impl AsFd) -> bool {
    let (Ok(named), Ok(opened)) = (rustix::fs::lstat(path), rustix::fs::fstat(file)) else { return false };
    (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
}

/// Removes the names that a translator leaves behind, whose root is empty, and that of its lock, which must be held.
fn remove_names(socket: &Path) {
    let names = [
        socket.to_owned(),
        translator::control_socket(socket),
        beside(socket, translator::HELP_SUFFIX),
        beside(socket, translator::REPAIR_SUFFIX),
        beside(socket, LOCK),
    ];
    for name in names {
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{} stays behind: {error}", name.display());
            }
            _ => {}
        }
    }
}

/// The name of `socket` with an ending.
fn beside(socket: &Path, ending: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Whether somebody has a device's other end: a tap has a carrier as long as QEMU has it open.
fn has_carrier(device: &str) -> bool {
    std::fs::read(format!("/sys/class/net/{device}/carrier")).is_ok_and(|carrier| carrier.starts_with(b"1"))
}

/// The file names of the stream sockets in this network namespace, QEMU's, that somebody has connected to.
fn connected_sockets() -> std::io::Result<Vec<Vec<u8>>> {
    let table = std::fs::read("/proc/net/unix")?;
    Ok(connected(&table))
}

/// The same, from `/proc/net/unix`: proc_net_unix(5). State 3 is SS_CONNECTED, and only the accepting end has the name. It is
/// in the namespace of who has connected.
fn connected(table: &[u8]) -> Vec<Vec<u8>> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let [kind, state] = [fields.nth(4)?, fields.next()?];
        // Behind the inode.
        let path = fields.nth(1)?;
        let name = path.rsplit(|byte| *byte == b'/').next()?;
        (kind == b"0001" && state == b"03").then(|| name.to_vec())
    };
    table.split(|byte| *byte == b'\n').skip(1).filter_map(line).collect()
}

/// What the lock's name ends in.
const LOCK: &str = ".lock";

/// How long the control socket may take to answer.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked whether it is there yet.
const POLL: Duration = Duration::from_millis(50);

/// How often the lock is tried.
const LOCK_POLL: Duration = Duration::from_secs(1);

/// A translator that has ended so often since it last ran well is not waited for.
const HOPELESS: u32 = 3;

/// Pauses before it is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A translator that ran so long ran well.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// How long it may take to end.
const TERM_PATIENCE: Duration = Duration::from_secs(2);

/// Longest line of a translator's that stays whole.
const MAX_LINE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translator_s_command_line_says_what_is_wished() {
        let wish = |tap| TranslatorWish {
            interface: "default".to_owned(),
            socket: "/var/run/culvert-translator/default.sock".into(),
            tap,
            pod_interface: "eth0".to_owned(),
            forwards: vec!["--tcp-ports".to_owned(), "80".to_owned()],
        };
        let line = |tap| arguments(&wish(tap)).iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let rest = "--socket /var/run/culvert-translator/default.sock --interface eth0 --no-map-gw --tcp-ports 80";
        assert_eq!(line(None), format!("--foreground --vhost-user {rest}"));
        assert_eq!(line(Some(Tap { device: None, mtu: None })), format!("--foreground --packet-help {rest}"));
        assert_eq!(
            line(Some(Tap { device: None, mtu: Some(1400) })),
            format!("--foreground --packet-help --mtu 1400 {rest}")
        );
    }

    #[test]
    fn connected_sockets_are_told_from_listening_ones() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1000 /proc/self/fd/9/listens.sock
0000000000000000: 00000003 00000000 00000000 0001 03 1001 /proc/self/fd/9/default.sock
0000000000000000: 00000003 00000000 00000000 0001 03 1002
0000000000000000: 00000003 00000000 00000000 0005 03 1003 /run/default.sock.ctl
";
        assert_eq!(connected(table), [b"default.sock"]);
        assert_eq!(connected(b""), Vec::<Vec<u8>>::new());
    }
}
