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

/// Copies bytes of which another party may change some meanwhile; each is read once and which value is seen is open.
///
/// # Safety
/// `source` must be readable and `target` writable for `length` bytes; they must not overlap.
#[inline(always)]
pub(crate) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
    // SAFETY: as promised by the caller.
    unsafe { std::ptr::copy_nonoverlapping(source, target, length) }
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
