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
    pub fn length(&self) -> u32 {
        // SAFETY: a live mbuf; pkt_len is a u32 at this offset.
        unsafe { member(self.0, ffi::CULVERT_MBUF_PKT_LEN) }
    }

    /// Number of segments, at least 1.
    #[must_use]
    pub fn segment_count(&self) -> u16 {
        // SAFETY: a live mbuf; nb_segs is a u16 at this offset.
        unsafe { member(self.0, ffi::CULVERT_MBUF_NB_SEGS) }
    }

    /// The frame's bytes, segment by segment; as a rule there is one.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), _frame: PhantomData }
    }

    /// The frame's bytes, to be written.
    pub fn segments_mut(&mut self) -> SegmentsMut<'_> {
        SegmentsMut { next: Some(self.0), _frame: PhantomData }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut frame = self.0.as_ptr();
        // SAFETY: an array of one owned chain, which nobody uses afterwards.
        unsafe { ffi::rte_pktmbuf_free_bulk(&raw mut frame, 1) }
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
unsafe fn member<T: Copy>(mbuf: NonNull<rte_mbuf>, offset: ffi::culvert_mbuf_layout) -> T {
    // SAFETY: the caller's promise; DPDK aligns members and the mbuf itself.
    unsafe { mbuf.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().read() }
}

/// # Safety
/// `mbuf` is live.
unsafe fn following(mbuf: NonNull<rte_mbuf>) -> Option<NonNull<rte_mbuf>> {
    // SAFETY: next is a pointer at this offset.
    NonNull::new(unsafe { member::<*mut rte_mbuf>(mbuf, ffi::CULVERT_MBUF_NEXT) })
}

/// # Safety
/// `mbuf` is live.
unsafe fn data(mbuf: NonNull<rte_mbuf>) -> *mut u8 {
    // SAFETY: buf_addr is a pointer and data_off a u16, within the buffer, at these offsets.
    unsafe {
        let buffer: *mut u8 = member(mbuf, ffi::CULVERT_MBUF_BUF_ADDR);
        buffer.add(usize::from(member::<u16>(mbuf, ffi::CULVERT_MBUF_DATA_OFF)))
    }
}

/// # Safety
/// `mbuf` is live.
unsafe fn data_length(mbuf: NonNull<rte_mbuf>) -> usize {
    // SAFETY: data_len is a u16 at this offset.
    usize::from(unsafe { member::<u16>(mbuf, ffi::CULVERT_MBUF_DATA_LEN) })
}
