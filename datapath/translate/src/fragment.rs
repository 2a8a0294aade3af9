//! Fragments (RFC 791, RFC 815, RFC 8200, RFC 5722): those of the guest's are put together, and packets that are longer
//! than its MTU are cut into some.
//!
//! How much waits to become whole is bounded in packets, bytes and time. A packet of which two fragments overlap is given
//! up whole, as no honest sender makes any (RFC 5722, for IPv4 as well); a repeated fragment is passed over. What became whole goes the way of
//! all packets. Called by the translator.

use std::time::Instant;

use crate::packet::IpPacket;
use crate::refusal::Refusal;

/// Packets of the guest's that are not whole yet.
#[derive(Debug, Default)]
pub struct Reassembler {}

/// A packet that became whole.
#[derive(Debug)]
pub struct Whole {}

impl Reassembler {
    /// Takes a fragment (`ip.fragment` is not `None`); returns the packet that it makes whole.
    ///
    /// # Errors
    /// [`Refusal::BadFragment`].
    pub fn add(&mut self, _now: Instant, _ip: &IpPacket<'_>) -> Result<Option<Whole>, Refusal> {
        Err(Refusal::BadFragment)
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Gives up what did not become whole in time.
    pub fn expire(&mut self, _now: Instant) {}
}

impl Whole {
    /// The packet, without fragment.
    pub fn packet(&self) -> Option<IpPacket<'_>> {
        None
    }
}
