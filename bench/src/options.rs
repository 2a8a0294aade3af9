//! What a run is asked to be. Every scenario takes the part that concerns it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::load::Rings;
use crate::peer::Peer;

/// How to measure.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Rounds; in each one every peer is measured once, in turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only these peers; the others are compared with the first.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// Only cases with one of these words in their names.
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// The core that drives the guests, and the one that switches. Where there are Linux guests: the cores of both guests and of the switch.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    pub cores: Vec<usize>,
    /// Frame lengths in bytes, where a scenario has several.
    #[arg(long, value_delimiter = ',', default_value = "64,512,1500,9000")]
    pub sizes: Vec<u32>,
    /// Entries of the guests' rings.
    #[arg(long, default_value_t = 256)]
    pub ring: u16,
    /// Guests' memory in pages of 2 MiB, whoever switches; of those that this program plays.
    #[arg(long)]
    pub hugepages: bool,
    /// TCP connections at the same time. One alone waits for wake-ups more than for anything else where guests and switch share cores.
    #[arg(long, default_value_t = 4)]
    pub streams: u32,
    /// Congestion control of TCP in the pod and in the world of a translator: Linux's own default, whatever the host's is.
    #[arg(long, default_value = "cubic")]
    pub congestion: String,
    /// MTUs that the translator's guest is told; 0: the translator's own default.
    #[arg(long, value_delimiter = ',', default_value = "1500,0")]
    pub mtus: Vec<u16>,
    /// Loss that counts as none, in frames of a million: some where other programs take the cores at times.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// The folder for results; each run makes one of its own in it.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
}

impl Options {
    /// The core that drives the guests.
    pub fn load_core(&self) -> usize {
        self.cores.first().copied().unwrap_or(0)
    }

    /// The core that switches.
    pub fn switch_core(&self) -> usize {
        self.cores.last().copied().unwrap_or(1)
    }

    /// The cores of two Linux guests: the second is the switch's where only two are given.
    pub fn guest_cores(&self) -> [usize; 2] {
        [self.load_core(), self.cores.get(1).copied().unwrap_or(1)]
    }

    /// The guests' rings.
    pub fn rings(&self) -> Rings {
        Rings { entries: self.ring, packed: false, huge: self.hugepages }
    }

    /// The time of a measurement.
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The same in whole seconds, one at least, for iperf3.
    pub fn whole_seconds(&self) -> u32 {
        self.seconds.ceil().max(1.0) as u32
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// What is wrong, and what may be.
    pub fn check(&self) -> Result<()> {
        if self.rounds == 0 || self.seconds <= 0.0 {
            bail!("--rounds and --seconds must be more than 0");
        }
        if !(2..=3).contains(&self.cores.len()) || self.load_core() == self.switch_core() {
            bail!("--cores needs two different cores, or three");
        }
        if !self.ring.is_power_of_two() || !(64..=1024).contains(&self.ring) {
            bail!("--ring must be a power of 2 from 64 to 1024");
        }
        match self.sizes.iter().find(|&&size| !(64..=9000).contains(&size)) {
            Some(size) => bail!("--sizes: {size} is not from 64 to 9000"),
            None => Ok(()),
        }
    }
}
