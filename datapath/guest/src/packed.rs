//! Raw access to one packed ring in guest memory (virtio 1.3, section 2.8): descriptors, event areas, publication.
//!
//! There is one table, which the driver fills and we empty in its order. Each descriptor has two bits, AVAIL and USED, that tell by
//! the lap (the *wrap counter*) whose it is. Buffers are completed in the order in which they were offered, so one [`Place`] stands for
//! both "next available" and "next used", and each used descriptor is written over the first of its own buffer's.
//!
//! A burst becomes visible at once: its used descriptors are written from the second on, and the first one last, for the driver looks at
//! no other before that. Before, the ring's [`Record`] gets the list of what is written, so that another process can finish what was
//! begun: it then goes on behind it.
//!
//! In parts of their own: `chain`, walks over descriptors; `transmit` and `receive`, the queues.

#![expect(unsafe_code, reason = "volatile access to ring fields in guest memory")]

pub(crate) mod chain;
#[cfg(test)]
pub(crate) mod crash;
#[cfg(test)]
pub(crate) mod proofs;
pub(crate) mod receive;
pub(crate) mod transmit;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::call::Call;
use crate::chain::Access;
use crate::dirty_log::RingLog;
use crate::features;
use crate::layout::{RingLayout, RingPointers};
use crate::marks::{MOST_DESCRIPTORS, MOST_WRITTEN, Marks};
use crate::memory::{Memory, Window};
use crate::record::{Record, State};
use crate::split::{DESC_BYTES, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, RingFault, StartError};
use crate::straight::NoteUsed;

/// Where a new ring begins: index 0, wrap counter 1.
pub const FIRST_POSITION: u16 = WRAP;

/// How a packed ring is taken up.
#[derive(Clone, Debug)]
pub struct PackedStart {
    /// Where it is noted how far the ring is.
    pub record: Record,
    /// The position that the frontend told, an index and in bit 15 the wrap counter: the record says it better where it is of this very
    /// ring. `None`: as the record says, wherever the ring lay.
    pub told: Option<u16>,
}

/// A place in the ring, in the lap in which it is meant: how many descriptors lie before it since a lap began whose wrap counter was 1. It
/// may go around as any number of that kind, for sizes are powers of two: the lower bits are the index, and the next one tells the lap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(u16);

/// One descriptor (virtio 1.3, section 2.8.8), read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) id: u16,
    pub(crate) flags: u16,
}

/// A running packed ring. One thread at a time owns it.
#[derive(Debug)]
pub(crate) struct PackedRing {
    memory: Arc<Memory>,
    pointers: RingPointers,
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// All before this was published.
    position: Place,
    /// The next descriptor that was not taken.
    next: Place,
    /// How many buffers were taken and not published, which are in the record's list, and how many descriptors they have.
    taken: u16,
    held: u16,
    record: Record,
    call: Arc<Call>,
    /// The frontend held us up by its call.
    blocked: bool,
    /// Where it is noted what we write, while the guest moves.
    marks: Option<Box<Marks>>,
}

// SAFETY: the pointers lead into `memory`, which is owned, and are only used for volatile access.
unsafe impl Send for PackedRing {}

impl Place {
    const START: Self = Self(0);

    /// The place at a position whose index is inside of the ring.
    const fn of(position: u16, size: u16) -> Self {
        Self((position & (size - 1)) | if position & WRAP == 0 { size } else { 0 })
    }

    const fn position(self, size: u16) -> u16 {
        self.index(size) | if self.wrap(size) { WRAP } else { 0 }
    }

    #[inline]
    const fn index(self, size: u16) -> u16 {
        self.0 & (size - 1)
    }

    /// The wrap counter.
    #[inline]
    const fn wrap(self, size: u16) -> bool {
        self.0 & size == 0
    }

    /// The place `count` descriptors on.
    #[inline]
    pub(crate) const fn ahead(self, count: u16) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// What a descriptor's flags have of [`AVAIL`] and [`USED`] when the driver has made it available in this lap.
    #[inline]
    const fn offered(self, size: u16) -> u16 {
        if self.wrap(size) { AVAIL } else { USED }
    }

    /// The same when we have used it.
    #[inline]
    const fn used(self, size: u16) -> u16 {
        if self.wrap(size) { AVAIL | USED } else { 0 }
    }
}

impl PackedRing {
    pub(crate) fn new(
        memory: Arc<Memory>,
        layout: &RingLayout,
        features: u64,
        call: Arc<Call>,
        start: PackedStart,
    ) -> Result<Self, StartError> {
        let pointers = layout.resolve_packed(&memory)?;
        let PackedStart { record, told } = start;
        let mut ring = Self {
            memory,
            pointers,
            size: layout.size,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            position: Place::START,
            next: Place::START,
            taken: 0,
            held: 0,
            record,
            call,
            blocked: false,
            marks: None,
        };
        ring.position = ring.find_position(layout, told)?;
        ring.next = ring.position;
        ring.record.begin(layout, ring.position());
        // Whoever has the ring looks for buffers, until it asks for a kick.
        ring.disable_kick();
        Ok(ring)
    }

    /// Where the ring stands: all before was completed. An index, and the wrap counter in bit 15.
    pub(crate) const fn position(&self) -> u16 {
        self.position.position(self.size)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    pub(crate) const fn indirect_allowed(&self) -> bool {
        self.indirect
    }

    /// The next descriptor that was not taken.
    pub(crate) const fn next(&self) -> Place {
        self.next
    }

    /// How many descriptors were taken and not published.
    pub(crate) const fn held(&self) -> u16 {
        self.held
    }

    /// The first descriptor of the buffer at `at`, if there is one; `held` descriptors lie between our position and it.
    #[inline]
    pub(crate) fn look(&self, at: Place, held: u16) -> Result<Option<Descriptor>, RingFault> {
        if self.blocked {
            return Err(RingFault::CallBlocks);
        }
        // A driver that offers again what we hold is not believed.
        if held >= self.size {
            return Ok(None);
        }
        let first = self.descriptor(at);
        Ok(self.has_offered(at, &first).then_some(first))
    }

    /// Reads the descriptors that are available behind those that were taken, up to as many as there is room for; returns how many those
    /// are. All of them are on their way from the guest's processor before the first one is looked at.
    #[inline]
    pub(crate) fn read_offers(&self, offers: &mut [Descriptor]) -> Result<usize, RingFault> {
        if self.blocked {
            return Err(RingFault::CallBlocks);
        }
        // A driver that offers again what we hold is not believed.
        let most = usize::from(self.size - self.held);
        let (mut place, mut count) = (self.next, 0);
        for offer in offers.iter_mut().take(most) {
            *offer = self.descriptor(place);
            if !self.has_offered(place, offer) {
                break;
            }
            place = place.ahead(1);
            count += 1;
        }
        Ok(count)
    }

    /// Whether the descriptor at `at` is available.
    #[inline]
    pub(crate) fn is_available(&self, at: Place) -> bool {
        self.flags(at) & (AVAIL | USED) == at.offered(self.size)
    }

    /// The same for one that was read there.
    #[inline]
    pub(crate) const fn has_offered(&self, at: Place, descriptor: &Descriptor) -> bool {
        descriptor.flags & (AVAIL | USED) == at.offered(self.size)
    }

    /// The descriptor at a place.
    #[inline]
    pub(crate) fn descriptor(&self, at: Place) -> Descriptor {
        // SAFETY: sixteen bytes inside of the table, 16-byte aligned.
        unsafe { read_descriptor(self.address(at)) }
    }

    /// The index of a place, for people.
    pub(crate) const fn index(&self, at: Place) -> u16 {
        at.index(self.size)
    }

    /// How many descriptors are available behind those that were taken. They lie in a row, unless the driver breaks virtio to its own
    /// loss.
    pub(crate) fn offered(&self) -> u16 {
        let (mut some, mut too_many) = (0, self.size - self.held + 1);
        while too_many - some > 1 {
            let middle = some.midpoint(too_many);
            if self.is_available(self.next.ahead(middle - 1)) {
                some = middle;
            } else {
                too_many = middle;
            }
        }
        some
    }

    /// Whether there are more than `count` descriptors on offer behind those that were taken.
    pub(crate) fn offers_more_than(&self, count: u16) -> bool {
        count < self.size - self.held && self.is_available(self.next.ahead(count))
    }

    /// Takes the next buffer, of `entries` descriptors in the ring: it goes back as `id`, with `length` bytes written into it.
    #[inline]
    pub(crate) fn take(&mut self, id: u16, entries: u16, length: u32) {
        // A buffer has one descriptor at least, so that there are never more buffers than entries of the list.
        debug_assert!(entries > 0 && self.held + entries <= self.size);
        self.record.set_entry(self.taken, Entry::new(length, id, entries).0);
        self.taken = self.taken.wrapping_add(1);
        self.held = self.held.wrapping_add(entries);
        self.next = self.next.ahead(entries);
    }

    /// How many buffers were taken and not published.
    pub(crate) const fn taken(&self) -> u16 {
        self.taken
    }

    /// Takes the next `count` buffers, each of one descriptor, which were noted by [`NoteUsed`].
    #[inline]
    pub(crate) fn take_noted(&mut self, count: u16) {
        self.taken = self.taken.wrapping_add(count);
        self.held = self.held.wrapping_add(count);
        self.next = self.next.ahead(count);
        debug_assert!(self.held <= self.size);
    }

    /// Leaves what was taken from buffer `count` on to the driver's offer.
    pub(crate) fn leave(&mut self, count: u16) {
        let count = self.taken.min(count);
        let (mut next, mut held) = (self.position, 0);
        for index in 0..count {
            let entries = self.entry(index).entries();
            held += entries;
            next = next.ahead(entries);
        }
        (self.taken, self.held, self.next) = (count, held, next);
    }

    /// Gives the first `count` buffers that were taken back; the others stay the driver's offer.
    #[inline]
    pub(crate) fn give_back(&mut self, count: usize) {
        if count < usize::from(self.taken) {
            self.leave(u16::try_from(count).unwrap_or(u16::MAX));
        }
        self.publish();
    }

    /// Gives everything that was taken back, and interrupts the guest if it asks for that.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.taken == 0 {
            return;
        }
        if self.marks.is_some() {
            return self.publish_marked();
        }
        let old = self.publish_used();
        self.interrupt(old);
    }

    /// Gives everything that was taken back; returns where we were.
    #[inline(always)]
    fn publish_used(&mut self) -> Place {
        let old = self.position;
        self.record.publishing(self.position(), self.taken);
        self.write_used();
        self.position = self.next;
        (self.taken, self.held) = (0, 0);
        self.record.publishing(self.position(), 0);
        old
    }

    /// Interrupts the guest if it asks for that, after our position has moved from `old` on.
    #[inline(always)]
    fn interrupt(&mut self, old: Place) {
        // The descriptors must be seen before we look whether the guest sleeps (virtio 1.3, 2.8.14).
        fence(Ordering::SeqCst);
        if self.wants_interrupt(old) {
            self.blocked = self.call.signal().is_err();
        }
    }

    /// The same for a ring whose writes are logged.
    #[cold]
    #[inline(never)]
    fn publish_marked(&mut self) {
        let held = self.held;
        // Before the record tells that it is being published, for then another process may finish that.
        self.mark_buffers();
        let old = self.publish_used();
        self.mark_used(old, held);
        if let Some(marks) = &self.marks {
            self.blocked = marks.tell().is_err();
        }
        if !self.blocked {
            self.interrupt(old);
        }
    }

    /// Marks what was written into the buffers that were taken.
    fn mark_buffers(&self) {
        let Some(marks) = &self.marks else { return };
        let (mut hint, mut read) = (0, 0_u32);
        let (mut place, mut held) = (self.position, 0_u16);
        for entry in self.record.entries(self.taken).map(Entry) {
            let mut left = entry.length().min(MOST_WRITTEN);
            if left > 0 {
                let first = self.descriptor(place);
                let walked = chain::walk(self, place, held, first, Access::Write, &mut hint, |buffer| {
                    let share = buffer.length.min(left);
                    marks.buffer(&self.memory, buffer.pointer, share);
                    left -= share;
                });
                // A chain that cannot be walked any more was changed under way.
                read = read.saturating_add(u32::from(walked.map_or(self.size, |walked| walked.buffers)));
                if read > MOST_DESCRIPTORS {
                    return;
                }
            }
            (place, held) = (place.ahead(entry.entries()), held.saturating_add(entry.entries()).min(self.size));
        }
    }

    /// Marks the descriptors of the ring from a place on, as many as the ring has at most.
    fn mark_used(&self, at: Place, count: u16) {
        let Some(marks) = &self.marks else { return };
        let (size, first) = (usize::from(self.size), usize::from(at.index(self.size)));
        let (count, bytes) = (usize::from(count).min(size), DESC_BYTES as usize);
        marks.descriptors(bytes * first, bytes * count.min(size - first));
        marks.descriptors(0, bytes * (first + count).saturating_sub(size));
    }

    /// Has all that is written from now on logged, or nothing. All places of the ring's own are marked at once: what another process has
    /// written there may have been its last, and not marked.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.marks = log.map(|log| Marks::new(log, &self.memory, &self.pointers));
        self.mark_used(Place::START, self.size);
        self.mark_event();
    }

    /// Goes on behind what somebody else has used in our place, while nothing is taken; returns whether there was anything. QEMU throws away
    /// what its guest sends while there is no backend, from wherever it believes the ring to stand (`virtqueue_drop_all`). No flags of
    /// an earlier lap look like that.
    pub(crate) fn pass_over_used(&mut self) -> bool {
        if self.taken > 0 {
            return false;
        }
        let is_used = |at: &Place| self.flags(*at) & (AVAIL | USED) == at.used(self.size);
        let count = (0..self.size).map(|count| self.position.ahead(count)).take_while(is_used).count();
        if count == 0 {
            return false;
        }
        // At most as many as the ring has.
        self.position = self.position.ahead(u16::try_from(count).unwrap_or(0));
        self.next = self.position;
        self.record.publishing(self.position(), 0);
        true
    }

    /// Asks the guest to kick at each buffer. Buffers that came before it saw this do not kick: look again after.
    pub(crate) fn enable_kick(&self) {
        self.write_event(EVENT_ENABLE);
        fence(Ordering::SeqCst);
    }

    /// Asks the guest not to kick.
    pub(crate) fn disable_kick(&self) {
        self.write_event(EVENT_DISABLE);
    }

    /// Writes a used descriptor for each buffer that was taken, the first one last.
    fn write_used(&self) {
        let mut entries = self.record.entries(self.taken).map(Entry);
        let Some(first) = entries.next() else { return };
        let mut place = self.position.ahead(first.entries());
        for entry in entries {
            self.write_used_at(place, entry);
            place = place.ahead(entry.entries());
        }
        // All of it, and what was written into the buffers, must be seen before the first.
        fence(Ordering::Release);
        self.write_used_at(self.position, first);
    }

    #[inline]
    fn write_used_at(&self, place: Place, entry: Entry) {
        #[cfg(test)]
        if !crash::permits() {
            return;
        }
        let word = entry.used(place.used(self.size));
        // SAFETY: inside of the table, 16-byte aligned. One store: who sees the flags sees the rest.
        unsafe { self.address(place).cast::<u64>().add(1).write_volatile(word.to_le()) }
    }

    /// Entry `index` of the list of what is to be published, as this process or an earlier one wrote it.
    #[inline]
    fn entry(&self, index: u16) -> Entry {
        Entry(self.record.entry(index))
    }

    /// Whether the driver wants to hear of what was published since `old` (virtio 1.3, 2.8.10).
    #[inline]
    fn wants_interrupt(&self, old: Place) -> bool {
        // SAFETY: the driver's event area has four bytes, 4-byte aligned.
        let word = u32::from_le(unsafe { self.pointers.available.cast::<u32>().read_volatile() });
        let [low, high, flags, _] = word.to_le_bytes();
        match u16::from(flags) & EVENT_FLAGS {
            EVENT_DISABLE => false,
            EVENT_AT if self.event_idx => {
                // As differences of places, which count to two laps.
                let event = Place::of(u16::from_le_bytes([low, high]), self.size);
                let before = |place: Place| self.position.0.wrapping_sub(place.0) & (2 * self.size - 1);
                before(event.ahead(1)) < before(old)
            }
            _ => true,
        }
    }

    /// Finds where to go on, and finishes what an earlier process began to publish.
    fn find_position(&mut self, layout: &RingLayout, told: Option<u16>) -> Result<Place, StartError> {
        if self.is_new() {
            return Ok(Place::START);
        }
        let size = self.size;
        let check = |position: u16| match position & !WRAP {
            index if index < size => Ok(Place::of(position, size)),
            _ => Err(StartError::Position { position, size }),
        };
        let here = told.map(|_| layout);
        let Some(State { position, publishing }) =
            self.record.state(here).filter(|state| check(state.position).is_ok())
        else {
            return check(told.unwrap_or(FIRST_POSITION));
        };
        self.position = Place::of(position, size);
        if publishing == 0 {
            return Ok(self.position);
        }
        let (mut end, mut held) = (self.position, 0_u16);
        for index in 0..publishing.min(self.size) {
            let entries = self.entry(index).entries();
            held = held.saturating_add(entries);
            if entries == 0 || held > self.size {
                // Not what we write.
                return Ok(self.position);
            }
            end = end.ahead(entries);
        }
        // The first one, which is written last, tells whether all were: the driver may have used the places again since.
        // Its flag USED stays what it is when the driver offers the place again.
        if self.flags(self.position) & USED != self.position.used(self.size) & USED {
            self.taken = publishing.min(self.size);
            self.write_used();
            self.taken = 0;
        }
        Ok(end)
    }

    /// Whether the ring is as a driver makes it: no device had it in hand, nothing was ever used, and what is available lies at its
    /// start. Descriptors alone do not tell: after any even number of laps all is used with no flag set, and what a chain that went over
    /// the end has left at the start looks available.
    fn is_new(&self) -> bool {
        let mut is_offered = true;
        !self.is_marked()
            && (0..self.size).all(|index| {
                let flags = self.flags(Place(index));
                let was_offered = std::mem::replace(&mut is_offered, flags & AVAIL != 0);
                flags & USED == 0 && (was_offered || !is_offered)
            })
    }

    /// The 16 bytes of a descriptor.
    #[inline]
    fn address(&self, at: Place) -> *mut u8 {
        self.pointers.descriptors.wrapping_add(usize::from(at.index(self.size)) * DESC_BYTES as usize)
    }

    #[inline]
    fn flags(&self, at: Place) -> u16 {
        // SAFETY: inside of the table, 16-byte aligned.
        u16::from_le(unsafe { self.address(at).add(14).cast::<u16>().read_volatile() })
    }

    /// Writes our event area, of which drivers read the flags only, as we never ask for a kick at a place: so the place is a mark by which
    /// we know the ring again. A driver that starts anew clears it with all else.
    fn write_event(&self, flags: u16) {
        let word = u32::from(flags) << 16 | u32::from(MARK);
        // SAFETY: our event area has four bytes, 4-byte aligned.
        unsafe { self.pointers.used.cast::<u32>().write_volatile(word.to_le()) }
        self.mark_event();
    }

    /// Marks our event area.
    fn mark_event(&self) {
        if let Some(marks) = &self.marks {
            marks.used(0, 4);
        }
    }

    fn is_marked(&self) -> bool {
        // SAFETY: our event area has four bytes, 4-byte aligned.
        let word = u32::from_le(unsafe { self.pointers.used.cast::<u32>().read_volatile() });
        word & 0xffff == u32::from(MARK)
    }
}

impl NoteUsed for PackedRing {
    #[inline(always)]
    fn note_used(&self, taken: u16, id: u16, length: u32) {
        self.record.set_entry(taken, Entry::new(length, id, 1).0);
    }
}

/// A buffer that goes back to its driver: bytes that were written into it, the driver's name for it, and its descriptors in the ring; as in
/// a used descriptor, with that number in place of the flags.
#[derive(Clone, Copy, Debug)]
struct Entry(u64);

impl Entry {
    #[inline]
    fn new(length: u32, id: u16, entries: u16) -> Self {
        Self(u64::from(length) | u64::from(id) << 32 | u64::from(entries) << 48)
    }

    /// Bytes that were written into the buffer.
    const fn length(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    #[inline]
    const fn entries(self) -> u16 {
        let [.., low, high] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// The second half of the used descriptor.
    #[inline]
    fn used(self, owner: u16) -> u64 {
        let written = if self.0 & LENGTH > 0 { DESC_WRITE } else { 0 };
        self.0 & LENGTH_AND_ID | u64::from(owner | written) << 48
    }
}

/// Reads one descriptor: two loads, each field once, the flags in the first of them, so that the rest is what was there when it was offered
/// where they say that it was.
///
/// # Safety
/// Sixteen readable bytes, 8-byte aligned.
#[inline]
pub(crate) unsafe fn read_descriptor(at: *const u8) -> Descriptor {
    let at = at.cast::<u64>();
    // SAFETY: as promised by the caller.
    let [l0, l1, l2, l3, i0, i1, f0, f1] = unsafe { at.add(1).read_volatile() }.to_ne_bytes();
    fence(Ordering::Acquire);
    // SAFETY: as promised by the caller.
    let address = u64::from_le(unsafe { at.read_volatile() });
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    Descriptor { address, length, id: u16::from_le_bytes([i0, i1]), flags: u16::from_le_bytes([f0, f1]) }
}

impl Descriptor {
    /// Where it is: `None` where it is no buffer alone, or does not lie in `window`, or has the wrong direction.
    #[inline(always)]
    pub(crate) fn only_buffer(&self, access: Access, window: &Window) -> Option<*mut u8> {
        let wanted = if access == Access::Write { DESC_WRITE } else { 0 };
        if self.flags & (DESC_NEXT | DESC_INDIRECT | DESC_WRITE) != wanted {
            return None;
        }
        window.pointer(self.address, self.length)
    }

    /// Whether it is a buffer alone.
    #[inline]
    pub(crate) const fn is_single(&self) -> bool {
        self.flags & (DESC_NEXT | DESC_INDIRECT) == 0
    }
}

/// The bit of a position that is the wrap counter.
const WRAP: u16 = 1 << 15;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// An event area's flags (virtio 1.3, section 2.8.10).
const EVENT_FLAGS: u16 = 3;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_AT: u16 = 2;

/// Parts of an [`Entry`].
const LENGTH: u64 = 0xffff_ffff;
const LENGTH_AND_ID: u64 = 0xffff_ffff_ffff;

/// The place in our event area: "cv".
const MARK: u16 = 0x7663;
