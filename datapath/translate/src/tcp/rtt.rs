//! The retransmission timeout, from measured round-trip times (RFC 6298).

use std::time::Duration;

use super::config::Config;

/// What is known of the way to the guest and back, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Smoothed; 0 until the first sample.
    smoothed: u32,
    variation: u32,
    /// How often the timeout was doubled.
    doublings: u8,
}

impl Rtt {
    /// RFC 6298, 2.2 and 2.3.
    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).clamp(1, LONGEST);
        if self.smoothed == 0 {
            self.smoothed = rtt;
            self.variation = rtt / 2;
        } else {
            self.variation = self.variation - self.variation / 4 + self.smoothed.abs_diff(rtt) / 4;
            self.smoothed = (self.smoothed - self.smoothed / 8 + rtt / 8).max(1);
        }
    }

    /// RFC 6298, 2.1, 2.4 and 2.5. Clocks are fine enough to need no granularity.
    pub(super) fn timeout(&self, config: &Config) -> Duration {
        let timeout = if self.smoothed == 0 {
            INITIAL
        } else {
            Duration::from_micros(u64::from(self.smoothed) + 4 * u64::from(self.variation)).max(config.rto_min)
        };
        timeout.saturating_mul(1 << self.doublings.min(16)).min(config.rto_max)
    }

    /// RFC 6298, 5.5.
    pub(super) fn double(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
    }

    /// The guest answers again.
    pub(super) fn undouble(&mut self) {
        self.doublings = 0;
    }
}

/// Before there is a sample.
pub(super) const INITIAL: Duration = Duration::from_secs(1);

/// What a sample counts as at most, in microseconds: a guest can pretend any.
const LONGEST: u32 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6298, section 2.
    #[test]
    fn the_timeout_follows_samples() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(&config), Duration::from_secs(1));
        rtt.sample(Duration::from_millis(400));
        assert_eq!(rtt.timeout(&config), Duration::from_millis(1200));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(400));
        }
        let timeout = rtt.timeout(&config);
        assert!(timeout >= Duration::from_millis(399) && timeout < Duration::from_millis(401), "{timeout:?}");
    }

    /// RFC 6298, 5.5 to 5.7.
    #[test]
    fn it_doubles_up_to_a_limit_and_back() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(50));
        assert_eq!(rtt.timeout(&config), config.rto_min);
        rtt.double();
        rtt.double();
        assert_eq!(rtt.timeout(&config), config.rto_min * 4);
        for _ in 0..300 {
            rtt.double();
        }
        assert_eq!(rtt.timeout(&config), config.rto_max);
        rtt.undouble();
        assert_eq!(rtt.timeout(&config), config.rto_min);
    }

    #[test]
    fn absurd_samples_are_bounded() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        for sample in [Duration::MAX, Duration::ZERO, Duration::MAX] {
            rtt.sample(sample);
            assert!(rtt.timeout(&config) <= config.rto_max);
        }
    }
}
