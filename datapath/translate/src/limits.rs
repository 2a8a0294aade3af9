//! How much of the node one guest may use: flows, descriptors, and how fast it opens them.
//!
//! One budget for all protocols, of which each has a share that the others cannot take: connections of TCP make no room
//! for others, so a guest full of them could not even ask for a name. A flow costs a descriptor, so the number of flows
//! follows from the process's limit on them (RLIMIT_NOFILE), less a reserve for listeners, the control socket and the
//! transport. New flows are paid from a
//! bucket that fills at a steady rate, so that a scan of the guest's cannot starve the machine of ports and memory. Where
//! several threads serve a guest ([`crate::lane`]) it is still one budget, which is locked when a flow begins or ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The most flows of UDP that there may be.
const MAX_UDP_FLOWS: u32 = 32_768;

impl Default for LimitSettings {
    fn default() -> Self {
        Self { flows: MAX_FLOWS, new_flows: 50_000, burst: 20_000 }
    }
}

/// Who has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Connections of TCP: four fifths at most.
    Tcp,
    /// Flows of UDP datagrams: half at most, and what TCP leaves, a fifth at least, less the share of echo. Where there
    /// are several threads each has an equal part of that last in any case.
    Udp,
    /// Series of echo requests: a sixteenth at least.
    Echo,
}

impl LimitSettings {
    /// The most connections of TCP.
    pub const fn tcp_flows(&self) -> u32 {
        self.flows - self.flows / 5
    }

    /// The most flows of UDP.
    pub fn udp_flows(&self) -> u32 {
        (self.flows / 2).clamp(1, MAX_UDP_FLOWS)
    }

    /// The flows that are kept for echo.
    pub const fn echo_flows(&self) -> u32 {
        self.flows / 16
    }
}

/// The budget of one guest, as one thread has it.
#[derive(Debug)]
pub struct Limits(Held);

#[derive(Debug)]
enum Held {
    Alone(Budget),
    /// What was configured, the budget, and which thread this is.
    Shared(LimitSettings, Arc<Mutex<Budget>>, usize),
}

impl Limits {
    /// Nothing is open.
    pub fn new(settings: LimitSettings) -> Self {
        Self(Held::Alone(Budget::new(settings, 1)))
    }

    /// One budget for `count` threads.
    pub fn shared(settings: LimitSettings, count: usize) -> Vec<Self> {
        let budget = Arc::new(Mutex::new(Budget::new(settings, count)));
        (0..count).map(|thread| Self(Held::Shared(settings, Arc::clone(&budget), thread))).collect()
    }

    /// Takes room for one flow.
    ///
    /// # Errors
    /// [`Refusal::TooManyFlows`], [`Refusal::TooFast`].
    pub fn open(&mut self, now: Instant, share: Share) -> Result<(), Refusal> {
        match &mut self.0 {
            Held::Alone(budget) => budget.open(now, share, 0),
            Held::Shared(_, budget, thread) => locked(budget).open(now, share, *thread),
        }
    }

    /// The same for one that comes with its guest from another machine: how fast flows begin there was seen to there.
    ///
    /// # Errors
    /// [`Refusal::TooManyFlows`].
    pub fn take(&mut self, share: Share) -> Result<(), Refusal> {
        match &mut self.0 {
            Held::Alone(budget) => budget.take(share, 0),
            Held::Shared(_, budget, thread) => locked(budget).take(share, *thread),
        }
    }

    /// Gives the room of one flow back.
    pub fn close(&mut self, share: Share) {
        match &mut self.0 {
            Held::Alone(budget) => budget.close(share, 0),
            Held::Shared(_, budget, thread) => locked(budget).close(share, *thread),
        }
    }

    /// Flows that are open, of all threads.
    pub fn in_use(&self) -> u32 {
        match &self.0 {
            Held::Alone(budget) => budget.in_use(),
            Held::Shared(_, budget, _) => locked(budget).in_use(),
        }
    }

    /// What was configured.
    pub const fn settings(&self) -> LimitSettings {
        match &self.0 {
            Held::Alone(budget) => budget.settings,
            Held::Shared(settings, ..) => *settings,
        }
    }
}

/// Whoever panics with it ends the process.
fn locked(budget: &Mutex<Budget>) -> MutexGuard<'_, Budget> {
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Budget {
    settings: LimitSettings,
    tcp: u32,
    /// Of each thread.
    udp: Vec<u32>,
    echo: u32,
    /// New flows that may still be opened, in nanoseconds of waiting for them.
    credit: Duration,
    filled: Option<Instant>,
}

impl Budget {
    fn new(settings: LimitSettings, threads: usize) -> Self {
        let mut budget =
            Self { settings, tcp: 0, udp: vec![0; threads], echo: 0, credit: Duration::ZERO, filled: None };
        budget.credit = budget.full();
        budget
    }

    fn open(&mut self, now: Instant, share: Share, thread: usize) -> Result<(), Refusal> {
        if !self.has_room(share, thread) {
            return Err(Refusal::TooManyFlows);
        }
        // Of several threads one may be ahead of another: no time is to count twice.
        let waited = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.credit = (self.credit + waited).min(self.full());
        self.filled = self.filled.max(Some(now));
        self.credit = self.credit.checked_sub(self.price()).ok_or(Refusal::TooFast)?;
        if let Some(count) = self.count(share, thread) {
            *count += 1;
        }
        Ok(())
    }

    fn take(&mut self, share: Share, thread: usize) -> Result<(), Refusal> {
        if !self.has_room(share, thread) {
            return Err(Refusal::TooManyFlows);
        }
        if let Some(count) = self.count(share, thread) {
            *count += 1;
        }
        Ok(())
    }

    fn close(&mut self, share: Share, thread: usize) {
        if let Some(count) = self.count(share, thread) {
            *count = count.saturating_sub(1);
        }
    }

    fn in_use(&self) -> u32 {
        self.tcp + self.all_udp() + self.echo
    }

    fn all_udp(&self) -> u32 {
        self.udp.iter().sum()
    }

    fn has_room(&self, share: Share, thread: usize) -> bool {
        let LimitSettings { flows, .. } = self.settings;
        let kept = self.settings.echo_flows();
        let udp = self.all_udp();
        // What echo has beyond its share is taken from the others'.
        let left = flows.saturating_sub(self.tcp + udp + self.echo.max(kept));
        match share {
            Share::Tcp => left > self.kept_for_udp(None) && self.tcp < self.settings.tcp_flows(),
            Share::Udp => {
                let others = self.kept_for_udp(Some(thread));
                left > others && udp + others < self.settings.udp_flows()
            }
            Share::Echo => self.echo < kept || left > self.kept_for_udp(None),
        }
    }

    /// The flows of UDP that threads but this one may still open in any case: who has many must not keep out who has none,
    /// and so has none to end.
    fn kept_for_udp(&self, thread: Option<usize>) -> u32 {
        let [_, _, ..] = *self.udp else { return 0 };
        let threads = u32::try_from(self.udp.len()).unwrap_or(u32::MAX);
        let each =
            (self.settings.flows - self.settings.tcp_flows()).saturating_sub(self.settings.echo_flows()) / threads;
        let others = self.udp.iter().enumerate().filter(|(other, _)| Some(*other) != thread);
        others.map(|(_, count)| each.saturating_sub(*count)).sum()
    }

    fn count(&mut self, share: Share, thread: usize) -> Option<&mut u32> {
        match share {
            Share::Tcp => Some(&mut self.tcp),
            Share::Udp => self.udp.get_mut(thread),
            Share::Echo => Some(&mut self.echo),
        }
    }

    fn price(&self) -> Duration {
        Duration::from_secs(1) / self.settings.new_flows.max(1)
    }

    fn full(&self) -> Duration {
        self.price() * self.settings.burst.max(1)
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_paces() {
        let start = Instant::now();
        let mut limits = Limits::new(LimitSettings { flows: 3, new_flows: 10, burst: 2 });
        let open = |limits: &mut Limits, millis| limits.open(start + Duration::from_millis(millis), Share::Tcp);
        assert_eq!(open(&mut limits, 0), Ok(()));
        assert_eq!(open(&mut limits, 0), Ok(()));
        assert_eq!(open(&mut limits, 0), Err(Refusal::TooFast));
        assert_eq!(open(&mut limits, 99), Err(Refusal::TooFast));
        assert_eq!(open(&mut limits, 100), Ok(()));
        assert_eq!(open(&mut limits, 9000), Err(Refusal::TooManyFlows));
        limits.close(Share::Tcp);
        assert_eq!(open(&mut limits, 9000), Ok(()));
        assert_eq!(limits.in_use(), 3);
    }

    #[test]
    fn nobody_takes_the_share_of_another() {
        let now = Instant::now();
        let fill = |limits: &mut Limits, share| (0..100).take_while(|_| limits.open(now, share).is_ok()).count();
        let mut limits = Limits::new(LimitSettings { flows: 32, ..LimitSettings::default() });
        assert_eq!([Share::Tcp, Share::Udp, Share::Echo].map(|share| fill(&mut limits, share)), [26, 4, 2]);
        let mut limits = Limits::new(LimitSettings { flows: 32, ..LimitSettings::default() });
        assert_eq!([Share::Udp, Share::Tcp, Share::Echo].map(|share| fill(&mut limits, share)), [16, 14, 2]);
        limits.close(Share::Udp);
        assert_eq!([Share::Echo, Share::Tcp].map(|share| fill(&mut limits, share)), [1, 0]);
        // Of few there is one for whoever comes first.
        let mut limits = Limits::new(LimitSettings { flows: 1, ..LimitSettings::default() });
        assert_eq!([Share::Echo, Share::Tcp, Share::Udp].map(|share| fill(&mut limits, share)), [1, 0, 0]);
    }

    #[test]
    fn threads_share_one_budget() {
        let now = Instant::now();
        let mut lanes = Limits::shared(LimitSettings { flows: 32, ..LimitSettings::default() }, 3);
        let opened: Vec<_> = (0..30).map(|at: usize| lanes[at % 3].open(now, Share::Tcp).is_ok()).collect();
        assert_eq!(opened.iter().filter(|is| **is).count(), 26);
        assert_eq!(lanes.iter().map(Limits::in_use).collect::<Vec<_>>(), [26; 3]);
        lanes[1].close(Share::Tcp);
        assert_eq!((lanes[2].open(now, Share::Tcp), lanes[0].in_use()), (Ok(()), 26));
        assert_eq!(lanes[0].settings().flows, 32);
    }

    /// One thread may be ahead of another by a round: what they wait at the same time counts once.
    #[test]
    fn threads_pay_from_one_bucket() {
        let start = Instant::now();
        let settings = LimitSettings { flows: 100_000, new_flows: 1000, burst: 10 };
        let mut lanes = Limits::shared(settings, 2);
        let mut opened = 0;
        for millis in 0..100 {
            for _ in 0..10 {
                let ahead = lanes[0].open(start + Duration::from_millis(millis + 5), Share::Tcp);
                let behind = lanes[1].open(start + Duration::from_millis(millis), Share::Tcp);
                opened += u32::from(ahead.is_ok()) + u32::from(behind.is_ok());
            }
        }
        assert_eq!(opened, 10 + 99);
    }

    /// Flows of UDP make room for others of their thread: who has none must find some room.
    #[test]
    fn no_thread_keeps_another_from_datagrams() {
        let now = Instant::now();
        let fill = |limits: &mut Limits, share| (0..1000).take_while(|_| limits.open(now, share).is_ok()).count();
        // 17 are for UDP in any case, 4 for each and one for whoever comes.
        let settings = LimitSettings { flows: 128, ..LimitSettings::default() };
        let mut lanes = Limits::shared(settings, 4);
        assert_eq!(fill(&mut lanes[0], Share::Udp), 64 - 12);
        assert_eq!([1, 2, 3].map(|lane| fill(&mut lanes[lane], Share::Udp)), [4; 3]);
        assert_eq!([1, 2].map(|lane| fill(&mut lanes[lane], Share::Tcp)), [128 - 64 - 8, 0]);
        let mut lanes = Limits::shared(settings, 4);
        assert_eq!(fill(&mut lanes[1], Share::Tcp), 103);
        assert_eq!([3, 2, 1, 0].map(|lane| fill(&mut lanes[lane], Share::Udp)), [5, 4, 4, 4]);
        assert_eq!(fill(&mut lanes[0], Share::Echo), 8);
        lanes[2].close(Share::Udp);
        assert_eq!([0, 1, 3].map(|lane| fill(&mut lanes[lane], Share::Udp)), [0; 3]);
        assert_eq!((fill(&mut lanes[0], Share::Echo), fill(&mut lanes[2], Share::Udp)), (0, 1));
    }
}
