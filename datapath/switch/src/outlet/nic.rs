//! The way out to a NIC: mbufs are handed over, everything else is copied into fresh ones.
//!
//! What the NIC can do (checksums, segmentation of TCP) is left to it; the rest is done in the worker's workspace.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use culvert_frame::checksum::Sum;
use culvert_frame::{DropReason, Layers, Offload, PartialChecksum, Segmentation, layers};
use culvert_guest::Received;
use culvert_nic::{Batch, Mbuf, Pool, TxOffload, TxQueue};

use super::{Admitted, Frames, MAX_WAIT, Outlet, keeps_frames, refuse, refuse_all};
use crate::burst::{Burst, Frame};
use crate::counters::PortCounters;
use crate::egress::{Treatment, Work};
use crate::port::Port;
use crate::tap;
use crate::vlan::{TAG_BYTES, TAG_OFFSET, TAG_TYPE, TagEdit, tag};

impl Outlet {
    /// Sends `frames` out of a NIC. Those in `last` go nowhere else: where they are mbufs already, they are handed over.
    #[expect(clippy::too_many_arguments, reason = "one port and one burst, taken apart by the only caller")]
    pub(super) fn send(
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
        let Some(mut queue) = lock(queue) else {
            return refuse_all(counters, DropReason::RxBusy, burst.burst, frames);
        };
        let is_tapped = tap::has_room(&port.taps);
        let keeps = keeps_frames(port) && !is_tapped;
        let mut left = frames;
        loop {
            // Most frames: they leave as they came, many of them one after the other.
            if keeps && let Some(received) = burst.burst.of_guest() {
                left &= !self.copy_straight(port, pool, received, left);
            }
            if left == 0 {
                break;
            }
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            self.send_any(port, counters, &mut queue, pool, burst, index, (last, is_tapped));
        }
        if !is_tapped {
            tap::miss(&port.taps, u64::from(frames.count_ones()));
        }
        self.flush(counters, &mut queue);
    }

    /// Copies those of the `frames` at the start that leave as they came, and of which each lies in one buffer, into mbufs that are allocated by
    /// one call; returns which. Of a pool that has not as many it is none.
    #[inline]
    fn copy_straight(&mut self, port: &Port, pool: &Pool, burst: &Received<'_>, frames: Frames) -> Frames {
        let (straight, before) = (burst.straight(frames), self.outgoing.len());
        if straight == 0 || !pool.allocate_empty(straight.count_ones() as usize, &mut self.outgoing) {
            return 0;
        }
        let fresh = self.outgoing.iter_mut_from(before);
        let (copied, _) = burst.copy_straight(straight, port.longest_untagged(), fresh, Mbuf::resize);
        // One of the others was longer than all, or than a buffer.
        self.outgoing.truncate(before + copied.count_ones() as usize);
        copied
    }

    /// Makes one frame ready to leave, whatever is to be done to it; one that is cut leaves at once, behind those before it.
    #[expect(clippy::too_many_arguments, reason = "one frame of one burst, for the only caller")]
    #[inline(never)]
    fn send_any(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        queue: &mut TxQueue,
        pool: &Pool,
        burst: &mut Admitted<'_, '_>,
        index: usize,
        (last, is_tapped): (Frames, bool),
    ) {
        let Some((frame, ingress)) = burst.get(index) else { return };
        let length = frame.length;
        let treatment = match self.treat(port, ingress, &frame) {
            Ok(treatment) => treatment,
            Err(reason) => return counters.drop_frame(reason, length, frame.head),
        };
        if is_tapped {
            self.tap(port, &frame, treatment.edit);
        }
        if let Work::Segment(segmentation) = treatment.work {
            // What comes before it leaves before it; its segments are a frame of their own in the counters.
            self.flush(counters, queue);
            match self.send_segments(pool, queue, &frame, treatment.edit, segmentation) {
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
        segmentation: Segmentation,
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

/// Takes a queue, for which it waits [`MAX_WAIT`] at the most.
#[inline]
fn lock(queue: &Mutex<TxQueue>) -> Option<MutexGuard<'_, TxQueue>> {
    // The clock is read only where there is something to wait for.
    let mut start = None;
    loop {
        match queue.try_lock() {
            Ok(queue) => return Some(queue),
            // A worker panicked while it held the queue, which the driver keeps in order by itself.
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                if start.get_or_insert_with(Instant::now).elapsed() >= MAX_WAIT {
                    return None;
                }
                std::hint::spin_loop();
            }
        }
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
    let changed = match treatment.edit {
        TagEdit::Keep => true,
        TagEdit::Pop => mbuf.remove(TAG_OFFSET, 4),
        TagEdit::Push(control) => mbuf.insert(TAG_OFFSET, &tag(TAG_TYPE, control)),
        TagEdit::Rewrite(control) => {
            if let Some(place) = mbuf.head_mut().get_mut(TAG_OFFSET + TAG_TYPE.len()..TAG_OFFSET + TAG_BYTES) {
                place.copy_from_slice(&control.to_be_bytes());
            }
            true
        }
    };
    if let Work::Complete(partial) = treatment.work {
        complete(&mut mbuf, partial.moved(treatment.edit.growth()));
    }
    (changed && ask(&mut mbuf, treatment)).then_some(mbuf)
}

/// Completes a checksum in an mbuf.
fn complete(mbuf: &mut Mbuf, partial: PartialChecksum) {
    let end = usize::try_from(partial.end(mbuf.head(), mbuf.length())).unwrap_or(usize::MAX);
    let mut sum = Sum::default();
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
    let (partial, segment_size) = match offload {
        Offload::None | Offload::Valid => return true,
        Offload::Checksum(partial) => (partial, 0),
        Offload::Segment(segmentation) => (segmentation.partial_checksum(), segmentation.size),
    };
    let partial = partial.moved(treatment.edit.growth());
    // Of another protocol, or of a tunnel, it is none that the NIC knows.
    if let Some(parsed) = Layers::parse(mbuf.head())
        && parsed.transport == partial.start
        && matches!(parsed.protocol, layers::TCP | layers::UDP)
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
        if asked {
            return true;
        }
    }
    let can = segment_size == 0;
    if can {
        complete(mbuf, partial);
    }
    can
}

fn take_mbuf(burst: &mut Burst<'_>, index: usize) -> Option<Mbuf> {
    if let Burst::Nic(batch) = burst { batch.take(index) } else { None }
}
