//! Frames that have arrived, wherever they lie: in a guest's buffers, in mbufs, or made by ourselves.

use culvert_frame::DropReason;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{NetHeader, Packet, Piece, ReceiveQueue, Received};
use culvert_nic::{Batch, Mbuf};

/// Up to 32 frames from one port.
#[derive(Debug)]
pub enum Burst<'a> {
    /// From a guest; its buffers go back when this is dropped.
    Guest(Received<'a>),
    /// From a NIC. Mbufs may be taken out and handed on.
    Nic(&'a mut Batch),
    /// Frames that Culvert made itself.
    Local(&'a [&'a [u8]]),
}

/// One frame of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The first bytes, at most [`HEAD_BYTES`]. Nobody can change them any more.
    pub head: &'a [u8],
    /// Length of the whole frame, in bytes.
    pub length: u32,
    rest: Rest<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Rest<'a> {
    Guest(Packet<'a>),
    Nic(&'a Mbuf),
    Local(&'a [u8]),
}

impl Burst<'_> {
    /// How many frames there are.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Guest(received) => received.len(),
            Self::Nic(batch) => batch.len(),
            Self::Local(frames) => frames.len(),
        }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frame `index`, below [`Self::len`].
    ///
    /// # Errors
    /// Why what arrived is not a frame that may go on.
    #[inline]
    pub fn frame(&self, index: usize) -> Result<Frame<'_>, DropReason> {
        match self {
            Self::Guest(received) => {
                let packet = received.packet(index)?;
                if packet.header.asks_for_offload() {
                    return Err(DropReason::OffloadNotNegotiated);
                }
                Ok(Frame { head: packet.head, length: packet.length, rest: Rest::Guest(packet) })
            }
            Self::Nic(batch) => {
                let mbuf = batch.get(index).ok_or(DropReason::Runt)?;
                let first = mbuf.segments().next().unwrap_or_default();
                Ok(Frame { head: head_of(first), length: mbuf.length(), rest: Rest::Nic(mbuf) })
            }
            Self::Local(frames) => {
                let bytes = frames.get(index).copied().ok_or(DropReason::Runt)?;
                let length = u32::try_from(bytes.len()).map_err(|_| DropReason::Oversized)?;
                Ok(Frame { head: head_of(bytes), length, rest: Rest::Local(bytes) })
            }
        }
    }

    /// Length and first bytes of what arrived at `index`, also where it is no frame.
    pub(crate) fn first_bytes(&self, index: usize) -> (u32, &[u8]) {
        match (self.frame(index), self) {
            (Ok(frame), _) => (frame.length, frame.head),
            (Err(_), Self::Guest(received)) => received.first_bytes(index),
            (Err(_), Self::Nic(_) | Self::Local(_)) => (0, &[]),
        }
    }
}

impl Frame<'_> {
    /// Copies the frame into a guest's receive buffers.
    ///
    /// # Errors
    /// [`PutError`].
    #[inline]
    pub fn put_into(&self, queue: &mut ReceiveQueue) -> Result<(), PutError> {
        let header = NetHeader::default();
        match self.rest {
            Rest::Guest(packet) => queue.put(&header, self.head, self.length, packet.rest()),
            Rest::Nic(mbuf) => queue.put(&header, self.head, self.length, after_head(mbuf.segments(), self.head.len())),
            Rest::Local(bytes) => {
                queue.put(&header, self.head, self.length, after_head(std::iter::once(bytes), self.head.len()))
            }
        }
    }

    /// Copies the frame into a row of buffers; returns how many bytes were written.
    pub fn copy_into<'b>(&self, buffers: impl Iterator<Item = &'b mut [u8]>) -> usize {
        match self.rest {
            Rest::Guest(packet) => copy_pieces(self.head, packet.rest(), buffers),
            Rest::Nic(mbuf) => copy_pieces(self.head, after_head(mbuf.segments(), self.head.len()), buffers),
            Rest::Local(bytes) => copy_pieces(self.head, after_head(std::iter::once(bytes), self.head.len()), buffers),
        }
    }
}

fn head_of(bytes: &[u8]) -> &[u8] {
    bytes.get(..HEAD_BYTES).unwrap_or(bytes)
}

/// What follows the head, which is the start of the first segment.
fn after_head<'a>(segments: impl Iterator<Item = &'a [u8]>, head: usize) -> impl Iterator<Item = Piece<'a>> {
    let skips = std::iter::once(head).chain(std::iter::repeat(0));
    segments.zip(skips).map(|(segment, skip)| Piece::from(segment.get(skip..).unwrap_or_default()))
}

fn copy_pieces<'a, 'b>(
    head: &[u8],
    rest: impl Iterator<Item = Piece<'a>>,
    mut buffers: impl Iterator<Item = &'b mut [u8]>,
) -> usize {
    let mut room: &mut [u8] = buffers.next().unwrap_or_default();
    let mut written = 0;
    let mut pour = |piece: Piece<'_>| {
        let mut offset = 0;
        while offset < piece.length() {
            if room.is_empty() {
                let Some(next) = buffers.next() else { return };
                room = next;
            }
            let copied = piece.copy_to(offset, room);
            room = std::mem::take(&mut room).get_mut(copied..).unwrap_or_default();
            written += copied;
            offset = offset.saturating_add(u32::try_from(copied).unwrap_or(u32::MAX));
        }
    };
    pour(Piece::from(head));
    rest.for_each(pour);
    written
}
