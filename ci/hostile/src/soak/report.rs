//! The report of a run: one page that needs nothing else, with a chart for each number and a table of what happened.

use std::fmt::Write;

use super::Round;
use super::samples::{Samples, What, number};

/// The page. `wrong`: what was not as it must be.
pub fn page(title: &str, rounds: &[Round], samples: &Samples, summary: &[String], wrong: &[String]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n",
        escape(title)
    );
    let (class, verdict) =
        if wrong.is_empty() { ("ok", "All is accounted for.") } else { ("bad", "Not all is as it must be:") };
    let _ = writeln!(page, "<p class=\"{class}\">{verdict}</p>");
    for (class, sentences) in [("bad", wrong), ("", summary)] {
        let items: String = sentences.iter().map(|sentence| format!("<li>{}\n", escape(sentence))).collect();
        let _ = writeln!(page, "<ul class=\"{class}\">\n{items}</ul>");
    }
    for what in What::ALL {
        let lives: Vec<Vec<Point>> = samples
            .lives()
            .iter()
            .map(|life| life.iter().map(|sample| (minutes(sample.at), number(sample.get(what)))).collect())
            .collect();
        page += &chart(&format!("culvertd's {}, a line for each life of it", what.name()), &lives);
    }
    page += &chart("frames of guests with books a second", &[rates(rounds)]);
    let lost = rounds.iter().map(|round| (minutes(round.at), number(round.totals.lost))).collect();
    page += &chart("frames lost while culvertd was away, in all", &[lost]);
    page += "<h2>What happened</h2>\n<table><tr><th>round<th>minute<th>what<th>seen<th>frames<th>lost<th>twice\n";
    for round in rounds {
        let (class, seen) = match &round.result {
            Ok(seen) => ("", seen.as_str()),
            Err(error) => ("bad", error.as_str()),
        };
        let _ = writeln!(
            page,
            "<tr class=\"{class}\"><td>{}<td>{:.1}<td>{}<td>{}<td>{}<td>{}<td>{}",
            round.number,
            minutes(round.at),
            escape(&round.fault),
            escape(seen),
            round.totals.frames,
            round.totals.lost,
            round.totals.repeated
        );
    }
    page + "</table>\n"
}

/// Minutes, and a value.
type Point = (f64, f64);

/// From one round to the next.
fn rates(rounds: &[Round]) -> Vec<Point> {
    let rate = |pair: &[Round]| {
        let [before, after] = pair else { return None };
        let frames = number(after.totals.frames.saturating_sub(before.totals.frames));
        Some((minutes(after.at), frames / after.at.saturating_sub(before.at).as_secs_f64().max(0.001)))
    };
    rounds.windows(2).filter_map(rate).collect()
}

/// Lines over time, from 0 to the greatest value.
fn chart(title: &str, lines: &[Vec<Point>]) -> String {
    let points = || lines.iter().flatten();
    let last = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let greatest = points().map(|point| point.1).fold(1.0, f64::max);
    let mut drawn = String::new();
    for line in lines {
        let places: Vec<(f64, f64)> =
            line.iter().map(|point| (LEFT + point.0 / last * WIDE, TOP + HIGH - point.1 / greatest * HIGH)).collect();
        let list: String = places.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let _ = writeln!(drawn, "<polyline points=\"{}\"/>", list.trim_end());
        // One alone would be no line.
        for (x, y) in &places {
            let _ = writeln!(drawn, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>");
        }
    }
    let (right, bottom) = (LEFT + WIDE, TOP + HIGH);
    format!(
        "<h3>{}</h3>\n<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\">\n\
         <path d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{greatest:.0}</text>\
         <text x=\"{:.0}\" y=\"{bottom:.0}\" text-anchor=\"end\">0</text>\
         <text x=\"{right:.0}\" y=\"{:.0}\" text-anchor=\"end\">minute {last:.1}</text>\n{drawn}</svg>\n",
        escape(title),
        right + 10.0,
        bottom + 20.0,
        LEFT - 6.0,
        TOP + 9.0,
        LEFT - 6.0,
        bottom + 15.0
    )
}

fn minutes(at: std::time::Duration) -> f64 {
    at.as_secs_f64() / 60.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The area of a chart's lines.
const LEFT: f64 = 80.0;
const TOP: f64 = 6.0;
const WIDE: f64 = 700.0;
const HIGH: f64 = 160.0;

const STYLE: &str = "body{font:14px sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    svg{width:100%;height:auto}svg text{font:12px sans-serif}svg path{fill:none;stroke:#999}\
    polyline{fill:none;stroke:#0072b2;stroke-width:1.5}circle{fill:#0072b2}\
    .bad{color:#b00020}.ok{color:#006b3c}table{border-collapse:collapse;display:block;overflow-x:auto}\
    td,th{padding:.1em .6em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cases::restart::group::Totals;

    fn round(number: u32, frames: u64, result: Result<String, String>) -> Round {
        let totals = Totals { frames, lost: 3, repeated: 0 };
        Round { number, at: Duration::from_secs(60 * u64::from(number)), fault: "<fault>".to_owned(), result, totals }
    }

    #[test]
    fn a_page_shows_each_round_and_what_was_wrong() {
        let rounds = [round(1, 100, Ok("well".to_owned())), round(2, 700, Err("a & b".to_owned()))];
        let summary = ["a summary".to_owned()];
        let page = page("soak", &rounds, &Samples::default(), &summary, &["round 2: a & b".to_owned()]);
        assert!(page.contains("Not all is as it must be") && page.contains("a &amp; b") && page.contains("a summary"));
        assert!(page.contains("&lt;fault&gt;") && !page.contains("<fault>"));
        assert_eq!(page.matches("<svg").count(), 5);
        // 600 frames in a minute.
        assert!(page.contains(">10</text>"), "{page}");
    }
}
