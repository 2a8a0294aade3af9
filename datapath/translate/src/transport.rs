//! The ways to a guest: vhost-user, QEMU's stream socket, or a packet socket.
//!
//! A [`Transport`] belongs to one thread and is driven by that thread's event loop; it never waits and never polls:
//!
//! 1. wait until an event or [`Transport::deadline`]; hand the transport's events to [`Transport::event`];
//! 2. [`Transport::turn`]: does what is due and tells what became of the guest ([`News`]);
//! 3. [`Transport::halves`]: the [`Source`] gives frames from the guest, burst by burst, until one is empty (or put it
//!    off: the deadline is at once then); the [`Link`] takes frames for the guest, and is flushed at the end.
//!
//! Not here: what frames mean. What a guest leaves undone (checksums, segmentation) is handed on as it was asked for;
//! what it does not take is finished on its way out, so whoever sends need not care.

mod finish;
mod join;
pub mod packet_socket;
pub mod qemu_stream;
pub mod rings;
pub mod vhost_user;

use std::io;
use std::ops::Range;

use culvert_frame::{DropReason, Offload, Offloads};
use culvert_guest::transmit::BURST;
use culvert_guest::{NetHeader, Packet, Piece, Received, Rooms};
use mio::{Registry, Token};

use crate::lane::Relay;
use crate::link::{Full, GuestLink};
use crate::time::Instant;
pub use packet_socket::PacketSocket;
pub use qemu_stream::QemuStream;
pub use vhost_user::VhostUser;

/// How many tokens of the event loop a transport uses, from its first one on.
pub const TOKENS: usize = vhost_user::TOKENS;

/// A way to the guest.
#[derive(Debug)]
pub enum Transport {
    /// Its rings, in memory that it shares.
    VhostUser(Box<VhostUser>),
    /// Frames over a stream socket.
    Stream(Box<QemuStream>),
    /// Frames over a packet socket, or a tap device.
    Packet(Box<PacketSocket>),
}

/// What became of the guest in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// A guest's driver can be spoken to from now on, after it could not.
    pub came: bool,
    /// A connection ended. With passt's `--one-off`, and with an inherited descriptor, that is the end.
    pub left: bool,
    /// There may be room again after [`Full`].
    pub room: bool,
}

impl Transport {
    /// Leaves the name of a socket behind, so that nothing of the file system stays open:
    /// [`SocketName::leave`](culvert_vhost::listen::SocketName::leave).
    pub fn leave_name(&mut self) {
        match self {
            Self::VhostUser(transport) => transport.leave_name(),
            Self::Stream(transport) => transport.leave_name(),
            Self::Packet(_) => {}
        }
    }

    /// The longest packet that it carries, in bytes, where that is known: a guest is not to be told of a larger MTU.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::VhostUser(transport) => transport.longest_packet(),
            Self::Stream(_) => None,
            Self::Packet(transport) => transport.mtu().and_then(|bytes| u16::try_from(bytes).ok()),
        }
    }

    /// What became of the guest since the last turn; also does what is due at [`Self::deadline`]. To be called once in
    /// each turn of the event loop.
    pub fn turn(&mut self, now: Instant) -> News {
        match self {
            Self::VhostUser(transport) => transport.turn(now),
            Self::Stream(transport) => transport.turn(now),
            Self::Packet(transport) => transport.turn(now),
        }
    }

    /// Something happened at one of the transport's tokens. Others are ignored.
    pub fn event(&mut self, token: Token, now: Instant) {
        match self {
            Self::VhostUser(transport) => transport.event(token, now),
            Self::Stream(transport) => transport.event(token),
            Self::Packet(transport) => transport.event(token),
        }
    }

    /// When the next turn is due, whatever happens: at once where frames are left.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::VhostUser(transport) => transport.deadline(now),
            Self::Stream(transport) => transport.deadline(now),
            Self::Packet(transport) => transport.deadline(now),
        }
    }

    /// Whether the guest has left frames that were not looked at yet: by reading memory alone, where that can be told so.
    pub fn has_frames(&mut self) -> bool {
        match self {
            Self::VhostUser(transport) => transport.has_frames(),
            Self::Stream(_) | Self::Packet(_) => false,
        }
    }

    /// Whether the guest need not tell of frames, until this is said otherwise and there was another turn: the caller looks
    /// for them ([`Self::has_frames`]), and does not sleep meanwhile. Sockets tell of them always.
    pub fn stay_awake(&mut self, stay: bool) {
        match self {
            Self::VhostUser(transport) => transport.stay_awake(stay),
            Self::Stream(_) | Self::Packet(_) => {}
        }
    }

    /// The two directions, which are used at the same time: a burst is borrowed from the one while its answers go
    /// into the other.
    pub fn halves(&mut self) -> (Source<'_>, Link<'_>) {
        match self {
            Self::VhostUser(transport) => {
                let (source, link) = transport.halves();
                (Source::Rings(source), Link::Rings(link))
            }
            Self::Stream(transport) => {
                let (source, link) = transport.halves();
                (Source::Stream(source), Link::Stream(link))
            }
            Self::Packet(transport) => {
                let (source, link) = transport.halves();
                (Source::Packet(source), Link::Packet(link))
            }
        }
    }

    /// Closes the connection, because the guest cannot be trusted with it any more, as after `EFAULT` on its memory
    /// ([`culvert_guest::descriptor`]). It may connect again.
    pub fn quarantine(&mut self, reason: String) {
        match self {
            Self::VhostUser(transport) => transport.quarantine(reason),
            Self::Stream(transport) => transport.quarantine(reason),
            Self::Packet(_) => {}
        }
    }

    /// What passed so far.
    pub fn totals(&self) -> Totals {
        match self {
            Self::VhostUser(transport) => transport.totals(),
            Self::Stream(transport) => transport.totals(),
            Self::Packet(transport) => transport.totals(),
        }
    }
}

/// What a transport lost or refused, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that began.
    pub connections: u64,
    /// Connections that were closed for the guest's fault.
    pub quarantined: u64,
    /// Frames from the guest on a queue that it had disabled.
    pub rx_disabled: u64,
    /// Frames to the guest that fit into none of its buffers, or that the kernel refused.
    pub tx_refused: u64,
    /// Frames to the guest that were cut into segments here.
    pub tx_segmented: u64,
}

impl Totals {
    /// Adds what another thread has counted.
    pub const fn add(&mut self, other: &Self) {
        let Self { connections, quarantined, rx_disabled, tx_refused, tx_segmented } = other;
        self.connections += *connections;
        self.quarantined += *quarantined;
        self.rx_disabled += *rx_disabled;
        self.tx_refused += *tx_refused;
        self.tx_segmented += *tx_segmented;
    }
}

/// Frames from the guest.
#[derive(Debug)]
pub enum Source<'a> {
    /// From its transmit rings.
    Rings(rings::RingSource<'a>),
    /// From its stream.
    Stream(qemu_stream::StreamSource<'a>),
    /// From its packet socket.
    Packet(packet_socket::PacketSource<'a>),
}

impl Source<'_> {
    /// The next frames, at most [`MAX_FRAMES`]. An empty burst: there are none, and an event
    /// tells of the next one.
    pub fn receive(&mut self) -> Burst<'_> {
        match self {
            Self::Rings(source) => source.receive(),
            Self::Stream(source) => source.receive(),
            Self::Packet(source) => source.receive(),
        }
    }
}

/// Some frames from the guest. What they borrow goes back when this is dropped.
#[derive(Debug)]
pub struct Burst<'a> {
    frames: Frames<'a>,
    /// What the guest may leave to us.
    asks: Offloads,
}

#[derive(Debug)]
enum Frames<'a> {
    None,
    Rings(Received<'a>),
    /// In memory of ours: all bytes, where each frame is, and what was joined to them.
    Own(&'a [u8], &'a [Place], Vec<Piece<'a>>),
}

/// Most frames of one burst.
pub const MAX_FRAMES: usize = 2 * BURST;

/// Where a frame lies in a buffer of ours, and what its sender asks for.
#[derive(Clone, Debug, Default)]
struct Place {
    header: NetHeader,
    bytes: Range<usize>,
    /// Which of the joined parts follow.
    parts: Range<usize>,
}

impl Burst<'_> {
    const NONE: Self = Burst { frames: Frames::None, asks: Offloads::NONE };

    /// How many frames.
    pub fn len(&self) -> usize {
        match &self.frames {
            Frames::None => 0,
            Frames::Rings(received) => received.len(),
            Frames::Own(_, places, _) => places.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frame `index`, below [`Self::len`], and what its sender left undone, checked against its headers: a checksum,
    /// or, as [`Offload::Segment`], up to 64 KiB of TCP or of UDP datagrams of one flow.
    ///
    /// # Errors
    /// Why it is no frame.
    #[inline]
    pub fn frame(&self, index: usize) -> Result<(Packet<'_>, Offload), DropReason> {
        let packet = match &self.frames {
            Frames::None => return Err(DropReason::Runt),
            Frames::Rings(received) => received.packet(index)?,
            Frames::Own(bytes, places, parts) => {
                let place = places.get(index).ok_or(DropReason::Runt)?;
                let more = parts.get(place.parts.clone()).unwrap_or_default();
                Packet::of_parts(place.header, bytes.get(place.bytes.clone()).unwrap_or_default(), more)
            }
        };
        let offload = Offload::check(packet.header.request(), self.asks, packet.head, packet.length)?;
        Ok((packet, offload))
    }
}

/// Frames to the guest.
#[derive(Debug)]
pub enum Link<'a> {
    /// Into its receive rings.
    Rings(rings::RingLink<'a>),
    /// Into its stream.
    Stream(qemu_stream::StreamLink<'a>),
    /// Into its packet socket.
    Packet(packet_socket::PacketLink<'a>),
    /// Into the receive rings of one lane, or by another lane where those take none.
    Lane(rings::RingLink<'a>, &'a Relay),
}

impl GuestLink for Link<'_> {
    fn takes(&self) -> Offloads {
        match self {
            Self::Rings(link) => link.takes(),
            Self::Stream(_) => Offloads::NONE,
            Self::Packet(_) => packet_socket::TAKES,
            Self::Lane(link, _) => link.takes(),
        }
    }

    #[inline]
    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        match self {
            Self::Rings(link) => link.put(offload, head, payload),
            Self::Stream(link) => link.put(offload, head, payload),
            Self::Packet(link) => link.put(offload, head, payload),
            Self::Lane(link, _) if link.is_there() => link.put(offload, head, payload),
            Self::Lane(_, relay) => relay.put(offload, head, payload),
        }
    }

    #[inline]
    fn reserve(&mut self, offload: Offload, head: &[u8], payload_bytes: u32) -> Result<Option<Reservation<'_>>, Full> {
        let kind = match self {
            Self::Rings(link) => link.reserve(offload, head, payload_bytes)?.map(Reserved::Ring),
            Self::Stream(link) => link.reserve(offload, head, payload_bytes)?.map(Reserved::Stream),
            Self::Lane(link, _) if link.is_there() => link.reserve(offload, head, payload_bytes)?.map(Reserved::Ring),
            Self::Packet(_) | Self::Lane(..) => None,
        };
        Ok(kind.map(Reservation))
    }

    fn is_full(&self) -> bool {
        match self {
            // What finds no ring of its own goes to another thread's, which says nothing of its room.
            Self::Rings(link) | Self::Lane(link, _) => link.is_full(),
            Self::Stream(_) | Self::Packet(_) => false,
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Rings(link) | Self::Lane(link, _) => link.is_there(),
            Self::Stream(_) | Self::Packet(_) => false,
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Rings(link) => link.flush(),
            Self::Stream(link) => link.flush(),
            Self::Packet(_) => {}
            Self::Lane(link, _) => link.flush(),
        }
    }
}

/// Room for one frame at the guest, to be filled by [`descriptor::receive`](culvert_guest::descriptor::receive).
/// Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Reservation<'a>(Reserved<'a>);

#[derive(Debug)]
enum Reserved<'a> {
    Ring(rings::RingReservation<'a>),
    Stream(qemu_stream::StreamReservation<'a>),
}

impl Reservation<'_> {
    /// Where the payload goes.
    #[inline]
    pub fn rooms(&mut self) -> Rooms<'_> {
        match &mut self.0 {
            Reserved::Ring(reservation) => reservation.rooms(),
            Reserved::Stream(reservation) => reservation.rooms(),
        }
    }

    /// Puts the frame: `head`, as long as was said, and the first `payload_bytes` of what was received. `offload` as
    /// with [`GuestLink::put`]; less may be left undone than was said, not more.
    #[inline]
    pub fn commit(self, offload: Offload, head: &[u8], payload_bytes: u32) {
        match self.0 {
            Reserved::Ring(reservation) => reservation.commit(offload, head, payload_bytes),
            Reserved::Stream(reservation) => reservation.commit(offload, head, payload_bytes),
        }
    }
}

/// Watches descriptors under a transport's tokens.
#[derive(Debug)]
struct Watch {
    registry: Registry,
    first: usize,
}

impl Watch {
    fn new(registry: &Registry, first: Token) -> io::Result<Self> {
        Ok(Self { registry: registry.try_clone()?, first: first.0 })
    }

    /// The token of number `index`.
    const fn token(&self, index: usize) -> Token {
        Token(self.first + index)
    }

    /// Which of our tokens this is.
    fn index(&self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.first).filter(|index| *index < TOKENS)
    }
}
