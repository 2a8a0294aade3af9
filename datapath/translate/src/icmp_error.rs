//! ICMP errors for the guest (RFC 792, RFC 4443): what routers and hosts of the world reported about what it sent, and
//! what we refuse ourselves.
//!
//! Sockets tell of an error without the packet that it is about: that is built anew, as the guest sent it, as far as it
//! is known. Not sent: errors about errors, about what went to groups, and more than a [`Budget`] allows (RFC 1122,
//! section 3.2.2; RFC 1812, section 4.3.2.8; RFC 4443, section 2.4). Called by [`crate::udp`], [`crate::icmp`], and by
//! the translator for TCP.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::link::GuestLink;
use crate::packet::IpPacket;
use crate::refusal::Refusal;

/// How many errors the guest may be sent: a bucket that fills steadily (RFC 4443, section 2.4 (f)).
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    credit: u32,
    filled: Option<Instant>,
}

/// Errors at once.
const BURST: u32 = 100;
/// How long each waits once those are spent.
const INTERVAL: Duration = Duration::from_millis(1);

impl Default for Budget {
    fn default() -> Self {
        Self { credit: BURST, filled: None }
    }
}

impl Budget {
    /// Takes one error out. Whether there was one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let waited = now.saturating_duration_since(filled).as_nanos() / INTERVAL.as_nanos();
        let more = u32::try_from(waited).unwrap_or(BURST).min(BURST);
        if more > 0 {
            self.filled = Some(now);
            self.credit = (self.credit + more).min(BURST);
        }
        let left = self.credit.checked_sub(1);
        self.credit = left.unwrap_or(0);
        left.is_some()
    }
}

/// Tells the guest that its packet was refused, where a router or host would.
pub fn about_refused<S, L: GuestLink>(_ctx: &mut Context<'_, S, L>, _ip: &IpPacket<'_>, _reason: Refusal) {}

/// A TCP connection of the guest's that could not be opened for a reason that is not the peer's own RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedConnect {
    /// The guest's address and port.
    pub guest: SocketAddr,
    /// The peer's, in the guest's eyes.
    pub peer: SocketAddr,
    /// The sequence number of its SYN.
    pub sequence: u32,
}

/// Tells the guest why its connection failed: host or network unreachable, prohibited. Whether there was something to
/// tell: other failures are told by RST, or not at all.
pub fn about_connect<S, L: GuestLink>(
    _ctx: &mut Context<'_, S, L>,
    _connect: &FailedConnect,
    _failure: &io::Error,
) -> bool {
    false
}
