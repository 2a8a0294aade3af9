//! A snapshot for the status page: networks with their ports, workers and translators, with counters as they are. The page makes rates of
//! them.

use std::iter::zip;

use culvert_api::{latency, v1};
use serde::Serialize;

use crate::owner::Owner;
use crate::snapshot::{Histogram, Node, Snapshot};

/// What the page asks for.
#[derive(Debug, Serialize)]
struct View<'a> {
    problem: &'a str,
    version: &'a str,
    uptime_seconds: u64,
    restarts: u64,
    warnings: &'a [String],
    networks: Vec<Network<'a>>,
    workers: Vec<Worker>,
    translators: Vec<Translator<'a>>,
    /// How long culvertd took to answer: how often at most so many seconds.
    collect: Vec<(f64, u64)>,
}

#[derive(Debug, Serialize)]
struct Network<'a> {
    name: &'a str,
    macs: u32,
    ports: Vec<Port<'a>>,
}

#[derive(Debug, Serialize)]
struct Port<'a> {
    name: &'a str,
    state: &'static str,
    reason: &'a str,
    /// `guest`, or the NIC's driver.
    attachment: &'a str,
    description: &'a str,
    vlans: String,
    /// Frames and bytes, each towards us and away.
    rx_frames: u64,
    rx_bytes: u64,
    tx_frames: u64,
    tx_bytes: u64,
    drops: Vec<Drop<'a>>,
    /// While somebody measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Latency {
    rx: Times,
    tx: Times,
}

/// How long frames stayed.
#[derive(Debug, Serialize)]
struct Times {
    frames: u64,
    /// That half of them, 99 % and all did not exceed, as words.
    p50: String,
    p99: String,
    max: String,
    /// How many at most so many seconds, and those beyond.
    ranges: Vec<(Option<f64>, u64)>,
}

#[derive(Debug, Serialize)]
struct Drop<'a> {
    reason: &'a str,
    count: u64,
    remedy: &'a str,
}

#[derive(Debug, Serialize)]
struct Worker {
    core: u32,
    load_permille: u32,
    frames: u64,
    poll_gaps: u64,
}

#[derive(Debug, Serialize)]
struct Translator<'a> {
    socket: &'a str,
    owner: String,
    problem: &'a str,
    rx_bytes: u64,
    tx_bytes: u64,
    flows: u64,
    refused: u64,
}

/// The snapshot as JSON.
pub fn json(snapshot: &Snapshot) -> String {
    let none = Node::default();
    let node = snapshot.node.as_ref().unwrap_or(&none);
    let view = View {
        problem: &snapshot.problem,
        version: &node.status.version,
        uptime_seconds: node.status.uptime_seconds,
        restarts: node.status.restarts,
        warnings: &node.status.warnings,
        networks: node.networks.iter().map(|network| network_view(node, network)).collect(),
        workers: node.status.workers.iter().map(|worker| worker_view(node, worker)).collect(),
        translators: node.status.translators.iter().map(|translator| translator_view(node, translator)).collect(),
        collect: zip(snapshot.own.collect.bounds, &snapshot.own.collect.counts)
            .map(|(bound, count)| (*bound, *count))
            .collect(),
    };
    serde_json::to_string(&view).unwrap_or_default()
}

fn network_view<'a>(node: &'a Node, network: &'a v1::Network) -> Network<'a> {
    let ports = node.ports.iter().filter(|port| port.network == network.name);
    Network { name: &network.name, macs: network.macs, ports: ports.map(|port| port_view(node, port)).collect() }
}

fn port_view<'a>(node: &'a Node, port: &'a v1::Port) -> Port<'a> {
    let stats = node.stats.iter().find(|stats| stats.port == port.name).cloned().unwrap_or_default();
    let drops = node.drops.iter().filter(|drop| drop.port == port.name);
    let vlans = match (port.vlan, port.native) {
        (Some(vlan), _) => vlan.to_string(),
        (None, Some(native)) => format!("{} (native {native})", port.trunk.join(", ")),
        (None, None) => port.trunk.join(", "),
    };
    Port {
        name: &port.name,
        state: match port.state() {
            v1::PortState::Up => "up",
            v1::PortState::Waiting => "waiting",
            v1::PortState::Down => "down",
            v1::PortState::Quarantined => "quarantined",
            v1::PortState::Failed => "failed",
            v1::PortState::Unspecified => "unknown",
        },
        reason: &port.reason,
        attachment: match &port.attachment {
            Some(v1::port::Attachment::Nic(nic)) if !nic.driver.is_empty() => &nic.driver,
            Some(v1::port::Attachment::Nic(_)) => "nic",
            Some(v1::port::Attachment::Guest(_)) | None => "guest",
        },
        description: &port.description,
        vlans,
        rx_frames: stats.rx_frames,
        rx_bytes: stats.rx_bytes,
        tx_frames: stats.tx_frames,
        tx_bytes: stats.tx_bytes,
        drops: drops.map(|drop| Drop { reason: &drop.reason, count: drop.count, remedy: &drop.remedy }).collect(),
        latency: stats.latency.map(|latency| Latency { rx: times(&latency.rx), tx: times(&latency.tx) }),
    }
}

fn times(ranges: &[v1::LatencyRange]) -> Times {
    let histogram = Histogram::of_latency(ranges);
    let [p50, p99, max] =
        [0.5, 0.99, 1.0].map(|share| latency::quantile(ranges, share).map_or_else(|| "-".to_owned(), latency::text));
    let bounds = histogram.bounds.iter().copied().map(Some).chain([None]);
    Times { frames: histogram.count(), p50, p99, max, ranges: zip(bounds, histogram.counts).collect() }
}

fn worker_view(node: &Node, worker: &v1::Worker) -> Worker {
    let load = node.workers.iter().find(|queues| queues.core == worker.core).map_or(0, |queues| queues.load_permille);
    Worker { core: worker.core, load_permille: load, frames: worker.frames, poll_gaps: worker.poll_gaps }
}

fn translator_view<'a>(node: &'a Node, translator: &'a v1::Translator) -> Translator<'a> {
    let Owner { namespace, pod, vm } = node.owner_of_pod(&translator.pod);
    let of = |name: &str| translator.statistics.get(name).copied().unwrap_or(0);
    let refused = translator.statistics.iter().filter(|(name, _)| name.starts_with("refused_"));
    let owner = match (pod.is_empty(), vm.is_empty()) {
        (true, _) => translator.pod.clone(),
        (false, true) => format!("{namespace}/{pod}"),
        (false, false) => format!("{namespace}/{vm}"),
    };
    Translator {
        socket: &translator.socket,
        owner,
        problem: &translator.problem,
        rx_bytes: of("rx_bytes"),
        tx_bytes: of("tx_bytes"),
        flows: ["tcp_flows", "udp_flows", "echo_flows"].into_iter().map(of).fold(0, u64::saturating_add),
        refused: refused.fold(0, |sum, (_, count)| sum.saturating_add(*count)),
    }
}
