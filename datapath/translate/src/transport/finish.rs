//! What a guest does not take undone is finished here: checksums completed, large frames cut into segments.
//!
//! Called by each transport for frames to the guest, with the [`Sink`] that puts one frame. A frame is accepted whole
//! or not at all: segments that find no room wait in a [`Backlog`], before which nothing else is put.

use std::collections::VecDeque;

use culvert_frame::{MAX_FRAME_BYTES, Offload, Offloads, PartialChecksum, Segmentation, Segmenter, checksum};
use culvert_guest::NetHeader;
use culvert_guest::receive::PutError;

/// Puts one frame, as it is.
pub trait Sink {
    /// What it takes undone.
    fn takes(&self) -> Offloads;

    /// Puts a frame: `head`, then `payload`.
    ///
    /// # Errors
    /// [`PutError`]; the frame was not put.
    fn put(&mut self, header: &NetHeader, head: &[u8], payload: &[u8]) -> Result<(), PutError>;

    /// Puts a frame whose checksum is to be completed before.
    ///
    /// # Errors
    /// As [`Self::put`].
    fn put_completed(
        &mut self,
        partial: PartialChecksum,
        head: &[u8],
        payload: &[u8],
        workspace: &mut Workspace,
    ) -> Result<(), PutError> {
        let length = head.len() + payload.len();
        let frame = workspace.frame.get_mut(..length).ok_or(PutError::SmallBuffer)?;
        let (start, end) = frame.split_at_mut(head.len());
        start.copy_from_slice(head);
        end.copy_from_slice(payload);
        checksum::complete(frame, partial);
        self.put(&made(self.takes()), frame, &[])
    }
}

/// Where frames are finished: room for the largest one.
#[derive(Debug)]
pub struct Workspace {
    frame: Box<[u8]>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self { frame: vec![0; usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX)].into() }
    }
}

/// Segments of one frame that found no room yet.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// Length of each segment that is left.
    lengths: VecDeque<usize>,
    /// Where the next one starts.
    start: usize,
}

impl Backlog {
    /// Puts what there is room for.
    ///
    /// # Errors
    /// [`PutError::NoBuffer`]: some are left. Faults. Segments that no buffer is large enough for are lost.
    pub fn drain(&mut self, sink: &mut impl Sink) -> Result<(), PutError> {
        let header = made(sink.takes());
        while let Some(&length) = self.lengths.front() {
            let segment = self.bytes.get(self.start..self.start + length).unwrap_or_default();
            match sink.put(&header, segment, &[]) {
                Ok(()) | Err(PutError::SmallBuffer) => {}
                Err(error) => return Err(error),
            }
            self.lengths.pop_front();
            self.start += length;
        }
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn push(&mut self, segment: &[u8]) {
        self.bytes.extend_from_slice(segment);
        self.lengths.push_back(segment.len());
    }
}

/// Puts a frame, finished as far as the sink needs it. Returns whether it was cut into segments.
///
/// # Errors
/// [`PutError`]; nothing of the frame was put.
#[inline]
pub fn put(
    sink: &mut impl Sink,
    offload: Offload,
    head: &[u8],
    payload: &[u8],
    workspace: &mut Workspace,
    backlog: &mut Backlog,
) -> Result<bool, PutError> {
    let takes = sink.takes();
    let offload = simplest(offload, head.len() + payload.len(), takes);
    if offload.receivable(takes) {
        let result = sink.put(&NetHeader::of(&offload.fields()), head, payload);
        return match (result, offload) {
            // The guest took large frames upon itself and has no buffers for them, or not enough: perhaps it never has.
            (Err(PutError::SmallBuffer | PutError::NoBuffer), Offload::Segment(segmentation)) => {
                segment(sink, segmentation, head, payload, workspace, backlog).map(|()| true)
            }
            (result, _) => result.map(|()| false),
        };
    }
    match offload {
        Offload::Segment(segmentation) => segment(sink, segmentation, head, payload, workspace, backlog).map(|()| true),
        Offload::Checksum(partial) => sink.put_completed(partial, head, payload, workspace).map(|()| false),
        Offload::None | Offload::Valid => sink.put(&NetHeader::default(), head, payload).map(|()| false),
    }
}

#[inline(never)]
fn segment(
    sink: &mut impl Sink,
    segmentation: Segmentation,
    head: &[u8],
    payload: &[u8],
    workspace: &mut Workspace,
    backlog: &mut Backlog,
) -> Result<(), PutError> {
    let header = made(sink.takes());
    let length = u32::try_from(head.len() + payload.len()).map_err(|_| PutError::SmallBuffer)?;
    let header_bytes = usize::from(segmentation.header_bytes);
    let (headers, mut before) = head.split_at_checked(header_bytes).ok_or(PutError::SmallBuffer)?;
    let mut after = payload;
    let mut segmenter = Segmenter::new(headers, segmentation, length);
    let mut put_some = false;
    while let Some(segment) = segmenter.next(&mut workspace.frame, |mut room| {
        for part in [&mut before, &mut after] {
            let (now, later) = part.split_at(part.len().min(room.len()));
            let (filled, left) = std::mem::take(&mut room).split_at_mut(now.len());
            filled.copy_from_slice(now);
            (*part, room) = (later, left);
        }
    }) {
        if backlog.is_empty() {
            match sink.put(&header, segment, &[]) {
                Ok(()) => put_some = true,
                Err(PutError::NoBuffer) if put_some => backlog.push(segment),
                Err(error) => return Err(error),
            }
        } else {
            backlog.push(segment);
        }
    }
    Ok(())
}

/// The header of a frame whose sums we have made.
fn made(takes: Offloads) -> NetHeader {
    let valid = if takes.contains(Offloads::CHECKSUM) { Offload::Valid } else { Offload::None };
    NetHeader::of(&valid.fields())
}

/// What is left to do for a frame of `length` bytes that goes to somebody who takes `takes`: one segment needs no
/// cutting.
#[inline]
pub fn simplest(offload: Offload, length: usize, takes: Offloads) -> Offload {
    match offload {
        Offload::Valid if !takes.contains(Offloads::CHECKSUM) => Offload::None,
        Offload::Segment(segmentation)
            if length <= usize::from(segmentation.header_bytes) + usize::from(segmentation.size) =>
        {
            Offload::Checksum(segmentation.partial_checksum())
        }
        offload => offload,
    }
}

#[cfg(test)]
mod tests {
    use culvert_frame::SegmentKind;

    use super::*;

    /// Receive buffers of 2000 bytes each, of which a frame takes several.
    struct Buffers {
        free: usize,
        got: Vec<usize>,
    }

    impl Sink for Buffers {
        fn takes(&self) -> Offloads {
            Offloads::CHECKSUM | Offloads::TSO4
        }

        fn put(&mut self, _: &NetHeader, head: &[u8], payload: &[u8]) -> Result<(), PutError> {
            let length = head.len() + payload.len();
            self.free = self.free.checked_sub(length.div_ceil(2000)).ok_or(PutError::NoBuffer)?;
            self.got.push(length);
            Ok(())
        }
    }

    /// With `--pcap` nothing is sent straight into the guest's buffers, and a frame of 64 KiB never fits a ring of 16.
    #[test]
    fn a_frame_that_the_whole_ring_cannot_hold_is_cut() {
        let segmentation = Segmentation {
            kind: SegmentKind::Tcp4,
            ecn: false,
            size: 1460,
            network: 14,
            transport: 34,
            header_bytes: 54,
        };
        let mut head = [0; 54];
        (head[12], head[14], head[23], head[46]) = (8, 0x45, 6, 0x50);
        let (mut workspace, mut backlog) = (Workspace::default(), Backlog::default());
        let mut ring = Buffers { free: 16, got: Vec::new() };
        let mut send = |ring: &mut Buffers, backlog: &mut Backlog| {
            put(ring, Offload::Segment(segmentation), &head, &[1; 14_600 * 4], &mut workspace, backlog)
        };
        assert_eq!(send(&mut ring, &mut backlog), Ok(true));
        while !backlog.is_empty() {
            assert_eq!(ring.free, 0);
            ring.free = 16;
            let _ = backlog.drain(&mut ring);
        }
        assert_eq!(ring.got, [1514; 40]);
        // Where there is no room at all it waits, whole.
        ring.free = 0;
        assert_eq!(send(&mut ring, &mut backlog), Err(PutError::NoBuffer));
        assert!(backlog.is_empty());
    }
}
