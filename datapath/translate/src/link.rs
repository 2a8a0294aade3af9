//! The way to the guest: a virtqueue, a stream socket or a packet socket, behind one trait.
//!
//! Implemented by the transports ([`transport`](crate::transport)) and, in tests, by a list. Frames from the guest do
//! not come this way: a transport hands each burst to the translator.

use culvert_frame::{Offload, Offloads};

use crate::transport::Reservation;

/// Takes frames for the guest.
pub trait GuestLink {
    /// What the guest takes unfinished: checksums, segmentation. May change when the guest's driver starts anew.
    fn takes(&self) -> Offloads;

    /// Puts a frame: `head` from the Ethernet header on, with all headers, then `payload`. `offload` is what was left
    /// undone, with the pseudo-header's sum in the checksum field; what the guest does not take of it is finished on
    /// the way, so TCP may always be handed over as [`Offload::Segment`], also where it is one segment only.
    /// [`Offload::Valid`] where all checksums are right and need not be looked at.
    ///
    /// # Errors
    /// [`Full`]: the frame was not put. The transport tells once there is room again.
    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full>;

    /// Room for a frame whose payload somebody receives straight into it: one copy less. `head` is such a head as the
    /// frame will have (its length and its flow count), `payload_bytes` the most that may follow it, `offload` what is
    /// to be left undone then. There may be room for less where the guest offers no more at present, but for one
    /// segment. `None` where this way to the guest has no such room: the frame is to be put.
    ///
    /// # Errors
    /// [`Full`].
    fn reserve(&mut self, offload: Offload, head: &[u8], payload_bytes: u32) -> Result<Option<Reservation<'_>>, Full>;

    /// Whether nothing can be put at present, whatever it is: the transport tells once there is room again. `false` where
    /// that is not known before it is tried.
    fn is_full(&self) -> bool {
        false
    }

    /// Whether there is a guest that has only no room at present where something cannot be put: who keeps it can put it
    /// when the transport tells. `false` where that is not known.
    fn is_there(&self) -> bool {
        false
    }

    /// Makes everything that was put visible to the guest.
    fn flush(&mut self);
}

/// The way to a guest that has no rings: whatever is for it waits.
#[derive(Debug)]
pub struct NoLink;

impl GuestLink for NoLink {
    fn takes(&self) -> Offloads {
        Offloads::NONE
    }

    fn put(&mut self, _: Offload, _: &[u8], _: &[u8]) -> Result<(), Full> {
        Err(Full)
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Err(Full)
    }

    fn flush(&mut self) {}
}

/// The guest has no room at present, or there is no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;
