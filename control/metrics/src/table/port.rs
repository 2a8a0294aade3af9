//! Metrics of ports.

use culvert_api::v1;

use super::node::{STATES, of_node};
use super::{Kind, Metric, Sample, Section, Unit, Value, counter, gauge, sample};
use crate::owner::Owner;
use crate::snapshot::{Histogram, Node, Snapshot};

pub(super) const SECTION: Section = Section {
    title: "Ports",
    text: "rx is towards culvertd, tx away from it: what a guest sends is rx. Counters begin with the port. Names of pods and virtual \
           machines are in `culvert_port_info`, where culvert-cni made the port; join them by `* on (port) group_left (pod, vm) \
           culvert_port_info`.",
    metrics: &[
        gauge("culvert_port", "What a port is, and whose.", |snapshot| {
            of_node(snapshot, |node| node.ports.iter().map(info).collect())
        })
        .kind(Kind::Info)
        .by(&["port", "network", "attachment", "origin", "namespace", "pod", "vm"]),
        gauge("culvert_port_state", "1, for the state that the port is in.", |snapshot| {
            of_node(snapshot, |node| {
                let state = |port: &v1::Port| {
                    let known = STATES.iter().find(|(state, _)| *state == port.state());
                    sample([&port.name, &port.network, known.map_or("unknown", |(_, name)| *name)], 1_u64)
                };
                node.ports.iter().map(state).collect()
            })
        })
        .by(&["port", "network", "state"]),
        port("culvert_port_rx_frames", "Frames that came from the guest or NIC.", |s| stats(s, |p| p.rx_frames)),
        port("culvert_port_rx", "Bytes of these frames.", |s| stats(s, |p| p.rx_bytes)).in_unit(Unit::Bytes),
        port("culvert_port_rx_forwarded_frames", "Of these frames, those that went on.", |s| {
            stats(s, |p| p.rx_forwarded)
        }),
        port("culvert_port_rx_copies", "How many ports these frames went to in all.", |s| stats(s, |p| p.rx_copies)),
        port("culvert_port_rx_dropped_frames", "Of these frames, those that were refused.", |s| {
            stats(s, |p| p.rx_dropped)
        }),
        port("culvert_port_rx_not_learned_frames", "Frames whose source was not learned, for want of room.", |s| {
            stats(s, |p| p.rx_not_learned)
        }),
        port("culvert_port_rx_held", "Times that the guest had to wait for the port's rate.", |s| {
            stats(s, |p| p.rx_held)
        }),
        port("culvert_port_tx_offered_frames", "Frames that were to leave by the port.", |s| {
            stats(s, |p| p.tx_offered)
        }),
        port("culvert_port_tx_frames", "Frames that went to the guest or NIC.", |s| stats(s, |p| p.tx_frames)),
        port("culvert_port_tx", "Bytes of these frames.", |s| stats(s, |p| p.tx_bytes)).in_unit(Unit::Bytes),
        port("culvert_port_tx_dropped_frames", "Frames that the port could not take.", |s| stats(s, |p| p.tx_dropped)),
        port("culvert_port_nic_missed_frames", "Frames that the NIC lost before culvertd saw them.", |s| {
            stats(s, |p| p.nic_missed)
        }),
        port("culvert_port_nic_rx_errors", "Frames that the NIC received damaged.", |s| stats(s, |p| p.nic_rx_errors)),
        port("culvert_port_nic_tx_errors", "Frames that the NIC failed to send.", |s| stats(s, |p| p.nic_tx_errors)),
        counter(
            "culvert_port_drops",
            "Refused frames, by the reason; culvertctl drops tells what to do.",
            |snapshot| {
                of_node(snapshot, |node| {
                    let drops = |drop: &v1::PortDrop| {
                        let direction = if drop.direction() == v1::Direction::Rx { "rx" } else { "tx" };
                        sample([&drop.port, node.network(&drop.port), direction, &drop.reason], drop.count)
                    };
                    node.drops.iter().map(drops).collect()
                })
            },
        )
        .by(&["port", "network", "direction", "reason"]),
        gauge(
            "culvert_port_latency",
            "How long frames stayed in culvertd that came from the port (rx) or went to it (tx); only while somebody measures the port.",
            |snapshot| of_node(snapshot, |node| node.stats.iter().flat_map(|stats| latency(node, stats)).collect()),
        )
        .kind(Kind::Histogram)
        .in_unit(Unit::Seconds)
        .by(&["port", "network", "direction"]),
    ],
};

const fn port(name: &'static str, help: &'static str, samples: fn(&Snapshot) -> Vec<Sample>) -> Metric {
    counter(name, help, samples).by(&["port", "network"])
}

fn stats(snapshot: &Snapshot, value: fn(&v1::PortStats) -> u64) -> Vec<Sample> {
    of_node(snapshot, |node| {
        let of_port = |stats: &v1::PortStats| sample([&stats.port, node.network(&stats.port)], value(stats));
        node.stats.iter().map(of_port).collect()
    })
}

fn latency(node: &Node, stats: &v1::PortStats) -> Vec<Sample> {
    let Some(latency) = &stats.latency else { return Vec::new() };
    let of = |(direction, ranges): (&str, &Vec<v1::LatencyRange>)| Sample {
        value: Value::Times(Histogram::of_latency(ranges)),
        ..sample([&stats.port, node.network(&stats.port), direction], 0_u64)
    };
    [("rx", &latency.rx), ("tx", &latency.tx)].map(of).into()
}

fn info(port: &v1::Port) -> Sample {
    let attachment = match &port.attachment {
        Some(v1::port::Attachment::Guest(_)) => "guest",
        Some(v1::port::Attachment::Nic(nic)) if !nic.driver.is_empty() => nic.driver.as_str(),
        Some(v1::port::Attachment::Nic(_)) => "nic",
        None => "",
    };
    let origin = match port.origin() {
        v1::Origin::File => "file",
        v1::Origin::Client => "client",
        v1::Origin::Unspecified => "",
    };
    let Owner { namespace, pod, vm } = Owner::parse(&port.description);
    sample([&port.name, &port.network, attachment, origin, &namespace, &pod, &vm], Value::Count(1))
}
