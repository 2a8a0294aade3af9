//! The virtio-net header before each frame in a guest's buffers (virtio 1.3, section 5.1.6).

use culvert_frame::{OffloadFields, OffloadRequest};

use crate::features;

/// Longest form of the header: with `num_buffers`.
pub const NET_HEADER_BYTES: usize = 12;

/// How long the header is under the given features: 12 bytes, or 10 for a legacy driver without mergeable buffers.
pub const fn header_bytes(features: u64) -> usize {
    if features & (features::VERSION_1 | features::NET_MRG_RXBUF) == 0 { 10 } else { NET_HEADER_BYTES }
}

/// The header's fields, copied out of guest memory or to be written into it. Legacy drivers use the guest's byte order:
/// little-endian on every platform that we serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// `NEEDS_CSUM` = 1, `DATA_VALID` = 2, `RSC_INFO` = 4.
    pub flags: u8,
    /// 0 = none; the `ECN` bit is 0x80.
    pub gso_type: u8,
    /// Length of all headers, in bytes; a hint.
    pub hdr_len: u16,
    /// Payload bytes a segment.
    pub gso_size: u16,
    /// Where the checksum starts, in bytes from the frame's start.
    pub csum_start: u16,
    /// Where it is stored, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl NetHeader {
    /// Reads the first ten bytes; `None` when there are fewer.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes.first_chunk()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        })
    }

    /// The header's twelve bytes with `num_buffers`; a ten-byte header is the start of it.
    #[inline]
    pub const fn to_bytes(&self, num_buffers: u16) -> [u8; NET_HEADER_BYTES] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// What the sender leaves to us, unchecked.
    #[inline]
    pub const fn request(&self) -> OffloadRequest {
        OffloadRequest {
            needs_checksum: self.flags & NEEDS_CSUM != 0,
            gso_type: self.gso_type,
            gso_size: self.gso_size,
            checksum_start: self.csum_start,
            checksum_offset: self.csum_offset,
        }
    }

    /// The header for a receiver that takes these offloads.
    #[inline]
    pub const fn of(fields: &OffloadFields) -> Self {
        let OffloadFields { request, data_valid, header_bytes } = fields;
        Self {
            flags: if request.needs_checksum { NEEDS_CSUM } else { 0 } | if *data_valid { DATA_VALID } else { 0 },
            gso_type: request.gso_type,
            hdr_len: *header_bytes,
            gso_size: request.gso_size,
            csum_start: request.checksum_start,
            csum_offset: request.checksum_offset,
        }
    }
}

/// `flags`: the checksum at `csum_start` + `csum_offset` is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the checksums of the frame were checked.
pub const DATA_VALID: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_follows_the_features() {
        assert_eq!(header_bytes(0), 10);
        assert_eq!(header_bytes(features::NET_MRG_RXBUF), 12);
        assert_eq!(header_bytes(features::VERSION_1), 12);
    }

    #[test]
    fn fields_round_trip() {
        let header = NetHeader {
            flags: 1,
            gso_type: 0x81,
            hdr_len: 0x102,
            gso_size: 0x304,
            csum_start: 0x506,
            csum_offset: 0x708,
        };
        assert_eq!(NetHeader::parse(&header.to_bytes(9)), Some(header));
        assert_eq!(NetHeader::parse(&header.to_bytes(9)[..9]), None);
    }

    #[test]
    fn a_request_is_what_a_receiver_is_told() {
        let header =
            NetHeader { flags: 1, gso_type: 0x81, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
        let fields = OffloadFields { request: header.request(), data_valid: false, header_bytes: 54 };
        assert_eq!(NetHeader::of(&fields), header);
        assert!(NetHeader { flags: DATA_VALID, ..NetHeader::default() }.request().is_none());
        let valid = OffloadFields { data_valid: true, ..OffloadFields::default() };
        assert_eq!(NetHeader::of(&valid).flags, DATA_VALID);
    }
}
