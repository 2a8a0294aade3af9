//! The way to the guest: a virtqueue, a stream socket or a packet socket, behind one trait.
//!
//! Implemented by the transports ([`transport`](crate::transport)) and, in tests, by a list. Frames from the guest do not come this way: a
//! transport hands each burst to the translator.

use culvert_frame::{Offload, Offloads};

/// Takes frames for the guest.
pub trait GuestLink {
    /// What the guest takes unfinished: checksums, segmentation. May change when the guest's driver starts anew.
    fn takes(&self) -> Offloads;

    /// Puts a frame: `head` from the Ethernet header on, with all headers, then `payload`. `offload` is what was left
    /// undone, with the pseudo-header's sum in the checksum field; what the guest does not take of it is finished on the
    /// way, so TCP may always be handed over as [`Offload::Segment`], also where it is one segment only. [`Offload::Valid`]
    /// where all checksums are right and need not be looked at.
    ///
    /// # Errors
    /// [`Full`]: the frame was not put. The transport tells once there is room again.
    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full>;

    /// Makes everything that was put visible to the guest.
    fn flush(&mut self);
}

/// The guest has no room at present, or there is no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;
