//! One frame in DPDK's memory.
//!
//! An mbuf describes a buffer; a frame that does not fit one is a chain of them. [`Mbuf`] owns such a chain, alone:
//! nothing here shares buffers between frames. Members are read at the offsets that the C headers give, without a
//! call.

use std::marker::PhantomData;
use std::ptr::NonNull;

use dpdk_sys::{self as ffi, rte_mbuf};

/// An owned frame, freed with the value.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: the chain is owned by this value alone, and mempools take buffers back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes over a frame.
    ///
    /// # Safety
    /// `frame` heads a live chain that nobody else uses.
    pub(crate) unsafe fn from_raw(frame: NonNull<rte_mbuf>) -> Mbuf {
        Mbuf(frame)
    }

    /// Length of the frame in bytes, over all segments.
    #[must_use]
    #[inline]
    pub fn length(&self) -> u32 {
        // SAFETY: a live mbuf; pkt_len is a u32 at this offset.
        unsafe { member(self.0, ffi::CULVERT_MBUF_PKT_LEN) }
    }

    /// Number of segments, at least 1.
    #[must_use]
    #[inline]
    pub fn segment_count(&self) -> u16 {
        // SAFETY: a live mbuf; nb_segs is a u16 at this offset.
        unsafe { member(self.0, ffi::CULVERT_MBUF_NB_SEGS) }
    }

    /// The frame's bytes, segment by segment; as a rule there is one.
    #[must_use]
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), _frame: PhantomData }
    }

    /// The frame's bytes, to be written.
    #[inline]
    pub fn segments_mut(&mut self) -> SegmentsMut<'_> {
        SegmentsMut { next: Some(self.0), _frame: PhantomData }
    }

    /// The first segment's bytes.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.segments().next().unwrap_or_default()
    }

    /// The first segment's bytes, to be written.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        self.segments_mut().next().unwrap_or_default()
    }

    /// Makes a frame of one buffer so many bytes long, and gives all of them to be written: those that it did not have before are left from an
    /// earlier frame. None, with nothing changed, where the buffer has no room for as many, or there are several.
    #[inline]
    pub fn resize(&mut self, length: u32) -> Option<&mut [u8]> {
        // SAFETY: a live mbuf; members of these types are at these offsets.
        let (before, room, segments): (u16, u16, u16) = unsafe {
            (
                member(self.0, ffi::CULVERT_MBUF_DATA_OFF),
                member(self.0, ffi::CULVERT_MBUF_BUF_LEN),
                member(self.0, ffi::CULVERT_MBUF_NB_SEGS),
            )
        };
        let here = u16::try_from(length).ok().filter(|&here| here <= room.saturating_sub(before) && segments == 1)?;
        // SAFETY: the data begins where it did, and ends within the buffer.
        unsafe { self.set_front(before, here, length) };
        // SAFETY: a live mbuf of this value's alone; the bytes lie within its buffer.
        Some(unsafe { std::slice::from_raw_parts_mut(data(self.0), usize::from(here)) })
    }

    /// Puts `bytes` in front of the frame. False, with nothing changed, where there is no room for them: a fresh
    /// frame has room for 128 bytes, as DPDK is built as a rule.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Ok(count) = u16::try_from(bytes.len()) else { return false };
        let (before, here, all) = self.front();
        let (Some(before), Some(here), Some(all)) =
            (before.checked_sub(count), here.checked_add(count), all.checked_add(u32::from(count)))
        else {
            return false;
        };
        // SAFETY: the data begins `count` bytes earlier, which is still within the buffer.
        unsafe { self.set_front(before, here, all) };
        if let Some(room) = self.head_mut().get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        true
    }

    /// Takes away the first `count` bytes. False, with nothing changed, unless the first segment is longer than that.
    #[must_use]
    pub fn trim_front(&mut self, count: u16) -> bool {
        let (before, here, all) = self.front();
        if here <= count {
            return false;
        }
        // SAFETY: the data begins `count` bytes later, before its end.
        unsafe { self.set_front(before + count, here - count, all.saturating_sub(u32::from(count))) };
        true
    }

    /// Puts `bytes` into the frame behind the first `at`, which move towards the front: a VLAN tag behind the
    /// addresses is `insert(12, &tag)`. False, with nothing changed, where there is no room in front or the first
    /// segment is not that long.
    #[must_use]
    pub fn insert(&mut self, at: usize, bytes: &[u8]) -> bool {
        if at > self.head().len() || !self.prepend(bytes) {
            return false;
        }
        let head = self.head_mut();
        head.copy_within(bytes.len()..bytes.len() + at, 0);
        if let Some(gap) = head.get_mut(at..at + bytes.len()) {
            gap.copy_from_slice(bytes);
        }
        true
    }

    /// Takes `count` bytes out of the frame behind the first `at`, which move away from the front: `remove(12, 4)` of
    /// a VLAN tag. False, with nothing changed, unless the first segment is longer than both together.
    #[must_use]
    pub fn remove(&mut self, at: usize, count: u16) -> bool {
        let gap = usize::from(count);
        match at.checked_add(gap) {
            Some(end) if end < self.head().len() => {
                self.head_mut().copy_within(..at, gap);
                self.trim_front(count)
            }
            _ => false,
        }
    }

    /// ol_flags.
    #[inline]
    pub(crate) fn flags(&self) -> u64 {
        // SAFETY: a live mbuf; ol_flags is a u64 at this offset.
        unsafe { member(self.0, ffi::CULVERT_MBUF_OL_FLAGS) }
    }

    pub(crate) fn set_flags(&mut self, flags: u64) {
        // SAFETY: a live mbuf of this value's alone; ol_flags is a u64 at this offset.
        unsafe { set_member(self.0, ffi::CULVERT_MBUF_OL_FLAGS, flags) };
    }

    pub(crate) fn raw(&mut self) -> *mut rte_mbuf {
        self.0.as_ptr()
    }

    pub(crate) fn raw_const(&self) -> *const rte_mbuf {
        self.0.as_ptr()
    }

    /// data_off and data_len of the first segment, pkt_len.
    fn front(&self) -> (u16, u16, u32) {
        // SAFETY: a live mbuf; members of these types are at these offsets.
        unsafe {
            (
                member(self.0, ffi::CULVERT_MBUF_DATA_OFF),
                member(self.0, ffi::CULVERT_MBUF_DATA_LEN),
                member(self.0, ffi::CULVERT_MBUF_PKT_LEN),
            )
        }
    }

    /// Sets what [`Mbuf::front`] gives.
    ///
    /// # Safety
    /// They describe bytes of this frame's buffer.
    #[inline]
    unsafe fn set_front(&mut self, before: u16, here: u16, all: u32) {
        // SAFETY: a live mbuf of this value's alone; members of these types are at these offsets.
        unsafe {
            set_member(self.0, ffi::CULVERT_MBUF_DATA_OFF, before);
            set_member(self.0, ffi::CULVERT_MBUF_DATA_LEN, here);
            set_member(self.0, ffi::CULVERT_MBUF_PKT_LEN, all);
        }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut frame = self.0.as_ptr();
        // SAFETY: an array of one owned chain, which nobody uses afterwards.
        unsafe { ffi::culvert_free(&raw mut frame, 1) }
    }
}

/// See [`Mbuf::segments`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    next: Option<NonNull<rte_mbuf>>,
    _frame: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        // SAFETY: a live mbuf of a chain that is borrowed for 'a.
        self.next = unsafe { following(segment) };
        // SAFETY: likewise; the data lies within the mbuf's buffer, and only the chain's owner could change it.
        Some(unsafe { std::slice::from_raw_parts(data(segment), data_length(segment)) })
    }
}

/// See [`Mbuf::segments_mut`].
#[derive(Debug)]
pub struct SegmentsMut<'a> {
    next: Option<NonNull<rte_mbuf>>,
    _frame: PhantomData<&'a mut Mbuf>,
}

impl<'a> Iterator for SegmentsMut<'a> {
    type Item = &'a mut [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a mut [u8]> {
        let segment = self.next?;
        // SAFETY: a live mbuf of a chain that is borrowed mutably for 'a.
        self.next = unsafe { following(segment) };
        // SAFETY: likewise; the segments of a chain have buffers of their own, and each is given once.
        Some(unsafe { std::slice::from_raw_parts_mut(data(segment), data_length(segment)) })
    }
}

/// Reads a member.
///
/// # Safety
/// `mbuf` is live and has a member of type T at `offset`.
#[inline]
unsafe fn member<T: Copy>(mbuf: NonNull<rte_mbuf>, offset: ffi::culvert_mbuf_layout) -> T {
    // SAFETY: the caller's promise; DPDK aligns members and the mbuf itself.
    unsafe { mbuf.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().read() }
}

/// Writes a member.
///
/// # Safety
/// As for [`member`], and nobody else uses the mbuf.
#[inline]
unsafe fn set_member<T: Copy>(mbuf: NonNull<rte_mbuf>, offset: ffi::culvert_mbuf_layout, value: T) {
    // SAFETY: the caller's promise; DPDK aligns members and the mbuf itself.
    unsafe { mbuf.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().write(value) }
}

/// # Safety
/// `mbuf` is live.
#[inline]
unsafe fn following(mbuf: NonNull<rte_mbuf>) -> Option<NonNull<rte_mbuf>> {
    // SAFETY: next is a pointer at this offset.
    NonNull::new(unsafe { member::<*mut rte_mbuf>(mbuf, ffi::CULVERT_MBUF_NEXT) })
}

/// # Safety
/// `mbuf` is live.
#[inline]
unsafe fn data(mbuf: NonNull<rte_mbuf>) -> *mut u8 {
    // SAFETY: buf_addr is a pointer and data_off a u16, within the buffer, at these offsets.
    unsafe {
        let buffer: *mut u8 = member(mbuf, ffi::CULVERT_MBUF_BUF_ADDR);
        buffer.add(usize::from(member::<u16>(mbuf, ffi::CULVERT_MBUF_DATA_OFF)))
    }
}

/// # Safety
/// `mbuf` is live.
#[inline]
unsafe fn data_length(mbuf: NonNull<rte_mbuf>) -> usize {
    // SAFETY: data_len is a u16 at this offset.
    usize::from(unsafe { member::<u16>(mbuf, ffi::CULVERT_MBUF_DATA_LEN) })
}
