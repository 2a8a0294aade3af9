//! What a case plays on: a running culvertd, the two neighbours on its worker, and a port of the case's own, the victim.
//!
//! A field serves one case after the other, each with a new port. It belongs to the thread that made it: culvertd ends with that thread.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{BUILDS, Daemon, Node};
use culvert_system::qemu::Role;

use crate::case::{Expect, Part};
use crate::guest::{Guest, PACKED};
use crate::load;
use crate::neighbours::{Neighbours, Pace};
use crate::translators::Translators;

/// A running culvertd with neighbours and a victim.
pub struct Field {
    node: Node,
    daemon: Daemon,
    neighbours: Neighbours,
    pace: Pace,
    full: bool,
    /// The case's guests have packed rings.
    packed: bool,
    victim: String,
    /// Ports that the case has added, the victim first.
    ports: Vec<String>,
    expected: Vec<Expect>,
    exempt: Vec<(Part, &'static str)>,
    spent: bool,
    restarted: bool,
    /// Frames that the neighbours had lost when the oracle looked at them last.
    pub(crate) last_lost: Option<u64>,
    translators: Option<Translators>,
}

impl Field {
    /// Starts culvertd on a core, and neighbours: at a low rate, or with `full` at [`load::most`].
    ///
    /// # Errors
    /// culvertd does not start, or a neighbour cannot connect.
    pub fn new(core: usize, full: bool) -> Result<Self> {
        let mut node = Node::new()?;
        node.set_worker_core(core);
        if full {
            load::leave_core_to_worker(core)?;
        }
        node.add_guest(NEIGHBOURS[0], Role::Listen, "");
        node.add_guest(NEIGHBOURS[1], Role::Listen, "");
        let daemon = node.start()?;
        let low = Pace::PerSecond(LOW_RATE);
        let neighbours = neighbours(&node, low)?;
        let pace = if full { load::most(&neighbours)? } else { low };
        neighbours.set_pace(pace)?;
        let (victim, ports, expected, exempt) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            node,
            daemon,
            neighbours,
            pace,
            full,
            packed: false,
            victim,
            ports,
            expected,
            exempt,
            spent: false,
            restarted: false,
            last_lost: None,
            translators: None,
        })
    }

    /// culvertd.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// culvertd's folder and configuration.
    pub fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// The neighbours.
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Translators: the first case that asks for them starts them.
    ///
    /// # Errors
    /// The test is not root, or a translator does not start.
    pub fn translators(&mut self) -> Result<&Translators> {
        if self.translators.is_none() {
            self.translators = Some(Translators::start()?);
        }
        self.translators.as_ref().context("translators")
    }

    /// Whether the run is one with `--full`: a case may then play longer, and harder.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The name of the case's port.
    pub fn victim(&self) -> String {
        self.victim.clone()
    }

    /// The socket of the case's port.
    pub fn victim_socket(&self) -> PathBuf {
        self.socket(&self.victim)
    }

    /// The socket of a port that the field has added.
    pub fn socket(&self, port: &str) -> PathBuf {
        self.node.path(&format!("{port}.sock"))
    }

    /// Connects an honest guest to the victim's port, with further features.
    ///
    /// # Errors
    /// culvertd refuses it.
    pub fn connect_victim(&self, shape: Shape, features: u64) -> Result<Guest> {
        Guest::connect(&self.victim_socket(), self.shape(shape), features)
    }

    /// The same without starting its rings.
    ///
    /// # Errors
    /// culvertd refuses it.
    pub fn connect_victim_stopped(&self, shape: Shape, features: u64) -> Result<Guest> {
        Guest::connect_stopped(&self.victim_socket(), self.shape(shape), features)
    }

    /// From now on the case's guests have packed rings.
    pub fn use_packed_rings(&mut self) {
        self.packed = true;
    }

    /// The feature bit of packed rings, if the case's guests have them.
    pub fn packed_bit(&self) -> u64 {
        if self.packed { PACKED } else { 0 }
    }

    /// A shape with the case's kind of rings.
    pub fn shape(&self, shape: Shape) -> Shape {
        Shape { packed: shape.packed || self.packed, ..shape }
    }

    /// Adds another port for the case, with further options of `culvertctl port add`; returns its socket. It is removed after the case.
    ///
    /// # Errors
    /// culvertd refuses it.
    pub fn add_port(&mut self, name: &str, options: &str) -> Result<PathBuf> {
        let socket = self.socket(name);
        let arguments = format!("port add {name} --network blue --socket {} {options}", socket.display());
        self.daemon.ctl(arguments.trim())?;
        self.ports.push(name.to_owned());
        Ok(socket)
    }

    /// Declares what must come of the case.
    pub fn expect(&mut self, expected: Expect) {
        self.expected.push(expected);
    }

    /// Declares that the victim ends in quarantine for this reason.
    pub fn expect_quarantine(&mut self, sentence: &'static str) {
        self.expect(Expect::Quarantine { port: self.victim(), sentence });
    }

    /// Declares that so many frames at least of the victim are refused for this reason.
    pub fn expect_drops(&mut self, reason: &'static str, frames: u64) {
        self.expect(Expect::Drop { port: self.victim(), reason, frames });
    }

    /// Declares that the victim's receive ring may overflow: it asks for more than it takes in.
    pub fn expect_overflow(&mut self) {
        self.expect(Expect::Log { port: self.victim(), sentence: "for the reason no-buffer", lines: 0..=1 });
    }

    /// Declares that the receive rings of the neighbours and of `others` may overflow.
    pub fn expect_overflows(&mut self, others: &[String]) {
        for port in NEIGHBOURS.map(str::to_owned).iter().chain(others) {
            self.expect(Expect::Log { port: port.clone(), sentence: "for the reason no-buffer", lines: 0..=1 });
        }
    }

    /// Declares one line about the victim in the log.
    pub fn expect_line(&mut self, sentence: &'static str) {
        self.expect(Expect::Log { port: self.victim(), sentence, lines: 1..=1 });
    }

    /// Declares that lines about the victim may tell this, at most as many as culvertd writes of one port in the time of a case.
    pub fn may_tell(&mut self, sentence: &'static str) {
        self.may_tell_within(sentence, Duration::from_secs(20));
    }

    /// The same for a case that lasts so long: [`LOG_LINES`] in each [`LOG_WINDOW`] that it has a part in, and as many before.
    pub fn may_tell_within(&mut self, sentence: &'static str, time: Duration) {
        let windows = time.div_duration_f64(LOG_WINDOW).ceil() + 2.0;
        // Some hundred at most.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let lines = LOG_LINES * windows as usize;
        self.expect(Expect::Log { port: self.victim(), sentence, lines: 0..=lines });
    }

    /// Declares that a part of the oracle does not apply, and why.
    pub fn exempt(&mut self, part: Part, reason: &'static str) {
        self.exempt.push((part, reason));
    }

    /// Ends culvertd, changes its configuration, and starts it again with new neighbours and a new port for the case. The next case
    /// gets another field.
    ///
    /// # Errors
    /// culvertd does not start with it.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut String)) -> Result<()> {
        self.spent = true;
        change(self.node.config());
        self.neighbours.pause()?;
        self.daemon.kill();
        self.daemon = self.node.start()?;
        self.neighbours = neighbours(&self.node, self.pace)?;
        self.restarted = true;
        Ok(())
    }

    /// Connects new neighbours, where culvertd was restarted under the old ones.
    ///
    /// # Errors
    /// A neighbour cannot connect.
    pub fn replace_neighbours(&mut self) -> Result<()> {
        self.spent = true;
        self.neighbours = neighbours(&self.node, self.pace)?;
        Ok(())
    }

    /// Kills culvertd, `all` of it or the daemon alone, and connects new neighbours to the next one.
    ///
    /// # Errors
    /// culvertd does not come back.
    pub fn kill(&mut self, all: bool) -> Result<()> {
        self.neighbours.pause()?;
        if all {
            self.daemon.kill();
            self.daemon = self.node.start()?;
        } else {
            let before = self.daemon.pid();
            self.daemon.crash()?;
            self.daemon.wait_for_next(before)?;
        }
        self.end_neighbours();
        self.neighbours = neighbours(&self.node, self.pace)?;
        Ok(())
    }

    /// Another build of culvertd takes over from the one that runs. Returns how long a neighbour was without a frame.
    ///
    /// # Errors
    /// It does not take over, or a neighbour's connection is broken.
    pub fn take_over(&mut self) -> Result<Duration> {
        self.neighbours.mark()?;
        let runs = self.daemon.build()?;
        let other = BUILDS.into_iter().find(|build| *build != runs).context("another build")?;
        self.daemon = self.node.take_over(&mut self.daemon, other)?;
        Ok(self.neighbours.settle()?.longest_gap)
    }

    /// Ends the neighbours' connections, which outlive a daemon.
    pub fn end_neighbours(&mut self) {
        self.neighbours.end();
    }

    /// Makes a spent field one for other cases; whether it was one.
    pub(crate) fn reuse(&mut self) -> bool {
        std::mem::take(&mut self.spent)
    }

    /// Leaves no other case this field.
    pub fn spend(&mut self) {
        self.spent = true;
    }

    /// Whether its culvertd is another than before the case, with a log of its own.
    pub fn has_restarted(&self) -> bool {
        self.restarted
    }

    /// Whether no other case is to have this field.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    pub(crate) fn expected(&self) -> &[Expect] {
        &self.expected
    }

    pub(crate) fn is_exempt(&self, part: Part) -> bool {
        self.exempt.iter().any(|(exempt, _)| *exempt == part)
    }

    /// What was declared not to apply.
    pub(crate) fn exemptions(&self) -> impl Iterator<Item = &(Part, &'static str)> {
        self.exempt.iter()
    }

    /// Adds the port of a case.
    pub(crate) fn prepare(&mut self, case: &str) -> Result<()> {
        ensure!(self.ports.is_empty(), "the field is in use");
        self.victim = case.to_owned();
        self.packed = false;
        self.add_port(case, "").map(drop)
    }

    /// Removes the ports that a case has added to its own.
    pub(crate) fn remove_further_ports(&mut self) -> Result<()> {
        for port in self.ports.split_off(1.min(self.ports.len())) {
            self.daemon.ctl(&format!("port del {port}")).with_context(|| port.clone())?;
        }
        Ok(())
    }

    /// Removes what a case has added.
    pub(crate) fn clear(&mut self) -> Result<()> {
        for port in std::mem::take(&mut self.ports) {
            self.daemon.ctl(&format!("port del {port}")).with_context(|| port.clone())?;
        }
        (self.expected, self.exempt, self.packed) = (Vec::new(), Vec::new(), false);
        Ok(())
    }
}

/// Ports of the neighbours.
pub const NEIGHBOURS: [&str; 2] = ["left", "right"];

fn neighbours(node: &Node, pace: Pace) -> Result<Neighbours> {
    let [left, right] = NEIGHBOURS.map(|name| node.path(&format!("{name}.sock")));
    let sockets: [&Path; 2] = [&left, &right];
    Neighbours::start(sockets, pace)
}

/// Frames a second of each neighbour, where no more are asked for.
const LOW_RATE: u32 = 1000;

/// As many lines of one kind culvertd writes of one port in such a time (`culvert_vhost::log_limit`).
const LOG_LINES: usize = 5;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// The longest that something may take that culvertd does at once.
pub const SOON: Duration = Duration::from_secs(10);
