//! How a frame leaves at one port: with which tag, and what is done of that which its sender left undone.
//!
//! [`treat`] decides. [`deliver`] carries it out towards a guest; towards a NIC, `outlet/nic.rs` does.
//! A frame whose checksum is to be completed or that is to be segmented here is copied into the worker's [`Workspace`]
//! first and summed there: so the sum is that of the bytes which are sent, whatever the sender writes meanwhile.

use culvert_frame::{
    DropReason, MAX_FRAME_BYTES, Offload, Offloads, PartialChecksum, Segmentation, Segmenter, checksum,
};
use culvert_guest::NetHeader;
use culvert_guest::receive::PutError;
use culvert_guest::transmit::HEAD_BYTES;

use crate::burst::{Frame, Sink};
use crate::ingress::Ingress;
use crate::port::Port;
use crate::vlan::{TAG_BYTES, TagEdit, Vlans};

/// How a frame leaves at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// What becomes of its tag.
    pub edit: TagEdit,
    /// What is done to the rest of it. Offsets are those before the edit.
    pub work: Work,
}

/// What is done to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the receiver does what is left to be done, if anything.
    Pass(Offload),
    /// Its checksum is completed.
    Complete(PartialChecksum),
    /// It is cut into segments.
    Segment(Segmentation),
}

/// Decides how a frame leaves at `port`.
///
/// # Errors
/// [`DropReason::ExceedsMtu`].
#[inline]
pub fn treat(port: &Port, ingress: &Ingress, length: u32, head: &[u8]) -> Result<Treatment, DropReason> {
    if let (Offload::None, Vlans::Transparent) = (ingress.offload, &port.rules.vlans) {
        // Most frames: they leave as they came.
        let unchanged = Treatment { edit: TagEdit::Keep, work: Work::Pass(Offload::None) };
        return if port.exceeds_mtu(length, head) { Err(DropReason::ExceedsMtu) } else { Ok(unchanged) };
    }
    treat_changed(port, ingress, length, head)
}

#[inline(never)]
fn treat_changed(port: &Port, ingress: &Ingress, length: u32, head: &[u8]) -> Result<Treatment, DropReason> {
    let longest = match ingress.offload {
        Offload::Segment(segmentation) => segmentation.segment_bytes(),
        Offload::None | Offload::Valid | Offload::Checksum(_) => length,
    };
    if port.exceeds_mtu(longest, head) {
        return Err(DropReason::ExceedsMtu);
    }
    let edit = if port.is_mirror_target { TagEdit::Keep } else { port.rules.vlans.egress(ingress.membership) };
    let takes = port.egress.takes();
    let work = match ingress.offload {
        Offload::Valid if !takes.contains(Offloads::CHECKSUM) => Work::Pass(Offload::None),
        offload if offload.receivable(takes) => Work::Pass(offload),
        Offload::Checksum(partial) => Work::Complete(partial),
        Offload::Segment(segmentation) => Work::Segment(segmentation),
        Offload::None | Offload::Valid => Work::Pass(Offload::None),
    };
    Ok(Treatment { edit, work })
}

/// Where one worker makes frames.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Segments that may still be made of the present burst.
    segments: u32,
    frame: Box<[u8]>,
    head: [u8; HEAD_BYTES + TAG_BYTES],
}

impl Default for Workspace {
    fn default() -> Self {
        let longest = usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX).saturating_add(TAG_BYTES);
        Self { segments: BURST_SEGMENTS, frame: vec![0; longest].into(), head: [0; HEAD_BYTES + TAG_BYTES] }
    }
}

/// Segments that are made of one burst, for all receivers together: those of 32 frames of 64 KiB at an MTU of 1500, for
/// nearly three receivers. The frames of a sender that asks for small segments cannot hold a worker up for long.
pub(crate) const BURST_SEGMENTS: u32 = 4096;

impl Workspace {
    /// A new burst begins.
    #[inline]
    pub(crate) const fn begin_burst(&mut self) {
        self.segments = BURST_SEGMENTS;
    }

    /// How many segments were made of the present burst, or of the last one.
    #[inline]
    pub(crate) const fn cut(&self) -> u32 {
        BURST_SEGMENTS.saturating_sub(self.segments)
    }

    /// Whether a frame may be cut into that many segments; if so, they are counted.
    pub(crate) const fn may_cut(&mut self, segments: u32) -> bool {
        match self.segments.checked_sub(segments) {
            Some(left) => {
                self.segments = left;
                true
            }
            None => false,
        }
    }

    /// The frame's first bytes as they leave.
    pub(crate) fn edited_head(&mut self, frame: &Frame<'_>, edit: TagEdit) -> &mut [u8] {
        let length = edit.apply(frame.head, &mut self.head);
        self.head.get_mut(..length).unwrap_or_default()
    }

    /// The whole frame as it arrived, up to `most` bytes of it.
    pub(crate) fn copy(&mut self, frame: &Frame<'_>, most: usize) -> &[u8] {
        let most = self.frame.len().min(most);
        let length = frame.copy_into(self.frame.get_mut(..most).into_iter());
        self.frame.get(..length).unwrap_or_default()
    }

    /// The whole frame as it leaves, with its checksum.
    pub(crate) fn complete(&mut self, frame: &Frame<'_>, edit: TagEdit, partial: PartialChecksum) -> &[u8] {
        let head = edit.apply(frame.head, &mut self.head);
        let head = self.head.get(..head).unwrap_or_default();
        let length = frame.copy_with_head(head, std::iter::once(&mut *self.frame));
        let whole = self.frame.get_mut(..length).unwrap_or_default();
        checksum::complete(whole, partial.moved(edit.growth()));
        whole
    }

    /// Cuts a frame into segments as they leave; hands each to `with` until that returns an error.
    pub(crate) fn segment<E>(
        &mut self,
        frame: &Frame<'_>,
        edit: TagEdit,
        segmentation: Segmentation,
        mut with: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut payload = frame.read_from(usize::from(segmentation.header_bytes));
        let head = edit.apply(frame.head, &mut self.head);
        let head = self.head.get(..head).unwrap_or_default();
        let mut segmenter = Segmenter::new(head, segmentation.moved(edit.growth()), edit.length(frame.length));
        while let Some(segment) = segmenter.next(&mut self.frame, |room| {
            let read = payload.read(room);
            // What the sender's buffers do not hold any more must not be an earlier frame's bytes.
            room.get_mut(read..).unwrap_or_default().fill(0);
        }) {
            with(segment)?;
        }
        Ok(())
    }
}

/// Hands a frame to a guest in its treatment.
///
/// # Errors
/// [`PutError`]; of a segmented frame some segments may have been put.
#[inline]
pub(crate) fn deliver(
    sink: &mut impl Sink,
    takes: Offloads,
    frame: &Frame<'_>,
    treatment: Treatment,
    workspace: &mut Workspace,
) -> Result<(), PutError> {
    if let Treatment { edit: TagEdit::Keep, work: Work::Pass(Offload::None) } = treatment {
        return frame.put_into(sink, &NetHeader::default());
    }
    deliver_changed(sink, takes, frame, treatment, workspace)
}

#[inline(never)]
fn deliver_changed(
    sink: &mut impl Sink,
    takes: Offloads,
    frame: &Frame<'_>,
    Treatment { edit, work }: Treatment,
    workspace: &mut Workspace,
) -> Result<(), PutError> {
    // Sums that we have made need not be checked again.
    let valid = if takes.contains(Offloads::CHECKSUM) { Offload::Valid } else { Offload::None };
    let made = NetHeader::of(&valid.fields());
    match work {
        Work::Pass(offload) => {
            let moved = offload.moved(edit.growth());
            let length = edit.length(frame.length);
            let head = workspace.edited_head(frame, edit);
            if let Offload::Segment(segmentation) = moved {
                segmentation.set_pseudo_checksum(head, length);
            }
            match (frame.put_with_head(sink, &NetHeader::of(&moved.fields()), head, length), offload) {
                // The guest took unsegmented frames upon itself and has no buffers for them.
                (Err(PutError::SmallBuffer), Offload::Segment(segmentation)) => {
                    if !workspace.may_cut(segmentation.segments(frame.length)) {
                        return Err(PutError::SmallBuffer);
                    }
                    workspace.segment(frame, edit, segmentation, |segment| put_all(sink, &made, segment))
                }
                (result, _) => result,
            }
        }
        Work::Complete(partial) => {
            let whole = workspace.complete(frame, edit, partial);
            put_all(sink, &made, whole)
        }
        Work::Segment(segmentation) => {
            workspace.segment(frame, edit, segmentation, |segment| put_all(sink, &made, segment))
        }
    }
}

fn put_all(sink: &mut impl Sink, header: &NetHeader, frame: &[u8]) -> Result<(), PutError> {
    sink.put(header, frame, u32::try_from(frame.len()).unwrap_or(u32::MAX), std::iter::empty())
}
