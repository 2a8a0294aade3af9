//! A measurement as one page that needs nothing else: a line for each pair of ports, from the time of the fastest frame to that of the slowest,
//! and a table.

use std::fmt::Write;

use culvert_api::latency::{quantile, text};
use culvert_api::v1::LatencyRange;

use super::{Latency, Pair};

/// The page.
pub(super) fn page(latency: &Latency) -> String {
    let title = format!("Time of frames in Culvert: port {}", escape(&latency.port));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n\
         <p>Measured for {:.1} s, from when a worker looked for the frame to when it lay where it went.</p>\n",
        latency.seconds
    );
    if latency.pairs.is_empty() {
        return page + "<p>No frame came from the port or went to it.</p>\n";
    }
    page += &chart(&latency.pairs);
    page +=
        "<div class=\"wide\"><table><tr><th><th>from<th>to<th>frames<th>50 %<th>90 %<th>99 %<th>99.9 %<th>all within\n";
    for (number, pair) in latency.pairs.iter().enumerate() {
        let times = pair.times().map(|ns| format!("<td class=\"number\">{}", text(ns))).concat();
        let (from, to) = (escape(&pair.from), escape(&pair.to));
        let mark = match LINES.get(number) {
            Some((color, dashes)) => format!(
                "<svg class=\"mark\" viewBox=\"0 0 40 10\"><path d=\"M0 5H40\" stroke=\"{color}\" stroke-dasharray=\"{dashes}\"/></svg>"
            ),
            None => String::new(),
        };
        let _ = writeln!(page, "<tr><td>{mark}<td>{from}<td>{to}<td class=\"number\">{}{times}", pair.frames);
    }
    page + "</table></div>\n"
}

/// Times by the share of frames that did not exceed them. Both axes are logarithmic: each step to the right leaves a tenth of the frames.
fn chart(pairs: &[Pair]) -> String {
    let drawn: Vec<_> = pairs.iter().zip(LINES).collect();
    let most_frames = drawn.iter().map(|(pair, _)| pair.frames).max().unwrap_or(1);
    // As many nines as the frames are enough for.
    let decades = digits(most_frames).clamp(2, MOST_DECADES);
    let ends = drawn.iter().flat_map(|(pair, _)| Some([pair.ranges.first()?.from_ns, pair.max_ns]));
    let (low, high) = ends.fold((u64::MAX, 1), |(low, high), [from, to]| (low.min(from), high.max(to)));
    let (low, high) = (log(low.max(1)).floor(), log(high.max(1)).ceil());
    let high = high.max(low + 1.0);
    let x = |decade: f64| LEFT + decade / f64::from(decades) * WIDE;
    let y = |ns: u64| TOP + (high - log(ns.max(1))) / (high - low) * HIGH;
    let (right, bottom) = (LEFT + WIDE, TOP + HIGH);
    let mut lines = String::new();
    for decade in 0..=decades {
        let (at, share) = (x(decade.into()), NAMES.get(usize::from(decade)).unwrap_or(&""));
        let _ = writeln!(
            lines,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{share}</text>",
            bottom + 18.0
        );
    }
    let powers = (0..20).map(|power| 10_u64.pow(power));
    for ns in powers.filter(|ns| (low..=high).contains(&log(*ns))) {
        let at = y(ns);
        let _ = writeln!(
            lines,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            round_text(ns)
        );
    }
    for (pair, (color, dashes)) in drawn {
        let points: String =
            steps(&pair.ranges, decades).map(|(at, ns)| format!("{:.1},{:.1} ", x(at), y(ns))).collect();
        let _ = writeln!(
            lines,
            "<polyline points=\"{}\" stroke=\"{color}\" stroke-dasharray=\"{dashes}\"><title>{} to {}</title></polyline>",
            points.trim_end(),
            escape(&pair.from),
            escape(&pair.to)
        );
    }
    format!(
        "<h2>Time that a share of the frames did not exceed</h2>\n<svg class=\"chart\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\">\n{lines}</svg>\n",
        right + 40.0,
        bottom + 28.0
    )
}

/// Points of a line: how many tenths are left, as a power, and the time.
fn steps(ranges: &[LatencyRange], decades: u8) -> impl Iterator<Item = (f64, u64)> + '_ {
    let all = culvert_api::latency::frames(ranges).max(1) as f64;
    let points = (0..=u16::from(decades) * STEPS).map(|step| f64::from(step) / f64::from(STEPS));
    // Of ten frames none is the slowest of a hundred.
    let known = points.take_while(move |at| *at == 0.0 || 10_f64.powf(-at) * all >= 0.999);
    known.filter_map(|at| Some((at, quantile(ranges, 1.0 - 10_f64.powf(-at))?)))
}

/// How many digits a number has.
fn digits(number: u64) -> u8 {
    number.checked_ilog10().map_or(1, |digits| u8::try_from(digits).unwrap_or(MOST_DECADES))
}

fn log(ns: u64) -> f64 {
    (ns as f64).log10()
}

/// A power of ten in words: `10 us`.
fn round_text(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => (ns, "ns"),
        1_000..1_000_000 => (ns / 1_000, "us"),
        1_000_000..1_000_000_000 => (ns / 1_000_000, "ms"),
        _ => (ns / 1_000_000_000, "s"),
    };
    format!("{value} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The area of the lines.
const LEFT: f64 = 70.0;
const TOP: f64 = 10.0;
const WIDE: f64 = 700.0;
const HIGH: f64 = 300.0;
/// Points of a line for each decade.
const STEPS: u16 = 12;
const MOST_DECADES: u8 = 6;
/// What stands below the decades.
const NAMES: [&str; 7] = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];

/// Colours and dashes; they differ for people who see no red or green, too. Pairs beyond stand in the table only.
const LINES: [(&str, &str); 12] = [
    ("#0072b2", "none"),
    ("#d55e00", "none"),
    ("#009e73", "none"),
    ("#cc79a7", "none"),
    ("#0072b2", "7 3"),
    ("#d55e00", "7 3"),
    ("#009e73", "7 3"),
    ("#cc79a7", "7 3"),
    ("#0072b2", "2 3"),
    ("#d55e00", "2 3"),
    ("#009e73", "2 3"),
    ("#cc79a7", "2 3"),
];

const STYLE: &str = "body{font:15px/1.4 sans-serif;max-width:60em;margin:1.5em auto;padding:0 1em;color:#222}\
    h1{font-size:1.4em;overflow-wrap:anywhere}h2{font-size:1.05em}\
    .chart{width:100%;height:auto}.chart text{font:12px sans-serif;fill:#444}.grid{fill:none;stroke:#ddd}\
    polyline{fill:none;stroke-width:1.8}.mark{width:40px;height:10px}.mark path{stroke-width:2.5}\
    .wide{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.15em .6em;text-align:left;border-bottom:1px solid #ddd;white-space:nowrap}\
    .number{text-align:right}";

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_api::v1;

    fn latency(frames: u64) -> Latency {
        let range = |ns, frames| LatencyRange { from_ns: ns, to_ns: ns + ns / 32, frames };
        let ranges = vec![range(900, frames * 99), range(40_000, frames)];
        let pair = |from: &str, to: &str| v1::LatencyPair { from: from.into(), to: to.into(), ranges: ranges.clone() };
        let pairs = [pair("vm-a", "<vm-b>"), pair("*", "vm-a")].into_iter().filter_map(Pair::of).collect();
        Latency { port: "vm-a".to_owned(), seconds: 10.0, pairs }
    }

    #[test]
    fn a_page_has_a_line_and_a_row_for_each_pair_and_no_name_breaks_it() {
        let page = page(&latency(1));
        assert_eq!((page.matches("<polyline").count(), page.matches("<tr><td>").count()), (2, 2));
        assert!(page.contains("&lt;vm-b&gt;") && !page.contains("<vm-b>"), "{page}");
        assert!(page.contains(">41.2 us<") && page.contains("99 %") && !page.contains("99.99 %"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_line_goes_as_far_as_its_frames_and_stays_in_its_area() {
        for frames in [1, 7, 1_000_000, u64::MAX / 200] {
            let pairs = latency(frames).pairs;
            let points: Vec<_> = steps(&pairs[0].ranges, MOST_DECADES).collect();
            assert!(points.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{points:?}");
            let last = points.last().unwrap().0;
            assert!(last <= f64::from(MOST_DECADES) && last <= (frames as f64 * 100.0).log10() + 0.01, "{last}");
            let drawn = chart(&pairs);
            for point in drawn.split("points=\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split(' ')) {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=LEFT + WIDE).contains(&x) && (TOP..=TOP + HIGH).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn without_frames_it_says_so() {
        assert!(page(&Latency { pairs: Vec::new(), ..latency(1) }).contains("No frame came"));
    }
}
