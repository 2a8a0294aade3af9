//! Large TCP frames out of small ones: segments of one flow that follow each other are handed on as one frame.
//!
//! For ways to the guest without offloads, whose frames lie in a buffer of ours. What TCP does with a frame (its
//! window, its acknowledgement, a system call) is done once for many segments then. A joined frame is what a guest with
//! offloads would have sent in place of its segments: the first one's headers, with the length of all, and the
//! payloads, which stay where they are. Frames of one flow keep their order; nothing is joined whose headers differ in
//! more than RFC 9293 makes them differ.

use std::ops::Range;

use culvert_frame::checksum::Sum;
use culvert_frame::layers::{IpVersion, TCP};
use culvert_frame::offload::MAX_SEGMENTS;
use culvert_frame::{Layers, SegmentKind, Segmentation};
use culvert_guest::NetHeader;

use crate::transport::Place;

/// How many flows are joined at the same time.
const FLOWS: usize = 8;

/// Storage, reused from burst to burst.
#[derive(Debug, Default)]
pub struct Joiner {
    groups: Vec<Group>,
    /// Payloads that were joined to a frame: the number of its place, and where they are.
    joined: Vec<(usize, Range<usize>)>,
}

/// A frame to which others may be joined.
#[derive(Debug)]
struct Group {
    first: Segment,
    /// Of `first` among the places.
    place: usize,
    /// The sequence number that follows.
    next: u32,
    /// Bytes of the whole frame.
    length: usize,
    pushed: bool,
    open: bool,
}

/// A frame with TCP in it, as offsets in the buffer.
#[derive(Clone, Debug)]
struct Segment {
    version: IpVersion,
    start: usize,
    network: usize,
    transport: usize,
    payload: Range<usize>,
    sequence: u32,
    pushed: bool,
    /// It has payload and says nothing that must stay apart.
    is_plain: bool,
}

impl Joiner {
    /// Joins frames at `places` in `buffer`: those that were joined to another leave the list, and their payloads are
    /// among [`Self::parts`] then.
    pub fn join(&mut self, buffer: &mut [u8], places: &mut Vec<Place>) {
        self.groups.clear();
        self.joined.clear();
        let mut kept = 0;
        for index in 0..places.len() {
            let Some(place) = places.get(index).cloned() else { break };
            if !self.take(buffer, &place.bytes, kept) {
                if let Some(slot) = places.get_mut(kept) {
                    *slot = place;
                }
                kept += 1;
            }
        }
        places.truncate(kept);
        self.joined.sort_unstable_by_key(|(place, part)| (*place, part.start));
        for group in &self.groups {
            let from = self.joined.partition_point(|(place, _)| *place < group.place);
            let to = self.joined.partition_point(|(place, _)| *place <= group.place);
            if let Some(place) = places.get_mut(group.place).filter(|_| from < to) {
                place.parts = from..to;
                place.header = group.finish(buffer).unwrap_or_default();
            }
        }
    }

    /// Where the payloads are that were joined; those of a place as it says.
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        self.joined.iter().map(|(_, part)| part.clone())
    }

    /// Looks at the frame at `bytes`, which is to have the number `place`. Whether it was joined to another.
    fn take(&mut self, buffer: &[u8], bytes: &Range<usize>, place: usize) -> bool {
        let Some(segment) = Segment::read(buffer, bytes) else { return false };
        let known = self.groups.iter_mut().find(|group| group.open && group.first.is_same_flow(&segment, buffer));
        let follows = known.is_some_and(|group| {
            group.open = group.follows(&segment, buffer);
            if group.open {
                group.next = group.next.wrapping_add(bytes_of(&segment.payload));
                group.length += segment.payload.len();
                group.pushed |= segment.pushed;
                self.joined.push((group.place, segment.payload.clone()));
            }
            group.open
        });
        if !follows && segment.is_plain && self.groups.iter().filter(|group| group.open).count() < FLOWS {
            let next = segment.sequence.wrapping_add(bytes_of(&segment.payload));
            let (length, pushed) = (bytes.len(), segment.pushed);
            self.groups.push(Group { first: segment, place, next, length, pushed, open: true });
        }
        follows
    }
}

/// An IP packet has no more bytes.
const LONGEST_PACKET: usize = 65_535;

impl Group {
    /// Whether a segment of the same flow is the next one, and differs in nothing else.
    fn follows(&self, next: &Segment, buffer: &[u8]) -> bool {
        let first = &self.first;
        let size = first.payload.len();
        let same = |range: Range<usize>| equal(buffer, first.start, next.start, range);
        let (network, transport) = (first.network, first.transport);
        let header_bytes = first.payload.start - first.start;
        next.is_plain
            && next.sequence == self.next
            && self.length + next.payload.len() <= LONGEST_PACKET
            // The first one's size is that of all, the last one's apart: what is longer begins anew.
            && next.payload.len() <= size
            && (self.length + next.payload.len()).div_ceil(size.max(1)) <= MAX_SEGMENTS as usize
            && (next.network, next.transport, next.payload.start - next.start) == (network, transport, header_bytes)
            && same(0..network)
            && match first.version {
                // All but length, identification and checksum.
                IpVersion::V4 => same(network..network + 2) && same(network + 6..network + 10),
                // All but the length.
                IpVersion::V6 => same(network..network + 4) && same(network + 6..network + 8),
            }
            // Acknowledgement and data offset; window; options.
            && same(transport + 8..transport + 13)
            && same(transport + 14..transport + 16)
            && same(transport + 20..header_bytes)
    }

    /// Makes the first frame's headers those of the whole. Returns what a guest would have asked for with it.
    fn finish(&self, buffer: &mut [u8]) -> Option<NetHeader> {
        let Segment { version, start, network, transport, payload, .. } = &self.first;
        let headers = buffer.get_mut(*start..payload.start)?;
        let kind = match version {
            IpVersion::V4 => {
                put(headers, network + 2, u16::try_from(self.length - network).ok()?)?;
                put(headers, network + 10, 0)?;
                let mut sum = Sum::default();
                sum.add(headers.get(*network..*transport)?);
                put(headers, network + 10, sum.checksum())?;
                SegmentKind::Tcp4
            }
            IpVersion::V6 => {
                put(headers, network + 4, u16::try_from(self.length - network - 40).ok()?)?;
                SegmentKind::Tcp6
            }
        };
        if self.pushed {
            *headers.get_mut(transport + 13)? |= PSH;
        }
        let segmentation = Segmentation {
            kind,
            ecn: false,
            size: u16::try_from(payload.len()).ok()?,
            network: u16::try_from(*network).ok()?,
            transport: u16::try_from(*transport).ok()?,
            header_bytes: u16::try_from(headers.len()).ok()?,
        };
        segmentation.set_pseudo_checksum(headers, u32::try_from(self.length).ok()?);
        Some(NetHeader::of(&culvert_frame::Offload::Segment(segmentation).fields()))
    }
}

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

impl Segment {
    /// Reads the frame at `bytes` of `buffer`; `None` when there is no TCP in it.
    fn read(buffer: &[u8], bytes: &Range<usize>) -> Option<Self> {
        let frame = buffer.get(bytes.clone())?;
        let layers = Layers::parse(frame).filter(|layers| layers.protocol == TCP)?;
        let (network, transport) = (usize::from(layers.network), usize::from(layers.transport));
        let header_bytes = usize::from(layers.header_bytes);
        let [_, _, _, _, q0, q1, q2, q3, _, _, _, _, _, flags, _, _, _, _, u0, u1] =
            *frame.get(transport..)?.first_chunk::<20>()?;
        let is_whole = layers.packet_end.is_some_and(|end| usize::try_from(end) == Ok(frame.len()));
        let is_bare = match layers.version {
            IpVersion::V4 => {
                let mut sum = Sum::default();
                sum.add(frame.get(network..transport)?);
                transport == network + 20 && sum.checksum() == 0
            }
            IpVersion::V6 => transport == network + 40,
        };
        let has_payload = (transport + 20..frame.len()).contains(&header_bytes);
        Some(Self {
            version: layers.version,
            start: bytes.start,
            network,
            transport,
            payload: bytes.start + header_bytes.min(frame.len())..bytes.end,
            sequence: u32::from_be_bytes([q0, q1, q2, q3]),
            pushed: flags & PSH != 0,
            is_plain: is_whole && is_bare && has_payload && flags & !PSH == ACK && [u0, u1] == [0, 0],
        })
    }

    fn is_same_flow(&self, other: &Self, buffer: &[u8]) -> bool {
        let addresses = match self.version {
            IpVersion::V4 => self.network + 12..self.network + 20,
            IpVersion::V6 => self.network + 8..self.network + 40,
        };
        let ports = self.transport..self.transport + 4;
        (self.version, self.network, self.transport) == (other.version, other.network, other.transport)
            && equal(buffer, self.start, other.start, ports)
            && equal(buffer, self.start, other.start, addresses)
    }
}

/// Whether the same `range` of two frames, of which the one starts at `one` and the other at `other`, is the same.
fn equal(buffer: &[u8], one: usize, other: usize, range: Range<usize>) -> bool {
    let part = |start: usize| buffer.get(start + range.start..start + range.end);
    part(one).is_some() && part(one) == part(other)
}

fn bytes_of(range: &Range<usize>) -> u32 {
    u32::try_from(range.len()).unwrap_or(u32::MAX)
}

fn put(bytes: &mut [u8], at: usize, word: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = word.to_be_bytes();
    Some(())
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use culvert_frame::{Offload, Offloads, Segmenter};
    use culvert_guest::{Packet, Piece};
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    const MSS: usize = 1000;

    /// What a frame says, where tests vary it.
    #[derive(Clone)]
    struct Frame {
        v6: bool,
        port: u16,
        hop_limit: u8,
        tcp: TcpHeader,
        payload: Vec<u8>,
    }

    fn frame(v6: bool, port: u16, sequence: u32, bytes: usize) -> Frame {
        let mut tcp = TcpHeader::new(port, 80, sequence, 1000);
        (tcp.ack, tcp.acknowledgment_number) = (true, 77);
        tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
        let payload = (0..bytes).map(|at| (sequence as usize + at) as u8).collect();
        Frame { v6, port, hop_limit: 64, tcp, payload }
    }

    impl Frame {
        fn bytes(&self) -> Vec<u8> {
            let mut tcp = self.tcp.clone();
            tcp.source_port = self.port;
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let mut bytes = Vec::new();
            if self.v6 {
                ethernet.ipv6([1; 16], [2; 16], self.hop_limit).tcp_header(tcp).write(&mut bytes, &self.payload)
            } else {
                ethernet
                    .ipv4([10, 0, 0, 1], [10, 0, 0, 2], self.hop_limit)
                    .tcp_header(tcp)
                    .write(&mut bytes, &self.payload)
            }
            .unwrap();
            bytes
        }
    }

    /// Joins frames; returns what comes out, whole, and what is asked for with it.
    fn join(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
        let (mut buffer, mut places) = (Vec::new(), Vec::new());
        for frame in frames {
            // Something in between, as lengths are.
            buffer.extend([0xaa; 4]);
            let start = buffer.len();
            buffer.extend(frame);
            places.push(Place { bytes: start..buffer.len(), ..Place::default() });
        }
        let mut joiner = Joiner::default();
        joiner.join(&mut buffer, &mut places);
        let parts: Vec<_> = joiner.parts().map(|part| Piece::from(&buffer[part])).collect();
        let frames = places.iter().map(|place| {
            let packet = Packet::of_parts(place.header, &buffer[place.bytes.clone()], &parts[place.parts.clone()]);
            let offload = Offload::check(packet.header.request(), Offloads::ALL, packet.head, packet.length).unwrap();
            let mut whole = packet.head.to_vec();
            for piece in packet.rest() {
                let at = whole.len();
                whole.resize(at + piece.length() as usize, 0);
                piece.copy_to(0, &mut whole[at..]);
            }
            assert_eq!(whole.len(), packet.length as usize);
            (whole, offload)
        });
        frames.collect()
    }

    /// Cuts a frame as its offload says.
    fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let Offload::Segment(segmentation) = offload else { return vec![frame.to_vec()] };
        let mut segmenter = Segmenter::new(frame, segmentation, frame.len() as u32);
        let mut rest = &frame[usize::from(segmentation.header_bytes)..];
        let mut room = vec![0; 70_000];
        let mut segments = Vec::new();
        while let Some(segment) = segmenter.next(&mut room, |payload| {
            let (now, later) = rest.split_at(payload.len());
            payload.copy_from_slice(now);
            rest = later;
        }) {
            segments.push(segment.to_vec());
        }
        segments
    }

    /// A large frame as segments, the last of them short.
    fn segments(v6: bool, port: u16, count: usize) -> Vec<Vec<u8>> {
        let mut large = frame(v6, port, 4_294_967_000, MSS * count - 10);
        large.tcp.psh = true;
        let bytes = large.bytes();
        let (network, transport) = (14, if v6 { 54 } else { 34 });
        let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let header_bytes = transport + 32;
        let segmentation = Segmentation { kind, ecn: false, size: MSS as u16, network, transport, header_bytes };
        cut(&bytes, Offload::Segment(segmentation))
    }

    #[test]
    fn segments_become_the_frame_that_they_are_cut_from() {
        for v6 in [false, true] {
            for count in [2, 3, 64] {
                let segments = segments(v6, 1, count);
                assert_eq!(segments.len(), count);
                let joined = join(&segments);
                let [(whole, offload)] = &joined[..] else { panic!("{} frames", joined.len()) };
                assert!(matches!(offload, Offload::Segment(_)));
                assert!(cut(whole, *offload) == segments, "IPv6: {v6}, {count} segments");
            }
        }
    }

    #[test]
    fn flows_in_turn_are_joined_each() {
        let flows: Vec<_> = (0..8).map(|port| segments(port % 2 == 1, port, 5)).collect();
        let mixed: Vec<_> = (0..5).flat_map(|at| flows.iter().map(move |flow| flow[at].clone())).collect();
        let joined = join(&mixed);
        assert_eq!(joined.len(), 8);
        for ((whole, offload), flow) in joined.iter().zip(&flows) {
            assert!(cut(whole, *offload) == *flow);
        }
    }

    #[test]
    fn more_flows_than_are_looked_at_lose_nothing() {
        let flows: Vec<_> = (0..20).map(|port| segments(false, port, 2)).collect();
        let mixed: Vec<_> = (0..2).flat_map(|at| flows.iter().map(move |flow| flow[at].clone())).collect();
        let joined = join(&mixed);
        assert_eq!(joined.len(), FLOWS + 2 * (flows.len() - FLOWS));
        let mut out: Vec<_> = joined.iter().flat_map(|(whole, offload)| cut(whole, *offload)).collect();
        let mut all = mixed;
        out.sort();
        all.sort();
        assert!(out == all);
    }

    #[test]
    fn a_packet_stays_within_64_kib() {
        let frames: Vec<_> = (0..5).map(|at| frame(false, 1, at * 30_000, 30_000).bytes()).collect();
        let joined = join(&frames);
        assert_eq!(joined.len(), 3);
        assert_eq!(joined[0].0.len(), 66 + 60_000);
    }

    /// It would be more segments than anybody may ask for, if the short one's size were that of all.
    #[test]
    fn long_segments_behind_a_short_one_are_joined_to_each_other() {
        let short = frame(false, 1, 0, 11).bytes();
        let long = (0..40).map(|at| frame(false, 1, 11 + at * 1400, 1400).bytes());
        let joined = join(&[short.clone()].into_iter().chain(long).collect::<Vec<_>>());
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[0], (short, Offload::None));
        assert_eq!(joined[1].0.len(), 66 + 40 * 1400);
    }

    #[test]
    fn no_more_segments_are_joined_than_may_be_asked_for() {
        let joined = join(&(0..1500).map(|at| frame(false, 1, at, 1).bytes()).collect::<Vec<_>>());
        assert_eq!(joined.len(), 2);
    }

    /// Each of these differs from the frame before it in something; what follows starts anew.
    #[test]
    fn what_differs_stays_apart_and_in_order() {
        let alter: [fn(&mut Frame); 16] = [
            |frame| frame.tcp.sequence_number += 1,
            |frame| frame.tcp.sequence_number -= 100,
            |frame| frame.tcp.acknowledgment_number += 1,
            |frame| frame.tcp.window_size += 1,
            |frame| frame.tcp.fin = true,
            |frame| frame.tcp.syn = true,
            |frame| frame.tcp.rst = true,
            |frame| frame.tcp.urg = true,
            |frame| frame.tcp.urgent_pointer = 1,
            |frame| frame.tcp.ece = true,
            |frame| frame.tcp.cwr = true,
            |frame| frame.tcp.ack = false,
            |frame| frame.tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 2]).unwrap(),
            |frame| frame.tcp.set_options_raw(&[]).unwrap(),
            |frame| frame.hop_limit -= 1,
            |frame| frame.payload.clear(),
        ];
        for v6 in [false, true] {
            for (number, alter) in alter.iter().enumerate() {
                let first = frame(v6, 1, 0, 100);
                let mut second = frame(v6, 1, 100, 100);
                alter(&mut second);
                let frames = [first.bytes(), second.bytes(), frame(v6, 1, 200, 100).bytes()];
                let joined: Vec<_> = join(&frames).into_iter().collect();
                let out: Vec<_> = joined.iter().map(|(whole, _)| whole.clone()).collect();
                assert!(joined.iter().all(|(_, offload)| *offload == Offload::None), "IPv6: {v6}, alteration {number}");
                assert!(out == frames, "IPv6: {v6}, alteration {number}");
            }
        }
    }

    #[test]
    fn what_is_malformed_stays_as_it_is() {
        let alter: [fn(&mut Vec<u8>); 8] = [
            // Padded, cut off, a bad checksum of IP, a fragment, IP options, DSCP, a short data offset, a VLAN.
            |bytes| bytes.extend([0; 3]),
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes[24] ^= 1,
            |bytes| bytes[20] |= 0x20,
            |bytes| bytes[14] = 0x46,
            |bytes| bytes[15] = 4,
            |bytes| bytes[46] = 0x40,
            |bytes| {
                bytes.splice(12..12, [0x81, 0, 0, 7]);
            },
        ];
        for (number, alter) in alter.iter().enumerate() {
            let mut second = frame(false, 1, 100, 100).bytes();
            alter(&mut second);
            let frames = [frame(false, 1, 0, 100).bytes(), second];
            let out: Vec<_> = join(&frames).into_iter().map(|(whole, _)| whole).collect();
            assert!(out == frames, "alteration {number}");
        }
        let udp = |number| {
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            builder.udp(1, 2).write(&mut bytes, &[number; 100]).unwrap();
            bytes
        };
        let others = [udp(1), udp(2), Vec::new(), vec![0; 13], vec![0xff; 60]];
        let out: Vec<_> = join(&others).into_iter().map(|(whole, _)| whole).collect();
        assert!(out == others);
    }
}
