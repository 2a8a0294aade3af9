//! Metrics of networks.

use culvert_api::v1;

use super::node::of_node;
use super::{Sample, Section, Value, gauge, sample};
use crate::snapshot::Snapshot;

pub(super) const SECTION: Section = Section {
    title: "Networks",
    text: "",
    metrics: &[
        gauge("culvert_network_macs", "Addresses that the network knows.", |snapshot| {
            networks(snapshot, |network| network.macs.into())
        })
        .by(&["network"]),
        gauge("culvert_network_ports", "Ports of the network.", |snapshot| {
            networks(snapshot, |network| Value::Count(u64::try_from(network.ports.len()).unwrap_or(u64::MAX)))
        })
        .by(&["network"]),
        gauge(
            "culvert_network_guest_ports",
            "Ports that kubelet may give to pods; 0 where it has none to give.",
            |snapshot| networks(snapshot, |network| network.guest_ports.unwrap_or(0).into()),
        )
        .by(&["network"]),
    ],
};

fn networks(snapshot: &Snapshot, value: impl Fn(&v1::Network) -> Value) -> Vec<Sample> {
    of_node(snapshot, |node| node.networks.iter().map(|network| sample([&network.name], value(network))).collect())
}
