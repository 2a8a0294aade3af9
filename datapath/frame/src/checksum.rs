//! The Internet checksum (RFC 1071): summing, pseudo headers, and completing what a sender left to its device.
//!
//! What is summed may come in pieces. Whether a sender's request for a checksum makes sense was decided before, by
//! [`Offload::check`](crate::Offload::check). Called by whoever delivers a frame to a receiver that takes no partial
//! checksum, and by [`segment`](crate::segment).

use crate::layers::{IpVersion, Layers, TCP, UDP};

/// A checksum that the sender left to its device: the field holds a partial sum (of the pseudo header), to which that
/// of the bytes from `start` is to be added. Fields of the virtio-net header (virtio 1.3, 5.1.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum starts, in bytes from the frame's start.
    pub start: u16,
    /// Where it is stored, in bytes from `start`.
    pub offset: u16,
}

impl PartialChecksum {
    /// Where the checksum is stored, in bytes from the frame's start.
    #[inline]
    pub fn field(self) -> usize {
        usize::from(self.start) + usize::from(self.offset)
    }

    /// The same for the frame with `by` bytes more before its network header: see
    /// [`Offload::moved`](crate::Offload::moved).
    #[inline]
    #[must_use]
    pub const fn moved(self, by: i16) -> Self {
        Self { start: self.start.saturating_add_signed(by), ..self }
    }

    /// Where the sum ends in a frame of `length` bytes that starts with `head`: at the end of the IP packet as its
    /// length field tells, at the frame's end otherwise.
    ///
    /// A receiver verifies the packet, without padding behind it, so the padding must not be in the sum. Linux sums
    /// to the end of its buffer instead, which is the same, because it never pads a frame whose checksum it leaves
    /// open.
    pub fn end(self, head: &[u8], length: u32) -> u32 {
        let field_end = u32::from(self.start) + u32::from(self.offset) + 2;
        match Layers::parse(head).and_then(|layers| layers.packet_end) {
            Some(end) if end >= field_end => end.min(length),
            _ => length,
        }
    }

    /// Stores the checksum in `head`, given the sum of all bytes from `start` to [`Self::end`], the field's included.
    /// A result of 0 is stored as 0xffff: the same number, and in UDP 0 means that there is no checksum (RFC 768).
    /// Does nothing when the field is beyond `head`.
    #[inline]
    pub fn store(self, head: &mut [u8], sum: Sum) {
        let checksum = match sum.checksum() {
            0 => 0xffff,
            checksum => checksum,
        };
        put(head, self.field(), checksum);
    }
}

/// Computes a checksum that the sender left open, and stores it. `frame` is the whole frame. Does nothing when the
/// sum would start or be stored beyond the frame, which [`Offload::check`](crate::Offload::check) refuses.
pub fn complete(frame: &mut [u8], partial: PartialChecksum) {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let end = usize::try_from(partial.end(frame, length)).unwrap_or(usize::MAX);
    let Some(summed) = frame.get(usize::from(partial.start)..end) else { return };
    let mut sum = Sum::default();
    sum.add(summed);
    partial.store(frame, sum);
}

/// Where the checksum of a TCP or UDP frame is, for a frame from a NIC that is known to have only a partial one.
/// `head` is the frame's first bytes, `length` its whole length. `None` when the headers tell of no such checksum
/// within `head`.
pub fn checksum_of(head: &[u8], length: u32) -> Option<PartialChecksum> {
    let layers = Layers::parse(head)?;
    let offset = match layers.protocol {
        TCP => TCP_CHECKSUM,
        UDP => UDP_CHECKSUM,
        _ => return None,
    };
    let partial = PartialChecksum { start: layers.transport, offset };
    let field_end = partial.field() + 2;
    (field_end <= head.len() && u32::from(layers.header_bytes) <= length).then_some(partial)
}

/// The sum of 16-bit words with end-around carry (RFC 1071), of bytes that come in pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Of words in the machine's byte order: swapping the bytes of all words swaps those of the sum (RFC 1071, 2B).
    total: u64,
    /// Whether an odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// The sum of a TCP or UDP pseudo header (RFC 9293, 3.1; RFC 8200, 8.1): the addresses of the IP header `ip`, the
    /// protocol's number, and `bytes`, the length from the transport header to the packet's end. `None` when `ip`
    /// ends within the addresses.
    pub fn of_pseudo_header(version: IpVersion, ip: &[u8], protocol: u8, bytes: u32) -> Option<Self> {
        let addresses = match version {
            IpVersion::V4 => ip.get(12..20)?,
            IpVersion::V6 => ip.get(8..40)?,
        };
        let mut sum = Self::default();
        sum.add(addresses);
        sum.add(&u32::from(protocol).to_be_bytes());
        sum.add(&bytes.to_be_bytes());
        Some(sum)
    }

    /// Adds `bytes`.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = fold(sum_words(bytes));
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        self.total = self.total.wrapping_add(u64::from(sum));
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// The sum, not complemented: what a sender leaves in the field of a partial checksum.
    #[inline]
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.total))
    }

    /// The sum's complement: what is stored in a finished packet.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.partial()
    }
}

/// Stores a big-endian word at `at`; not beyond `bytes`.
pub(crate) fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = word.to_be_bytes();
    }
}

/// Where TCP's checksum is in its header, in bytes.
pub(crate) const TCP_CHECKSUM: u16 = 16;
/// Where UDP's checksum is in its header, in bytes.
pub(crate) const UDP_CHECKSUM: u16 = 6;

/// The sum of `bytes` as 32-bit words in the machine's order, the last one filled with zeros. Additions cannot
/// overflow below 16 GiB; they are wrapping so that the compiler may do several at a time.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let words = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
    lanes.into_iter().chain(words).fold(0, u64::wrapping_add)
}

/// Adds the carries in, until 16 bits are left.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the last addition leaves 16 bits")]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    /// Word by word, as RFC 1071 describes it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn noise(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn sum_of(pieces: &[&[u8]]) -> u16 {
        let mut sum = Sum::default();
        for piece in pieces {
            sum.add(piece);
        }
        sum.partial()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let mut sum = Sum::default();
        sum.add(&bytes);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn every_length_and_every_split_sums_alike() {
        for length in 0..200 {
            let bytes = noise(length, 7);
            let expected = naive(&bytes);
            for split in 0..=length {
                let (left, right) = bytes.split_at(split);
                assert_eq!(sum_of(&[left, right]), expected, "{length} bytes split at {split}");
                let (middle, right) = right.split_at(right.len() / 3);
                assert_eq!(sum_of(&[left, middle, right]), expected, "{length} bytes split at {split} and again");
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        for length in [0, 1, 2, 65_535, 65_558, 1 << 20] {
            assert_eq!(sum_of(&[&vec![0xff; length]]), naive(&vec![0xff; length]), "{length}");
        }
        for length in 0..40 {
            assert_eq!(sum_of(&[&vec![0; length]]), 0);
        }
    }

    #[test]
    fn alignment_does_not_matter() {
        let bytes = noise(1_600, 3);
        for start in 0..64 {
            let part = &bytes[start..start + 1_500];
            assert_eq!(sum_of(&[part]), naive(part));
        }
    }

    /// A frame whose checksum etherparse computed.
    fn udp(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn tcp6(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [9; 16], 64).tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    /// As a sender leaves it: the sum of the pseudo header in the field.
    fn opened(frame: &[u8]) -> (Vec<u8>, PartialChecksum) {
        let mut frame = frame.to_vec();
        let partial = checksum_of(&frame, frame.len() as u32).unwrap();
        let layers = Layers::parse(&frame).unwrap();
        let bytes = frame.len() as u32 - u32::from(layers.transport);
        let ip = &frame[usize::from(layers.network)..];
        let sum = Sum::of_pseudo_header(layers.version, ip, layers.protocol, bytes).unwrap();
        put(&mut frame, partial.field(), sum.partial());
        (frame, partial)
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for length in 0..100 {
            for whole in [udp(&noise(length, 1)), tcp6(&noise(length, 2))] {
                let (mut frame, partial) = opened(&whole);
                complete(&mut frame, partial);
                assert_eq!(frame, whole);
            }
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_summed() {
        for payload in [&b"four"[..], b""] {
            let whole = udp(payload);
            let (mut frame, partial) = opened(&whole);
            frame.extend_from_slice(b"padding that is not zero");
            assert_eq!(partial.end(&frame, frame.len() as u32), whole.len() as u32);
            complete(&mut frame, partial);
            assert_eq!(frame[..whole.len()], whole);
        }
    }

    #[test]
    fn a_packet_longer_than_its_frame_is_summed_to_the_end() {
        let (mut frame, partial) = opened(&udp(b"payload"));
        frame.truncate(44);
        assert_eq!(partial.end(&frame, 44), 44);
        // Nor does a packet end before the field of its checksum.
        frame[16..18].copy_from_slice(&21_u16.to_be_bytes());
        assert_eq!(partial.end(&frame, 44), 44);
    }

    #[test]
    fn no_checksum_is_stored_as_zero() {
        // The last word makes the sum 0xffff.
        let mut payload = vec![0; 4];
        let checksum = u16::from_be_bytes(udp(&payload)[40..42].try_into().unwrap());
        payload[2..].copy_from_slice(&checksum.to_be_bytes());
        let (mut frame, partial) = opened(&udp(&payload));
        complete(&mut frame, partial);
        assert_eq!(frame[40..42], [0xff, 0xff]);
    }

    #[test]
    fn what_lies_beyond_the_frame_is_left_alone() {
        for (start, offset) in [(34, 26), (60, 0), (59, 0), (u16::MAX, u16::MAX), (0, u16::MAX)] {
            let mut frame = udp(&[7; 18]);
            let before = frame.clone();
            complete(&mut frame, PartialChecksum { start, offset });
            assert_eq!(frame, before, "{start} + {offset}");
        }
    }

    #[test]
    fn the_checksum_of_a_frame_is_found() {
        let frame = udp(b"x");
        assert_eq!(checksum_of(&frame, 43), Some(PartialChecksum { start: 34, offset: 6 }));
        assert_eq!(checksum_of(&frame[..42], 43), Some(PartialChecksum { start: 34, offset: 6 }));
        assert_eq!(checksum_of(&frame[..41], 43), None);
        assert_eq!(checksum_of(&frame[..42], 41), None);
        let frame = tcp6(b"x");
        assert_eq!(checksum_of(&frame, 75), Some(PartialChecksum { start: 54, offset: 16 }));
        let mut fragment = udp(b"x");
        fragment[20] = 0x20;
        assert_eq!(checksum_of(&fragment, 43), None);
        let mut other = udp(b"x");
        other[23] = 1;
        assert_eq!(checksum_of(&other, 43), None);
    }
}
