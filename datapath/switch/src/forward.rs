//! The way of a burst through the switch.
//!
//! First every frame is [admitted](ingress::admit), its source learned, and its [route](ingress::route) looked up; a bit
//! for it is set at each port that is to have it. Then each of those ports takes its frames, which is `outlet`'s part. A
//! frame never goes back to the port that it came from.
//!
//! Most frames of a burst begin like the one before them, and go its way: their addresses are looked up once.
//!
//! What a burst costs is added up while its frames are admitted: when it is enough for one turn, the rest stays where it is.

use std::ops::Range;
use std::time::Duration;

use culvert_frame::header::Start;
use culvert_frame::{Direction, DropReason, ETHERNET_HEADER_BYTES, EthernetHeader, MacAddress, Offload};
use culvert_guest::transmit::BURST;
use culvert_guest::{RingFault, cycle_clock};

use crate::burst::{Burst, Frame, Starts};
use crate::counters::PortCounters;
use crate::egress::Workspace;
use crate::ingress::{self, Ingress, Way};
use crate::latency::Timed;
use crate::mac_table::{Learned, MOST_WAYS, MacTable};
use crate::metering::Arrivals;
use crate::network::{Network, Topology};
use crate::outlet::{Admitted, Frames, Outlet, each, refuse, tap};
use crate::port::{MAX_PORTS, Port, PortId, Rules};
use crate::snoop::{self, Snooped};
use crate::tap;
use crate::vlan::{Membership, TRANSPARENT, Tag, TagEdit, Vlans};
use crate::way_cache::WayCache;

/// How much of a message about multicast groups is read, in bytes: an Ethernet frame's worth.
const MESSAGE_BYTES: usize = 1518;

/// What one turn of a guest may cost: once its frames cost more, those behind stay in its ring until its next turn. A frame
/// costs its bytes and [`COPY_COST`] for each port that it goes to, [`DESCRIPTOR_COST`] for each descriptor, and
/// [`SEGMENT_COST`] for each segment that is made of it, and [`TAP_COST`] each time that somebody looks at it. So a
/// turn takes at most as long as this and one frame, for all ports that one goes to.
pub const TURN_COST: u32 = 256 * 1024;

/// What a copy of a frame costs besides its bytes.
pub const COPY_COST: u32 = 256;

/// What a descriptor costs, where a frame has several.
pub const DESCRIPTOR_COST: u32 = 64;

/// What a segment costs that is made here: it is copied and summed before it is copied to where it goes.
pub const SEGMENT_COST: u32 = 4096;

/// What it costs that somebody looks at a frame ([`crate::tap`]): what a port may cost in a round, so that other ports have their turns for each.
pub const TAP_COST: u32 = 64 * 1024;

/// One worker's forwarding: its storage, so that no burst allocates.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    /// Which frames each port is to have, and which ports are to have any.
    wanted: Box<[Frames]>,
    touched: Vec<PortId>,
    /// What was found out about each frame when it came in.
    arrived: [Ingress; BURST],
    out: Outlet,
    snooped: Vec<(PortId, u16, Snooped)>,
    arrivals: Arrivals,
    /// Of the last burst, without its segments.
    cost: u32,
    /// The way of the last frame of this burst that went to one port, and whether others need not be looked at further.
    beaten: Option<(Beaten, bool)>,
    ways: WayCache,
    /// When the present burst was looked for, by the processor's clock; only while somebody measures.
    begun: Option<u64>,
}

/// The way of a frame for those behind it that begin like it. It holds within one burst: the source is known as the table would
/// note it, and the destination is behind that port, or behind none that is known.
#[derive(Clone, Copy, Debug)]
struct Beaten {
    start: [u8; ETHERNET_HEADER_BYTES],
    ingress: Ingress,
    /// The port; `None` where it went to all.
    port: Option<PortId>,
    /// To how many ports it went.
    receivers: u64,
}

impl Beaten {
    /// Whether frames that begin the same, and to which nothing is left to be done, are admitted at `source` as this one was: what
    /// decides on that is in these bytes alone.
    fn is_all(&self, source: &Port) -> bool {
        let Membership { tag, has_inner, .. } = self.ingress.membership;
        let tells_all = self.ingress.offload == Offload::None && tag == Tag::None && !has_inner;
        tells_all && source.rules.guard.addresses.is_empty() && source.taps.is_empty()
    }

    /// What a frame of that length costs that goes its way.
    #[inline(always)]
    const fn cost(&self, length: u32) -> u64 {
        let copy = u64::wrapping_add(length as u64, COPY_COST as u64);
        match self.port {
            Some(_) => copy,
            None => copy.wrapping_mul(self.receivers).wrapping_add(COPY_COST as u64),
        }
    }
}

impl Forwarder {
    /// Forwarding for the worker of that number, which counts in the ports' counter sets of the same number.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            wanted: vec![0; MAX_PORTS].into(),
            touched: Vec::with_capacity(MAX_PORTS),
            arrived: [Ingress::default(); BURST],
            out: Outlet::new(worker),
            snooped: Vec::with_capacity(BURST),
            arrivals: Arrivals::new(),
            cost: 0,
            beaten: None,
            ways: WayCache::new(),
            begun: None,
        }
    }

    /// To be called before a burst is looked for: its time in Culvert begins, if somebody measures that.
    #[inline]
    pub fn begin(&mut self, topology: &Topology) {
        if topology.is_timed() {
            self.begun = Some(cycle_clock::ticks());
        }
    }

    /// Sends a burst that arrived at `from` on its way. `now` is the time since any fixed moment.
    #[inline]
    pub fn forward(&mut self, topology: &Topology, from: PortId, burst: &mut Burst<'_>, now: Duration) {
        let Some(source) = topology.port(from) else { return };
        let Some(network) = topology.network(source.network) else { return };
        let Some(counters) = source.counters.get(self.worker) else { return };

        let metered = !source.rules.rates.rx.is_none();
        let length = if metered { self.arrivals.admit(source, counters, burst, now) } else { burst.len() };
        counters.rx_frames.add(length as u64);
        self.beaten = None;
        let is_tapped = tap::has_room(&source.taps);
        let is_simple = is_simple(source) && !is_tapped;
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let (mut bytes, mut copies) = (0, 0);
        let (mut admitted, mut one, mut forwarded) = (0, 0, 0);
        // Cannot overflow: 32 frames of 32 bits' length to 1024 ports.
        let mut cost = u64::from(u32::from(burst.descriptors()) * DESCRIPTOR_COST);
        let length = length.min(BURST);
        let mut next = 0;
        while next < length {
            let (numbers, table) = (next..length, &*network.table);
            let may_pass = is_simple && cost <= u64::from(TURN_COST);
            let passed = match &*burst {
                Burst::Guest(frames) if may_pass => {
                    Some(self.pass_known(topology, table, source, frames, numbers, cost, seconds))
                }
                Burst::Nic(frames) if may_pass => {
                    Some(self.pass_known(topology, table, source, &**frames, numbers, cost, seconds))
                }
                Burst::Guest(_) | Burst::Nic(_) | Burst::Local(_) => None,
            };
            if let Some(passed) = passed {
                let frames = below(passed.next) & !below(next);
                bytes += passed.bytes;
                (admitted, one) = (admitted | frames, one | frames);
                copies += u64::from(frames.count_ones());
                forwarded += u64::from(frames.count_ones());
                (next, cost) = (passed.next, passed.cost);
                if next == length {
                    break;
                }
            }
            if let Some((beaten, true)) = self.beaten
                && cost <= u64::from(TURN_COST)
            {
                // Those that begin like the last one, if that tells all, go its way without being looked at.
                let from = next;
                next = burst.each_alike(from, length, &beaten.start, |length| {
                    bytes = u64::wrapping_add(bytes, length.into());
                    cost = cost.wrapping_add(beaten.cost(length));
                    cost <= u64::from(TURN_COST)
                });
                if next > from {
                    self.arrived.get_mut(from..next).unwrap_or_default().fill(beaten.ingress);
                    let frames = below(next) & !below(from);
                    admitted |= frames;
                    copies += u64::from(frames.count_ones()) * beaten.receivers;
                    forwarded += u64::from(frames.count_ones());
                    if let Some(port) = beaten.port {
                        one |= frames;
                        self.want(port, frames);
                    } else {
                        let vlan = beaten.ingress.membership.vlan;
                        ingress::each_receiver(topology, network, source, vlan, Way::Flood, |port| {
                            want(&mut self.wanted, &mut self.touched, port, frames);
                        });
                    }
                    continue;
                }
            }
            let index = next;
            next += 1;
            if cost > u64::from(TURN_COST)
                && let Some(left) = burst.leave(index)
            {
                counters.rx_frames.take_back(left as u64);
                next = index;
                break;
            }
            cost += u64::from(COPY_COST);
            let bit = 1 << index;
            let plain = burst.plain(index);
            let looked = match plain {
                Some((head, length)) => Ok((head, length, Ok(Offload::None))),
                None => burst.frame(index).map(|frame| (frame.head, frame.length, frame.offload())),
            };
            let (head, length, offload) = match looked {
                Ok(looked) => looked,
                Err(reason) => {
                    refuse(counters, reason, burst, index);
                    continue;
                }
            };
            bytes += u64::from(length);
            if is_tapped {
                tap(&source.taps, Direction::Rx, burst, index, TagEdit::Keep);
                cost += u64::from(TAP_COST);
            }
            let (header, ingress) = match ingress::admit_head(source, head, offload) {
                Ok(admitted) => admitted,
                Err(reason) => {
                    refuse(counters, reason, burst, index);
                    continue;
                }
            };
            admitted |= bit;
            if let Some(place) = self.arrived.get_mut(index) {
                *place = ingress;
            }
            match self.pass(topology, network, source, counters, burst, index, head, &header, &ingress, now, seconds) {
                Ok(Way::Port(port)) => {
                    one |= bit;
                    copies += 1;
                    cost += u64::from(length);
                    self.want(port, bit);
                }
                Ok(way) => {
                    let mut receivers = 0;
                    let vlan = ingress.membership.vlan;
                    ingress::each_receiver(topology, network, source, vlan, way, |port| {
                        receivers += 1;
                        want(&mut self.wanted, &mut self.touched, port, bit);
                    });
                    match &mut self.beaten {
                        Some((beaten, _)) if receivers > 0 => beaten.receivers = receivers,
                        // Each is refused by itself.
                        beaten => *beaten = None,
                    }
                    if receivers == 0 {
                        refuse(counters, ingress::no_receiver(way), burst, index);
                        continue;
                    }
                    copies += receivers;
                    cost += (u64::from(length) + u64::from(COPY_COST)) * receivers;
                }
                Err(reason) => {
                    refuse(counters, reason, burst, index);
                    continue;
                }
            }
            forwarded += 1;
        }
        self.cost = u32::try_from(cost).unwrap_or(u32::MAX);
        if !is_tapped {
            tap::miss(&source.taps, next as u64);
        }
        if metered {
            self.arrivals.charge(source, counters, burst, length, now);
        }
        let mirrored = self.mirror(topology, source, admitted, &mut copies);
        counters.rx_bytes.add(bytes);
        // All of them are accounted for before the first is delivered: see `recover`.
        counters.copies.add(copies);
        counters.forwarded.add(forwarded);
        self.out.begin_burst();
        let mut burst = Admitted { burst, arrived: &self.arrived, flooded: !one, now, timed: None };
        if topology.is_timed() {
            burst.timed = timed(self.begun.take(), source, burst.burst);
            deliver_timed(&mut self.out, topology, &self.touched, &mut self.wanted, &mut burst, one & !mirrored);
        } else {
            for place in 0..self.touched.len() {
                let Some(&id) = self.touched.get(place) else { break };
                let frames = self.wanted.get_mut(id.index()).map_or(0, std::mem::take);
                self.out.deliver(topology, id, &mut burst, frames, one & !mirrored);
            }
        }
        self.touched.clear();
        self.out.finish(topology, &burst);
    }

    /// Puts everything in order after a panic in [`Self::forward`] or around it: frames that were on their way are counted as
    /// [`DropReason::Failed`] or [`DropReason::Abandoned`], and a receive queue that was held is free again. Returns the
    /// guest over whose receive buffers it was, if it was; else it was over the frames.
    pub fn recover(&mut self, topology: &Topology) -> Option<PortId> {
        self.arrivals.take_until();
        let worker = self.worker;
        let mine = || topology.ports().filter_map(|port| port.counters.get(worker));
        let arrived: u64 = mine().map(PortCounters::fail_arrived).sum();
        for id in self.touched.drain(..) {
            let frames = self.wanted.get_mut(id.index()).map_or(0, std::mem::take);
            // While some that arrived are not accounted for, none was counted as forwarded.
            if let Some(counters) =
                topology.port(id).and_then(|port| port.counters.get(worker)).filter(|_| arrived == 0)
            {
                counters.offered.add(u64::from(frames.count_ones()));
            }
        }
        mine().for_each(PortCounters::fail_offered);
        self.out.recover(topology)
    }

    /// Counts a whole burst as refused at the port that it came from.
    pub fn refuse_burst(&self, topology: &Topology, from: PortId, burst: &Burst<'_>, reason: DropReason) {
        let counters = topology.port(from).and_then(|port| port.counters.get(self.worker));
        let Some(counters) = counters else { return };
        counters.rx_frames.add(burst.len() as u64);
        (0..burst.len()).for_each(|index| refuse(counters, reason, burst, index));
    }

    /// What the last burst has cost, in the unit of [`TURN_COST`].
    #[inline]
    pub const fn cost(&self) -> u32 {
        let Outlet { workspace, tapped, .. } = &self.out;
        self.cost
            .saturating_add(workspace.cut().saturating_mul(SEGMENT_COST))
            .saturating_add(tapped.saturating_mul(TAP_COST))
    }

    /// Until when the guest whose burst was forwarded last may send nothing more, by its rate; what it has sent stays in its
    /// ring.
    #[inline]
    pub const fn take_held(&mut self) -> Option<Duration> {
        self.arrivals.take_until()
    }

    /// The rings that were found broken since the last call, with their ports.
    pub fn take_faults(&mut self) -> impl Iterator<Item = (PortId, RingFault)> + '_ {
        self.out.faults.drain(..)
    }

    /// What was said about multicast groups since the last call: at which port, in which VLAN.
    pub fn take_snooped(&mut self) -> impl Iterator<Item = (PortId, u16, Snooped)> + '_ {
        self.snooped.drain(..)
    }

    /// Learns a frame's source, and finds out where it goes.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one frame and what is known of it, for the only caller")]
    fn pass<'t>(
        &mut self,
        topology: &Topology,
        network: &'t Network,
        source: &Port,
        counters: &PortCounters,
        burst: &Burst<'_>,
        index: usize,
        head: &[u8],
        header: &EthernetHeader,
        ingress: &Ingress,
        now: Duration,
        seconds: u32,
    ) -> Result<Way<'t>, DropReason> {
        let vlan = ingress.membership.vlan;
        let start = head.first_chunk().copied();
        if let Some((beaten, _)) = &self.beaten
            && Some(beaten.start) == start
            && beaten.ingress.membership.vlan == vlan
        {
            return Ok(beaten.port.map_or(Way::Flood, Way::Port));
        }
        // The frame's source may be the destination of those that go another way.
        self.beaten = None;
        let learned = network.table.learn(vlan, header.source, source.id, source.rules.mac_limit, seconds);
        if learned != Learned::Known {
            counters.not_learned.add(1);
        }
        let is_group = header.destination.is_group();
        let snooped = if is_group && network.groups.is_some() {
            burst.frame(index).ok().and_then(|frame| snooped(&frame, &mut self.out.workspace))
        } else {
            None
        };
        let route = ingress::route(topology, network, source, header, ingress, snooped.as_ref(), seconds)?;
        if let Some(limit) = route.limit
            && !source.rules.limits.is_none()
            && !source.limiter.take(limit, ingress.offload.segments(burst.frame(index)?.length), now)
        {
            return Err(ingress::limit_reason(limit));
        }
        if let Some(snooped) = snooped
            && ingress::is_believed(source, &snooped)
            && self.snooped.len() < self.snooped.capacity()
        {
            self.snooped.push((source.id, vlan, snooped));
        }
        let port = match route.way {
            Way::Port(port) => Some(Some(port)),
            // Of those behind it nothing else decides: neither a limit nor what they say about groups.
            Way::Flood if source.rules.limits.is_none() && !(is_group && network.groups.is_some()) => Some(None),
            Way::Flood | Way::Group(_) => None,
        };
        if let (Some(port), Learned::Known, Some(start)) = (port, learned, start) {
            let beaten = Beaten { start, ingress: *ingress, port, receivers: 1 };
            self.beaten = Some((beaten, beaten.is_all(source)));
        }
        Ok(route.way)
    }

    /// Frames of a burst, from the first of `numbers` on, that go between stations that are known: to each of them nothing is left to be done,
    /// its source is known at its port, its destination is known behind another one that may have it, and nothing else decides
    /// ([`is_simple`]). Such frames change nothing but counters. Ends before the first one that is not so, or once the turn's cost is reached.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one burst and what is known of it, for the only caller")]
    fn pass_known(
        &mut self,
        topology: &Topology,
        table: &MacTable,
        source: &Port,
        burst: &impl Starts,
        numbers: Range<usize>,
        cost: u64,
        now: u32,
    ) -> Passed {
        let start = |number| burst.start(number).and_then(|(start, ..)| Start::of(start));
        let passed = if numbers.len() < 2 || start(numbers.start) == start(numbers.start.wrapping_add(1)) {
            self.pass_alike(topology, table, source, burst, numbers.clone(), cost, now)
        } else {
            self.pass_each(topology, table, source, burst, numbers.clone(), cost, now)
        };
        self.arrived.get_mut(numbers.start..passed.next).unwrap_or_default().fill(Ingress::default());
        each(passed.valid, |index| {
            if let Some(place) = self.arrived.get_mut(index) {
                place.offload = Offload::Valid;
            }
        });
        passed
    }

    /// [`Self::pass_known`] for bursts of which many frames begin like the one before them: what such a one goes by is known.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "one burst and what is known of it, for the only caller")]
    fn pass_alike(
        &mut self,
        topology: &Topology,
        table: &MacTable,
        source: &Port,
        burst: &impl Starts,
        numbers: Range<usize>,
        mut cost: u64,
        now: u32,
    ) -> Passed {
        let bound = source.rules.guard.mac.map(MacAddress::to_u64);
        let (mut next, mut bytes, mut frames) = (numbers.start, 0_u64, 0);
        let mut valid: Frames = 0;
        let mut last: Option<(Start, PortId)> = None;
        while next < numbers.end
            && cost <= u64::from(TURN_COST)
            && let Some((start, length, is_valid)) = burst.start(next)
            && let Some(start) = Start::of(start)
        {
            if last.is_none_or(|(alike, _)| alike != start) {
                let (from, to) = (start.source(), start.destination());
                let is_group = (from | to) & GROUP != 0;
                if is_group || bound.is_some_and(|bound| bound != from) {
                    break;
                }
                let Some(port) = table.glance(now).way(from, to, source.id) else { break };
                if last.is_none_or(|(_, last)| last != port) {
                    if !may_have(topology, source, port) {
                        break;
                    }
                    if let Some((_, before)) = last {
                        self.want(before, frames);
                        frames = 0;
                    }
                }
                last = Some((start, port));
            }
            frames |= 1 << next;
            valid |= Frames::from(is_valid) << next;
            bytes = bytes.wrapping_add(u64::from(length));
            cost = cost.wrapping_add(u64::from(length)).wrapping_add(u64::from(COPY_COST));
            next = next.wrapping_add(1);
        }
        if let Some((_, port)) = last {
            self.want(port, frames);
        }
        Passed { next, bytes, cost, valid }
    }

    /// [`Self::pass_known`] for bursts between many stations: all frames are looked up before anything is done for the first one.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "one burst and what is known of it, for the only caller")]
    fn pass_each(
        &mut self,
        topology: &Topology,
        table: &MacTable,
        source: &Port,
        burst: &impl Starts,
        numbers: Range<usize>,
        cost: u64,
        now: u32,
    ) -> Passed {
        let mut ways = [PortId(0); BURST];
        let mut stations = [[0; 2]; BURST];
        let mut passed = stations_of(source, burst, &numbers, cost, &mut stations);
        let mut next = numbers.start;
        let stations = stations.get(..passed.next.wrapping_sub(next)).unwrap_or_default();
        let found = self.ways.ways(&table.glance(now), stations, source.id, &mut ways);
        // Most go the way of the one before.
        let mut left = ways.get(..found).unwrap_or_default();
        while let Some(&port) = left.first() {
            if !may_have(topology, source, port) {
                break;
            }
            let alike = left.iter().take_while(|&&way| way == port).count();
            self.want(port, below(next.wrapping_add(alike)) & !below(next));
            next = next.wrapping_add(alike);
            left = left.get(alike..).unwrap_or_default();
        }
        if next < passed.next {
            // Seldom: what is left out was counted.
            for (_, length, _) in (next..passed.next).filter_map(|index| burst.start(index)) {
                passed.bytes = passed.bytes.wrapping_sub(u64::from(length));
                passed.cost = passed.cost.wrapping_sub(u64::from(length)).wrapping_sub(u64::from(COPY_COST));
            }
            passed.valid &= below(next);
            passed.next = next;
        }
        passed
    }

    #[inline]
    pub(crate) fn want(&mut self, port: PortId, frames: Frames) {
        want(&mut self.wanted, &mut self.touched, port, frames);
    }

    /// Marks copies for mirrors: of the `admitted` frames, and of those that are to leave at mirrored ports. Returns which
    /// frames are copied.
    #[inline]
    fn mirror(&mut self, topology: &Topology, source: &Port, admitted: Frames, copies: &mut u64) -> Frames {
        let mut mirrored = 0;
        let mut copy = |this: &mut Self, target: PortId, frames: Frames| {
            if topology.port(target).is_none() {
                return;
            }
            let before = this.wanted.get(target.index()).copied().unwrap_or(0);
            *copies += u64::from((frames & !before).count_ones());
            mirrored |= frames;
            this.want(target, frames);
        };
        for mirror in source.mirrors.iter().filter(|mirror| mirror.rx && admitted != 0) {
            copy(self, mirror.target, admitted);
        }
        for place in 0..self.touched.len() {
            let Some(port) = self.touched.get(place).and_then(|&id| topology.port(id)) else { continue };
            // What is copied is not copied again.
            if port.is_mirror_target {
                continue;
            }
            let frames = self.wanted.get(port.id.index()).copied().unwrap_or(0);
            for mirror in port.mirrors.iter().filter(|mirror| mirror.tx) {
                copy(self, mirror.target, frames);
            }
        }
        mirrored
    }
}

/// What is measured of a burst: nothing of frames that were made here.
#[cold]
fn timed<'t>(begun: Option<u64>, source: &'t Port, burst: &Burst<'_>) -> Option<Timed<'t>> {
    begun.filter(|_| !matches!(burst, Burst::Local(_))).map(|begun| Timed { source, begun })
}

/// Gives all ports their frames, and reads the clock after each. Apart from where nobody measures, which pays one test for each burst.
#[cold]
#[inline(never)]
fn deliver_timed(
    out: &mut Outlet,
    topology: &Topology,
    touched: &[PortId],
    wanted: &mut [Frames],
    burst: &mut Admitted<'_, '_>,
    last: Frames,
) {
    for &id in touched {
        let frames = wanted.get_mut(id.index()).map_or(0, std::mem::take);
        out.deliver_timed(topology, id, burst, frames, last);
    }
}

/// Whether frames without VLANs or groups, to which nothing is left to be done, are judged at a port by their addresses alone.
#[inline]
fn is_simple(source: &Port) -> bool {
    let Rules { vlans, guard, .. } = &*source.rules;
    matches!(vlans, Vlans::Transparent) && guard.addresses.is_empty() && !source.is_mirror_target
}

/// The stations of frames of a burst, from the first of `numbers` on: of those before the first one to which something is left to be done, or
/// that is to or of no station that may be here. Apart from all else, so that the processor looks at several frames at once.
#[inline(never)]
fn stations_of(
    source: &Port,
    burst: &impl Starts,
    numbers: &Range<usize>,
    mut cost: u64,
    stations: &mut [[u64; 2]; BURST],
) -> Passed {
    // A bound address differs from none, or in none of its bits.
    let (bound, counts) = source.rules.guard.mac.map_or((0, 0), |bound| (bound.to_u64(), u64::MAX));
    const { assert!(BURST <= MOST_WAYS) }
    let (mut next, mut bytes, mut valid) = (numbers.start, 0_u64, 0);
    for (place, index) in stations.iter_mut().zip(numbers.clone()) {
        let Some((start, length, is_valid)) = burst.start(index) else { break };
        let Some(start) = Start::of(start).filter(|_| cost <= u64::from(TURN_COST)) else { break };
        let (from, to) = (start.source(), start.destination());
        if (from | to) & GROUP | (from ^ bound) & counts != 0 {
            break;
        }
        *place = [from, to];
        valid |= Frames::from(is_valid) << index;
        next = next.wrapping_add(1);
        bytes = bytes.wrapping_add(u64::from(length));
        cost = cost.wrapping_add(u64::from(length)).wrapping_add(u64::from(COPY_COST));
    }
    Passed { next, bytes, cost, valid }
}

/// Whether a frame without a VLAN that came in at `source` may leave at a port behind which its destination is.
fn may_have(topology: &Topology, source: &Port, port: PortId) -> bool {
    let fits = |to: &Port| !(to.rules.isolated && source.rules.isolated) && ingress::is_member(to, source, TRANSPARENT);
    port != source.id && topology.port(port).is_some_and(fits)
}

/// The bit of a group's address, as a number (IEEE 802.3-2022, 3.2.3).
const GROUP: u64 = 1 << 40;

/// What [`Forwarder::pass_known`] did.
struct Passed {
    /// The number of the first frame that was left out.
    next: usize,
    /// Bytes of those that were not.
    bytes: u64,
    /// What the burst has cost so far.
    cost: u64,
    /// Those of them whose checksum is known to be right.
    valid: Frames,
}

/// Reads what a frame says about multicast groups.
#[cold]
#[inline(never)]
pub(crate) fn snooped(frame: &Frame<'_>, workspace: &mut Workspace) -> Option<Snooped> {
    if !snoop::is_message(frame.head) {
        return None;
    }
    snoop::parse(workspace.copy(frame, MESSAGE_BYTES), frame.length)
}

/// The frames below that number, which is [`BURST`] at most.
#[inline]
fn below(index: usize) -> Frames {
    let others = u32::try_from(index).ok().and_then(|index| Frames::MAX.checked_shl(index));
    others.map_or(Frames::MAX, |others| !others)
}

#[inline]
fn want(wanted: &mut [Frames], touched: &mut Vec<PortId>, port: PortId, frames: Frames) {
    if let Some(wanted) = wanted.get_mut(port.index()) {
        if *wanted == 0 {
            touched.push(port);
        }
        *wanted |= frames;
    }
}
