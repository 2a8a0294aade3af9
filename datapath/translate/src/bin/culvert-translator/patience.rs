//! Whether the event loop looks for more for a while before it sleeps.
//!
//! To sleep and to be woken takes longer than most answers of a near peer take to come, and costs whoever wakes us as
//! well: the guest a kick, the kernel an interrupt of another core. So where little came lately and soon after what came before, the
//! loop looks for up to [`SPAN`], and asks for no kicks meanwhile. One look that finds nothing undoes what four that found
//! something did for it: with nothing to do, nobody looks. Nor where much moves at once: what comes meanwhile is taken together
//! then, and a look would only take time of the core.

use std::time::Duration;

use culvert_translate::time::Instant;

/// How soon things came lately, and how much at once.
#[derive(Debug)]
pub struct Patience {
    /// When something came last.
    last: Instant,
    /// Whether there was a look since.
    looked: bool,
    /// How often looks would have found something, less what was in vain.
    trust: u8,
    /// Bytes that move in one round, about.
    bytes: u64,
    /// What had moved by then.
    moved: u64,
}

/// How long is looked for more.
pub const SPAN: Duration = Duration::from_micros(50);

const MOST_TRUST: u8 = 16;
const IN_VAIN: u8 = 4;

/// Much at once, in bytes.
const MUCH: u64 = 16 * 1024;

impl Patience {
    /// Nothing came yet.
    pub fn new(now: Instant) -> Self {
        Self { last: now, looked: false, trust: 0, bytes: 0, moved: 0 }
    }

    /// Something came: an event, or a frame. `moved`: bytes from and to the guest since the start, before what came.
    pub fn came(&mut self, now: Instant, moved: u64) {
        if now.saturating_duration_since(self.last) <= SPAN {
            self.trust = (self.trust + 1).min(MOST_TRUST);
        }
        let bytes = moved.saturating_sub(self.moved);
        self.bytes = (7 * self.bytes + bytes) / 8;
        (self.last, self.moved, self.looked) = (now, moved, false);
    }

    /// A look was in vain.
    pub fn was_in_vain(&mut self) {
        self.looked = true;
        self.trust = self.trust.saturating_sub(IN_VAIN);
    }

    /// Whether a look is worth its time now.
    pub fn is_worth_it(&self) -> bool {
        !self.looked && self.trust > 0 && self.bytes < MUCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something comes after so many microseconds each; returns for how long was looked, in all.
    fn looks(patience: &mut Patience, now: &mut Instant, pauses: &[u64], bytes: u64) -> Duration {
        let mut looked = Duration::ZERO;
        for &pause in pauses {
            let pause = Duration::from_micros(pause);
            if patience.is_worth_it() {
                looked += pause.min(SPAN);
                if pause > SPAN {
                    patience.was_in_vain();
                    assert!(!patience.is_worth_it(), "once is enough");
                }
            }
            *now += pause;
            patience.came(*now, patience.moved + bytes);
        }
        looked
    }

    fn new() -> (Patience, Instant) {
        let now = Instant::now();
        (Patience::new(now), now)
    }

    #[test]
    fn what_comes_soon_after_another_is_looked_for() {
        let (mut patience, mut now) = new();
        let looked = looks(&mut patience, &mut now, &[20; 100], 100);
        assert_eq!(looked, Duration::from_micros(20 * 99));
    }

    #[test]
    fn nobody_looks_when_nothing_comes() {
        let (mut patience, mut now) = new();
        looks(&mut patience, &mut now, &[20; 100], 100);
        // What was trusted is used up.
        assert_eq!(looks(&mut patience, &mut now, &[1_000_000; 10], 100), 4 * SPAN);
        assert_eq!(looks(&mut patience, &mut now, &[1_000_000; 100], 100), Duration::ZERO);
    }

    #[test]
    fn what_comes_in_pairs_costs_little() {
        let (mut patience, mut now) = new();
        let looked = looks(&mut patience, &mut now, &[5, 1000].repeat(100), 100);
        assert!(looked <= 101 * SPAN && looked <= Duration::from_micros(100_500) / 19, "{looked:?}");
    }

    #[test]
    fn nobody_looks_while_much_moves() {
        let (mut patience, mut now) = new();
        looks(&mut patience, &mut now, &[20; 50], 60_000);
        assert_eq!(looks(&mut patience, &mut now, &[20; 50], 60_000), Duration::ZERO);
        looks(&mut patience, &mut now, &[20; 50], 100);
        assert_eq!(looks(&mut patience, &mut now, &[20; 50], 100), Duration::from_micros(1000));
    }
}
