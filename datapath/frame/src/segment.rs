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
