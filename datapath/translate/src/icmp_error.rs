//! ICMP errors for the guest (RFC 792, RFC 4443): what routers and hosts of the world reported about what it sent, and
//! what we refuse ourselves.
//!
//! Sockets tell of an error without the packet that it is about: that is built anew ([`Sent`]), as the guest sent it,
//! as far as it is known. Not sent: errors about errors, about what went to groups, and more than a [`Budget`] allows
//! (RFC 1122, section 3.2.2; RFC 1812, section 4.3.2.8; RFC 4443, section 2.4). Called by [`crate::udp`],
//! [`crate::icmp`], and by the translator for TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use arrayvec::ArrayVec;
use culvert_frame::checksum::Sum;
use culvert_frame::{MacAddress, Offload};

use crate::context::Context;
use crate::flow::FlowEnds;
use crate::head::{Ends, HOP_LIMIT, ICMP, ICMPV6, TCP, UDP};
use crate::link::GuestLink;
use crate::mapping;
use crate::packet::IpPacket;
use crate::refusal::Refusal;
use crate::sockets::datagram::{Cause, Marks, NetworkError};
use crate::time::Instant;

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
    ctx: &mut Context<'_, S, L>,
    connect: &FailedConnect,
    failure: &io::Error,
) -> bool {
    let Some(message) = Message::of_failure(failure, connect.guest.is_ipv4()) else { return false };
    if message == Message::port_unreachable(connect.guest.is_ipv4()) {
        return false;
    }
    let mut header = [0; 20];
    header[..2].copy_from_slice(&connect.guest.port().to_be_bytes());
    header[2..4].copy_from_slice(&connect.peer.port().to_be_bytes());
    header[4..8].copy_from_slice(&connect.sequence.to_be_bytes());
    // Five words of header, SYN.
    header[12..14].copy_from_slice(&[0x50, 0x02]);
    let sent = Sent { from: connect.guest.ip(), to: connect.peer.ip(), protocol: TCP, marks: MARKS };
    put(ctx, None, &message, &sent.quote(&header, &[]), connect.guest.ip());
    true
}

/// Tells the guest that its packet was refused, where a router would.
pub fn about_refused<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, ip: &IpPacket<'_>, reason: Refusal) {
    let v4 = ip.source.is_ipv4();
    match reason {
        Refusal::DestinationNotAllowed => about_packet(ctx, ip, &Message::prohibited(v4)),
        Refusal::OtherProtocol => about_packet(ctx, ip, &Message::unknown_protocol(v4)),
        Refusal::TooManyFlows | Refusal::NoDescriptor => about_packet(ctx, ip, &Message::host_unreachable(v4)),
        _ => {}
    }
}

/// Tells the guest why its packet could not be sent.
pub(crate) fn about_failure<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, ip: &IpPacket<'_>, failure: &io::Error) {
    if let Some(message) = Message::of_failure(failure, ip.source.is_ipv4()) {
        about_packet(ctx, ip, &message);
    }
}

fn about_packet<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, ip: &IpPacket<'_>, message: &Message) {
    if !may_be_told(ip) {
        return;
    }
    let mut quote = Quote::new();
    quote.extend(ip.header.iter().copied());
    let mut payload = [0; MAX_QUOTE];
    let copied = ip.payload.copy_to(&mut payload);
    let room = quote_bytes(ip.source.is_ipv4()).saturating_sub(quote.len());
    quote.extend(payload.into_iter().take(copied.min(room)));
    put(ctx, None, message, &quote, ip.source);
}

/// Whether there may be an error about a packet (RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e)).
fn may_be_told(ip: &IpPacket<'_>) -> bool {
    let is_broadcast = ip.destination == IpAddr::V4(Ipv4Addr::BROADCAST);
    let is_to_group = ip.destination_mac.is_group() || ip.destination.is_multicast() || is_broadcast;
    let is_error = match ip.protocol {
        ICMP => !matches!(ip.payload.first_bytes().first(), Some(8 | 13 | 15 | 17)),
        ICMPV6 => ip.payload.first_bytes().first().is_none_or(|&kind| kind < 128),
        _ => false,
    };
    !is_to_group && !is_error
}

/// What the guest sent that an error is about, in its own eyes, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) marks: Marks,
}

/// Where nobody knows the marks of a packet.
const MARKS: Marks = Marks { hop_limit: HOP_LIMIT, traffic_class: 0 };

/// The first bytes of a packet.
type Quote = ArrayVec<u8, MAX_QUOTE>;

/// The longest quote: as much as fits the least MTU of IPv6 (RFC 4443, section 2.4 (c)).
pub(crate) const MAX_QUOTE: usize = 1280 - 40 - 8;

/// As much as fits 576 bytes (RFC 1812, section 4.3.2.3), or 1280.
const fn quote_bytes(v4: bool) -> usize {
    if v4 { 576 - 20 - 8 } else { MAX_QUOTE }
}

impl Sent {
    /// The packet with the first bytes of its payload: the transport's header and `rest`.
    fn quote(&self, transport: &[u8], rest: &[u8]) -> Quote {
        let bytes = u16::try_from(transport.len() + rest.len()).unwrap_or(u16::MAX);
        let head = self.ends().head(self.protocol, bytes);
        let mut quote = Quote::new();
        let packet = head.iter().skip(culvert_frame::ETHERNET_HEADER_BYTES);
        quote.extend(packet.chain(transport).chain(rest).copied().take(quote_bytes(self.from.is_ipv4())));
        quote
    }

    fn ends(&self) -> Ends {
        Ends {
            source_mac: MacAddress::default(),
            destination_mac: MacAddress::default(),
            source: self.from,
            destination: self.to,
            hop_limit: self.marks.hop_limit,
            traffic_class: self.marks.traffic_class,
        }
    }
}

/// Tells the guest what the network reported about a UDP datagram that it sent from one port to another.
pub(crate) fn about_datagram<S, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    error: &NetworkError,
    (from, to, marks): (SocketAddr, SocketAddr, Marks),
    payload: &[u8],
) {
    let sent = Sent { from: from.ip(), to: to.ip(), protocol: UDP, marks };
    let header = crate::udp::header(&sent.ends(), from.port(), to.port(), payload);
    about_sent(ctx, error, &sent, &header, payload);
}

/// Tells the guest what the network reported about what it sent: `transport` and what followed.
pub(crate) fn about_sent<S, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    error: &NetworkError,
    sent: &Sent,
    transport: &[u8],
    rest: &[u8],
) {
    let v4 = sent.from.is_ipv4();
    let (message, from) = match error.cause {
        Cause::Icmp { from, kind, code, information } if from.is_ipv4() == v4 => {
            (Message::of_report(v4, kind, code, information), Some(from))
        }
        Cause::Icmp { .. } => (None, None),
        Cause::Local(number) => (Message::of_failure(&io::Error::from_raw_os_error(number), v4), None),
    };
    if let Some(message) = message
        && !sent.to.is_multicast()
        && sent.to != IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        put(ctx, from, &message, &sent.quote(transport, rest), sent.from);
    }
}

/// Type, code, and the word behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    code: u8,
    word: u32,
}

impl Message {
    /// What is passed on of what the world reports: unreachable, too big, too many hops, malformed.
    fn of_report(v4: bool, kind: u8, code: u8, information: u32) -> Option<Self> {
        let word = match (v4, kind, code) {
            // Fragmentation needed, packet too big: the MTU. Malformed: where; of IPv4 as it stands in the message.
            (true, 3, 4) | (true, 12, _) | (false, 2 | 4, _) => information,
            (true, 3 | 11, _) | (false, 1 | 3, _) => 0,
            // Source quench is obsolete (RFC 6633), redirects are for hosts on a link with several routers.
            _ => return None,
        };
        Some(Self { kind, code, word })
    }

    /// What a host or router would say where we have a failure of the kernel's.
    fn of_failure(failure: &io::Error, v4: bool) -> Option<Self> {
        match failure.raw_os_error()? {
            libc::ENETUNREACH | libc::ENETDOWN => Some(Self { kind: if v4 { 3 } else { 1 }, code: 0, word: 0 }),
            libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::EADDRNOTAVAIL => Some(Self::host_unreachable(v4)),
            libc::ECONNREFUSED => Some(Self::port_unreachable(v4)),
            libc::EACCES | libc::EPERM => Some(Self::prohibited(v4)),
            _ => None,
        }
    }

    const fn host_unreachable(v4: bool) -> Self {
        if v4 { Self { kind: 3, code: 1, word: 0 } } else { Self { kind: 1, code: 3, word: 0 } }
    }

    const fn port_unreachable(v4: bool) -> Self {
        if v4 { Self { kind: 3, code: 3, word: 0 } } else { Self { kind: 1, code: 4, word: 0 } }
    }

    /// Of IPv6: an unknown next header; where, is told for a packet without extensions.
    const fn unknown_protocol(v4: bool) -> Self {
        if v4 { Self { kind: 3, code: 2, word: 0 } } else { Self { kind: 4, code: 1, word: 6 } }
    }

    const fn prohibited(v4: bool) -> Self {
        if v4 { Self { kind: 3, code: 13, word: 0 } } else { Self { kind: 1, code: 1, word: 0 } }
    }
}

/// The flow of which the guest says, by an ICMP error, that it has nobody at that port: it quotes a datagram that it
/// received. The message's checksum was looked at by [`crate::icmp`].
pub fn unreachable_port(ip: &IpPacket<'_>) -> Option<FlowEnds> {
    let (header, quote) = ip.payload.first_bytes().split_first_chunk::<8>()?;
    let [kind, code, ..] = *header;
    let is_v4 = ip.source.is_ipv4();
    if (Message { kind, code, word: 0 }) != Message::port_unreachable(is_v4) {
        return None;
    }
    let (source, destination, protocol, datagram): (IpAddr, IpAddr, _, _) = if is_v4 {
        let quoted: &[u8; 20] = quote.first_chunk()?;
        let [first, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *quoted;
        // IPv4, and no later fragment.
        if first >> 4 != 4 || u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
            return None;
        }
        let behind = quote.get(usize::from(first & 15) * 4..)?;
        (IpAddr::from([s0, s1, s2, s3]), IpAddr::from([d0, d1, d2, d3]), protocol, behind)
    } else {
        let (quoted, behind) = quote.split_first_chunk::<40>()?;
        let [first, _, _, _, _, _, protocol, _, addresses @ ..] = quoted;
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        if first >> 4 != 6 {
            return None;
        }
        (IpAddr::from(*source), IpAddr::from(*destination.first_chunk::<16>()?), *protocol, behind)
    };
    let &[s0, s1, d0, d1, ..] = datagram.first_chunk::<8>()?;
    (protocol == UDP && destination == ip.source).then_some(FlowEnds {
        guest: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
        peer: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
    })
}

/// Puts an error for the guest, from `source`, or from its router.
fn put<S, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    source: Option<IpAddr>,
    message: &Message,
    quote: &[u8],
    guest: IpAddr,
) {
    let source = match source {
        Some(source) => mapping::towards_guest(ctx.settings, ctx.guest, source).ok().map(|(seen, _)| seen),
        None if guest.is_ipv4() => ctx.settings.v4.as_ref().map(|v4| v4.ours.into()),
        None => ctx.settings.v6.as_ref().map(|v6| v6.link_local.into()),
    };
    let Some(source) = source.filter(|source| source.is_ipv4() == guest.is_ipv4()) else { return };
    if !ctx.settings.services.icmp || !ctx.may_tell_of_error() {
        return;
    }
    let ends = Ends {
        source_mac: ctx.settings.mac,
        destination_mac: ctx.guest.mac_or_broadcast(),
        source,
        destination: guest,
        hop_limit: HOP_LIMIT,
        traffic_class: 0,
    };
    let protocol = if ends.is_v4() { ICMP } else { ICMPV6 };
    let [w0, w1, w2, w3] = message.word.to_be_bytes();
    let header = with_checksum(source, guest, [message.kind, message.code, 0, 0, w0, w1, w2, w3], quote);
    let mut head = ends.head(protocol, u16::try_from(header.len() + quote.len()).unwrap_or(u16::MAX));
    head.extend(header);
    if ctx.put(Offload::None, &head, quote).is_err() {
        ctx.refuse(Refusal::GuestFull);
    }
}

/// The header of an ICMP or ICMPv6 message with its checksum, which is over what follows as well.
pub(crate) fn with_checksum(source: IpAddr, destination: IpAddr, header: [u8; 8], rest: &[u8]) -> [u8; 8] {
    let mut sum = Sum::default();
    if source.is_ipv6() {
        let bytes = u32::try_from(header.len() + rest.len()).unwrap_or(u32::MAX);
        sum =
            Sent { from: source, to: destination, protocol: ICMPV6, marks: MARKS }.ends().pseudo_header(ICMPV6, bytes);
    }
    let [kind, code, _, _, word @ ..] = header;
    sum.add(&[kind, code]);
    sum.add(&word);
    sum.add(rest);
    let [c0, c1] = sum.checksum().to_be_bytes();
    let [w0, w1, w2, w3] = word;
    [kind, code, c0, c1, w0, w1, w2, w3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, at, ip_frame, with_packet};

    #[test]
    fn a_failed_connection_is_told_with_its_syn() {
        let cases = [
            (libc::ENETUNREACH, Some([3, 0]), Some([1, 0])),
            (libc::EHOSTUNREACH, Some([3, 1]), Some([1, 3])),
            (libc::EADDRNOTAVAIL, Some([3, 1]), Some([1, 3])),
            (libc::EACCES, Some([3, 13]), Some([1, 1])),
            // Told by RST, or by silence.
            (libc::ECONNREFUSED, None, None),
            (libc::ETIMEDOUT, None, None),
        ];
        for (errno, v4, v6) in cases {
            for (guest, peer, told) in
                [("192.0.2.2:50000", "198.51.100.7:80", v4), ("[2001:db8::2]:50000", "[2001:db8:1::7]:80", v6)]
            {
                let mut world = World::new();
                let connect = FailedConnect { guest: at(guest), peer: at(peer), sequence: 0x0102_0304 };
                let failure = io::Error::from_raw_os_error(errno);
                assert_eq!(about_connect(&mut world.context(), &connect, &failure), told.is_some());
                let heard = world.heard();
                assert_eq!(heard.first().map(|heard| [heard.packet[0], heard.packet[1]]), told);
                if let Some(heard) = heard.first() {
                    let quoted = etherparse::LaxSlicedPacket::from_ip(&heard.payload).unwrap();
                    let Some(etherparse::TransportSlice::Tcp(tcp)) = quoted.transport else { panic!("{quoted:?}") };
                    assert_eq!((tcp.source_port(), tcp.destination_port()), (50_000, 80));
                    assert_eq!((tcp.sequence_number(), tcp.syn(), tcp.ack()), (0x0102_0304, true, false));
                    assert_eq!(heard.destination, at(guest).ip());
                }
            }
        }
    }

    #[test]
    fn an_unknown_protocol_is_told() {
        let mut world = World::new();
        for (guest, peer, told) in [("192.0.2.2", "198.51.100.7", [3, 2]), ("2001:db8::2", "2001:db8:1::7", [4, 1])] {
            let (guest, peer) = (guest.parse().unwrap(), peer.parse().unwrap());
            let frame = ip_frame(guest, peer, 132, b"INIT");
            with_packet(&frame, |ip| about_refused(&mut world.context(), ip, Refusal::OtherProtocol));
            let heard = world.heard().remove(0);
            assert_eq!((&heard.packet[..2], &heard.payload[..]), (&told[..], &frame[14..]));
            let frame = ip_frame(guest, peer, 132, b"INIT");
            with_packet(&frame, |ip| about_refused(&mut world.context(), ip, Refusal::TooFast));
            assert!(world.heard().is_empty(), "who is too fast is not told faster");
        }
    }

    /// RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
    #[test]
    fn there_are_no_errors_about_errors_or_groups() {
        let mut world = World::new();
        let (guest, peer, all) = ("192.0.2.2", "198.51.100.7", "224.0.0.5");
        let (guest6, peer6, all6) = ("2001:db8::2", "2001:db8:1::7", "ff02::5");
        let error = |kind: u8| [kind, 0, 0, 0, 0, 0, 0, 0];
        let silent = [
            (guest, peer, ICMP, error(3)),
            (guest, peer, ICMP, error(11)),
            (guest, peer, ICMP, error(5)),
            (guest, all, UDP, error(0)),
            (guest6, peer6, ICMPV6, error(1)),
            (guest6, peer6, ICMPV6, error(4)),
            (guest6, all6, UDP, error(0)),
        ];
        for (guest, peer, protocol, payload) in silent {
            let frame = ip_frame(guest.parse().unwrap(), peer.parse().unwrap(), protocol, &payload);
            with_packet(&frame, |ip| about_refused(&mut world.context(), ip, Refusal::DestinationNotAllowed));
            assert!(world.heard().is_empty());
        }
        let frame = ip_frame(guest.parse().unwrap(), peer.parse().unwrap(), ICMP, &error(8));
        with_packet(&frame, |ip| about_refused(&mut world.context(), ip, Refusal::DestinationNotAllowed));
        assert_eq!(world.heard().len(), 1);
        // And none at all where ICMP is switched off.
        world.settings.services.icmp = false;
        with_packet(&frame, |ip| about_refused(&mut world.context(), ip, Refusal::DestinationNotAllowed));
        assert!(world.heard().is_empty());
    }

    #[test]
    fn the_budget_fills_steadily() {
        let (now, mut budget) = (Instant::now(), Budget::default());
        let taken = |budget: &mut Budget, now| (0..1000).take_while(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, now), 100);
        assert_eq!(taken(&mut budget, now + INTERVAL * 7), 7);
        assert_eq!(taken(&mut budget, now + Duration::from_secs(3600)), 100);
    }
}
