//! How much of the node one guest may use: flows, descriptors, and how fast it opens them.
//!
//! One budget for all protocols. A flow costs a descriptor, so the number of flows follows from the process's limit on
//! them (RLIMIT_NOFILE), less a reserve for listeners, the control socket and the transport. New flows are paid from a
//! bucket that fills at a steady rate, so that a scan of the guest's cannot starve the machine of ports and memory.

use std::time::{Duration, Instant};

use crate::refusal::Refusal;

/// What was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Flows at one time, of all protocols.
    pub flows: u32,
    /// New flows a second, in the long run; `burst` at once.
    pub new_flows: u32,
    /// New flows at once.
    pub burst: u32,
}

/// The most flows that there may be whatever the descriptors, as with passt.
pub const MAX_FLOWS: u32 = 131_072;

impl Default for LimitSettings {
    fn default() -> Self {
        Self { flows: MAX_FLOWS, new_flows: 50_000, burst: 20_000 }
    }
}

/// The budget of one guest.
#[derive(Clone, Debug)]
pub struct Limits {
    settings: LimitSettings,
    open: u32,
    /// New flows that may still be opened, in nanoseconds of waiting for them.
    credit: Duration,
    filled: Option<Instant>,
}

impl Limits {
    /// Nothing is open.
    pub fn new(settings: LimitSettings) -> Self {
        let mut limits = Self { settings, open: 0, credit: Duration::ZERO, filled: None };
        limits.credit = limits.full();
        limits
    }

    /// Takes room for one flow.
    ///
    /// # Errors
    /// [`Refusal::TooManyFlows`], [`Refusal::TooFast`].
    pub fn open(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.open >= self.settings.flows {
            return Err(Refusal::TooManyFlows);
        }
        let waited = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.credit = (self.credit + waited).min(self.full());
        self.filled = Some(now);
        self.credit = self.credit.checked_sub(self.price()).ok_or(Refusal::TooFast)?;
        self.open += 1;
        Ok(())
    }

    /// Gives the room of one flow back.
    pub fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Flows that are open.
    pub const fn in_use(&self) -> u32 {
        self.open
    }

    /// What was configured.
    pub const fn settings(&self) -> LimitSettings {
        self.settings
    }

    fn price(&self) -> Duration {
        Duration::from_secs(1) / self.settings.new_flows.max(1)
    }

    fn full(&self) -> Duration {
        self.price() * self.settings.burst.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_paces() {
        let start = Instant::now();
        let mut limits = Limits::new(LimitSettings { flows: 3, new_flows: 10, burst: 2 });
        assert_eq!(limits.open(start), Ok(()));
        assert_eq!(limits.open(start), Ok(()));
        assert_eq!(limits.open(start), Err(Refusal::TooFast));
        assert_eq!(limits.open(start + Duration::from_millis(99)), Err(Refusal::TooFast));
        assert_eq!(limits.open(start + Duration::from_millis(100)), Ok(()));
        assert_eq!(limits.open(start + Duration::from_secs(9)), Err(Refusal::TooManyFlows));
        limits.close();
        assert_eq!(limits.open(start + Duration::from_secs(9)), Ok(()));
        assert_eq!(limits.in_use(), 3);
    }
}
