//! Echo outwards, by ICMP (RFC 792) and ICMPv6 (RFC 4443): the guest pings, ordinary echo sockets carry it.
//!
//! A flow is an identifier of the guest's, with a socket whose own identifier is the same where that is free; sequence
//! numbers and contents stay as they are. What else comes from the guest by ICMP is refused or passed over: sockets cannot
//! send errors, and redirects are nobody's business here. Neighbour discovery is in [`crate::ndp`], multicast
//! listening in [`crate::multicast`]; both see a packet before. Called by the translator.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::link::GuestLink;
use crate::packet::IpPacket;
use crate::refusal::Refusal;
use crate::sockets::datagram::DatagramSockets;

/// How long flows last, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoSettings {
    /// How long a flow lasts in which nothing is heard.
    pub timeout: Duration,
    /// The most flows; one more ends that which was used longest ago.
    pub flows: u32,
}

impl Default for EchoSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), flows: 1024 }
    }
}

/// All echo flows of a guest.
#[derive(Debug)]
pub struct EchoFlows {
    settings: EchoSettings,
}

impl EchoFlows {
    /// No flows.
    pub fn new(settings: EchoSettings) -> Self {
        Self { settings }
    }

    /// What was configured.
    pub const fn settings(&self) -> EchoSettings {
        self.settings
    }

    /// A whole ICMP or ICMPv6 packet of the guest's.
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        _ctx: &mut Context<'_, S, L>,
        _ip: &IpPacket<'_>,
    ) -> Result<(), Refusal> {
        Err(Refusal::SwitchedOff)
    }

    /// The socket of flow `index` ([`crate::sockets::SocketId::Echo`]) has replies, or errors. Whether there may be more:
    /// call again soon then, nobody else tells.
    pub fn from_socket<S: DatagramSockets, L: GuestLink>(&mut self, _ctx: &mut Context<'_, S, L>, _index: u32) -> bool {
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
