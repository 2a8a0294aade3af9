//! What must hold after every case: the same culvertd runs and has counted no bug, the neighbours lost nothing, nothing has leaked, what
//! the case declared is what culvertd says and counts, and the port of the case serves the next guest.
//!
//! The runner takes a [`Baseline`] before a case and asks it afterwards. A case declares with
//! [`Field::exempt`](crate::field::Field::exempt) which part does not apply to it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;
use serde_json::Value;

use crate::case::{Expect, Part};
use crate::field::{Field, SOON};
use crate::load;
use crate::neighbours::{ADDRESSES, Counts, ECHO};
use crate::process::Resources;

/// Something that is not as it must be.
#[derive(Debug)]
pub struct Wrong {
    /// Which part of the oracle says so; none where a case does.
    pub part: Option<Part>,
    /// A sentence.
    pub why: String,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self { part: None, why }
    }
}

/// How things are before a case.
pub struct Baseline {
    pid: u32,
    /// Mistakes of its own that culvertd has counted.
    bugs: u64,
    resources: Resources,
    counts: Counts,
    /// What 99 in 100 frames of the neighbours take; only known, and looked at, under load.
    p99: Option<Duration>,
    drops: Vec<Value>,
    /// Where culvertd's log ended.
    log: usize,
}

impl Baseline {
    /// Looks at a field before a case.
    ///
    /// # Errors
    /// culvertd or a neighbour does not answer.
    pub fn take(field: &mut Field) -> Result<Self> {
        let drops = drops(field)?;
        let p99 = if field.is_full() { Some(load::usual_p99(field.neighbours())?) } else { None };
        let counts = field.neighbours().settle()?;
        if let Some(lost) = field.last_lost.take() {
            // While the last port was removed and this one added.
            ensure!(
                counts.lost <= lost,
                "of the neighbours' frames {} were lost since the last case; culvertd has refused:\n{}",
                counts.lost - lost,
                refused(field)
            );
        }
        field.neighbours().mark()?;
        let (pid, bugs) = (field.daemon().pid(), bugs(field)?);
        let resources = steady_resources(pid)?;
        Ok(Self { pid, bugs, resources, counts, p99, drops, log: field.daemon().console().transcript().len() })
    }

    /// All that is not as it must be, after a case.
    pub fn check(&self, field: &mut Field) -> Vec<Wrong> {
        let parts: [(Part, Check); 6] = [
            (Part::Process, Self::check_process),
            (Part::Delay, Self::check_delay),
            (Part::Neighbours, Self::check_neighbours),
            (Part::Log, Self::check_declared),
            (Part::Resources, Self::check_resources),
            (Part::Victim, |_, field| check_victim(field)),
        ];
        let mut wrong = Vec::new();
        for (part, check) in parts {
            // What a case declares is looked at in any case.
            if part != Part::Log && field.is_exempt(part) {
                continue;
            }
            if let Err(error) = check(self, field) {
                wrong.push(Wrong { part: Some(part), why: format!("{error:#}") });
            }
        }
        wrong
    }

    fn check_process(&self, field: &mut Field) -> Result<()> {
        let daemon = field.daemon();
        let ended = daemon.console().ended()?;
        ensure!(ended.is_none(), "culvertd has ended: {ended:?}; {}", daemon.console().last_words());
        ensure!(daemon.pid() == self.pid, "another process runs: {} instead of {}", daemon.pid(), self.pid);
        let bugs = bugs(field)? - self.bugs;
        ensure!(bugs == 0, "culvertd has counted {bugs} bugs");
        let log = self.log_since(field);
        let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked at")).collect();
        ensure!(panics.is_empty(), "culvertd has panicked: {panics:?}");
        Ok(())
    }

    fn check_delay(&self, field: &mut Field) -> Result<()> {
        let Some(usual) = self.p99.filter(|_| !field.is_exempt(Part::Neighbours)) else { return Ok(()) };
        let p99 = field.neighbours().settle().context("the neighbours")?.p99;
        ensure!(p99 <= 2 * usual, "99 in 100 frames took up to {p99:?}, usually {usual:?}");
        Ok(())
    }

    fn check_neighbours(&self, field: &mut Field) -> Result<()> {
        let counts = field.neighbours().settle().context("the neighbours")?;
        field.last_lost = Some(counts.lost);
        let before = if field.has_restarted() { Counts::default() } else { self.counts };
        let lost = counts.lost - before.lost;
        let wrong = counts.wrong - before.wrong;
        ensure!(
            lost == 0 && wrong == 0,
            "of the neighbours' frames {lost} were lost, {wrong} came twice, late or changed; culvertd has refused:\n{}",
            refused(field)
        );
        ensure!(counts.received > before.received, "no frame of the neighbours has come");
        Ok(())
    }

    fn check_resources(&self, field: &mut Field) -> Result<()> {
        field.remove_further_ports()?;
        let deadline = Instant::now() + SOON;
        loop {
            let found = Resources::of(field.daemon().pid())?.differences(&self.resources);
            if found.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{}", found.join("; "));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the case has declared: counters, states, and exactly those warnings and errors in the log.
    fn check_declared(&self, field: &mut Field) -> Result<()> {
        let expected = field.expected().to_vec();
        for expect in &expected {
            self.wait_for(field, expect)?;
        }
        let log = self.log_since(field);
        let lines = log.lines().filter(|line| is_warning(line));
        // Flooded frames meet whoever is slow, and are told of some time later. A worker that had no core is the machine's doing.
        let of_others = ["for the reason no-flood-buffer", "looked at no port for"];
        let lines = lines.filter(|line| !of_others.iter().any(|words| line.contains(words)));
        let unexpected: Vec<&str> = lines.filter(|line| !expected.iter().any(|one| one.tells(line))).collect();
        ensure!(
            unexpected.is_empty() || field.is_exempt(Part::Log),
            "{} lines of the log were not expected, the first: {}",
            unexpected.len(),
            unexpected.first().unwrap_or(&"")
        );
        Ok(())
    }

    /// Waits until what is expected is so.
    fn wait_for(&self, field: &mut Field, expect: &Expect) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = self.look(field, expect);
            if seen.is_ok() || Instant::now() > deadline {
                return seen;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn look(&self, field: &mut Field, expect: &Expect) -> Result<()> {
        let log = self.log_since(field);
        let told = log.lines().filter(|line| is_warning(line) && expect.tells(line)).count();
        match expect {
            Expect::Drop { port, reason, frames } => {
                let count = |drops: &[Value]| count_of(drops, port, reason);
                let refused = count(&drops(field)?) - count(&self.drops);
                ensure!(refused >= *frames, "{refused} frames of {port} were refused for {reason}, not {frames}");
                ensure!(told == 1, "{told} lines of the log tell of {reason} at {port}, not one");
            }
            Expect::Quarantine { port, sentence } => {
                let shown = field.daemon().port(port)?;
                let text = |key| shown.get(key).and_then(Value::as_str).unwrap_or_default();
                let (state, reason) = (text("state"), text("reason"));
                ensure!(state == "quarantined", "{port} is {state}, not quarantined: {shown}");
                ensure!(reason.contains(sentence), "{port} is quarantined for another reason: {reason}");
                ensure!(told == 1, "{told} lines of the log tell of the quarantine of {port}, not one");
            }
            Expect::Log { port, sentence, lines } => {
                ensure!(lines.contains(&told), "{told} lines of the log tell of {port}: \"{sentence}\", not {lines:?}");
            }
        }
        Ok(())
    }

    fn log_since(&self, field: &mut Field) -> String {
        let from = if field.has_restarted() { 0 } else { self.log };
        field.daemon().console().transcript().get(from..).unwrap_or_default().to_owned()
    }
}

type Check = fn(&Baseline, &mut Field) -> Result<()>;

impl Expect {
    /// Whether a line of the log is what this expects.
    fn tells(&self, line: &str) -> bool {
        let (port, sentence) = match self {
            Self::Drop { port, reason, .. } => (port, format!("refused for the reason {reason}:")),
            Self::Quarantine { port, sentence } | Self::Log { port, sentence, .. } => (port, (*sentence).to_owned()),
        };
        (port.is_empty() || line.contains(&format!("port=\"{port}\""))) && line.contains(&sentence)
    }
}

/// Whether a line of culvertd's log is a warning or an error.
fn is_warning(line: &str) -> bool {
    line.split_whitespace().nth(1).is_some_and(|level| level == "WARN" || level == "ERROR")
}

/// A fresh guest connects to the case's port and gets an echo from each neighbour.
fn check_victim(field: &mut Field) -> Result<()> {
    let port = field.victim();
    let mut guest = connect(&field.victim_socket()).with_context(|| format!("a fresh guest at {port}"))?;
    for address in ADDRESSES {
        for number in 0..ECHOES {
            let request = [address.as_slice(), &FRESH, &ECHO, &[number; 46]].concat();
            let answer = [FRESH.as_slice(), &address, &ECHO, &[number; 46]].concat();
            ensure!(guest.send(&request)?, "the ring of the fresh guest is full");
            loop {
                let frame = guest.receive().with_context(|| format!("the fresh guest at {port}, echo {number}"))?;
                // Others' floods may come as well.
                if frame == answer {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Connects as soon as the port takes guests again: after a quarantine it waits a second.
fn connect(socket: &Path) -> Result<FrontendGuest> {
    let deadline = Instant::now() + SOON;
    loop {
        match FrontendGuest::connect(socket, Shape::default()) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}

/// The resources of a process when they have been the same for some time.
fn steady_resources(pid: u32) -> Result<Resources> {
    let deadline = Instant::now() + SOON;
    let mut last = Resources::of(pid)?;
    let mut since = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(10));
        let now = Resources::of(pid)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= STEADY || Instant::now() > deadline {
            return Ok(last);
        }
    }
}

fn bugs(field: &mut Field) -> Result<u64> {
    let status = field.daemon().ask("status").context("culvertd does not answer, or has ended")?;
    status.get("bugs").and_then(Value::as_u64).with_context(|| format!("no bugs in {status}"))
}

fn drops(field: &mut Field) -> Result<Vec<Value>> {
    let drops = field.daemon().ask("drops")?;
    drops.as_array().cloned().context("a list of drops")
}

/// The same for a message: of a culvertd that does not answer, why.
fn refused(field: &mut Field) -> String {
    field.daemon().ctl("drops").unwrap_or_else(|error| error.to_string())
}

fn count_of(drops: &[Value], port: &str, reason: &str) -> u64 {
    let is_it = |drop: &&Value| {
        drop.get("port").and_then(Value::as_str) == Some(port)
            && drop.get("reason").and_then(Value::as_str) == Some(reason)
    };
    drops.iter().filter(is_it).filter_map(|drop| drop.get("count")?.as_u64()).sum()
}

/// The address of the fresh guest.
const FRESH: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// How many echoes it gets from each neighbour.
const ECHOES: u8 = 5;

/// How long resources must be the same before a case.
const STEADY: Duration = Duration::from_millis(60);

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-11-21T17:12:28.437735Z  WARN culvertd::node::refused: frames are refused for the reason runt: The \
                        frame is shorter. port=\"short\" frames=160";

    #[test]
    fn a_line_is_told_by_its_level_port_and_reason() {
        let drops = |port: &str, reason| Expect::Drop { port: port.to_owned(), reason, frames: 1 };
        assert!(is_warning(LINE) && !is_warning(&LINE.replace("WARN", "INFO")));
        assert!(drops("short", "runt").tells(LINE));
        assert!(!drops("shor", "runt").tells(LINE) && !drops("short", "run").tells(LINE));
        let log = |port: &str| Expect::Log { port: port.to_owned(), sentence: "is shorter", lines: 1..=1 };
        assert!(log("short").tells(LINE) && log("").tells(LINE) && !log("long").tells(LINE));
    }
}
