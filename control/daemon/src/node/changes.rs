//! Bringing about what is wanted: keeps it, compares it with what runs, and carries the differences out one by one.
//!
//! Changes come one at a time, under the lock of the journal. What runs has a lock of its own, which is never held while
//! something is opened or closed: questions are answered meanwhile. What cannot be brought about stays wanted and is tried
//! again by [`upkeep`](super::upkeep).

use std::fmt;
use std::time::Instant;

use culvert_api::v1;
use culvert_api::v1::EventKind;
use culvert_frame::MacAddress;
use culvert_switch::Rules;
use culvert_worker::Mirror as Copying;

use super::live::LiveNode;
use super::ports::{Opened, Opener, Port};
use super::rules::{rules, settings};
use super::{ChangeError, links};
use crate::change::{Change, Refusal, Verb, apply};
use crate::config::{self, Attachment, Config, Kind, kept};
use crate::name::Name;
use crate::reconcile::{self, Action, reconcile};

impl LiveNode {
    pub(super) fn change_objects(&self, change: &Change) -> Result<v1::ChangeResponse, ChangeError> {
        let mut journal = self.journal();
        if change.kind == Kind::Port && !matches!(change.verb, Verb::Add(_)) {
            self.lift_bars(Some(&change.name));
        }
        let outcome = apply(&self.wanted(), change, &self.fixed.daemon.control_socket, &self.file_name())
            .map_err(ChangeError::Refused)?;
        if !outcome.changed {
            return Ok(v1::ChangeResponse { changed: false, note: outcome.note });
        }
        journal.store(&outcome.objects.of_clients(true)).map_err(ChangeError::NotKept)?;
        self.set_wanted(outcome.objects);
        let done = self.bring_about();
        if !done.failed.is_empty() {
            return Err(ChangeError::NotDone(done.failed));
        }
        let notes = std::iter::once(outcome.note).filter(|note| !note.is_empty()).chain(done.notes);
        Ok(v1::ChangeResponse { changed: true, note: notes.collect::<Vec<_>>().join("; ") })
    }

    /// Reads the configuration file again.
    ///
    /// # Errors
    /// The file has mistakes: nothing has changed. Or a part of it cannot be brought about at present.
    pub fn reload_file(&self) -> Result<v1::ReloadResponse, ChangeError> {
        let result = self.try_reload_file();
        match &result {
            Ok(answer) => {
                let text = format!("the configuration was read again; changes: {}", answer.actions.len());
                self.events.tell(EventKind::Reloaded, "", text);
            }
            Err(error) => {
                let first = error.sentences().into_iter().next().unwrap_or_default();
                self.events.tell(EventKind::ReloadRefused, "", format!("the configuration was refused: {first}"));
            }
        }
        result
    }

    fn try_reload_file(&self) -> Result<v1::ReloadResponse, ChangeError> {
        // No change of a client comes between.
        let journal = self.journal();
        self.lift_bars(None);
        let clients = self.wanted().of_clients(true);
        let (file, text) = Config::load_text(&self.config_file, &self.machine, &clients)
            .map_err(|mistakes| ChangeError::Refused(Refusal::Mistakes(mistakes)))?;
        if let Err(error) = kept::keep(&self.broker, &text) {
            tracing::warn!("after a crash mistakes in {} would end culvertd: {error}", self.file_name());
        }
        self.set_stale_file(None);
        let waiting = file.waiting_keys(&self.fixed);
        self.set_wanted(file.objects.with(clients));
        self.set_waiting(&waiting);
        let mut done = self.bring_about();
        done.actions.extend(self.retry_failed_ports(None));
        drop(journal);
        if !done.failed.is_empty() {
            return Err(ChangeError::NotDone(done.failed));
        }
        Ok(v1::ReloadResponse { actions: done.actions, waiting })
    }

    /// Carries out what leads from what runs to what is wanted. To be called by whoever holds the journal's lock.
    pub(super) fn bring_about(&self) -> Done {
        let done = self.carry_out_all(reconcile(&self.wanted(), &self.running_objects()));
        if !done.actions.is_empty() {
            links::follow(self);
            self.set_mac_filters();
        }
        self.offer_ports();
        done
    }

    /// As [`Self::bring_about`], what needs no device, for which DPDK must have started.
    pub(super) fn bring_about_guests(&self) {
        self.carry_out_all(reconcile(&self.wanted().without_devices(), &self.running_objects()));
    }

    fn carry_out_all(&self, actions: Vec<Action>) -> Done {
        let mut done = Done::default();
        for action in actions {
            let text = action.to_string();
            let makes_room = matches!(action, Action::RemovePort(_));
            let (kind, port) = (action.kind(), action.port().map(ToString::to_string));
            match self.carry_out(action) {
                Ok(note) => {
                    tracing::info!("done: {text}");
                    self.events.tell(kind, port.as_deref().unwrap_or_default(), text.clone());
                    done.actions.push(text);
                    done.notes.extend(note);
                }
                Err(error) => {
                    done.failed.push(format!("cannot {text}: {error:#}; it is tried again"));
                    if makes_room {
                        // What comes after it may need its name, its network or its socket.
                        break;
                    }
                }
            }
        }
        self.set_failed(&done.failed);
        done
    }

    /// Tries again what could not be brought about. To be called by whoever holds the journal's lock.
    pub(super) fn settle(&self) {
        if self.has_failed() {
            self.bring_about();
        }
    }

    /// Opens ports that could not be opened: those whose time has come by `due`, or all. Returns what was done.
    pub(super) fn retry_failed_ports(&self, due: Option<Instant>) -> Vec<String> {
        let is_due = |port: &&Port| port.failure().is_some_and(|failure| due.is_none_or(|now| failure.retry_at <= now));
        let running = self.running();
        let failed: Vec<_> = running.ports.iter().filter(is_due).map(|port| port.config.clone()).collect();
        drop(running);
        let mut actions = Vec::new();
        for config in failed {
            let Some(network) = self.running().network(&config.network) else { continue };
            let name = config.name.clone();
            let mut port = self.opener().open(config, network);
            let mut running = self.running();
            let Some(place) = running.ports.iter_mut().find(|port| port.config.name == name) else { continue };
            let before = place.failure().map(|failure| (failure.wait, failure.reason.clone()));
            if let (Some((wait, reason)), Some(failure)) = (before, port.failure()) {
                if failure.reason != reason {
                    tracing::error!(port = name.as_str(), "the port cannot be opened: {}", failure.reason);
                }
                port.failed_after(wait);
            }
            let opened = port.failure().is_none();
            *place = port;
            drop(running);
            if opened {
                tracing::info!(port = name.as_str(), "the port is open now");
                self.events.tell(EventKind::Opened, name.as_str(), "is open now");
                actions.push(format!("open port {name}"));
                self.copy_mirrors_of(&name);
            }
        }
        if !actions.is_empty() {
            links::follow(self);
            self.set_mac_filters();
        }
        actions
    }

    /// Carries out one action. Returns what the client should know.
    fn carry_out(&self, action: Action) -> anyhow::Result<Option<String>> {
        match action {
            Action::RemoveMirror(name) => {
                self.running().mirrors.retain(|mirror| mirror.name != name);
                self.copy_mirrors()?;
            }
            Action::AddMirror(mirror) => {
                self.running().mirrors.push(mirror);
                self.copy_mirrors()?;
            }
            Action::RemovePod(name) => self.running().pods.retain(|pod| pod.name != name),
            Action::AddPod(pod) => self.running().pods.push(pod),
            Action::AddNetwork(network) => {
                let id = self.datapath.add_network(settings(&network))?;
                self.running().networks.push((network, id));
            }
            Action::SetNetwork(network) => {
                let id = self.running().network(&network.name);
                let id = id.ok_or_else(|| anyhow::anyhow!("it does not run"))?;
                self.datapath.set_network(id, settings(&network))?;
                let mut running = self.running();
                if let Some((place, _)) = running.networks.iter_mut().find(|(other, _)| other.name == network.name) {
                    *place = network;
                }
            }
            Action::RemoveNetwork(name) => {
                let Some(id) = self.running().network(&name) else { return Ok(None) };
                self.running().networks.retain(|(network, _)| network.name != name);
                self.datapath.remove_network(id)?;
            }
            Action::AddPort(config) => return self.add_port(config),
            Action::SetPort(config) => self.set_port(config)?,
            Action::RemovePort(name) => self.remove_port(&name)?,
        }
        Ok(None)
    }

    fn add_port(&self, config: config::Port) -> anyhow::Result<Option<String>> {
        let network = self.running().network(&config.network);
        let network = network.ok_or_else(|| anyhow::anyhow!("its network {} does not run", config.network))?;
        let name = config.name.clone();
        let port = self.opener().open(config, network);
        let failure = port.failure().map(|failure| failure.reason.clone());
        self.running().ports.push(port);
        match failure {
            None => {
                self.copy_mirrors_of(&name);
                Ok(None)
            }
            Some(reason) => {
                tracing::error!(port = name.as_str(), "the port cannot be opened: {reason}");
                self.events.tell(EventKind::Failed, name.as_str(), format!("cannot be opened: {reason}"));
                Ok(Some(format!("port {name} cannot be opened, and is tried again: {reason}")))
            }
        }
    }

    fn set_port(&self, config: config::Port) -> anyhow::Result<()> {
        let (id, mtu) = {
            let running = self.running();
            let port = running.port(&config.name);
            let mtu = port.and_then(|port| match &port.opened {
                Opened::Nic(_, nic) => Some(nic.device.mtu()),
                Opened::Guest { .. } | Opened::Failed(_) => None,
            });
            (port.and_then(Port::id), mtu)
        };
        if let Some(id) = id {
            let wanted = rules(&config);
            self.datapath.set_port(id, Rules { mtu: mtu.unwrap_or(wanted.mtu), ..wanted })?;
        }
        let mut running = self.running();
        if let Some(port) = running.ports.iter_mut().find(|port| port.config.name == config.name) {
            port.config = config;
        }
        Ok(())
    }

    fn remove_port(&self, name: &Name) -> anyhow::Result<()> {
        let port = {
            let mut running = self.running();
            let Some(place) = running.ports.iter().position(|port| port.config.name == *name) else { return Ok(()) };
            running.ports.remove(place)
        };
        self.copy_mirrors_of(name);
        if let Err(error) = self.opener().close(&port) {
            self.running().ports.push(port);
            self.copy_mirrors_of(name);
            return Err(error);
        }
        // One that is to be opened anew goes on where it was.
        if !self.wanted().ports.iter().any(|port| port.wanted.name == *name) {
            self.ring_records.forget(name.as_str());
        }
        Ok(())
    }

    /// Tells the datapath which frames to copy, if some mirror has to do with this port.
    fn copy_mirrors_of(&self, port: &Name) {
        let concerned = self.running().mirrors.iter().any(|mirror| mirror.to == *port || mirror.from.contains(port));
        if concerned && let Err(error) = self.copy_mirrors() {
            tracing::error!("mirrors are not as they should be: {error:#}");
        }
    }

    /// Tells the datapath which frames to copy: those of mirrors whose target is open.
    fn copy_mirrors(&self) -> anyhow::Result<()> {
        let running = self.running();
        let id = |name: &Name| running.port(name).and_then(Port::id);
        let mirrors = running.mirrors.iter().filter_map(|mirror| {
            let sources = mirror.from.iter().filter_map(id).collect();
            Some(Copying { sources, rx: mirror.rx, tx: mirror.tx, target: id(&mirror.to)? })
        });
        let mirrors = mirrors.collect();
        drop(running);
        Ok(self.datapath.set_mirrors(mirrors)?)
    }

    /// Tells NICs that take not all frames for whom they are: the guests of their network that have a `mac`.
    fn set_mac_filters(&self) {
        let mut running = self.running();
        let guests: Vec<_> = running.ports.iter().filter_map(|port| station(&port.config)).collect();
        for port in &mut running.ports {
            let (Opened::Nic(_, nic), Attachment::Nic { promiscuous: false, .. }) =
                (&mut port.opened, &port.config.attachment)
            else {
                continue;
            };
            let neighbours = guests.iter().filter(|(network, _)| *network == port.config.network);
            let addresses: Vec<_> = neighbours.map(|(_, mac)| mac.0).collect();
            if nic.filter == addresses {
                continue;
            }
            if let Err(error) = nic.device.set_mac_filter(&addresses) {
                tracing::error!(port = port.config.name.as_str(), "guests may miss frames: {error}");
            }
            nic.filter = addresses;
        }
    }

    fn running_objects(&self) -> reconcile::Running {
        let running = self.running();
        reconcile::Running {
            networks: running.networks.iter().map(|(network, _)| network.clone()).collect(),
            ports: running.ports.iter().map(|port| port.config.clone()).collect(),
            mirrors: running.mirrors.clone(),
            pods: running.pods.clone(),
        }
    }

    fn opener(&self) -> Opener<'_> {
        Opener {
            dpdk: self.dpdk(),
            datapath: &self.datapath,
            server: &self.server,
            bars: &self.bars,
            connections: &self.connections,
            ring_records: &self.ring_records,
            inherited: &self.inherited,
            isolation: self.isolation(),
        }
    }
}

/// What was carried out, and what was not.
#[derive(Debug, Default)]
pub(super) struct Done {
    actions: Vec<String>,
    notes: Vec<String>,
    failed: Vec<String>,
}

impl Action {
    /// What those who watch are told of it.
    fn kind(&self) -> EventKind {
        match self {
            Self::AddMirror(_) | Self::AddPod(_) | Self::AddNetwork(_) | Self::AddPort(_) => EventKind::Added,
            Self::SetNetwork(_) | Self::SetPort(_) => EventKind::Changed,
            Self::RemoveMirror(_) | Self::RemovePod(_) | Self::RemoveNetwork(_) | Self::RemovePort(_) => {
                EventKind::Removed
            }
        }
    }

    /// The port that it is about.
    fn port(&self) -> Option<&Name> {
        match self {
            Self::AddPort(port) | Self::SetPort(port) => Some(&port.name),
            Self::RemovePort(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveMirror(name) => write!(f, "remove mirror {name}"),
            Self::RemovePort(name) => write!(f, "close port {name}"),
            Self::RemoveNetwork(name) => write!(f, "remove network {name}"),
            Self::SetNetwork(network) => write!(f, "change network {}", network.name),
            Self::AddNetwork(network) => write!(f, "add network {}", network.name),
            Self::SetPort(port) => write!(f, "change port {}", port.name),
            Self::AddPort(port) => write!(f, "open port {}", port.name),
            Self::AddMirror(mirror) => write!(f, "add mirror {}", mirror.name),
            Self::RemovePod(name) => write!(f, "remove pod {name}"),
            Self::AddPod(pod) => write!(f, "add pod {}", pod.name),
        }
    }
}

/// The network and the address of a guest that has one address.
fn station(port: &config::Port) -> Option<(Name, MacAddress)> {
    match &port.attachment {
        Attachment::Guest { mac, .. } => Some((port.network.clone(), (*mac)?)),
        Attachment::Nic { .. } => None,
    }
}
