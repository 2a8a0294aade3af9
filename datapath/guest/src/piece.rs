//! Bytes of a frame, wherever they lie: in guest memory, in an mbuf, in a buffer of ours.
//!
//! A [`Piece`] is read and a [`Room`] is written only by copying, by us or by the kernel. Both are bounds-checked when they
//! are made. A piece, and [`Rooms`], borrow what they point into, so neither can outlive the mapping.

#![expect(unsafe_code, reason = "the copies from and to guest memory")]

use std::marker::PhantomData;

use crate::memory::Memory;

/// Some bytes that can be copied from. In guest memory they may change at any time: copy once, then decide.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    address: *const u8,
    length: u32,
    owner: PhantomData<&'a [u8]>,
}

// SAFETY: a piece is a borrowed range that is only ever read by copying.
unsafe impl Send for Piece<'_> {}
// SAFETY: as above.
unsafe impl Sync for Piece<'_> {}

impl<'a> Piece<'a> {
    /// A range of guest memory, if it lies in one region.
    pub fn in_guest(memory: &'a Memory, address: u64, length: u32) -> Option<Self> {
        let address = memory.guest_pointer(address, length, &mut 0)?;
        Some(Self { address, length, owner: PhantomData })
    }

    /// `length` bytes at `address`.
    ///
    /// # Safety
    /// They must be mapped and readable for as long as `'a`.
    #[inline]
    pub(crate) const unsafe fn new(address: *const u8, length: u32) -> Self {
        Self { address, length, owner: PhantomData }
    }

    /// Length in bytes.
    #[inline]
    pub const fn length(self) -> u32 {
        self.length
    }

    /// Copies from `offset` on as much as there is and as `out` holds; returns how many bytes that was.
    #[inline]
    pub fn copy_to(self, offset: u32, out: &mut [u8]) -> usize {
        let Some(left) = self.length.checked_sub(offset) else { return 0 };
        let length = out.len().min(left as usize);
        // SAFETY: `offset + length` is within the piece and `length` within `out`.
        unsafe { copy(self.address.add(offset as usize), out.as_mut_ptr(), length) };
        length
    }

    /// Copies the first bytes, if there are as many as `out` holds; returns whether there are.
    #[inline(always)]
    pub(crate) fn copy_array<const N: usize>(self, out: &mut [u8; N]) -> bool {
        let enough = self.length as usize >= N;
        if enough {
            // SAFETY: the piece and `out` have N bytes at least.
            unsafe { std::ptr::copy_nonoverlapping(self.address, out.as_mut_ptr(), N) };
        }
        enough
    }

    /// As the kernel takes it. Only to be read, and only while the piece's owner is borrowed.
    #[inline]
    pub(crate) const fn range(self) -> libc::iovec {
        libc::iovec { iov_base: self.address.cast_mut().cast(), iov_len: self.length as usize }
    }

    /// The bytes from `offset` on; empty when there are none.
    #[inline]
    #[must_use]
    pub const fn skip(self, offset: u32) -> Self {
        let offset = if offset < self.length { offset } else { self.length };
        // `wrapping_add` stays inside, or one behind the end of, the piece.
        Self { address: self.address.wrapping_add(offset as usize), length: self.length - offset, owner: PhantomData }
    }
}

impl Piece<'_> {
    /// Has its cache lines brought here for reading, those of the first [`FETCH_BYTES`] at most: they are read soon.
    #[inline(always)]
    pub fn fetch(self) {
        let length = self.length.min(FETCH_BYTES) as usize;
        let mut at = 0;
        while at < length {
            fetch_to_read(self.address.wrapping_add(at));
            at += LINE_BYTES;
        }
    }

    /// The same for its start: two cache lines, and the line that has the last of its first `length` bytes where those are more.
    #[inline(always)]
    pub(crate) fn fetch_start(self, length: u32) {
        fetch_to_read(self.address);
        fetch_to_read(self.address.wrapping_add(LINE_BYTES));
        if self.length as usize > 2 * LINE_BYTES {
            fetch_to_read(self.address.wrapping_add(length.wrapping_sub(1) as usize));
        }
    }

    /// Has the start of each page brought here for reading; see [`Rooms::fetch_pages`].
    pub fn fetch_pages(self) {
        pages(self.address, self.length as usize).for_each(fetch_to_read);
    }

    /// The first `length` bytes, or all where there are fewer.
    #[inline]
    #[must_use]
    pub const fn take(self, length: u32) -> Self {
        Self { length: if length < self.length { length } else { self.length }, ..self }
    }
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    /// All of `bytes`, or the first 4 GiB.
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self { address: bytes.as_ptr(), length: u32::try_from(bytes.len()).unwrap_or(u32::MAX), owner: PhantomData }
    }
}

/// A range of a guest's receive buffer, or of a buffer of ours, to be written once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    address: *mut u8,
    length: u32,
}

// SAFETY: a plain address range; the queue that holds it owns the memory it points into.
unsafe impl Send for Room {}

impl Room {
    /// No bytes.
    pub(crate) const NONE: Self = Self { address: std::ptr::null_mut(), length: 0 };

    /// `length` bytes at `address`.
    ///
    /// # Safety
    /// They must be mapped and writable for as long as the value is used.
    #[inline]
    pub(crate) const unsafe fn new(address: *mut u8, length: u32) -> Self {
        Self { address, length }
    }

    /// Length in bytes.
    #[inline]
    pub(crate) const fn length(self) -> u32 {
        self.length
    }

    /// As the kernel takes it, from `skip` on and at most `most` bytes. Only to be written while the room may be.
    #[inline]
    pub(crate) const fn range(self, skip: u32, most: u32) -> libc::iovec {
        let skip = if skip < self.length { skip } else { self.length };
        let length = if self.length - skip < most { self.length - skip } else { most };
        libc::iovec { iov_base: self.address.wrapping_add(skip as usize).cast(), iov_len: length as usize }
    }

    /// Copies in as much of `source` as fits; returns what is left of the room and how many bytes were copied.
    #[inline]
    pub(crate) fn fill(self, source: Piece<'_>) -> (Self, u32) {
        let length = self.length.min(source.length);
        // SAFETY: `length` is within both ranges. They cannot overlap: the source is another port's memory or ours.
        unsafe { copy(source.address, self.address, length as usize) };
        (Self { address: self.address.wrapping_add(length as usize), length: self.length - length }, length)
    }

    /// Copies a whole frame in, behind its header: its first bytes, and the rest. Returns how many bytes it has; `None` when there is no room
    /// for all of them, or they are more than `longest`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most `longest`")]
    pub(crate) fn fill_whole<const N: usize>(
        self,
        header: &[u8; N],
        head: &[u8],
        rest: Piece<'_>,
        longest: u32,
    ) -> Option<u32> {
        let before_rest = N.wrapping_add(head.len());
        // A length of 32 bits and that of a slice: the sums do not overflow.
        let length = head.len().wrapping_add(rest.length as usize);
        if length > longest as usize || length.wrapping_add(N) > self.length as usize {
            return None;
        }
        // SAFETY: the three follow each other, and all of them are within the room. They cannot overlap with it: the sources are another
        // port's memory or ours.
        unsafe {
            self.address.cast::<[u8; N]>().write_unaligned(*header);
            copy(head.as_ptr(), self.address.add(N), head.len());
            if rest.length > 0 {
                copy(rest.address, self.address.add(before_rest), rest.length as usize);
            }
        }
        Some(length as u32)
    }

    /// Has the cache lines of the first `length` bytes brought here for writing, of the first [`FETCH_BYTES`] at most.
    #[inline(always)]
    pub(crate) fn fetch(self, length: u32) {
        self.fetch_start();
        self.fetch_behind(length);
    }

    /// The first two of them.
    #[inline(always)]
    pub(crate) fn fetch_start(self) {
        fetch_to_write(self.address);
        fetch_to_write(self.address.wrapping_add(LINE_BYTES));
    }

    /// Those behind the first two.
    #[inline(always)]
    pub(crate) fn fetch_behind(self, length: u32) {
        let length = length.min(self.length).min(FETCH_BYTES) as usize;
        let mut at = 2 * LINE_BYTES;
        while at < length {
            fetch_to_write(self.address.wrapping_add(at));
            at += LINE_BYTES;
        }
    }
}

/// Where bytes may be received: some ranges, one after the other.
#[derive(Debug)]
pub struct Rooms<'a> {
    source: Ranges<'a>,
    /// Bytes that are left out at the start.
    skip: u32,
    /// How many bytes may be written.
    most: u32,
}

#[derive(Debug)]
enum Ranges<'a> {
    Guest(&'a [Room]),
    Own(Room, PhantomData<&'a mut [u8]>),
}

impl<'a> Rooms<'a> {
    /// `most` bytes of `rooms`, behind the first `skip`.
    pub(crate) const fn in_guest(rooms: &'a [Room], skip: u32, most: u32) -> Self {
        Self { source: Ranges::Guest(rooms), skip, most }
    }

    /// How many bytes may be received.
    pub const fn bytes(&self) -> u32 {
        self.most
    }

    /// Copies in as much of `bytes` as fits, for what does not come from the kernel. Returns how many bytes that are.
    pub fn fill(&mut self, bytes: &[u8]) -> u32 {
        let mut left = bytes;
        for range in self.ranges() {
            // SAFETY: the kernel could be told to write here: the range is mapped, writable and ours to write.
            let room = unsafe { Room::new(range.iov_base.cast(), u32::try_from(range.iov_len).unwrap_or(u32::MAX)) };
            let (_, count) = room.fill(Piece::from(left));
            left = left.get(count as usize..).unwrap_or_default();
        }
        u32::try_from(bytes.len() - left.len()).unwrap_or(u32::MAX)
    }

    /// Has the start of each page brought here for writing, and with it the translation of its address, all at once: the kernel's
    /// copy would wait for each in turn. Worth it where most of the room is filled next.
    pub fn fetch_pages(&mut self) {
        for range in self.ranges() {
            pages(range.iov_base.cast::<u8>().cast_const(), range.iov_len).for_each(fetch_to_write);
        }
    }

    /// As the kernel takes it; only to be written, and only while this is borrowed.
    pub(crate) fn ranges(&mut self) -> impl Iterator<Item = libc::iovec> + '_ {
        let (mut skip, mut left) = (self.skip, self.most);
        let rooms = match &self.source {
            Ranges::Guest(rooms) => *rooms,
            Ranges::Own(room, _) => std::slice::from_ref(room),
        };
        rooms.iter().filter_map(move |room| {
            let range = room.range(skip, left);
            skip = skip.saturating_sub(room.length());
            left = left.saturating_sub(u32::try_from(range.iov_len).unwrap_or(u32::MAX));
            (range.iov_len > 0).then_some(range)
        })
    }
}

impl<'a> From<&'a mut [u8]> for Rooms<'a> {
    /// All of `bytes`, or the first 4 GiB.
    fn from(bytes: &'a mut [u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let room = Room { address: bytes.as_mut_ptr(), length };
        Self { source: Ranges::Own(room, PhantomData), skip: 0, most: length }
    }
}

/// Copies a whole frame, its first bytes and the rest, if `out` is as long as both together; returns whether it is.
#[inline(always)]
pub(crate) fn copy_whole(head: &[u8], rest: Piece<'_>, out: &mut [u8]) -> bool {
    let is_as_long = out.len() == head.len().wrapping_add(rest.length as usize);
    if is_as_long {
        // SAFETY: both follow each other in `out`, and fill it. They cannot overlap with it, which is borrowed mutably: the sources are
        // another port's memory or ours.
        unsafe {
            copy(head.as_ptr(), out.as_mut_ptr(), head.len());
            if rest.length > 0 {
                copy(rest.address, out.as_mut_ptr().add(head.len()), rest.length as usize);
            }
        }
    }
    is_as_long
}

/// How much of a piece or a room is brought near ahead of its turn: more would push out what is needed sooner.
const FETCH_BYTES: u32 = 2048;

/// Bytes of the smallest pages that there are.
const PAGE_BYTES: usize = 4096;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Copies bytes of which another party may change some meanwhile: which value is seen is open, of some bytes it is that of the
/// second of two looks. What counts is what then stands in `target`.
///
/// Up to 256 bytes are copied here by two moves of one size that meet or overlap, and up to 2048 block by block: a call costs more than
/// that. Longer ones are left to the C library, which chooses its way once, by what the processor has.
///
/// # Safety
/// `source` must be readable and `target` writable for `length` bytes; they must not overlap.
#[inline(always)]
pub(crate) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
    // SAFETY: as promised by the caller; each arm takes a size that is half of `length` at least, and `length` at most.
    unsafe {
        match length {
            2049.. => std::ptr::copy_nonoverlapping(source, target, length),
            257.. => copy_blocks(source, target, length),
            129.. => copy_ends::<128>(source, target, length),
            65.. => copy_ends::<64>(source, target, length),
            33.. => copy_ends::<32>(source, target, length),
            17.. => copy_ends::<16>(source, target, length),
            8.. => copy_ends::<8>(source, target, length),
            4.. => copy_ends::<4>(source, target, length),
            2.. => copy_ends::<2>(source, target, length),
            1 => *target = *source,
            0 => {}
        }
    }
}

/// Copies blocks of 128 bytes, and the last one where it ends: it overlaps the one before.
///
/// # Safety
/// As with [`copy`], and `length` is 128 at least.
#[inline(always)]
unsafe fn copy_blocks(source: *const u8, target: *mut u8, length: usize) {
    // SAFETY: as promised by the caller: each block begins before the last 128 bytes, or is those.
    unsafe {
        let last = length.unchecked_sub(128);
        let mut at = 0;
        while at < last {
            std::ptr::copy_nonoverlapping(source.add(at), target.add(at), 128);
            at = at.unchecked_add(128);
        }
        std::ptr::copy_nonoverlapping(source.add(last), target.add(last), 128);
    }
}

/// Copies the first and the last `N` bytes.
///
/// # Safety
/// As with [`copy`], and `N` is at most `length`.
#[inline(always)]
unsafe fn copy_ends<const N: usize>(source: *const u8, target: *mut u8, length: usize) {
    // SAFETY: as promised by the caller: both ranges lie within the `length` bytes.
    unsafe {
        let last = length.unchecked_sub(N);
        std::ptr::copy_nonoverlapping(source, target, N);
        std::ptr::copy_nonoverlapping(source.add(last), target.add(last), N);
    }
}

/// An address in each page that has some of these bytes.
fn pages(start: *const u8, length: usize) -> impl Iterator<Item = *const u8> {
    let first = PAGE_BYTES - start.addr() % PAGE_BYTES;
    std::iter::once(0)
        .chain((first..).step_by(PAGE_BYTES))
        .take_while(move |&at| at < length)
        .map(move |at| start.wrapping_add(at))
}

/// Asks for a cache line that is to be read. Any address will do; nothing comes of one that is not mapped.
#[inline(always)]
fn fetch_to_read(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for a cache line that is to be written, so that it has no other owner by then.
#[inline(always)]
fn fetch_to_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; a processor of this kind that does not know it takes it for one that does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_in_bounds() {
        let bytes = *b"abcdef";
        let piece = Piece::from(&bytes[..]);
        let mut out = [0; 4];
        assert_eq!(piece.copy_to(4, &mut out), 2);
        assert_eq!(&out, b"ef\0\0");
        assert_eq!(piece.copy_to(6, &mut out), 0);
        assert_eq!(piece.copy_to(u32::MAX, &mut out), 0);
        assert_eq!(piece.skip(9).length(), 0);
        assert_eq!(piece.skip(5).copy_to(0, &mut out), 1);
    }

    #[test]
    fn copies_of_all_lengths_are_exact() {
        let source: Vec<u8> = (0..=250_u8).cycle().step_by(7).take(300).collect();
        for length in 0..=source.len() {
            let mut target = [0xee; 302];
            // SAFETY: both arrays are longer.
            unsafe { copy(source.as_ptr(), target.as_mut_ptr().add(1), length) };
            assert_eq!(target[1..=length], source[..length]);
            assert!(target[0] == 0xee && target[length + 1..].iter().all(|&byte| byte == 0xee), "{length}");
        }
    }

    #[test]
    fn a_frame_is_copied_whole_or_not_at_all() {
        let (head, rest) = (*b"abcd", Piece::from(&b"efg"[..]));
        let mut out = [0; 7];
        assert!(copy_whole(&head, rest, &mut out));
        assert_eq!(&out, b"abcdefg");
        assert!(!copy_whole(&head, rest, &mut out[..6]));
        assert!(!copy_whole(b"", rest, &mut out));
        assert!(copy_whole(b"xyz", rest.take(0), &mut out[..3]));
        assert_eq!(&out, b"xyzdefg");
    }

    #[test]
    fn each_page_that_has_some_of_the_bytes_is_named_once() {
        let page = |start: usize, length| {
            pages(std::ptr::without_provenance(start), length).map(|at| at.addr()).collect::<Vec<_>>()
        };
        assert!(page(0x1000, 0).is_empty());
        assert_eq!(page(0x1fff, 1), [0x1fff]);
        assert_eq!(page(0x1fff, 2), [0x1fff, 0x2000]);
        assert_eq!(page(0x1000, 0x1000), [0x1000]);
        assert_eq!(page(0x1000, 0x2001), [0x1000, 0x2000, 0x3000]);
    }

    #[test]
    fn rooms_fill_up() {
        let mut target = [0; 5];
        // SAFETY: the array outlives the room.
        let room = unsafe { Room::new(target.as_mut_ptr(), 5) };
        let (room, first) = room.fill(Piece::from(&b"abc"[..]));
        let (room, second) = room.fill(Piece::from(&b"defg"[..]));
        assert_eq!((first, second, room.length()), (3, 2, 0));
        assert_eq!(&target, b"abcde");
    }
}
