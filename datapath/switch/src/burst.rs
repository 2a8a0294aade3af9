//! Frames that have arrived, wherever they lie: in a guest's buffers, in mbufs, or made by ourselves.

use culvert_frame::{DropReason, ETHERNET_HEADER_BYTES, Offload, OffloadRequest, Offloads, checksum};
use culvert_guest::net_header::DATA_VALID;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::HEAD_BYTES;
use culvert_guest::{NetHeader, Packet, Piece, ReceiveQueue, Received, Straight};
use culvert_nic::{Batch, Mbuf, RxChecksum};

/// Up to 32 frames from one port.
#[derive(Debug)]
pub enum Burst<'a> {
    /// From a guest; its buffers go back when this is dropped.
    Guest(Received<'a>),
    /// From a NIC. Mbufs may be taken out and handed on.
    Nic(&'a mut Batch),
    /// Frames that Culvert made itself.
    Local(&'a [LocalFrame<'a>]),
}

/// A frame that Culvert made itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalFrame<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// What is left to be done to it, and what of that is allowed.
    pub request: (OffloadRequest, Offloads),
}

impl<'a> From<&'a [u8]> for LocalFrame<'a> {
    /// A frame to which nothing is left to be done.
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, request: (OffloadRequest::default(), Offloads::NONE) }
    }
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
    Guest(Packet<'a>, Offloads),
    Nic(&'a Mbuf),
    Local(LocalFrame<'a>),
}

/// What takes frames, one after the other: a guest's receive queue.
pub(crate) trait Sink {
    /// Takes the frame of `length` bytes that is `head` and then `rest`.
    fn put<'p>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'p>>,
    ) -> Result<(), PutError>;

    /// Whether it takes a frame that is flooded.
    fn takes_flooded(&mut self) -> Result<bool, PutError>;

    /// How many frames may be flooded now that need nothing but to be copied; 0 also where that is not known.
    fn flood_room(&mut self) -> Result<u16, PutError> {
        Ok(0)
    }

    /// So many frames come now.
    fn look_ahead(&mut self, frames: usize) {
        let _ = frames;
    }

    /// Takes of those `frames` the first ones that need nothing but to be copied, and are no longer than `longest` bytes; returns which,
    /// and how many bytes they have.
    fn put_straight(&mut self, burst: &Burst<'_>, frames: u32, longest: u32) -> (u32, u64) {
        let _ = (burst, frames, longest);
        (0, 0)
    }
}

impl Sink for ReceiveQueue {
    #[inline]
    fn put<'p>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'p>>,
    ) -> Result<(), PutError> {
        Self::put(self, header, head, length, rest)
    }

    fn takes_flooded(&mut self) -> Result<bool, PutError> {
        self.has_half()
    }

    fn flood_room(&mut self) -> Result<u16, PutError> {
        self.above_half()
    }

    #[inline]
    fn look_ahead(&mut self, frames: usize) {
        Self::look_ahead(self, frames);
    }

    #[inline]
    fn put_straight(&mut self, burst: &Burst<'_>, frames: u32, longest: u32) -> (u32, u64) {
        match burst {
            Burst::Guest(received) => Self::put_straight(self, received, frames, longest),
            Burst::Nic(batch) => {
                let valid = if self.takes().contains(Offloads::CHECKSUM) { DATA_VALID } else { 0 };
                Self::put_straight(self, &FromNic { batch, valid }, frames, longest)
            }
            Burst::Local(_) => (0, 0),
        }
    }
}

/// A NIC's frames as a guest gets them.
struct FromNic<'a> {
    batch: &'a Batch,
    /// Flags of those whose checksum the NIC found right.
    valid: u8,
}

impl Straight for FromNic<'_> {
    #[inline(always)]
    fn straight_parts(&self, index: usize) -> Option<(u8, &[u8], Piece<'_>)> {
        let mbuf = self.batch.get(index).filter(|mbuf| mbuf.segment_count() == 1)?;
        let flags = if is_valid(mbuf)? { self.valid } else { 0 };
        let (head, rest) = mbuf.head().split_at_checked(HEAD_BYTES).unwrap_or((mbuf.head(), &[]));
        Some((flags, head, Piece::from(rest)))
    }
}

/// A burst whose frames may be judged by their first bytes.
pub(crate) trait Starts {
    /// Ethernet header and length of frame `index`, and whether its checksum is known to be right, if it has such a header and nothing is left
    /// to be done to it.
    fn start(&self, index: usize) -> Option<(&[u8; ETHERNET_HEADER_BYTES], u32, bool)>;
}

impl Starts for Received<'_> {
    #[inline(always)]
    fn start(&self, index: usize) -> Option<(&[u8; ETHERNET_HEADER_BYTES], u32, bool)> {
        let (start, length) = self.plain_start(index)?;
        Some((start, length, false))
    }
}

impl Starts for Batch {
    #[inline(always)]
    fn start(&self, index: usize) -> Option<(&[u8; ETHERNET_HEADER_BYTES], u32, bool)> {
        let mbuf = self.get(index)?;
        Some((mbuf.head().first_chunk()?, mbuf.length(), is_valid(mbuf)?))
    }
}

/// Whether a NIC found a frame's checksum right; `None` where there is none yet.
#[inline(always)]
fn is_valid(mbuf: &Mbuf) -> Option<bool> {
    match mbuf.rx_checksum() {
        RxChecksum::Good => Some(true),
        RxChecksum::Unknown | RxChecksum::Bad => Some(false),
        RxChecksum::Partial => None,
    }
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

    /// How many descriptors of a guest were read for it, those of chains of one left out.
    #[inline]
    pub(crate) fn descriptors(&self) -> u16 {
        if let Self::Guest(received) = self { received.descriptors() } else { 0 }
    }

    /// Leaves a guest's frames from number `count` on in its ring, for its next turn; returns how many that are. `None`: frames
    /// from elsewhere cannot be left.
    pub(crate) fn leave(&mut self, count: usize) -> Option<usize> {
        let Self::Guest(received) = self else { return None };
        let before = received.len();
        received.truncate(count);
        Some(before.saturating_sub(received.len()))
    }

    /// Ends it: a NIC's buffers go back to their pool while they are near, those of a guest when this is dropped.
    #[inline]
    pub fn release(self) {
        if let Self::Nic(batch) = self {
            batch.clear();
        }
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
                Ok(Frame { head: packet.head, length: packet.length, rest: Rest::Guest(packet, received.asks()) })
            }
            Self::Nic(batch) => {
                let mbuf = batch.get(index).ok_or(DropReason::Runt)?;
                Ok(Frame { head: head_of(mbuf.head()), length: mbuf.length(), rest: Rest::Nic(mbuf) })
            }
            Self::Local(frames) => Frame::local(*frames.get(index).ok_or(DropReason::Runt)?),
        }
    }

    /// First bytes and length of a guest's frame `index` that is one and to which nothing is left to be done.
    #[inline]
    pub(crate) fn plain(&self, index: usize) -> Option<(&[u8], u32)> {
        if let Self::Guest(received) = self { received.plain(index) } else { None }
    }

    /// A guest's frames.
    #[inline]
    pub(crate) const fn of_guest(&self) -> Option<&Received<'_>> {
        if let Self::Guest(received) = self { Some(received) } else { None }
    }

    /// Calls `with` for each frame from number `from` on, below `end`, that has these first bytes and to which nothing is left to
    /// be done, with its length, until one is not so or `with` says that it was the last. Returns the number of the next frame.
    #[inline(always)]
    pub(crate) fn each_alike(
        &self,
        from: usize,
        end: usize,
        start: &[u8; ETHERNET_HEADER_BYTES],
        mut with: impl FnMut(u32) -> bool,
    ) -> usize {
        let mut index = from;
        while index < end
            && let Some((found, length, false)) = self.start(index)
            && found == start
        {
            index = index.wrapping_add(1);
            if !with(length) {
                break;
            }
        }
        index
    }

    /// See [`Starts::start`].
    #[inline(always)]
    fn start(&self, index: usize) -> Option<(&[u8; ETHERNET_HEADER_BYTES], u32, bool)> {
        match self {
            Self::Guest(received) => received.start(index),
            Self::Nic(batch) => batch.start(index),
            Self::Local(_) => None,
        }
    }

    /// First bytes, length, and what follows those bytes, of frame `index` if it lies in one buffer.
    #[inline]
    pub(crate) fn parts(&self, index: usize) -> Option<(&[u8], u32, Piece<'_>)> {
        match self {
            Self::Guest(received) => received.parts(index),
            Self::Nic(batch) => {
                let mbuf = batch.get(index).filter(|mbuf| mbuf.segment_count() == 1)?;
                let (head, rest) = mbuf.head().split_at_checked(HEAD_BYTES).unwrap_or((mbuf.head(), &[]));
                Some((head, mbuf.length(), Piece::from(rest)))
            }
            Self::Local(_) => None,
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

impl<'a> Frame<'a> {
    /// A frame that Culvert made itself.
    ///
    /// # Errors
    /// [`DropReason::Oversized`].
    pub fn local(frame: LocalFrame<'a>) -> Result<Self, DropReason> {
        let length = u32::try_from(frame.bytes.len()).map_err(|_| DropReason::Oversized)?;
        Ok(Frame { head: head_of(frame.bytes), length, rest: Rest::Local(frame) })
    }

    /// What is left to be done to the frame, checked.
    ///
    /// # Errors
    /// [`DropReason::BadOffload`], [`DropReason::OffloadNotNegotiated`].
    #[inline]
    pub fn offload(&self) -> Result<Offload, DropReason> {
        match self.rest {
            Rest::Guest(packet, allowed) => Offload::check(packet.header.request(), allowed, self.head, self.length),
            Rest::Nic(mbuf) => Ok(match mbuf.rx_checksum() {
                RxChecksum::Good => Offload::Valid,
                RxChecksum::Unknown | RxChecksum::Bad => Offload::None,
                RxChecksum::Partial => {
                    checksum::checksum_of(self.head, self.length).map_or(Offload::None, Offload::Checksum)
                }
            }),
            Rest::Local(LocalFrame { request: (request, allowed), .. }) => {
                Offload::check(request, allowed, self.head, self.length)
            }
        }
    }

    /// Hands the frame to `sink` as it is, behind `header`.
    ///
    /// # Errors
    /// [`PutError`].
    #[inline]
    pub(crate) fn put_into(&self, sink: &mut impl Sink, header: &NetHeader) -> Result<(), PutError> {
        self.put_with_head(sink, header, self.head, self.length)
    }

    /// Hands the frame to `sink` with other first bytes in place of its head; `length` is that of the result.
    ///
    /// # Errors
    /// [`PutError`].
    #[inline]
    pub(crate) fn put_with_head(
        &self,
        sink: &mut impl Sink,
        header: &NetHeader,
        head: &[u8],
        length: u32,
    ) -> Result<(), PutError> {
        match self.rest {
            Rest::Guest(packet, _) => sink.put(header, head, length, packet.rest()),
            Rest::Nic(mbuf) => sink.put(header, head, length, after_head(mbuf.segments(), self.head.len())),
            Rest::Local(LocalFrame { bytes, .. }) => {
                sink.put(header, head, length, after_head(std::iter::once(bytes), self.head.len()))
            }
        }
    }

    /// Copies the frame into a row of buffers; returns how many bytes were written.
    pub fn copy_into<'b>(&self, buffers: impl Iterator<Item = &'b mut [u8]>) -> usize {
        self.copy_with_head(self.head, buffers)
    }

    /// Copies the frame with other first bytes in place of its head.
    pub(crate) fn copy_with_head<'b>(&self, head: &[u8], buffers: impl Iterator<Item = &'b mut [u8]>) -> usize {
        let mut reader = Reader { current: Piece::from(head), rest: self.pieces() };
        let mut written = 0;
        // The first buffer that cannot be filled is the last one.
        for buffer in buffers {
            let copied = reader.read(buffer);
            written += copied;
            if copied < buffer.len() {
                break;
            }
        }
        written
    }

    /// Reads the frame from `offset` on, which is within its head.
    pub(crate) fn read_from(&self, offset: usize) -> Reader<'a> {
        Reader { current: Piece::from(self.head.get(offset..).unwrap_or_default()), rest: self.pieces() }
    }

    fn pieces(&self) -> Pieces<'a> {
        match self.rest {
            Rest::Guest(packet, _) => {
                let (first, more) = packet.pieces();
                Pieces::Guest(Some(first), more.iter())
            }
            Rest::Nic(mbuf) => Pieces::Nic(mbuf.segments(), self.head.len()),
            Rest::Local(LocalFrame { bytes, .. }) => Pieces::Local(bytes.get(self.head.len()..)),
        }
    }
}

/// A frame's bytes, to be read from the front.
pub(crate) struct Reader<'a> {
    current: Piece<'a>,
    rest: Pieces<'a>,
}

impl Reader<'_> {
    /// Copies the next bytes, as many as there are and as `out` holds; returns how many that was.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(room) = out.get_mut(done..).filter(|room| !room.is_empty()) {
            let copied = self.current.copy_to(0, room);
            self.current = self.current.skip(u32::try_from(copied).unwrap_or(u32::MAX));
            done += copied;
            if self.current.length() == 0 {
                let Some(next) = self.rest.next() else { break };
                self.current = next;
            }
        }
        done
    }
}

/// What follows a frame's head, piece by piece.
enum Pieces<'a> {
    Guest(Option<Piece<'a>>, std::slice::Iter<'a, Piece<'a>>),
    /// The segments, the first one with the head at its start.
    Nic(culvert_nic::Segments<'a>, usize),
    Local(Option<&'a [u8]>),
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        match self {
            Self::Guest(first, more) => first.take().or_else(|| more.next().copied()),
            Self::Nic(segments, head) => {
                let segment = segments.next()?;
                Some(Piece::from(segment.get(std::mem::take(head)..).unwrap_or_default()))
            }
            Self::Local(bytes) => bytes.take().map(Piece::from),
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
