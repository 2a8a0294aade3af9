//! Echo outwards, by ICMP (RFC 792) and ICMPv6 (RFC 4443): the guest pings, ordinary echo sockets carry it.
//!
//! A flow is an identifier of the guest's, with a socket whose own identifier is the same where that is free, to any
//! number of destinations; sequence numbers and contents stay as they are. What else comes from the guest by ICMP is
//! refused: sockets cannot send errors (what can be made of some, see [`icmp_error::unreachable_port`]), and redirects
//! are nobody's business here. Neighbour discovery is in [`crate::ndp`], multicast listening in [`crate::multicast`];
//! both see a packet before. Called by the translator.

mod moving;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_frame::Offload;
use slab::Slab;

use crate::context::Context;
use crate::failure::Failure;
use crate::fragment;
use crate::head::{Ends, ICMP, ICMPV6};
use crate::icmp_error::{self, Sent, with_checksum};
use crate::limits::{LimitSettings, Share};
use crate::link::GuestLink;
use crate::mapping;
use crate::opening::Flows;
use crate::packet::{IpPacket, Payload, internet_checksum};
use crate::recency::Recency;
use crate::refusal::Refusal;
use crate::sockets::SocketId;
use crate::sockets::datagram::{Burst, Datagram, DatagramSockets, Marks, NetworkError, receive};
use crate::time::Instant;
pub use moving::EchoState;

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

impl EchoSettings {
    /// The usual, but no more than a small part of all flows.
    pub fn within(limits: &LimitSettings) -> Self {
        let usual = Self::default();
        Self { flows: usual.flows.min(limits.echo_flows()), ..usual }
    }
}

/// All echo flows of a guest.
#[derive(Debug)]
pub struct EchoFlows {
    settings: EchoSettings,
    flows: Slab<Flow>,
    by_key: HashMap<Key, u32>,
    recency: Recency,
    burst: Burst,
    /// Tells the packets apart that are cut into fragments.
    identification: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: IpAddr,
    identifier: u16,
    /// Whether it leads to the host itself, which sockets that are bound for the world do not reach.
    is_local: bool,
}

#[derive(Debug)]
struct Flow {
    key: Key,
    /// The identifier that the world sees.
    identifier: u16,
    /// Of the guest's last request.
    marks: Marks,
}

impl EchoFlows {
    /// No flows.
    pub fn new(settings: EchoSettings) -> Self {
        Self {
            settings,
            flows: Slab::new(),
            by_key: HashMap::new(),
            recency: Recency::default(),
            burst: Burst::default(),
            identification: 0,
        }
    }

    /// A whole ICMP or ICMPv6 packet of the guest's.
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ip: &IpPacket<'_>,
    ) -> Result<(), Refusal> {
        let v4 = ip.source.is_ipv4();
        if ip.protocol != if v4 { ICMP } else { ICMPV6 } || ip.source.is_unspecified() {
            return Err(Refusal::Malformed);
        }
        // The kernel computes a checksum of its own: what is wrong must not become right.
        let length = ip.payload.copy_to(ctx.scratch);
        let message = ctx.scratch.get(..length).unwrap_or_default();
        let header: [u8; 8] = message.first_chunk().copied().ok_or(Refusal::Truncated)?;
        let rest = message.get(header.len()..).unwrap_or_default();
        let is_complete = u32::try_from(length) == Ok(ip.payload.length());
        if !is_complete || with_checksum(ip.source, ip.destination, header, rest) != header {
            return Err(Refusal::BadTransport);
        }
        let [kind, code, _, _, i0, i1, ..] = header;
        if (kind, code) != (if v4 { REQUEST_V4 } else { REQUEST_V6 }, 0) {
            return Err(Refusal::IcmpNotCarried);
        }
        let to = ctx
            .towards_host(SocketAddr::new(ip.destination, 0))
            .inspect_err(|&refusal| icmp_error::about_refused(ctx, ip, refusal))?;
        let marks = Marks { hop_limit: ip.hop_limit, traffic_class: ip.traffic_class };
        let identifier = u16::from_be_bytes([i0, i1]);
        let key = Key { guest: ip.source, identifier, is_local: to.ip().is_loopback() };
        let index = match self.by_key.get(&key) {
            Some(&index) => index,
            None => self.open(ctx, &key, to.ip(), marks).map_err(|failure| failure.tell(ctx, ip))?,
        };
        if let Some(flow) = self.flows.get_mut(index as usize) {
            flow.marks = marks;
        }
        self.recency.touch(index, ctx.now);
        let message = Payload::of_bytes(ctx.scratch.get(..length).unwrap_or_default());
        let sent = ctx.sockets.send_datagram(SocketId::Echo(index), message, None, Some(to), marks);
        sent.map_err(|failure| {
            icmp_error::about_failure(ctx, ip, &failure);
            Refusal::SocketError
        })
    }

    /// The socket of flow `index` ([`SocketId::Echo`]) has replies, or, if it has `failed`, errors. Whether there may be
    /// more: call again soon then, nobody else tells.
    pub fn from_socket<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        failed: bool,
    ) -> bool {
        if !self.flows.contains(index as usize) {
            return false;
        }
        let mut more = failed && self.pass_errors_on(ctx, index);
        let mut burst = std::mem::take(&mut self.burst);
        more |= receive(ctx, SocketId::Echo(index), &mut burst, |ctx, datagram, message| {
            self.deliver(ctx, index, datagram, message);
        });
        self.burst = burst;
        more
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.recency.oldest().map(|(_, used)| used + self.settings.timeout)
    }

    /// Ends the flows that were silent for too long.
    pub fn expire<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        while self.deadline().is_some_and(|deadline| deadline <= ctx.now) {
            self.make_room(ctx);
        }
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn open<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        key: &Key,
        to: IpAddr,
        marks: Marks,
    ) -> Result<u32, Failure> {
        self.open_as(ctx, key, to, marks, key.identifier)
    }

    /// The same with another identifier towards the world.
    fn open_as<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        key: &Key,
        to: IpAddr,
        marks: Marks,
        wanted: u16,
    ) -> Result<u32, Failure> {
        let outbound = mapping::outbound(ctx.settings, to);
        let (index, identifier) =
            self.open_socket(ctx, |sockets, index| sockets.open_echo(index, to.is_ipv6(), wanted, outbound))?;
        self.flows.insert(Flow { key: *key, identifier, marks });
        self.by_key.insert(*key, index);
        self.recency.touch(index, ctx.now);
        ctx.counters.echo_flows += 1;
        tracing::debug!(guest = %key.guest, identifier = key.identifier, "an echo flow begins");
        Ok(index)
    }

    /// A whole ICMP message for a flow.
    fn deliver<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        datagram: &Datagram,
        message: &[u8],
    ) {
        let Some(flow) = self.flows.get(index as usize) else { return };
        let Some((&[kind, code, _, _, _, _, s0, s1], rest)) = message.split_first_chunk() else { return };
        let v4 = flow.key.guest.is_ipv4();
        let Ok((seen, _)) = mapping::towards_guest(ctx.settings, ctx.guest, datagram.source.ip()) else { return };
        if kind != if v4 { REPLY_V4 } else { REPLY_V6 } || seen.is_ipv4() != v4 {
            return;
        }
        let ends = Ends {
            source_mac: ctx.settings.mac,
            destination_mac: ctx.guest.mac_or_broadcast(),
            source: seen,
            destination: flow.key.guest,
            hop_limit: datagram.marks.hop_limit,
            traffic_class: datagram.marks.traffic_class,
        };
        let [i0, i1] = flow.key.identifier.to_be_bytes();
        let header = with_checksum(seen, flow.key.guest, [kind, code, 0, 0, i0, i1, s0, s1], rest);
        self.recency.touch(index, ctx.now);
        self.identification = self.identification.wrapping_add(1);
        let protocol = if v4 { ICMP } else { ICMPV6 };
        if fragment::put(ctx, &ends, protocol, (Offload::None, &header, rest), self.identification).is_err() {
            ctx.refuse(Refusal::GuestFull);
        }
    }

    /// Tells the guest what the network reported about its requests. Whether there may be more.
    fn pass_errors_on<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) -> bool {
        let Some(flow) = self.flows.get(index as usize) else { return false };
        let mut quoted = [0; icmp_error::MAX_QUOTE];
        for _ in 0..ERRORS {
            let Ok(error) = ctx.sockets.receive_error(SocketId::Echo(index), &mut quoted) else { return false };
            let message = quoted.get(..error.quoted_bytes).unwrap_or(&quoted);
            pass_error_on(ctx, flow, &error, message);
        }
        true
    }
}

impl Flows for EchoFlows {
    const SHARE: Share = Share::Echo;

    fn is_full(&self) -> bool {
        self.flows.len() >= self.settings.flows as usize
    }

    fn next_index(&self) -> u32 {
        u32::try_from(self.flows.vacant_key()).unwrap_or(u32::MAX)
    }

    fn make_room<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) -> bool {
        let Some((index, _)) = self.recency.oldest() else { return false };
        self.recency.remove(index);
        if let Some(flow) = self.flows.try_remove(index as usize) {
            tracing::debug!(guest = %flow.key.guest, identifier = flow.key.identifier, "an echo flow ends");
            self.by_key.remove(&flow.key);
            ctx.sockets.close_datagrams(SocketId::Echo(index));
            ctx.limits.close(Share::Echo);
        }
        true
    }
}

/// `message` is the request as the world saw it.
fn pass_error_on<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, flow: &Flow, error: &NetworkError, message: &[u8]) {
    let Some((&header, rest)) = message.split_first_chunk() else { return };
    let Ok((to, _)) = mapping::towards_guest(ctx.settings, ctx.guest, error.destination.ip()) else { return };
    let from = flow.key.guest;
    if to.is_ipv4() != from.is_ipv4() {
        return;
    }
    let header = renamed(header, flow.identifier, flow.key.identifier);
    let protocol = if from.is_ipv4() { ICMP } else { ICMPV6 };
    icmp_error::about_sent(ctx, error, &Sent { from, to, protocol, marks: flow.marks }, &header, rest);
}

/// The header with another identifier, and a checksum that fits as well as before (RFC 1624).
fn renamed(header: [u8; 8], from: u16, to: u16) -> [u8; 8] {
    let [kind, code, c0, c1, _, _, s0, s1] = header;
    let ([c0, c1], [f0, f1], [i0, i1]) =
        ((!u16::from_be_bytes([c0, c1])).to_be_bytes(), (!from).to_be_bytes(), to.to_be_bytes());
    let [c0, c1] = internet_checksum(&[c0, c1, f0, f1, i0, i1]).to_be_bytes();
    [kind, code, c0, c1, i0, i1, s0, s1]
}

/// Types of echo messages.
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Errors of the network that are passed on, for one event.
const ERRORS: usize = 16;

#[cfg(test)]
mod tests;
