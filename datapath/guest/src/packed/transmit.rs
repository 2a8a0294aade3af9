//! Taking frames from a guest's transmit queue whose ring is packed. As [`crate::transmit`], whose bursts it fills.

use std::sync::Arc;

use culvert_frame::Offloads;

use super::chain::{self, Walked};
use super::{PackedRing, PackedStart};
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
        Ok(Self { ring, header_bytes: header_bytes(features), asks: features::asked(features), region: 0 })
    }

    #[inline]
    pub(crate) fn receive<'q>(&'q mut self, burst: &'q mut TransmitBurst) -> Result<Received<'q>, RingFault> {
        burst.clear();
        // What an earlier burst took went back when it ended, whatever became of it.
        self.ring.leave(0);
        let Self { ring, header_bytes, region, .. } = self;
        while burst.len() < BURST && burst.descriptors() < BURST_DESCRIPTORS {
            let (at, held) = (ring.next(), ring.held());
            let Some(first) = ring.look(at, held)? else { break };
            if first.is_single() {
                let buffer = chain::translate(ring, first, Access::Read, region)?;
                burst.add_single(*header_bytes, buffer);
                ring.take(first.id, 1, 0);
            } else {
                let Walked { id, entries, .. } = burst.add_chain(*header_bytes, |each| {
                    let walked = chain::walk(ring, at, held, first, Access::Read, region, each)?;
                    Ok((walked, walked.buffers))
                })?;
                ring.take(id, entries, 0);
            }
        }
        Ok(Received::new(GiveBack::Packed(&mut self.ring), self.header_bytes, self.asks, burst))
    }

    #[inline]
    pub(crate) fn has_frames(&mut self) -> Result<bool, RingFault> {
        self.ring.leave(0);
        Ok(self.ring.look(self.ring.next(), 0)?.is_some())
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
