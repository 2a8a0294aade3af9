//! Putting frames into a guest's receive queue whose ring is packed. As [`crate::receive`], with the same errors and the same order.

#![expect(unsafe_code, reason = "writable ranges in checked guest buffers")]

use std::sync::Arc;

use culvert_frame::Offloads;

use super::chain::{self, Walked};
use super::{Descriptor, PackedRing, PackedStart, Place};
use crate::call::Call;
use crate::chain::Access;
use crate::dirty_log::RingLog;
use crate::features;
use crate::gather::{Added, Gathered, Look};
use crate::layout::RingLayout;
use crate::memory::Memory;
use crate::net_header::{NetHeader, header_bytes};
use crate::piece::{Piece, Room, Rooms};
use crate::receive::PutError;
use crate::split::{RingFault, StartError};
use crate::straight::{self, MOST_HEADER, Straight};
use crate::transmit::BURST;
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// A guest's receive queue.
#[derive(Debug)]
pub struct PackedReceiveQueue {
    ring: PackedRing,
    takes: Offloads,
    /// The most descriptors that were on offer when [`Self::has_half`] looked.
    most: u16,
    region: usize,
    /// What [`Self::look_ahead`] has read, descriptor by descriptor, when so many were held, and how many it found.
    offers: Box<[Descriptor; BURST]>,
    looks: Box<[Look; BURST]>,
    looked_from: u16,
    looked: u16,
    /// Where the guest offered no more when a frame did not find its buffers.
    missing: Place,
    /// The chains of a frame that spreads over several ranges.
    gathered: Gathered<Chain>,
    /// What they were found for: bytes before the payload, and of the payload.
    found: Option<(u32, u32)>,
    /// A frame is being put: whoever finds this set while nobody is at it knows that we failed over this guest's buffers.
    busy: bool,
}

/// A buffer of a packed ring.
#[derive(Clone, Copy, Debug)]
struct Chain {
    id: u16,
    entries: u16,
}

/// The only buffer of an offer that is not where the last one was; none where it has several, or something is wrong with it.
#[cold]
#[inline(never)]
fn other_room(ring: &PackedRing, offer: &Descriptor, region: &mut usize) -> Room {
    if !offer.is_single() {
        return Room::NONE;
    }
    match chain::translate(ring, *offer, Access::Write, region) {
        // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
        Ok(Some(buffer)) => unsafe { Room::new(buffer.pointer, buffer.length) },
        _ => Room::NONE,
    }
}

impl PackedReceiveQueue {
    pub(crate) fn new(
        memory: Arc<Memory>,
        layout: &RingLayout,
        features: u64,
        call: Arc<Call>,
        start: PackedStart,
    ) -> Result<Self, StartError> {
        let ring = PackedRing::new(memory, layout, features, call, start)?;
        Ok(Self {
            missing: ring.next(),
            ring,
            takes: features::taken(features),
            most: 0,
            region: 0,
            offers: Box::new([Descriptor::default(); BURST]),
            looks: Box::new([Look::default(); BURST]),
            looked_from: 0,
            looked: 0,
            gathered: Gathered::new(header_bytes(features), features & features::NET_MRG_RXBUF != 0, layout.size),
            found: None,
            busy: false,
        })
    }

    #[inline]
    pub(crate) fn put<'a>(
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

    /// As for split rings. What is wrong shows when its turn has come.
    #[inline]
    pub(crate) fn look_ahead(&mut self, frames: usize) {
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
        let Self { ring, region, offers, looks, .. } = self;
        let offers = offers.get_mut(..frames.min(BURST)).unwrap_or_default();
        let count = ring.read_offers(offers).unwrap_or(0);
        let mut window = ring.memory().window(*region);
        for (offer, look) in offers.iter().take(count).zip(&mut **looks) {
            look.chain = offer.id;
            look.room = match offer.only_buffer(Access::Write, &window) {
                // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
                Some(pointer) => unsafe { Room::new(pointer, offer.length) },
                None => {
                    let room = other_room(ring, offer, region);
                    window = ring.memory().window(*region);
                    room
                }
            };
        }
        self.looked_from = self.ring.held();
        self.looked = u16::try_from(count).unwrap_or(0);
    }

    /// As for split rings.
    #[inline]
    pub(crate) fn put_straight(&mut self, burst: &impl Straight, frames: u32, longest: u32) -> (u32, u64) {
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
        let first = usize::from(self.ring.held().wrapping_sub(self.looked_from));
        let looks = self.looks.get(first..usize::from(self.looked)).unwrap_or_default();
        let header_bytes = self.gathered.header_bytes();
        let put = straight::copy(&self.ring, self.ring.taken(), looks, header_bytes, burst, frames, longest);
        // At most as many as there are bits.
        self.ring.take_noted(u16::try_from(put.0.count_ones()).unwrap_or(0));
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
        let place = self.ring.held().wrapping_sub(self.looked_from);
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
        let at = self.ring.next();
        let Some(first) = self.ring.look(at, self.ring.held())? else {
            self.missing = at;
            return Err(PutError::NoBuffer);
        };
        if !first.is_single() || u64::from(first.length) < needed {
            return self.put_in_many(header, head, needed, rest);
        }
        let Some(buffer) = chain::translate(&self.ring, first, Access::Write, &mut self.region)? else {
            return Err(PutError::SmallBuffer);
        };
        // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
        let room = unsafe { Room::new(buffer.pointer, buffer.length) };
        self.fill(Look { room, chain: first.id }, header, head, rest);
        Ok(())
    }

    /// Writes a frame into a buffer that has room for it.
    #[inline(always)]
    fn fill<'a>(&mut self, look: Look, header: &NetHeader, head: &[u8], rest: impl Iterator<Item = Piece<'a>>) {
        let written = self.gathered.fill(look.room, header, head, rest);
        self.ring.take(look.chain, 1, written);
    }

    pub(crate) fn find_room(&mut self, head_bytes: u32, least: u32, most: u32) -> Result<(), PutError> {
        let before = u32::try_from(self.gathered.header_bytes()).unwrap_or(0).saturating_add(head_bytes);
        let found = self.gather(u64::from(before) + u64::from(least), u64::from(before) + u64::from(most))?;
        let room = u32::try_from(found - u64::from(before)).unwrap_or(u32::MAX);
        self.found = Some((before, room.min(most)));
        Ok(())
    }

    pub(crate) fn reserved(&mut self) -> Option<PackedReserved<'_>> {
        let (before, payload_bytes) = self.found.take()?;
        Some(PackedReserved { queue: self, before, payload_bytes })
    }

    /// As for split rings, in descriptors instead of chains: to count those would take a walk.
    pub(crate) fn has_half(&mut self) -> Result<bool, PutError> {
        // Mostly two looks tell: neither more than ever, nor less than half.
        if self.most > 0 && !self.ring.offers_more_than(self.most) {
            return Ok(self.ring.offers_more_than(self.most / 2));
        }
        self.most = self.most.max(self.ring.offered());
        Ok(self.most > 0)
    }

    /// How many buffers of one descriptor may be filled before [`Self::has_half`] says otherwise, those of a burst at most.
    pub(crate) fn above_half(&mut self) -> Result<u16, PutError> {
        #[expect(clippy::cast_possible_truncation, reason = "it is 32")]
        const MOST: u16 = BURST as u16;
        if !self.has_half()? {
            return Ok(0);
        }
        // Mostly one look tells: there is room for all of a burst.
        let half = self.most / 2;
        if self.ring.offers_more_than(half + MOST - 1) {
            return Ok(MOST);
        }
        Ok(self.ring.offered().saturating_sub(half))
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        self.ring.publish();
        self.looked = 0;
    }

    pub(crate) fn abandon(&mut self) -> bool {
        self.ring.leave(0);
        self.looked = 0;
        self.found = None;
        std::mem::take(&mut self.busy)
    }

    pub(crate) fn arm(&mut self) -> Result<bool, RingFault> {
        self.ring.enable_kick();
        Ok(!self.ring.is_available(self.missing))
    }

    pub(crate) fn disarm(&self) {
        self.ring.disable_kick();
    }

    #[inline]
    pub(crate) const fn takes(&self) -> Offloads {
        self.takes
    }

    /// Has all that is written from now on logged, or nothing.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.ring.log(log);
    }

    pub(crate) const fn position(&self) -> u16 {
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
        for (Chain { id, entries }, length) in self.gathered.shares(count, written) {
            self.ring.take(id, entries, length);
        }
    }

    /// Finds chains for `most` bytes, or as many of them as there are, and lists them and their ranges; returns how many
    /// bytes they have. Nothing is taken when they do not suffice for `least`.
    fn gather(&mut self, least: u64, most: u64) -> Result<u64, PutError> {
        self.gathered.clear();
        self.found = None;
        let (mut at, mut held) = (self.ring.next(), self.ring.held());
        while self.gathered.bytes() < most {
            let Some(first) = self.ring.look(at, held)? else {
                if self.gathered.bytes() >= least && self.gathered.bytes() > 0 {
                    break;
                }
                self.missing = at;
                return Err(PutError::NoBuffer);
            };
            let mut chain = Chain { id: 0, entries: 0 };
            let Self { ring, region, gathered, .. } = self;
            let added = gathered.add(most, |found| {
                let Walked { id, entries, buffers } =
                    chain::walk(ring, at, held, first, Access::Write, region, |buffer| {
                        // SAFETY: the buffer was checked against the ring's memory, which the ring owns.
                        found.push(unsafe { Room::new(buffer.pointer, buffer.length) });
                    })?;
                chain = Chain { id, entries };
                Ok((chain, buffers))
            })?;
            if let Added::Headless = added {
                self.ring.take(chain.id, chain.entries, 0);
                return Err(PutError::SmallBuffer);
            }
            held += chain.entries;
            at = at.ahead(chain.entries);
        }
        Ok(self.gathered.bytes())
    }
}

/// As [`crate::receive::SplitReserved`].
#[derive(Debug)]
pub struct PackedReserved<'q> {
    queue: &'q mut PackedReceiveQueue,
    before: u32,
    payload_bytes: u32,
}

impl PackedReserved<'_> {
    pub(crate) fn rooms(&mut self) -> Rooms<'_> {
        self.queue.gathered.rooms(self.before, self.payload_bytes)
    }

    pub(crate) fn commit(self, header: &NetHeader, head: &[u8], payload_bytes: u32) {
        let Self { queue, before, payload_bytes: most } = self;
        let written = u64::from(before) + u64::from(payload_bytes.min(most));
        let count = queue.gathered.pour_head(header, head, before, written);
        queue.complete(count, written);
    }
}
