//! Events that nobody tells of, seen by looking: guests that come and go, ports that go up and down, guests that move.

use std::collections::{BTreeMap, BTreeSet};

use culvert_api::v1::EventKind;
use culvert_vhost::SocketState;

use super::live::LiveNode;
use super::ports::{Opened, key};

/// How ports were at the last look.
#[derive(Default)]
pub(super) struct Watch {
    ports: BTreeMap<String, Seen>,
    /// Devices that were opened anew by a takeover, until their links are up; `None` before the first look.
    awaited: Option<BTreeSet<String>>,
}

/// What is looked at of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The process that is connected to a guest's socket, 0 for one that the kernel does not tell.
    peer: Option<u32>,
    /// Whether frames pass.
    up: bool,
    /// Whether its guest moves to another host.
    moving: bool,
    /// Whether it is a device.
    device: bool,
}

impl Watch {
    /// Looks at all ports and tells what is different. To be called several times a second.
    pub(super) fn look(&mut self, node: &LiveNode) {
        let now = node.seen();
        for (port, seen) in &now {
            let before = self.ports.get(port).copied().unwrap_or_default();
            for (kind, text) in differences(before, *seen) {
                node.events.tell(kind, port, text);
            }
        }
        self.look_for_links(node, &now);
        self.ports = now;
    }

    /// Tells of a takeover's gap at each device: it ends when its link is up.
    fn look_for_links(&mut self, node: &LiveNode, now: &BTreeMap<String, Seen>) {
        let Some(since) = node.takes_over_since() else { return };
        let awaited = self.awaited.get_or_insert_with(|| devices(now));
        for port in take_linked(awaited, now) {
            tracing::info!(port, after = ?since.elapsed(), "the device's link is up again after the takeover");
        }
    }
}

fn devices(ports: &BTreeMap<String, Seen>) -> BTreeSet<String> {
    ports.iter().filter(|(_, seen)| seen.device).map(|(port, _)| port.clone()).collect()
}

/// Takes those whose links are up out of `awaited`; who is not there any more is not awaited either.
fn take_linked(awaited: &mut BTreeSet<String>, now: &BTreeMap<String, Seen>) -> Vec<String> {
    awaited.retain(|port| now.contains_key(port));
    awaited.extract_if(.., |port| now.get(port).is_some_and(|seen| seen.up)).collect()
}

impl LiveNode {
    /// The ports that are open.
    fn seen(&self) -> BTreeMap<String, Seen> {
        let running = self.running();
        let ports = running.ports.iter().filter_map(|port| {
            let seen = match &port.opened {
                Opened::Failed(_) => return None,
                Opened::Nic(_, nic) => Seen { up: nic.device.link().up, device: true, ..Seen::default() },
                Opened::Guest { id, .. } => match self.server.state(key(*id)) {
                    Some(SocketState::Connected(connection)) => {
                        let (receive, transmit) = self.datapath.running_queues(*id);
                        let up = receive > 0 && transmit > 0;
                        Seen { peer: Some(connection.peer.pid), up, moving: connection.session.logging, device: false }
                    }
                    _ => Seen::default(),
                },
            };
            Some((port.config.name.to_string(), seen))
        });
        ports.collect()
    }
}

/// What happened between two looks at a port, in its order.
fn differences(before: Seen, now: Seen) -> Vec<(EventKind, String)> {
    let changed = before.peer != now.peer;
    let gone = before.peer.filter(|_| changed).map(|peer| (EventKind::Gone, format!("{} has gone", name(peer))));
    let moved = match (before.moving, now.moving) {
        (true, _) if changed => Some((EventKind::MigrationEnded, "its guest goes on elsewhere".to_owned())),
        (false, true) => Some((EventKind::Migrating, "its guest moves to another host".to_owned())),
        (true, false) => Some((EventKind::MigrationEnded, "its guest stays".to_owned())),
        _ => None,
    };
    let come = now.peer.filter(|_| changed).map(|peer| (EventKind::Connected, format!("{} has connected", name(peer))));
    let up = match (before.up, now.up) {
        (false, true) => Some((EventKind::Up, "frames pass".to_owned())),
        (true, false) => Some((EventKind::Down, "no frames pass any more".to_owned())),
        _ => None,
    };
    // What ends comes before what begins.
    let (down, up) = if now.up { (None, up) } else { (up, None) };
    [down, gone, moved, come, up].into_iter().flatten().collect()
}

/// A frontend.
fn name(peer: u32) -> String {
    // The kernel does not tell one of another process namespace.
    if peer == 0 { "its frontend".to_owned() } else { format!("process {peer}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Seen = Seen { peer: Some(7), up: true, moving: false, device: false };

    fn kinds(before: Seen, now: Seen) -> Vec<EventKind> {
        differences(before, now).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn guests_come_and_go() {
        use EventKind::{Connected, Down, Gone, Migrating, MigrationEnded, Up};
        let (none, moving) = (Seen::default(), Seen { moving: true, ..UP });
        assert_eq!(kinds(none, UP), [Connected, Up]);
        assert_eq!(kinds(UP, UP), []);
        assert_eq!(kinds(UP, none), [Down, Gone]);
        assert_eq!(kinds(UP, Seen { peer: Some(8), ..UP }), [Gone, Connected]);
        assert_eq!(kinds(UP, moving), [Migrating]);
        assert_eq!(kinds(moving, UP), [MigrationEnded]);
        assert_eq!(kinds(moving, none), [Down, Gone, MigrationEnded]);
        assert_eq!(differences(moving, none).last().unwrap().1, "its guest goes on elsewhere");
        assert_eq!(differences(none, Seen { peer: Some(0), ..none })[0].1, "its frontend has connected");
    }

    #[test]
    fn each_devices_link_is_told_of_once() {
        let device = |up| Seen { up, device: true, ..Seen::default() };
        let ports = |of: &[(&str, Seen)]| of.iter().map(|(port, seen)| ((*port).to_owned(), *seen)).collect();
        let mut now =
            ports(&[("guest", UP), ("one", device(false)), ("other", device(true)), ("removed", device(false))]);
        let mut awaited = devices(&now);
        assert_eq!(take_linked(&mut awaited, &now), ["other"]);
        now.remove("removed");
        assert!(take_linked(&mut awaited, &now).is_empty());
        now.extend(ports(&[("one", device(true)), ("added", device(true))]) as BTreeMap<_, _>);
        assert_eq!(take_linked(&mut awaited, &now), ["one"]);
        assert!(take_linked(&mut awaited, &now).is_empty() && awaited.is_empty());
    }
}
