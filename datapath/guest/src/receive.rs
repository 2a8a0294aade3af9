//! Putting frames into a guest's receive queue, which is our tx (virtio 1.3, section 5.1.6.4).
//!
//! [`SplitReceiveQueue::put`] copies a frame into the guest's buffers; [`SplitReceiveQueue::find_room`] and [`SplitReserved`] leave the
//! copy to the kernel. Nothing is visible to the guest until [`SplitReceiveQueue::publish`], so that a burst costs one index and
//! at most one interrupt. Whoever calls holds the queue's lock: several workers deliver to one guest.

#![expect(unsafe_code, reason = "writable ranges in checked guest buffers")]

use std::sync::Arc;

use culvert_frame::Offloads;

use crate::call::Call;
use crate::chain::{self, Access};
use crate::dirty_log::RingLog;
use crate::features;
use crate::gather::{Added, Gathered, Look};
use crate::layout::RingLayout;
use crate::memory::Memory;
use crate::net_header::{NetHeader, header_bytes};
use crate::piece::{Piece, Room, Rooms};
use crate::split::{DESC_INDIRECT, DESC_NEXT, Offer, RingFault, SplitRing, StartError};
use crate::straight::{self, MOST_HEADER, Straight};
use crate::transmit::BURST;
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// A guest's receive queue whose ring is split.
#[derive(Debug)]
pub struct SplitReceiveQueue {
    ring: SplitRing,
    takes: Offloads,
    /// Chains that were filled since the last publication.
    taken: u16,
    /// The most chains that were on offer when [`Self::has_half`] looked.
    most: u16,
    region: usize,
    /// What [`Self::look_ahead`] has found, in order, from the chain on that was the next one then, and how many.
    looks: Box<[Look; BURST]>,
    looked_from: u16,
    looked: u16,
    /// The chains of a frame that spreads over several ranges.
    gathered: Gathered<u16>,
    /// What they were found for: bytes before the payload, and of the payload.
    found: Option<(u32, u32)>,
    /// A frame is being put: whoever finds this set while nobody is at it knows that we failed over this guest's buffers.
    busy: bool,
}

/// Why a frame could not be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    /// The guest offers no (more) buffers.
    NoBuffer,
    /// The guest's buffer is too small, and it cannot take a frame in several.
    SmallBuffer,
    /// The guest broke its ring: stop the queue.
    Fault(RingFault),
}

impl From<RingFault> for PutError {
    fn from(fault: RingFault) -> Self {
        Self::Fault(fault)
    }
}

/// The only buffer of a chain that is not where the last one was; none where the chain has several, or something is wrong with it.
#[cold]
#[inline(never)]
fn other_room(ring: &SplitRing, offer: &Offer, region: &mut usize) -> Room {
    if ring.checked(offer.head).is_err() || offer.descriptor.flags & (DESC_NEXT | DESC_INDIRECT) != 0 {
        return Room::NONE;
    }
    match chain::translate(ring, offer.descriptor, Access::Write, region) {
        // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
        Ok(Some(buffer)) => unsafe { Room::new(buffer.pointer, buffer.length) },
        _ => Room::NONE,
    }
}

impl SplitReceiveQueue {
    /// Takes up a ring; see [`SplitRing::new`].
    ///
    /// # Errors
    /// [`StartError`] when layout or indices are wrong.
    pub fn new(memory: Arc<Memory>, layout: &RingLayout, features: u64, call: Arc<Call>) -> Result<Self, StartError> {
        let ring = SplitRing::new(memory, layout, features, call)?;
        // We look for buffers when there is a frame; the guest never needs to tell.
        ring.disable_kick();
        Ok(Self {
            ring,
            takes: features::taken(features),
            taken: 0,
            most: 0,
            region: 0,
            looks: Box::new([Look::default(); BURST]),
            looked_from: 0,
            looked: 0,
            gathered: Gathered::new(header_bytes(features), features & features::NET_MRG_RXBUF != 0, layout.size),
            found: None,
            busy: false,
        })
    }

    /// Reads ahead what the guest offers for so many frames, which are put next: then the processor waits once for all that the
    /// guest's has written, and not once for each. What is wrong shows when its turn has come.
    #[inline]
    pub fn look_ahead(&mut self, frames: usize) {
        #[cfg(target_arch = "x86_64")]
        if wide::has_avx2() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.look_ahead_wide(frames) };
        }
        self.look_ahead_any(frames);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn look_ahead_wide(&mut self, frames: usize) {
        self.look_ahead_any(frames);
    }

    #[inline(always)]
    fn look_ahead_any(&mut self, frames: usize) {
        self.looked = 0;
        if usize::from(self.ring.known(self.taken)) < frames && self.ring.refresh().is_err() {
            return;
        }
        let count = usize::from(self.ring.known(self.taken)).min(frames).min(BURST);
        let mut offers = self.ring.offers(self.taken);
        let mut window = self.ring.memory.window(self.region);
        for look in self.looks.get_mut(..count).unwrap_or_default() {
            let offer = offers.read();
            look.chain = offer.head;
            look.room = match offers.only_buffer(&offer, Access::Write, &window) {
                // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
                Some(pointer) => unsafe { Room::new(pointer, offer.descriptor.length) },
                None => {
                    let room = other_room(&self.ring, &offer, &mut self.region);
                    window = self.ring.memory.window(self.region);
                    room
                }
            };
        }
        self.looked_from = self.taken;
        self.looked = u16::try_from(count).unwrap_or(0);
    }

    /// Puts as many of `frames`, a bit for each frame of `burst`, lowest first, as the straight way takes: frames that lie whole in one buffer,
    /// to which nothing is left to be done, no longer than `longest` bytes, each into a buffer that [`Self::look_ahead`] has found and
    /// that has room for all of it. Returns the bits of those that were put, and how many bytes they have. The first
    /// one that is not so ends it: [`Self::put`] deals with that.
    #[inline]
    pub fn put_straight(&mut self, burst: &impl Straight, frames: u32, longest: u32) -> (u32, u64) {
        self.found = None;
        self.busy = true;
        #[cfg(target_arch = "x86_64")]
        let put = if wide::has_avx2() {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { self.copy_straight_wide(burst, frames, longest) }
        } else {
            self.copy_straight(burst, frames, longest)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let put = self.copy_straight(burst, frames, longest);
        self.busy = false;
        put
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn copy_straight_wide(&mut self, burst: &impl Straight, frames: u32, longest: u32) -> (u32, u64) {
        self.copy_straight(burst, frames, longest)
    }

    #[inline(always)]
    fn copy_straight(&mut self, burst: &impl Straight, frames: u32, longest: u32) -> (u32, u64) {
        let first = usize::from(self.taken.wrapping_sub(self.looked_from));
        let looks = self.looks.get(first..usize::from(self.looked)).unwrap_or_default();
        let header_bytes = self.gathered.header_bytes();
        let put = straight::copy(&self.ring, self.taken, looks, header_bytes, burst, frames, longest);
        // At most as many as there are bits.
        self.taken = self.taken.wrapping_add(u16::try_from(put.0.count_ones()).unwrap_or(0));
        put
    }

    /// Copies a frame of `length` bytes, `head` and then `rest`, into the next buffers.
    ///
    /// # Errors
    /// [`PutError`]; the frame is not delivered then.
    #[inline]
    pub fn put<'a>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> Result<(), PutError> {
        self.busy = true;
        let put = self.put_in_one(header, head, length, rest);
        self.busy = false;
        put
    }

    /// The common case: one buffer takes the frame, and it was looked at ahead.
    #[inline]
    fn put_in_one<'a>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> Result<(), PutError> {
        self.found = None;
        let needed = u64::from(length) + self.gathered.header_bytes() as u64;
        let place = self.taken.wrapping_sub(self.looked_from);
        if place < self.looked
            && let Some(look) = self.looks.get(usize::from(place))
            && u64::from(look.room.length()) >= needed
        {
            let look = *look;
            if let Some(next) = self.looks.get(usize::from(place) + 1) {
                // The next frame is mostly as long as this one.
                next.room.fetch(length.saturating_add(MOST_HEADER));
            }
            self.fill(look, header, head, rest);
            return Ok(());
        }
        self.put_unseen(header, head, needed, rest)
    }

    /// The same for a buffer that is looked at only now.
    #[inline(never)]
    fn put_unseen<'a>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        needed: u64,
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> Result<(), PutError> {
        if self.ring.known(self.taken) == 0 && self.ring.refresh()? == self.taken {
            return Err(PutError::NoBuffer);
        }
        let chain = self.ring.head(self.taken)?;
        let first = self.ring.descriptor(chain);
        if first.flags & (DESC_NEXT | DESC_INDIRECT) != 0 || u64::from(first.length) < needed {
            return self.put_in_many(header, head, needed, rest);
        }
        let Some(buffer) = chain::translate(&self.ring, first, Access::Write, &mut self.region)? else {
            return Err(PutError::SmallBuffer);
        };
        // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
        let room = unsafe { Room::new(buffer.pointer, buffer.length) };
        self.fill(Look { room, chain }, header, head, rest);
        Ok(())
    }

    /// Writes a frame into a buffer that has room for it.
    #[inline(always)]
    fn fill<'a>(&mut self, look: Look, header: &NetHeader, head: &[u8], rest: impl Iterator<Item = Piece<'a>>) {
        let written = self.gathered.fill(look.room, header, head, rest);
        self.ring.put_used(self.taken, look.chain, written);
        self.taken = self.taken.wrapping_add(1);
    }

    /// Finds room for a frame of `head_bytes` and up to `most` bytes behind them, for [`Self::reserved`]; for less, but not less than
    /// `least`, where the guest offers no more at present.
    ///
    /// # Errors
    /// [`PutError`].
    pub fn find_room(&mut self, head_bytes: u32, least: u32, most: u32) -> Result<(), PutError> {
        let before = u32::try_from(self.gathered.header_bytes()).unwrap_or(0).saturating_add(head_bytes);
        let found = self.gather(u64::from(before) + u64::from(least), u64::from(before) + u64::from(most))?;
        let room = u32::try_from(found - u64::from(before)).unwrap_or(u32::MAX);
        self.found = Some((before, room.min(most)));
        Ok(())
    }

    /// The room that the last call of this queue's has found by [`Self::find_room`]; none if that was another call.
    pub fn reserved(&mut self) -> Option<SplitReserved<'_>> {
        let (before, payload_bytes) = self.found.take()?;
        Some(SplitReserved { queue: self, before, payload_bytes })
    }

    /// Whether more than half of the chains are left that the guest has had on offer at a time. Frames that were not
    /// addressed to it get no more than the other half, so that a flood leaves room for those that were.
    ///
    /// # Errors
    /// [`PutError::Fault`].
    pub fn has_half(&mut self) -> Result<bool, PutError> {
        let left = self.ring.refresh()?.saturating_sub(self.taken);
        self.most = self.most.max(left);
        Ok(left > self.most / 2)
    }

    /// Makes everything that was put visible to the guest, and interrupts it if it asks for that.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.publish(self.taken);
        (self.taken, self.looked) = (0, 0);
    }

    /// Puts the queue in order after a panic of whoever held it: what was put and not published is not delivered, and the
    /// guest's buffers for it stay its offer. Returns whether the panic was over this guest's buffers, and not only while the
    /// queue was held.
    pub fn abandon(&mut self) -> bool {
        (self.taken, self.looked) = (0, 0);
        self.found = None;
        std::mem::take(&mut self.busy)
    }

    /// How many chains may be filled before [`Self::has_half`] says otherwise, of those that are known of.
    ///
    /// # Errors
    /// [`PutError::Fault`].
    pub fn above_half(&mut self) -> Result<u16, PutError> {
        if !self.has_half()? {
            return Ok(0);
        }
        Ok(self.ring.known(self.taken).saturating_sub(self.most / 2))
    }

    /// Asks for a kick when the guest adds buffers; `true` if it has added none since the last look, so that it is safe to
    /// wait. For whoever was told [`PutError::NoBuffer`] and has published what was put before.
    ///
    /// # Errors
    /// The guest's fault.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        let known = self.ring.known(0);
        self.ring.enable_kick(known);
        Ok(self.ring.refresh()? == known)
    }

    /// Asks for no more kicks.
    pub fn disarm(&self) {
        self.ring.disable_kick();
    }

    /// Which frames the guest takes whose checksum or segmentation was left undone.
    #[inline]
    pub const fn takes(&self) -> Offloads {
        self.takes
    }

    /// Has all that is written from now on logged, or nothing.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.ring.log(log);
    }

    /// Where the ring stands.
    pub const fn position(&self) -> u16 {
        self.ring.position()
    }

    /// The general case: chains of several buffers, and frames over several chains.
    #[cold]
    #[inline(never)]
    fn put_in_many<'a>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        needed: u64,
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> Result<(), PutError> {
        self.gather(needed, needed)?;
        let written = self.gathered.pour(header, head, rest);
        self.complete(self.gathered.len(), written);
        Ok(())
    }

    /// Gives the first `count` of the gathered chains back with `written` bytes in them.
    fn complete(&mut self, count: u16, written: u64) {
        for (head, length) in self.gathered.shares(count, written) {
            self.ring.put_used(self.taken, head, length);
            self.taken += 1;
        }
    }

    /// Finds chains for `most` bytes, or as many of them as there are, and lists them and their ranges; returns how many
    /// bytes they have. Nothing is taken when they do not suffice for `least`.
    fn gather(&mut self, least: u64, most: u64) -> Result<u64, PutError> {
        self.gathered.clear();
        self.found = None;
        while self.gathered.bytes() < most {
            let ahead = self.taken + self.gathered.len();
            if self.ring.known(ahead) == 0 && self.ring.refresh()? == ahead {
                if self.gathered.bytes() >= least && self.gathered.bytes() > 0 {
                    break;
                }
                return Err(PutError::NoBuffer);
            }
            let head = self.ring.head(ahead)?;
            let Self { ring, region, gathered, .. } = self;
            let added = gathered.add(most, |found| {
                let walked = chain::walk(ring, head, Access::Write, region, |buffer| {
                    // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
                    found.push(unsafe { Room::new(buffer.pointer, buffer.length) });
                })?;
                Ok((head, walked))
            })?;
            if let Added::Headless = added {
                self.ring.put_used(self.taken, head, 0);
                self.taken += 1;
                return Err(PutError::SmallBuffer);
            }
        }
        Ok(self.gathered.bytes())
    }
}

/// Buffers of the guest's for one frame, whose payload is received straight into them
/// ([`descriptor::receive`](crate::descriptor::receive)) before its head is written. Dropped without [`Self::commit`], they
/// stay the guest's offer.
#[derive(Debug)]
pub struct SplitReserved<'q> {
    queue: &'q mut SplitReceiveQueue,
    before: u32,
    payload_bytes: u32,
}

impl SplitReserved<'_> {
    /// Where the payload goes.
    pub fn rooms(&mut self) -> Rooms<'_> {
        self.queue.gathered.rooms(self.before, self.payload_bytes)
    }

    /// Puts the frame: `head`, as long as room was found for, and the first `payload_bytes` that were received.
    pub fn commit(self, header: &NetHeader, head: &[u8], payload_bytes: u32) {
        let Self { queue, before, payload_bytes: most } = self;
        let written = u64::from(before) + u64::from(payload_bytes.min(most));
        let count = queue.gathered.pour_head(header, head, before, written);
        queue.complete(count, written);
    }
}
