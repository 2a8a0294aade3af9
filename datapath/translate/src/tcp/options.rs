//! TCP options: those of RFC 9293 (MSS), RFC 7323 (window scale, timestamps) and RFC 2018 (SACK). Others are passed
//! over.

use super::seq::Seq;

/// The options of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size in bytes; only with SYN.
    pub mss: Option<u16>,
    /// By how many bits windows are shifted; only with SYN.
    pub window_scale: Option<u8>,
    /// SACK may be sent; only with SYN.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// What arrived out of order.
    pub sack: SackBlocks,
}

/// The timestamps option (RFC 7323, 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The receiver's clock, as the sender saw it last.
    pub echo: u32,
}

/// Up to four ranges of a SACK option (RFC 2018, 3): first byte, and the one behind the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); 4],
    count: u8,
}

impl SackBlocks {
    /// Adds a range; a fifth is left out.
    pub fn push(&mut self, first: Seq, end: Seq) {
        if let Some(block) = self.blocks.get_mut(usize::from(self.count)) {
            *block = (first, end);
            self.count += 1;
        }
    }

    /// The ranges, in the sender's order.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        self.blocks.iter().take(usize::from(self.count)).copied()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Options {
    /// Reads the options area of a header; `None` where a length is wrong (RFC 9293, MUST-7).
    pub(super) fn parse(mut area: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while let [kind, rest @ ..] = area {
            match *kind {
                END => break,
                NO_OPERATION => {
                    area = rest;
                    continue;
                }
                _ => {}
            }
            let length = usize::from(*rest.first()?);
            let (option, behind) = area.split_at_checked(length)?;
            let [_, _, value @ ..] = option else { return None };
            options.read(*kind, value)?;
            area = behind;
        }
        Some(options)
    }

    fn read(&mut self, kind: u8, value: &[u8]) -> Option<()> {
        match (kind, value) {
            (MSS, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
            (WINDOW_SCALE, [shift]) => self.window_scale = Some(*shift),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (SACK, blocks) if !blocks.is_empty() && blocks.len() % 8 == 0 => {
                for [a, b, c, d, e, f, g, h] in blocks.as_chunks().0 {
                    let first = Seq(u32::from_be_bytes([*a, *b, *c, *d]));
                    self.sack.push(first, Seq(u32::from_be_bytes([*e, *f, *g, *h])));
                }
            }
            (TIMESTAMPS, [a, b, c, d, e, f, g, h]) => {
                let value = u32::from_be_bytes([*a, *b, *c, *d]);
                self.timestamps = Some(Timestamps { value, echo: u32::from_be_bytes([*e, *f, *g, *h]) });
            }
            (MSS | WINDOW_SCALE | SACK_PERMITTED | SACK | TIMESTAMPS, _) => return None,
            _ => {}
        }
        Some(())
    }

    /// How many bytes [`Self::write`] writes: a multiple of 4, at most 40.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.write(&mut [0; 40])
    }

    /// Writes them for a header, padded to a multiple of 4 bytes, and tells how many bytes that are. What does not fit
    /// in 40 bytes is left out.
    pub(super) fn write(&self, area: &mut [u8; 40]) -> usize {
        let mut writer = Writer { area, length: 0 };
        if let Some(mss) = self.mss {
            writer.put(&[MSS, 4]);
            writer.put(&mss.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            writer.put(&[NO_OPERATION, WINDOW_SCALE, 3, shift]);
        }
        if self.sack_permitted {
            writer.put(&[NO_OPERATION, NO_OPERATION, SACK_PERMITTED, 2]);
        }
        if let Some(timestamps) = self.timestamps {
            writer.put(&[NO_OPERATION, NO_OPERATION, TIMESTAMPS, 10]);
            writer.put(&timestamps.value.to_be_bytes());
            writer.put(&timestamps.echo.to_be_bytes());
        }
        let count = self.sack.count.min(writer.sack_blocks_that_fit());
        if count > 0 {
            writer.put(&[NO_OPERATION, NO_OPERATION, SACK, 2 + 8 * count]);
            for (first, end) in self.sack.iter().take(usize::from(count)) {
                writer.put(&first.0.to_be_bytes());
                writer.put(&end.0.to_be_bytes());
            }
        }
        writer.length
    }
}

struct Writer<'a> {
    area: &'a mut [u8; 40],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.area.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        }
    }

    const fn sack_blocks_that_fit(&self) -> u8 {
        match self.area.len() - self.length {
            36.. => 4,
            28.. => 3,
            20.. => 2,
            12.. => 1,
            _ => 0,
        }
    }
}

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(ranges: &[(u32, u32)]) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        for (first, end) in ranges {
            blocks.push(Seq(*first), Seq(*end));
        }
        blocks
    }

    #[test]
    fn what_is_written_is_read() {
        let timestamps = Some(Timestamps { value: 0x0102_0304, echo: 7 });
        let all = [
            Options::default(),
            Options { mss: Some(1460), window_scale: Some(8), sack_permitted: true, timestamps, ..Options::default() },
            Options { timestamps, sack: blocks(&[(1, 2), (u32::MAX, 3), (9, 10)]), ..Options::default() },
            Options { sack: blocks(&[(1, 2), (3, 4), (5, 6), (7, 8)]), ..Options::default() },
        ];
        for options in all {
            let mut area = [0; 40];
            let length = options.write(&mut area);
            assert_eq!((length % 4, options.bytes()), (0, length));
            assert_eq!(Options::parse(&area[..length]), Some(options));
        }
    }

    #[test]
    fn a_fourth_block_beside_timestamps_is_left_out() {
        let timestamps = Some(Timestamps::default());
        let options = Options { timestamps, sack: blocks(&[(1, 2), (3, 4), (5, 6), (7, 8)]), ..Options::default() };
        let mut area = [0; 40];
        assert_eq!(options.write(&mut area), 40);
        assert_eq!(Options::parse(&area).unwrap().sack, blocks(&[(1, 2), (3, 4), (5, 6)]));
    }

    #[test]
    fn lengths_that_are_wrong_are_refused() {
        for area in [
            &[MSS, 0, 1, 2][..],
            &[MSS, 1, 1, 2],
            &[MSS, 3, 1, 2],
            &[MSS, 40, 1, 2],
            &[MSS],
            &[77, 0],
            &[77, 1],
            &[77, 3],
            &[WINDOW_SCALE, 2],
            &[SACK, 2],
            &[SACK, 9, 0, 0, 0, 0, 0, 0, 0],
            &[TIMESTAMPS, 4, 0, 0],
        ] {
            assert_eq!(Options::parse(area), None, "{area:?}");
        }
    }

    #[test]
    fn unknown_options_and_what_is_behind_the_end_are_passed_over() {
        let options = Options { mss: Some(0x0102), ..Options::default() };
        assert_eq!(Options::parse(&[77, 4, 9, 9, 1, MSS, 4, 1, 2, 78, 2, END, MSS, 0]), Some(options));
    }
}
