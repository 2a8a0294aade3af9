//! A peer under load: started, loaded from a thread of its own, ended. And the load that most scenarios use, guests of which
//! one thread drives all rings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::core_to_core;
use crate::load::LoadGuest;
use crate::peer::{Busy, Peer, Setup, Switch};
use crate::scenario::Figure;

/// Starts a peer and runs `load` on a thread that is bound to `core`. The peer is started by the present thread, so that it
/// does not inherit that core, nor ends with the load's thread.
///
/// # Errors
/// The peer does not start, or what the load says; with what the peer says.
pub fn under_load<T: Send>(
    peer: Peer,
    setup: &Setup,
    core: usize,
    load: impl FnOnce(&mut Switch) -> Result<T> + Send,
) -> Result<T> {
    let mut switch = Switch::start(peer, setup)?;
    let bound = || {
        core_to_core::bind(core);
        load(&mut switch)
    };
    let outcome = std::thread::scope(|scope| scope.spawn(bound).join());
    outcome.unwrap_or_else(|_| bail!("the load panicked")).with_context(|| switch.explain())
}

/// Two guests that send to each other.
pub struct Pair {
    /// Both guests.
    pub guests: [LoadGuest; 2],
}

impl Pair {
    /// Lets both send until both have sent `frames` at least and some time has passed: so all addresses are learned, and
    /// whatever is done once is done.
    pub fn warm_up(&mut self, frames: u64) -> Result<()> {
        let start = Instant::now();
        while self.guests.iter().any(|guest| guest.taken() < frames) {
            self.drive(Duration::from_millis(10), [true; 2])?;
            ensure!(start.elapsed() < LIMIT, "no {frames} frames were taken within {LIMIT:?}");
        }
        self.drive(WARM_UP, [true; 2])?;
        ensure!(self.received() > 0, "no frame arrived");
        Ok(())
    }

    /// Drives both for a time, sending or not.
    pub fn drive(&mut self, time: Duration, sending: [bool; 2]) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            for _ in 0..64 {
                for (guest, sending) in self.guests.iter_mut().zip(sending) {
                    guest.turn(sending)?;
                }
            }
        }
        Ok(())
    }

    /// Frames that both received so far.
    pub fn received(&self) -> u64 {
        self.guests.iter().map(LoadGuest::received).sum()
    }

    /// How many frames pass, and what each costs the switching core.
    pub fn measure(&mut self, switch: &mut Switch, time: Duration, sending: [bool; 2]) -> Result<Vec<Figure>> {
        let busy = switch.busy()?;
        let (before, start) = (self.received(), Instant::now());
        self.drive(time, sending)?;
        let rate = (self.received() - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
        self.guests.iter().try_for_each(LoadGuest::check)?;
        ensure!(rate > 0.0, "no frame arrived");
        let mut figures = vec![Figure::gain(RATE, MILLIONS, rate)];
        figures.extend(busy_figure(switch, busy)?);
        Ok(figures)
    }
}

/// What each frame since `before` has cost the switching core, of peers that count it.
///
/// # Errors
/// The peer does not answer.
pub fn busy_figure(switch: &mut Switch, before: Option<Busy>) -> Result<Option<Figure>> {
    let (Some(before), Some(after)) = (before, switch.busy()?) else { return Ok(None) };
    let each = after.each_since(&before);
    Ok(each.is_finite().then(|| Figure::cost("busy", "ns/frame", each)))
}

/// The name of the rate in all scenarios that have one, and its unit.
pub const RATE: &str = "rate";
pub const MILLIONS: &str = "Mframes/s";

const WARM_UP: Duration = Duration::from_millis(200);

/// The longest that anything may take that is not measured.
const LIMIT: Duration = Duration::from_secs(20);
