//! When a port's connection is given to the keeper (see [`crate::keep`]): when its frontend has been quiet for [`QUIET`], since it sends
//! dozens of messages in a row.
//!
//! What is kept has copies of all of the connection's descriptors, and the keeper may take its time. So a port asks for one thing at a
//! time, and [`KEPT_PER_SECOND`] times in a second at most, whatever its frontend says. If the keeper refuses it is asked again later, for
//! the frontend may say nothing more for as long as its guest runs.

use std::io;
use std::time::{Duration, Instant};

use super::{Link, Loop, Port};
use crate::keep::{KEPT_PER_SECOND, Kept, QUIET};
use crate::rate::Rate;
use crate::socket;

/// How long the keeper is not asked again for a port after it has refused, the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What people are told of a connection that the next process would not go on with.
const NOT_KEPT: &str = "after a crash of culvertd the guest has to connect again, for its connection is not kept";

/// A port's part in the keeping of its connections.
#[derive(Debug, Default)]
pub struct Keeping {
    /// What a later process would take up.
    kept: Option<Kept>,
    /// When the connection is to be kept, if the frontend is quiet until then.
    at: Option<Instant>,
    /// The keeper was asked and has not answered.
    is_asked: bool,
    times: Rate,
    /// The keeper is not asked before, because it has refused.
    refused_until: Option<Instant>,
    /// How often it has refused since it last did not.
    refusals: u32,
}

impl Keeping {
    /// A connection begins, which may be kept already.
    pub fn begin(&mut self, kept: Option<Kept>) {
        (self.kept, self.at) = (kept, None);
    }

    /// Whether a later process would go on with the connection.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether the keeper has not answered yet.
    pub fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Whether another process has gone on with what is kept.
    pub fn is_void(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_void)
    }

    /// When [`Self::is_due`] is to be asked.
    pub fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// The frontend has said something, or it is too early for another reason.
    pub fn wait(&mut self, in_loop: &Loop) {
        self.at = in_loop.keeper.and(in_loop.now.checked_add(QUIET));
    }

    /// What is kept is void from now on.
    pub fn end(&mut self, port: &str, in_loop: &Loop) {
        if let Some(kept) = self.kept.take() {
            kept.end(port, in_loop.keeper);
            self.wait(in_loop);
        }
    }

    /// Whether the keeper is to be asked now.
    pub fn is_due(&mut self, in_loop: &Loop) -> bool {
        if self.at.is_none_or(|at| at > in_loop.now) {
            return false;
        }
        let refused = self.refused_until.filter(|&until| until > in_loop.now);
        self.at = refused.or(self.times.exhausted(KEPT_PER_SECOND, in_loop.now));
        // The answer tells when again.
        self.at.is_none() && !self.is_asked && self.kept.is_none()
    }

    /// The keeper is asked to keep this.
    pub fn ask(&mut self, kept: Kept, in_loop: &Loop) {
        self.times.count(in_loop.now);
        (self.kept, self.is_asked) = (Some(kept), true);
    }

    /// The keeper has answered.
    pub fn on_answer(&mut self, port: &str, answer: &io::Result<()>, in_loop: &Loop) {
        self.is_asked = false;
        if answer.is_ok() {
            (self.refusals, self.refused_until) = (0, None);
        } else {
            if let Some(kept) = self.kept.take() {
                // It has nothing that it could forget.
                kept.end(port, None);
            }
            self.refuse(in_loop);
        }
        if self.kept.is_none() && self.at.is_none() {
            self.at = Some(in_loop.now);
        }
    }

    /// It cannot be kept for the present.
    pub fn refuse(&mut self, in_loop: &Loop) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.refusals.min(6)).min(LONGEST_PAUSE);
        self.refusals = self.refusals.saturating_add(1);
        self.refused_until = in_loop.now.checked_add(pause);
        self.at = self.at.or(self.refused_until);
    }
}

impl Port {
    /// Has the connection kept for the next process, unless the dialogue goes on.
    pub(super) fn keep(&mut self, in_loop: &Loop) {
        let (Link::Open(open), Some(keeper)) = (&self.link, in_loop.keeper) else { return };
        if open.parked || !open.output.is_empty() || open.replay.is_some() {
            return self.keeping.wait(in_loop);
        }
        // It is known too late what is said now; it is kept anew after that.
        if socket::is_readable(&open.stream) {
            return;
        }
        let kept = match open.session.transcript() {
            Ok(None) => return,
            Ok(Some(transcript)) => Kept::new(&self.config, self.slot, &open.stream, transcript, &self.aside, keeper),
            Err(error) => Err(error),
        };
        match kept {
            Ok(kept) => self.keeping.ask(kept, in_loop),
            // That does not pass.
            Err(error) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
                tracing::debug!(port = self.config.name, "the connection has more descriptors than can be kept");
            }
            Err(error) => {
                self.keeping.refuse(in_loop);
                self.info(in_loop, &format!("{NOT_KEPT}: {error}"));
            }
        }
    }

    /// The keeper has answered.
    pub fn on_kept(&mut self, in_loop: &Loop, answer: &io::Result<()>) {
        self.keeping.on_answer(&self.config.name, answer, in_loop);
        if let Err(error) = answer {
            self.warn(in_loop, &format!("{NOT_KEPT}: {error}"));
        }
    }
}
