//! `culvertctl latency`: how long frames of a port stay in culvertd, by the ports that they came from and went to.
//!
//! [`chart`] draws the same as a page for a browser.

mod chart;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_api::latency::{frames, quantile, text};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, LatencyWish};
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{or_dash, table};

#[derive(Serialize)]
struct Latency {
    port: String,
    seconds: f64,
    pairs: Vec<Pair>,
}

/// Frames from one port to another one, and the times that so many of them did not exceed.
#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
    frames: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p99_9_ns: u64,
    max_ns: u64,
    #[serde(skip)]
    ranges: Vec<v1::LatencyRange>,
}

/// Measures for a time, or until Ctrl-C, and tells what was seen.
///
/// # Errors
/// culvertd refuses, or the page cannot be written.
pub async fn show(client: &mut Client, wish: LatencyWish, format: Format) -> Result<String> {
    let LatencyWish { port, seconds, html } = wish;
    let answer = measure(client, &port, seconds).await?;
    let pairs = answer.pairs.into_iter().filter_map(Pair::of).collect();
    let latency = Latency { port, seconds: Duration::from_nanos(answer.elapsed_ns).as_secs_f64(), pairs };
    if let Some(path) = html {
        write_page(&path, &latency)?;
    }
    if let Some(data) = format.data() {
        return data.text(&latency);
    }
    Ok(latency.text())
}

/// The last answer within the time; that of the first moment if there was none.
async fn measure(client: &mut Client, port: &str, wanted: Duration) -> Result<v1::MeasureLatencyResponse> {
    let interval = wanted.clamp(SHORTEST, LONGEST);
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let request = v1::MeasureLatencyRequest { port: port.to_owned(), interval_ms };
    let mut answers = client.measure_latency(request).await.map_err(|status| refusal(&status))?.into_inner();
    let mut last = v1::MeasureLatencyResponse::default();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while Duration::from_nanos(last.elapsed_ns) < wanted {
        let answer = tokio::select! {
            biased;
            interrupted = &mut interrupt => {
                interrupted?;
                break;
            }
            answer = answers.message() => answer.map_err(|status| refusal(&status))?,
        };
        last = answer.with_context(|| format!("port {port} has gone; `culvertctl events {port}` tells why"))?;
    }
    Ok(last)
}

fn write_page(path: &PathBuf, latency: &Latency) -> Result<()> {
    std::fs::write(path, chart::page(latency)).with_context(|| format!("{} cannot be written", path.display()))
}

impl Latency {
    fn text(&self) -> String {
        if self.pairs.is_empty() {
            return format!("no frame came from {0} or went to it in {1:.1} s\n", self.port, self.seconds);
        }
        let columns = [
            ("FROM", Left),
            ("TO", Left),
            ("FRAMES", Right),
            ("P50", Right),
            ("P90", Right),
            ("P99", Right),
            ("P99.9", Right),
            ("MAX", Right),
        ];
        let rows = self.pairs.iter().map(|pair| {
            let names = [or_dash(&pair.from), or_dash(&pair.to), pair.frames.to_string()];
            names.into_iter().chain(pair.times().map(text)).collect()
        });
        table(&columns, rows)
    }
}

impl Pair {
    /// None of a pair without frames.
    fn of(pair: v1::LatencyPair) -> Option<Self> {
        let v1::LatencyPair { from, to, ranges } = pair;
        let at = |share| quantile(&ranges, share);
        let [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns] = [at(0.5)?, at(0.9)?, at(0.99)?, at(0.999)?, at(1.0)?];
        Some(Self { from, to, frames: frames(&ranges), p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, ranges })
    }

    const fn times(&self) -> [u64; 5] {
        [self.p50_ns, self.p90_ns, self.p99_ns, self.p99_9_ns, self.max_ns]
    }
}

/// From one answer to the next, at least and at most.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
