//! The guest moves: what the frontend wants of our state (vhost-user, "Migrating back-end state"), and what becomes of the
//! guest's flows.
//!
//! At its old place the state is saved once the guest is stopped, and handed over through a pipe; flows are held. When the
//! guest runs again here, the migration has failed, and they go on; when the frontend leaves, it has gone, and they are dropped
//! in silence. At its new place the state is loaded, and flows are made, held; they go on with the guest's first ring, and
//! vanish in silence if the frontend leaves before. What the frontend cannot tell us is so never guessed.
//!
//! All threads do their part, the first one asks them. The pipe is read and written in the event loop.

mod pipe;

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow, bail};
use culvert_translate::forward::Rule;
use culvert_translate::link::NoLink;
use culvert_translate::migration::{MAX_BYTES, State};
use culvert_translate::time::Instant;
use culvert_translate::translator::{MoveAnswer, MoveOrder};
use culvert_vhost::session::StateWish;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use crate::running::Running;
use pipe::Pipe;

/// How far a guest's move is.
#[derive(Debug)]
pub struct Migration {
    phase: Phase,
    registry: Registry,
    token: Token,
    /// A move in which a flow is lost fails.
    strict: bool,
    /// The most bytes of a state.
    most: usize,
    /// What is forwarded because it was where the guest came from.
    adopted: Vec<Rule>,
}

#[derive(Debug)]
enum Phase {
    /// It does not move.
    Staying,
    /// Its state is written: what, and how much of it was.
    Saving(Pipe, Vec<u8>, usize),
    /// It is written; or it could not be.
    Saved(bool),
    /// It is read.
    Loading(Pipe, Vec<u8>),
    /// It cannot be read.
    Unreadable(Errno),
    /// It is taken over.
    Loaded,
}

impl Migration {
    /// It does not move. Events of the pipe come as `token`.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(registry: &Registry, token: Token, strict: bool) -> Result<Self> {
        Ok(Self {
            phase: Phase::Staying,
            registry: registry.try_clone()?,
            token,
            strict,
            most: MAX_BYTES,
            adopted: Vec::new(),
        })
    }

    /// Does what the frontend wants. Whether it is done, or has begun.
    pub fn wish(&mut self, now: Instant, wish: StateWish, running: &mut Running) -> bool {
        let (what, result) = match wish {
            StateWish::Save(file) => ("the guest's flows cannot be handed over", self.save(now, file, running)),
            StateWish::Load(file) => ("the guest's flows cannot be taken over", self.begin_to_load(now, file, running)),
            StateWish::Check => ("the guest's move fails", self.check(now, running)),
        };
        result.inspect_err(|error| tracing::error!("{what}: {error:#}")).is_ok()
    }

    /// The guest's rings are there.
    pub fn guest_came(&mut self, now: Instant, running: &mut Running) {
        match std::mem::replace(&mut self.phase, Phase::Staying) {
            Phase::Staying | Phase::Loading(..) | Phase::Unreadable(_) => {}
            Phase::Saving(..) | Phase::Saved(_) => {
                tracing::info!("the guest stays here: its flows go on");
                order(now, || MoveOrder::GoOn, running);
            }
            Phase::Loaded => {
                tracing::info!("the guest is here: its flows go on");
                order(now, || MoveOrder::GoOn, running);
            }
        }
    }

    /// The frontend has gone.
    pub fn guest_left(&mut self, now: Instant, running: &mut Running) {
        match std::mem::replace(&mut self.phase, Phase::Staying) {
            Phase::Staying | Phase::Loading(..) | Phase::Unreadable(_) => {}
            Phase::Saving(..) | Phase::Saved(_) | Phase::Loaded => {
                tracing::info!("the guest is elsewhere: its flows are none of ours any more");
                self.forget_all(now, running);
            }
        }
    }

    /// The pipe is ready.
    pub fn ready(&mut self) {
        match &mut self.phase {
            Phase::Saving(pipe, bytes, written) => {
                if let Some(result) = pipe.write_some(bytes, written) {
                    if let Err(error) = &result {
                        tracing::error!("the guest's flows cannot be handed over: {error}");
                    }
                    self.phase = Phase::Saved(result.is_ok());
                }
            }
            Phase::Loading(pipe, bytes) => {
                // The frontend hears of it when it asks.
                if let Err(error) = pipe.read_some(bytes, self.most) {
                    self.phase = Phase::Unreadable(error);
                }
            }
            Phase::Staying | Phase::Saved(_) | Phase::Unreadable(_) | Phase::Loaded => {}
        }
    }

    fn save(&mut self, now: Instant, file: OwnedFd, running: &mut Running) -> Result<()> {
        self.end_what_was(now, running);
        let count = running.lanes.as_ref().map_or(1, |lanes| lanes.count());
        let rules = running.rules();
        let answers = order(now, || MoveOrder::Save(rules.clone(), MAX_BYTES / 2 / count), running);
        let lost: u64 = answers.iter().map(|answer| answer.lost).sum();
        let state = answers.into_iter().filter_map(|answer| answer.state).reduce(|mut all, part| {
            all.add(part);
            all
        });
        let saved = state.context("there is no state").and_then(|state| {
            if lost > 0 && self.strict {
                bail!("{lost} of them would be lost (--migrate-strict)");
            }
            self.begin_to_save(file, &state)
        });
        match saved {
            Ok((connections, bytes)) => {
                tracing::info!("the guest moves: {connections} connections in {bytes} bytes; {lost} flows are lost");
                Ok(())
            }
            Err(error) => {
                order(now, || MoveOrder::GoOn, running);
                Err(error)
            }
        }
    }

    fn begin_to_save(&mut self, file: OwnedFd, state: &State) -> Result<(usize, usize)> {
        let bytes = state.to_bytes();
        if bytes.len() > self.most {
            bail!("they take more than {} bytes", self.most);
        }
        let pipe = Pipe::new(file, &self.registry, self.token, Interest::WRITABLE)?;
        let told = (state.tcp.len(), bytes.len());
        self.phase = Phase::Saving(pipe, bytes, 0);
        Ok(told)
    }

    fn begin_to_load(&mut self, now: Instant, file: OwnedFd, running: &mut Running) -> Result<()> {
        self.end_what_was(now, running);
        let pipe = Pipe::new(file, &self.registry, self.token, Interest::READABLE)?;
        self.phase = Phase::Loading(pipe, Vec::new());
        Ok(())
    }

    /// A frontend that changes its mind begins anew.
    fn end_what_was(&mut self, now: Instant, running: &mut Running) {
        match std::mem::replace(&mut self.phase, Phase::Staying) {
            Phase::Saving(..) | Phase::Saved(_) => drop(order(now, || MoveOrder::GoOn, running)),
            Phase::Loaded => self.forget_all(now, running),
            Phase::Staying | Phase::Loading(..) | Phase::Unreadable(_) => {}
        }
    }

    /// Nothing is left of the guest, nor of what came with it.
    fn forget_all(&mut self, now: Instant, running: &mut Running) {
        order(now, || MoveOrder::ForgetAll, running);
        running.give_up_forwards(&std::mem::take(&mut self.adopted));
    }

    fn check(&mut self, now: Instant, running: &mut Running) -> Result<()> {
        // The frontend has read all, or has written all and closed its end.
        self.ready();
        match std::mem::replace(&mut self.phase, Phase::Staying) {
            Phase::Saved(true) => {
                self.phase = Phase::Saved(true);
                Ok(())
            }
            Phase::Saved(false) => {
                self.phase = Phase::Saved(false);
                bail!("they could not be written")
            }
            Phase::Saving(..) => {
                self.phase = Phase::Saved(false);
                bail!("not all was read")
            }
            Phase::Loading(pipe, mut bytes) => {
                if !pipe.read_some(&mut bytes, self.most).context(UNREADABLE)? {
                    bail!("the state's end is missing");
                }
                let state = State::from_bytes(&bytes)?;
                drop((pipe, bytes));
                self.load(now, state, running)
            }
            Phase::Unreadable(error) => Err(error).context(UNREADABLE),
            Phase::Staying => bail!("nothing was saved or loaded"),
            Phase::Loaded => {
                self.phase = Phase::Loaded;
                Ok(())
            }
        }
    }

    fn load(&mut self, now: Instant, mut state: State, running: &mut Running) -> Result<()> {
        let count = running.lanes.as_ref().map_or(1, |lanes| lanes.count());
        let rules = std::mem::take(&mut state.forwards);
        let connections = state.tcp.len();
        let lost_there = state.tcp.iter().filter(|flow| flow.connection.has_stream() && flow.stream.is_none()).count();
        let mut parts = state.parts(count).into_iter();
        let answers =
            order(now, || parts.next().map_or(MoveOrder::GoOn, |part| MoveOrder::Load(Box::new(part))), running);
        let lost = answers.iter().map(|answer| answer.lost).sum::<u64>();
        let misfit = answers.iter().find_map(|answer| answer.misfit);
        let failure = match misfit {
            Some(misfit) => Some(misfit.into()),
            None if lost > 0 && self.strict => {
                Some(anyhow!("{lost} flows would be lost (--migrate-strict): `stats` tells why"))
            }
            None => None,
        };
        if let Some(failure) = failure {
            self.forget_all(now, running);
            return Err(failure);
        }
        self.adopted.extend(running.adopt_forwards(rules));
        self.phase = Phase::Loaded;
        tracing::info!("a guest comes with {connections} connections; {} flows are lost", lost + lost_there as u64);
        Ok(())
    }
}

/// Has all threads do something; the answers, the first one's first.
fn order(now: Instant, mut order: impl FnMut() -> MoveOrder, running: &mut Running) -> Vec<MoveAnswer> {
    let own = order();
    let others = running.lanes.as_ref().map(|lanes| lanes.move_all(std::iter::repeat_with(order)));
    let Running { translator, sockets, .. } = running;
    let mut answers = vec![translator.obey(now, own, sockets, &mut NoLink)];
    answers.extend(others.into_iter().flatten());
    answers
}

const UNREADABLE: &str = "the state cannot be read";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use mio::Poll;

    use super::*;

    /// Whoever writes for ever is not listened to for ever.
    #[test]
    fn a_state_that_is_too_long_is_not_kept() {
        let poll = Poll::new().unwrap();
        let mut migration = Migration::new(poll.registry(), Token(1), false).unwrap();
        migration.most = 100_000;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pipe = Pipe::new(reader.into(), poll.registry(), Token(1), Interest::READABLE).unwrap();
        migration.phase = Phase::Loading(pipe, Vec::new());
        for _ in 0..10 {
            if writer.write_all(&[0; 30_000]).is_err() {
                break;
            }
            migration.ready();
            if let Phase::Loading(_, bytes) = &migration.phase {
                assert!(bytes.len() <= 100_000, "{}", bytes.len());
            }
        }
        assert!(matches!(migration.phase, Phase::Unreadable(Errno::FBIG)));
        assert!(writer.write_all(&[0]).is_err(), "it is closed");
    }

    /// A frontend that keeps its pipe can hand it over again, and is not heard of in between.
    #[test]
    fn a_pipe_is_forgotten() {
        let mut poll = Poll::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let kept: OwnedFd = reader.into();
        for _ in 0..2 {
            let file = kept.try_clone().unwrap();
            drop(Pipe::new(file, poll.registry(), Token(1), Interest::READABLE).unwrap());
        }
        writer.write_all(b"x").unwrap();
        let mut events = mio::Events::with_capacity(1);
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        assert!(events.is_empty());
    }
}
