//! The translator as it runs: its protocol cores, its sockets, the way to the guest, and what is forwarded; and what
//! can be asked of it and changed by the control socket.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use anyhow::Result;
use culvert_steer::Steering as Held;
use culvert_translate::forward::{ForwardTable, Protocol, Rule, open_all};
use culvert_translate::lane::Lanes;
use culvert_translate::migration::lost::Lost;
use culvert_translate::refusal::Refusal;
use culvert_translate::request::{Controlled, MAX_REPLY_BYTES};
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::SocketId;
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::Transport;

use crate::steering::{self, Prepared, Steering};

/// A translator with its sockets and its guest.
#[derive(Debug)]
pub struct Running {
    /// The protocol cores.
    pub translator: Translator,
    /// Their sockets.
    pub sockets: KernelSockets,
    /// The way to the guest.
    pub transport: Transport,
    /// The threads beside this one.
    pub lanes: Option<Arc<Lanes>>,
    forwards: ForwardTable,
    freebind: bool,
    /// How many descriptors best-effort forwards may take.
    most_best_effort: usize,
    steering: Steers,
}

/// How all ports that nobody has are forwarded.
#[derive(Debug)]
pub enum Steers {
    /// By a listener for each. UDP's ports below this one could not be steered.
    Not(u16),
    /// So as well, until there is help.
    Prepared(Prepared),
    /// They are steered.
    Yes(Box<Steering>),
    /// By a listener for each; it was tried, and cannot be otherwise.
    Never,
}

impl Steers {
    /// Steers before the first port is opened, where that is asked for and this process has the right.
    pub fn begin(forwards: &ForwardTable, sockets: &mut KernelSockets, udp_below: u16) -> Self {
        if !forwards.can_be_steered() || !steering::is_permitted() {
            return Self::Not(udp_below);
        }
        let steering = Prepared::open(sockets, udp_below).and_then(|prepared| {
            let held = Prepared::attach(sockets)?;
            Steering::new(prepared, held, Instant::now()).map_err(|(_, error)| error.into())
        });
        match steering {
            Ok(steering) => Self::Yes(Box::new(steering)),
            Err(error) => Self::never(&error, sockets),
        }
    }

    fn never(why: &anyhow::Error, sockets: &mut KernelSockets) -> Self {
        tracing::warn!("each port that is forwarded takes a listener of its own: {why:#}");
        sockets.close_steered();
        Self::Never
    }

    /// Whether there are no listeners for ports that can be steered.
    pub fn is_working(&self) -> bool {
        matches!(self, Self::Yes(_))
    }
}

impl Running {
    /// Opens what is forwarded.
    ///
    /// # Errors
    /// A port that cannot be opened, with the remedy.
    pub fn new(
        translator: Translator,
        sockets: KernelSockets,
        (transport, lanes): (Transport, Option<Arc<Lanes>>),
        forwards: ForwardTable,
        freebind: bool,
        most_best_effort: usize,
        steering: Steers,
    ) -> Result<Self> {
        let none = forwards.without_rules();
        let mut running =
            Self { translator, sockets, transport, lanes, forwards: none, freebind, most_best_effort, steering };
        running.change(forwards)?;
        Ok(running)
    }

    /// Makes `new` what is forwarded, or leaves everything as it is.
    fn change(&mut self, new: ForwardTable) -> Result<()> {
        let Self { translator, sockets, freebind, most_best_effort, .. } = self;
        let is_steering = self.steering.is_working();
        let changes = self.forwards.listened(is_steering).changes_to(&new.listened(is_steering));
        for listen in &changes.close {
            translator.close_forward(listen, sockets);
        }
        let mut opened = Vec::new();
        let room = most_best_effort.saturating_sub(translator.best_effort_forwards());
        let result = open_all(changes.open, room, |listen| {
            translator.open_forward(listen, *freebind, sockets)?;
            opened.push(listen.clone());
            Ok(())
        });
        if let Err(error) = result {
            for listen in &opened {
                translator.close_forward(listen, sockets);
            }
            for listen in &changes.close {
                // It was open a moment ago.
                if let Err(error) = translator.open_forward(listen, *freebind, sockets) {
                    tracing::warn!("{listen} is no longer forwarded: {error}");
                }
            }
            return Err(error.into());
        }
        self.forwards = new;
        self.look(Instant::now());
        Ok(())
    }

    /// Asks the kernel which ports others have, and leaves those alone.
    fn look(&mut self, now: Instant) {
        if let Steers::Yes(steering) = &mut self.steering
            && steering.forward(&self.forwards, &HashSet::new(), &self.sockets, now)
        {
            self.translator.steer(steering.steered().clone());
        }
    }

    /// Does that if it is due. `has_arrived`: something came that could be another's.
    pub fn look_if_due(&mut self, now: Instant, has_arrived: bool) {
        if let Steers::Yes(steering) = &self.steering
            && steering.deadline(has_arrived) <= now
        {
            self.look(now);
        }
    }

    /// When to call [`Self::look_if_due`] although nothing has arrived.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.steering {
            Steers::Yes(steering) => Some(steering.deadline(false)),
            Steers::Not(_) | Steers::Prepared(_) | Steers::Never => None,
        }
    }

    /// Whether ports are steered.
    pub fn is_steering(&self) -> bool {
        self.steering.is_working()
    }

    /// The sockets to which ports are to be steered, TCP's first; opens them if need be. `None`: nothing is to be.
    pub fn sockets_to_steer(&mut self) -> Option<[BorrowedFd<'_>; 2]> {
        if !self.forwards.can_be_steered() {
            return None;
        }
        if let Steers::Not(udp_below) = self.steering {
            self.steering = match Prepared::open(&mut self.sockets, udp_below) {
                Ok(prepared) => Steers::Prepared(prepared),
                Err(error) => Steers::never(&error, &mut self.sockets),
            };
        }
        match self.steering {
            Steers::Prepared(_) => self.sockets.steered(),
            Steers::Not(_) | Steers::Yes(_) | Steers::Never => None,
        }
    }

    /// Steers from now on by what culvertd has given, and closes the listeners that this is in place of.
    ///
    /// # Errors
    /// It is not what was asked for.
    pub fn steer(&mut self, held: Held) -> std::io::Result<()> {
        let now = Instant::now();
        let prepared = match std::mem::replace(&mut self.steering, Steers::Never) {
            Steers::Prepared(prepared) => prepared,
            other => {
                self.steering = other;
                return Err(std::io::ErrorKind::Unsupported.into());
            }
        };
        let mut steering = match Steering::new(prepared, held, now) {
            Ok(steering) => Box::new(steering),
            Err((prepared, error)) => {
                self.steering = Steers::Prepared(prepared);
                return Err(error);
            }
        };
        let close = self.forwards.changes_to(&self.forwards.listened(true)).close;
        // Nothing is to be refused between the one and the other.
        let ours = close.iter().map(|listen| (listen.protocol, listen.port)).collect();
        steering.forward(&self.forwards, &ours, &self.sockets, now);
        self.translator.steer(steering.steered().clone());
        self.steering = Steers::Yes(steering);
        for listen in &close {
            self.translator.close_forward(listen, &mut self.sockets);
        }
        self.look(now);
        Ok(())
    }

    /// What is forwarded.
    pub fn rules(&self) -> Vec<Rule> {
        self.forwards.rules().to_vec()
    }

    /// A guest comes from another machine, where these ports led to it: so they do here, as far as that can be. What is
    /// forwarded here besides stays. Returns what was not forwarded before.
    pub fn adopt_forwards(&mut self, mut rules: Vec<Rule>) -> Vec<Rule> {
        rules.retain(|rule| !self.forwards.rules().contains(rule));
        let add =
            |table: &mut ForwardTable, rule: &Rule| table.add_rule(rule.clone()).map_err(|error| error.to_string());
        if self.edit(|table| rules.iter().try_for_each(|rule| add(table, rule))).is_ok() {
            return rules;
        }
        // Those that can be.
        rules.retain(|rule| {
            let added = self.edit(|table| add(table, rule));
            if let Err(why) = &added {
                tracing::warn!("{rule} led to the guest where it was, and does not here: {why}");
            }
            added.is_ok()
        });
        rules
    }

    /// The guest for which these were forwarded has gone.
    pub fn give_up_forwards(&mut self, rules: &[Rule]) {
        let removed = self.edit(|table| {
            rules.iter().for_each(|rule| table.remove_rule(rule));
            Ok(())
        });
        if let Err(why) = removed {
            tracing::warn!("ports that led to the guest that has gone are forwarded still: {why}");
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut ForwardTable) -> Result<(), String>) -> Result<(), String> {
        let mut new = self.forwards.clone();
        edit(&mut new)?;
        self.change(new).map_err(|error| format!("{error:#}"))
    }
}

impl Controlled for Running {
    fn forwards(&self) -> &[Rule] {
        self.forwards.rules()
    }

    fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.edit(|table| table.add(protocol, spec).map_err(|error| error.to_string()))
    }

    fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.edit(|table| table.remove(protocol, spec).map_err(|error| error.to_string()))
    }

    fn flows(&self, each: &mut dyn FnMut(&str) -> bool) {
        if !list_flows(&self.translator, &self.sockets, each) {
            return;
        }
        for line in self.lanes.iter().flat_map(|lanes| lanes.list_flows(MOST_LINES)) {
            if !each(&line) {
                return;
            }
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let (mut counters, mut transport) = (self.translator.counters().clone(), self.transport.totals());
        let mut flows = [self.translator.tcp().len(), self.translator.udp().len(), self.translator.echo().len()];
        for report in self.lanes.iter().flat_map(|lanes| lanes.reports()) {
            counters.add(&report.counters);
            transport.add(&report.totals);
            flows.iter_mut().zip(report.flows).for_each(|(flows, others)| *flows += others);
        }
        let [tcp_flows, udp_flows, echo_flows] = flows.map(|flows| flows as u64);
        let mut statistics = vec![
            ("rx_frames", counters.rx_frames),
            ("rx_bytes", counters.rx_bytes),
            ("tx_frames", counters.tx_frames),
            ("tx_bytes", counters.tx_bytes),
            ("tcp_flows", tcp_flows),
            ("udp_flows", udp_flows),
            ("echo_flows", echo_flows),
            ("tcp_flows_total", counters.tcp_flows),
            ("udp_flows_total", counters.udp_flows),
            ("echo_flows_total", counters.echo_flows),
            ("steered_ports", if let Steers::Yes(steering) = &self.steering { steering.len() as u64 } else { 0 }),
            ("guest_connections", transport.connections),
            ("guest_faults", transport.quarantined),
            ("tx_segmented", transport.tx_segmented),
            ("refused_queue_disabled", transport.rx_disabled),
            ("refused_guest_buffer", transport.tx_refused),
        ];
        for (names, counts) in [(SAVED, counters.moved.saved), (LOADED, counters.moved.loaded)] {
            statistics.extend(names.into_iter().zip(counts));
        }
        statistics.extend(Lost::ALL.map(|reason| (reason.name(), counters.moved.lost(reason))));
        statistics.extend(Refusal::ALL.map(|reason| (reason.name(), counters.refused(reason))));
        statistics
    }
}

/// Calls `each` with one line for each flow of one thread until it returns false; whether it never did.
pub fn list_flows(translator: &Translator, sockets: &KernelSockets, each: &mut dyn FnMut(&str) -> bool) -> bool {
    translator.tcp().iter().all(|(index, ends)| {
        let far = sockets.peer(SocketId::Tcp(index)).unwrap_or(ends.peer);
        each(&format!("tcp {ends} far {far}"))
    }) && translator.udp().iter().all(|ends| each(&format!("udp {ends}")))
}

/// Flows that moved away with their guest, and that came: of TCP, UDP and echo.
const SAVED: [&str; 3] = ["migration_saved_tcp", "migration_saved_udp", "migration_saved_echo"];
const LOADED: [&str; 3] = ["migration_loaded_tcp", "migration_loaded_udp", "migration_loaded_echo"];

/// More lines do not fit into a reply.
const MOST_LINES: usize = MAX_REPLY_BYTES / 32;
