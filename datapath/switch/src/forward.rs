//! The way of a burst through the switch.
//!
//! First every frame is [admitted](ingress::admit), its source learned, and its [route](ingress::route) looked up; a bit
//! for it is set at each port that is to have it. Then each of those ports takes its frames in the order in which they
//! came: one lock, one publication and at most one interrupt for a port and burst. A frame never goes back to the port
//! that it came from. How it leaves (tag, checksum, segments) is [`egress`]'s matter.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use culvert_frame::{Direction, DropReason, EthernetHeader, Layers, Offload, header, layers};
use culvert_guest::receive::PutError;
use culvert_guest::transmit::BURST;
use culvert_guest::{ReceiveQueue, RingFault};
use culvert_nic::{Batch, Mbuf, Pool, TxOffload, TxQueue};

use crate::burst::{Burst, Frame, Sink};
use crate::counters::PortCounters;
use crate::egress::{self, Treatment, Work, Workspace};
use crate::ingress::{self, Ingress, Way};
use crate::mac_table::Learned;
use crate::network::{Network, Topology};
use crate::port::{Egress, MAX_PORTS, Port, PortId};
use crate::snoop::{self, Snooped};
use crate::vlan::TagEdit;

/// How long frames wait for a queue that another worker holds.
pub const MAX_WAIT: Duration = Duration::from_millis(1);

/// A set of the frames of one burst, one bit each.
type Frames = u32;
const _: () = assert!(BURST == Frames::BITS as usize);

/// How much of a message about multicast groups is read, in bytes: an Ethernet frame's worth.
const MESSAGE_BYTES: usize = 1518;

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
}

/// Storage for delivering.
#[derive(Debug)]
struct Outlet {
    worker: usize,
    /// Queues that another worker held at the first try.
    waiting: Vec<(PortId, usize, Frames)>,
    hashes: [u32; BURST],
    outgoing: Batch,
    workspace: Workspace,
    faults: Vec<(PortId, RingFault)>,
}

/// A burst that was admitted, and what was found out about each of its frames.
struct Admitted<'a, 'b> {
    burst: &'a mut Burst<'b>,
    arrived: &'a [Ingress; BURST],
}

impl Admitted<'_, '_> {
    #[inline]
    fn get(&self, index: usize) -> Option<(Frame<'_>, &Ingress)> {
        Some((self.burst.frame(index).ok()?, self.arrived.get(index)?))
    }
}

impl Forwarder {
    /// Forwarding for the worker of that number, which counts in the ports' counter sets of the same number.
    pub fn new(worker: usize) -> Self {
        let out = Outlet {
            worker,
            waiting: Vec::with_capacity(MAX_PORTS),
            hashes: [0; BURST],
            outgoing: Batch::default(),
            workspace: Workspace::default(),
            faults: Vec::with_capacity(BURST),
        };
        Self {
            worker,
            wanted: vec![0; MAX_PORTS].into(),
            touched: Vec::with_capacity(MAX_PORTS),
            arrived: [Ingress::default(); BURST],
            out,
            snooped: Vec::with_capacity(BURST),
        }
    }

    /// Sends a burst that arrived at `from` on its way. `now` is the time since any fixed moment.
    #[inline]
    pub fn forward(&mut self, topology: &Topology, from: PortId, burst: &mut Burst<'_>, now: Duration) {
        let Some(source) = topology.port(from) else { return };
        let Some(network) = topology.network(source.network) else { return };
        let Some(counters) = source.counters.get(self.worker) else { return };

        counters.rx_frames.add(burst.len() as u64);
        let (mut bytes, mut copies) = (0, 0);
        let (mut admitted, mut one, mut forwarded) = (0, 0, 0);
        for index in 0..burst.len().min(BURST) {
            let bit = 1 << index;
            let frame = match burst.frame(index) {
                Ok(frame) => frame,
                Err(reason) => {
                    refuse(counters, reason, burst, index);
                    continue;
                }
            };
            bytes += u64::from(frame.length);
            source.taps.iter().for_each(|tap| tap.take(Direction::Rx, &frame, TagEdit::Keep));
            let (header, ingress) = match ingress::admit(source, &frame) {
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
            match self.pass(topology, network, source, counters, &frame, &header, &ingress, now) {
                Ok(Way::Port(port)) => {
                    one |= bit;
                    copies += 1;
                    self.want(port, bit);
                }
                Ok(way) => {
                    let mut receivers = 0;
                    let vlan = ingress.membership.vlan;
                    ingress::each_receiver(topology, network, source, vlan, way, |port| {
                        receivers += 1;
                        want(&mut self.wanted, &mut self.touched, port, bit);
                    });
                    if receivers == 0 {
                        refuse(counters, ingress::no_receiver(way), burst, index);
                        continue;
                    }
                    copies += receivers;
                }
                Err(reason) => {
                    refuse(counters, reason, burst, index);
                    continue;
                }
            }
            forwarded += 1;
        }
        let mirrored = self.mirror(topology, source, admitted, &mut copies);
        counters.rx_bytes.add(bytes);
        let mut burst = Admitted { burst, arrived: &self.arrived };
        for place in 0..self.touched.len() {
            let Some(&id) = self.touched.get(place) else { break };
            let frames = self.wanted.get_mut(id.index()).map_or(0, std::mem::take);
            self.out.deliver(topology, id, &mut burst, frames, one & !mirrored);
        }
        self.touched.clear();
        if !self.out.waiting.is_empty() {
            self.out.wait_for_queues(topology, &burst);
        }
        counters.copies.add(copies);
        counters.forwarded.add(forwarded);
    }

    /// Counts a whole burst as refused at the port that it came from.
    pub fn refuse_burst(&self, topology: &Topology, from: PortId, burst: &Burst<'_>, reason: DropReason) {
        let counters = topology.port(from).and_then(|port| port.counters.get(self.worker));
        let Some(counters) = counters else { return };
        counters.rx_frames.add(burst.len() as u64);
        (0..burst.len()).for_each(|index| refuse(counters, reason, burst, index));
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
        frame: &Frame<'_>,
        header: &EthernetHeader,
        ingress: &Ingress,
        now: Duration,
    ) -> Result<Way<'t>, DropReason> {
        let vlan = ingress.membership.vlan;
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        if network.table.learn(vlan, header.source, source.id, source.rules.mac_limit, seconds) != Learned::Known {
            counters.not_learned.add(1);
        }
        let snooped = if network.groups.is_some() { self.snoop(frame) } else { None };
        let route = ingress::route(topology, network, source, header, ingress, snooped.as_ref(), seconds)?;
        if let Some(limit) = route.limit
            && !source.rules.limits.is_none()
            && !source.limiter.take(limit, now)
        {
            return Err(ingress::limit_reason(limit));
        }
        if let Some(snooped) = snooped
            && ingress::is_believed(source, &snooped)
            && self.snooped.len() < self.snooped.capacity()
        {
            self.snooped.push((source.id, vlan, snooped));
        }
        Ok(route.way)
    }

    fn snoop(&mut self, frame: &Frame<'_>) -> Option<Snooped> {
        snooped(frame, &mut self.out.workspace)
    }

    #[inline]
    fn want(&mut self, port: PortId, frames: Frames) {
        want(&mut self.wanted, &mut self.touched, port, frames);
    }

    /// Marks copies for mirrors: of the `admitted` frames, and of those that are to leave at mirrored ports. Returns which
    /// frames are copied.
    #[inline]
    fn mirror(&mut self, topology: &Topology, source: &Port, admitted: Frames, copies: &mut u64) -> Frames {
        let mut mirrored = 0;
        let mut copy = |this: &mut Self, target, frames: Frames| {
            let before = this.wanted.get(target).copied().unwrap_or(0);
            *copies += u64::from((frames & !before).count_ones());
            mirrored |= frames;
            this.want(PortId(u16::try_from(target).unwrap_or(u16::MAX)), frames);
        };
        for mirror in source.mirrors.iter().filter(|mirror| mirror.rx && admitted != 0) {
            copy(self, mirror.target.index(), admitted);
        }
        for place in 0..self.touched.len() {
            let Some(port) = self.touched.get(place).and_then(|&id| topology.port(id)) else { continue };
            let frames = self.wanted.get(port.id.index()).copied().unwrap_or(0);
            for mirror in port.mirrors.iter().filter(|mirror| mirror.tx) {
                copy(self, mirror.target.index(), frames);
            }
        }
        mirrored
    }
}

/// Reads what a frame says about multicast groups.
pub(crate) fn snooped(frame: &Frame<'_>, workspace: &mut Workspace) -> Option<Snooped> {
    if !snoop::is_message(frame.head) {
        return None;
    }
    snoop::parse(workspace.copy(frame, MESSAGE_BYTES), frame.length)
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

impl Outlet {
    /// Gives a port its frames. `last` are those that go nowhere else.
    #[inline]
    fn deliver(&mut self, topology: &Topology, id: PortId, burst: &mut Admitted<'_, '_>, frames: Frames, last: Frames) {
        let Some(port) = topology.port(id) else { return };
        let Some(counters) = port.counters.get(self.worker) else { return };
        counters.offered.add(u64::from(frames.count_ones()));
        match &port.egress {
            Egress::Down => refuse_all(counters, DropReason::PortDown, burst.burst, frames),
            Egress::Quarantined => refuse_all(counters, DropReason::Quarantined, burst.burst, frames),
            Egress::Guest(queues, _) => self.put_into_guest(port, counters, queues, burst, frames),
            Egress::Nic(queues, _, pool) => self.send(port, counters, queues, pool, burst, frames, frames & last),
            #[cfg(test)]
            Egress::Test(left, _) => {
                let mut sink = left.lock().unwrap();
                self.put(port, counters, &mut *sink, burst, frames);
            }
        }
    }

    #[inline]
    fn put_into_guest(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queues: &[Arc<Mutex<ReceiveQueue>>],
        burst: &Admitted<'_, '_>,
        mut frames: Frames,
    ) {
        if queues.len() > 1 {
            each(frames, |index| {
                if let (Some(hash), Some((frame, _))) = (self.hashes.get_mut(index), burst.get(index)) {
                    *hash = header::flow_hash(frame.head);
                }
            });
        }
        while frames != 0 {
            let (index, mine) = if queues.len() == 1 { (0, frames) } else { self.same_queue(frames, queues.len()) };
            frames &= !mine;
            let Some(queue) = queues.get(index) else { return };
            match queue.try_lock() {
                Ok(mut queue) => self.put_and_publish(port, counters, &mut queue, burst, mine),
                Err(TryLockError::WouldBlock) => self.waiting.push((port.id, index, mine)),
                Err(TryLockError::Poisoned(_)) => self.abandoned(port, counters, burst, mine),
            }
        }
    }

    /// A worker panicked while it held this queue.
    #[cold]
    fn abandoned(&mut self, port: &Port, counters: &PortCounters, burst: &Admitted<'_, '_>, frames: Frames) {
        note(&mut self.faults, port.id, RingFault::Abandoned);
        refuse_all(counters, DropReason::Quarantined, burst.burst, frames);
    }

    /// The queue of the first of `frames`, and all of `frames` that go to that queue.
    fn same_queue(&self, frames: Frames, queues: usize) -> (usize, Frames) {
        let queue = |index: usize| self.hashes.get(index).map_or(0, |&hash| hash as usize % queues);
        let first = queue(frames.trailing_zeros() as usize);
        let mut mine = 0;
        each(frames, |index| mine |= Frames::from(queue(index) == first) << index);
        (first, mine)
    }

    /// Tries the queues that were taken elsewhere again, for at most [`MAX_WAIT`].
    #[cold]
    #[inline(never)]
    fn wait_for_queues(&mut self, topology: &Topology, burst: &Admitted<'_, '_>) {
        let start = Instant::now();
        while let Some(&(id, index, frames)) = self.waiting.last() {
            let Some(port) = topology.port(id) else { break };
            let (Some(counters), Egress::Guest(queues, _)) = (port.counters.get(self.worker), &port.egress) else {
                break;
            };
            let Some(queue) = queues.get(index) else { break };
            match queue.try_lock() {
                Ok(mut queue) => self.put_and_publish(port, counters, &mut queue, burst, frames),
                Err(TryLockError::Poisoned(_)) => self.abandoned(port, counters, burst, frames),
                Err(TryLockError::WouldBlock) if start.elapsed() < MAX_WAIT => {
                    std::hint::spin_loop();
                    continue;
                }
                Err(TryLockError::WouldBlock) => refuse_all(counters, DropReason::RxBusy, burst.burst, frames),
            }
            self.waiting.pop();
        }
        self.waiting.clear();
    }

    #[inline]
    fn put_and_publish(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queue: &mut ReceiveQueue,
        burst: &Admitted<'_, '_>,
        frames: Frames,
    ) {
        self.put(port, counters, queue, burst, frames);
        queue.publish();
    }

    /// Puts frames into one receive queue, whose lock is held.
    #[inline]
    fn put(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        sink: &mut impl Sink,
        burst: &Admitted<'_, '_>,
        frames: Frames,
    ) {
        let takes = port.egress.takes();
        let (mut count, mut bytes) = (0, 0);
        let mut left = frames;
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some((frame, ingress)) = burst.get(index) else { continue };
            let reason = match egress::treat(port, ingress, frame.length, frame.head) {
                Err(reason) => reason,
                Ok(treatment) => match egress::deliver(sink, takes, &frame, treatment, &mut self.workspace) {
                    Ok(()) => {
                        port.taps.iter().for_each(|tap| tap.take(Direction::Tx, &frame, treatment.edit));
                        count += 1;
                        bytes += u64::from(treatment.edit.length(frame.length));
                        continue;
                    }
                    Err(PutError::NoBuffer) => DropReason::NoBuffer,
                    Err(PutError::SmallBuffer) => DropReason::SmallBuffer,
                    Err(PutError::Fault(fault)) => {
                        note(&mut self.faults, port.id, fault);
                        refuse_all(counters, DropReason::Quarantined, burst.burst, left);
                        left = 0;
                        DropReason::Quarantined
                    }
                },
            };
            counters.drop_frame(reason, frame.length, frame.head);
        }
        counters.tx_frames.add(count);
        counters.tx_bytes.add(bytes);
    }

    /// Sends `frames` out of a NIC. Those in `last` go nowhere else: where they are mbufs already, they are handed over.
    #[expect(clippy::too_many_arguments, reason = "one port and one burst, taken apart by the only caller")]
    fn send(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queues: &[Arc<Mutex<TxQueue>>],
        pool: &Pool,
        burst: &mut Admitted<'_, '_>,
        frames: Frames,
        last: Frames,
    ) {
        let Some(queue) = queues.get(self.worker % queues.len().max(1)) else { return };
        let start = Instant::now();
        let mut queue = loop {
            match queue.try_lock() {
                Ok(queue) => break queue,
                Err(TryLockError::WouldBlock) if start.elapsed() < MAX_WAIT => std::hint::spin_loop(),
                Err(_) => return refuse_all(counters, DropReason::RxBusy, burst.burst, frames),
            }
        };
        each(frames, |index| {
            let Some((frame, ingress)) = burst.get(index) else { return };
            let length = frame.length;
            let treatment = match egress::treat(port, ingress, length, frame.head) {
                Ok(treatment) => treatment,
                Err(reason) => return counters.drop_frame(reason, length, frame.head),
            };
            port.taps.iter().for_each(|tap| tap.take(Direction::Tx, &frame, treatment.edit));
            if let Work::Segment(segmentation) = treatment.work {
                // What comes before it leaves before it; its segments are a frame of their own in the counters.
                self.flush(counters, &mut queue);
                let Some((frame, _)) = burst.get(index) else { return };
                match self.send_segments(pool, &mut queue, &frame, treatment.edit, segmentation) {
                    Ok(()) => {
                        counters.tx_frames.add(1);
                        counters.tx_bytes.add(u64::from(treatment.edit.length(length)));
                    }
                    Err(reason) => counters.drop_frame(reason, length, frame.head),
                }
                return;
            }
            let handed_over = if last & (1 << index) == 0 { None } else { take_mbuf(burst.burst, index) };
            let mbuf = match handed_over {
                Some(mbuf) => change_mbuf(mbuf, treatment),
                None => burst.get(index).and_then(|(frame, _)| self.copy_to_mbuf(pool, &frame, treatment)),
            };
            let Some(mbuf) = mbuf else { return refuse(counters, DropReason::PoolEmpty, burst.burst, index) };
            if self.outgoing.push(mbuf).is_err() {
                refuse(counters, DropReason::NicFull, burst.burst, index);
            }
        });
        self.flush(counters, &mut queue);
    }

    /// Sends the outgoing batch, each mbuf of which is a frame; what cannot be sent is dropped.
    fn flush(&mut self, counters: &PortCounters, queue: &mut TxQueue) {
        let bytes = |batch: &Batch| batch.iter().map(|mbuf| u64::from(mbuf.length())).sum::<u64>();
        let (offered, all) = (self.outgoing.len(), bytes(&self.outgoing));
        if offered == 0 {
            return;
        }
        queue.send(&mut self.outgoing);
        counters.tx_frames.add((offered - self.outgoing.len()) as u64);
        counters.tx_bytes.add(all.saturating_sub(bytes(&self.outgoing)));
        for mbuf in self.outgoing.iter() {
            counters.drop_frame(DropReason::NicFull, mbuf.length(), mbuf.head());
        }
        self.outgoing.clear();
    }

    /// Cuts a frame and sends the segments. The outgoing batch is empty before and after.
    fn send_segments(
        &mut self,
        pool: &Pool,
        queue: &mut TxQueue,
        frame: &Frame<'_>,
        edit: TagEdit,
        segmentation: culvert_frame::Segmentation,
    ) -> Result<(), DropReason> {
        let outgoing = &mut self.outgoing;
        let mut send = |outgoing: &mut Batch| {
            queue.send(outgoing);
            if outgoing.is_empty() { Ok(()) } else { Err(DropReason::NicFull) }
        };
        let sent = self.workspace.segment(frame, edit, segmentation, |segment| {
            if outgoing.is_full() {
                send(outgoing)?;
            }
            let mbuf = mbuf_of(pool, segment).ok_or(DropReason::PoolEmpty)?;
            outgoing.push(mbuf).map_err(|_| DropReason::NicFull)
        });
        let sent = sent.and_then(|()| if outgoing.is_empty() { Ok(()) } else { send(outgoing) });
        outgoing.clear();
        sent
    }

    /// A copy of a frame as it leaves.
    fn copy_to_mbuf(&mut self, pool: &Pool, frame: &Frame<'_>, treatment: Treatment) -> Option<Mbuf> {
        let edit = treatment.edit;
        if let Work::Complete(partial) = treatment.work {
            return mbuf_of(pool, self.workspace.complete(frame, edit, partial));
        }
        let length = edit.length(frame.length);
        let mut mbuf = pool.allocate(length)?;
        let head = self.workspace.edited_head(frame, edit);
        let copied = frame.copy_with_head(head, mbuf.segments_mut());
        // A buffer that is not full would send bytes of an earlier frame.
        let whole = copied == usize::try_from(length).ok()?;
        (whole && ask(&mut mbuf, treatment)).then_some(mbuf)
    }
}

/// An mbuf with these bytes.
fn mbuf_of(pool: &Pool, bytes: &[u8]) -> Option<Mbuf> {
    let mut mbuf = pool.allocate(u32::try_from(bytes.len()).ok()?)?;
    let mut left = bytes;
    for room in mbuf.segments_mut() {
        let (now, later) = left.split_at_checked(room.len())?;
        room.copy_from_slice(now);
        left = later;
    }
    Some(mbuf)
}

/// Changes an mbuf that came from a NIC into the frame that leaves; `None` where it has no room for a tag.
fn change_mbuf(mut mbuf: Mbuf, treatment: Treatment) -> Option<Mbuf> {
    const TAG_OFFSET: usize = 12;
    let changed = match treatment.edit {
        TagEdit::Keep => true,
        TagEdit::Pop => mbuf.remove(TAG_OFFSET, 4),
        TagEdit::Push(_) => mbuf.insert(TAG_OFFSET, &[0x81, 0x00, 0, 0]),
        TagEdit::Rewrite(_) => true,
    };
    if let TagEdit::Push(control) | TagEdit::Rewrite(control) = treatment.edit
        && let Some(place) = mbuf.head_mut().get_mut(TAG_OFFSET + 2..TAG_OFFSET + 4)
    {
        place.copy_from_slice(&control.to_be_bytes());
    }
    if let Work::Complete(partial) = treatment.work
        && let Offload::Checksum(partial) = Offload::Checksum(partial).moved(treatment.edit.growth())
    {
        complete(&mut mbuf, partial);
    }
    (changed && ask(&mut mbuf, treatment)).then_some(mbuf)
}

/// Completes a checksum in an mbuf.
fn complete(mbuf: &mut Mbuf, partial: culvert_frame::PartialChecksum) {
    let end = usize::try_from(partial.end(mbuf.head(), mbuf.length())).unwrap_or(usize::MAX);
    let mut sum = culvert_frame::checksum::Sum::default();
    let (mut at, start) = (0, usize::from(partial.start));
    for segment in mbuf.segments() {
        let (from, to) = (start.saturating_sub(at), end.saturating_sub(at).min(segment.len()));
        sum.add(segment.get(from..to).unwrap_or_default());
        at += segment.len();
    }
    partial.store(mbuf.head_mut(), sum);
}

/// Leaves to the NIC what the frame's sender has left to us. `false` when the NIC cannot be told.
fn ask(mbuf: &mut Mbuf, treatment: Treatment) -> bool {
    let Work::Pass(offload) = treatment.work else { return true };
    let segment_size = match offload {
        Offload::None | Offload::Valid => return true,
        Offload::Checksum(_) => 0,
        Offload::Segment(segmentation) => segmentation.size,
    };
    let partial = match offload.moved(treatment.edit.growth()) {
        Offload::Checksum(partial) => partial,
        Offload::Segment(segmentation) => segmentation.partial_checksum(),
        Offload::None | Offload::Valid => return true,
    };
    if let Some(parsed) = Layers::parse(mbuf.head())
        && parsed.transport == partial.start
    {
        let asked = mbuf.request_offload(&TxOffload {
            l2: parsed.network,
            l3: parsed.transport - parsed.network,
            l4: parsed.header_bytes - parsed.transport,
            ipv6: parsed.version == layers::IpVersion::V6,
            udp: parsed.protocol == layers::UDP,
            checksum: true,
            segment_size,
        });
        if asked && matches!(parsed.protocol, layers::TCP | layers::UDP) {
            return true;
        }
    }
    // A checksum that the NIC does not know: of a tunnel, or of another protocol.
    let can = segment_size == 0;
    if can {
        complete(mbuf, partial);
    }
    can
}

/// Notes a port's fault, once, for the worker to tell of.
fn note(faults: &mut Vec<(PortId, RingFault)>, port: PortId, fault: RingFault) {
    if faults.len() < faults.capacity() && faults.iter().all(|(noted, _)| *noted != port) {
        faults.push((port, fault));
    }
}

fn take_mbuf(burst: &mut Burst<'_>, index: usize) -> Option<Mbuf> {
    if let Burst::Nic(batch) = burst { batch.take(index) } else { None }
}

/// Calls `with` with the number of each frame, in order.
#[inline]
fn each(frames: Frames, mut with: impl FnMut(usize)) {
    let mut left = frames;
    while left != 0 {
        with(left.trailing_zeros() as usize);
        left &= left - 1;
    }
}

fn refuse(counters: &PortCounters, reason: DropReason, burst: &Burst<'_>, index: usize) {
    let (length, head) = burst.first_bytes(index);
    counters.drop_frame(reason, length, head);
}

#[cold]
#[inline(never)]
fn refuse_all(counters: &PortCounters, reason: DropReason, burst: &Burst<'_>, frames: Frames) {
    each(frames, |index| refuse(counters, reason, burst, index));
}
