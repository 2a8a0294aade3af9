//! docs/METRICS.md, made of the table.

use std::fmt::Write;

use crate::snapshot::LIMITS;
use crate::table::{Kind, MAX_LABEL_CHARACTERS, Metric, SECTIONS};

/// The document.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    for section in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {}\n\n", section.title);
        if !section.text.is_empty() {
            let _ = write!(text, "{}\n\n", section.text);
        }
        text.push_str("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
        section.metrics.iter().for_each(|metric| text.push_str(&row(metric)));
    }
    text.push_str(
        "\n## Limits\n\nSo many objects have series of their own; more are counted by `culvert_metrics_left_out`:\n\n",
    );
    text.push_str("| objects | at most |\n|---|---|\n");
    for (kind, most) in LIMITS {
        let _ = writeln!(text, "| {} | {most} |", kind.replace('_', " "));
    }
    let _ = write!(text, "\nA label's value has at most {MAX_LABEL_CHARACTERS} characters.\n");
    text
}

fn row(metric: &Metric) -> String {
    let name = match metric.kind {
        Kind::Histogram => metric.family(),
        Kind::Counter | Kind::Gauge | Kind::Info => metric.series().concat(),
    };
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    };
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{name}` | {kind} | {} | {} |\n", labels.join(", "), metric.help)
}

const HEAD: &str = "# Metrics

<!-- Made of control/metrics/src/table.rs by `cargo run -p culvert-metrics --example document > docs/METRICS.md`; a test fails when it is stale. -->

culvertd serves OpenMetrics at `daemon.metrics_address`, `http://127.0.0.1:9477/metrics` where nothing else is said, from a process of its own
that has no rights and no part in frames. `metrics_address = \"off\"` serves none.

| path | what is there |
|---|---|
| `/metrics` | these metrics |
| `/healthz` | 200 when the daemon answers, else 503 and the reason |
| `/readyz` | 200 when the daemon answers and no port is still being opened, else 503 and the reason |
| `/` | the status page, for persons |
| `/api/node.json` | what the page shows; no interface to rely on |

What is asked within half a second is answered from one answer of culvertd's. 64 connections may be open; the one that has been open longest is
closed for the next. A request's head may take 5 s and have 16 KiB, a connection 20 s. Only GET and HEAD are answered. Nothing can be changed here;
but everybody who reaches the address may look: leave it at 127.0.0.1, or put something in front that asks who it is.

control/deploy/monitoring has a Grafana dashboard and alert rules.
";
