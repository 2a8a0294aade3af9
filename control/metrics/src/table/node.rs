//! Metrics of the node as a whole, and of this process.

use culvert_api::v1;

use super::{Kind, Sample, Section, Unit, Value, counter, gauge, sample};
use crate::snapshot::{Node, Snapshot};

pub(super) const SECTION: Section = Section {
    title: "The node",
    text: "Where `culvert_up` is 0, culvertd did not answer, and there are no series but those of its own process that serves metrics \
           (`culvert_collect…`, `culvert_metrics…`).",
    metrics: &[
        gauge("culvert_up", "Whether culvertd answered.", |snapshot| vec![sample([], snapshot.node.is_some())]),
        gauge("culvert", "The version of culvertd.", |snapshot| {
            of_node(snapshot, |node| vec![sample([&node.status.version], 1_u64)])
        })
        .kind(Kind::Info)
        .by(&["version"]),
        gauge("culvert_uptime", "Time since the daemon started.", |snapshot| {
            one(snapshot, |status| status.uptime_seconds.into())
        })
        .in_unit(Unit::Seconds),
        counter("culvert_restarts", "Daemons that were started again after a crash.", |snapshot| {
            one(snapshot, |status| status.restarts.into())
        }),
        counter("culvert_bugs", "Failures that are mistakes in culvertd; the log has each.", |snapshot| {
            one(snapshot, |status| status.bugs.into())
        }),
        gauge("culvert_warnings", "What is wrong with the node as a whole: culvertctl status tells it.", |snapshot| {
            one(snapshot, |status| count(status.warnings.len()))
        }),
        gauge("culvert_packet_memory", "Memory for packet buffers.", |snapshot| {
            one(snapshot, |status| u64::from(status.memory_mb).saturating_mul(1 << 20).into())
        })
        .in_unit(Unit::Bytes),
        gauge("culvert_hugepages", "Whether packet buffers are in hugepages.", |snapshot| {
            one(snapshot, |status| status.hugepages.into())
        }),
        gauge("culvert_ports", "Ports, by their state.", |snapshot| {
            of_node(snapshot, |node| {
                let of = |state| node.ports.iter().filter(|port| port.state() == state).count();
                STATES.iter().map(|(state, name)| sample([name], count(of(*state)))).collect()
            })
        })
        .by(&["state"]),
        gauge("culvert_ports_limit", "How many ports there may be.", |snapshot| {
            one(snapshot, |status| status.ports_max.into())
        }),
        gauge("culvert_networks", "Networks.", |snapshot| one(snapshot, |status| status.networks.into())),
        gauge("culvert_mirrors", "Mirrors.", |snapshot| one(snapshot, |status| status.mirrors.into())),
        gauge("culvert_pods", "Pods in which translators are known.", |snapshot| {
            one(snapshot, |status| status.pods.into())
        }),
        gauge("culvert_collect", "Time that culvertd took to answer.", |snapshot| {
            vec![Sample { labels: Vec::new(), value: Value::Times(snapshot.own.collect.clone()) }]
        })
        .kind(Kind::Histogram)
        .in_unit(Unit::Seconds),
        counter("culvert_collect_failures", "Times that culvertd did not answer.", |snapshot| {
            vec![sample([], snapshot.own.failures)]
        }),
        counter("culvert_metrics_connections", "Connections to the metrics address.", |snapshot| {
            vec![sample([], snapshot.own.connections)]
        }),
        counter(
            "culvert_metrics_connections_cut_off",
            "Connections to the metrics address that were closed because they took too long, or others came.",
            |snapshot| vec![sample([], snapshot.own.cut_off)],
        ),
        gauge(
            "culvert_metrics_left_out",
            "Objects without series of their own, because there are too many.",
            |snapshot| of_node(snapshot, |node| node.left_out.iter().map(|(of, count)| sample([of], *count)).collect()),
        )
        .by(&["of"]),
    ],
};

/// States of ports, and their names in labels.
pub(super) const STATES: [(v1::PortState, &str); 5] = [
    (v1::PortState::Waiting, "waiting"),
    (v1::PortState::Up, "up"),
    (v1::PortState::Down, "down"),
    (v1::PortState::Quarantined, "quarantined"),
    (v1::PortState::Failed, "failed"),
];

/// Samples of a node that answered.
pub(super) fn of_node(snapshot: &Snapshot, samples: impl FnOnce(&Node) -> Vec<Sample>) -> Vec<Sample> {
    snapshot.node.as_ref().map(samples).unwrap_or_default()
}

fn one(snapshot: &Snapshot, value: impl FnOnce(&v1::GetStatusResponse) -> Value) -> Vec<Sample> {
    of_node(snapshot, |node| vec![sample([], value(&node.status))])
}

fn count(number: usize) -> Value {
    Value::Count(u64::try_from(number).unwrap_or(u64::MAX))
}
