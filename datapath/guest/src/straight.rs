//! The straight way into a receive queue, whichever kind of ring it has: frames that lie whole in one buffer, and to which nothing is left
//! to be done, each into one buffer that was read ahead. One loop copies them, with nothing else in it.

use crate::gather::Look;
use crate::net_header::{NET_HEADER_BYTES, NetHeader};
use crate::piece::Piece;
use crate::transmit::HEAD_BYTES;

/// Bytes of the longest virtio-net header.
pub(crate) const MOST_HEADER: u32 = 12;

/// Bytes before the rest of a frame, where it has some.
const BEFORE_REST: u32 = MOST_HEADER + 128;
const _: () = assert!(BEFORE_REST as usize == NET_HEADER_BYTES + HEAD_BYTES);

/// A burst of frames, of which many are put as they came.
pub trait Straight {
    /// Flags of its virtio-net header, first bytes, and what follows those, of frame `index`, if the rest lies in one piece, and nothing but
    /// that is to be said and done.
    fn straight_parts(&self, index: usize) -> Option<(u8, &[u8], Piece<'_>)>;
}

/// A ring that takes notes of what goes back to its driver.
pub(crate) trait NoteUsed {
    /// Notes, as number `taken` of what is not published yet, that the chain of that name, which has one descriptor, goes back with
    /// `length` bytes written into it.
    fn note_used(&self, taken: u16, chain: u16, length: u32);
}

/// Copies `frames`, a bit for each frame of `burst`, into what was found for them, lowest first, behind headers of so many bytes that ask for
/// nothing, until one is not of the kind, has more than `longest` bytes, or does not fit. They are noted from number `taken` on. Returns the
/// bits of those that were put, and how many bytes they have.
#[inline(always)]
pub(crate) fn copy(
    ring: &impl NoteUsed,
    taken: u16,
    looks: &[Look],
    header_bytes: usize,
    burst: &impl Straight,
    frames: u32,
    longest: u32,
) -> (u32, u64) {
    match header_bytes {
        NET_HEADER_BYTES => copy_behind(ring, taken, looks, &NetHeader::default().to_bytes(1), burst, frames, longest),
        _ => copy_behind(ring, taken, looks, &[0; 10], burst, frames, longest),
    }
}

/// The same with this header before each frame.
#[inline(always)]
fn copy_behind<const N: usize>(
    ring: &impl NoteUsed,
    mut taken: u16,
    mut looks: &[Look],
    header: &[u8; N],
    burst: &impl Straight,
    frames: u32,
    longest: u32,
) -> (u32, u64) {
    let header_bytes = u32::try_from(N).unwrap_or(0);
    let (mut left, mut bytes) = (frames, 0_u64);
    while let [look, more @ ..] = looks
        && let Some((flags, head, rest)) = burst.straight_parts(left.trailing_zeros() as usize)
    {
        let others = left & left.wrapping_sub(1);
        // The next frame is mostly as long as this one.
        if let [next, ..] = more {
            next.room.fetch_start();
            if rest.length() > 0 {
                next.room.fetch_behind(rest.length().saturating_add(BEFORE_REST));
            }
        }
        if rest.length() > 0
            && let Some((.., next)) = burst.straight_parts(others.trailing_zeros() as usize)
        {
            next.fetch();
        }
        let mut header = *header;
        if let [place, ..] = &mut header[..] {
            *place = flags;
        }
        let Some(length) = look.room.fill_whole(&header, head, rest, longest) else { break };
        ring.note_used(taken, look.chain, length.wrapping_add(header_bytes));
        taken = taken.wrapping_add(1);
        (left, looks) = (others, more);
        bytes = bytes.wrapping_add(u64::from(length));
    }
    (frames & !left, bytes)
}
