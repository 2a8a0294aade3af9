//! culvertd's first process: starts the daemon proper as its child, and again when that crashes; passes signals on to it; and
//! answers its few requests ([`crate::broker`]). It opens no port and binds no socket.
//!
//! - [`run`]: the loop;
//! - [`restarts`]: which ends are followed by another start, and after how long;
//! - `successor`: what it does when another culvertd takes over, or this one does ([`crate::takeover`]);
//! - `daemon`: the daemon; `companions`: the metrics process and the migration proxy, where they are wanted; each a `child`;
//! - `systemd`: what systemd is told.
//!
//! The kernel kills the child when this process ends, so that `kill -9` leaves nothing behind. As process 1 of a container it
//! also reaps what others leave to it.

mod child;
mod companions;
mod daemon;
pub mod restarts;
mod successor;
mod systemd;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use crate::broker::Desk;
use crate::config::Config;
use crate::takeover;
use crate::takeover::giver::Giver;
use crate::takeover::taker::Taker;
use companions::Companions;
use daemon::Daemon;
pub use daemon::HEARTBEAT;
use restarts::{End, Restarts, Verdict};
use successor::{heard, until};
use systemd::Systemd;

/// Runs the daemon until it ends for good. Returns the exit code. `config` tells what is wanted beside it. `takes_over`: it goes on in
/// the place of the culvertd that runs at its control socket, if one does.
///
/// # Errors
/// The daemon cannot be started, or cannot take over.
pub fn run(config: &Config, takes_over: bool) -> Result<ExitCode> {
    let metrics = config.daemon.metrics_address.map(|_| companions::Kind::Metrics);
    let migration = config.migration.as_ref().map(|_| companions::Kind::Migration);
    let companions: Vec<_> = metrics.into_iter().chain(migration).collect();
    let control_socket = &config.daemon.control_socket;
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    control.context("the supervisor cannot start")?.block_on(async {
        let path = takeover::path(control_socket);
        let taker = if takes_over { Taker::connect(&path, control_socket)? } else { None };
        let mut supervisor = Supervisor {
            signals: Signals::new().context("signals cannot be waited for")?,
            desk: Desk::default(),
            companions: Companions::new(&companions, taker.is_none()),
            systemd: Systemd::new(),
            takeover: path,
            giver: Giver::default(),
            listen_at: tokio::time::Instant::now(),
            taker,
            restarts: Restarts::default(),
            stopping: false,
            stop_after: None,
            reload: false,
        };
        supervisor.run().await
    })
}

struct Supervisor {
    signals: Signals,
    desk: Desk,
    companions: Companions,
    systemd: Systemd,
    /// Where another culvertd finds this one.
    takeover: PathBuf,
    giver: Giver,
    /// When the attempt to listen there is due.
    listen_at: tokio::time::Instant,
    /// While this one takes over.
    taker: Option<Taker>,
    restarts: Restarts,
    /// SIGTERM or SIGINT has come.
    stopping: bool,
    /// It has come in the middle of a takeover: what comes next is done first.
    stop_after: Option<Signal>,
    /// SIGHUP has come, and the daemon was not ready for it.
    reload: bool,
}

/// The signals that it waits for.
struct Signals {
    terminate: Arrivals,
    interrupt: Arrivals,
    hangup: Arrivals,
    child: Arrivals,
}

/// One of [`Signals`] has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrived {
    Stop(Signal),
    Reload,
    Child,
}

impl Supervisor {
    async fn run(&mut self) -> Result<ExitCode> {
        loop {
            let options = match &self.taker {
                None => &[][..],
                Some(taker) if taker.has_hugepages() => &["--successor", "--hugepages"],
                Some(_) => &["--successor"],
            };
            let daemon = Daemon::start(options, self.systemd.interval()).context("the daemon cannot be started")?;
            let end = match self.watch(daemon).await? {
                Watched::Ended(end) if self.taker.is_some() => return Ok(self.has_not_taken_over(end)),
                Watched::Ended(end) => end,
                Watched::TakenOver => return Ok(ExitCode::SUCCESS),
            };
            let reason = match (self.desk.because(), end) {
                (Some(because), End::Exit(_)) => format!("{end}: {because}"),
                _ => end.to_string(),
            };
            match self.restarts.decide(end, self.stopping, Instant::now()) {
                Verdict::Pass(code) => {
                    if let End::Signal(_) = end
                        && code != 0
                    {
                        tracing::error!("the daemon ended by {reason} while it was to stop");
                    }
                    return Ok(ExitCode::from(code));
                }
                Verdict::Again(pause) => {
                    self.desk.next_daemon(&reason);
                    self.systemd.restarting(&reason);
                    // Whatever ended it twice in a short time may be in what was kept.
                    if !pause.is_zero() {
                        let connections = self.desk.drop_connections();
                        tracing::warn!(
                            connections,
                            "guests have to connect again, for the daemon died twice in a short time"
                        );
                    }
                    let (restarts, pause_ms) = (self.desk.restarts(), pause.as_millis());
                    tracing::error!(restarts, pause_ms, "the daemon ended by {reason}; it is started again");
                    if end == End::Signal(Signal::SYS.as_raw()) {
                        tracing::error!("{FORBIDDEN}");
                    }
                    if self.pause(pause).await {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
        }
    }

    /// Serves a daemon until it has ended.
    async fn watch(&mut self, daemon: Daemon) -> Result<Watched> {
        let (pid, socket) = daemon.into_parts();
        #[expect(deprecated, reason = "an OwnedFd is always the same descriptor; `register` is unsafe")]
        let socket = AsyncFd::new(socket).context("the daemon's requests cannot be waited for")?;
        let mut socket = Some(socket);
        loop {
            if let Some(signal) = self.stop_after.take_if(|_| self.giver.stage().is_none()) {
                self.stop(signal, pid);
            }
            let own: Vec<_> = [pid].into_iter().chain(self.companions.pids()).map(Pid::as_raw_pid).collect();
            let (hugepages, listen_at) = (self.desk.turn.has_hugepages(), self.listen_due());
            let arrived = tokio::select! {
                arrived = self.signals.next() => arrived,
                () = requests(&mut self.desk, &mut socket) => {
                    if self.desk.take_alive() {
                        self.systemd.alive();
                    }
                    self.follow(pid);
                    if self.reload && self.desk.is_ready() {
                        self.reload = false;
                        child::signal(pid, Signal::HUP);
                    }
                    continue;
                }
                () = self.companions.start_when_due() => continue,
                () = until(listen_at) => {
                    self.listen();
                    continue;
                }
                event = self.giver.next(&own, hugepages) => {
                    if self.give(event, pid) {
                        return Ok(Watched::TakenOver);
                    }
                    continue;
                }
                heard = heard(self.taker.as_mut()) => {
                    self.hear(heard, pid);
                    continue;
                }
            };
            match arrived {
                Arrived::Stop(signal) if self.stop_after.is_none() && self.is_taken_over() => {
                    tracing::info!("another culvertd is taking over: this one stops after that");
                    self.stop_after = Some(signal);
                }
                Arrived::Stop(signal) => self.stop(signal, pid),
                // Before it is ready the signal would end it.
                Arrived::Reload if self.desk.is_ready() => child::signal(pid, Signal::HUP),
                Arrived::Reload => self.reload = true,
                Arrived::Child => {
                    if let Some(end) = self.reap(Some(pid)) {
                        // What it has said last.
                        while let Some(socket) = &socket
                            && self.desk.serve(socket.get_ref()).is_ok()
                        {}
                        if self.is_given_away().await {
                            return Ok(Watched::TakenOver);
                        }
                        return Ok(Watched::Ended(end));
                    }
                }
            }
        }
    }

    /// Has everything stop.
    fn stop(&mut self, signal: Signal, daemon: Pid) {
        self.stopping = true;
        self.systemd.stopping();
        self.stop_takeover(daemon);
        self.companions.stop();
        child::signal(daemon, signal);
    }

    /// Waits; true: it was told to stop meanwhile.
    async fn pause(&mut self, pause: Duration) -> bool {
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                arrived = self.signals.next() => match arrived {
                    Arrived::Stop(_) => {
                        self.companions.stop();
                        return true;
                    }
                    // It is about to read the file anyway.
                    Arrived::Reload => {}
                    Arrived::Child => drop(self.reap(None)),
                },
                () = self.companions.start_when_due() => {}
                () = &mut sleep => return false,
            }
        }
    }

    /// Takes note of all processes that have ended, and returns how `daemon` did.
    fn reap(&mut self, daemon: Option<Pid>) -> Option<End> {
        let mut end = None;
        // Also those of others, whose parents have ended before them.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(pid) == daemon {
                end = ended(status);
            }
            self.companions.note(pid, ended(status), self.stopping);
        }
        end
    }
}

/// What SIGSYS means. The kernel tells nobody but its own log which call it was.
const FORBIDDEN: &str = "SIGSYS: the daemon made a system call that it never makes. Whoever made it was not culvertd, or this is a bug: \
                         the kernel's log (journalctl -k) has a line with type=1326 and pid, comm (the thread) and syscall (its number); \
                         see docs/ISOLATION.md";

/// What became of a daemon.
enum Watched {
    /// It has ended.
    Ended(End),
    /// Another culvertd goes on in its place.
    TakenOver,
}

/// Answers requests until something has changed: one was answered, or the daemon has gone, and `socket` with it.
async fn requests(desk: &mut Desk, socket: &mut Option<AsyncFd<OwnedFd>>) {
    let Some(open) = socket else { return std::future::pending().await };
    let served = match open.readable().await {
        Ok(mut ready) => match ready.try_io(|socket| desk.serve(socket.get_ref())) {
            Ok(served) => served,
            Err(_would_block) => Ok(()),
        },
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => return,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        // It goes on without: its next request fails.
        Err(error) => tracing::error!("the daemon's requests are not answered any more: {error}"),
    }
    *socket = None;
}

fn ended(status: WaitStatus) -> Option<End> {
    let exit = status.exit_status().map(|code| End::Exit(u8::try_from(code).unwrap_or(u8::MAX)));
    exit.or_else(|| status.terminating_signal().map(End::Signal))
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.terminate.recv() => Arrived::Stop(Signal::TERM),
            _ = self.interrupt.recv() => Arrived::Stop(Signal::INT),
            _ = self.hangup.recv() => Arrived::Reload,
            _ = self.child.recv() => Arrived::Child,
        }
    }
}
