//! Taking frames from a guest's transmit queue whose ring is packed. As [`crate::transmit`], whose bursts it fills.

#![expect(unsafe_code, reason = "calls of what is compiled for a processor that was asked")]

use std::sync::Arc;

use culvert_frame::Offloads;

use super::chain::{self, Walked};
use super::{Descriptor, PackedRing, PackedStart};
use crate::call::Call;
use crate::chain::{Access, Buffer};
use crate::dirty_log::RingLog;
use crate::features;
use crate::layout::RingLayout;
use crate::memory::Memory;
use crate::net_header::header_bytes;
use crate::split::{RingFault, StartError};
use crate::straight::NoteUsed;
use crate::transmit::{BURST, BURST_DESCRIPTORS, GiveBack, Received, TransmitBurst};
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// A guest's transmit queue. One worker owns it.
#[derive(Debug)]
pub struct PackedTransmitQueue {
    ring: PackedRing,
    header_bytes: usize,
    asks: Offloads,
    /// The memory region that the last buffer was in.
    region: usize,
    /// What the guest offers, as it was read.
    offers: Box<[Descriptor; BURST]>,
}

impl PackedTransmitQueue {
    pub(crate) fn new(
        memory: Arc<Memory>,
        layout: &RingLayout,
        features: u64,
        call: Arc<Call>,
        start: PackedStart,
    ) -> Result<Self, StartError> {
        let ring = PackedRing::new(memory, layout, features, call, start)?;
        let offers = Box::new([Descriptor::default(); BURST]);
        Ok(Self { ring, header_bytes: header_bytes(features), asks: features::asked(features), region: 0, offers })
    }

    #[inline]
    pub(crate) fn receive<'q>(&'q mut self, burst: &'q mut TransmitBurst) -> Result<Received<'q>, RingFault> {
        burst.clear();
        // What an earlier burst took went back when it ended, whatever became of it.
        self.ring.leave(0);
        self.fill(burst)?;
        if burst.len() == 0 && self.ring.pass_over_used() {
            self.fill(burst)?;
        }
        Ok(Received::new(GiveBack::Packed(&mut self.ring), self.header_bytes, self.asks, burst))
    }

    /// Finds the first buffers, and copies what is looked at of them.
    #[inline]
    fn fill(&mut self, burst: &mut TransmitBurst) -> Result<(), RingFault> {
        #[cfg(target_arch = "x86_64")]
        if wide::has_avx2() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.fill_wide(burst) };
        }
        self.fill_any(burst)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn fill_wide(&mut self, burst: &mut TransmitBurst) -> Result<(), RingFault> {
        self.fill_any(burst)
    }

    #[inline(always)]
    fn fill_any(&mut self, burst: &mut TransmitBurst) -> Result<(), RingFault> {
        // Chains of several descriptors leave room for more frames than were looked at.
        while self.take_offers(burst)? && burst.len() < BURST && burst.descriptors() < BURST_DESCRIPTORS {}
        // Of all frames the first bytes were asked for before those of the first are copied.
        burst.copy_heads(self.header_bytes);
        Ok(())
    }

    /// Takes what begins among as many descriptors as frames are wanted; returns whether there may be more.
    #[inline(always)]
    fn take_offers(&mut self, burst: &mut TransmitBurst) -> Result<bool, RingFault> {
        let Self { ring, header_bytes, region, offers, .. } = self;
        let wanted = BURST - burst.len();
        let count = ring.read_offers(offers.get_mut(..wanted).unwrap_or_default())?;
        let offers = offers.get(..count).unwrap_or_default();
        let mut at = 0_usize;
        while at < count && burst.descriptors() < BURST_DESCRIPTORS {
            at = at.wrapping_add(take_singles(ring, region, offers.get(at..).unwrap_or_default(), burst)?);
            let Some(first) = offers.get(at) else { break };
            let (place, held) = (ring.next(), ring.held());
            let Walked { id, entries, .. } = burst.add_chain(*header_bytes, |each| {
                let walked = chain::walk(ring, place, held, *first, Access::Read, region, each)?;
                Ok((walked, walked.buffers))
            })?;
            ring.take(id, entries, 0);
            at = at.saturating_add(usize::from(entries));
        }
        Ok(count == wanted)
    }

    #[inline]
    pub(crate) fn has_frames(&mut self) -> Result<bool, RingFault> {
        self.ring.leave(0);
        Ok(self.ring.look(self.ring.next(), 0)?.is_some()
            || self.ring.pass_over_used() && self.ring.look(self.ring.next(), 0)?.is_some())
    }

    pub(crate) fn arm(&mut self) -> Result<bool, RingFault> {
        self.ring.enable_kick();
        Ok(!self.has_frames()?)
    }

    pub(crate) fn disarm(&self) {
        self.ring.disable_kick();
    }

    /// Has all that is written from now on logged, or nothing.
    pub(crate) fn log(&mut self, log: Option<&RingLog>) {
        self.ring.log(log);
    }

    pub(crate) const fn position(&self) -> u16 {
        self.ring.position()
    }
}

/// Takes the first of those offers, as many as have one descriptor each; returns how many that are.
#[inline(always)]
fn take_singles(
    ring: &mut PackedRing,
    region: &mut usize,
    offers: &[Descriptor],
    burst: &mut TransmitBurst,
) -> Result<usize, RingFault> {
    let mut window = ring.memory().window(*region);
    let mut count = 0_usize;
    for offer in offers {
        if !offer.is_single() {
            break;
        }
        let buffer = match offer.only_buffer(Access::Read, &window) {
            Some(pointer) => Some(Buffer { pointer, length: offer.length }),
            None => {
                let buffer = chain::translate(ring, *offer, Access::Read, region)?;
                window = ring.memory().window(*region);
                buffer
            }
        };
        burst.add_single(buffer);
        count = count.wrapping_add(1);
    }
    for (offer, taken) in offers.iter().take(count).zip(ring.taken()..) {
        ring.note_used(taken, offer.id, 0);
    }
    ring.take_noted(u16::try_from(count).unwrap_or(0));
    Ok(count)
}
