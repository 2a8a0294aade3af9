//! What the supervisor does when another culvertd takes over from this one, and when this one takes over. What is said is in
//! [`giver`](crate::takeover::giver) and [`taker`](crate::takeover::taker); here is what is done about it.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::restarts::End;
use super::{Supervisor, child};
use crate::arguments::{EXIT_CONFIG, EXIT_FAILED};
use crate::broker::message::Wish;
use crate::takeover::giver::{self, Stage};
use crate::takeover::taker::{self, Heard, Taker};

/// Resolves at that time.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the culvertd that runs says, if this one takes over.
pub(super) async fn heard(taker: Option<&mut Taker>) -> Heard {
    match taker {
        Some(taker) => taker.next().await,
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// When an attempt to listen for another culvertd is due.
    pub(super) fn listen_due(&self) -> Option<Instant> {
        (!self.giver.listens() && self.taker.is_none()).then_some(self.listen_at)
    }

    /// Listens for another culvertd. One that this one has taken over from may listen still.
    pub(super) fn listen(&mut self) {
        match self.giver.listen(&self.takeover) {
            Ok(()) => {}
            Err(error) if error.is_taken() => self.listen_at = Instant::now() + LISTEN_AGAIN,
            Err(error) => {
                tracing::warn!("no other culvertd can take over from this one: {error}");
                self.listen_at = Instant::now() + LISTEN_LATER;
            }
        }
    }

    /// The daemon has said something.
    pub(super) fn follow(&mut self, daemon: Pid) {
        if self.giver.stage() == Some(Stage::Freezing) {
            match self.desk.turn.take_frozen() {
                None => {}
                Some(Ok(())) => {
                    if let Err(error) = self.giver.give(&self.desk, daemon) {
                        self.take_back(daemon, &error.to_string());
                    }
                }
                Some(Err(reason)) => {
                    self.giver.refuse(&reason);
                    self.desk.turn.set_wish(Wish::Nothing);
                }
            }
        }
        if let Some(taker) = &mut self.taker {
            let event = taker.follow(&self.desk, daemon);
            self.take(event, daemon);
        }
    }

    /// Another culvertd wants something. True: it serves, and this one is to end.
    pub(super) fn give(&mut self, event: giver::Event, daemon: Pid) -> bool {
        match event {
            giver::Event::HandOver if !self.desk.is_ready() || self.stopping || self.taker.is_some() => {
                self.giver.refuse("the culvertd that runs is just starting or ending; try again");
            }
            giver::Event::HandOver => {
                self.desk.turn.set_wish(Wish::Freeze);
                child::signal(daemon, Signal::USR1);
            }
            giver::Event::Taken => {
                // From here on there is no way back for this daemon: it must not move anything any more.
                child::signal(daemon, Signal::KILL);
                self.companions.stop();
                if let Err(error) = self.giver.permit() {
                    tracing::warn!("the other culvertd is not permitted to go on: {error}");
                }
            }
            giver::Event::Lost(Stage::Greeting | Stage::Preparing, reason) => self.giver.refuse(&reason),
            giver::Event::Lost(Stage::Freezing | Stage::Given, reason) => self.take_back(daemon, &reason),
            // The daemon has been ended: unless the other culvertd serves, that brings another one.
            giver::Event::Serving | giver::Event::Lost(Stage::Gone, _) => return self.give_after(event),
        }
        false
    }

    /// Whether another culvertd is just taking over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.giver.stage().is_some_and(|stage| stage != Stage::Greeting)
    }

    /// The daemon has ended. Waits for what becomes of a takeover; true: another culvertd serves.
    pub(super) async fn is_given_away(&mut self) -> bool {
        while self.giver.stage() == Some(Stage::Gone) {
            let event = self.giver.next(&[], false).await;
            if self.give_after(event) {
                return true;
            }
        }
        if self.giver.stage().is_some_and(|stage| stage != Stage::Greeting && stage != Stage::Preparing) {
            self.giver.take_back(false, "the daemon that was to be taken over from has died");
        }
        if self.giver.stage().is_none() {
            self.companions.resume();
        }
        false
    }

    fn give_after(&mut self, event: giver::Event) -> bool {
        match event {
            giver::Event::Serving => {
                tracing::info!("another culvertd has taken over: this one ends");
                true
            }
            giver::Event::Lost(_, reason) => {
                self.giver.take_back(true, &reason);
                false
            }
            giver::Event::HandOver | giver::Event::Taken => false,
        }
    }

    /// The other culvertd does not take over, and its daemon ends; this one's goes on.
    fn take_back(&mut self, daemon: Pid, reason: &str) {
        self.giver.take_back(false, reason);
        self.desk.turn.set_wish(Wish::Thaw);
        child::signal(daemon, Signal::USR1);
    }

    /// The supervisor is to stop: no takeover begins any more, and one that has begun comes to nothing, in either direction.
    pub(super) fn stop_takeover(&mut self, daemon: Pid) {
        match self.giver.stage() {
            None | Some(Stage::Gone) => {}
            Some(Stage::Greeting | Stage::Preparing) => self.giver.refuse(STOPPING),
            Some(Stage::Freezing | Stage::Given) => self.take_back(daemon, STOPPING),
        }
        if self.taker.is_some() {
            // It may hang up on nobody.
            child::signal(daemon, Signal::KILL);
        }
    }

    /// The culvertd that runs has said something.
    pub(super) fn hear(&mut self, heard: Heard, daemon: Pid) {
        if let Some(taker) = &mut self.taker {
            let event = taker.hear(heard, &mut self.desk);
            self.take(event, daemon);
        }
    }

    fn take(&mut self, event: taker::Event, daemon: Pid) {
        match event {
            taker::Event::Nothing => {}
            taker::Event::Ours => {
                self.taker = None;
                self.listen_at = Instant::now();
                self.companions.resume();
            }
            taker::Event::Failed(reason) => {
                tracing::error!("the takeover has failed, and the culvertd that runs goes on: {reason}");
                if let Some(taker) = &mut self.taker {
                    taker.give_up();
                }
                // Its end ends this process.
                child::signal(daemon, Signal::KILL);
            }
        }
    }

    /// The exit code of a supervisor whose daemon has ended before it could take over.
    pub(super) fn has_not_taken_over(&self, end: End) -> ExitCode {
        tracing::error!("this culvertd has not taken over: its daemon ended by {end}; the one that runs goes on");
        ExitCode::from(if end == End::Exit(EXIT_CONFIG) { EXIT_CONFIG } else { EXIT_FAILED })
    }
}

/// How often it is looked whether the culvertd before has left its socket.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);
/// The same when something else is in the way.
const LISTEN_LATER: Duration = Duration::from_secs(10);

const STOPPING: &str = "the culvertd that runs is told to stop";
