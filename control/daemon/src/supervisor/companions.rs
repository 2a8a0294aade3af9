//! The supervisor's other children: the metrics process and the migration proxy, each this program again, with an option.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::child;
use super::restarts::End;

/// Those that are wanted.
#[derive(Debug)]
pub(super) struct Companions(Vec<Companion>);

/// A process that is wanted, and whether it runs.
#[derive(Debug)]
struct Companion {
    kind: Kind,
    running: Option<(Pid, Instant)>,
    /// When it is started next; `None`: it runs, or is not to start any more.
    start_at: Option<Instant>,
    pause: Duration,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Metrics,
    Migration,
}

impl Kind {
    fn option(self) -> &'static str {
        match self {
            Self::Metrics => "--metrics",
            Self::Migration => "--migration",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Metrics => "the metrics process",
            Self::Migration => "the migration proxy",
        }
    }
}

impl Companions {
    /// Nothing is started yet; `now`: as soon as they are waited for, otherwise when [`Self::resume`] is called.
    pub(super) fn new(wanted: &[Kind], now: bool) -> Self {
        let one = |kind: &Kind| Companion {
            kind: *kind,
            running: None,
            start_at: now.then(Instant::now),
            pause: SHORTEST_PAUSE,
        };
        Self(wanted.iter().map(one).collect())
    }

    /// Waits until one is to be started, for ever if none is, and starts it. Must be called on the first thread, see [`child::again`].
    pub(super) async fn start_when_due(&mut self) {
        let next = self.0.iter_mut().filter(|one| one.start_at.is_some()).min_by_key(|one| one.start_at);
        match next {
            Some(one) => one.start_when_due().await,
            None => std::future::pending().await,
        }
    }

    /// Takes note that a process has ended, if it was one of these.
    pub(super) fn note(&mut self, pid: Pid, end: Option<End>, stopping: bool) {
        self.0.iter_mut().for_each(|one| one.note(pid, end, stopping));
    }

    /// All are wanted, again or now.
    pub(super) fn resume(&mut self) {
        for one in self.0.iter_mut().filter(|one| one.running.is_none()) {
            one.start_at = Some(Instant::now());
        }
    }

    /// The processes that run.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.0.iter().filter_map(|one| Some(one.running?.0))
    }

    /// Tells all to stop.
    pub(super) fn stop(&mut self) {
        self.0.iter_mut().for_each(Companion::stop);
    }
}

impl Companion {
    async fn start_when_due(&mut self) {
        match self.start_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        match child::start(&mut child::again(self.kind.option(), Stdio::null())) {
            Ok(pid) => (self.running, self.start_at) = (Some((pid, Instant::now())), None),
            Err(error) => {
                tracing::error!("{} cannot be started: {error}", self.kind.name());
                self.start_at = Some(Instant::now() + self.next_pause());
            }
        }
    }

    /// Takes note that a process has ended, if it was this one.
    fn note(&mut self, pid: Pid, end: Option<End>, stopping: bool) {
        let Some((_, since)) = self.running.filter(|(running, _)| *running == pid) else { return };
        self.running = None;
        if stopping {
            return;
        }
        if since.elapsed() > LONGEST_PAUSE {
            self.pause = SHORTEST_PAUSE;
        }
        let pause = self.next_pause();
        let end = end.map_or_else(|| "nobody knows what".to_owned(), |end| end.to_string());
        tracing::error!("{} ended by {end}; it is started again in {pause:?}", self.kind.name());
        self.start_at = Some(Instant::now() + pause);
    }

    /// Tells it to stop.
    fn stop(&mut self) {
        self.start_at = None;
        if let Some((pid, _)) = self.running {
            child::signal(pid, Signal::TERM);
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        pause
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
