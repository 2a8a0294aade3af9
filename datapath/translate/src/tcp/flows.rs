//! All TCP connections of the guest: the table, and what ties each one's core to its socket and to the way to the
//! guest.
//!
//! A [`Connection`] speaks TCP and knows neither sockets nor frames; it says what to do next, and [`TcpFlows::drive`]
//! does it. Connections that frames or events have touched are driven once at the end of the burst, so that a burst of
//! segments is acknowledged once. Those for which the guest had no room wait, in order, until it has.

mod moving;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use culvert_frame::{MacAddress, Offload, PartialChecksum, SegmentKind, Segmentation};
use culvert_guest::Rooms;

use super::{Action, Config, Connection, Failure, Flags, Segment, Seq, Transmit, refusal};
use crate::context::Context;
use crate::failure::is_out_of_descriptors;
use crate::flow::{FlowEnds, StoredEnds, Target};
use crate::flow_table::{FlowTable, HasEnds};
use crate::forward::Protocol;
use crate::head::{Ends, HOP_LIMIT, Head, TCP};
use crate::icmp_error::{self, FailedConnect};
use crate::lane::Accepted;
use crate::limits::Share;
use crate::link::{Full, GuestLink};
use crate::mapping;
use crate::packet::IpPacket;
use crate::refusal::Refusal;
use crate::settings::{DEFAULT_MTU, Settings};
use crate::sockets::{Readiness, SocketId, TcpSockets};
use crate::time::Instant;
use crate::timer_wheel::TimerWheel;

/// The TCP connections of one guest.
#[derive(Debug)]
pub struct TcpFlows {
    flows: FlowTable<Flow>,
    /// When connections are to be woken: perhaps too early, never too late.
    timers: TimerWheel,
    /// To be driven at the end of the burst.
    touched: Vec<u32>,
    /// For which the guest had no room, by their tickets ([`Flow::ticket`]): they get it in this order.
    blocked: BTreeMap<NonZeroU64, u32>,
    /// The last ticket.
    tickets: NonZeroU64,
    /// Whose sockets are held, because the guest moves.
    held: Vec<SocketId>,
    /// Makes initial sequence numbers that nobody can guess (RFC 6528).
    secret: RandomState,
    started: Instant,
    v4: Arc<Config>,
    v6: Arc<Config>,
}

/// One connection.
#[derive(Debug)]
struct Flow {
    ends: StoredEnds,
    connection: Connection,
    socket: SocketState,
    is_touched: bool,
    /// Its place in the line of those for which the guest had no room.
    ticket: Option<NonZeroU64>,
}

/// What is known of a connection's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketState {
    /// It is connecting, for the guest's SYN.
    Connecting,
    Connected,
    /// A look at it may end before what is there does; see [`Readiness::stops`].
    Stopping,
}

impl HasEnds for Flow {
    #[inline]
    fn stored_ends(&self) -> &StoredEnds {
        &self.ends
    }
}

impl Flow {
    fn new(ends: FlowEnds, connection: Connection, socket: SocketState) -> Self {
        Self { ends: ends.into(), connection, socket, is_touched: false, ticket: None }
    }
}

impl TcpFlows {
    /// No connections yet.
    pub fn new(now: Instant, settings: &Settings) -> Self {
        let mtu = settings.mtu.unwrap_or(DEFAULT_MTU);
        Self {
            flows: FlowTable::new(),
            timers: TimerWheel::new(now),
            touched: Vec::new(),
            blocked: BTreeMap::new(),
            tickets: NonZeroU64::MIN,
            held: Vec::new(),
            secret: RandomState::new(),
            started: now,
            v4: Arc::new(Config { mss: mtu.saturating_sub(40), default_mss: 536, epoch: now, ..Config::default() }),
            v6: Arc::new(Config { mss: mtu.saturating_sub(60), default_mss: 1220, epoch: now, ..Config::default() }),
        }
    }

    /// Initial sequence numbers are chosen by this secret and the time since then, like those of other threads.
    pub fn with_sequence_clock(self, (secret, started): (RandomState, Instant)) -> Self {
        Self { secret, started, ..self }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The number of each connection and its ends.
    pub fn iter(&self) -> impl Iterator<Item = (u32, FlowEnds)> + '_ {
        self.flows.iter().map(|(index, flow)| (index, flow.ends()))
    }

    /// A packet of the guest's with TCP in it.
    ///
    /// # Errors
    /// Why it was refused.
    #[inline]
    pub fn from_guest<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        packet: &IpPacket<'_>,
    ) -> Result<(), Refusal> {
        let header = packet.payload.first_bytes();
        let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset, ..] =
            *header.first_chunk::<20>().ok_or(Refusal::BadTransport)?;
        let header_bytes = u32::from(offset >> 4) * 4;
        let length = packet.payload.length().checked_sub(header_bytes).ok_or(Refusal::BadTransport)?;
        let mut segment = Segment::parse(header, length).map_err(|_| Refusal::BadTransport)?;
        segment.congested = packet.traffic_class & 3 == 3;
        let ends = FlowEnds {
            guest: SocketAddr::new(packet.source, u16::from_be_bytes([s0, s1])),
            peer: SocketAddr::new(packet.destination, u16::from_be_bytes([d0, d1])),
        };
        let known = self.flows.find(&ends);
        let superseded = known
            .filter(|_| segment.is_opening())
            .filter(|&index| self.flows.get(index).is_some_and(|flow| flow.connection.is_superseded_by(&segment)));
        if let Some(index) = superseded {
            ctx.sockets.close(SocketId::Tcp(index));
            self.forget(ctx, index);
        }
        match known.filter(|_| superseded.is_none()) {
            Some(index) => {
                self.segment(ctx, index, &segment, packet, header_bytes);
                Ok(())
            }
            None => {
                ctx.is_free(Protocol::Tcp, &ends)?;
                self.open(ctx, ends, &segment).inspect_err(|refusal| {
                    if *refusal != Refusal::OtherLane {
                        refuse_segment(ctx, ends, &segment);
                    }
                })
            }
        }
    }

    fn segment<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        segment: &Segment,
        packet: &IpPacket<'_>,
        header_bytes: u32,
    ) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        if let Some(range) = flow.connection.on_segment(ctx.now, segment) {
            let bytes = packet.payload.skip(header_bytes + range.start).take(range.end.saturating_sub(range.start));
            match ctx.sockets.write(SocketId::Tcp(index), bytes) {
                Ok(count) => flow.connection.on_written(ctx.now, &range, count),
                Err(error) if would_block(&error) => flow.connection.on_written(ctx.now, &range, 0),
                Err(error) => {
                    ctx.note_memory_fault(&error);
                    flow.connection.on_failed(ctx.now, Failure::Reset);
                }
            }
        }
        self.touch(index);
    }

    /// Opens a connection for the guest.
    fn open<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        ends: FlowEnds,
        syn: &Segment,
    ) -> Result<(), Refusal> {
        if !syn.is_opening() {
            return Err(Refusal::NoConnection);
        }
        if ends.guest.ip().is_unspecified() {
            return Err(Refusal::BadSource);
        }
        if ends.guest.port() == 0 || ends.peer.port() == 0 {
            return Err(Refusal::BadTransport);
        }
        let to = ctx.towards_host(ends.peer)?;
        if to.ip().is_multicast() || to.ip() == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
            return Err(Refusal::BadDestination);
        }
        ctx.limits.open(ctx.now, Share::Tcp)?;
        ctx.claim(Protocol::Tcp, &ends).inspect_err(|_| ctx.limits.close(Share::Tcp))?;
        let connection = Connection::from_guest(ctx.now, self.isn(ctx.now, ends), syn, self.config(to.ip()));
        let index = self.insert(Flow::new(ends, connection, SocketState::Connecting));
        let outbound = mapping::outbound(ctx.settings, to.ip());
        if let Err(error) = ctx.sockets.connect(SocketId::Tcp(index), to, &outbound) {
            if is_out_of_descriptors(&error) {
                self.forget(ctx, index);
                return Err(Refusal::NoDescriptor);
            }
            self.fail(ctx, index, &error);
        }
        ctx.counters.tcp_flows += 1;
        self.touch(index);
        Ok(())
    }

    /// Takes connections of the listener `listener`. Returns when to look again though no event tells: there may be
    /// more, or there was no descriptor for those that wait.
    pub fn from_listener<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        listener: u32,
        target: Target,
    ) -> Option<Instant> {
        self.accept_all(ctx, SocketId::TcpListener(listener), |_| Some(target))
    }

    /// Connections wait at the socket of all steered ports. `target`: where a port leads to; `None`: the connection is
    /// not for us. Returns when to try again if there may be more.
    pub fn from_steered<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        target: impl Fn(u16) -> Option<Target>,
    ) -> Option<Instant> {
        self.accept_all(ctx, SocketId::SteeredTcp, target)
    }

    fn accept_all<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        listener: SocketId,
        target: impl Fn(u16) -> Option<Target>,
    ) -> Option<Instant> {
        for _ in 0..ACCEPTED_AT_ONCE {
            let index = self.flows.next_index();
            let id = SocketId::Tcp(index);
            let (far, own) = match ctx.sockets.accept(listener, id) {
                Ok(ends) => ends,
                Err(error) if would_block(&error) => return None,
                Err(error) if is_out_of_descriptors(&error) => {
                    ctx.refuse(Refusal::NoDescriptor);
                    return Some(ctx.now + ACCEPT_AGAIN);
                }
                // The peer has gone already.
                Err(_) => continue,
            };
            let Some(target) = target(own.port()) else {
                ctx.sockets.reset(id);
                ctx.refuse(Refusal::BadDestination);
                continue;
            };
            if let Err(reason) = ctx.limits.open(ctx.now, Share::Tcp) {
                ctx.sockets.reset(id);
                ctx.refuse(reason);
            } else if let Some(lane) = &mut ctx.lane
                && let Some(to) = lane.next_for_connection()
                && let Some(socket) = ctx.sockets.give_away(id)
            {
                lane.give_connection(to, Accepted { socket, far, target });
            } else {
                self.accepted(ctx, id, far, target);
            }
        }
        Some(ctx.now)
    }

    /// A connection that another thread has accepted.
    pub fn take_connection<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, accepted: Accepted) {
        let Accepted { socket, far, target } = accepted;
        let id = SocketId::Tcp(self.flows.next_index());
        if ctx.sockets.adopt(id, socket).is_ok() {
            self.accepted(ctx, id, far, target);
        } else {
            ctx.limits.close(Share::Tcp);
            ctx.refuse(Refusal::SocketError);
        }
    }

    /// There is a connection from the world, and a place for it.
    fn accepted<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        id: SocketId,
        far: SocketAddr,
        target: Target,
    ) {
        if let Err(reason) = self.open_to_guest(ctx, id, far, target) {
            ctx.limits.close(Share::Tcp);
            ctx.sockets.reset(id);
            ctx.refuse(reason);
        }
    }

    fn open_to_guest<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        id: SocketId,
        far: SocketAddr,
        target: Target,
    ) -> Result<(), Refusal> {
        let (peer, guest) = mapping::towards_guest(ctx.settings, ctx.guest, far.ip())?;
        let guest = target.address.filter(|address| address.is_ipv4() == peer.is_ipv4()).unwrap_or(guest);
        let ends = FlowEnds { guest: SocketAddr::new(guest, target.port), peer: SocketAddr::new(peer, far.port()) };
        if guest.is_unspecified() || self.flows.find(&ends).is_some() {
            return Err(Refusal::BadDestination);
        }
        let info = ctx.sockets.info(id).ok_or(Refusal::SocketError)?;
        ctx.claim(Protocol::Tcp, &ends)?;
        let connection = Connection::from_host(ctx.now, self.isn(ctx.now, ends), &info, self.config(guest));
        let index = self.insert(Flow::new(ends, connection, SocketState::Connected));
        ctx.counters.tcp_flows += 1;
        self.touch(index);
        Ok(())
    }

    /// A socket of ours became ready.
    pub fn from_socket<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        index: u32,
        ready: Readiness,
    ) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        tracing::trace!(ends = %flow.ends(), ?ready, "a TCP socket is ready");
        let id = SocketId::Tcp(index);
        if flow.socket == SocketState::Connecting {
            match ctx.sockets.connected(id) {
                Ok(false) => return,
                Ok(true) => {
                    flow.socket = SocketState::Connected;
                    match ctx.sockets.info(id) {
                        Some(info) => flow.connection.on_connected(ctx.now, &info),
                        None => flow.connection.on_failed(ctx.now, Failure::Reset),
                    }
                }
                Err(error) => self.fail(ctx, index, &error),
            }
        }
        let Some(flow) = self.flows.get_mut(index) else { return };
        if ready.stops {
            flow.socket = SocketState::Stopping;
        }
        if ready.writable {
            ctx.sockets.write_on(id);
            flow.connection.on_writable();
        }
        if ready.readable {
            flow.connection.on_readable();
        }
        self.touch(index);
    }

    /// Connecting failed: the guest is told by an ICMP error where the network was the reason, else by RST.
    fn fail<S, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32, error: &io::Error) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        if flow.socket != SocketState::Connecting {
            return;
        }
        flow.socket = SocketState::Connected;
        let FlowEnds { guest, peer } = flow.ends();
        let connect = FailedConnect { guest, peer, sequence: flow.connection.guest_isn().0 };
        let told = icmp_error::about_connect(ctx, &connect, error);
        flow.connection.on_failed(ctx.now, if told { Failure::Unreachable } else { Failure::Reset });
    }

    /// The end of a burst of frames and events: what was touched says what to do.
    pub fn finish<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        let mut touched = std::mem::take(&mut self.touched);
        for &index in &touched {
            if let Some(flow) = self.flows.get_mut(index) {
                flow.is_touched = false;
                self.drive(ctx, index);
            }
        }
        touched.clear();
        self.touched = touched;
    }

    /// The guest has room again.
    pub fn link_ready<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        // Those that find no room again go to the end of the line. Behind the first of them mostly nobody finds any: to try
        // them all would take longer than what was put.
        for _ in 0..self.blocked.len() {
            if ctx.link.is_full() {
                return;
            }
            let Some((_, index)) = self.blocked.pop_first() else { return };
            let Some(flow) = self.flows.get_mut(index) else { continue };
            flow.ticket = None;
            flow.connection.on_unblocked();
            self.drive(ctx, index);
        }
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Wakes the connections whose time has come.
    pub fn expire<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        while let Some(index) = self.timers.expire(ctx.now) {
            let Some(flow) = self.flows.get_mut(index) else { continue };
            flow.connection.on_timer(ctx.now);
            self.drive(ctx, index);
        }
    }

    /// Does what a connection says, until it says nothing more.
    fn drive<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) {
        let id = SocketId::Tcp(index);
        while let Some(flow) = self.flows.get_mut(index) {
            let Some(action) = flow.connection.poll(ctx.now) else { break };
            match action {
                Action::AskInfo => match ctx.sockets.info(id) {
                    Some(info) => flow.connection.on_info(ctx.now, &info),
                    None => flow.connection.on_failed(ctx.now, Failure::Reset),
                },
                Action::AwaitWritable => ctx.sockets.await_writable(id),
                Action::CloseSocket => ctx.sockets.close(id),
                Action::Discard(bytes) => ctx.sockets.discard(id, bytes),
                Action::ShutdownWrite => ctx.sockets.shutdown(id),
                Action::Close => {
                    ctx.sockets.close(id);
                    return self.forget(ctx, index);
                }
                Action::Reset => {
                    ctx.sockets.reset(id);
                    return self.forget(ctx, index);
                }
                Action::Transmit(transmit) => {
                    if send(ctx, index, flow, &transmit) == Err(Full) {
                        flow.connection.on_blocked();
                        if flow.ticket.is_none() {
                            self.tickets = self.tickets.saturating_add(1);
                            flow.ticket = Some(self.tickets);
                            self.blocked.insert(self.tickets, index);
                        }
                    }
                }
            }
        }
        self.set_timer(index);
    }

    fn set_timer(&mut self, index: u32) {
        if let Some(deadline) = self.flows.get(index).and_then(|flow| flow.connection.deadline()) {
            // Waking too early is harmless; so most changes need no new time.
            self.timers.set_earlier(index, deadline);
        }
    }

    fn touch(&mut self, index: u32) {
        if let Some(flow) = self.flows.get_mut(index)
            && !flow.is_touched
        {
            flow.is_touched = true;
            self.touched.push(index);
        }
    }

    fn insert(&mut self, flow: Flow) -> u32 {
        tracing::debug!(ends = %flow.ends(), "a TCP connection begins");
        self.flows.insert(flow)
    }

    fn forget<S, L>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) {
        if let Some(flow) = self.flows.remove(index) {
            tracing::debug!(ends = %flow.ends(), "a TCP connection ends");
            self.timers.stop(index);
            if let Some(ticket) = flow.ticket {
                self.blocked.remove(&ticket);
            }
            ctx.release(Protocol::Tcp, &flow.ends());
            ctx.limits.close(Share::Tcp);
        }
    }

    fn config(&self, address: IpAddr) -> Arc<Config> {
        Arc::clone(if address.is_ipv4() { &self.v4 } else { &self.v6 })
    }

    /// RFC 6528: a secret hash of the ends, and a clock of 4 us.
    fn isn(&self, now: Instant, ends: FlowEnds) -> Seq {
        let [.., a, b, c, d] = self.secret.hash_one(ends).to_be_bytes();
        let [.., e, f, g, h] = (now.saturating_duration_since(self.started).as_micros() / 4).to_be_bytes();
        Seq(u32::from_be_bytes([a, b, c, d]).wrapping_add(u32::from_be_bytes([e, f, g, h])))
    }
}

/// Connections that one event takes from a listener; the rest comes with the next round.
const ACCEPTED_AT_ONCE: usize = 64;

/// How soon after there was no descriptor for a connection it is looked for one again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Sends what a connection wants to send, with payload from its socket.
fn send<S: TcpSockets, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    index: u32,
    flow: &mut Flow,
    transmit: &Transmit,
) -> Result<(), Full> {
    let Some(payload) = transmit.payload else {
        put(ctx, flow.ends(), transmit, 0)?;
        flow.connection.on_transmitted(ctx.now, transmit, 0);
        return Ok(());
    };
    let read = send_payload(ctx, index, flow.ends(), transmit, payload.offset, payload.max)?;
    match read {
        Ok(Read { bytes: 0, .. }) => flow.connection.on_end(transmit),
        Ok(Read { bytes, room }) => {
            flow.connection.on_transmitted(ctx.now, transmit, bytes);
            // That was all, and an event tells of more: no need to look again.
            if bytes < room && flow.socket != SocketState::Stopping {
                flow.connection.on_all_transmitted(transmit);
            }
        }
        Err(error) if would_block(&error) => flow.connection.on_drained(transmit),
        Err(error) => {
            ctx.note_memory_fault(&error);
            flow.connection.on_failed(ctx.now, Failure::Reset);
        }
    }
    Ok(())
}

/// What a look at a socket found, and what it would have had room for, in bytes.
struct Read {
    bytes: u32,
    room: u32,
}

/// Sends at most `most` bytes from `offset` on of what the socket holds: straight into the guest's memory where that
/// can be had. Returns how many there were, or why there were none; then nothing was sent.
fn send_payload<S: TcpSockets, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    index: u32,
    ends: FlowEnds,
    transmit: &Transmit,
    offset: u32,
    most: u32,
) -> Result<io::Result<Read>, Full> {
    let id = SocketId::Tcp(index);
    let macs = ctx.macs();
    let (head, offload) = head(macs, ends, transmit, most);
    if let Some(mut room) = ctx.link.reserve(offload, &head, most)? {
        let rooms = room.rooms();
        let room_bytes = rooms.bytes();
        let read = ctx.sockets.peek(id, offset, rooms);
        if let Ok(bytes @ 1..) = read {
            let (head, offload) = self::head(macs, ends, transmit, bytes);
            room.commit(offload, &head, bytes);
            ctx.counters.tx_frame(head.len() + bytes as usize);
        }
        return Ok(read.map(|bytes| Read { bytes, room: room_bytes }));
    }
    // Room is never what is missing here: only a link that is full tells when it has room again.
    let most = ctx.scratch.len().min(most as usize);
    let scratch = ctx.scratch.get_mut(..most).unwrap_or_default();
    let read = ctx.sockets.peek(id, offset, Rooms::from(scratch));
    if let Ok(bytes @ 1..) = read {
        put(ctx, ends, transmit, bytes)?;
    }
    Ok(read.map(|bytes| Read { bytes, room: u32::try_from(most).unwrap_or(0) }))
}

/// Sends a segment with the first `bytes` of the scratch as payload.
fn put<S, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    ends: FlowEnds,
    transmit: &Transmit,
    bytes: u32,
) -> Result<(), Full> {
    let (head, offload) = head(ctx.macs(), ends, transmit, bytes);
    let payload = ctx.scratch.get(..bytes as usize).unwrap_or_default();
    ctx.link.put(offload, &head, payload)?;
    ctx.counters.tx_frame(head.len() + payload.len());
    Ok(())
}

/// The headers of a segment with `payload_bytes`, and what is left undone of it.
#[inline]
fn head(
    (source_mac, destination_mac): (MacAddress, MacAddress),
    flow: FlowEnds,
    transmit: &Transmit,
    payload_bytes: u32,
) -> (Head, Offload) {
    let ends = Ends {
        source_mac,
        destination_mac,
        source: flow.peer.ip(),
        destination: flow.guest.ip(),
        hop_limit: HOP_LIMIT,
        traffic_class: if transmit.ect { ECT0 } else { 0 },
    };
    let mut header = [0; 60];
    let header_bytes = transmit.write_header(flow.peer.port(), flow.guest.port(), &mut header);
    let bytes = payload_bytes.saturating_add(u32::try_from(header_bytes).unwrap_or(0));
    let mut head = ends.head(TCP, u16::try_from(bytes).unwrap_or(u16::MAX));
    let sum = ends.pseudo_header(TCP, bytes).partial();
    if let Some(field) = header.get_mut(16..18) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    // Ethernet, IP and TCP headers are 114 bytes at most.
    let _ = head.try_extend_from_slice(header.get(..header_bytes).unwrap_or_default());
    let offload = offload(&ends, transmit, &head, payload_bytes);
    (head, offload)
}

/// A checksum is always left to be completed, and segmentation where the payload is more than one segment's.
#[inline]
fn offload(ends: &Ends, transmit: &Transmit, head: &Head, payload_bytes: u32) -> Offload {
    let transport = u16::try_from(ends.header_bytes()).unwrap_or(0);
    if payload_bytes <= u32::from(transmit.mss) {
        return Offload::Checksum(PartialChecksum { start: transport, offset: CHECKSUM });
    }
    Offload::Segment(Segmentation {
        kind: if ends.is_v4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
        ecn: transmit.flags.contains(Flags::CWR),
        size: transmit.mss,
        network: 14,
        transport,
        header_bytes: u16::try_from(head.len()).unwrap_or(0),
    })
}

/// Where the checksum lies in a TCP header, in bytes.
const CHECKSUM: u16 = 16;

/// RFC 3168, section 5.
const ECT0: u8 = 2;

/// Tells the guest that there is no such connection.
fn refuse_segment<S, L: GuestLink>(ctx: &mut Context<'_, S, L>, ends: FlowEnds, segment: &Segment) {
    if let Some(transmit) = refusal(segment) {
        // When there is no room, the guest asks again.
        let _ = put(ctx, ends, &transmit, 0);
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests;
