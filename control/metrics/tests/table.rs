//! The table of metrics against what is made of it: the text that is served, the document, the dashboard and the alerts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use culvert_api::v1;
use culvert_metrics::exposition::text;
use culvert_metrics::reference::document;
use culvert_metrics::snapshot::{Node, Snapshot};
use culvert_metrics::table::all;
use culvert_metrics::view;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What nobody may name a thing, and a pod does.
const HOSTILE: &str = "a\"} 1\n# EOF\nculvert_up 7\\ <script>alert(1)</script>";

/// 99 frames of 1 us and one of 3 ms that came from a port; none went there.
fn latency() -> v1::PortLatency {
    let range = |from_ns, to_ns, frames| v1::LatencyRange { from_ns, to_ns, frames };
    v1::PortLatency { rx: vec![range(992, 1000, 99), range(2_900_000, 3_000_000, 1)], tx: Vec::new() }
}

/// A node that has one of everything, `ports` ports and as many translators in one pod.
fn node(ports: u32) -> Node {
    let port = |number: u32| v1::Port {
        name: format!("vm-{number}"),
        network: "blue".to_owned(),
        state: v1::PortState::Up.into(),
        description: "pod shop/virt-launcher-db-x7k2p, net1 of blue".to_owned(),
        attachment: Some(v1::port::Attachment::Guest(v1::GuestAttachment::default())),
        ..v1::Port::default()
    };
    let drops = |number: u32| {
        (0..32).map(move |reason| v1::PortDrop {
            port: format!("vm-{number}"),
            direction: v1::Direction::Rx.into(),
            reason: format!("reason-{reason}"),
            count: 3,
            ..v1::PortDrop::default()
        })
    };
    let names = ["rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "tx_segmented", "tcp_flows", "tcp_flows_total"];
    let more = ["refused_too_fast", "refused_\"}", "guest_connections", "guest_faults", "steered_ports"];
    let translator = |number: u32| v1::Translator {
        socket: format!("/pods/{number}/{HOSTILE}"),
        pod: "launcher".to_owned(),
        statistics: names.iter().chain(&more).map(|name| ((*name).to_owned(), 7)).collect(),
        ..v1::Translator::default()
    };
    Node {
        status: v1::GetStatusResponse {
            version: "0.1.0".to_owned(),
            workers: vec![v1::Worker { core: 1, busy_ns: 1_500_000_000, ..v1::Worker::default() }],
            translators: (0..ports).map(translator).collect(),
            ..v1::GetStatusResponse::default()
        },
        networks: vec![v1::Network { name: "blue".to_owned(), ..v1::Network::default() }],
        ports: (0..ports).map(port).collect(),
        stats: (0..ports)
            .map(|number| v1::PortStats {
                port: format!("vm-{number}"),
                rx_bytes: 64,
                latency: (number == 0).then(latency),
                ..v1::PortStats::default()
            })
            .collect(),
        drops: (0..ports).flat_map(drops).collect(),
        workers: vec![v1::WorkerQueues {
            core: 1,
            load_permille: 250,
            queues: vec![v1::PolledQueue { port: "vm-0".to_owned(), ..v1::PolledQueue::default() }],
        }],
        pods: vec![v1::Pod {
            name: "launcher".to_owned(),
            description: "pod shop/virt-launcher-db-x7k2p, net1 of blue".to_owned(),
            ..v1::Pod::default()
        }],
        ..Node::default()
    }
    .bounded()
}

fn snapshot(ports: u32) -> Snapshot {
    let mut snapshot = Snapshot { node: Some(node(ports)), ..Snapshot::default() };
    snapshot.own.collect.add(0.004);
    snapshot
}

/// The lines of an exposition: series with their labels and values. Panics where a line is none.
fn series(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none(), "the text goes on after its end");
            return found;
        }
        if line.starts_with("# ") {
            assert!(["# HELP ", "# TYPE ", "# UNIT "].iter().any(|start| line.starts_with(start)), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} is there twice");
    }
    panic!("the text has no end");
}

fn name(series: &str) -> &str {
    series.split_once('{').map_or(series, |(name, _)| name)
}

#[test]
fn every_metric_is_served_and_nothing_else() {
    let text = text(snapshot(1));
    let served: BTreeSet<String> = series(&text).keys().map(|series| name(series).to_owned()).collect();
    let known: BTreeSet<String> = all().flat_map(culvert_metrics::table::Metric::series).collect();
    assert_eq!(served, known);
    for expected in [
        "culvert_port_rx_bytes_total{port=\"vm-0\",network=\"blue\"} 64",
        "culvert_port_drops_total{port=\"vm-0\",network=\"blue\",direction=\"rx\",reason=\"reason-31\"} 3",
        "culvert_port_info{port=\"vm-0\",network=\"blue\",attachment=\"guest\",origin=\"\",namespace=\"shop\",\
         pod=\"virt-launcher-db-x7k2p\",vm=\"db\"} 1",
        "culvert_worker_busy_seconds_total{core=\"1\"} 1.5",
        "culvert_worker_load_ratio{core=\"1\"} 0.25",
        "culvert_collect_seconds_bucket{le=\"0.01\"} 1",
        "culvert_collect_seconds_bucket{le=\"0.003\"} 0",
        "culvert_port_latency_seconds_bucket{le=\"0.000001\",port=\"vm-0\",network=\"blue\",direction=\"rx\"} 99",
        "culvert_port_latency_seconds_bucket{le=\"0.01\",port=\"vm-0\",network=\"blue\",direction=\"rx\"} 100",
        "culvert_port_latency_seconds_count{port=\"vm-0\",network=\"blue\",direction=\"tx\"} 0",
        "culvert_up 1",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn what_a_pod_names_stays_within_its_label() {
    let text = text(snapshot(1));
    assert_eq!(series(&text)["culvert_up"], 1.0);
    assert!(text.contains(r#"socket="/pods/0/a\"} 1# EOFculvert_up 7\\ <script>alert(1)</script>""#), "{text}");
    // A name of a counter that is none of ours.
    assert!(!text.contains("reason=\"\\\"}\""), "{text}");
    assert!(text.contains("reason=\"too_fast\"} 7"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&view::json(&snapshot(1))).unwrap();
    assert_eq!(json["translators"][0]["socket"].as_str().unwrap(), format!("/pods/0/{HOSTILE}"));
}

#[test]
fn latency_is_told_of_ports_that_are_measured() {
    let text = text(snapshot(2));
    assert!(text.contains("culvert_port_latency_seconds_count{port=\"vm-0\""), "{text}");
    assert!(!text.contains("culvert_port_latency_seconds_count{port=\"vm-1\""), "{text}");
    let json: serde_json::Value = serde_json::from_str(&view::json(&snapshot(2))).unwrap();
    let [first, second] = [0, 1].map(|number| &json["networks"][0]["ports"][number]["latency"]);
    assert!(second.is_null(), "{second}");
    assert_eq!(
        (&first["rx"]["p50"], &first["rx"]["max"], &first["tx"]["p99"]),
        (&"1.00 us".into(), &"3.00 ms".into(), &"-".into())
    );
    assert_eq!(first["rx"]["ranges"].as_array().unwrap().len(), 13);
    assert_eq!((&first["rx"]["ranges"][0][1], &first["rx"]["ranges"][10][1]), (&99.into(), &1.into()));
}

#[test]
fn a_node_that_does_not_answer_is_told_as_such() {
    let text = text(Snapshot { problem: "gone".to_owned(), ..Snapshot::default() });
    let series = series(&text);
    assert_eq!(series["culvert_up"], 0.0);
    assert!(series.keys().all(|series| {
        ["culvert_up", "culvert_collect", "culvert_metrics"].iter().any(|start| series.starts_with(start))
    }));
}

/// As many ports as there may be, each with every reason; and a pod full of sockets.
#[test]
fn series_have_an_end_and_what_is_left_out_is_told() {
    let text = text(snapshot(1024));
    let series = series(&text);
    let of = |start: &str| series.keys().filter(|series| series.starts_with(start)).count();
    assert_eq!((of("culvert_port_rx_frames_total"), of("culvert_port_drops_total")), (1024, 8192));
    assert_eq!(of("culvert_translator_up"), 8);
    assert_eq!(series["culvert_metrics_left_out{of=\"drops\"}"], 1024.0 * 32.0 - 8192.0);
    assert_eq!(series["culvert_metrics_left_out{of=\"translators\"}"], 1016.0);
    assert!(series.len() < 40_000 && text.len() < 4 << 20, "{} series, {} bytes", series.len(), text.len());
}

#[test]
fn the_document_is_that_of_the_table() {
    let written = std::fs::read_to_string(root().join("docs/METRICS.md")).unwrap();
    let remedy = "run `cargo run -p culvert-metrics --example document > docs/METRICS.md`";
    assert!(written == document(), "docs/METRICS.md is stale; {remedy}");
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let words = text.split(|letter: char| !is_part(letter));
    words.filter(|word| word.starts_with("culvert_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = all().flat_map(culvert_metrics::table::Metric::series).collect();
    for file in ["dashboard.json", "alerts.yaml"] {
        let text = std::fs::read_to_string(root().join("control/deploy/monitoring").join(file)).unwrap();
        let asked = names(&text);
        assert!(asked.len() >= 8, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
}
