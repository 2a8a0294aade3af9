//! UDP (RFC 768): flows of datagrams between the guest and its peers, each with a socket of its own.
//!
//! A flow begins with the guest's first datagram to an address and port, or with a peer's first one to a forwarded
//! port, and ends when nothing was heard for a while. Its socket is bound to the guest's port where that is free, and
//! connected to the peer, so that the kernel sorts what arrives, and reports what went wrong. Datagrams to groups,
//! multicast or broadcast, leave by sockets that are not connected: answers come from others. What is sent to a group
//! that the guest listens to, and arrives at a forwarded port, makes no flow. Datagrams for the guest wait in their
//! sockets' queues while it has no room, and what was received already waits here: the kernel drops what is too much. Where it is not
//! known when there is room again, what does not fit is dropped, and counted. Fragments are put together before
//! ([`crate::fragment`]); echo is in [`crate::icmp`]. Called by the translator.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Bound;
use std::time::Duration;

use culvert_frame::{MacAddress, Offload};

use crate::context::Context;
use crate::failure::Failure;
use crate::flow::{FlowEnds, StoredEnds, Target};
use crate::flow_table::{FlowTable, HasEnds};
use crate::forward::Protocol;
use crate::fragment;
use crate::head::{Ends, UDP};
use crate::icmp_error;
use crate::limits::{LimitSettings, Share};
use crate::link::{Full, GuestLink};
use crate::mapping;
use crate::multicast::{Groups, group_mac, is_group};
use crate::opening::Flows;
use crate::packet::{IpPacket, Payload};
use crate::recency::Recency;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::sockets::SocketId;
use crate::sockets::datagram::{BURSTS, Burst, Cause, Datagram, DatagramSockets, Marks, NetworkError, UdpWish};
use crate::time::Instant;

mod header;
mod moving;
mod train;

pub(crate) use header::header;
pub use moving::UdpState;
pub(crate) use moving::reason;
use train::Train;

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

impl UdpSettings {
    /// The usual, but no more than half of all flows: the others are for TCP, whose do not make room.
    pub fn within(limits: &LimitSettings) -> Self {
        Self { flows: limits.udp_flows(), ..Self::default() }
    }
}

/// All flows of a guest.
#[derive(Debug)]
pub struct UdpFlows {
    settings: UdpSettings,
    flows: FlowTable<Flow>,
    /// Ports of sockets with the peers that they are connected to: the kernel would not tell two alike apart.
    taken: HashSet<(u16, SocketAddr)>,
    /// Flows in which only one side was heard.
    one_sided: Recency,
    /// Flows in which both were.
    streams: Recency,
    /// Ports from which datagrams to groups leave, and how many flows do so: what we hear of them ourselves is not
    /// news.
    group_ports: HashMap<u16, u32>,
    burst: Burst,
    /// What the guest sent in this round, and was not sent yet.
    train: Train,
    /// What arrived for the guest by one event of a socket, and was not put yet.
    arrived: Train,
    /// Whose the datagrams are that were received, and for which the guest had no room: the rest of `burst`, and
    /// `arrived`. Nobody else receives until these are put.
    held: Option<SocketId>,
    /// Sockets that may have datagrams, while the guest has no room.
    waiting: BTreeSet<SocketId>,
    /// Which of them had its turn last.
    fed: Option<SocketId>,
    /// Tells the packets apart that are cut into fragments.
    identification: u32,
}

#[derive(Debug)]
struct Flow {
    ends: StoredEnds,
    /// Where datagrams of the guest's go, on the host's side.
    peer: SocketAddr,
    is_group: bool,
    /// The port of the socket.
    port: u16,
    /// Its address, where the peer began.
    local: Option<IpAddr>,
    guest_was_heard: bool,
    peer_was_heard: bool,
    /// Of the guest's last datagram.
    marks: Marks,
}

impl HasEnds for Flow {
    #[inline]
    fn stored_ends(&self) -> &StoredEnds {
        &self.ends
    }
}

impl UdpFlows {
    /// No flows.
    pub fn new(settings: UdpSettings) -> Self {
        Self {
            settings,
            flows: FlowTable::new(),
            taken: HashSet::new(),
            one_sided: Recency::default(),
            streams: Recency::default(),
            group_ports: HashMap::new(),
            burst: Burst::default(),
            train: Train::default(),
            arrived: Train::default(),
            held: None,
            waiting: BTreeSet::new(),
            fed: None,
            identification: 0,
        }
    }

    /// A whole UDP packet of the guest's. `segment`: the guest left it to us to make datagrams of so many bytes of it
    /// (USO). What can be told the guest by ICMP, it is told.
    ///
    /// # Errors
    /// Why it was refused; to be counted.
    pub fn from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ip: &IpPacket<'_>,
        segment: Option<u16>,
    ) -> Result<(), Refusal> {
        let (ends, payload) = header::parse(ip, segment)?;
        let marks = Marks { hop_limit: ip.hop_limit, traffic_class: ip.traffic_class };
        let index = match self.flows.find(&ends) {
            Some(index) => index,
            None => self.open_from_guest(ctx, &ends, marks).map_err(|failure| failure.tell(ctx, ip))?,
        };
        if let Some(flow) = self.flows.get_mut(index) {
            flow.marks = marks;
            flow.guest_was_heard = true;
        }
        self.touch(index, ctx.now);
        if segment.is_some() || !self.train.add(index, marks, payload) {
            // In the order in which they came.
            self.flush(ctx);
            if segment.is_some() || !self.train.add(index, marks, payload) {
                self.send(ctx, index, payload, segment, marks);
            }
        }
        Ok(())
    }

    /// Sends what the guest's packets left to be sent: at the end of each round.
    pub fn flush<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        let train = std::mem::take(&mut self.train);
        if let (Some(index), Some((bytes, size, marks))) = (train.flow(), train.content()) {
            let segment = Some(size).filter(|&size| usize::from(size) < bytes.len());
            self.send(ctx, index, Payload::of_bytes(bytes), segment, marks);
        }
        self.train = train;
        self.train.clear();
    }

    fn send<S: DatagramSockets, L: GuestLink>(
        &self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        payload: Payload<'_>,
        segment: Option<u16>,
        marks: Marks,
    ) {
        let Some(flow) = self.flows.get(index) else { return };
        let to = flow.is_group.then_some(flow.peer);
        let Err(failure) = ctx.sockets.send_datagram(SocketId::Udp(index), payload, segment, to, marks) else { return };
        ctx.note_memory_fault(&failure);
        ctx.refuse(Refusal::SocketError);
        if !flow.is_group {
            let mut quoted = [0; icmp_error::MAX_QUOTE];
            let length = payload.take(segment.map_or(u32::MAX, u32::from)).copy_to(&mut quoted);
            let cause = Cause::Local(failure.raw_os_error().unwrap_or(0));
            let error = NetworkError { cause, destination: flow.peer, quoted_bytes: length };
            let payload = quoted.get(..length).unwrap_or_default();
            icmp_error::about_datagram(ctx, &error, (flow.ends().guest, flow.ends().peer, marks), payload);
        }
    }

    /// The socket of flow `index` ([`SocketId::Udp`]) has datagrams, or, if it has `failed`, errors. Whether there may be
    /// more: call again soon then, nobody else tells.
    pub fn from_socket<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        failed: bool,
    ) -> bool {
        if self.flows.get(index).is_none() {
            return false;
        }
        let mut more = failed && self.pass_errors_on(ctx, index);
        more |= self.receive(ctx, SocketId::Udp(index), |flows, ctx, datagram, payload| {
            flows.deliver(ctx, index, datagram, payload)
        });
        more
    }

    /// The socket of a forwarded port ([`SocketId::UdpListener`]) has datagrams. Whether there may be more: call again
    /// soon then, nobody else tells.
    pub fn from_listener<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        groups: &Groups,
        listener: u32,
        target: &Target,
    ) -> bool {
        self.arrive(ctx, groups, SocketId::UdpListener(listener), |_| Some(*target))
    }

    /// The socket of all steered ports ([`SocketId::SteeredUdp`]) has datagrams. `target`: where a port leads to; `None`:
    /// they are not for us. Whether there may be more: call again soon then, nobody else tells.
    pub fn from_steered<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        groups: &Groups,
        target: impl Fn(u16) -> Option<Target>,
    ) -> bool {
        self.arrive(ctx, groups, SocketId::SteeredUdp, target)
    }

    fn arrive<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        groups: &Groups,
        socket: SocketId,
        target: impl Fn(u16) -> Option<Target>,
    ) -> bool {
        self.receive(ctx, socket, |flows, ctx, datagram, payload| {
            let port = datagram.destination.map_or(0, |destination| destination.port());
            let target = target(port).ok_or(Refusal::BadDestination)?;
            flows.forward(ctx, groups, &target, datagram, payload)
        })
    }

    /// Receives what a socket has, in some bursts, and hands each datagram to `each`, until the guest has no room; what
    /// is left then waits for [`Self::next_waiting`]. Whether there may be more.
    fn receive<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        socket: SocketId,
        mut each: impl FnMut(&mut Self, &mut Context<'_, S, L>, &Datagram, &[u8]) -> Result<(), Refusal>,
    ) -> bool {
        let mut burst = std::mem::take(&mut self.burst);
        let mut more = true;
        for _ in 0..BURSTS {
            if self.held.is_none() {
                if ctx.link.is_full() {
                    self.waiting.insert(socket);
                    more = false;
                    break;
                }
                burst.clear();
                if ctx.sockets.receive_datagrams(socket, &mut burst).is_err() {
                    more = false;
                    break;
                }
            } else if self.held != Some(socket) {
                self.waiting.insert(socket);
                more = false;
                break;
            }
            let was_held = self.held.take().is_some();
            if self.hand_over(ctx, &mut burst, &mut each).is_err() {
                self.held = Some(socket);
                self.waiting.insert(socket);
                more = false;
                break;
            }
            if was_held {
                // It has the first turn at all room; others would have none if it went on.
                if self.waiting.iter().any(|other| *other != socket) {
                    break;
                }
                // However few they were: more may have come while they waited.
                continue;
            }
            // Fewer than there is room for: there are no more.
            if !burst.is_full() {
                more = false;
                break;
            }
        }
        self.burst = burst;
        more
    }

    /// Hands what was received to `each`, and puts what that has gathered.
    ///
    /// # Errors
    /// [`Full`]: what is left is for when the guest has room again.
    fn hand_over<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        burst: &mut Burst,
        each: &mut impl FnMut(&mut Self, &mut Context<'_, S, L>, &Datagram, &[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Full> {
        while let Some((datagram, payload)) = burst.next() {
            if let Err(refusal) = each(self, ctx, datagram, payload) {
                lost(ctx, refusal)?;
            }
            burst.advance();
        }
        self.put_arrived(ctx).or_else(|refusal| lost(ctx, refusal))
    }

    /// Whose turn it is to receive, now that the guest has room: by a call as for an event. As many have to wait as
    /// [`Self::waiting`] says.
    pub fn next_waiting(&mut self) -> Option<SocketId> {
        let after = self.fed.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.first());
        let next = self.held.or(next.copied())?;
        self.waiting.remove(&next);
        self.fed = Some(next);
        Some(next)
    }

    /// How many sockets wait for the guest to have room.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A socket is closed: nothing of it waits any more. Whether something did that was received.
    pub fn forget(&mut self, socket: SocketId) -> bool {
        self.waiting.remove(&socket);
        let holds = self.held == Some(socket);
        if holds {
            self.held = None;
            self.burst.clear();
            self.arrived.clear();
        }
        holds
    }

    /// The guest says that it has nobody at a flow's port. No socket can tell the peer; but the flow was for nothing,
    /// if nothing of the guest's was heard in it: it ends.
    pub fn refused_by_guest<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, ends: &FlowEnds) {
        let Some(index) = self.flows.find(ends) else { return };
        if self.flows.get(index).is_some_and(|flow| !flow.guest_was_heard) {
            self.close(ctx, index);
        }
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let one_sided = self.one_sided.oldest().map(|(_, used)| used + self.settings.timeout);
        let stream = self.streams.oldest().map(|(_, used)| used + self.settings.stream_timeout);
        one_sided.into_iter().chain(stream).min()
    }

    /// Ends the flows that were silent for too long.
    pub fn expire<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        while let Some((index, used)) = self.one_sided.oldest()
            && used + self.settings.timeout <= ctx.now
        {
            self.close(ctx, index);
        }
        while let Some((index, used)) = self.streams.oldest()
            && used + self.settings.stream_timeout <= ctx.now
        {
            self.close(ctx, index);
        }
    }

    /// The ends of all flows.
    pub fn iter(&self) -> impl Iterator<Item = FlowEnds> {
        self.flows.iter().map(|(_, flow)| flow.ends())
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A flow that begins with a datagram of the guest's.
    fn open_from_guest<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ends: &FlowEnds,
        marks: Marks,
    ) -> Result<u32, Failure> {
        ctx.is_free(Protocol::Udp, ends)?;
        let peer = ctx.towards_host(ends.peer)?;
        let is_group = is_group(ctx.settings, peer.ip());
        let outbound = mapping::outbound(ctx.settings, peer.ip());
        let own = Some(ends.guest.port()).filter(|&port| !self.taken.contains(&(port, peer)));
        let port = own.filter(|&port| is_group || ctx.take_port(port, peer)).unwrap_or(0);
        let wish = UdpWish {
            local: SocketAddr::new(outbound.address.unwrap_or(unspecified(peer.ip())), port),
            any_port: true,
            interface: outbound.interface,
            peer: (!is_group).then_some(peer),
        };
        let opened = self.open(ctx, ends, peer, marks, &wish);
        let has_it = opened.as_ref().is_ok_and(|&index| self.flows.get(index).is_some_and(|flow| flow.port == port));
        if port != 0 && !is_group && !has_it {
            ctx.leave_port(port, peer);
        }
        opened
    }

    /// Opens a new flow with its socket.
    fn open<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ends: &FlowEnds,
        peer: SocketAddr,
        marks: Marks,
        wish: &UdpWish<'_>,
    ) -> Result<u32, Failure> {
        ctx.claim(Protocol::Udp, ends)?;
        let opened = self.open_socket(ctx, |sockets, index| sockets.open_udp(index, wish));
        let (index, local) = opened.inspect_err(|_| ctx.release(Protocol::Udp, ends))?;
        let port = local.port();
        let is_group = wish.peer.is_none();
        let (guest_was_heard, peer_was_heard) = (false, false);
        let stored = (*ends).into();
        let began_in_world = !wish.any_port;
        let own = began_in_world.then_some(local.ip());
        self.flows.insert(Flow {
            ends: stored,
            peer,
            is_group,
            port,
            local: own,
            guest_was_heard,
            peer_was_heard,
            marks,
        });
        if is_group {
            *self.group_ports.entry(port).or_default() += 1;
        } else {
            self.taken.insert((port, peer));
            ctx.take_port(port, peer);
        }
        self.one_sided.touch(index, ctx.now);
        ctx.counters.udp_flows += 1;
        tracing::debug!(guest = %ends.guest, peer = %ends.peer, port, "a UDP flow begins");
        Ok(index)
    }

    fn close<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) {
        if self.train.flow() == Some(index) {
            self.flush(ctx);
        }
        if self.forget(SocketId::Udp(index)) {
            ctx.refuse(Refusal::GuestFull);
        }
        if self.arrived.flow() == Some(index) {
            if self.put_arrived(ctx).is_err() {
                ctx.refuse(Refusal::GuestFull);
            }
            self.arrived.clear();
        }
        self.one_sided.remove(index);
        self.streams.remove(index);
        let Some(flow) = self.flows.remove(index) else { return };
        tracing::debug!(guest = %flow.ends().guest, peer = %flow.ends().peer, "a UDP flow ends");
        ctx.sockets.close_datagrams(SocketId::Udp(index));
        if !flow.is_group {
            self.taken.remove(&(flow.port, flow.peer));
            ctx.leave_port(flow.port, flow.peer);
        } else if let Some(count) = self.group_ports.get_mut(&flow.port) {
            *count -= 1;
            if *count == 0 {
                self.group_ports.remove(&flow.port);
            }
        }
        ctx.release(Protocol::Udp, &flow.ends());
        ctx.limits.close(Share::Udp);
    }

    fn touch(&mut self, index: u32, now: Instant) {
        let Some(flow) = self.flows.get(index) else { return };
        if flow.guest_was_heard && flow.peer_was_heard {
            self.one_sided.remove(index);
            self.streams.touch(index, now);
        } else {
            self.one_sided.touch(index, now);
        }
    }

    /// A datagram of a flow's peer.
    fn deliver<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        datagram: &Datagram,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let is_echo = self.is_echo(ctx.settings, datagram.source);
        let Some(flow) = self.flows.get_mut(index) else { return Ok(()) };
        let from = if flow.is_group {
            match mapping::towards_guest(ctx.settings, ctx.guest, datagram.source.ip()) {
                // Headers are made for addresses of one family.
                Ok((seen, _)) if !is_echo && seen.is_ipv4() == flow.ends().guest.is_ipv4() => {
                    SocketAddr::new(seen, datagram.source.port())
                }
                _ => return Ok(()),
            }
        } else if (datagram.source.ip(), datagram.source.port()) == (flow.peer.ip(), flow.peer.port()) {
            flow.ends().peer
        } else {
            // It came between the socket's being bound and connected.
            return Ok(());
        };
        flow.peer_was_heard = true;
        let (to, marks) = (flow.ends().guest, datagram.marks);
        let gathers = !flow.is_group && header::takes_segments(ctx, to.is_ipv4(), payload.len());
        self.touch(index, ctx.now);
        if !gathers || !self.arrived.add(index, marks, Payload::of_bytes(payload)) {
            // In the order in which they came.
            self.put_arrived(ctx)?;
            if !gathers || !self.arrived.add(index, marks, Payload::of_bytes(payload)) {
                return self.put(ctx, (from, to, marks), ctx.guest.mac_or_broadcast(), payload, None);
            }
        }
        Ok(())
    }

    /// Puts what was gathered for the guest: one frame, which it takes for several datagrams.
    ///
    /// # Errors
    /// [`Refusal::GuestFull`]: where the guest is there it is still gathered, else it is lost.
    fn put_arrived<S, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) -> Result<(), Refusal> {
        let arrived = std::mem::take(&mut self.arrived);
        let flow = arrived.flow().and_then(|index| self.flows.get(index));
        let mut result = Ok(());
        if let (Some(FlowEnds { guest, peer }), Some((payload, size, marks))) =
            (flow.map(|flow| flow.ends()), arrived.content())
        {
            let segment = Some(size).filter(|&size| usize::from(size) < payload.len());
            result = self.put(ctx, (peer, guest, marks), ctx.guest.mac_or_broadcast(), payload, segment);
        }
        self.arrived = arrived;
        if result.is_ok() || !ctx.link.is_there() {
            self.arrived.clear();
        }
        result
    }

    /// A datagram that arrived at a forwarded port.
    fn forward<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        groups: &Groups,
        target: &Target,
        datagram: &Datagram,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let source = datagram.source;
        if source.port() == 0 {
            return Err(Refusal::BadTransport);
        }
        let (seen, own) = mapping::towards_guest(ctx.settings, ctx.guest, source.ip())?;
        let peer = SocketAddr::new(seen, source.port());
        let group = datagram.destination.map(|to| to.ip()).filter(|&to| is_group(ctx.settings, to));
        let to = SocketAddr::new(group.or(target.address).unwrap_or(own), target.port);
        if to.is_ipv4() != peer.is_ipv4() {
            return Err(Refusal::BadDestination);
        }
        if let Some(group) = group {
            // Makes no flow: an answer makes one of its own.
            if self.is_echo(ctx.settings, source) || (group.is_multicast() && !groups.contains(group)) {
                return Err(Refusal::BadDestination);
            }
            return self.put(ctx, (peer, to, datagram.marks), group_mac(group), payload, None);
        }
        let ends = FlowEnds { guest: to, peer };
        let index = match self.flows.find(&ends) {
            Some(index) => index,
            // From the same address and port that the datagram came to.
            None => {
                let local = datagram.local.ok_or(Refusal::SocketError)?;
                let wish = UdpWish { local, any_port: false, interface: None, peer: Some(source) };
                self.open(ctx, &ends, source, datagram.marks, &wish).map_err(Refusal::from)?
            }
        };
        self.deliver(ctx, index, datagram, payload)
    }

    /// Whether we sent it ourselves, to a group that we hear as well.
    fn is_echo(&self, settings: &Settings, source: SocketAddr) -> bool {
        self.group_ports.contains_key(&source.port()) && mapping::is_of_host(settings, source.ip())
    }

    /// Tells the guest what the network reported about datagrams that it sent. Whether there may be more.
    fn pass_errors_on<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) -> bool {
        let Some(flow) = self.flows.get(index) else { return false };
        let mut quoted = [0; icmp_error::MAX_QUOTE];
        for _ in 0..ERRORS {
            let Ok(error) = ctx.sockets.receive_error(SocketId::Udp(index), &mut quoted) else { return false };
            let payload = quoted.get(..error.quoted_bytes).unwrap_or(&quoted);
            icmp_error::about_datagram(ctx, &error, (flow.ends().guest, flow.ends().peer, flow.marks), payload);
        }
        true
    }

    /// Puts a datagram for the guest: from, to, and its marks; or with `segment` several, of so many bytes each.
    ///
    /// # Errors
    /// [`Refusal::GuestFull`].
    fn put<S, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        (from, to, marks): (SocketAddr, SocketAddr, Marks),
        mac: MacAddress,
        payload: &[u8],
        segment: Option<u16>,
    ) -> Result<(), Refusal> {
        let ends = Ends {
            source_mac: ctx.settings.mac,
            destination_mac: mac,
            source: from.ip(),
            destination: to.ip(),
            hop_limit: marks.hop_limit,
            traffic_class: marks.traffic_class,
        };
        let (from, to) = (from.port(), to.port());
        let result = if let Some(segment) = segment {
            let (offload, header) = header::segmented(&ends, from, to, payload.len(), segment);
            let mut head = ends.head(UDP, header::length(payload.len()));
            head.extend(header);
            ctx.put(offload, &head, payload)
        } else {
            // Fragments have one checksum for all, which nobody else can complete.
            let is_cut = fragment::is_cut(ctx.settings, ctx.guest, &ends, header::BYTES + payload.len());
            let (offload, header) = if is_cut {
                (Offload::None, header(&ends, from, to, payload))
            } else {
                header::partial(&ends, from, to, payload.len())
            };
            self.identification = self.identification.wrapping_add(1);
            let result = fragment::put(ctx, &ends, UDP, (offload, &header, payload), self.identification);
            if result.is_err() && (is_cut || payload.len() > MOST_WAITING) {
                // Some fragments may be put already, and a ring may never have room for as much: it is not tried again.
                ctx.refuse(Refusal::GuestFull);
                return Ok(());
            }
            result
        };
        result.map_err(|Full| Refusal::GuestFull)
    }
}

impl Flows for UdpFlows {
    const SHARE: Share = Share::Udp;

    fn is_full(&self) -> bool {
        self.flows.len() >= self.settings.flows as usize
    }

    fn next_index(&self) -> u32 {
        self.flows.next_index()
    }

    /// Best one in which only one side was heard.
    fn make_room<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) -> bool {
        let oldest = self.one_sided.oldest().or_else(|| self.streams.oldest());
        if let Some((index, _)) = oldest {
            self.close(ctx, index);
        }
        oldest.is_some()
    }
}

/// A datagram could not be put: counts why, unless it is to be put later.
///
/// # Errors
/// [`Full`]: when the guest has room again.
fn lost<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, refusal: Refusal) -> Result<(), Full> {
    if refusal == Refusal::GuestFull && ctx.link.is_there() {
        return Err(Full);
    }
    ctx.refuse(refusal);
    Ok(())
}

/// The longest datagram that waits for the guest's room, in bytes: all but the smallest rings have room for as much.
const MOST_WAITING: usize = 16_384;

/// Errors of the network that are passed on, for one event.
const ERRORS: usize = 16;

const fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests;
