//! A guest's two kinds of queues, whichever kind of ring they have: split ([`transmit`](crate::transmit), [`receive`](crate::receive))
//! or packed ([`packed`](crate::packed)). The kind is looked at once a call.

use std::sync::Arc;

use culvert_frame::Offloads;

use crate::call::Call;
use crate::device::RingSetup;
use crate::dirty_log::RingLog;
use crate::features;
use crate::layout::RingLayout;
use crate::memory::Memory;
use crate::net_header::NetHeader;
use crate::packed::receive::{PackedReceiveQueue, PackedReserved};
use crate::packed::transmit::PackedTransmitQueue;
use crate::packed::{FIRST_POSITION, PackedStart};
use crate::piece::{Piece, Rooms};
use crate::receive::{PutError, SplitReceiveQueue, SplitReserved};
use crate::record::Record;
use crate::split::{RingFault, StartError};
use crate::straight::Straight;
use crate::transmit::{Received, SplitTransmitQueue, TransmitBurst};

/// A guest's transmit queue. One worker owns it.
#[derive(Debug)]
pub struct TransmitQueue(Transmit);

#[derive(Debug)]
enum Transmit {
    Split(SplitTransmitQueue),
    Packed(PackedTransmitQueue),
}

/// A guest's receive queue.
#[derive(Debug)]
pub struct ReceiveQueue(Receive);

#[derive(Debug)]
enum Receive {
    Split(SplitReceiveQueue),
    Packed(PackedReceiveQueue),
}

impl TransmitQueue {
    /// Takes up a ring: a split one at its `used.idx`, a packed one that nobody has used.
    ///
    /// # Errors
    /// [`StartError`] when layout or indices are wrong.
    pub fn new(memory: Arc<Memory>, layout: &RingLayout, features: u64, call: Arc<Call>) -> Result<Self, StartError> {
        Self::open(memory, layout, features, call, None)
    }

    /// Takes up a ring as a device's frontend has set it up.
    ///
    /// # Errors
    /// [`StartError`] when layout, indices or position are wrong.
    pub fn start(setup: &RingSetup) -> Result<Self, StartError> {
        let RingSetup { memory, layout, features, call, packed, log, .. } = setup;
        let mut queue = Self::open(Arc::clone(memory), layout, *features, Arc::clone(call), packed.clone())?;
        if log.is_some() {
            queue.log(log.as_ref());
        }
        Ok(queue)
    }

    fn open(
        memory: Arc<Memory>,
        layout: &RingLayout,
        features: u64,
        call: Arc<Call>,
        packed: Option<PackedStart>,
    ) -> Result<Self, StartError> {
        Ok(Self(if features & features::RING_PACKED == 0 {
            Transmit::Split(SplitTransmitQueue::new(memory, layout, features, call)?)
        } else {
            Transmit::Packed(PackedTransmitQueue::new(memory, layout, features, call, packed.unwrap_or_else(unused))?)
        }))
    }

    /// Takes up to [`BURST`](crate::transmit::BURST) chains, and no further one once those of several descriptors had
    /// [`BURST_DESCRIPTORS`](crate::transmit::BURST_DESCRIPTORS).
    ///
    /// # Errors
    /// The guest's fault; chains before the faulty one are in the next call's burst no more: the queue is to be stopped.
    #[inline]
    pub fn receive<'q>(&'q mut self, burst: &'q mut TransmitBurst) -> Result<Received<'q>, RingFault> {
        match &mut self.0 {
            Transmit::Split(queue) => queue.receive(burst),
            Transmit::Packed(queue) => queue.receive(burst),
        }
    }

    /// Whether [`Self::receive`] would find a frame.
    ///
    /// # Errors
    /// The guest's fault.
    #[inline]
    pub fn has_frames(&mut self) -> Result<bool, RingFault> {
        match &mut self.0 {
            Transmit::Split(queue) => queue.has_frames(),
            Transmit::Packed(queue) => queue.has_frames(),
        }
    }

    /// Asks for a kick at the next frame; `true` if there is none yet, so that sleeping is safe.
    ///
    /// # Errors
    /// The guest's fault.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        match &mut self.0 {
            Transmit::Split(queue) => queue.arm(),
            Transmit::Packed(queue) => queue.arm(),
        }
    }

    /// Asks for no more kicks: the queue is polled.
    pub fn disarm(&self) {
        match &self.0 {
            Transmit::Split(queue) => queue.disarm(),
            Transmit::Packed(queue) => queue.disarm(),
        }
    }

    /// Has all that is written into the guest's memory from now on logged, or nothing.
    pub fn log(&mut self, log: Option<&RingLog>) {
        match &mut self.0 {
            Transmit::Split(queue) => queue.log(log),
            Transmit::Packed(queue) => queue.log(log),
        }
    }

    /// Where the ring stands: an index, of a packed ring with the wrap counter in bit 15.
    pub const fn position(&self) -> u16 {
        match &self.0 {
            Transmit::Split(queue) => queue.position(),
            Transmit::Packed(queue) => queue.position(),
        }
    }
}

impl ReceiveQueue {
    /// Takes up a ring: a split one at its `used.idx`, a packed one that nobody has used.
    ///
    /// # Errors
    /// [`StartError`] when layout or indices are wrong.
    pub fn new(memory: Arc<Memory>, layout: &RingLayout, features: u64, call: Arc<Call>) -> Result<Self, StartError> {
        Self::open(memory, layout, features, call, None)
    }

    /// Takes up a ring as a device's frontend has set it up.
    ///
    /// # Errors
    /// [`StartError`] when layout, indices or position are wrong.
    pub fn start(setup: &RingSetup) -> Result<Self, StartError> {
        let RingSetup { memory, layout, features, call, packed, log, .. } = setup;
        let mut queue = Self::open(Arc::clone(memory), layout, *features, Arc::clone(call), packed.clone())?;
        if log.is_some() {
            queue.log(log.as_ref());
        }
        Ok(queue)
    }

    fn open(
        memory: Arc<Memory>,
        layout: &RingLayout,
        features: u64,
        call: Arc<Call>,
        packed: Option<PackedStart>,
    ) -> Result<Self, StartError> {
        Ok(Self(if features & features::RING_PACKED == 0 {
            Receive::Split(SplitReceiveQueue::new(memory, layout, features, call)?)
        } else {
            Receive::Packed(PackedReceiveQueue::new(memory, layout, features, call, packed.unwrap_or_else(unused))?)
        }))
    }

    /// Reads ahead what the guest offers for so many frames, which are put next.
    #[inline]
    pub fn look_ahead(&mut self, frames: usize) {
        match &mut self.0 {
            Receive::Split(queue) => queue.look_ahead(frames),
            Receive::Packed(queue) => queue.look_ahead(frames),
        }
    }

    /// Puts as many of `frames`, a bit for each frame of `burst`, lowest first, as the straight way takes: those that lie whole in one
    /// buffer, to which nothing is left to be done, and which are no longer than `longest` bytes, until one is not, or needs more than the next
    /// buffer. Returns the bits of those that were put, and how many bytes they have.
    #[inline]
    pub fn put_straight(&mut self, burst: &impl Straight, frames: u32, longest: u32) -> (u32, u64) {
        match &mut self.0 {
            Receive::Split(queue) => queue.put_straight(burst, frames, longest),
            Receive::Packed(queue) => queue.put_straight(burst, frames, longest),
        }
    }

    /// Copies a frame of `length` bytes, `head` and then `rest`, into the next buffers.
    ///
    /// # Errors
    /// [`PutError`]; the frame is not delivered then.
    #[inline]
    pub fn put<'a>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> Result<(), PutError> {
        match &mut self.0 {
            Receive::Split(queue) => queue.put(header, head, length, rest),
            Receive::Packed(queue) => queue.put(header, head, length, rest),
        }
    }

    /// Finds room for a frame of `head_bytes` and up to `most` bytes behind them, for [`Self::reserved`]; for less, but not less than
    /// `least`, where the guest offers no more at present.
    ///
    /// # Errors
    /// [`PutError`].
    pub fn find_room(&mut self, head_bytes: u32, least: u32, most: u32) -> Result<(), PutError> {
        match &mut self.0 {
            Receive::Split(queue) => queue.find_room(head_bytes, least, most),
            Receive::Packed(queue) => queue.find_room(head_bytes, least, most),
        }
    }

    /// The room that the last call of this queue's has found by [`Self::find_room`]; none if that was another call.
    pub fn reserved(&mut self) -> Option<Reserved<'_>> {
        Some(Reserved(match &mut self.0 {
            Receive::Split(queue) => Room::Split(queue.reserved()?),
            Receive::Packed(queue) => Room::Packed(queue.reserved()?),
        }))
    }

    /// Whether more than half of the chains (of a packed ring: descriptors) are left that the guest has had on offer at a time. Frames
    /// that were not addressed to it get no more than the other half, so that a flood leaves room for those that were.
    ///
    /// # Errors
    /// [`PutError::Fault`].
    pub fn has_half(&mut self) -> Result<bool, PutError> {
        match &mut self.0 {
            Receive::Split(queue) => queue.has_half(),
            Receive::Packed(queue) => queue.has_half(),
        }
    }

    /// How many frames may be put straight before [`Self::has_half`] says otherwise, of a packed ring those of a burst at most.
    ///
    /// # Errors
    /// [`PutError::Fault`].
    pub fn above_half(&mut self) -> Result<u16, PutError> {
        match &mut self.0 {
            Receive::Split(queue) => queue.above_half(),
            Receive::Packed(queue) => queue.above_half(),
        }
    }

    /// Makes everything that was put visible to the guest, and interrupts it if it asks for that.
    #[inline]
    pub fn publish(&mut self) {
        match &mut self.0 {
            Receive::Split(queue) => queue.publish(),
            Receive::Packed(queue) => queue.publish(),
        }
    }

    /// Puts the queue in order after a panic of whoever held it: what was put and not published is not delivered, and the
    /// guest's buffers for it stay its offer. Returns whether the panic was over this guest's buffers, and not only while the
    /// queue was held.
    pub fn abandon(&mut self) -> bool {
        match &mut self.0 {
            Receive::Split(queue) => queue.abandon(),
            Receive::Packed(queue) => queue.abandon(),
        }
    }

    /// Asks for a kick when the guest adds buffers; `true` if it has added none since the last look, so that it is safe to
    /// wait. For whoever was told [`PutError::NoBuffer`] and has published what was put before.
    ///
    /// # Errors
    /// The guest's fault.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        match &mut self.0 {
            Receive::Split(queue) => queue.arm(),
            Receive::Packed(queue) => queue.arm(),
        }
    }

    /// Asks for no more kicks.
    pub fn disarm(&self) {
        match &self.0 {
            Receive::Split(queue) => queue.disarm(),
            Receive::Packed(queue) => queue.disarm(),
        }
    }

    /// Which frames the guest takes whose checksum or segmentation was left undone.
    #[inline]
    pub const fn takes(&self) -> Offloads {
        match &self.0 {
            Receive::Split(queue) => queue.takes(),
            Receive::Packed(queue) => queue.takes(),
        }
    }

    /// Has all that is written into the guest's memory from now on logged, or nothing.
    pub fn log(&mut self, log: Option<&RingLog>) {
        match &mut self.0 {
            Receive::Split(queue) => queue.log(log),
            Receive::Packed(queue) => queue.log(log),
        }
    }

    /// Where the ring stands: an index, of a packed ring with the wrap counter in bit 15.
    pub const fn position(&self) -> u16 {
        match &self.0 {
            Receive::Split(queue) => queue.position(),
            Receive::Packed(queue) => queue.position(),
        }
    }
}

/// Buffers of the guest's for one frame, whose payload is received straight into them
/// ([`descriptor::receive`](crate::descriptor::receive)) before its head is written. Dropped without [`Self::commit`], they
/// stay the guest's offer.
#[derive(Debug)]
pub struct Reserved<'q>(Room<'q>);

#[derive(Debug)]
enum Room<'q> {
    Split(SplitReserved<'q>),
    Packed(PackedReserved<'q>),
}

impl Reserved<'_> {
    /// Where the payload goes.
    pub fn rooms(&mut self) -> Rooms<'_> {
        match &mut self.0 {
            Room::Split(room) => room.rooms(),
            Room::Packed(room) => room.rooms(),
        }
    }

    /// Puts the frame: `head`, as long as room was found for, and the first `payload_bytes` that were received.
    pub fn commit(self, header: &NetHeader, head: &[u8], payload_bytes: u32) {
        match self.0 {
            Room::Split(room) => room.commit(header, head, payload_bytes),
            Room::Packed(room) => room.commit(header, head, payload_bytes),
        }
    }
}

/// For a ring that nobody has used, and nobody takes up after us.
fn unused() -> PackedStart {
    PackedStart { record: Record::own(), told: Some(FIRST_POSITION) }
}
