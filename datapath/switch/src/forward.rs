//! The way of a burst through the switch.
//!
//! First every frame is checked, its source learned, and its destination looked up; a bit for it is set at each port that
//! is to have it. Then each of those ports takes its frames in the order in which they came: one lock, one publication
//! and at most one interrupt for a port and burst. A frame never goes back to the port that it came from.

use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use culvert_frame::{Direction, DropReason, EthernetHeader, header};
use culvert_guest::receive::PutError;
use culvert_guest::transmit::BURST;
use culvert_guest::{ReceiveQueue, RingFault};
use culvert_nic::{Batch, Pool, TxQueue};

use crate::burst::{Burst, Frame};
use crate::counters::PortCounters;
use crate::mac_table::Learned;
use crate::network::{Network, Topology};
use crate::port::{Egress, MAX_PORTS, Port, PortId};

/// How long frames wait for a queue that another worker holds.
pub const MAX_WAIT: Duration = Duration::from_millis(1);

/// A set of the frames of one burst, one bit each.
type Frames = u32;
const _: () = assert!(BURST == Frames::BITS as usize);

/// One worker's forwarding: its storage, so that no burst allocates.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    /// Which frames each port is to have, and which ports are to have any.
    wanted: Box<[Frames]>,
    touched: Vec<PortId>,
    /// Queues that another worker held at the first try.
    waiting: Vec<(PortId, usize, Frames)>,
    hashes: [u32; BURST],
    outgoing: Batch,
    faults: Vec<(PortId, RingFault)>,
}

/// Where one frame goes.
enum Destination {
    One(PortId),
    Flood,
}

impl Forwarder {
    /// Forwarding for the worker of that number, which counts in the ports' counter sets of the same number.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            wanted: vec![0; MAX_PORTS].into(),
            touched: Vec::with_capacity(MAX_PORTS),
            waiting: Vec::with_capacity(MAX_PORTS),
            hashes: [0; BURST],
            outgoing: Batch::default(),
            faults: Vec::with_capacity(BURST),
        }
    }

    /// Sends a burst that arrived at `from` on its way. `now` is in seconds.
    #[inline]
    pub fn forward(&mut self, topology: &Topology, from: PortId, burst: &mut Burst<'_>, now: u32) {
        let Some(source) = topology.port(from) else { return };
        let Some(network) = topology.network(source.network) else { return };
        let Some(counters) = source.counters.get(self.worker) else { return };

        counters.rx_frames.add(burst.len() as u64);
        let (mut bytes, mut flood, mut one) = (0, 0, 0);
        for index in 0..burst.len().min(BURST) {
            let bit = 1 << index;
            let frame = burst.frame(index);
            if let Ok(frame) = &frame {
                source.taps.iter().for_each(|tap| tap.take(Direction::Rx, frame));
            }
            bytes += frame.as_ref().map_or(0, |frame| u64::from(frame.length));
            match frame.and_then(|frame| classify(topology, source, network, counters, &frame, now)) {
                Ok(Destination::One(port)) => {
                    one |= bit;
                    self.want(port, bit);
                }
                Ok(Destination::Flood) => flood |= bit,
                Err(reason) => refuse(counters, reason, burst, index),
            }
        }
        if flood != 0 {
            let others = network.members.iter().filter(|&&port| port != from);
            let copies = others.map(|&port| self.want(port, flood)).count();
            if copies == 0 {
                each(flood, |index| refuse(counters, DropReason::NoOtherPort, burst, index));
                flood = 0;
            }
            counters.copies.add(u64::from(flood.count_ones()) * copies as u64);
        }
        counters.rx_bytes.add(bytes);
        self.deliver(topology, burst, one);
        counters.copies.add(u64::from(one.count_ones()));
        counters.forwarded.add(u64::from((one | flood).count_ones()));
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
        self.faults.drain(..)
    }

    #[inline]
    fn want(&mut self, port: PortId, frames: Frames) {
        if let Some(wanted) = self.wanted.get_mut(port.index()) {
            if *wanted == 0 {
                self.touched.push(port);
            }
            *wanted |= frames;
        }
    }

    /// Gives each touched port its frames. `one` are the frames that go to a single port.
    #[inline]
    fn deliver(&mut self, topology: &Topology, burst: &mut Burst<'_>, one: Frames) {
        let mut hashed = false;
        for place in 0..self.touched.len() {
            let Some(&id) = self.touched.get(place) else { break };
            let frames = self.wanted.get_mut(id.index()).map_or(0, std::mem::take);
            let Some(port) = topology.port(id) else { continue };
            let Some(counters) = port.counters.get(self.worker) else { continue };
            counters.offered.add(u64::from(frames.count_ones()));
            match &port.egress {
                Egress::Down => refuse_all(counters, DropReason::PortDown, burst, frames),
                Egress::Quarantined => refuse_all(counters, DropReason::Quarantined, burst, frames),
                Egress::Guest(queues) => {
                    if queues.len() > 1 && !std::mem::replace(&mut hashed, true) {
                        self.hash(burst);
                    }
                    self.put_into_guest(port, counters, queues, burst, frames);
                }
                Egress::Nic(queues, pool) => self.send(port, counters, queues, pool, burst, frames, frames & one),
                #[cfg(test)]
                Egress::Test(sink) => keep(port, counters, sink, burst, frames),
            }
        }
        self.touched.clear();
        if !self.waiting.is_empty() {
            self.wait_for_queues(topology, burst);
        }
    }

    fn hash(&mut self, burst: &Burst<'_>) {
        for (index, hash) in self.hashes.iter_mut().enumerate().take(burst.len()) {
            *hash = burst.frame(index).map_or(0, |frame| header::flow_hash(frame.head));
        }
    }

    #[inline]
    fn put_into_guest(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queues: &[std::sync::Arc<Mutex<ReceiveQueue>>],
        burst: &Burst<'_>,
        mut frames: Frames,
    ) {
        while frames != 0 {
            let (index, mine) = if queues.len() == 1 { (0, frames) } else { self.same_queue(frames, queues.len()) };
            frames &= !mine;
            let Some(queue) = queues.get(index) else { return };
            match queue.try_lock() {
                Ok(mut queue) => put(port, counters, &mut queue, burst, mine, &mut self.faults),
                Err(TryLockError::WouldBlock) => self.waiting.push((port.id, index, mine)),
                Err(TryLockError::Poisoned(_)) => self.abandoned(port, counters, burst, mine),
            }
        }
    }

    /// A worker panicked while it held this queue.
    #[cold]
    fn abandoned(&mut self, port: &Port, counters: &PortCounters, burst: &Burst<'_>, frames: Frames) {
        note(&mut self.faults, port.id, RingFault::Abandoned);
        refuse_all(counters, DropReason::Quarantined, burst, frames);
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
    fn wait_for_queues(&mut self, topology: &Topology, burst: &Burst<'_>) {
        let start = Instant::now();
        while let Some(&(id, index, frames)) = self.waiting.last() {
            let Some(port) = topology.port(id) else { break };
            let (Some(counters), Egress::Guest(queues)) = (port.counters.get(self.worker), &port.egress) else { break };
            let Some(queue) = queues.get(index) else { break };
            match queue.try_lock() {
                Ok(mut queue) => put(port, counters, &mut queue, burst, frames, &mut self.faults),
                Err(TryLockError::Poisoned(_)) => self.abandoned(port, counters, burst, frames),
                Err(TryLockError::WouldBlock) if start.elapsed() < MAX_WAIT => {
                    std::hint::spin_loop();
                    continue;
                }
                Err(TryLockError::WouldBlock) => refuse_all(counters, DropReason::RxBusy, burst, frames),
            }
            self.waiting.pop();
        }
        self.waiting.clear();
    }

    /// Sends `frames` out of a NIC. Those in `last` go nowhere else: where they are mbufs already, they are handed over.
    #[expect(clippy::too_many_arguments, reason = "one port and one burst, taken apart by the only caller")]
    fn send(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queues: &[std::sync::Arc<Mutex<TxQueue>>],
        pool: &Pool,
        burst: &mut Burst<'_>,
        frames: Frames,
        last: Frames,
    ) {
        let mut bytes = 0;
        each(frames, |index| {
            let Ok(frame) = burst.frame(index) else { return };
            let length = frame.length;
            if port.exceeds_mtu(length, frame.head) {
                return counters.drop_frame(DropReason::ExceedsMtu, length, frame.head);
            }
            port.taps.iter().for_each(|tap| tap.take(Direction::Tx, &frame));
            let handed_over = if last & (1 << index) == 0 { None } else { take_mbuf(burst, index) };
            let Some(mbuf) = handed_over.or_else(|| copy_to_mbuf(pool, burst, index)) else {
                return refuse(counters, DropReason::PoolEmpty, burst, index);
            };
            match self.outgoing.push(mbuf) {
                Ok(()) => bytes += u64::from(length),
                Err(_) => refuse(counters, DropReason::NicFull, burst, index),
            }
        });
        let Some(queue) = queues.get(self.worker % queues.len().max(1)) else { return };
        let start = Instant::now();
        let mut queue = loop {
            match queue.try_lock() {
                Ok(queue) => break queue,
                Err(TryLockError::WouldBlock) if start.elapsed() < MAX_WAIT => std::hint::spin_loop(),
                Err(_) => return self.unsent(counters, DropReason::RxBusy),
            }
        };
        let offered = self.outgoing.len();
        queue.send(&mut self.outgoing);
        drop(queue);
        let left: u64 = self.outgoing.iter().map(|mbuf| u64::from(mbuf.length())).sum();
        counters.tx_frames.add((offered - self.outgoing.len()) as u64);
        counters.tx_bytes.add(bytes.saturating_sub(left));
        self.unsent(counters, DropReason::NicFull);
    }

    /// Drops what is left in the outgoing batch.
    fn unsent(&mut self, counters: &PortCounters, reason: DropReason) {
        for mbuf in self.outgoing.iter() {
            counters.drop_frame(reason, mbuf.length(), mbuf.segments().next().unwrap_or_default());
        }
        self.outgoing.clear();
    }
}

/// Checks a frame, learns its source, and looks up where it goes.
#[inline]
fn classify(
    topology: &Topology,
    source: &Port,
    network: &Network,
    counters: &PortCounters,
    frame: &Frame<'_>,
    now: u32,
) -> Result<Destination, DropReason> {
    let header = EthernetHeader::parse(frame.head)?;
    if header.source.is_group() {
        return Err(DropReason::GroupSource);
    }
    if source.source.is_some_and(|bound| bound != header.source) {
        return Err(DropReason::SpoofedSource);
    }
    if network.table.learn(header.source, source.id, source.mac_limit, now) != Learned::Known {
        counters.not_learned.add(1);
    }
    if header.destination.is_group() {
        return if header.destination.is_link_local() { Err(DropReason::LinkLocal) } else { Ok(Destination::Flood) };
    }
    match network.table.lookup(header.destination, now) {
        Some(port) if port == source.id => Err(DropReason::SamePort),
        // An address is forgotten only after its port has left the plan.
        Some(port) if topology.port(port).is_some() => Ok(Destination::One(port)),
        Some(_) | None => Ok(Destination::Flood),
    }
}

/// Puts frames into one receive queue, whose lock is held.
#[inline]
fn put(
    port: &Port,
    counters: &PortCounters,
    queue: &mut ReceiveQueue,
    burst: &Burst<'_>,
    frames: Frames,
    faults: &mut Vec<(PortId, RingFault)>,
) {
    let (mut count, mut bytes) = (0, 0);
    let mut left = frames;
    while left != 0 {
        let index = left.trailing_zeros() as usize;
        left &= left - 1;
        let Ok(frame) = burst.frame(index) else { continue };
        let reason = if port.exceeds_mtu(frame.length, frame.head) {
            DropReason::ExceedsMtu
        } else {
            match frame.put_into(queue) {
                Ok(()) => {
                    port.taps.iter().for_each(|tap| tap.take(Direction::Tx, &frame));
                    count += 1;
                    bytes += u64::from(frame.length);
                    continue;
                }
                Err(PutError::NoBuffer) => DropReason::NoBuffer,
                Err(PutError::SmallBuffer) => DropReason::SmallBuffer,
                Err(PutError::Fault(fault)) => {
                    note(faults, port.id, fault);
                    refuse_all(counters, DropReason::Quarantined, burst, left);
                    left = 0;
                    DropReason::Quarantined
                }
            }
        };
        counters.drop_frame(reason, frame.length, frame.head);
    }
    queue.publish();
    counters.tx_frames.add(count);
    counters.tx_bytes.add(bytes);
}

/// Notes a port's fault, once, for the worker to tell of.
fn note(faults: &mut Vec<(PortId, RingFault)>, port: PortId, fault: RingFault) {
    if faults.len() < faults.capacity() && faults.iter().all(|(noted, _)| *noted != port) {
        faults.push((port, fault));
    }
}

fn take_mbuf(burst: &mut Burst<'_>, index: usize) -> Option<culvert_nic::Mbuf> {
    if let Burst::Nic(batch) = burst { batch.take(index) } else { None }
}

fn copy_to_mbuf(pool: &Pool, burst: &Burst<'_>, index: usize) -> Option<culvert_nic::Mbuf> {
    let frame = burst.frame(index).ok()?;
    let mut mbuf = pool.allocate(frame.length)?;
    let copied = frame.copy_into(mbuf.segments_mut());
    // A buffer that is not full would send bytes of an earlier frame.
    (copied == frame.length as usize).then_some(mbuf)
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

#[cfg(test)]
fn keep(port: &Port, counters: &PortCounters, sink: &Mutex<Vec<Vec<u8>>>, burst: &Burst<'_>, frames: Frames) {
    each(frames, |index| {
        let frame = burst.frame(index).unwrap();
        if port.exceeds_mtu(frame.length, frame.head) {
            return counters.drop_frame(DropReason::ExceedsMtu, frame.length, frame.head);
        }
        let mut bytes = vec![0; frame.length as usize];
        assert_eq!(frame.copy_into(std::iter::once(&mut bytes[..])), bytes.len());
        counters.tx_frames.add(1);
        counters.tx_bytes.add(u64::from(frame.length));
        sink.lock().unwrap().push(bytes);
    });
}
