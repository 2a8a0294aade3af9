//! From what runs to what is wanted: the list of actions, in an order in which each is possible when its turn comes. Pure;
//! `node::live` carries the actions out.
//!
//! What is the same in both is named by no action, so that its frames never notice.

use crate::config::objects::Named;
use crate::config::{Mirror, Network, Object, Objects, Pod, Port};
use crate::name::Name;

/// What runs. A port that could not be opened runs as well: to open it again is no change of what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The networks.
    pub networks: Vec<Network>,
    /// The ports.
    pub ports: Vec<Port>,
    /// The mirrors.
    pub mirrors: Vec<Mirror>,
    /// The pods.
    pub pods: Vec<Pod>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// End a mirror.
    RemoveMirror(Name),
    /// Close a port.
    RemovePort(Name),
    /// End a network that has no port any more.
    RemoveNetwork(Name),
    /// Change a network that runs.
    SetNetwork(Network),
    /// Make a network.
    AddNetwork(Network),
    /// Change a port that runs; its guest stays connected, its device open.
    SetPort(Port),
    /// Open a port.
    AddPort(Port),
    /// Start a mirror.
    AddMirror(Mirror),
    /// Know a pod no more.
    RemovePod(Name),
    /// Know a pod.
    AddPod(Pod),
}

/// What leads from `running` to `wanted`.
pub fn reconcile(wanted: &Objects, running: &Running) -> Vec<Action> {
    let networks = compare(&wanted.networks, &running.networks);
    let ports = compare(&wanted.ports, &running.ports);
    let mirrors = compare(&wanted.mirrors, &running.mirrors);
    // A port whose socket, device or network changes is closed and opened.
    let (set_ports, reopened): (Vec<_>, Vec<_>) =
        ports.changed.into_iter().partition(|(before, after)| before.stays_open_as(after));

    let mut actions = Vec::new();
    let changed_mirrors = mirrors.changed.iter().map(|(before, _)| *before);
    actions.extend(
        mirrors.gone.into_iter().chain(changed_mirrors).map(|mirror| Action::RemoveMirror(mirror.name.clone())),
    );
    let closed = ports.gone.into_iter().chain(reopened.iter().map(|(before, _)| *before));
    actions.extend(closed.map(|port| Action::RemovePort(port.name.clone())));
    actions.extend(networks.gone.into_iter().map(|network| Action::RemoveNetwork(network.name.clone())));
    actions.extend(networks.changed.into_iter().map(|(_, after)| Action::SetNetwork(after.clone())));
    actions.extend(networks.new.into_iter().map(|network| Action::AddNetwork(network.clone())));
    actions.extend(set_ports.into_iter().map(|(_, after)| Action::SetPort(after.clone())));
    let opened = reopened.into_iter().map(|(_, after)| after).chain(ports.new);
    actions.extend(opened.map(|port| Action::AddPort(port.clone())));
    let changed_mirrors = mirrors.changed.into_iter().map(|(_, after)| after);
    actions.extend(changed_mirrors.chain(mirrors.new).map(|mirror| Action::AddMirror(mirror.clone())));
    // Nothing else needs a pod, and a pod nothing else.
    let pods = compare(&wanted.pods, &running.pods);
    let changed_pods = pods.changed.iter().map(|(before, _)| *before);
    actions.extend(pods.gone.into_iter().chain(changed_pods).map(|pod| Action::RemovePod(pod.name.clone())));
    let changed_pods = pods.changed.into_iter().map(|(_, after)| after);
    actions.extend(changed_pods.chain(pods.new).map(|pod| Action::AddPod(pod.clone())));
    actions
}

/// The objects of one kind that are not the same in both.
struct Differences<'a, T> {
    gone: Vec<&'a T>,
    changed: Vec<(&'a T, &'a T)>,
    new: Vec<&'a T>,
}

fn compare<'a, T: Named + PartialEq>(wanted: &'a [Object<T>], running: &'a [T]) -> Differences<'a, T> {
    let wanted_ones: std::collections::BTreeMap<_, _> =
        wanted.iter().map(|object| (object.wanted.name(), &object.wanted)).collect();
    let running_ones: std::collections::BTreeMap<_, _> = running.iter().map(|object| (object.name(), object)).collect();
    let gone = running.iter().filter(|object| !wanted_ones.contains_key(object.name())).collect();
    let mut changed = Vec::new();
    let mut new = Vec::new();
    for object in wanted.iter().map(|object| &object.wanted) {
        match running_ones.get(object.name()) {
            None => new.push(object),
            Some(before) if *before != object => changed.push((*before, object)),
            Some(_) => {}
        }
    }
    Differences { gone, changed, new }
}
