//! The way of a burst out of the switch: each port takes its frames, in the order in which they came.
//!
//! Towards guests this is here: one lock, one publication and at most one interrupt for a queue and burst. Towards NICs it
//! is in [`nic`]. How a frame leaves (tag, checksum, segments) is [`egress`]'s matter.

mod nic;

use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use culvert_frame::{Direction, DropReason, Offload, header};
use culvert_guest::NetHeader;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::{BURST, HEAD_BYTES};
use culvert_guest::{ReceiveQueue, RingFault};
use culvert_nic::Batch;

use crate::burst::{Burst, Frame, Sink};
use crate::counters::PortCounters;
use crate::egress::{self, Treatment, Work, Workspace};
use crate::ingress::Ingress;
use crate::latency::Timed;
use crate::metering;
use crate::network::Topology;
use crate::port::{Egress, MAX_PORTS, Port, PortId};
use crate::tap::{self, Tap};
use crate::vlan::{TagEdit, Vlans};

/// How long frames wait for a queue that another worker holds.
pub const MAX_WAIT: Duration = Duration::from_millis(1);

/// Of a frame that is longer than its head, what follows is asked for while the one before it is copied.
#[expect(clippy::cast_possible_truncation, reason = "128")]
const FETCHED_BYTES: u32 = HEAD_BYTES as u32;

/// A set of the frames of one burst, one bit each.
pub(crate) type Frames = u32;
const _: () = assert!(BURST == Frames::BITS as usize);

/// Storage for delivering.
#[derive(Debug)]
pub(crate) struct Outlet {
    worker: usize,
    /// Queues that another worker held at the first try.
    waiting: Vec<(PortId, usize, Frames)>,
    /// The queue that was taken last, as its port and number: if we panic, it may be locked for ever.
    taken: Option<(PortId, usize)>,
    hashes: [u32; BURST],
    outgoing: Batch,
    pub(crate) workspace: Workspace,
    /// How many frames of the present burst, or of the last one, were looked at where they left.
    pub(crate) tapped: u32,
    pub(crate) faults: Vec<(PortId, RingFault)>,
}

/// A burst that was admitted, and what was found out about each of its frames.
pub(crate) struct Admitted<'a, 'b> {
    pub(crate) burst: &'a mut Burst<'b>,
    pub(crate) arrived: &'a [Ingress; BURST],
    /// Those that go to whoever may want them, and not to one known port.
    pub(crate) flooded: Frames,
    /// The time since any fixed moment.
    pub(crate) now: Duration,
    /// If somebody measures how long it stays.
    pub(crate) timed: Option<Timed<'a>>,
}

impl Admitted<'_, '_> {
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<(Frame<'_>, &Ingress)> {
        Some((self.burst.frame(index).ok()?, self.arrived.get(index)?))
    }
}

impl Outlet {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            waiting: Vec::with_capacity(MAX_PORTS),
            taken: None,
            hashes: [0; BURST],
            outgoing: Batch::default(),
            workspace: Workspace::default(),
            tapped: 0,
            faults: Vec::with_capacity(BURST),
        }
    }

    /// A new burst begins.
    #[inline]
    pub(crate) const fn begin_burst(&mut self) {
        self.workspace.begin_burst();
        self.tapped = 0;
    }

    /// Gives a port its frames. `last` are those that go nowhere else.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        topology: &Topology,
        id: PortId,
        burst: &mut Admitted<'_, '_>,
        frames: Frames,
        last: Frames,
    ) {
        let Some(port) = topology.port(id) else { return };
        let Some(counters) = port.counters.get(self.worker) else { return };
        counters.offered.add(u64::from(frames.count_ones()));
        let frames =
            if port.rules.rates.tx.is_none() { frames } else { metering::leaving(port, counters, burst, frames) };
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

    /// [`Self::deliver`] of a burst whose time is measured.
    pub(crate) fn deliver_timed(
        &mut self,
        topology: &Topology,
        id: PortId,
        burst: &mut Admitted<'_, '_>,
        frames: Frames,
        last: Frames,
    ) {
        let before = self.delivered(topology, id);
        self.deliver(topology, id, burst, frames, last);
        self.note_time(topology, id, burst, before);
    }

    /// Counts the time of those frames that a port got since [`Self::delivered`] was `before`.
    fn note_time(&self, topology: &Topology, id: PortId, burst: &Admitted<'_, '_>, before: u64) {
        if let (Some(timed), Some(port)) = (&burst.timed, topology.port(id)) {
            timed.arrived(port, self.delivered(topology, id).wrapping_sub(before));
        }
    }

    /// How many frames this worker has delivered to a port.
    fn delivered(&self, topology: &Topology, id: PortId) -> u64 {
        topology.port(id).and_then(|port| port.counters.get(self.worker)).map_or(0, |counters| counters.tx_frames.get())
    }

    /// How a frame leaves at a port, as far as this burst may still be segmented.
    #[inline]
    fn treat(&mut self, port: &Port, ingress: &Ingress, frame: &Frame<'_>) -> Result<Treatment, DropReason> {
        let treatment = egress::treat(port, ingress, frame.length, frame.head)?;
        match treatment.work {
            Work::Segment(segmentation) if !self.workspace.may_cut(segmentation.segments(frame.length)) => {
                Err(DropReason::SegmentLimit)
            }
            _ => Ok(treatment),
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
                Ok(mut queue) => {
                    self.taken = Some((port.id, index));
                    self.put_and_publish(port, counters, &mut queue, burst, mine);
                }
                // A worker that panicked while it held the queue gets the time to put it in order itself.
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => self.waiting.push((port.id, index, mine)),
            }
        }
    }

    /// Puts everything in order after a panic; see [`Forwarder::recover`](crate::Forwarder::recover).
    pub(crate) fn recover(&mut self, topology: &Topology) -> Option<PortId> {
        self.waiting.clear();
        self.outgoing.clear();
        let (id, index) = self.taken.take()?;
        let Egress::Guest(queues, _) = &topology.port(id)?.egress else { return None };
        let queue = queues.get(index)?;
        let over_its_buffers = queue.lock().is_err_and(|poisoned| poisoned.into_inner().abandon());
        queue.clear_poison();
        over_its_buffers.then_some(id)
    }

    /// The queue of the first of `frames`, and all of `frames` that go to that queue.
    fn same_queue(&self, frames: Frames, queues: usize) -> (usize, Frames) {
        let queue = |index: usize| self.hashes.get(index).map_or(0, |&hash| hash as usize % queues);
        let first = queue(frames.trailing_zeros() as usize);
        let mut mine = 0;
        each(frames, |index| mine |= Frames::from(queue(index) == first) << index);
        (first, mine)
    }

    /// Delivers what could not be delivered at the first try, or drops it.
    #[inline]
    pub(crate) fn finish(&mut self, topology: &Topology, burst: &Admitted<'_, '_>) {
        if !self.waiting.is_empty() {
            self.wait_for_queues(topology, burst);
        }
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
                Ok(mut queue) => {
                    self.taken = Some((id, index));
                    let before = counters.tx_frames.get();
                    self.put_and_publish(port, counters, &mut queue, burst, frames);
                    self.note_time(topology, id, burst, before);
                }
                Err(_) if start.elapsed() < MAX_WAIT => {
                    std::hint::spin_loop();
                    continue;
                }
                Err(TryLockError::Poisoned(poisoned)) => {
                    let mut held = poisoned.into_inner();
                    held.abandon();
                    queue.clear_poison();
                    self.put_and_publish(port, counters, &mut held, burst, frames);
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
        // What a mirror copies is never addressed to its target.
        let flooded = if port.is_mirror_target { 0 } else { burst.flooded };
        let is_tapped = tap::has_room(&port.taps);
        let keeps = keeps_frames(port) && !is_tapped;
        let (mut count, mut bytes) = (0_u64, 0_u64);
        let mut left = frames;
        sink.look_ahead(frames.count_ones() as usize);
        loop {
            // Most frames: they leave as they came, many of them one after the other.
            let ahead = if keeps { ahead(left, flooded, sink) } else { 0 };
            if ahead != 0 {
                let (put, put_bytes) = sink.put_straight(burst.burst, ahead, port.longest_untagged());
                left &= !put;
                count = count.wrapping_add(u64::from(put.count_ones()));
                bytes = bytes.wrapping_add(put_bytes);
            }
            if left == 0 {
                break;
            }
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(ingress) = burst.arrived.get(index) else { continue };
            let is_flooded = flooded & (1 << index) != 0;
            let put = match burst.burst.parts(index) {
                Some((head, length, rest))
                    if keeps && !is_flooded && ingress.offload == Offload::None && !port.exceeds_mtu(length, head) =>
                {
                    if length > FETCHED_BYTES
                        && let Some((.., next)) = burst.burst.parts(left.trailing_zeros() as usize)
                    {
                        next.fetch();
                    }
                    let put = sink.put(&NetHeader::default(), head, length, std::iter::once(rest));
                    put.map(|()| length).map_err(NotPut::from)
                }
                _ => self.put_any(port, sink, burst.burst, index, ingress, (is_flooded, is_tapped)),
            };
            let reason = match put {
                Ok(length) => {
                    count = count.wrapping_add(1);
                    bytes = bytes.wrapping_add(u64::from(length));
                    continue;
                }
                Err(NotPut::Refused(reason)) => reason,
                Err(NotPut::Fault(fault)) => {
                    note(&mut self.faults, port.id, fault);
                    refuse_all(counters, DropReason::Quarantined, burst.burst, left);
                    left = 0;
                    DropReason::Quarantined
                }
            };
            refuse(counters, reason, burst.burst, index);
        }
        counters.tx_frames.add(count);
        counters.tx_bytes.add(bytes);
        if !is_tapped {
            tap::miss(&port.taps, count);
        }
    }

    /// Hands a frame that leaves at a port to all who look on there.
    #[cold]
    #[inline(never)]
    fn tap(&mut self, port: &Port, frame: &Frame<'_>, edit: TagEdit) {
        self.tapped = self.tapped.saturating_add(1);
        port.taps.iter().for_each(|tap| tap.take(Direction::Tx, frame, edit));
    }

    /// Puts one frame, whatever is to be done to it; returns its length as it left.
    #[inline(never)]
    fn put_any(
        &mut self,
        port: &Port,
        sink: &mut impl Sink,
        burst: &Burst<'_>,
        index: usize,
        ingress: &Ingress,
        (is_flooded, is_tapped): (bool, bool),
    ) -> Result<u32, NotPut> {
        let frame = burst.frame(index).map_err(NotPut::Refused)?;
        // Also for a frame that does not fit the port: a ring's half is that of the most it had on offer when it was looked at.
        if is_flooded && sink.takes_flooded() == Ok(false) {
            return Err(NotPut::Refused(DropReason::NoFloodBuffer));
        }
        let treatment = self.treat(port, ingress, &frame).map_err(NotPut::Refused)?;
        egress::deliver(sink, port.egress.takes(), &frame, treatment, &mut self.workspace)?;
        if is_tapped {
            self.tap(port, &frame, treatment.edit);
        }
        Ok(treatment.edit.length(frame.length))
    }
}

/// The first of the frames that are `left` which are addressed to this port, or which are flooded and may be put as they are.
#[inline]
fn ahead(left: Frames, flooded: Frames, sink: &mut impl Sink) -> Frames {
    let others = left & flooded;
    let addressed = left & (others & others.wrapping_neg()).wrapping_sub(1);
    if addressed != 0 || others == 0 { addressed } else { flooded_ahead(left, flooded, sink) }
}

/// The first of the frames that are `left` which are flooded, as many as there is room for.
#[inline(never)]
fn flooded_ahead(left: Frames, flooded: Frames, sink: &mut impl Sink) -> Frames {
    let others = left & !flooded;
    let mut run = left & (others & others.wrapping_neg()).wrapping_sub(1);
    let room = sink.flood_room().map_or(0, u32::from);
    while run.count_ones() > room {
        run &= Frames::MAX >> run.leading_zeros() >> 1;
    }
    run
}

/// Why a frame was not put.
enum NotPut {
    Refused(DropReason),
    /// The receiver broke its ring.
    Fault(RingFault),
}

impl From<PutError> for NotPut {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoBuffer => Self::Refused(DropReason::NoBuffer),
            PutError::SmallBuffer => Self::Refused(DropReason::SmallBuffer),
            PutError::Fault(fault) => Self::Fault(fault),
        }
    }
}

/// Hands a frame to all who look on at a port. Apart from where frames pass: what is not looked at there stays in registers.
#[cold]
#[inline(never)]
pub(crate) fn tap(taps: &[Arc<Tap>], direction: Direction, burst: &Burst<'_>, index: usize, edit: TagEdit) {
    if let Ok(frame) = burst.frame(index) {
        taps.iter().for_each(|tap| tap.take(direction, &frame, edit));
    }
}

/// Whether frames to which nothing is left to be done leave at a port as they came.
#[inline]
fn keeps_frames(port: &Port) -> bool {
    matches!(port.rules.vlans, Vlans::Transparent)
}

/// Notes a port's fault, once, for the worker to tell of.
fn note(faults: &mut Vec<(PortId, RingFault)>, port: PortId, fault: RingFault) {
    if faults.len() < faults.capacity() && faults.iter().all(|(noted, _)| *noted != port) {
        faults.push((port, fault));
    }
}

/// Calls `with` with the number of each frame, in order.
#[inline]
pub(crate) fn each(frames: Frames, mut with: impl FnMut(usize)) {
    let mut left = frames;
    while left != 0 {
        with(left.trailing_zeros() as usize);
        left &= left - 1;
    }
}

pub(crate) fn refuse(counters: &PortCounters, reason: DropReason, burst: &Burst<'_>, index: usize) {
    let (length, head) = burst.first_bytes(index);
    counters.drop_frame(reason, length, head);
}

#[cold]
#[inline(never)]
fn refuse_all(counters: &PortCounters, reason: DropReason, burst: &Burst<'_>, frames: Frames) {
    each(frames, |index| refuse(counters, reason, burst, index));
}
