//! What ranges of times say ([`LatencyRange`]): shares of frames, and what was counted between two answers.

use std::collections::BTreeMap;

use crate::v1::LatencyRange;

/// How many frames there are.
pub fn frames(ranges: &[LatencyRange]) -> u64 {
    ranges.iter().map(|range| range.frames).fold(0, u64::saturating_add)
}

/// The time in nanoseconds that `share` of the frames, from 0 to 1, did not exceed; `None` if there are no frames. `ranges` are in ascending
/// order.
#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a share")]
pub fn quantile(ranges: &[LatencyRange], share: f64) -> Option<u64> {
    let all = frames(ranges);
    let wanted = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
    let mut seen = 0_u64;
    let reaches = |range: &&LatencyRange| {
        seen = seen.saturating_add(range.frames);
        seen >= wanted
    };
    ranges.iter().find(reaches).map(|range| range.to_ns)
}

/// What was counted from one answer to the next. Where another measurement has begun meanwhile, that is all of it.
pub fn between(before: &[LatencyRange], now: &[LatencyRange]) -> Vec<LatencyRange> {
    let old: BTreeMap<u64, u64> = before.iter().map(|range| (range.from_ns, range.frames)).collect();
    let of = |range: &LatencyRange| old.get(&range.from_ns).copied().unwrap_or(0);
    if now.iter().any(|range| range.frames < of(range)) || frames(now) < frames(before) {
        return now.to_vec();
    }
    let new = now.iter().map(|range| LatencyRange { frames: range.frames.saturating_sub(of(range)), ..*range });
    new.filter(|range| range.frames > 0).collect()
}

/// A time in nanoseconds with three digits and a unit: `1.23 us`.
#[expect(clippy::cast_precision_loss, reason = "three digits")]
pub fn text(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "us"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        value if value >= 99.95 => format!("{value:.0} {unit}"),
        value if value >= 9.995 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(counts: &[(u64, u64)]) -> Vec<LatencyRange> {
        counts.iter().map(|&(ns, frames)| LatencyRange { from_ns: ns, to_ns: ns + 1, frames }).collect()
    }

    #[test]
    fn a_quantile_is_the_time_that_a_share_does_not_exceed() {
        let times = ranges(&[(10, 90), (20, 9), (30, 1)]);
        for (share, ns) in [(0.0, 11), (0.5, 11), (0.9, 11), (0.901, 21), (0.99, 21), (0.991, 31), (1.0, 31)] {
            assert_eq!(quantile(&times, share), Some(ns), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        // What a server that is not ours may say.
        let absurd = ranges(&[(1, u64::MAX), (2, u64::MAX)]);
        assert_eq!(quantile(&absurd, f64::NAN), Some(2));
        assert_eq!(quantile(&ranges(&[(1, 0)]), 0.5), None);
    }

    #[test]
    fn what_was_counted_between_is_the_difference() {
        let (before, now) = (ranges(&[(10, 5), (20, 2)]), ranges(&[(10, 6), (20, 2), (30, 1)]));
        assert_eq!(between(&before, &now), ranges(&[(10, 1), (30, 1)]));
        assert_eq!(between(&now, &before), before);
        assert_eq!(between(&now, &now), []);
        assert_eq!(between(&before, &ranges(&[(30, 3)])), ranges(&[(30, 3)]));
    }

    #[test]
    fn times_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (123_456_789, "123 ms"),
            (17_179_869_183, "17.2 s"),
        ] {
            assert_eq!(super::text(ns), text);
        }
    }
}
