//! The way to the guest: a virtqueue, a stream socket or a packet socket, behind one trait.
//!
//! Implemented by the transports in the binary and, in tests, by a list. Frames from the guest do not come this way: a
//! transport hands each burst to the translator.

use culvert_frame::{Offload, Offloads};

/// Takes frames for the guest.
pub trait GuestLink {
    /// What the guest takes unfinished: checksums, segmentation. May change when the guest's driver starts anew.
    fn takes(&self) -> Offloads;

    /// Puts a frame: `head` from the Ethernet header on, then `payload`. `offload` is [`Offload::Valid`] where checksums
    /// need not be looked at, and within [`Self::takes`] otherwise.
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
