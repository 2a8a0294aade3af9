//! UDP (RFC 768): flows of datagrams between the guest and its peers, each with a socket of its own.
//!
//! A flow begins with the guest's first datagram to an address and port, or with a peer's first one to a forwarded port,
//! and ends when nothing was heard for a while. Its socket is bound to the guest's port where that is free, and connected to the
//! peer, so that the kernel sorts what arrives, and reports what went wrong. Datagrams to groups leave by sockets that are
//! not connected: answers come from others. Fragments are put together before ([`crate::fragment`]); echo is in
//! [`crate::icmp`]. Called by the translator.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::link::GuestLink;
use crate::multicast::Groups;
use crate::packet::IpPacket;
use crate::refusal::Refusal;
use crate::sockets::datagram::DatagramSockets;

/// How long flows last, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSettings {
    /// How long a flow lasts in which only one side was heard.
    pub timeout: Duration,
    /// How long one lasts in which both were.
    pub stream_timeout: Duration,
    /// The most flows; one more ends that which was used longest ago.
    pub flows: u32,
}

impl Default for UdpSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), stream_timeout: Duration::from_secs(120), flows: 32_768 }
    }
}

/// Where what arrives at a forwarded port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address; the guest's where it is `None`.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// All flows of a guest.
#[derive(Debug)]
pub struct UdpFlows {
    settings: UdpSettings,
}

impl UdpFlows {
    /// No flows.
    pub fn new(settings: UdpSettings) -> Self {
        Self { settings }
    }

    /// What was configured.
    pub const fn settings(&self) -> UdpSettings {
        self.settings
    }

    /// A whole UDP packet of the guest's. `segment`: the guest left it to us to make datagrams of so many bytes of it (USO).
    /// What can be told the guest by ICMP, it is told.
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        _ctx: &mut Context<'_, S, L>,
        _ip: &IpPacket<'_>,
        _segment: Option<u16>,
    ) -> Result<(), Refusal> {
        Err(Refusal::SwitchedOff)
    }

    /// The socket of flow `index` ([`crate::sockets::SocketId::Udp`]) has datagrams, or errors. Whether there may be
    /// more: call again soon then, nobody else tells.
    pub fn from_socket<S: DatagramSockets, L: GuestLink>(&mut self, _ctx: &mut Context<'_, S, L>, _index: u32) -> bool {
        false
    }

    /// The socket of a forwarded port ([`crate::sockets::SocketId::UdpListener`]) has datagrams. Whether there may be
    /// more: call again soon then, nobody else tells.
    pub fn from_listener<S: DatagramSockets, L: GuestLink>(
        &mut self,
        _ctx: &mut Context<'_, S, L>,
        _groups: &Groups,
        _listener: u32,
        _target: &Target,
    ) -> bool {
        false
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Ends the flows that were silent for too long.
    pub fn expire<S: DatagramSockets, L: GuestLink>(&mut self, _ctx: &mut Context<'_, S, L>) {}

    /// Ends all flows.
    pub fn clear<S: DatagramSockets, L: GuestLink>(&mut self, _ctx: &mut Context<'_, S, L>) {}

    /// How many flows there are.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
