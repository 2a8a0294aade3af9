//! Chains of a receive ring that are found for one frame: which they are, and the ranges of memory that they have. The same for split and
//! packed rings, which name a chain (`C`) each in their own way, and walk it themselves.

use crate::net_header::NetHeader;
use crate::piece::{Piece, Room, Rooms};
use crate::receive::PutError;
use crate::split::RingFault;

/// Storage for the chains of one frame, reused from frame to frame.
#[derive(Debug)]
pub(crate) struct Gathered<C> {
    header_bytes: usize,
    mergeable: bool,
    /// Entries of the ring: a frame has no more ranges, and no more descriptors are walked for it.
    size: u16,
    rooms: Vec<Room>,
    /// Each chain, and how many bytes it has.
    chains: Vec<(C, u32)>,
    bytes: u64,
    walked: u32,
}

/// A chain that was read ahead, by its name in the ring: its only buffer, or nothing where it has several or something is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) room: Room,
    pub(crate) chain: u16,
}

impl Default for Look {
    fn default() -> Self {
        Self { room: Room::NONE, chain: 0 }
    }
}

/// The ranges of one chain, as a walk finds them.
pub(crate) struct Found<'g> {
    rooms: &'g mut Vec<Room>,
    bytes: u64,
    is_full: bool,
}

/// What became of a chain.
pub(crate) enum Added {
    /// It is one of the frame's.
    Chain,
    /// It has no room for the header, which must be in one chain (virtio 1.3, 5.1.6.4). It is to be given back empty, or the queue stands still.
    Headless,
}

impl Found<'_> {
    /// Takes the next range, which was checked against the ring's memory.
    #[inline]
    pub(crate) fn push(&mut self, room: Room) {
        self.bytes += u64::from(room.length());
        if self.rooms.len() == self.rooms.capacity() {
            self.is_full = true;
        } else {
            self.rooms.push(room);
        }
    }
}

impl<C: Copy> Gathered<C> {
    pub(crate) fn new(header_bytes: usize, mergeable: bool, size: u16) -> Self {
        let (rooms, chains) = (Vec::with_capacity(size.into()), Vec::with_capacity(size.into()));
        Self { header_bytes, mergeable, size, rooms, chains, bytes: 0, walked: 0 }
    }

    /// Bytes of the virtio-net header.
    #[inline]
    pub(crate) const fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Forgets all chains.
    pub(crate) fn clear(&mut self) {
        self.rooms.clear();
        self.chains.clear();
        (self.bytes, self.walked) = (0, 0);
    }

    /// How many chains there are.
    pub(crate) fn len(&self) -> u16 {
        u16::try_from(self.chains.len()).unwrap_or(u16::MAX)
    }

    /// How many bytes they have.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the chain that `walk` walks, for a frame of `most` bytes; it also returns the chain and how many descriptors that has.
    ///
    /// # Errors
    /// Those of `walk`; [`PutError::SmallBuffer`] when the chain does not do.
    #[inline]
    pub(crate) fn add(
        &mut self,
        most: u64,
        walk: impl FnOnce(&mut Found<'_>) -> Result<(C, u16), RingFault>,
    ) -> Result<Added, PutError> {
        let mut found = Found { rooms: &mut self.rooms, bytes: 0, is_full: false };
        let (chain, walked) = walk(&mut found)?;
        let Found { bytes, is_full, .. } = found;
        // Empty buffers take time as well: a guest could have us walk all of its chains for each frame.
        self.walked += u32::from(walked);
        let is_full = is_full || self.walked > u32::from(self.size);
        if self.chains.is_empty() && bytes < self.header_bytes as u64 {
            return Ok(Added::Headless);
        }
        let whole = self.chains.is_empty() && bytes >= most;
        if is_full || (!self.mergeable && !whole) {
            return Err(PutError::SmallBuffer);
        }
        self.bytes += bytes;
        self.chains.push((chain, u32::try_from(bytes).unwrap_or(u32::MAX)));
        Ok(Added::Chain)
    }

    /// Copies a whole frame into a buffer alone that has room for it; returns how many bytes were written, header included.
    #[inline(always)]
    pub(crate) fn fill<'a>(
        &self,
        whole: Room,
        header: &NetHeader,
        head: &[u8],
        rest: impl Iterator<Item = Piece<'a>>,
    ) -> u32 {
        let bytes = header.to_bytes(1);
        let (mut room, _) = match bytes.first_chunk::<10>() {
            Some(start) if self.header_bytes < bytes.len() => whole.fill(Piece::from(&start[..])),
            _ => whole.fill(Piece::from(&bytes[..])),
        };
        (room, _) = room.fill(Piece::from(head));
        for piece in rest {
            if piece.length() > 0 {
                (room, _) = room.fill(piece);
            }
        }
        whole.length().wrapping_sub(room.length())
    }

    /// Copies a whole frame into all of the chains; returns how many bytes were written, header included.
    pub(crate) fn pour<'a>(&self, header: &NetHeader, head: &[u8], rest: impl Iterator<Item = Piece<'a>>) -> u64 {
        let bytes = header.to_bytes(self.len());
        let mut pour = Pour::new(&self.rooms);
        pour.add(Piece::from(bytes.get(..self.header_bytes).unwrap_or(&bytes)));
        pour.add(Piece::from(head));
        rest.for_each(|piece| pour.add(piece));
        pour.written
    }

    /// Copies header and head into the first `before` bytes, of which the header is the first part, where `written` bytes are taken up in
    /// all; returns how many chains those are.
    pub(crate) fn pour_head(&self, header: &NetHeader, head: &[u8], before: u32, written: u64) -> u16 {
        let (mut count, mut covered) = (0, 0);
        for (_, bytes) in &self.chains {
            if covered < written {
                covered += u64::from(*bytes);
                count += 1;
            }
        }
        let bytes = header.to_bytes(count);
        let bytes = bytes.get(..self.header_bytes).unwrap_or(&bytes);
        let mut pour = Pour::new(&self.rooms);
        pour.add(Piece::from(bytes));
        pour.add(Piece::from(head.get(..(before as usize).saturating_sub(bytes.len())).unwrap_or(head)));
        count
    }

    /// The first `count` chains, and how many of `written` bytes each of them has.
    pub(crate) fn shares(&self, count: u16, mut written: u64) -> impl Iterator<Item = (C, u32)> {
        self.chains.iter().take(usize::from(count)).map(move |(chain, bytes)| {
            let share = u64::from(*bytes).min(written);
            written -= share;
            (*chain, u32::try_from(share).unwrap_or(0))
        })
    }

    /// The `payload_bytes` behind the first `before`.
    pub(crate) fn rooms(&self, before: u32, payload_bytes: u32) -> Rooms<'_> {
        Rooms::in_guest(&self.rooms, before, payload_bytes)
    }
}

/// Pieces poured into a list of rooms, one after the other.
struct Pour<'r> {
    rooms: std::slice::Iter<'r, Room>,
    current: Option<Room>,
    written: u64,
}

impl<'r> Pour<'r> {
    fn new(rooms: &'r [Room]) -> Self {
        let mut rooms = rooms.iter();
        Self { current: rooms.next().copied(), rooms, written: 0 }
    }

    /// Pours as much of `piece` as there is room for.
    fn add(&mut self, mut piece: Piece<'_>) {
        while piece.length() > 0 {
            let Some(room) = self.current else { return };
            let (left, copied) = room.fill(piece);
            piece = piece.skip(copied);
            self.written += u64::from(copied);
            self.current = if left.length() == 0 { self.rooms.next().copied() } else { Some(left) };
        }
    }
}
