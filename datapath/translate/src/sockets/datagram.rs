//! Wishes to the kernel about datagrams: UDP and echo sockets, forwarded UDP ports, multicast groups.
//!
//! What is received comes in bursts, many datagrams by one call, each with where it came from and went to. What the
//! network reports about datagrams that were sent, ICMP errors, comes by a queue of its own. TCP is elsewhere. Used by
//! [`crate::udp`] and [`crate::icmp`]; implemented in `socket::datagram`, and by simulated networks in tests.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::context::Context;
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::{Host, ListenAt, SocketId};

/// Sockets of datagrams, each known by the index that its flow or listener has. Nothing here waits.
pub trait DatagramSockets: Host {
    /// Opens the socket of a UDP flow, [`SocketId::Udp`]. Returns what it was bound to.
    ///
    /// # Errors
    /// The kernel's; nothing is open then.
    fn open_udp(&mut self, index: u32, wish: &UdpWish<'_>) -> io::Result<SocketAddr>;

    /// Opens the listener of a forwarded port, [`SocketId::UdpListener`].
    ///
    /// # Errors
    /// The kernel's: the port is taken, or needs a privilege.
    fn open_udp_listener(&mut self, index: u32, at: &ListenAt<'_>) -> io::Result<()>;

    /// Opens an echo ("ping") socket, [`SocketId::Echo`], of the family that is asked for. What is sent by it has the
    /// identifier that is returned: the one asked for, or another where that one is taken.
    ///
    /// # Errors
    /// The kernel's: `EACCES` where net.ipv4.ping_group_range does not contain our group.
    fn open_echo(&mut self, index: u32, v6: bool, identifier: u16, outbound: Outbound<'_>) -> io::Result<u16>;

    /// Sends one datagram: to `to`, or where the socket is connected to. An echo socket takes whole ICMP messages, and
    /// puts its identifier and the checksum into them. `segment`: the payload is several datagrams of so many bytes
    /// each, the last one perhaps shorter.
    ///
    /// # Errors
    /// The kernel's. An error that the network reported about an earlier datagram is not one.
    fn send_datagram(
        &mut self,
        socket: SocketId,
        payload: Payload<'_>,
        segment: Option<u16>,
        to: Option<SocketAddr>,
        marks: Marks,
    ) -> io::Result<()>;

    /// Receives as many datagrams as there are and as `burst` holds, at least one.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is none, and the kernel's. An error that the network
    /// reported is not one.
    fn receive_datagrams(&mut self, socket: SocketId, burst: &mut Burst) -> io::Result<()>;

    /// The oldest error that the network reported about what was sent. `quoted` takes the first bytes of the datagram's
    /// payload, as far as they came back.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is none, and the kernel's.
    fn receive_error(&mut self, socket: SocketId, quoted: &mut [u8]) -> io::Result<NetworkError>;

    /// Has the datagrams of a multicast group come to this pod: to listeners that are bound to no address.
    ///
    /// # Errors
    /// The kernel's.
    fn join(&mut self, group: IpAddr, interface: u32) -> io::Result<()>;

    /// Undoes [`Self::join`].
    fn leave(&mut self, group: IpAddr, interface: u32);

    /// Closes a socket of this trait's. Nothing happens where there is none.
    fn close_datagrams(&mut self, socket: SocketId);
}

/// What the socket of a UDP flow is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpWish<'a> {
    /// Where it is bound: an unspecified address leaves it to the kernel.
    pub local: SocketAddr,
    /// Whether another port will do where that one is taken, or not ours to take.
    pub any_port: bool,
    /// The interface it is bound to (SO_BINDTODEVICE).
    pub interface: Option<&'a str>,
    /// What it is connected to; `None`: answers come from others, and each datagram is sent to an address.
    pub peer: Option<SocketAddr>,
}

/// What a datagram carries beside addresses and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Type of service, or traffic class: DSCP and ECN.
    pub traffic_class: u8,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it. Of an IPv4 peer in the IPv4 form, whatever the socket. Port 0 of an echo reply.
    pub source: SocketAddr,
    /// To whom: perhaps a group, or all. Known of listeners.
    pub destination: Option<SocketAddr>,
    /// Where an answer to it comes from: the destination, or the pod's own address when that is a group. Known of
    /// listeners.
    pub local: Option<SocketAddr>,
    /// As it arrived.
    pub marks: Marks,
}

/// What the network reported about a datagram that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError {
    /// What.
    pub cause: Cause,
    /// Where the datagram went.
    pub destination: SocketAddr,
    /// How many bytes of its payload came back; of an echo request's, of the whole ICMP message.
    pub quoted_bytes: usize,
}

/// Who found fault with a datagram, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody sent an ICMP or ICMPv6 message.
    Icmp {
        /// Who: a router, or the destination.
        from: IpAddr,
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
        /// What it says beside: of "fragmentation needed" and "packet too big" the MTU, in bytes.
        information: u32,
    },
    /// Our own kernel.
    Local(i32),
}

/// Most datagrams that are received by one call.
pub const BURST: usize = 32;

/// Bytes of the longest datagram, and some more: were it a power of two, the starts of all slots would share few lines of
/// the processor's caches.
const SLOT_BYTES: usize = 65_536 + 192;

/// Room for datagrams, and those in it.
#[derive(Default)]
pub struct Burst {
    /// A slot for each, from the first use on. What was never written costs no memory.
    bytes: Box<[u8]>,
    received: Vec<Received>,
    /// The next that is to be taken: in which slot, and where in it.
    next: (usize, usize),
}

/// What is in a slot.
#[derive(Debug)]
struct Received {
    datagram: Datagram,
    bytes: usize,
    /// Bytes of each datagram, but for the last one, where there are several.
    segment: Option<NonZeroU16>,
}

impl Burst {
    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.received.clear();
        self.next = (0, 0);
    }

    /// Whether all slots are in use: there may be more to receive.
    pub fn is_full(&self) -> bool {
        self.received.len() >= BURST
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// How many slots are in use.
    #[cfg(test)]
    pub(crate) fn slots_in_use(&self) -> usize {
        self.received.len()
    }

    /// All slots, for the kernel to write into; then [`Self::received`] for each that was written, in order.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; BURST * SLOT_BYTES].into_boxed_slice();
        }
        self.bytes.chunks_exact_mut(SLOT_BYTES)
    }

    /// Says what was written to the next slot: a datagram, or several alike of `segment` bytes each, of which the last one
    /// may be shorter.
    pub fn received(&mut self, datagram: Datagram, bytes: usize, segment: Option<NonZeroU16>) {
        if !self.is_full() {
            self.received.push(Received { datagram, bytes: bytes.min(SLOT_BYTES), segment });
        }
    }

    /// The next datagram, with its payload; until [`Self::advance`] the same.
    pub fn next(&self) -> Option<(&Datagram, &[u8])> {
        let (slot, start) = self.next;
        let Received { datagram, bytes, segment } = self.received.get(slot)?;
        let all = self.bytes.get(slot * SLOT_BYTES..)?.get(..*bytes)?;
        let end = segment.map_or(all.len(), |segment| all.len().min(start + usize::from(segment.get())));
        Some((datagram, all.get(start..end).unwrap_or_default()))
    }

    /// Done with the next datagram.
    pub fn advance(&mut self) {
        let (slot, start) = self.next;
        let Some(received) = self.received.get(slot) else { return };
        let end = received.segment.map_or(received.bytes, |segment| start + usize::from(segment.get()));
        self.next = if end < received.bytes { (slot, end) } else { (slot + 1, 0) };
    }

    /// The datagrams with their payload, or whole ICMP message.
    pub fn iter(&self) -> impl Iterator<Item = (&Datagram, &[u8])> {
        let slots = self.bytes.chunks_exact(SLOT_BYTES);
        slots.zip(&self.received).flat_map(|(slot, Received { datagram, bytes, segment })| {
            let all = slot.get(..*bytes).unwrap_or_default();
            let each = segment.map_or(all.len(), |segment| segment.get().into()).max(1);
            // One that is empty is one as well.
            let only = all.is_empty().then_some(all);
            only.into_iter().chain(all.chunks(each)).map(move |payload| (datagram, payload))
        })
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").field("received", &self.received).finish_non_exhaustive()
    }
}

/// Receives what a socket has, in some bursts. Whether there may be more.
pub(crate) fn receive<S: DatagramSockets, L>(
    ctx: &mut Context<'_, S, L>,
    socket: SocketId,
    burst: &mut Burst,
    mut each: impl FnMut(&mut Context<'_, S, L>, &Datagram, &[u8]),
) -> bool {
    for _ in 0..BURSTS {
        burst.clear();
        if ctx.sockets.receive_datagrams(socket, burst).is_err() {
            return false;
        }
        for (datagram, payload) in burst.iter() {
            each(ctx, datagram, payload);
        }
        // Fewer than there is room for: there are no more.
        if !burst.is_full() {
            return false;
        }
    }
    true
}

/// Calls that receive datagrams, for one event.
pub(crate) const BURSTS: usize = 4;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// One after the other or all at once: it is the same.
    #[test]
    fn datagrams_that_came_as_one_are_taken_one_by_one() {
        let datagram = Datagram {
            source: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1),
            destination: None,
            local: None,
            marks: Marks { hop_limit: 64, traffic_class: 0 },
        };
        let mut burst = Burst::default();
        let _ = burst.slots().count();
        for (bytes, segment) in [(10, None), (0, None), (25, Some(10)), (20, Some(10)), (0, Some(10)), (7, Some(10))] {
            burst.received(datagram, bytes, segment.and_then(NonZeroU16::new));
        }
        let expected: Vec<_> = burst.iter().map(|(_, payload)| payload.len()).collect();
        assert_eq!(expected, [10, 0, 10, 10, 5, 10, 10, 0, 7]);
        let mut lengths = Vec::new();
        while let Some((_, payload)) = burst.next() {
            lengths.push(payload.len());
            burst.advance();
        }
        assert_eq!(lengths, expected);
    }
}
