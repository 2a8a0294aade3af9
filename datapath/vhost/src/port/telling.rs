//! What a port tells: its state to the rest of the daemon, what happens to people, within the limits of its log.

use super::{Link, Loop, Port};
use crate::backend::{Connection, SocketState};
use crate::helper::Job;
use crate::log_limit::Kind;

impl Port {
    pub(super) fn report_session(&mut self, in_loop: &Loop) {
        if let Link::Open(open) = &self.link {
            let connection = Connection { peer: open.peer, session: open.session.status() };
            self.report(in_loop, SocketState::Connected(connection));
        }
    }

    pub(super) fn report(&mut self, in_loop: &Loop, state: SocketState) {
        if self.reported.as_ref() != Some(&state) {
            self.reported = Some(state.clone());
            in_loop.states.set(self.config.port, state.clone());
            let _ = in_loop.jobs.send(Job::State { port: self.config.port, state });
        }
    }

    /// The socket cannot be used at present.
    pub(super) fn fail(&mut self, in_loop: &Loop, reason: String) {
        let state = SocketState::Failed { reason };
        if self.reported.as_ref() != Some(&state)
            && let SocketState::Failed { reason } = &state
        {
            self.warn(in_loop, reason);
        }
        self.report(in_loop, state);
    }

    pub(super) fn warn(&mut self, in_loop: &Loop, text: &str) {
        self.tell(in_loop, Kind::Warning, text);
    }

    pub(super) fn info(&mut self, in_loop: &Loop, text: &str) {
        self.tell(in_loop, Kind::Info, text);
    }

    pub(super) fn tell(&mut self, in_loop: &Loop, kind: Kind, text: &str) {
        let Some(left_out) = self.log.permit(kind, in_loop.now) else { return };
        match kind {
            Kind::Info => tracing::info!(port = self.config.name, left_out, "{text}"),
            Kind::Warning | Kind::Quarantine => tracing::warn!(port = self.config.name, left_out, "{text}"),
        }
    }
}
