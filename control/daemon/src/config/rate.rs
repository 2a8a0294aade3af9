//! The rates of a port as they are written: `rx_rate` and `tx_rate` as tc(8) writes them, and what belongs to them. What they do to
//! frames is the switch's matter; `node` hands them over.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, Wrong};

/// The rates of a port; any number where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Towards us: what a guest sends.
    pub rx: Rate,
    /// Away from us: what a guest gets.
    pub tx: Rate,
}

/// The rates of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bits a second, one of [`BIT_RATES`].
    pub bits: Option<u64>,
    /// Bytes at once; only with `bits`.
    pub burst: Option<u64>,
    /// Frames a second.
    pub frames: Option<u32>,
    /// Frames at once; only with `frames`.
    pub frame_burst: Option<u32>,
}

/// Smallest and largest `rx_rate` and `tx_rate`, in bits a second: 400 Gbit/s.
pub const BIT_RATES: RangeInclusive<u64> = 8_000..=400_000_000_000;
/// Smallest and largest `rx_burst` and `tx_burst`, in bytes: 1 GiB.
pub const BURSTS: RangeInclusive<u64> = 1..=1 << 30;
/// Smallest and largest number of frames, a second and at once.
pub const FRAMES: RangeInclusive<u32> = 1..=1_000_000_000;

/// The keys of one direction.
struct RateKeys {
    bits: &'static str,
    burst: &'static str,
    frames: &'static str,
    frame_burst: &'static str,
}

const RX: RateKeys =
    RateKeys { bits: "rx_rate", burst: "rx_burst", frames: "rx_frame_rate", frame_burst: "rx_frame_burst" };
const TX: RateKeys =
    RateKeys { bits: "tx_rate", burst: "tx_burst", frames: "tx_frame_rate", frame_burst: "tx_frame_burst" };

impl Rates {
    /// Reads the eight keys of a port.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        Self { rx: Rate::read(report, section, &RX), tx: Rate::read(report, section, &TX) }
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        self.rx.keys(&RX).chain(self.tx.keys(&TX)).collect()
    }
}

impl Rate {
    fn read(report: &mut Report<'_>, section: &mut Section<'_>, keys: &RateKeys) -> Self {
        let bits = section.optional(report, keys.bits, bit_rate);
        let burst = section.optional(report, keys.burst, |value| value::number(value, BURSTS));
        let frames = section.optional(report, keys.frames, |value| value::number(value, FRAMES));
        let frame_burst = section.optional(report, keys.frame_burst, |value| value::number(value, FRAMES));
        for (burst, rate) in [(keys.burst, keys.bits), (keys.frame_burst, keys.frames)] {
            if !section.has(rate) {
                let wrong = Wrong::new(format!("works only with {rate}"), format!("remove it, or add {rate}"));
                section.refuse(report, burst, wrong);
            }
        }
        Self {
            bits: bits.map(|found| found.value),
            burst: burst.map(|found| found.value),
            frames: frames.map(|found| found.value),
            frame_burst: frame_burst.map(|found| found.value),
        }
    }

    fn keys(&self, keys: &RateKeys) -> impl Iterator<Item = (&'static str, String)> {
        let values = [
            (keys.bits, self.bits.map(|bits| value::toml_text(&rate_text(bits)))),
            (keys.burst, self.burst.map(|bytes| bytes.to_string())),
            (keys.frames, self.frames.map(|frames| frames.to_string())),
            (keys.frame_burst, self.frame_burst.map(|frames| frames.to_string())),
        ];
        values.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

/// Bits a second, as [`checked`] reads them.
pub(super) fn bit_rate(value: &DeValue<'_>) -> Result<u64, Wrong> {
    checked(value::text(value, EXAMPLE)?)
}

/// Bits a second as a client has written them.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn read(text: &str) -> Result<u64, String> {
    checked(text).map_err(|Wrong { problem, remedy }| format!("{problem}; {remedy}"))
}

/// Bits a second: a number, which may have a fraction, and `bit`, `kbit`, `mbit` or `gbit` in whatever case.
fn checked(text: &str) -> Result<u64, Wrong> {
    let not_one =
        || Wrong::new("is no rate", format!("write a number and bit, kbit, mbit or gbit (a second), like {EXAMPLE}"));
    let bits = parse(text).ok_or_else(not_one)?;
    let (low, high) = (*BIT_RATES.start(), *BIT_RATES.end());
    u64::try_from(bits).ok().filter(|bits| BIT_RATES.contains(bits)).ok_or_else(|| {
        let remedy = format!("write a rate from {} to {}", rate_text(low), rate_text(high));
        Wrong::new("is out of range", remedy)
    })
}

/// `None` for what is no number with a unit, or no whole number of bits.
fn parse(text: &str) -> Option<u128> {
    let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at_checked(end)?;
    let unit = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || whole.len() > MAX_DIGITS || fraction.is_empty() || fraction.len() > MAX_DIGITS {
        return None;
    }
    // Two points leave one in the fraction, which is no number then.
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = fraction.parse::<u128>().ok()? * u128::from(unit);
    (parts % scale == 0).then_some(whole.parse::<u128>().ok()? * u128::from(unit) + parts / scale)
}

/// A rate as [`Rate`] is read from, in the largest unit that needs no fraction.
pub fn rate_text(bits: u64) -> String {
    let (name, unit) = UNITS.into_iter().find(|(_, unit)| bits.is_multiple_of(*unit)).unwrap_or(("bit", 1));
    format!("{}{name}", bits / unit)
}

const EXAMPLE: &str = "\"100mbit\" or \"1.5gbit\"";
/// tc(8)'s, the largest first.
const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
/// Digits before the point and behind it: more are out of range, or no whole number of bits.
const MAX_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        let texts = [
            ("100mbit", 100_000_000),
            ("1.5gbit", 1_500_000_000),
            ("1Gbit", 1_000_000_000),
            ("400gbit", 400_000_000_000),
            ("9.600kbit", 9_600),
            ("8000bit", 8_000),
            ("0.000000001gbit", 1),
            ("000000000000000001bit", 1),
        ];
        for (text, bits) in texts {
            assert_eq!(parse(text), Some(bits), "{text}");
        }
        for text in [
            "",
            "bit",
            "mbit",
            "100",
            "100 mbit",
            "1.5.0gbit",
            "1.gbit",
            ".5gbit",
            "-1mbit",
            "1e3mbit",
            "1mbps",
            "1mibit",
            "1.5bit",
            "1.0000000001gbit",
            "1000000000000000000000000bit",
            "1mbit ",
            "٣mbit",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn rates_are_written_as_they_are_read() {
        let texts =
            [(100_000_000, "100mbit"), (1_500_000_000, "1500mbit"), (9_600, "9600bit"), (1_000_000_000, "1gbit")];
        for (bits, text) in texts {
            assert_eq!((rate_text(bits).as_str(), parse(text)), (text, Some(bits.into())));
        }
    }
}
