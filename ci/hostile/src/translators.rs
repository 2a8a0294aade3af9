//! Translators for the cases of hostile frames: the victim's, made anew for each case, and a neighbour's, which runs through all of them.
//!
//! Each has a pod and a world of its own, as on a node. The victim's guest is our own driver, so that every byte can be chosen. The
//! neighbour's is another TCP/IP (smoltcp) in a thread of its own: it keeps a connection on which numbers are echoed by its world,
//! and opens another one every now and then, whose time is taken.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's own buffers, of sizes that it has chosen"
)]

mod neighbour;
mod victim;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_system::qemu::Transport;
use culvert_system::translator::Pod;

pub use neighbour::{Neighbour, Seen};
pub use victim::{Connection, Victim};

/// A pod for victims, and a neighbour at work.
pub struct Translators {
    pod: Pod,
    // It leaves before its pod.
    neighbour: Neighbour,
    _neighbours_pod: Pod,
}

impl Translators {
    /// Makes both pods and starts the neighbour.
    ///
    /// # Errors
    /// The test is not root, or the neighbour's connection does not come to be.
    pub fn start() -> Result<Self> {
        // Several fields may each have some.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let neighbours_pod = Pod::named(&format!("neighbour-{number}"))?;
        let translator = neighbours_pod.translator("neighbour", Transport::VhostUser, OPTIONS)?;
        let neighbour = Neighbour::start(&neighbours_pod, translator)?;
        Ok(Self { pod: Pod::named(&format!("victim-{number}"))?, neighbour, _neighbours_pod: neighbours_pod })
    }

    /// Starts a translator in the victims' pod with further options, and connects its guest.
    ///
    /// # Errors
    /// It does not start, or refuses the guest.
    pub fn victim(&self, options: &str) -> Result<Victim<'_>> {
        self.victim_by(&[], options)
    }

    /// As [`Translators::victim`], started by another program, such as `prlimit`.
    ///
    /// # Errors
    /// It does not start, or refuses the guest.
    pub fn victim_by(&self, by: &[&str], options: &str) -> Result<Victim<'_>> {
        let options = format!("{OPTIONS} {options}");
        let translator = self.pod.translator_by("victim", by, Transport::VhostUser, options.trim())?;
        Victim::connect(&self.pod, translator)
    }

    /// The pod of the victims.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The neighbour.
    pub fn neighbour(&self) -> &Neighbour {
        &self.neighbour
    }

    /// Plays an act against a fresh victim, then sees that its translator still serves and ends in order, and that the neighbour has
    /// lost nothing.
    ///
    /// # Errors
    /// The act's, and whatever is not as it should be.
    pub fn play(&self, options: &str, act: impl FnOnce(&mut Victim<'_>) -> Result<()>) -> Result<()> {
        self.play_by(&[], options, act)
    }

    /// As [`Translators::play`], with a translator that is started by another program.
    ///
    /// # Errors
    /// The act's, and whatever is not as it should be.
    pub fn play_by(&self, by: &[&str], options: &str, act: impl FnOnce(&mut Victim<'_>) -> Result<()>) -> Result<()> {
        self.neighbour.mark();
        let mut victim = self.victim_by(by, options)?;
        let played = act(&mut victim);
        let ended = victim.end();
        played?;
        ended?;
        let seen = self.neighbour.settle()?;
        ensure!(seen.wrong == 0, "the neighbour got {} wrong answers", seen.wrong);
        ensure!(seen.longest_gap < LONGEST_GAP, "the neighbour's connection stood still for {:?}", seen.longest_gap);
        Ok(())
    }
}

/// Those that culvert-hook gives, but for the ports.
const OPTIONS: &str = "--no-map-gw";

/// A connection that stands still for longer is as good as broken. It is far above what a busy machine makes of it.
const LONGEST_GAP: Duration = Duration::from_secs(5);
