//! What holds for every connection of an address family: sizes and timers.

use std::time::Duration;

use crate::time::Instant;

/// What holds for every connection of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The zero of our clock, by which timestamps count (RFC 7323). All connections must have one: a guest that remembers an
    /// earlier connection of the same ends, in TIME-WAIT, drops a SYN that seems older than what it saw last (RFC 7323,
    /// 5.2; RFC 6191).
    pub epoch: Instant,
    /// What it showed then, in milliseconds: a guest that came from another machine goes on with the clock that it had there.
    pub clock_offset: u32,
    /// What we announce as MSS, and never exceed: the link's MTU without IP and TCP headers, in bytes.
    pub mss: u16,
    /// What a guest takes that announces no MSS: 536 for IPv4, 1220 for IPv6 (RFC 9293, 3.7.1).
    pub default_mss: u16,
    /// The most payload of one [`Transmit`], in bytes: 64 KiB without headers.
    pub burst: u32,
    /// The largest window that the guest is given, in bytes.
    pub window: u32,
    /// How often a SYN is sent again.
    pub syn_retries: u8,
    /// How many of these come at equal distances, before those double.
    pub syn_linear: u8,
    /// How often data is sent again in a row before the guest counts as lost.
    pub retries: u8,
    /// The shortest retransmission timeout: longer than guests delay acknowledgements.
    pub rto_min: Duration,
    /// The longest.
    pub rto_max: Duration,
    /// For how long an acknowledgement waits for data to travel with.
    pub delayed_ack: Duration,
    /// After how long without a segment of the guest it is probed.
    pub keep_alive: Duration,
    /// The same once the guest has sent its FIN: it may have forgotten the connection.
    pub keep_alive_half_closed: Duration,
    /// The distance of these probes.
    pub keep_alive_interval: Duration,
    /// How many unanswered probes mean that the guest is lost.
    pub keep_alive_probes: u8,
    /// After how long a connection is given up that has data to move in either direction and moves none.
    pub stall: Duration,
    /// For how long a closed connection answers late segments. Nothing on the way to a guest lives for long, so this is
    /// short.
    pub time_wait: Duration,
    /// Whether ECN is offered and taken.
    pub ecn: bool,
}

impl Config {
    /// Our clock, in milliseconds; it wraps.
    #[must_use]
    pub fn clock(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.epoch).as_millis() & u128::from(u32::MAX);
        u32::try_from(millis).unwrap_or(0).wrapping_add(self.clock_offset)
    }
}

impl Default for Config {
    /// For IPv4 with an MTU of 1500 and a clock that starts now; timers as Linux has them.
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            clock_offset: 0,
            mss: 1460,
            default_mss: 536,
            burst: 65_535 - 60 - 60,
            window: 65_535 << 8,
            syn_retries: 6,
            syn_linear: 4,
            retries: 15,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            delayed_ack: Duration::from_millis(10),
            keep_alive: Duration::from_secs(7200),
            keep_alive_half_closed: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(75),
            keep_alive_probes: 9,
            stall: Duration::from_secs(7200),
            time_wait: Duration::from_secs(1),
            ecn: true,
        }
    }
}
