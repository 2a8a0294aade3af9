//! Taking frames from a guest's transmit queue whose ring is packed. As [`crate::transmit`], whose bursts it fills.

use std::sync::Arc;

use culvert_frame::Offloads;

use super::chain::{self, Walked};
use super::{Descriptor, PackedRing, PackedStart};
use crate::call::Call;
use crate::chain::Access;
use crate::features;
use crate::layout::RingLayout;
use crate::memory::Memory;
use crate::net_header::header_bytes;
use crate::split::{RingFault, StartError};
use crate::transmit::{BURST, BURST_DESCRIPTORS, GiveBack, Received, TransmitBurst};

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
        // Chains of several descriptors leave room for more frames than were looked at.
        while self.take_offers(burst)? && burst.len() < BURST && burst.descriptors() < BURST_DESCRIPTORS {}
        if burst.len() == 0 && self.ring.pass_over_used() {
            self.take_offers(burst)?;
        }
        // Of all frames the first bytes were asked for before those of the first are copied.
        burst.copy_heads(self.header_bytes);
        Ok(Received::new(GiveBack::Packed(&mut self.ring), self.header_bytes, self.asks, burst))
    }

    /// Takes what begins among as many descriptors as frames are wanted; returns whether there may be more.
    #[inline]
    fn take_offers(&mut self, burst: &mut TransmitBurst) -> Result<bool, RingFault> {
        let Self { ring, header_bytes, region, offers, .. } = self;
        let wanted = BURST - burst.len();
        let count = ring.read_offers(offers.get_mut(..wanted).unwrap_or_default())?;
        let mut at = 0;
        while let Some(first) = offers.get(at).filter(|_| at < count)
            && burst.descriptors() < BURST_DESCRIPTORS
        {
            if first.is_single() {
                burst.add_single(chain::translate(ring, *first, Access::Read, region)?);
                ring.take(first.id, 1, 0);
                at += 1;
            } else {
                let (place, held) = (ring.next(), ring.held());
                let Walked { id, entries, .. } = burst.add_chain(*header_bytes, |each| {
                    let walked = chain::walk(ring, place, held, *first, Access::Read, region, each)?;
                    Ok((walked, walked.buffers))
                })?;
                ring.take(id, entries, 0);
                at += usize::from(entries);
            }
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

    pub(crate) const fn position(&self) -> u16 {
        self.ring.position()
    }
}
