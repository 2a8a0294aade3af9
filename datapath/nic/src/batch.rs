//! Up to a burst of frames, as queues and pools give and take them.
//!
//! Frames have places 0, 1, 2, … in the order they came. Taking one out leaves its place empty, so that the places
//! of the others stay what they are while a burst is worked through; sending and clearing close the gaps.

use std::mem::MaybeUninit;

use dpdk_sys::{self as ffi, rte_mbuf};

use crate::mbuf::Mbuf;

/// The most frames that are received, sent or allocated at once.
pub const BURST: usize = 32;

/// A burst of frames. What is in it when it is dropped is freed at once.
#[derive(Debug)]
pub struct Batch {
    /// The places in use are written to; what lies behind them is nobody's.
    frames: [MaybeUninit<Option<Mbuf>>; BURST],
    /// Number of places in use, empty ones among them.
    places: usize,
    /// Some of them may be empty.
    has_gaps: bool,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { frames: [const { MaybeUninit::uninit() }; BURST], places: 0, has_gaps: false }
    }
}

impl Batch {
    /// Without frames.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Number of places, those whose frame was taken included.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.places
    }

    /// Whether there is no place in use.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.places == 0
    }

    /// Whether no more can be pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.places == BURST
    }

    /// Adds a frame behind the others; gives it back where there is no more room.
    #[inline]
    pub fn push(&mut self, frame: Mbuf) -> Result<(), Mbuf> {
        match self.frames.get_mut(self.places) {
            Some(place) => {
                place.write(Some(frame));
                self.places += 1;
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// The frame at a place, if one is there.
    #[must_use]
    #[inline]
    pub fn get(&self, place: usize) -> Option<&Mbuf> {
        self.used().get(place)?.as_ref()
    }

    /// The frame at a place, to be written to.
    #[inline]
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Mbuf> {
        self.used_mut().get_mut(place)?.as_mut()
    }

    /// Takes the frame at a place out and leaves the place empty.
    #[inline]
    pub fn take(&mut self, place: usize) -> Option<Mbuf> {
        self.has_gaps = true;
        self.used_mut().get_mut(place)?.take()
    }

    /// The frames that are there, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Mbuf> {
        self.used().iter().flatten()
    }

    /// Those from a place on, in order, to be written to.
    #[inline]
    pub fn iter_mut_from(&mut self, place: usize) -> impl Iterator<Item = &mut Mbuf> {
        self.used_mut().get_mut(place..).unwrap_or_default().iter_mut().flatten()
    }

    /// Frees all frames, by one call.
    #[inline]
    pub fn clear(&mut self) {
        if self.places > 0 {
            self.truncate(0);
        }
    }

    /// Frees the frames from a place on.
    #[inline]
    pub fn truncate(&mut self, place: usize) {
        let count = self.places.saturating_sub(place);
        if count > 0 {
            self.places = place;
            // SAFETY: the places were in use: they are owned frames, or null. They are no longer in use, so nobody frees them again.
            unsafe { ffi::culvert_free(self.raw().add(place), u16::try_from(count).unwrap_or_default()) };
        }
        self.has_gaps &= self.places > 0;
    }

    /// Moves the frames together, in order, so that `len` counts frames.
    #[inline]
    pub fn close_gaps(&mut self) {
        if !std::mem::take(&mut self.has_gaps) {
            return;
        }
        let mut filled = 0;
        for place in 0..self.places {
            if self.get(place).is_some() {
                self.frames.swap(filled, place);
                filled += 1;
            }
        }
        self.places = filled;
    }

    /// Lets `fill` write frames to the free places, given their array and number, and takes over as many as it says.
    ///
    /// # Safety
    /// `fill` has to put that many owned frames at the front of the array. What it leaves behind them is not looked at.
    #[inline]
    pub(crate) unsafe fn fill(&mut self, fill: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) -> usize {
        let room = BURST - self.places;
        // SAFETY: `places` is at most BURST.
        let free = unsafe { self.raw().add(self.places) };
        let count = usize::from(fill(free, u16::try_from(room).unwrap_or_default())).min(room);
        self.places += count;
        count
    }

    /// Lets `drain` have frames, given their array and number, and forgets as many as it says, from the front.
    ///
    /// # Safety
    /// `drain` has to take over that many frames from the front and no others.
    #[inline]
    pub(crate) unsafe fn drain(&mut self, drain: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) -> usize {
        self.close_gaps();
        let count = usize::from(drain(self.raw(), u16::try_from(self.places).unwrap_or_default())).min(self.places);
        if count > 0 {
            // The others move to the front; those that were taken over are behind the places in use, and forgotten.
            if count < self.places {
                self.frames.get_mut(..self.places).unwrap_or_default().rotate_left(count);
            }
            self.places -= count;
        }
        count
    }

    /// The places in use.
    #[inline]
    fn used(&self) -> &[Option<Mbuf>] {
        // SAFETY: they were written to, and there are BURST at most.
        unsafe { std::slice::from_raw_parts(self.frames.as_ptr().cast(), self.places) }
    }

    #[inline]
    fn used_mut(&mut self) -> &mut [Option<Mbuf>] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.frames.as_mut_ptr().cast(), self.places) }
    }

    /// The places as DPDK sees them: a null pointer is an empty one, as `Option<Mbuf>` is laid out.
    #[inline]
    fn raw(&mut self) -> *mut *mut rte_mbuf {
        const { assert!(size_of::<Option<Mbuf>>() == size_of::<*mut rte_mbuf>()) }
        self.frames.as_mut_ptr().cast()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}
