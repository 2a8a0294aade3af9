//! Fragments (RFC 791, RFC 815, RFC 8200, RFC 5722): those of the guest's are put together, and packets that are longer
//! than its MTU are cut into some.
//!
//! How much waits to become whole is bounded in packets, bytes and time; what was touched longest ago makes room. A
//! packet of which two fragments overlap is given up whole, as no honest sender makes any (RFC 5722, here for IPv4 as
//! well); a repeated fragment is passed over. What became whole goes the way of all packets. [`Reassembler`] is called
//! by the translator, [`put`] by those who make datagrams.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use culvert_frame::Offload;

use crate::context::Context;
use crate::guest::Guest;
use crate::head::{Ends, Head};
use crate::link::{Full, GuestLink};
use crate::packet::{Fragment, IpPacket, Payload, internet_checksum};
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::time::Instant;

/// Packets of the guest's that are not whole yet.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// The one that was touched last is the last.
    packets: VecDeque<(Key, Partial)>,
    /// Of all packets.
    bytes: usize,
}

/// A packet that became whole.
#[derive(Debug)]
pub struct Whole {
    first: First,
    bytes: Vec<u8>,
}

impl Reassembler {
    /// Takes a fragment (`ip.fragment` is not `None`); returns the packet that it makes whole.
    ///
    /// # Errors
    /// [`Refusal::BadFragment`].
    pub fn add(&mut self, now: Instant, ip: &IpPacket<'_>) -> Result<Option<Whole>, Refusal> {
        self.expire(now);
        let range = Range::of(ip)?;
        let key = Key::of(ip, range.fragment.identification);
        let place = self.packets.iter().position(|(other, _)| *other == key);
        let held = place.and_then(|place| self.packets.remove(place));
        let mut partial = held.map_or_else(|| Partial::new(now), |(_, partial)| partial);
        self.bytes -= partial.bytes.len();
        self.make_room(usize::from(range.end).max(partial.bytes.len()));

        let result = partial.add(ip, &range);
        if partial.is_whole() {
            return Ok(partial.into_whole());
        }
        self.bytes += partial.bytes.len();
        self.packets.push_back((key, partial));
        result.map(|()| None)
    }

    /// When [`Self::expire`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.packets.iter().map(|(key, partial)| partial.began + key.timeout()).min()
    }

    /// Gives up what did not become whole in time.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.packets.retain(|(key, partial)| partial.began + key.timeout() > now);
            self.bytes = self.packets.iter().map(|(_, partial)| partial.bytes.len()).sum();
        }
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Gives packets up until there is room for one of `bytes`.
    fn make_room(&mut self, bytes: usize) {
        while self.packets.len() >= MAX_PACKETS || self.bytes + bytes > MAX_BYTES {
            let Some((_, oldest)) = self.packets.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }
}

impl Whole {
    /// The packet, without fragment. Its header is the first fragment's; of IPv6, without extensions.
    pub fn packet(&self) -> IpPacket<'_> {
        IpPacket { header: &self.first.header, payload: Payload::of_bytes(&self.bytes), ..self.first.packet }
    }
}

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    /// 0 for IPv6: RFC 8200 identifies without.
    protocol: u8,
    identification: u32,
}

impl Key {
    const fn of(ip: &IpPacket<'_>, identification: u32) -> Self {
        let protocol = if ip.source.is_ipv4() { ip.protocol } else { 0 };
        Self { source: ip.source, destination: ip.destination, protocol, identification }
    }

    const fn timeout(&self) -> Duration {
        if self.source.is_ipv4() { TIMEOUT_V4 } else { TIMEOUT_V6 }
    }
}

/// The part of a packet's payload that a fragment is, in bytes; not empty.
#[derive(Clone, Copy, Debug)]
struct Range {
    fragment: Fragment,
    end: u16,
}

impl Range {
    fn of(ip: &IpPacket<'_>) -> Result<Self, Refusal> {
        let fragment = ip.fragment.ok_or(Refusal::BadFragment)?;
        let length = u16::try_from(ip.payload.length()).map_err(|_| Refusal::BadFragment)?;
        let end = fragment.offset.checked_add(length).ok_or(Refusal::BadFragment)?;
        // IPv4's length field counts the header as well.
        let header = if ip.source.is_ipv4() { ip.header.len() } else { 0 };
        let is_too_long = usize::from(end) + header > usize::from(u16::MAX);
        if length == 0 || is_too_long || (fragment.more && !length.is_multiple_of(8)) {
            return Err(Refusal::BadFragment);
        }
        Ok(Self { fragment, end })
    }
}

/// A packet that is not whole.
#[derive(Debug)]
struct Partial {
    began: Instant,
    first: Option<First>,
    bytes: Vec<u8>,
    /// Which of `bytes` are there, from and to. In order; no two touch each other.
    present: ArrayVec<(u16, u16), MAX_PARTS>,
    /// How long the payload is, once the last fragment is there.
    length: Option<u16>,
    /// Given up: what else comes of it is dropped.
    is_bad: bool,
}

/// What the first fragment tells.
#[derive(Clone, Debug)]
struct First {
    packet: IpPacket<'static>,
    header: ArrayVec<u8, MAX_HEADER_BYTES>,
}

impl Partial {
    fn new(now: Instant) -> Self {
        Self { began: now, first: None, bytes: Vec::new(), present: ArrayVec::new(), length: None, is_bad: false }
    }

    fn is_whole(&self) -> bool {
        let Some(length) = self.length else { return false };
        !self.is_bad && self.first.is_some() && self.present.as_slice() == [(0, length)]
    }

    fn into_whole(self) -> Option<Whole> {
        self.first.map(|first| Whole { first, bytes: self.bytes })
    }

    fn add(&mut self, ip: &IpPacket<'_>, range: &Range) -> Result<(), Refusal> {
        let result = if self.is_bad { Err(Refusal::BadFragment) } else { self.try_add(ip, range) };
        if result.is_err() {
            self.is_bad = true;
            // Only that it was given up is remembered.
            self.bytes = Vec::new();
        }
        result
    }

    fn try_add(&mut self, ip: &IpPacket<'_>, range: &Range) -> Result<(), Refusal> {
        let (start, end, more) = (range.fragment.offset, range.end, range.fragment.more);
        let highest = self.present.last().map_or(0, |&(_, to)| to);
        let fits = match self.length {
            Some(length) => {
                if more {
                    end < length
                } else {
                    end == length
                }
            }
            None => more || end >= highest,
        };
        if !fits {
            return Err(Refusal::BadFragment);
        }
        if self.present.iter().any(|&(from, to)| start < to && from < end) {
            return if self.is_repeated(ip, start, end) { Ok(()) } else { Err(Refusal::BadFragment) };
        }
        let needed = usize::from(end).max(self.bytes.len());
        self.bytes.resize(needed, 0);
        let room = self.bytes.get_mut(usize::from(start)..usize::from(end)).unwrap_or_default();
        if ip.payload.copy_to(room) != usize::from(end - start) {
            return Err(Refusal::BadFragment);
        }
        if !more {
            self.length = Some(end);
        }
        if start == 0 {
            self.first = Some(First::of(ip));
        }
        self.merge(start, end)
    }

    /// Whether all of this is there already, with the same bytes.
    fn is_repeated(&self, ip: &IpPacket<'_>, start: u16, end: u16) -> bool {
        let Some(present) = self.bytes.get(usize::from(start)..usize::from(end)) else { return false };
        let mut again = vec![0; present.len()];
        self.present.iter().any(|&(from, to)| from <= start && end <= to)
            && ip.payload.copy_to(&mut again) == again.len()
            && again == present
    }

    fn merge(&mut self, mut start: u16, mut end: u16) -> Result<(), Refusal> {
        self.present.retain(|&mut (from, to)| {
            let touches = to == start || from == end;
            if touches {
                (start, end) = (start.min(from), end.max(to));
            }
            !touches
        });
        let place = self.present.iter().take_while(|&&(from, _)| from < start).count();
        self.present.try_insert(place, (start, end)).map_err(|_| Refusal::BadFragment)
    }
}

impl First {
    fn of(ip: &IpPacket<'_>) -> Self {
        let mut header = ArrayVec::new();
        // Of IPv6, the fixed header alone, as if the payload followed it.
        let kept = if ip.source.is_ipv4() { MAX_HEADER_BYTES } else { V6_HEADER_BYTES };
        header.extend(ip.header.iter().copied().take(kept));
        if ip.source.is_ipv6()
            && let Some(next) = header.get_mut(V6_NEXT_HEADER)
        {
            *next = ip.protocol;
        }
        let packet = IpPacket {
            source_mac: ip.source_mac,
            destination_mac: ip.destination_mac,
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            hop_limit: ip.hop_limit,
            traffic_class: ip.traffic_class,
            fragment: None,
            header: &[],
            payload: Payload::of_bytes(&[]),
        };
        Self { packet, header }
    }
}

/// Most packets that wait for fragments.
const MAX_PACKETS: usize = 64;
/// Most bytes that wait for others, of all packets, gaps included.
const MAX_BYTES: usize = 1 << 20;
/// Most separate parts of one packet.
const MAX_PARTS: usize = 32;
/// The longest header of IPv4.
const MAX_HEADER_BYTES: usize = 60;
const V6_HEADER_BYTES: usize = 40;
const V6_NEXT_HEADER: usize = 6;
/// How long a packet may take to become whole: for IPv4 as with Linux, and RFC 8200, section 4.5.
const TIMEOUT_V4: Duration = Duration::from_secs(30);
const TIMEOUT_V6: Duration = Duration::from_secs(60);

/// The longest packet that the guest takes, in bytes: what it was told, or Ethernet's.
pub fn mtu_of(settings: &Settings, guest: &Guest, v4: bool) -> u16 {
    // RFC 791, section 3.2; RFC 8200, section 5.
    let least = if v4 { 68 } else { 1280 };
    guest.mtu(settings).unwrap_or(1500).max(least)
}

/// Puts a packet of `protocol`: the transport's header, and what follows. In fragments when it is longer than the
/// guest's MTU: those are told apart from other packets' by `identification`. `offload` goes with a packet that is not
/// cut; the caller has completed the checksum of one that is ([`is_cut`]).
///
/// # Errors
/// [`Full`]: it, or some of its fragments, were not put.
pub fn put<S, L: GuestLink>(
    ctx: &mut Context<'_, S, L>,
    ends: &Ends,
    protocol: u8,
    (offload, transport, payload): (Offload, &[u8], &[u8]),
    identification: u32,
) -> Result<(), Full> {
    let bytes = transport.len() + payload.len();
    if !is_cut(ctx.settings, ctx.guest, ends, bytes) {
        // What does not fit a length field is cut, or refused below.
        let mut head = ends.head(protocol, u16::try_from(bytes).unwrap_or(u16::MAX));
        head.try_extend_from_slice(transport).map_err(|_| Full)?;
        return ctx.put(offload, &head, payload);
    }
    let v4 = ends.is_v4();
    let header = if v4 { 20 } else { V6_HEADER_BYTES + 8 };
    let room = (usize::from(mtu_of(ctx.settings, ctx.guest, v4)) - header) & !7;
    let (mut transport, mut payload, mut offset) = (transport, payload, 0);
    loop {
        let taken = payload.len().min(room - transport.len());
        let (part, rest) = payload.split_at_checked(taken).unwrap_or((payload, &[]));
        let bytes = u16::try_from(transport.len() + part.len()).unwrap_or(u16::MAX);
        let mut head = fragment_head(ends, protocol, bytes, identification, offset, !rest.is_empty());
        head.try_extend_from_slice(transport).map_err(|_| Full)?;
        ctx.put(Offload::None, &head, part)?;
        offset = offset.saturating_add(bytes);
        (transport, payload) = (&[], rest);
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Whether a packet of `bytes` behind its IP header is cut for this guest.
pub fn is_cut(settings: &Settings, guest: &Guest, ends: &Ends, bytes: usize) -> bool {
    let header = if ends.is_v4() { 20 } else { V6_HEADER_BYTES };
    header + bytes > usize::from(mtu_of(settings, guest, ends.is_v4()))
}

fn fragment_head(ends: &Ends, protocol: u8, bytes: u16, identification: u32, offset: u16, more: bool) -> Head {
    let [.., i0, i1] = identification.to_be_bytes();
    if ends.is_v4() {
        let mut head = ends.head(protocol, bytes);
        if let Some(header) = head.get_mut(14..).and_then(|packet| packet.first_chunk_mut::<20>()) {
            let [f0, f1] = ((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes();
            header[4..8].copy_from_slice(&[i0, i1, f0, f1]);
            header[10..12].fill(0);
            let checksum = internet_checksum(header).to_be_bytes();
            header[10..12].copy_from_slice(&checksum);
        }
        head
    } else {
        let mut head = ends.head(FRAGMENT_HEADER, bytes.saturating_add(8));
        head.extend([protocol, 0]);
        head.extend((offset | u16::from(more)).to_be_bytes());
        head.extend(identification.to_be_bytes());
        head
    }
}

const FRAGMENT_HEADER: u8 = 44;

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests;
