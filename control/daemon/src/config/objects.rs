//! All networks, ports, mirrors and pods that are wanted, whoever wants them, and the rules between them: each name, socket,
//! device and address once; each reference to something that is there.
//!
//! The rules are here once, for the file, for requests of clients and for what the journal brings back. What holds for a
//! single object is checked where it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use culvert_switch::port::MAX_PORTS;

use super::Keys;
use super::mirror::Mirror;
use super::mistake::nearest;
use super::network::Network;
use super::pod::Pod;
use super::port::{Attachment, Port};
use super::value::Wrong;
use crate::name::Name;

/// Who wants an object. Only its origin may change or remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File {
        /// The line of its name, from 1.
        line: usize,
    },
    /// A client, at run time.
    Client,
}

/// What is wanted, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<T> {
    /// What is wanted.
    pub wanted: T,
    /// Who wants it.
    pub origin: Origin,
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A [`Network`].
    Network,
    /// A [`Port`].
    Port,
    /// A [`Mirror`].
    Mirror,
    /// A [`Pod`].
    Pod,
}

/// Everything that is wanted, each kind in the order in which it was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// The networks.
    pub networks: Vec<Object<Network>>,
    /// The ports.
    pub ports: Vec<Object<Port>>,
    /// The mirrors.
    pub mirrors: Vec<Object<Mirror>>,
    /// The pods.
    pub pods: Vec<Object<Pod>>,
}

/// A rule between objects that is broken. Of two objects that exclude each other the later one is named.
#[derive(Debug)]
pub(super) struct Conflict {
    /// The kind of the object.
    pub(super) kind: Kind,
    /// Its place among the objects of its kind.
    pub(super) index: usize,
    /// The key whose value breaks the rule.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) wrong: Wrong,
}

/// Most networks, and most mirrors.
pub const MAX_NETWORKS: usize = 1024;
/// Most pods.
pub const MAX_PODS: usize = 1024;

/// An object that has a name.
pub trait Named {
    /// Its name.
    fn name(&self) -> &Name;
}

impl Named for Network {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl Named for Port {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl Named for Mirror {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl Named for Pod {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Port => "port",
            Self::Mirror => "mirror",
            Self::Pod => "pod",
        })
    }
}

impl Objects {
    /// These objects and then those of `others`.
    pub fn with(mut self, others: Self) -> Self {
        self.networks.extend(others.networks);
        self.ports.extend(others.ports);
        self.mirrors.extend(others.mirrors);
        self.pods.extend(others.pods);
        self
    }

    /// Only the objects that clients added, or only those of the file.
    pub fn of_clients(&self, clients: bool) -> Self {
        Self {
            networks: of_clients(&self.networks, clients),
            ports: of_clients(&self.ports, clients),
            mirrors: of_clients(&self.mirrors, clients),
            pods: of_clients(&self.pods, clients),
        }
    }

    /// The network of that name.
    pub fn network(&self, name: &Name) -> Option<&Object<Network>> {
        find(&self.networks, name)
    }

    /// The port of that name.
    pub fn port(&self, name: &Name) -> Option<&Object<Port>> {
        find(&self.ports, name)
    }

    /// The mirror of that name.
    pub fn mirror(&self, name: &Name) -> Option<&Object<Mirror>> {
        find(&self.mirrors, name)
    }

    /// The pod of that name.
    pub fn pod(&self, name: &Name) -> Option<&Object<Pod>> {
        find(&self.pods, name)
    }

    /// Leaves out the object of that name that a client wants. Whether there was one.
    pub fn remove_of_clients(&mut self, kind: Kind, name: &Name) -> bool {
        match kind {
            Kind::Network => remove_of_clients(&mut self.networks, name),
            Kind::Port => remove_of_clients(&mut self.ports, name),
            Kind::Mirror => remove_of_clients(&mut self.mirrors, name),
            Kind::Pod => remove_of_clients(&mut self.pods, name),
        }
    }

    /// The name of an object by its place.
    pub(super) fn name(&self, kind: Kind, index: usize) -> Option<&Name> {
        match kind {
            Kind::Network => self.networks.get(index).map(|network| &network.wanted.name),
            Kind::Port => self.ports.get(index).map(|port| &port.wanted.name),
            Kind::Mirror => self.mirrors.get(index).map(|mirror| &mirror.wanted.name),
            Kind::Pod => self.pods.get(index).map(|pod| &pod.wanted.name),
        }
    }

    /// The keys of an object by its place.
    pub(super) fn keys(&self, kind: Kind, index: usize) -> Option<Keys> {
        match kind {
            Kind::Network => self.networks.get(index).map(|network| network.wanted.keys()),
            Kind::Port => self.ports.get(index).map(|port| port.wanted.keys()),
            Kind::Mirror => self.mirrors.get(index).map(|mirror| mirror.wanted.keys()),
            Kind::Pod => self.pods.get(index).map(|pod| pod.wanted.keys()),
        }
    }

    /// Whether a port needs the PCI bus.
    pub fn use_pci(&self) -> bool {
        let mut attachments = self.ports.iter().map(|port| &port.wanted.attachment);
        attachments
            .any(|attachment| matches!(attachment, Attachment::Nic { device, .. } if culvert_nic::needs_pci(device)))
    }

    /// Whether there is a port with a device.
    pub fn use_devices(&self) -> bool {
        self.ports.iter().any(|port| matches!(port.wanted.attachment, Attachment::Nic { .. }))
    }

    /// These without ports that have a device or follow the link of one, and without mirrors that name one of them.
    pub fn without_devices(&self) -> Self {
        let needs_none = |port: &&Object<Port>| match &port.wanted.attachment {
            Attachment::Guest { follow_link, .. } => follow_link.is_none(),
            Attachment::Nic { .. } => false,
        };
        let ports: Vec<_> = self.ports.iter().filter(needs_none).cloned().collect();
        let is_there = |name: &Name| find(&ports, name).is_some();
        let copies = |mirror: &&Object<Mirror>| {
            let Mirror { from, to, .. } = &mirror.wanted;
            from.iter().chain([to]).all(is_there)
        };
        let mirrors = self.mirrors.iter().filter(copies).cloned().collect();
        Self { networks: self.networks.clone(), ports, mirrors, pods: self.pods.clone() }
    }

    /// Every rule that is broken. `unread` are objects that exist but could not be read: to name them is no mistake.
    pub(super) fn conflicts(&self, control_socket: &Path, unread: &BTreeSet<(Kind, Name)>) -> Vec<Conflict> {
        let mut check = Check { objects: self, unread, conflicts: Vec::new() };
        check.names(Kind::Network, &self.networks, MAX_NETWORKS);
        check.names(Kind::Port, &self.ports, MAX_PORTS);
        check.names(Kind::Mirror, &self.mirrors, MAX_NETWORKS);
        check.names(Kind::Pod, &self.pods, MAX_PODS);
        check.guest_ports();
        check.ports(control_socket);
        check.mirrors();
        check.conflicts
    }
}

struct Check<'a> {
    objects: &'a Objects,
    unread: &'a BTreeSet<(Kind, Name)>,
    conflicts: Vec<Conflict>,
}

impl<'a> Check<'a> {
    fn add(&mut self, kind: Kind, index: usize, key: &'static str, wrong: Wrong) {
        self.conflicts.push(Conflict { kind, index, key, wrong });
    }

    fn names<T: Named>(&mut self, kind: Kind, objects: &'a [Object<T>], most: usize) {
        let mut seen: BTreeMap<&Name, Origin> = BTreeMap::new();
        for (index, object) in objects.iter().enumerate() {
            let name = object.wanted.name();
            match seen.get(name) {
                None => {
                    seen.insert(name, object.origin);
                }
                Some(Origin::File { line }) => {
                    let problem = format!("is the {kind} name of line {line} as well");
                    self.add(kind, index, "name", Wrong::new(problem, format!("give each {kind} a name of its own")));
                }
                Some(Origin::Client) => {
                    let problem = format!("is the name of a {kind} that was added at run time");
                    let remedy = format!("choose another name, or remove that one: `culvertctl {kind} del {name}`");
                    self.add(kind, index, "name", Wrong::new(problem, remedy));
                }
            }
            if index == most {
                let problem = format!("is one more than the {most} {kind}s that there can be");
                self.add(kind, index, "name", Wrong::new(problem, format!("remove a {kind}")));
            }
        }
    }

    /// What is promised to kubelet can be kept.
    fn guest_ports(&mut self) {
        let mut promised = 0;
        for (index, object) in self.objects.networks.iter().enumerate() {
            let Some(ports) = object.wanted.guest_ports else { continue };
            promised += usize::try_from(ports).unwrap_or(usize::MAX).min(MAX_PORTS);
            if promised > MAX_PORTS {
                let problem = format!("promises kubelet more than the {MAX_PORTS} ports that all networks can have");
                self.add(Kind::Network, index, "guest_ports", Wrong::new(problem, "write a lower number"));
            }
        }
    }

    fn ports(&mut self, control_socket: &Path) {
        let mut sockets = BTreeMap::new();
        let mut devices = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for (index, object) in self.objects.ports.iter().enumerate() {
            let port = &object.wanted;
            let networks = &self.objects.networks;
            if let Err(wrong) = self.refer(Kind::Network, &port.network, object.origin, networks) {
                self.add(Kind::Port, index, "network", wrong);
            }
            match &port.attachment {
                Attachment::Guest { socket, mac, follow_link, .. } => {
                    if socket.path == control_socket {
                        let wrong = Wrong::new("is the control socket", "give the port a socket of its own");
                        self.add(Kind::Port, index, "socket", wrong);
                    }
                    self.once(&mut sockets, &socket.path, index, "socket", "give each port a socket of its own");
                    if let Some(mac) = mac {
                        let remedy = "give each guest of a network an address of its own";
                        self.once(&mut addresses, (&port.network, *mac), index, "mac", remedy);
                    }
                    if let Some(link) = follow_link {
                        self.follow_link(index, object.origin, link);
                    }
                }
                // A device may not be opened twice, even with other arguments.
                Attachment::Nic { device, .. } => {
                    let name = device.split(',').next().unwrap_or_default();
                    self.once(&mut devices, name, index, "device", "give each port a device of its own");
                }
            }
        }
    }

    /// Remembers a value of the port at `index`; a conflict when an earlier port has it.
    fn once<V: Ord>(&mut self, seen: &mut BTreeMap<V, usize>, value: V, index: usize, key: &'static str, remedy: &str) {
        let earlier = *seen.entry(value).or_insert(index);
        let Some(other) = self.objects.ports.get(earlier).filter(|_| earlier != index) else { return };
        let what = if key == "mac" { "address" } else { key };
        let added = if other.origin == Origin::Client { ", which was added at run time" } else { "" };
        let problem = format!("is the {what} of port {} as well{added}", other.wanted.name);
        self.add(Kind::Port, index, key, Wrong::new(problem, remedy));
    }

    fn follow_link(&mut self, index: usize, origin: Origin, link: &Name) {
        let ports = &self.objects.ports;
        let wrong = match self.refer(Kind::Port, link, origin, ports) {
            Err(wrong) => wrong,
            Ok(Some(Port { attachment: Attachment::Guest { .. }, .. })) => {
                Wrong::new("is no port with a device", "name the port whose link is to be followed")
            }
            Ok(_) => return,
        };
        self.add(Kind::Port, index, "follow_link", wrong);
    }

    fn mirrors(&mut self) {
        let ports = &self.objects.ports;
        let targets: BTreeSet<&Name> = self.objects.mirrors.iter().map(|mirror| &mirror.wanted.to).collect();
        for (index, object) in self.objects.mirrors.iter().enumerate() {
            let Mirror { from, to, .. } = &object.wanted;
            if let Err(wrong) = self.refer(Kind::Port, to, object.origin, ports) {
                self.add(Kind::Mirror, index, "to", wrong);
            }
            for port in from {
                if let Err(wrong) = self.refer(Kind::Port, port, object.origin, ports) {
                    self.add(Kind::Mirror, index, "from", wrong);
                } else if targets.contains(port) && port != to {
                    let problem = format!("names port {port}, which gets the frames of a mirror");
                    self.add(
                        Kind::Mirror,
                        index,
                        "from",
                        Wrong::new(problem, "name ports that have frames of their own"),
                    );
                }
            }
        }
    }

    /// The object that `name` means; `Ok(None)` when it could not be read. The file may name only what is in the file:
    /// it must be right by itself.
    fn refer<T: Named>(
        &self,
        kind: Kind,
        name: &Name,
        origin: Origin,
        objects: &'a [Object<T>],
    ) -> Result<Option<&'a T>, Wrong> {
        let in_file = matches!(origin, Origin::File { .. });
        let visible = || objects.iter().filter(|object| !in_file || object.origin != Origin::Client);
        if let Some(object) = visible().find(|object| object.wanted.name() == name) {
            return Ok(Some(&object.wanted));
        }
        if self.unread.contains(&(kind, name.clone())) {
            return Ok(None);
        }
        let near = nearest(name.as_str(), visible().map(|object| object.wanted.name().as_str()));
        let (problem, otherwise) = if in_file {
            let remedy = format!("add a [[{kind}]] section with name = \"{name}\"");
            (format!("is no {kind} of this file"), remedy)
        } else {
            (format!("is no {kind}"), format!("`culvertctl {kind} list` shows the {kind}s"))
        };
        let remedy = near.map_or(otherwise, |near| format!("did you mean \"{near}\"?"));
        Err(Wrong::new(problem, remedy))
    }
}

fn of_clients<T: Clone>(objects: &[Object<T>], clients: bool) -> Vec<Object<T>> {
    objects.iter().filter(|object| (object.origin == Origin::Client) == clients).cloned().collect()
}

fn remove_of_clients<T: Named>(objects: &mut Vec<Object<T>>, name: &Name) -> bool {
    let before = objects.len();
    objects.retain(|object| object.origin != Origin::Client || object.wanted.name() != name);
    objects.len() < before
}

fn find<'a, T: Named>(objects: &'a [Object<T>], name: &Name) -> Option<&'a Object<T>> {
    objects.iter().find(|object| object.wanted.name() == name)
}
