//! ARP (RFC 826): we are every IPv4 host but the guest.
//!
//! Requests of the guest's are answered with our own MAC address, whatever the address asked for: all hosts are behind
//! us. Not answered are announcements (RFC 5227, section 3), and questions for the guest's own address. Replies are only
//! read by [`crate::guest::Guest::learn`]. Called by the translator with each ARP frame.

use crate::guest::Guest;
use crate::settings::Settings;

/// The reply to a frame of the guest's, both from the Ethernet header on; `None` where there is none.
pub fn answer(_settings: &Settings, _guest: &Guest, _frame: &[u8]) -> Option<Vec<u8>> {
    None
}

/// The question that is asked when a guest connects, a whole frame: who has the address that it was assigned? Its answer
/// shows its MAC address. `None` where there is no IPv4.
pub fn request(_settings: &Settings, _guest: &Guest) -> Option<Vec<u8>> {
    None
}
