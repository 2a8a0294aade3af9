//! Requests for changes in the words of the configuration: each field of a request becomes the key that it stands for,
//! with its value as TOML. Whether that is right is the configuration's to say, so that it is said once.

use culvert_api::v1;

use crate::change::{Change, Verb};
use crate::config::{Keys, Kind, toml_text};

/// Adding an object with these keys.
pub fn add(kind: Kind, name: String, keys: Keys) -> Change {
    Change { kind, name, verb: Verb::Add(keys) }
}

/// Changing these keys of an object.
pub fn set(kind: Kind, name: String, keys: Keys, unset: Vec<String>) -> Change {
    Change { kind, name, verb: Verb::Set { keys, unset } }
}

/// Removing an object.
pub fn remove(kind: Kind, request: v1::RemoveRequest) -> Change {
    Change { kind, name: request.name, verb: Verb::Remove }
}

/// The keys of a network.
pub fn network(spec: Option<v1::NetworkSpec>) -> Keys {
    let v1::NetworkSpec { mac_age, snooping, guest_ports } = spec.unwrap_or_default();
    present([
        ("mac_age", mac_age.as_deref().map(toml_text)),
        ("snooping", snooping.map(plain)),
        ("guest_ports", guest_ports.map(plain)),
    ])
}

/// The keys of a port.
pub fn port(spec: Option<v1::PortSpec>) -> Keys {
    let v1::PortSpec {
        network,
        socket,
        role,
        device,
        mac,
        queues,
        mtu,
        mac_limit,
        vlan,
        qinq,
        trunk,
        native,
        addresses,
        broadcast_limit,
        unknown_limit,
        isolated,
        offloads,
        promiscuous,
        follow_link,
        socket_root,
        owner,
        label,
        description,
        rx_rate,
        rx_burst,
        rx_frame_rate,
        rx_frame_burst,
        tx_rate,
        tx_burst,
        tx_frame_rate,
        tx_frame_burst,
    } = spec.unwrap_or_default();
    present([
        ("network", network.as_deref().map(toml_text)),
        ("socket", socket.as_deref().map(toml_text)),
        ("role", role.as_deref().map(toml_text)),
        ("device", device.as_deref().map(toml_text)),
        ("mac", mac.as_deref().map(toml_text)),
        ("queues", queues.map(plain)),
        ("mtu", mtu.map(plain)),
        ("mac_limit", mac_limit.map(plain)),
        ("vlan", vlan.map(plain)),
        ("qinq", qinq.map(plain)),
        ("trunk", list(&trunk)),
        ("native", native.map(plain)),
        ("addresses", list(&addresses)),
        ("broadcast_limit", broadcast_limit.map(plain)),
        ("unknown_limit", unknown_limit.map(plain)),
        ("rx_rate", rx_rate.as_deref().map(toml_text)),
        ("rx_burst", rx_burst.map(plain)),
        ("rx_frame_rate", rx_frame_rate.map(plain)),
        ("rx_frame_burst", rx_frame_burst.map(plain)),
        ("tx_rate", tx_rate.as_deref().map(toml_text)),
        ("tx_burst", tx_burst.map(plain)),
        ("tx_frame_rate", tx_frame_rate.map(plain)),
        ("tx_frame_burst", tx_frame_burst.map(plain)),
        ("isolated", isolated.map(plain)),
        ("offloads", offloads.map(plain)),
        ("promiscuous", promiscuous.map(plain)),
        ("follow_link", follow_link.as_deref().map(toml_text)),
        ("socket_root", socket_root.as_deref().map(toml_text)),
        ("owner", owner.as_deref().map(toml_text)),
        ("label", label.as_deref().map(toml_text)),
        ("description", description.as_deref().map(toml_text)),
    ])
}

/// The keys of a mirror.
pub fn mirror(spec: Option<v1::MirrorSpec>) -> Keys {
    let v1::MirrorSpec { from, to, direction } = spec.unwrap_or_default();
    present([
        ("from", list(&from)),
        ("to", to.as_deref().map(toml_text)),
        ("direction", direction.as_deref().map(toml_text)),
    ])
}

/// The keys of a pod.
pub fn pod(spec: Option<v1::PodSpec>) -> Keys {
    let v1::PodSpec { folders, netns, tap, description } = spec.unwrap_or_default();
    present([
        ("folders", list(&folders)),
        ("netns", netns.as_deref().map(toml_text)),
        ("tap", tap.as_deref().map(toml_text)),
        ("description", description.as_deref().map(toml_text)),
    ])
}

fn present<const N: usize>(keys: [(&'static str, Option<String>); N]) -> Keys {
    keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A number, `true` or `false`.
fn plain(value: impl ToString) -> String {
    value.to_string()
}

/// An array of texts; `None` for an empty one, which is a key that is not there.
fn list(texts: &[String]) -> Option<String> {
    let texts: Vec<_> = texts.iter().map(|text| toml_text(text)).collect();
    (!texts.is_empty()).then(|| format!("[{}]", texts.join(", ")))
}
