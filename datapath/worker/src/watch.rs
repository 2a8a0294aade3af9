//! How control sees that a worker goes round: its rounds are counted, its CPU time is known.
//!
//! A worker whose rounds stand is in one of three states. It is in a system call that a frontend made block: it is freed.
//! It gets no core (other work is there, or the process was stopped): nothing is wrong with it, it counts the gap itself. Or it
//! uses CPU time and comes to no end, for [`STUCK`]: it cannot be dispossessed of what it holds, so the process is to be started
//! again, without the port that it worked for. Decisions only; called by [`Datapath`](crate::Datapath).

use std::time::{Duration, Instant};

/// For how long the rounds of a worker that uses CPU time may stand.
pub const STUCK: Duration = Duration::from_secs(5);

/// How much of that time it must have used. No round takes as long; a worker that shares its core with others is
/// given its time.
const STUCK_CPU: Duration = Duration::from_secs(1);

/// When nobody looked for longer than this, the whole process may have been stopped: nothing follows from that time.
const BLIND: Duration = Duration::from_secs(1);

/// What was seen of one worker.
#[derive(Debug)]
pub(crate) struct Watch {
    looked: Instant,
    rounds: u64,
    /// Since when the rounds stand, and what CPU time it had used then.
    since: Instant,
    cpu: Duration,
}

/// What to do about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Runs,
    /// It stands since the last look: if it is in a system call, it is to be freed.
    Stands,
    /// It will never end.
    Stuck,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self { looked: now, rounds: 0, since: now, cpu: Duration::ZERO }
    }

    /// Looks at a worker that has made so many rounds and has used so much CPU time, if that is known.
    pub(crate) fn look(&mut self, now: Instant, rounds: u64, asleep: bool, cpu: Option<Duration>) -> Verdict {
        let looked = std::mem::replace(&mut self.looked, now);
        let stands = std::mem::replace(&mut self.rounds, rounds) == rounds;
        if !stands || asleep || now.saturating_duration_since(looked) > BLIND {
            (self.since, self.cpu) = (now, cpu.unwrap_or_default());
            return Verdict::Runs;
        }
        let used = cpu.unwrap_or_default().saturating_sub(self.cpu);
        if now.saturating_duration_since(self.since) >= STUCK && used >= STUCK_CPU {
            Verdict::Stuck
        } else {
            Verdict::Stands
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 100 ms for 20 s at a worker that uses the given share of a core and makes no round; tells when it was
    /// found stuck first.
    fn stuck_after(share: f64, asleep: bool) -> Option<Duration> {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        (1..200_u32)
            .map(|tick| tick * Duration::from_millis(100))
            .find(|&time| watch.look(start + time, 7, asleep, Some(time.mul_f64(share))) == Verdict::Stuck)
    }

    #[test]
    fn who_uses_the_core_and_makes_no_round_is_stuck() {
        let limit = STUCK + Duration::from_millis(100);
        assert_eq!(stuck_after(1.0, false), Some(limit));
        assert_eq!(stuck_after(0.3, false), Some(limit));
        assert_eq!(stuck_after(0.1, false), Some(Duration::from_millis(10_100)), "when it has had a second of CPU");
    }

    #[test]
    fn who_gets_no_core_or_sleeps_is_not() {
        assert_eq!(stuck_after(0.0, false), None);
        assert_eq!(stuck_after(1.0, true), None);
    }

    #[test]
    fn who_makes_rounds_is_not() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for tick in 1..200_u32 {
            let time = tick * Duration::from_millis(100);
            // One round in a second.
            let verdict = watch.look(start + time, u64::from(tick / 10), false, Some(time));
            assert_ne!(verdict, Verdict::Stuck);
        }
    }

    #[test]
    fn nothing_follows_from_a_time_in_which_nobody_looked() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        for minute in 1..60_u32 {
            let time = minute * Duration::from_secs(60);
            assert_eq!(watch.look(start + time, 7, false, Some(time)), Verdict::Runs);
        }
    }
}
