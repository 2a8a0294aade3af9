//! How much of the node one guest may use: flows, descriptors, and how fast it opens them.
//!
//! One budget for all protocols, of which each has a share that the others cannot take: connections of TCP make no room
//! for others, so a guest full of them could not even ask for a name. A flow costs a descriptor, so the number of flows
//! follows from the process's limit on them (RLIMIT_NOFILE), less a reserve for listeners, the control socket and the
//! transport. New flows are paid from a
//! bucket that fills at a steady rate, so that a scan of the guest's cannot starve the machine of ports and memory.

use std::time::Duration;

use crate::refusal::Refusal;
use crate::time::Instant;

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

/// Who has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Connections of TCP: three quarters at most.
    Tcp,
    /// Flows of UDP datagrams: what TCP leaves, a quarter at least, less the share of echo.
    Udp,
    /// Series of echo requests: a sixteenth at least.
    Echo,
}

impl LimitSettings {
    /// The most connections of TCP.
    pub const fn tcp_flows(&self) -> u32 {
        self.flows - self.flows / 4
    }

    /// The flows that are kept for echo.
    pub const fn echo_flows(&self) -> u32 {
        self.flows / 16
    }
}

/// The budget of one guest.
#[derive(Clone, Debug)]
pub struct Limits {
    settings: LimitSettings,
    tcp: u32,
    udp: u32,
    echo: u32,
    /// New flows that may still be opened, in nanoseconds of waiting for them.
    credit: Duration,
    filled: Option<Instant>,
}

impl Limits {
    /// Nothing is open.
    pub fn new(settings: LimitSettings) -> Self {
        let mut limits = Self { settings, tcp: 0, udp: 0, echo: 0, credit: Duration::ZERO, filled: None };
        limits.credit = limits.full();
        limits
    }

    /// Takes room for one flow.
    ///
    /// # Errors
    /// [`Refusal::TooManyFlows`], [`Refusal::TooFast`].
    pub fn open(&mut self, now: Instant, share: Share) -> Result<(), Refusal> {
        if !self.has_room(share) {
            return Err(Refusal::TooManyFlows);
        }
        let waited = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.credit = (self.credit + waited).min(self.full());
        self.filled = Some(now);
        self.credit = self.credit.checked_sub(self.price()).ok_or(Refusal::TooFast)?;
        *self.count(share) += 1;
        Ok(())
    }

    /// Gives the room of one flow back.
    pub fn close(&mut self, share: Share) {
        let count = self.count(share);
        *count = count.saturating_sub(1);
    }

    /// Flows that are open.
    pub const fn in_use(&self) -> u32 {
        self.tcp + self.udp + self.echo
    }

    fn has_room(&self, share: Share) -> bool {
        let LimitSettings { flows, .. } = self.settings;
        let kept = self.settings.echo_flows();
        // What echo has beyond its share is taken from the others'.
        let left = flows.saturating_sub(self.tcp + self.udp + self.echo.max(kept));
        match share {
            Share::Tcp => left > 0 && self.tcp < self.settings.tcp_flows(),
            Share::Udp => left > 0,
            Share::Echo => self.echo < kept || left > 0,
        }
    }

    const fn count(&mut self, share: Share) -> &mut u32 {
        match share {
            Share::Tcp => &mut self.tcp,
            Share::Udp => &mut self.udp,
            Share::Echo => &mut self.echo,
        }
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
        let open = |limits: &mut Limits, millis| limits.open(start + Duration::from_millis(millis), Share::Udp);
        assert_eq!(open(&mut limits, 0), Ok(()));
        assert_eq!(open(&mut limits, 0), Ok(()));
        assert_eq!(open(&mut limits, 0), Err(Refusal::TooFast));
        assert_eq!(open(&mut limits, 99), Err(Refusal::TooFast));
        assert_eq!(open(&mut limits, 100), Ok(()));
        assert_eq!(open(&mut limits, 9000), Err(Refusal::TooManyFlows));
        limits.close(Share::Udp);
        assert_eq!(open(&mut limits, 9000), Ok(()));
        assert_eq!(limits.in_use(), 3);
    }

    #[test]
    fn nobody_takes_the_share_of_another() {
        let now = Instant::now();
        let fill = |limits: &mut Limits, share| (0..100).take_while(|_| limits.open(now, share).is_ok()).count();
        let mut limits = Limits::new(LimitSettings { flows: 32, ..LimitSettings::default() });
        assert_eq!([Share::Tcp, Share::Udp, Share::Echo].map(|share| fill(&mut limits, share)), [24, 6, 2]);
        let mut limits = Limits::new(LimitSettings { flows: 32, ..LimitSettings::default() });
        assert_eq!([Share::Udp, Share::Tcp, Share::Echo].map(|share| fill(&mut limits, share)), [30, 0, 2]);
        limits.close(Share::Udp);
        assert_eq!([Share::Echo, Share::Tcp].map(|share| fill(&mut limits, share)), [1, 0]);
        // Of few there is one for whoever comes first.
        let mut limits = Limits::new(LimitSettings { flows: 1, ..LimitSettings::default() });
        assert_eq!([Share::Echo, Share::Tcp, Share::Udp].map(|share| fill(&mut limits, share)), [1, 0, 0]);
    }
}
