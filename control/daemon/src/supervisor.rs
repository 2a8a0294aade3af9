//! culvertd's first process: starts the daemon proper as its child, and again when that crashes; passes signals on to it; and
//! answers its few requests ([`crate::broker`]). It opens no port and binds no socket.
//!
//! - [`run`]: the loop;
//! - [`restarts`]: which ends are followed by another start, and after how long;
//! - `daemon`: the child.
//!
//! The kernel kills the child when this process ends, so that `kill -9` leaves nothing behind. As process 1 of a container it
//! also reaps what others leave to it.

mod daemon;
pub mod restarts;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Signal, WaitOptions, WaitStatus};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use crate::broker::Desk;
use daemon::Daemon;
use restarts::{End, Restarts, Verdict};

/// Runs the daemon until it ends for good. Returns the exit code.
///
/// # Errors
/// The daemon cannot be started.
pub fn run() -> Result<ExitCode> {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    control.context("the supervisor cannot start")?.block_on(async {
        let mut supervisor = Supervisor {
            signals: Signals::new().context("signals cannot be waited for")?,
            desk: Desk::default(),
            restarts: Restarts::default(),
            stopping: false,
            reload: false,
        };
        supervisor.run().await
    })
}

struct Supervisor {
    signals: Signals,
    desk: Desk,
    restarts: Restarts,
    /// SIGTERM or SIGINT has come.
    stopping: bool,
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
            let daemon = Daemon::start().context("the daemon cannot be started")?;
            let end = self.watch(daemon).await?;
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
    async fn watch(&mut self, daemon: Daemon) -> Result<End> {
        let (pid, socket) = daemon.into_parts();
        #[expect(deprecated, reason = "an OwnedFd is always the same descriptor; `register` is unsafe")]
        let socket = AsyncFd::new(socket).context("the daemon's requests cannot be waited for")?;
        let mut socket = Some(socket);
        loop {
            let arrived = tokio::select! {
                arrived = self.signals.next() => arrived,
                () = requests(&mut self.desk, &mut socket) => {
                    if self.reload && self.desk.is_ready() {
                        self.reload = false;
                        daemon::signal(pid, Signal::HUP);
                    }
                    continue;
                }
            };
            match arrived {
                Arrived::Stop(signal) => {
                    self.stopping = true;
                    daemon::signal(pid, signal);
                }
                // Before it is ready the signal would end it.
                Arrived::Reload if self.desk.is_ready() => daemon::signal(pid, Signal::HUP),
                Arrived::Reload => self.reload = true,
                Arrived::Child => {
                    if let Some(end) = reap(Some(pid)) {
                        // What it has said last.
                        while let Some(socket) = &socket
                            && self.desk.serve(socket.get_ref()).is_ok()
                        {}
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Waits; true: it was told to stop meanwhile.
    async fn pause(&mut self, pause: Duration) -> bool {
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                arrived = self.signals.next() => match arrived {
                    Arrived::Stop(_) => return true,
                    // It is about to read the file anyway.
                    Arrived::Reload => {}
                    Arrived::Child => drop(reap(None)),
                },
                () = &mut sleep => return false,
            }
        }
    }
}

/// What SIGSYS means. The kernel tells nobody but its own log which call it was.
const FORBIDDEN: &str = "SIGSYS: the daemon made a system call that it never makes. Whoever made it was not culvertd, or this is a bug: \
                         the kernel's log (journalctl -k) has a line with type=1326 and pid, comm (the thread) and syscall (its number); \
                         see docs/ISOLATION.md";

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

/// Takes note of all processes that have ended, and returns how `daemon` did.
fn reap(daemon: Option<rustix::process::Pid>) -> Option<End> {
    let mut end = None;
    // Also those of others, whose parents have ended before them.
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == daemon {
            end = ended(status);
        }
    }
    end
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
