//! Segmentation in software: one frame of up to 64 KiB into frames of the size that its sender asked for.
//!
//! Called where a frame is delivered to a receiver that does not take it unsegmented. Each segment is complete in
//! every respect and needs nothing more. The frame's payload lies scattered in somebody's buffers and is read through
//! a closure; checksums are computed from what was read, so that a sender that changes it meanwhile gets what it
//! wrote.

use crate::checksum::{Sum, put};
use crate::layers::{IpVersion, MAX_HEADER_BYTES, TCP, UDP};
use crate::offload::Segmentation;

/// Cuts one frame into segments. Allocates nothing.
#[derive(Clone, Debug)]
pub struct Segmenter {
    headers: [u8; MAX_HEADER_BYTES],
    segmentation: Segmentation,
    /// Payload bytes of the whole frame, and how many were cut off.
    payload_bytes: u32,
    done: u32,
    /// Segments made, modulo 2^16.
    index: u16,
}

impl Segmenter {
    /// For a frame of `length` bytes, that starts with `headers` (at least `segmentation.header_bytes`), as
    /// [`Offload::check`](crate::Offload::check) found it.
    pub fn new(headers: &[u8], segmentation: Segmentation, length: u32) -> Self {
        let mut kept = [0; MAX_HEADER_BYTES];
        let header_bytes = usize::from(segmentation.header_bytes);
        let payload_bytes = match (kept.get_mut(..header_bytes), headers.get(..header_bytes)) {
            (Some(kept), Some(headers)) => {
                kept.copy_from_slice(headers);
                length.saturating_sub(u32::from(segmentation.header_bytes))
            }
            // Not what check() returned for this frame: no segments.
            _ => 0,
        };
        Self { headers: kept, segmentation, payload_bytes, done: 0, index: 0 }
    }

    /// Writes the next segment to the start of `out`, which must hold [`Segmentation::segment_bytes`], and returns
    /// that part of it. `read` is called once, to fill the room for the segment's payload: the bytes that follow
    /// those of the call before. `None` when the whole frame was cut (or `out` is too short).
    pub fn next<'b>(&mut self, out: &'b mut [u8], read: impl FnOnce(&mut [u8])) -> Option<&'b mut [u8]> {
        let left = self.payload_bytes.saturating_sub(self.done);
        let payload_bytes = left.min(u32::from(self.segmentation.size));
        if payload_bytes == 0 {
            return None;
        }
        let header_bytes = usize::from(self.segmentation.header_bytes);
        let out = out.get_mut(..header_bytes + usize::try_from(payload_bytes).ok()?)?;
        let (headers, payload) = out.split_at_mut_checked(header_bytes)?;
        headers.copy_from_slice(self.headers.get(..header_bytes)?);
        read(payload);
        self.set_network_header(out)?;
        match self.segmentation.kind.protocol() {
            UDP => self.set_udp_header(out)?,
            _ => self.set_tcp_header(out, payload_bytes == left)?,
        }
        self.set_checksum(out)?;
        self.done += payload_bytes;
        self.index = self.index.wrapping_add(1);
        Some(out)
    }

    /// Length, and what IPv4 has besides.
    fn set_network_header(&self, out: &mut [u8]) -> Option<()> {
        let network = usize::from(self.segmentation.network);
        let bytes = out.len().checked_sub(network)?;
        let header = out.get_mut(network..usize::from(self.segmentation.transport))?;
        match self.segmentation.kind.version() {
            IpVersion::V4 => {
                let [_, _, _, _, id0, id1, ..] = *header.first_chunk::<20>()?;
                put(header, 2, u16::try_from(bytes).ok()?);
                put(header, 4, u16::from_be_bytes([id0, id1]).wrapping_add(self.index));
                put(header, 10, 0);
                let mut sum = Sum::default();
                sum.add(header);
                put(header, 10, sum.checksum());
            }
            IpVersion::V6 => put(header, 4, u16::try_from(bytes.checked_sub(40)?).ok()?),
        }
        Some(())
    }

    fn set_udp_header(&self, out: &mut [u8]) -> Option<()> {
        let header = out.get_mut(usize::from(self.segmentation.transport)..)?;
        let bytes = u16::try_from(header.len()).ok()?;
        put(header, 4, bytes);
        Some(())
    }

    /// The sequence number goes on; of the flags, CWR tells of the first segment (RFC 3168, 6.1.2), FIN and PSH of
    /// the last byte.
    fn set_tcp_header(&self, out: &mut [u8], last: bool) -> Option<()> {
        let header = out.get_mut(usize::from(self.segmentation.transport)..)?;
        let sequence: &mut [u8; 4] = header.get_mut(4..)?.first_chunk_mut()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(self.done).to_be_bytes();
        let flags = header.get_mut(13)?;
        if self.done != 0 {
            *flags &= !TCP_CWR;
        }
        if !last {
            *flags &= !(TCP_FIN | TCP_PSH);
        }
        Some(())
    }

    fn set_checksum(&self, out: &mut [u8]) -> Option<()> {
        let Segmentation { kind, network, .. } = self.segmentation;
        let partial = self.segmentation.partial_checksum();
        put(out, partial.field(), 0);
        let summed = out.get(usize::from(partial.start)..)?;
        let bytes = u32::try_from(summed.len()).ok()?;
        let ip = out.get(usize::from(network)..)?;
        let mut sum = Sum::of_pseudo_header(kind.version(), ip, kind.protocol(), bytes)?;
        sum.add(summed);
        match kind.protocol() {
            TCP => put(out, partial.field(), sum.checksum()),
            _ => partial.store(out, sum),
        }
        Some(())
    }
}

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

#[cfg(test)]
mod proofs;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]
mod tests {
    use super::*;
    use crate::offload::SegmentKind;
    use etherparse::PacketBuilder;

    fn tcp4(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut frame = Vec::new();
        builder.tcp(1, 2, u32::MAX - 10, 4).psh().fin().ack(9).write(&mut frame, payload).unwrap();
        frame[47] |= TCP_CWR;
        frame
    }

    const fn tcp4_segmentation(size: u16) -> Segmentation {
        Segmentation { kind: SegmentKind::Tcp4, ecn: true, size, network: 14, transport: 34, header_bytes: 54 }
    }

    /// All segments of `frame`.
    fn segments(frame: &[u8], segmentation: Segmentation) -> Vec<Vec<u8>> {
        let mut segmenter = Segmenter::new(frame, segmentation, frame.len() as u32);
        let mut rest = &frame[usize::from(segmentation.header_bytes)..];
        let mut segments = Vec::new();
        let mut out = vec![0xaa; segmentation.segment_bytes() as usize];
        while let Some(segment) = segmenter.next(&mut out, |room| {
            let (payload, behind) = rest.split_at(room.len());
            room.copy_from_slice(payload);
            rest = behind;
        }) {
            segments.push(segment.to_vec());
        }
        assert!(rest.is_empty());
        segments
    }

    #[test]
    fn every_length_is_cut_into_every_size() {
        for length in 1..200_u16 {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let frame = tcp4(&payload);
            for size in 1..=length + 1 {
                let segmentation = tcp4_segmentation(size);
                let segments = segments(&frame, segmentation);
                assert_eq!(segments.len() as u32, segmentation.segments(frame.len() as u32));
                assert_eq!(segments.len() as u16, length.div_ceil(size));
                let (last, others) = segments.split_last().unwrap();
                assert!(others.iter().all(|segment| segment.len() == 54 + usize::from(size)));
                assert_eq!(last.len(), 54 + usize::from(length - size * (others.len() as u16)));
                let joined: Vec<u8> = segments.iter().flat_map(|segment| &segment[54..]).copied().collect();
                assert_eq!(joined, payload);
            }
        }
    }

    #[test]
    fn tcp_flags_and_numbers_go_on() {
        let segments = segments(&tcp4(&[5; 25]), tcp4_segmentation(10));
        let flags: Vec<u8> = segments.iter().map(|segment| segment[47] & (TCP_CWR | TCP_PSH | TCP_FIN)).collect();
        assert_eq!(flags, [TCP_CWR, 0, TCP_PSH | TCP_FIN]);
        let number = |segment: &Vec<u8>| u32::from_be_bytes(segment[38..42].try_into().unwrap());
        assert_eq!(segments.iter().map(number).collect::<Vec<_>>(), [u32::MAX - 10, u32::MAX, 9]);
    }

    #[test]
    fn ipv4_identifications_wrap() {
        let mut frame = tcp4(&[5; 3]);
        (frame[18], frame[19]) = (0xff, 0xff);
        let id = |segment: &Vec<u8>| [segment[18], segment[19]];
        let ids: Vec<_> = segments(&frame, tcp4_segmentation(1)).iter().map(id).collect();
        assert_eq!(ids, [[0xff, 0xff], [0, 0], [0, 1]]);
    }

    /// The checksum that a first segment has when its first word of payload is `word`.
    fn first_checksum(mut frame: Vec<u8>, segmentation: Segmentation, word: u16) -> u16 {
        put(&mut frame, segmentation.header_bytes.into(), word);
        let first = &segments(&frame, segmentation)[0];
        u16::from_be_bytes(*first[segmentation.partial_checksum().field()..].first_chunk().unwrap())
    }

    #[test]
    fn only_udp_has_no_checksum_of_zero() {
        let (frame, segmentation) = (tcp4(&[0; 8]), tcp4_segmentation(4));
        let missing = first_checksum(frame.clone(), segmentation, 0);
        assert_eq!(first_checksum(frame, segmentation, missing), 0);

        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 8]).unwrap();
        let segmentation = Segmentation { kind: SegmentKind::Udp4, ecn: false, header_bytes: 42, ..segmentation };
        let missing = first_checksum(frame.clone(), segmentation, 0);
        assert_eq!(first_checksum(frame, segmentation, missing), 0xffff);
    }

    #[test]
    fn short_room_and_what_does_not_fit_the_frame_give_no_segment() {
        let frame = tcp4(&[5; 25]);
        let mut segmenter = Segmenter::new(&frame, tcp4_segmentation(10), frame.len() as u32);
        assert!(segmenter.next(&mut [0; 63], |_| panic!("nothing to read")).is_none());
        assert!(segmenter.next(&mut [0; 64], |_| ()).is_some());
        let wrong = [
            Segmentation { size: 0, ..tcp4_segmentation(10) },
            Segmentation { header_bytes: 80, ..tcp4_segmentation(10) },
            Segmentation { header_bytes: u16::MAX, ..tcp4_segmentation(10) },
            Segmentation { network: 50, ..tcp4_segmentation(10) },
            Segmentation { transport: 60, ..tcp4_segmentation(10) },
            Segmentation { transport: 12, ..tcp4_segmentation(10) },
            Segmentation { network: u16::MAX, ..tcp4_segmentation(10) },
            Segmentation { kind: SegmentKind::Tcp6, network: 40, ..tcp4_segmentation(10) },
        ];
        for segmentation in wrong {
            let mut segmenter = Segmenter::new(&frame, segmentation, frame.len() as u32);
            assert!(segmenter.next(&mut [0; 100], |_| ()).is_none(), "{segmentation:?}");
        }
        for length in 0..=54 {
            let mut segmenter = Segmenter::new(&frame, tcp4_segmentation(10), length);
            assert!(segmenter.next(&mut [0; 100], |_| ()).is_none());
        }
    }
}
