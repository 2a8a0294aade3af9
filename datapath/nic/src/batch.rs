//! Up to a burst of frames, as queues and pools give and take them.
//!
//! Frames have places 0, 1, 2, … in the order they came. Taking one out leaves its place empty, so that the places
//! of the others stay what they are while a burst is worked through; sending and clearing close the gaps.

use dpdk_sys::{self as ffi, rte_mbuf};

use crate::mbuf::Mbuf;

/// The most frames that are received, sent or allocated at once.
pub const BURST: usize = 32;

/// A burst of frames. What is in it when it is dropped is freed at once.
#[derive(Debug, Default)]
pub struct Batch {
    frames: [Option<Mbuf>; BURST],
    /// Number of places in use, empty ones among them; all later ones are empty.
    places: usize,
    /// Some of them may be empty.
    has_gaps: bool,
}

impl Batch {
    /// Without frames.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Number of places, those whose frame was taken included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places
    }

    /// Whether there is no place in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places == 0
    }

    /// Whether no more can be pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.places == BURST
    }

    /// Adds a frame behind the others; gives it back where there is no more room.
    pub fn push(&mut self, frame: Mbuf) -> Result<(), Mbuf> {
        match self.frames.get_mut(self.places) {
            Some(place) => {
                *place = Some(frame);
                self.places += 1;
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// The frame at a place, if one is there.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&Mbuf> {
        self.frames.get(place)?.as_ref()
    }

    /// The frame at a place, to be written to.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Mbuf> {
        self.frames.get_mut(place)?.as_mut()
    }

    /// Takes the frame at a place out and leaves the place empty.
    pub fn take(&mut self, place: usize) -> Option<Mbuf> {
        self.has_gaps = true;
        self.frames.get_mut(place)?.take()
    }

    /// The frames that are there, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Mbuf> {
        self.frames.iter().flatten()
    }

    /// Frees all frames, by one call.
    pub fn clear(&mut self) {
        if self.frames.iter().take(self.places).flatten().next().is_some() {
            let count = u32::try_from(self.places).unwrap_or_default();
            // SAFETY: the places are owned frames or null, which the function passes over; they are forgotten below.
            unsafe { ffi::rte_pktmbuf_free_bulk(self.raw(), count) };
            for place in &mut self.frames {
                std::mem::forget(place.take());
            }
        }
        (self.places, self.has_gaps) = (0, false);
    }

    /// Moves the frames together, in order, so that `len` counts frames.
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
    /// `fill` has to put that many owned frames at the front of the array and leave nothing usable behind them.
    pub(crate) unsafe fn fill(&mut self, fill: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) -> usize {
        let room = BURST - self.places;
        // SAFETY: `places` is at most BURST.
        let free = unsafe { self.raw().add(self.places) };
        let count = usize::from(fill(free, u16::try_from(room).unwrap_or_default())).min(room);
        self.places += count;
        // What lies behind the frames may have been written to on the way (a bulk allocation that failed).
        // SAFETY: places up to BURST exist; null is how an empty one is stored.
        unsafe { free.add(count).write_bytes(0, room - count) };
        count
    }

    /// Lets `drain` have frames, given their array and number, and forgets as many as it says, from the front.
    ///
    /// # Safety
    /// `drain` has to take over that many frames from the front and no others.
    pub(crate) unsafe fn drain(&mut self, drain: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) -> usize {
        self.close_gaps();
        let count = usize::from(drain(self.raw(), u16::try_from(self.places).unwrap_or_default())).min(self.places);
        for place in self.frames.iter_mut().take(count) {
            std::mem::forget(place.take());
        }
        if count == self.places {
            self.places = 0;
        } else if count > 0 {
            self.has_gaps = true;
            self.close_gaps();
        }
        count
    }

    /// The places as DPDK sees them: a null pointer is an empty one, as `Option<Mbuf>` is laid out.
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
