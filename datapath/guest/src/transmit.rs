//! Taking frames from a guest's transmit queue, which is our rx.
//!
//! [`SplitTransmitQueue::receive`] takes a burst of chains and copies of each the virtio-net header and the first bytes of the
//! frame, once. The rest stays where it is: a [`Packet`] borrows it, and the chains go back to the guest when the
//! [`Received`] is dropped, after everything that borrowed from it.

#![expect(unsafe_code, reason = "copying headers out of checked guest buffers")]

use std::sync::Arc;

use culvert_frame::{DropReason, ETHERNET_HEADER_BYTES, MAX_FRAME_BYTES, Offloads};

use crate::call::Call;
use crate::chain::{self, Access, Buffer};
use crate::dirty_log::RingLog;
use crate::features;
use crate::layout::{MAX_QUEUE_SIZE, RingLayout};
use crate::memory::Memory;
use crate::net_header::{NEEDS_CSUM, NET_HEADER_BYTES, NetHeader, header_bytes};
use crate::packed::PackedRing;
use crate::piece::{Piece, copy, copy_whole};
use crate::split::{DESC_INDIRECT, DESC_NEXT, Offer, RingFault, SplitRing, StartError};
use crate::straight::Straight;
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// Frames that are taken at once.
pub const BURST: usize = 32;

/// Descriptors of chains of several after which no further chain is taken; the last one may have [`MAX_QUEUE_SIZE`] more. Empty
/// ones count: a guest that writes long chains has shorter bursts, and not longer turns.
pub const BURST_DESCRIPTORS: u16 = MAX_QUEUE_SIZE;

/// How many bytes of a frame are copied for looking at; the rest is copied once, to where the frame goes.
pub const HEAD_BYTES: usize = 128;

const SCRATCH_BYTES: usize = NET_HEADER_BYTES + HEAD_BYTES;
const HEADER_AND_HEAD: u32 = 140;
/// Bytes of a frame's head: of the shortest frame that has an Ethernet header, and of all that are long enough.
const LEAST_HEAD: u32 = 14;
const MOST_HEAD: u32 = 128;
const _: () = assert!(LEAST_HEAD as usize == ETHERNET_HEADER_BYTES && MOST_HEAD as usize == HEAD_BYTES);
const _: () = assert!(HEADER_AND_HEAD as usize == SCRATCH_BYTES);

/// A guest's transmit queue whose ring is split. One worker owns it.
#[derive(Debug)]
pub struct SplitTransmitQueue {
    ring: SplitRing,
    header_bytes: usize,
    asks: Offloads,
    /// The memory region that the last buffer was in.
    region: usize,
}

/// Storage for one burst, reused from burst to burst so that none allocates.
#[derive(Debug)]
pub struct TransmitBurst {
    slots: Box<[Slot; BURST]>,
    /// How many of the slots are filled.
    count: usize,
    /// Descriptors of chains with more than one.
    descriptors: u16,
    /// Pieces of chains with more than one buffer. `'static` stands for "until the burst ends": see [`Received::packet`].
    pieces: Vec<Piece<'static>>,
}

/// One chain of a burst.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// The virtio-net header, then the head of the frame.
    scratch: [u8; SCRATCH_BYTES],
    chain: u16,
    /// Bytes of the frame in `scratch`.
    head: u16,
    /// Bytes of the whole frame.
    length: u32,
    refused: Option<DropReason>,
    /// The frame lies in one buffer: `rest` is all of it until the head is copied, and then what follows that.
    whole: bool,
    /// It is a frame, has an Ethernet header, and nothing is left to be done to it.
    plain: bool,
    /// The rest of the frame: this, then `pieces[more]`.
    rest: Piece<'static>,
    more: (u32, u32),
}

/// A frame that lies in its sender's memory, with its first bytes copied.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The virtio-net header as the guest wrote it.
    pub header: NetHeader,
    /// The first bytes of the frame, at most [`HEAD_BYTES`]: every decision reads these, and these are sent on.
    pub head: &'a [u8],
    /// Length of the whole frame, in bytes.
    pub length: u32,
    rest: Piece<'a>,
    more: &'a [Piece<'a>],
}

impl<'a> Packet<'a> {
    /// A frame that lies in our own memory, whole.
    pub fn of_bytes(header: NetHeader, bytes: &'a [u8]) -> Self {
        Self::of_parts(header, bytes, &[])
    }

    /// A frame that lies in our own memory, in several parts, the first with all headers.
    pub fn of_parts(header: NetHeader, first: &'a [u8], more: &'a [Piece<'a>]) -> Self {
        let (head, rest) = first.split_at_checked(HEAD_BYTES).unwrap_or((first, &[]));
        let length = more.iter().fold(first.len(), |length, piece| length.saturating_add(piece.length() as usize));
        Self { header, head, length: u32::try_from(length).unwrap_or(u32::MAX), rest: Piece::from(rest), more }
    }

    /// What follows the head, in order.
    #[inline]
    pub fn rest(&self) -> impl Iterator<Item = Piece<'a>> + Clone + use<'a> {
        std::iter::once(self.rest).chain(self.more.iter().copied())
    }

    /// What follows the head: the first piece, and those behind it.
    #[inline]
    pub const fn pieces(&self) -> (Piece<'a>, &'a [Piece<'a>]) {
        (self.rest, self.more)
    }
}

/// A burst of frames, borrowed from the guest until dropped.
#[derive(Debug)]
pub struct Received<'q> {
    ring: GiveBack<'q>,
    header_bytes: usize,
    asks: Offloads,
    burst: &'q mut TransmitBurst,
}

/// Where the chains of a burst go back to.
#[derive(Debug)]
pub(crate) enum GiveBack<'q> {
    Split(&'q mut SplitRing),
    Packed(&'q mut PackedRing),
}

impl SplitTransmitQueue {
    /// Takes up a ring; see [`SplitRing::new`].
    ///
    /// # Errors
    /// [`StartError`] when layout or indices are wrong.
    pub fn new(memory: Arc<Memory>, layout: &RingLayout, features: u64, call: Arc<Call>) -> Result<Self, StartError> {
        let ring = SplitRing::new(memory, layout, features, call)?;
        ring.disable_kick();
        Ok(Self { ring, header_bytes: header_bytes(features), asks: features::asked(features), region: 0 })
    }

    /// Takes up to [`BURST`] chains, and no further one once those of several descriptors had [`BURST_DESCRIPTORS`].
    ///
    /// # Errors
    /// The guest's fault; chains before the faulty one are in the next call's burst no more: the queue is to be stopped.
    #[inline]
    pub fn receive<'q>(&'q mut self, burst: &'q mut TransmitBurst) -> Result<Received<'q>, RingFault> {
        burst.clear();
        let available = self.ring.refresh()?;
        self.fill(burst, usize::from(available).min(BURST))?;
        Ok(Received { ring: GiveBack::Split(&mut self.ring), header_bytes: self.header_bytes, asks: self.asks, burst })
    }

    /// Finds the first `wanted` chains, and copies what is looked at of them.
    #[inline]
    fn fill(&mut self, burst: &mut TransmitBurst, wanted: usize) -> Result<(), RingFault> {
        #[cfg(target_arch = "x86_64")]
        if wide::has_avx2() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.fill_wide(burst, wanted) };
        }
        self.fill_any(burst, wanted)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn fill_wide(&mut self, burst: &mut TransmitBurst, wanted: usize) -> Result<(), RingFault> {
        self.fill_any(burst, wanted)
    }

    #[inline(always)]
    fn fill_any(&mut self, burst: &mut TransmitBurst, wanted: usize) -> Result<(), RingFault> {
        let TransmitBurst { slots, pieces, .. } = burst;
        let mut offers = self.ring.offers(0);
        let mut window = self.ring.memory.window(self.region);
        let (mut found, mut descriptors) = (0, 0);
        // Of all frames the first bytes are asked for before those of the first are copied.
        for slot in slots.get_mut(..wanted).unwrap_or_default() {
            if descriptors >= BURST_DESCRIPTORS {
                break;
            }
            let offer = offers.read();
            match offers.only_buffer(&offer, Access::Read, &window) {
                Some(pointer) => slot.lie_in(Buffer { pointer, length: offer.descriptor.length }, offer.head),
                None => {
                    descriptors += slot.find(&self.ring, &offer, self.header_bytes, &mut self.region, pieces)?;
                    window = self.ring.memory.window(self.region);
                }
            }
            found += 1;
        }
        (burst.count, burst.descriptors) = (found, descriptors);
        burst.copy_heads(self.header_bytes);
        Ok(())
    }

    /// Whether [`Self::receive`] would find a frame.
    ///
    /// # Errors
    /// The guest's fault.
    #[inline]
    pub fn has_frames(&mut self) -> Result<bool, RingFault> {
        Ok(self.ring.refresh()? > 0)
    }

    /// Asks for a kick at the next frame; `true` if there is none yet, so that sleeping is safe.
    ///
    /// # Errors
    /// The guest's fault.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        self.ring.enable_kick(0);
        Ok(self.ring.refresh()? == 0)
    }

    /// Asks for no more kicks: the queue is polled.
    pub fn disarm(&self) {
        self.ring.disable_kick();
    }

    /// Has all that is written from now on logged, or nothing.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.ring.log(log);
    }

    /// Where the ring stands.
    pub const fn position(&self) -> u16 {
        self.ring.position()
    }
}

impl Default for TransmitBurst {
    fn default() -> Self {
        let slots = Box::new(std::array::from_fn(|_| Slot::new()));
        // BURST_DESCRIPTORS, and one longest chain behind them.
        Self { slots, count: 0, descriptors: 0, pieces: Vec::with_capacity(2 * usize::from(MAX_QUEUE_SIZE)) }
    }
}

impl TransmitBurst {
    pub(crate) fn clear(&mut self) {
        (self.count, self.descriptors) = (0, 0);
        self.pieces.clear();
    }
}

/// What a packed ring fills a burst by; it keeps its chains itself.
impl TransmitBurst {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Descriptors of chains with more than one.
    pub(crate) const fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// Adds a frame that lies in one buffer, where there is a place for it, and asks for its first bytes, which [`Self::copy_heads`] copies.
    #[inline]
    pub(crate) fn add_single(&mut self, buffer: Option<Buffer>) {
        let Some(slot) = self.slots.get_mut(self.count) else { return };
        match buffer {
            Some(buffer) => slot.lie_in(buffer, 0),
            None => slot.lie_nowhere(),
        }
        self.count += 1;
    }

    /// Copies header and head of all frames that lie in one buffer.
    #[inline(always)]
    pub(crate) fn copy_heads(&mut self, header_bytes: usize) {
        let header_bytes = u32::try_from(header_bytes).unwrap_or(0);
        for slot in self.slots.get_mut(..self.count).unwrap_or_default().iter_mut().filter(|slot| slot.whole) {
            slot.copy_head(header_bytes);
        }
    }

    /// Adds a frame that lies in the buffers that `walk` yields; it also tells how many descriptors there are.
    ///
    /// # Errors
    /// Those of `walk`.
    #[cold]
    #[inline(never)]
    pub(crate) fn add_chain<T>(
        &mut self,
        header_bytes: usize,
        walk: impl FnOnce(&mut dyn FnMut(Buffer)) -> Result<(T, u16), RingFault>,
    ) -> Result<T, RingFault> {
        let start = self.pieces.len();
        let mut take = Take::new(header_bytes);
        // There is a place: a burst is at its end before.
        let at = self.count.min(BURST - 1);
        let Self { slots, pieces, .. } = self;
        let mut none = [0; SCRATCH_BYTES];
        let scratch = slots.get_mut(at).map_or(&mut none, |slot| &mut slot.scratch);
        let (walked, descriptors) = walk(&mut |buffer| {
            let piece = take.add(scratch, buffer);
            if piece.length() > 0 {
                pieces.push(piece);
            }
        })?;
        let end = pieces.len();
        if let Some(slot) = slots.get_mut(at) {
            slot.whole = false;
            slot.rest = Piece::from(&[][..]);
            // The vector's capacity is 2 * MAX_QUEUE_SIZE.
            slot.more = (u32::try_from(start).unwrap_or(0), u32::try_from(end).unwrap_or(0));
            slot.finish(&take, header_bytes);
        }
        self.count = at + 1;
        self.descriptors += descriptors;
        Ok(walked)
    }
}

impl<'q> Received<'q> {
    pub(crate) const fn new(
        ring: GiveBack<'q>,
        header_bytes: usize,
        asks: Offloads,
        burst: &'q mut TransmitBurst,
    ) -> Self {
        Self { ring, header_bytes, asks, burst }
    }
}

impl Received<'_> {
    /// How many frames there are.
    #[inline]
    pub const fn len(&self) -> usize {
        self.burst.count
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many descriptors were read, those of chains of one left out.
    #[inline]
    pub const fn descriptors(&self) -> u16 {
        self.burst.descriptors
    }

    /// Leaves the frames from number `count` on in the ring, for the next burst.
    pub fn truncate(&mut self, count: usize) {
        self.burst.count = self.burst.count.min(count);
    }

    /// What the guest may leave to us.
    #[inline]
    pub const fn asks(&self) -> Offloads {
        self.asks
    }

    /// Frame `index`, below [`Self::len`].
    ///
    /// # Errors
    /// Why the guest's buffer cannot be a frame.
    #[inline]
    pub fn packet(&self, index: usize) -> Result<Packet<'_>, DropReason> {
        // Behind the burst lie pieces of earlier ones, whose memory may be gone.
        let slot = self.burst.slots.get(index).filter(|_| index < self.burst.count).ok_or(DropReason::Runt)?;
        if let Some(reason) = slot.refused {
            return Err(reason);
        }
        let bytes = slot.scratch.get(self.header_bytes..).unwrap_or_default();
        let (from, to) = slot.more;
        Ok(Packet {
            header: NetHeader::parse(&slot.scratch).unwrap_or_default(),
            head: bytes.get(..usize::from(slot.head)).unwrap_or_default(),
            length: slot.length,
            rest: slot.rest,
            more: self.burst.pieces.get(from as usize..to as usize).unwrap_or_default(),
        })
    }
}

impl Received<'_> {
    /// First bytes and length of frame `index`, if it is one with an Ethernet header and nothing is left to be done to it.
    #[inline]
    pub fn plain(&self, index: usize) -> Option<(&[u8], u32)> {
        let slot = self.burst.slots.get(index).filter(|slot| index < self.burst.count && slot.plain)?;
        let bytes = slot.scratch.get(self.header_bytes..)?;
        Some((bytes.get(..usize::from(slot.head))?, slot.length))
    }

    /// Ethernet header and length of frame `index`, if it has one and nothing is left to be done to it.
    #[inline(always)]
    pub fn plain_start(&self, index: usize) -> Option<(&[u8; ETHERNET_HEADER_BYTES], u32)> {
        let slot = self.burst.slots.get(index).filter(|slot| index < self.burst.count && slot.plain)?;
        Some((slot.scratch.get(self.header_bytes..)?.first_chunk()?, slot.length))
    }

    /// First bytes, and what follows them in the same buffer, of a frame that has an Ethernet header, and to which nothing is left to be done.
    #[inline(always)]
    pub(crate) fn plain_parts(&self, index: usize) -> Option<(&[u8], Piece<'_>)> {
        let slot = self.burst.slots.get(index).filter(|_| index < self.burst.count)?;
        if !(slot.plain & slot.whole) {
            return None;
        }
        let bytes = slot.scratch.get(self.header_bytes..)?;
        Some((bytes.get(..usize::from(slot.head))?, slot.rest))
    }

    /// The first of `frames`, a bit for each, that lie whole in one buffer, have an Ethernet header, and to which nothing is left to be done:
    /// until one is otherwise.
    #[inline]
    pub fn straight(&self, frames: u32) -> u32 {
        let slots = self.burst.slots.get(..self.burst.count).unwrap_or_default();
        let all = (0_u32..).zip(slots).fold(0, |all, (index, slot)| all | u32::from(slot.plain & slot.whole) << index);
        let others = frames & !all;
        frames & (others & others.wrapping_neg()).wrapping_sub(1)
    }

    /// Copies as many of `frames` as are [straight](Self::straight) and no longer than `longest` bytes, the lowest first, each into the room of
    /// its length that `room` makes in the next of `targets`, until there is none. Returns the bits of those that were copied, and how many bytes
    /// they have.
    #[inline]
    pub fn copy_straight<'t, T: 't>(
        &self,
        frames: u32,
        longest: u32,
        targets: impl Iterator<Item = &'t mut T>,
        room: impl Fn(&'t mut T, u32) -> Option<&'t mut [u8]>,
    ) -> (u32, u64) {
        #[cfg(target_arch = "x86_64")]
        if wide::has_avx2() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.copy_straight_wide(frames, longest, targets, room) };
        }
        self.copy_straight_any(frames, longest, targets, room)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn copy_straight_wide<'t, T: 't>(
        &self,
        frames: u32,
        longest: u32,
        targets: impl Iterator<Item = &'t mut T>,
        room: impl Fn(&'t mut T, u32) -> Option<&'t mut [u8]>,
    ) -> (u32, u64) {
        self.copy_straight_any(frames, longest, targets, room)
    }

    #[inline(always)]
    fn copy_straight_any<'t, T: 't>(
        &self,
        frames: u32,
        longest: u32,
        targets: impl Iterator<Item = &'t mut T>,
        room: impl Fn(&'t mut T, u32) -> Option<&'t mut [u8]>,
    ) -> (u32, u64) {
        let (mut left, mut bytes) = (frames, 0_u64);
        for target in targets {
            let Some((head, rest)) = self.plain_parts(left.trailing_zeros() as usize) else { break };
            let others = left & left.wrapping_sub(1);
            if rest.length() > 0
                && let Some((_, next)) = self.plain_parts(others.trailing_zeros() as usize)
            {
                next.fetch();
            }
            // At most `MAX_FRAME_BYTES`.
            let length = rest.length().wrapping_add(u32::try_from(head.len()).unwrap_or(u32::MAX));
            if length > longest || !room(target, length).is_some_and(|out| copy_whole(head, rest, out)) {
                break;
            }
            left = others;
            bytes = bytes.wrapping_add(u64::from(length));
        }
        (frames & !left, bytes)
    }

    /// First bytes, length, and what follows those bytes, where that lies in one piece.
    #[inline]
    pub fn parts(&self, index: usize) -> Option<(&[u8], u32, Piece<'_>)> {
        let slot = self.burst.slots.get(index).filter(|_| index < self.burst.count)?;
        if slot.refused.is_some() || !slot.whole {
            return None;
        }
        let bytes = slot.scratch.get(self.header_bytes..)?;
        Some((bytes.get(..usize::from(slot.head))?, slot.length, slot.rest))
    }

    /// Length and first bytes of what the guest sent as frame `index`, also where that cannot be a frame.
    pub fn first_bytes(&self, index: usize) -> (u32, &[u8]) {
        let slot = self.burst.slots.iter().take(self.burst.count).nth(index);
        slot.map_or((0, &[]), |slot| {
            let bytes = slot.scratch.get(self.header_bytes..).unwrap_or_default();
            (slot.length, bytes.get(..usize::from(slot.head)).unwrap_or_default())
        })
    }
}

impl Straight for Received<'_> {
    #[inline(always)]
    fn straight_parts(&self, index: usize) -> Option<(u8, &[u8], Piece<'_>)> {
        let (head, rest) = self.plain_parts(index)?;
        Some((0, head, rest))
    }
}

impl Drop for Received<'_> {
    /// Gives the chains back to the guest.
    #[inline]
    fn drop(&mut self) {
        match &mut self.ring {
            GiveBack::Split(ring) => {
                let (mut entries, mut count) = (ring.used_entries(0), 0_u16);
                for slot in self.burst.slots.iter().take(self.burst.count) {
                    entries.put(slot.chain, 0);
                    count = count.wrapping_add(1);
                }
                ring.publish(count);
            }
            GiveBack::Packed(ring) => ring.give_back(self.burst.count),
        }
        self.burst.clear();
    }
}

impl Slot {
    fn new() -> Self {
        let none = Piece::from(&[][..]);
        Self {
            scratch: [0; SCRATCH_BYTES],
            chain: 0,
            head: 0,
            length: 0,
            refused: None,
            whole: false,
            plain: false,
            rest: none,
            more: (0, 0),
        }
    }

    /// The chain has one buffer, whose first bytes are asked for.
    #[inline(always)]
    fn lie_in(&mut self, buffer: Buffer, head: u16) {
        (self.chain, self.more, self.whole) = (head, (0, 0), true);
        // SAFETY: the buffer lies in the ring's memory, which `Received` borrows; pieces are handed out with its lifetime
        // only and the storage is cleared when it ends.
        self.rest = unsafe { Piece::new(buffer.pointer, buffer.length) };
        self.rest.fetch_start(HEADER_AND_HEAD);
    }

    /// The only buffer of the chain has no bytes.
    fn lie_nowhere(&mut self) {
        (self.more, self.whole, self.rest) = ((0, 0), true, Piece::from(&[][..]));
    }

    /// The same for any chain: one of several is read. Returns how many descriptors it has, if those are several.
    #[inline(never)]
    fn find(
        &mut self,
        ring: &SplitRing,
        offer: &Offer,
        header_bytes: usize,
        region: &mut usize,
        pieces: &mut Vec<Piece<'static>>,
    ) -> Result<u16, RingFault> {
        self.chain = ring.checked(offer.head)?;
        self.more = (0, 0);
        if offer.descriptor.flags & (DESC_NEXT | DESC_INDIRECT) != 0 {
            self.whole = false;
            return self.fill_from_chain(ring, header_bytes, region, pieces);
        }
        match chain::translate(ring, offer.descriptor, Access::Read, region)? {
            Some(buffer) => self.lie_in(buffer, self.chain),
            None => self.lie_nowhere(),
        }
        Ok(0)
    }

    /// Copies header and head out of the only buffer.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
    fn copy_head(&mut self, header_bytes: u32) {
        self.length = self.rest.length().wrapping_sub(header_bytes);
        if self.rest.copy_array(&mut self.scratch) && self.length <= MAX_FRAME_BYTES {
            self.head = MOST_HEAD as u16;
            self.rest = self.rest.skip(header_bytes.wrapping_add(MOST_HEAD));
        } else if (LEAST_HEAD..=MOST_HEAD).contains(&self.length) {
            self.rest.copy_to(0, &mut self.scratch);
            self.head = self.length as u16;
            self.rest = self.rest.take(0);
        } else {
            return self.copy_odd_head(header_bytes);
        }
        self.refused = None;
        self.plain = !self.is_asked();
    }

    /// The same for a frame of another length, or none.
    #[cold]
    #[inline(never)]
    fn copy_odd_head(&mut self, header_bytes: u32) {
        let (total, header_bytes) = (u64::from(self.rest.length()), header_bytes as usize);
        let limit = header_bytes + HEAD_BYTES;
        let copied = self.rest.copy_to(0, self.scratch.get_mut(..limit).unwrap_or_default());
        self.rest = self.rest.skip(u32::try_from(copied).unwrap_or(0));
        self.finish(&Take { limit, copied, total }, header_bytes);
    }

    #[cold]
    #[inline(never)]
    fn fill_from_chain(
        &mut self,
        ring: &SplitRing,
        header_bytes: usize,
        region: &mut usize,
        pieces: &mut Vec<Piece<'static>>,
    ) -> Result<u16, RingFault> {
        let start = pieces.len();
        let mut take = Take::new(header_bytes);
        let scratch = &mut self.scratch;
        let walked = chain::walk(ring, self.chain, Access::Read, region, |buffer| {
            let piece = take.add(scratch, buffer);
            if piece.length() > 0 {
                pieces.push(piece);
            }
        })?;
        self.rest = Piece::from(&[][..]);
        // The vector's capacity is 2 * MAX_QUEUE_SIZE.
        self.more = (u32::try_from(start).unwrap_or(0), u32::try_from(pieces.len()).unwrap_or(0));
        self.finish(&take, header_bytes);
        Ok(walked)
    }

    #[inline(never)]
    fn finish(&mut self, take: &Take, header_bytes: usize) {
        let copied = take.copied.saturating_sub(header_bytes);
        self.head = u16::try_from(copied).unwrap_or(0);
        match take.total.checked_sub(header_bytes as u64) {
            None => {
                self.refused = Some(DropReason::ShortHeader);
                self.length = 0;
            }
            Some(length) => {
                self.refused = (length > u64::from(MAX_FRAME_BYTES)).then_some(DropReason::Oversized);
                self.length = u32::try_from(length).unwrap_or(u32::MAX);
            }
        }
        self.plain = self.refused.is_none() && copied >= ETHERNET_HEADER_BYTES && !self.is_asked();
    }

    /// Whether the header leaves anything to be done.
    #[inline(always)]
    const fn is_asked(&self) -> bool {
        let [flags, gso_type, ..] = self.scratch;
        (flags & NEEDS_CSUM) | gso_type != 0
    }
}

/// The start of a chain being copied into a scratch, buffer by buffer.
struct Take {
    /// Bytes to copy at most: the virtio-net header and the head.
    limit: usize,
    copied: usize,
    /// Bytes of all buffers so far; cannot overflow: at most 1024 of 32 bits each.
    total: u64,
}

impl Take {
    const fn new(header_bytes: usize) -> Self {
        Self { limit: header_bytes + HEAD_BYTES, copied: 0, total: 0 }
    }

    /// Copies what still fits from `buffer`; returns what is left of it.
    #[inline]
    fn add(&mut self, scratch: &mut [u8; SCRATCH_BYTES], buffer: Buffer) -> Piece<'static> {
        self.total += u64::from(buffer.length);
        let room = scratch.get_mut(self.copied..self.limit).unwrap_or_default();
        let length = room.len().min(buffer.length as usize);
        // SAFETY: `length` is within the checked buffer and within the scratch, which is ours.
        unsafe { copy(buffer.pointer, room.as_mut_ptr(), length) };
        self.copied += length;
        // SAFETY: the buffer lies in the ring's memory, which `Received` borrows; pieces are handed out with its lifetime
        // only and the storage is cleared when it ends.
        let piece = unsafe { Piece::new(buffer.pointer, buffer.length) };
        piece.skip(u32::try_from(length).unwrap_or(buffer.length))
    }
}
