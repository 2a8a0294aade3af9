//! A guest's segment as it was read: header fields, options and the payload's length, never the payload itself.

use std::ops::{BitOr, BitOrAssign};

use super::action::Transmit;
use super::options::Options;
use super::seq::Seq;

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first byte's sequence number, or SYN's.
    pub seq: Seq,
    /// Up to where everything arrived; `None` without the ACK flag.
    pub ack: Option<Seq>,
    /// The control bits.
    pub flags: Flags,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// The options.
    pub options: Options,
    /// Payload in bytes; more than the MSS where the guest leaves segmentation to us.
    pub length: u32,
    /// The IP header was marked "congestion experienced" (RFC 3168, 5). [`Self::parse`] leaves it `false`.
    pub congested: bool,
}

impl Segment {
    /// Reads a header: `header` starts with it and holds at least its options; `length` is that of the payload behind
    /// the options, in bytes. The urgent pointer is not read: urgent data is plain data (RFC 6093, 6).
    ///
    /// # Errors
    /// [`Malformed`]: the segment is to be dropped.
    pub fn parse(header: &[u8], length: u32) -> Result<Self, Malformed> {
        let (fixed, behind) = header.split_first_chunk::<FIXED>().ok_or(Malformed::Header)?;
        let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, _, _, _, _] = *fixed;
        let area = usize::from(offset >> 4).checked_mul(4).and_then(|bytes| bytes.checked_sub(FIXED));
        let area = area.and_then(|bytes| behind.get(..bytes)).ok_or(Malformed::Header)?;
        let flags = Flags(flags);
        if flags.contains(Flags::SYN) && (flags.contains(Flags::FIN) || flags.contains(Flags::RST)) {
            return Err(Malformed::Flags);
        }
        Ok(Self {
            seq: Seq(u32::from_be_bytes([s0, s1, s2, s3])),
            ack: flags.contains(Flags::ACK).then(|| Seq(u32::from_be_bytes([a0, a1, a2, a3]))),
            flags,
            window: u16::from_be_bytes([w0, w1]),
            options: Options::parse(area).ok_or(Malformed::Options)?,
            length,
            congested: false,
        })
    }

    /// Whether this opens a connection: SYN and no ACK.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        self.flags.contains(Flags::SYN) && !self.flags.contains(Flags::ACK)
    }

    /// How much of the sequence space it takes: payload, SYN and FIN (RFC 9293, 3.4).
    #[must_use]
    pub fn span(&self) -> u32 {
        let flags = u32::from(self.flags.contains(Flags::SYN)) + u32::from(self.flags.contains(Flags::FIN));
        self.length.saturating_add(flags)
    }
}

/// The answer to a segment that belongs to no connection: RST, except to RST (RFC 9293, 3.10.7.1).
#[must_use]
pub fn refusal(segment: &Segment) -> Option<Transmit> {
    if segment.flags.contains(Flags::RST) {
        return None;
    }
    Some(match segment.ack {
        Some(ack) => Transmit::bare(ack, None, Flags::RST),
        None => Transmit::bare(Seq(0), Some(segment.seq + segment.span()), Flags::RST),
    })
}

/// Why a segment could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Flags that exclude each other.
    #[error("a TCP segment has SYN together with FIN or RST: it is dropped")]
    Flags,
    /// Too short, or its data offset is wrong.
    #[error("a TCP header is shorter than its data offset says, or than 20 bytes: it is dropped")]
    Header,
    /// An option's length is wrong.
    #[error("a TCP option has a wrong length: the segment is dropped")]
    Options,
}

/// Control bits of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// There is no such connection, or no more.
    pub const RST: Self = Self(0x04);
    /// Do not wait for more.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion was seen; with SYN: ECN is offered or taken (RFC 3168, 6.1).
    pub const ECE: Self = Self(0x40);
    /// The sender slowed down.
    pub const CWR: Self = Self(0x80);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Bytes of a header without options.
pub(super) const FIXED: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 20] = [0, 1, 0, 2, 0, 0, 0, 5, 0, 0, 0, 6, 0x50, 0x10, 0x12, 0x34, 0, 0, 0xff, 0xff];

    #[test]
    fn a_plain_header_is_read() {
        let segment = Segment::parse(&PLAIN, 9).unwrap();
        assert_eq!((segment.seq, segment.ack, segment.window, segment.length), (Seq(5), Some(Seq(6)), 0x1234, 9));
        assert_eq!((segment.flags, segment.options, segment.span()), (Flags::ACK, Options::default(), 9));
    }

    #[test]
    fn offsets_below_five_words_or_beyond_the_header_are_refused() {
        for words in 0..16_u8 {
            let mut header = PLAIN;
            header[12] = words << 4;
            assert_eq!(Segment::parse(&header, 0).is_ok(), words == 5, "{words}");
        }
        for length in 0..20 {
            assert_eq!(Segment::parse(&PLAIN[..length], 0), Err(Malformed::Header));
        }
    }

    #[test]
    fn flags_that_exclude_each_other_are_refused() {
        for flags in 0..=255 {
            let mut header = PLAIN;
            header[13] = flags;
            let refused = flags & 2 != 0 && flags & 5 != 0;
            assert_eq!(Segment::parse(&header, 0).is_err(), refused, "{flags:#x}");
        }
    }

    #[test]
    fn without_ack_the_number_does_not_count() {
        let mut header = PLAIN;
        header[13] = 0;
        assert_eq!(Segment::parse(&header, 0).unwrap().ack, None);
    }

    /// RFC 9293, 3.10.7.1.
    #[test]
    fn what_belongs_nowhere_is_refused() {
        let mut segment = Segment::parse(&PLAIN, 9).unwrap();
        let answer = refusal(&segment).unwrap();
        assert_eq!((answer.seq, answer.ack, answer.flags), (Seq(6), None, Flags::RST));
        segment.ack = None;
        segment.flags = Flags::SYN;
        let answer = refusal(&segment).unwrap();
        assert_eq!((answer.seq, answer.ack, answer.flags), (Seq(0), Some(Seq(15)), Flags::RST | Flags::ACK));
        segment.flags = Flags::RST;
        assert_eq!(refusal(&segment), None);
    }
}
