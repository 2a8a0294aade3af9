//! One guest's translator: every frame from the guest, every event of a socket and every timer comes in here and goes
//! to the protocol that it is for.
//!
//! The event loop calls, in each round: [`Translator::socket_event`] for each event, [`Translator::frame`] for each
//! frame, [`Translator::link_ready`] when the guest has room again, then [`Translator::finish`] once, which sends what
//! is due. Nothing here makes system calls or waits: sockets and the way to the guest are arguments.

mod moving;

use std::collections::{BTreeMap, HashMap};
use std::io;

use culvert_frame::{DropReason, Offload};
use culvert_guest::{NetHeader, Packet};
use slab::Slab;

use crate::context::{Context, SCRATCH_BYTES};
use crate::flow::Target;
use crate::forward::{Listen, Protocol, Steered};
use crate::fragment::Reassembler;
use crate::guest::Guest;
use crate::head::{ICMP, ICMPV6, IGMP, TCP, UDP};
use crate::icmp::{EchoFlows, EchoSettings};
use crate::icmp_error::Budget;
use crate::lane::Lane;
use crate::lane::letter::Letter;
use crate::limits::{LimitSettings, Limits};
use crate::link::GuestLink;
use crate::multicast::{Groups, is_group};
use crate::ndp::Advertiser;
use crate::packet::{self, Content, IpPacket, Payload};
use crate::refusal::{Counters, Refusal};
use crate::settings::Settings;
use crate::sockets::{ListenAt, Readiness, SocketId, Sockets};
use crate::tcp::flows::TcpFlows;
use crate::time::Instant;
use crate::udp::{UdpFlows, UdpSettings};
use crate::{arp, dhcp, dhcpv6, icmp_error, ndp};
use moving::Adopted;
pub use moving::{MoveAnswer, MoveOrder};

/// The translator of one guest.
#[derive(Debug)]
pub struct Translator {
    shared: Shared,
    tcp: TcpFlows,
    udp: UdpFlows,
    echo: EchoFlows,
    groups: Groups,
    fragments: Reassembler,
    /// On the first lane alone.
    advertiser: Option<Advertiser>,
    forwards: Slab<Listen>,
    steered: Steered,
    /// When it is the turn, without an event, of sockets that have more than could be taken at once.
    unfinished: BTreeMap<SocketId, Instant>,
    /// Whether datagrams were the first to have the room that the guest made last.
    datagrams_first: bool,
    /// Where in `forwards`: there may be ten thousands.
    forward_index: HashMap<Listen, usize>,
    /// The guest is on its way: see [`Self::is_waiting`].
    is_waiting: bool,
}

/// What every protocol uses: lent out as a [`Context`].
#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// Of a guest that came from another machine.
    adopted: Option<Box<Adopted>>,
    guest: Guest,
    limits: Limits,
    errors: Budget,
    lane: Option<Lane>,
    counters: Counters,
    /// What is read from sockets, and copies of the frames that are requests to ourselves.
    scratch: Box<[u8]>,
}

impl Shared {
    /// By which the guest is told of its addresses.
    fn leased(&self) -> &Settings {
        self.adopted.as_ref().map_or(&self.settings, |adopted| &adopted.leased)
    }

    #[inline]
    fn context<'a, S, L>(&'a mut self, now: Instant, sockets: &'a mut S, link: &'a mut L) -> Context<'a, S, L> {
        Context {
            now,
            settings: &self.settings,
            guest: &self.guest,
            sockets,
            link,
            limits: &mut self.limits,
            errors: &mut self.errors,
            lane: self.lane.as_mut(),
            counters: &mut self.counters,
            scratch: &mut self.scratch,
        }
    }

    fn reply<L: GuestLink>(&mut self, link: &mut L, frame: &[u8]) {
        match link.put(Offload::None, frame, &[]) {
            Ok(()) => self.counters.tx_frame(frame.len()),
            // Whoever asked will ask again.
            Err(_) => self.counters.refuse(Refusal::GuestFull),
        }
    }
}

impl Translator {
    /// A translator whose guest has not been heard of. `seed` is a random number.
    pub fn new(settings: Settings, limits: LimitSettings, now: Instant, seed: u64) -> Self {
        Self::with(settings, Limits::new(limits), now, seed, None)
    }

    /// The translator of one of several threads that serve a guest, each with its part of `limits`.
    pub fn of_lane(settings: Settings, limits: Limits, now: Instant, seed: u64, lane: Lane) -> Self {
        Self::with(settings, limits, now, seed, Some(lane))
    }

    fn with(settings: Settings, limits: Limits, now: Instant, seed: u64, lane: Option<Lane>) -> Self {
        let is_first = lane.as_ref().is_none_or(Lane::is_first);
        let mut tcp = TcpFlows::new(now, &settings);
        if let Some(lane) = &lane {
            tcp = tcp.with_sequence_clock(lane.sequence_clock());
        }
        Self {
            tcp,
            udp: UdpFlows::new(UdpSettings::within(&limits.settings())),
            echo: EchoFlows::new(EchoSettings::within(&limits.settings())),
            groups: Groups::default(),
            fragments: Reassembler::default(),
            advertiser: is_first.then(|| Advertiser::new(now, seed)),
            forwards: Slab::new(),
            steered: Steered::default(),
            unfinished: BTreeMap::new(),
            datagrams_first: false,
            forward_index: HashMap::new(),
            is_waiting: false,
            shared: Shared {
                adopted: None,
                guest: Guest::new(&settings),
                limits,
                errors: Budget::default(),
                lane,
                counters: Counters::default(),
                scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
                settings,
            },
        }
    }

    /// A guest can be spoken to from now on: asks it who it is. Flows and groups stay as they are: mostly it is the
    /// guest that was there before, over a new connection; those that it does not know end by themselves.
    /// `longest_packet`: what its receive buffers hold, in bytes, where that is known; it is told no larger MTU.
    pub fn guest_came<L: GuestLink>(&mut self, longest_packet: Option<u16>, link: &mut L) {
        self.shared.guest.longest_packet = longest_packet;
        let Shared { settings, guest, .. } = &self.shared;
        let questions = [arp::request(settings, guest), ndp::solicitation(settings, guest)];
        for frame in questions.into_iter().flatten() {
            self.shared.reply(link, &frame);
        }
    }

    /// A round begins.
    pub fn begin(&mut self) {
        let Shared { lane, guest, .. } = &mut self.shared;
        if let Some(lane) = lane {
            lane.look_at_guest(guest);
        }
    }

    /// A frame of the guest's; `offload` is what its driver left undone.
    #[inline]
    pub fn frame<S: Sockets, L: GuestLink>(
        &mut self,
        now: Instant,
        frame: &Packet<'_>,
        offload: Offload,
        sockets: &mut S,
        link: &mut L,
    ) {
        self.shared.counters.rx_frames += 1;
        self.shared.counters.rx_bytes += u64::from(frame.length);
        if let Err(reason) = self.take(now, frame, offload, sockets, link) {
            let is_elsewhere = reason == Refusal::OtherLane;
            let passed_on = is_elsewhere && self.shared.lane.as_ref().is_some_and(|lane| lane.pass_on(frame, offload));
            if !passed_on {
                self.shared.counters.refuse(reason);
            }
        }
    }

    /// A frame or a packet of the guest's that another lane has counted and passed on, or a connection that it has
    /// accepted. Other letters are passed over. What has gone elsewhere meanwhile is refused: nothing wanders about.
    pub fn letter<S: Sockets, L: GuestLink>(&mut self, now: Instant, letter: Letter, sockets: &mut S, link: &mut L) {
        let result = match letter {
            Letter::Frame { bytes, offload } => {
                let frame = Packet::of_parts(NetHeader::default(), &bytes, &[]);
                self.take(now, &frame, offload, sockets, link)
            }
            Letter::Whole(packet) => self.carry(now, &packet.packet(), None, sockets, link),
            Letter::Connection(accepted) => {
                self.tcp.take_connection(&mut self.shared.context(now, sockets, link), accepted);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(reason) = result {
            self.shared.counters.refuse(reason);
        }
    }

    /// The guest sent what is no frame.
    pub fn no_frame(&mut self, reason: DropReason) {
        self.shared.counters.rx_frames += 1;
        self.shared.counters.refuse(match reason {
            DropReason::BadOffload | DropReason::OffloadNotNegotiated => Refusal::BadOffload,
            DropReason::Runt | DropReason::ShortHeader => Refusal::Truncated,
            _ => Refusal::Malformed,
        });
    }

    #[inline]
    fn take<S: Sockets, L: GuestLink>(
        &mut self,
        now: Instant,
        frame: &Packet<'_>,
        offload: Offload,
        sockets: &mut S,
        link: &mut L,
    ) -> Result<(), Refusal> {
        // It has no rings while it is on its way.
        if self.is_waiting {
            return Err(Refusal::GuestFull);
        }
        // A checksum that is not complete means nothing where bytes go to a socket, nor do TCP's segments.
        let segment = match offload {
            Offload::Segment(segmentation) => Some(segmentation.size),
            Offload::None | Offload::Valid | Offload::Checksum(_) => None,
        };
        let Shared { settings, guest, lane, .. } = &mut self.shared;
        match packet::parse(frame)? {
            Content::Arp => {
                if let Some(lane) = lane.as_mut().filter(|lane| !lane.is_first()) {
                    return Err(lane.leave_to_first());
                }
                guest.learn(settings, frame.head);
                if let Some(lane) = lane {
                    lane.tell_of_guest(guest);
                }
                if let Some(answer) = arp::answer(settings, guest, frame.head) {
                    self.shared.reply(link, &answer);
                }
                Ok(())
            }
            Content::Ip(packet) => {
                packet.check_ends()?;
                if settings.is_ours(packet.source) {
                    return Err(Refusal::BadSource);
                }
                guest.learn(settings, frame.head);
                if let Some(lane) = lane {
                    lane.tell_of_guest(guest);
                    if !lane.is_first() && !is_to_one_peer(settings, &packet) {
                        return Err(lane.leave_to_first());
                    }
                }
                match Service::of(&packet) {
                    Some(service) => self.answer(service, frame, link),
                    None => self.packet(now, &packet, segment, sockets, link),
                }
            }
        }
    }

    /// A packet to somebody else than us, perhaps only a fragment. `segment`: it is to be cut into several, with so
    /// many bytes of payload each.
    #[inline]
    fn packet<S: Sockets, L: GuestLink>(
        &mut self,
        now: Instant,
        packet: &IpPacket<'_>,
        segment: Option<u16>,
        sockets: &mut S,
        link: &mut L,
    ) -> Result<(), Refusal> {
        if packet.fragment.is_none() {
            return self.carry(now, packet, segment, sockets, link);
        }
        let Some(whole) = self.fragments.add(now, packet)? else { return Ok(()) };
        // Nobody asks for an address in parts, or for a neighbour (RFC 6980); it is not to leave instead.
        if Service::of(&whole.packet()).is_some() {
            return Err(Refusal::BadRequest);
        }
        let result = self.carry(now, &whole.packet(), segment, sockets, link);
        match result {
            Err(Refusal::OtherLane) if self.shared.lane.as_ref().is_some_and(|lane| lane.pass_whole_on(whole)) => {
                Ok(())
            }
            result => result,
        }
    }

    /// A whole packet.
    #[inline]
    fn carry<S: Sockets, L: GuestLink>(
        &mut self,
        now: Instant,
        packet: &IpPacket<'_>,
        segment: Option<u16>,
        sockets: &mut S,
        link: &mut L,
    ) -> Result<(), Refusal> {
        let services = self.shared.settings.services;
        let ctx = &mut self.shared.context(now, sockets, link);
        match packet.protocol {
            TCP if services.tcp => self.tcp.from_guest(ctx, packet),
            UDP if services.udp => self.udp.from_guest(ctx, packet, segment),
            IGMP => self.groups.from_guest(ctx, packet).map(|_| ()),
            ICMPV6 if self.groups.from_guest(ctx, packet)? => Ok(()),
            ICMP | ICMPV6 if services.icmp => self.echo.from_guest(ctx, packet).inspect_err(|refusal| {
                if *refusal == Refusal::IcmpNotCarried
                    && let Some(ends) = icmp_error::unreachable_port(packet)
                {
                    self.udp.refused_by_guest(ctx, &ends);
                }
            }),
            TCP | UDP | ICMP | ICMPV6 => Err(Refusal::SwitchedOff),
            _ => {
                icmp_error::about_refused(ctx, packet, Refusal::OtherProtocol);
                Err(Refusal::OtherProtocol)
            }
        }
    }

    /// Answers a request to ourselves.
    fn answer<L: GuestLink>(&mut self, service: Service, frame: &Packet<'_>, link: &mut L) -> Result<(), Refusal> {
        let Shared { settings, adopted, guest, scratch, .. } = &mut self.shared;
        let settings = adopted.as_ref().map_or(&*settings, |adopted| &adopted.leased);
        let services = settings.services;
        let length = Payload::of_frame(frame).copy_to(scratch);
        let frame = scratch.get(..length).unwrap_or_default();
        tracing::debug!(?service, "the guest asks");
        let answer = match service {
            Service::Dhcp if services.dhcp => dhcp::answer(settings, guest, frame),
            Service::Dhcpv6 if services.dhcpv6 => dhcpv6::answer(settings, guest, frame),
            Service::Ndp if services.ndp => ndp::answer(settings, guest, frame),
            Service::Dhcp | Service::Dhcpv6 | Service::Ndp => return Err(Refusal::SwitchedOff),
        };
        if let Some(answer) = answer {
            self.shared.reply(link, &answer);
        }
        Ok(())
    }

    /// A socket became ready.
    pub fn socket_event<S: Sockets, L: GuestLink>(
        &mut self,
        now: Instant,
        id: SocketId,
        ready: Readiness,
        sockets: &mut S,
        link: &mut L,
    ) {
        if self.is_waiting {
            return;
        }
        let ctx = &mut self.shared.context(now, sockets, link);
        let again = match id {
            SocketId::Tcp(index) => {
                self.tcp.from_socket(ctx, index, ready);
                None
            }
            SocketId::Udp(index) => self.udp.from_socket(ctx, index, ready.failed).then_some(now),
            SocketId::Echo(index) => self.echo.from_socket(ctx, index, ready.failed).then_some(now),
            SocketId::TcpListener(index) | SocketId::UdpListener(index) => {
                let Some(listen) = self.forwards.get(index as usize) else { return };
                let target = Target { address: listen.target, port: listen.target_port };
                match listen.protocol {
                    Protocol::Tcp => self.tcp.from_listener(ctx, index, target),
                    Protocol::Udp => self.udp.from_listener(ctx, &self.groups, index, &target).then_some(now),
                }
            }
            SocketId::SteeredTcp => self.tcp.from_steered(ctx, |port| self.steered.target(Protocol::Tcp, port)),
            SocketId::SteeredUdp => {
                let target = |port| self.steered.target(Protocol::Udp, port);
                self.udp.from_steered(ctx, &self.groups, target).then_some(now)
            }
        };
        if let Some(time) = again {
            self.unfinished.insert(id, time);
        }
    }

    /// The guest has room again.
    pub fn link_ready<S: Sockets, L: GuestLink>(&mut self, now: Instant, sockets: &mut S, link: &mut L) {
        if self.is_waiting {
            return;
        }
        // Nobody has the first turn always: either could take all of the room.
        self.datagrams_first = !self.datagrams_first;
        if self.datagrams_first {
            self.receive_waiting(now, sockets, link);
        }
        self.tcp.link_ready(&mut self.shared.context(now, sockets, link));
        if !self.datagrams_first {
            self.receive_waiting(now, sockets, link);
        }
    }

    /// Datagrams that waited for room come in.
    fn receive_waiting<S: Sockets, L: GuestLink>(&mut self, now: Instant, sockets: &mut S, link: &mut L) {
        for _ in 0..self.udp.waiting() {
            if link.is_full() {
                return;
            }
            let Some(id) = self.udp.next_waiting() else { return };
            self.socket_event(now, id, Readiness { readable: true, ..Readiness::default() }, sockets, link);
        }
    }

    /// The end of a round: what is due is done, and the guest sees what was sent.
    pub fn finish<S: Sockets, L: GuestLink>(&mut self, now: Instant, sockets: &mut S, link: &mut L) {
        if self.is_waiting {
            return;
        }
        let (settings, guest) = (self.shared.leased(), &self.shared.guest);
        if let Some(frame) = self.advertiser.as_mut().and_then(|advertiser| advertiser.poll(now, settings, guest)) {
            self.shared.reply(link, &frame);
        }
        for (id, time) in std::mem::take(&mut self.unfinished) {
            if time <= now {
                self.socket_event(now, id, LEFT_OVER, sockets, link);
            } else {
                self.unfinished.insert(id, time);
            }
        }
        self.fragments.expire(now);
        let ctx = &mut self.shared.context(now, sockets, link);
        self.udp.flush(ctx);
        self.udp.expire(ctx);
        self.echo.expire(ctx);
        self.tcp.expire(ctx);
        self.tcp.finish(ctx);
        link.flush();
    }

    /// When [`Self::finish`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_waiting {
            return None;
        }
        let unfinished = self.unfinished.values().copied().min();
        let others = [self.tcp.deadline(), self.udp.deadline(), self.echo.deadline(), self.fragments.deadline()];
        let advertiser = self.advertiser.as_ref().map(Advertiser::deadline);
        others.into_iter().chain([unfinished, advertiser]).flatten().min()
    }

    /// Opens a forwarded port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_forward<S: Sockets>(&mut self, listen: &Listen, freebind: bool, sockets: &mut S) -> io::Result<()> {
        let index = u32::try_from(self.forwards.vacant_key()).unwrap_or(u32::MAX);
        let Listen { address, port, .. } = *listen;
        let interface = listen.interface.as_deref();
        let at = ListenAt { address, port, interface, freebind };
        match listen.protocol {
            Protocol::Tcp => sockets.listen(index, &at)?,
            Protocol::Udp => sockets.open_udp_listener(index, &at)?,
        }
        self.forward_index.insert(listen.clone(), self.forwards.insert(listen.clone()));
        Ok(())
    }

    /// How many best-effort forwards are open.
    pub fn best_effort_forwards(&self) -> usize {
        self.forwards.iter().filter(|(_, listen)| !listen.strict).count()
    }

    /// Closes it. Connections that came through it stay.
    pub fn close_forward<S: Sockets>(&mut self, listen: &Listen, sockets: &mut S) {
        if let Some(index) = self.forward_index.remove(listen) {
            self.forwards.remove(index);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            match listen.protocol {
                Protocol::Tcp => sockets.stop_listening(index),
                Protocol::Udp => {
                    sockets.close_datagrams(SocketId::UdpListener(index));
                    if self.udp.forget(SocketId::UdpListener(index)) {
                        self.shared.counters.refuse(Refusal::GuestFull);
                    }
                }
            }
        }
    }

    /// From now on what comes to the sockets of steered ports goes where this says.
    pub fn steer(&mut self, steered: Steered) {
        self.steered = steered;
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The TCP connections.
    pub fn tcp(&self) -> &TcpFlows {
        &self.tcp
    }

    /// The flows of UDP datagrams.
    pub fn udp(&self) -> &UdpFlows {
        &self.udp
    }

    /// The flows of echo requests.
    pub fn echo(&self) -> &EchoFlows {
        &self.echo
    }
}

/// What a socket may have of which not all was taken.
const LEFT_OVER: Readiness = Readiness { readable: true, writable: false, failed: true, stops: true };

/// Whether lanes but the first carry it: TCP or UDP, whole, to one peer.
fn is_to_one_peer(settings: &Settings, packet: &IpPacket<'_>) -> bool {
    packet.fragment.is_none()
        && match packet.protocol {
            TCP => true,
            UDP => Service::of(packet).is_none() && !is_group(settings, packet.destination),
            _ => false,
        }
}

/// What we answer ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Dhcp,
    Dhcpv6,
    Ndp,
}

impl Service {
    fn of(packet: &IpPacket<'_>) -> Option<Self> {
        let bytes = packet.payload.first_bytes();
        match (packet.protocol, bytes) {
            _ if packet.fragment.is_some() => None,
            (UDP, [_, _, high, low, ..]) => match (u16::from_be_bytes([*high, *low]), packet.source.is_ipv4()) {
                (dhcp::SERVER_PORT, true) => Some(Self::Dhcp),
                (dhcpv6::SERVER_PORT, false) => Some(Self::Dhcpv6),
                _ => None,
            },
            (ICMPV6, [kind, ..]) if !packet.source.is_ipv4() && NDP_TYPES.contains(kind) => Some(Self::Ndp),
            _ => None,
        }
    }
}

/// Router and neighbour solicitations and advertisements, redirects (RFC 4861, section 4).
const NDP_TYPES: std::ops::RangeInclusive<u8> = 133..=137;

#[cfg(test)]
mod tests;
