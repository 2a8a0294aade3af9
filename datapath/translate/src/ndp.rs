//! Neighbour discovery (RFC 4861): we are every IPv6 host but the guest, and its router.
//!
//! Called by the translator with each ICMPv6 frame, before echo requests are looked for, and by a timer.

use std::time::Instant;

use crate::guest::Guest;
use crate::settings::Settings;

/// The reply to a neighbour or router solicitation of the guest's, both from the Ethernet header on; `None` where there
/// is none.
pub fn answer(_settings: &Settings, _guest: &Guest, _frame: &[u8]) -> Option<Vec<u8>> {
    None
}

/// The question that is asked when a guest connects, a whole frame: who has the address that it was assigned? `None`
/// where there is no IPv6.
pub fn solicitation(_settings: &Settings, _guest: &Guest) -> Option<Vec<u8>> {
    None
}

/// Sends router advertisements that nobody asked for (RFC 4861, section 6.2.4).
#[derive(Clone, Debug)]
pub struct Advertiser {
    deadline: Instant,
    random: u64,
}

impl Advertiser {
    /// The first is due at once. `seed` is any number, best a random one: it spreads the times.
    pub fn new(now: Instant, seed: u64) -> Self {
        Self { deadline: now, random: seed }
    }

    /// When [`Self::poll`] is to be called.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The advertisement that is due, a whole frame; `None` when there is none, or none yet.
    pub fn poll(&mut self, now: Instant, _settings: &Settings, _guest: &Guest) -> Option<Vec<u8>> {
        if now < self.deadline {
            return None;
        }
        self.random = self.random.wrapping_add(1);
        self.deadline = now + std::time::Duration::from_secs(600);
        None
    }
}
