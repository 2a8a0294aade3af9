//! How much of a burst may pass, by the [rates](crate::rates) of a port. Only ports that have some get here, once a burst.
//!
//! Time stands still within a burst: once a frame may not pass, none behind it may. So what passes is always the first
//! part of a burst. Of a guest's frames the rest stays in its ring, where its driver sees that it is full and its senders
//! wait; from elsewhere, and to anywhere, the rest is dropped.

use std::time::Duration;

use culvert_frame::{Direction, DropReason, Offload};
use culvert_guest::transmit::BURST;

use crate::burst::Burst;
use crate::counters::PortCounters;
use crate::egress::{self, Work};
use crate::outlet::{Admitted, Frames, refuse};
use crate::port::{Egress, Port};
use crate::rates::Wire;
use crate::vlan::TagEdit;

/// One worker's metering of what arrives.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// What each frame of the present burst is on a wire.
    wires: [Wire; BURST],
    /// When the rest of the burst may pass.
    until: Option<Duration>,
}

impl Arrivals {
    pub(crate) const fn new() -> Self {
        Self { wires: [Wire { bytes: 0, frames: 0 }; BURST], until: None }
    }

    /// How many frames of the burst may come in now; the others are left or dropped.
    #[cold]
    #[inline(never)]
    pub(crate) fn admit(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        burst: &mut Burst<'_>,
        now: Duration,
    ) -> usize {
        let mut room = port.meter.rx.room(now);
        let mut may = 0;
        for (index, place) in self.wires.iter_mut().enumerate().take(burst.len()) {
            *place = wire(burst, index);
            if !room.take(*place) {
                break;
            }
            may += 1;
        }
        let late = burst.len().min(BURST).saturating_sub(may);
        if late > 0 && burst.leave(may).is_none() {
            drop_arrived(port, counters, burst, may);
        }
        may
    }

    /// Counts what has come in: `admitted` frames, or as many as are left of the burst.
    #[cold]
    #[inline(never)]
    pub(crate) fn charge(
        &mut self,
        port: &Port,
        counters: &PortCounters,
        burst: &Burst<'_>,
        admitted: usize,
        now: Duration,
    ) {
        let came = self.wires.iter().take(admitted.min(burst.len()));
        port.meter.rx.spend(came.fold(Wire::default(), |sum, wire| sum.and(*wire)), now);
        if let Burst::Guest(_) = burst {
            self.until = port.meter.rx.hold(&port.rules.rates.rx, now).map(|wait| now.saturating_add(wait));
            counters.held.add(u64::from(self.until.is_some()));
        }
    }

    /// Until when the guest of the last burst may send nothing more.
    #[inline]
    pub(crate) const fn take_until(&mut self) -> Option<Duration> {
        self.until.take()
    }
}

/// What a frame is on the wire from its sender. One that is broken is what it was.
fn wire(burst: &Burst<'_>, index: usize) -> Wire {
    match burst.frame(index) {
        Ok(frame) => Wire::of(frame.offload().unwrap_or(Offload::None), frame.length),
        Err(_) => Wire::of(Offload::None, burst.first_bytes(index).0),
    }
}

/// Drops what has arrived from number `from` on.
fn drop_arrived(port: &Port, counters: &PortCounters, burst: &Burst<'_>, from: usize) {
    for index in from..burst.len().min(BURST) {
        counters.rx_frames.add(1);
        let reason = match burst.frame(index) {
            Ok(frame) => {
                counters.rx_bytes.add(u64::from(frame.length));
                port.taps.iter().for_each(|tap| tap.take(Direction::Rx, &frame, TagEdit::Keep));
                DropReason::RxRate
            }
            Err(reason) => reason,
        };
        refuse(counters, reason, burst, index);
    }
}

/// Those of `frames` that may leave at a port now; the others are dropped. What the port does not take for another reason
/// is none of the rate's.
#[cold]
#[inline(never)]
pub(crate) fn leaving(port: &Port, counters: &PortCounters, burst: &Admitted<'_, '_>, frames: Frames) -> Frames {
    if let Egress::Down | Egress::Quarantined = port.egress {
        return frames;
    }
    let mut room = port.meter.tx.room(burst.now);
    let (mut may, mut spent) = (0, Wire::default());
    let mut left = frames;
    while left != 0 {
        let index = left.trailing_zeros() as usize;
        left &= left - 1;
        let bit = 1 << index;
        let wire = burst.get(index).and_then(|(frame, ingress)| {
            let treatment = egress::treat(port, ingress, frame.length, frame.head).ok()?;
            let whole = match treatment.work {
                Work::Segment(segmentation) => Offload::Segment(segmentation),
                Work::Pass(offload) => offload,
                Work::Complete(_) => Offload::None,
            };
            Some(Wire::of(whole.moved(treatment.edit.growth()), treatment.edit.length(frame.length)))
        });
        match wire {
            None => may |= bit,
            Some(wire) if room.take(wire) => {
                may |= bit;
                spent = spent.and(wire);
            }
            Some(_) => refuse(counters, DropReason::TxRate, burst.burst, index),
        }
    }
    port.meter.tx.spend(spent, burst.now);
    may
}
