//! What systemd is told, where it has started culvertd as a service of `Type=notify`: that all is up, that it goes on, that it stops.
//! Without systemd all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// What systemd knows.
#[derive(Debug)]
pub(super) struct Systemd {
    is_ready: bool,
    /// How the last daemon ended, until the next one is alive.
    ended_by: Option<String>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Nothing was told yet.
    pub(super) fn new() -> Self {
        Self { is_ready: false, ended_by: None, watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often the daemon is to tell that all goes its way; `None`: nobody wants to know.
    pub(super) fn interval(&self) -> Option<Duration> {
        let is_watched = std::env::var_os("NOTIFY_SOCKET").is_some();
        is_watched.then(|| self.watchdog.map_or(LONGEST, |watchdog| (watchdog / 4).min(LONGEST)))
    }

    /// The daemon has told that all goes its way.
    pub(super) fn alive(&mut self) {
        let ended_by = self.ended_by.take();
        if !self.is_ready {
            self.is_ready = true;
            tell(&[NotifyState::Ready, NotifyState::Status(RUNNING)]);
        } else if let Some(reason) = ended_by {
            tell(&[NotifyState::Status(&format!("{RUNNING}; the daemon before ended by {reason}"))]);
        }
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// A daemon has ended, and another one is started.
    pub(super) fn restarting(&mut self, reason: &str) {
        self.ended_by = Some(reason.to_owned());
        tell(&[NotifyState::Status(&format!("the daemon ended by {reason} and is started again"))]);
    }

    /// It was told to stop.
    #[expect(clippy::unused_self, reason = "what is told belongs to it")]
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd cannot be told: {error}; see NOTIFY_SOCKET and NotifyAccess of the unit");
    }
}

/// What a person reads in `systemctl status`.
const RUNNING: &str = "frames pass";
/// Longest time between two words of the daemon.
const LONGEST: Duration = Duration::from_secs(10);
