//! The actions lead to what is wanted, each is possible when its turn comes, and what stays the same is not touched.

use std::collections::BTreeSet;

use culvertd::config::{Objects, Port};
use culvertd::reconcile::{Action, Running, reconcile};
use proptest::prelude::*;

use crate::objects::{objects, read};

fn running(objects: &Objects) -> Running {
    Running {
        networks: objects.networks.iter().map(|object| object.wanted.clone()).collect(),
        ports: objects.ports.iter().map(|object| object.wanted.clone()).collect(),
        mirrors: objects.mirrors.iter().map(|object| object.wanted.clone()).collect(),
        pods: objects.pods.iter().map(|object| object.wanted.clone()).collect(),
    }
}

/// Carries an action out on a model, which refuses what a node could not do.
fn carry_out(running: &mut Running, action: Action) {
    let Running { networks, ports, mirrors, pods } = running;
    let open = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<BTreeSet<_>>();
    match action {
        Action::RemoveMirror(name) => {
            assert!(mirrors.iter().any(|mirror| mirror.name == name));
            mirrors.retain(|mirror| mirror.name != name);
        }
        Action::RemovePort(name) => {
            assert!(open(ports).contains(&name));
            ports.retain(|port| port.name != name);
        }
        Action::RemoveNetwork(name) => {
            assert!(ports.iter().all(|port| port.network != name), "network {name} has ports");
            assert!(networks.iter().any(|network| network.name == name));
            networks.retain(|network| network.name != name);
        }
        Action::SetNetwork(after) => {
            let place = networks.iter_mut().find(|network| network.name == after.name).unwrap();
            *place = after;
        }
        Action::AddNetwork(network) => {
            assert!(networks.iter().all(|other| other.name != network.name));
            networks.push(network);
        }
        Action::SetPort(after) => {
            let port = ports.iter_mut().find(|port| port.name == after.name).unwrap();
            assert!(port.stays_open_as(&after) && port.attachment_path() == after.attachment_path());
            *port = after;
        }
        Action::AddPort(port) => {
            assert!(!open(ports).contains(&port.name));
            assert!(networks.iter().any(|network| network.name == port.network), "no network for {}", port.name);
            let path = port.attachment_path();
            assert!(ports.iter().all(|other| other.attachment_path() != path), "{path} is in use");
            ports.push(port);
        }
        Action::AddMirror(mirror) => {
            assert!(mirrors.iter().all(|other| other.name != mirror.name));
            assert!(mirror.from.iter().chain([&mirror.to]).all(|port| open(ports).contains(port)));
            mirrors.push(mirror);
        }
        Action::RemovePod(name) => {
            assert!(pods.iter().any(|pod| pod.name == name));
            pods.retain(|pod| pod.name != name);
        }
        Action::AddPod(pod) => {
            assert!(pods.iter().all(|other| other.name != pod.name));
            pods.push(pod);
        }
    }
}

trait AttachmentPath {
    /// The socket with all that belongs to its place, or the device's name.
    fn attachment_path(&self) -> String;
}

impl AttachmentPath for Port {
    fn attachment_path(&self) -> String {
        match &self.attachment {
            culvertd::config::Attachment::Guest { socket, .. } => format!("{socket:?}"),
            culvertd::config::Attachment::Nic { device, .. } => device.clone(),
        }
    }
}

fn sorted(mut running: Running) -> Running {
    running.networks.sort_by(|one, other| one.name.cmp(&other.name));
    running.ports.sort_by(|one, other| one.name.cmp(&other.name));
    running.mirrors.sort_by(|one, other| one.name.cmp(&other.name));
    running.pods.sort_by(|one, other| one.name.cmp(&other.name));
    running
}

/// What an action is about: the kind's letter and the name.
fn named(action: &Action) -> (char, String) {
    match action {
        Action::RemoveMirror(name) => ('m', name.to_string()),
        Action::AddMirror(mirror) => ('m', mirror.name.to_string()),
        Action::RemovePod(name) => ('d', name.to_string()),
        Action::AddPod(pod) => ('d', pod.name.to_string()),
        Action::RemovePort(name) => ('p', name.to_string()),
        Action::SetPort(port) | Action::AddPort(port) => ('p', port.name.to_string()),
        Action::RemoveNetwork(name) => ('n', name.to_string()),
        Action::SetNetwork(network) | Action::AddNetwork(network) => ('n', network.name.to_string()),
    }
}

/// What is the same before and after.
fn unchanged(before: &Running, after: &Running) -> BTreeSet<(char, String)> {
    let networks = before.networks.iter().filter(|object| after.networks.contains(object));
    let ports = before.ports.iter().filter(|object| after.ports.contains(object));
    let mirrors = before.mirrors.iter().filter(|object| after.mirrors.contains(object));
    let pods = before.pods.iter().filter(|object| after.pods.contains(object));
    let pods = pods.map(|object| ('d', object.name.to_string()));
    let networks = networks.map(|object| ('n', object.name.to_string()));
    let ports = ports.map(|object| ('p', object.name.to_string()));
    networks.chain(ports).chain(pods).chain(mirrors.map(|object| ('m', object.name.to_string()))).collect()
}

proptest! {
    #[test]
    fn actions_lead_to_what_is_wanted(before in objects(), after in objects()) {
        let (start, goal) = (running(&before), running(&after));
        let actions = reconcile(&after, &start);
        let same = unchanged(&start, &goal);
        for action in &actions {
            prop_assert!(!same.contains(&named(action)), "{action:?} touches what stays the same");
        }
        let mut model = start;
        actions.into_iter().for_each(|action| carry_out(&mut model, action));
        prop_assert_eq!(reconcile(&after, &model), []);
        prop_assert_eq!(sorted(model), sorted(goal));
    }
}

#[test]
fn a_port_that_can_change_while_it_runs_is_not_opened_anew() {
    let text = |keys: &str| format!("[[network]]\nname = \"n\"\n[[port]]\nname = \"p\"\nnetwork = \"n\"\n{keys}\n");
    let before = read(&text("socket = \"/s\""));
    for keys in [
        "vlan = 1",
        "trunk = [1]",
        "addresses = [\"10.0.0.1\"]",
        "isolated = true",
        "mac_limit = 1",
        "broadcast_limit = 1",
        "unknown_limit = 1",
        "rx_rate = \"1mbit\"",
        "tx_frame_rate = 1\ntx_frame_burst = 1",
    ] {
        let after = read(&text(&format!("socket = \"/s\"\n{keys}")));
        let port = after.ports[0].wanted.clone();
        assert_eq!(reconcile(&after, &running(&before)), [Action::SetPort(port)], "{keys}");
    }
    for keys in [
        "socket = \"/t\"",
        "socket = \"/s\"\nrole = \"connect\"",
        "socket = \"/s\"\nmac = \"02:00:00:00:00:01\"",
        "socket = \"/s\"\nqueues = 2",
        "socket = \"/s\"\nmtu = 9000",
        "socket = \"/s\"\noffloads = false",
        "device = \"net_null0\"",
    ] {
        let after = read(&text(keys));
        let port = after.ports[0].wanted.clone();
        let expected = [Action::RemovePort(port.name.clone()), Action::AddPort(port)];
        assert_eq!(reconcile(&after, &running(&before)), expected, "{keys}");
    }
}
