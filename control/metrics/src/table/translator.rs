//! Metrics of translators.

use culvert_api::v1;

use super::node::of_node;
use super::{Kind, Metric, Sample, Section, Unit, Value, counter, gauge, sample};
use crate::owner::Owner;
use crate::snapshot::{Node, Snapshot};

pub(super) const SECTION: Section = Section {
    title: "Translators",
    text: "Those in /run/culvert/translators and in the folders of registered pods. `socket` is the guest's; what translators in pods say \
           is theirs to say. Names of pods and virtual machines are in `culvert_translator_info`.",
    metrics: &[
        gauge("culvert_translator", "Whose a translator is.", |snapshot| {
            translators(snapshot, |node, translator| {
                let Owner { namespace, pod, vm } = node.owner_of_pod(&translator.pod);
                vec![sample([&translator.socket, &translator.pod, &namespace, &pod, &vm], 1_u64)]
            })
        })
        .kind(Kind::Info)
        .by(&["socket", "object", "namespace", "pod", "vm"]),
        gauge("culvert_translator_up", "Whether the translator answered.", |snapshot| {
            translators(snapshot, |_, translator| {
                vec![sample([&translator.socket, &translator.pod], translator.problem.is_empty())]
            })
        })
        .by(&["socket", "object"]),
        total("culvert_translator_rx_frames", "Frames that came from the guest.", |s| plain(s, "rx_frames")),
        total("culvert_translator_rx", "Bytes of these frames.", |s| plain(s, "rx_bytes")).in_unit(Unit::Bytes),
        total("culvert_translator_tx_frames", "Frames that went to the guest.", |s| plain(s, "tx_frames")),
        total("culvert_translator_tx", "Bytes of these frames.", |s| plain(s, "tx_bytes")).in_unit(Unit::Bytes),
        total("culvert_translator_tx_segmented_frames", "Frames that were cut for the guest.", |s| {
            plain(s, "tx_segmented")
        }),
        gauge("culvert_translator_flows", "Flows that there are.", |snapshot| by_protocol(snapshot, "flows"))
            .by(&["socket", "object", "protocol"]),
        counter("culvert_translator_opened_flows", "Flows that there were.", |snapshot| {
            by_protocol(snapshot, "flows_total")
        })
        .by(&["socket", "object", "protocol"]),
        counter(
            "culvert_translator_refused_frames",
            "Frames that were refused, by the reason: docs/TRANSLATOR.md.",
            |snapshot| {
                translators(snapshot, |_, translator| {
                    let refused = translator.statistics.iter().filter_map(|(name, count)| {
                        Some((name.strip_prefix("refused_").filter(|reason| is_reason(reason))?, *count))
                    });
                    let mut refused: Vec<_> = refused.filter(|(_, count)| *count > 0).collect();
                    refused.sort_unstable();
                    refused.truncate(MAX_REASONS);
                    let samples = refused.into_iter();
                    samples
                        .map(|(reason, count)| sample([&translator.socket, &translator.pod, reason], count))
                        .collect()
                })
            },
        )
        .by(&["socket", "object", "reason"]),
        total("culvert_translator_guest_connections", "Connections of frontends.", |s| plain(s, "guest_connections")),
        total("culvert_translator_guest_faults", "Faults of the guest that ended its connection.", |s| {
            plain(s, "guest_faults")
        }),
        gauge("culvert_translator_steered_ports", "Ports that lead to the guest by culvertd's help.", |snapshot| {
            plain(snapshot, "steered_ports")
        })
        .by(&["socket", "object"]),
    ],
};

const fn total(name: &'static str, help: &'static str, samples: fn(&Snapshot) -> Vec<Sample>) -> Metric {
    counter(name, help, samples).by(&["socket", "object"])
}

fn translators(snapshot: &Snapshot, samples: impl Fn(&Node, &v1::Translator) -> Vec<Sample>) -> Vec<Sample> {
    of_node(snapshot, |node| {
        // What could not be looked at is no translator.
        let named = node.status.translators.iter().filter(|translator| !translator.socket.is_empty());
        named.flat_map(|translator| samples(node, translator)).collect()
    })
}

fn plain(snapshot: &Snapshot, name: &str) -> Vec<Sample> {
    translators(snapshot, |_, translator| {
        let value = translator.statistics.get(name);
        value.map(|value| sample([&translator.socket, &translator.pod], Value::Count(*value))).into_iter().collect()
    })
}

fn by_protocol(snapshot: &Snapshot, name: &str) -> Vec<Sample> {
    translators(snapshot, |_, translator| {
        let of = |protocol: &&'static str| {
            let value = translator.statistics.get(&format!("{protocol}_{name}"))?;
            Some(sample([&translator.socket, &translator.pod, protocol], *value))
        };
        ["tcp", "udp", "echo"].iter().filter_map(of).collect()
    })
}

/// Whoever answers in a pod says what it likes.
fn is_reason(text: &str) -> bool {
    text.len() <= 40 && text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// Reasons that one translator may have; ours have two dozen.
const MAX_REASONS: usize = 32;
