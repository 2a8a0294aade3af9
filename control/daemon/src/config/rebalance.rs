//! The keys of `[datapath]` that say when queues move from one worker to another by themselves, as Open vSwitch's `pmd-auto-lb` and its
//! fellows do.

use std::time::Duration;

use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, set};

/// When queues move between workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// Whether they do by themselves, and not only when somebody says so; not by default.
    pub auto: bool,
    /// How often that is looked at; every minute by default.
    pub interval: Duration,
    /// They move by themselves when a worker is busy for so many percent of its time or more; 95 by default.
    pub load: u8,
    /// They move when the variance of the workers' loads becomes smaller by so many percent or more; 25 by default.
    pub improvement: u8,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { auto: false, interval: Duration::from_secs(60), load: 95, improvement: 25 }
    }
}

impl Rebalance {
    /// Reads its keys from the `[datapath]` section.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        let mut rebalance = Self::default();
        let choices = [("manual", false), ("auto", true)];
        set(&mut rebalance.auto, section.optional(report, "rebalance", |value| value::choice(value, &choices)));
        let range = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        let read_interval = |value: &DeValue<'_>| value::duration(value, range, "\"1m\"");
        set(&mut rebalance.interval, section.optional(report, "rebalance_interval", read_interval));
        let read_percent = |value: &DeValue<'_>| value::number(value, 0..=100);
        set(&mut rebalance.load, section.optional(report, "rebalance_load", read_percent));
        set(&mut rebalance.improvement, section.optional(report, "rebalance_improvement", read_percent));
        rebalance
    }

    /// The keys whose values differ.
    pub(super) fn differences(&self, other: &Self) -> [(&'static str, bool); 4] {
        [
            ("datapath.rebalance", self.auto != other.auto),
            ("datapath.rebalance_interval", self.interval != other.interval),
            ("datapath.rebalance_load", self.load != other.load),
            ("datapath.rebalance_improvement", self.improvement != other.improvement),
        ]
    }
}
