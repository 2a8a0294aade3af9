//! A guest that moves from one QEMU to another while it runs, between the nodes of a [`Lab`].

use std::fs::{self, File};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::console::Console;
use crate::guest::Guest;
use crate::lab::{Lab, uri};
use crate::qemu::Start;
use crate::qmp::Monitor;

/// A QEMU that waits for the guest.
pub struct Arrival {
    pub(crate) console: Console,
    /// Its monitor.
    pub monitor: Monitor,
    pub(crate) at: usize,
}

impl Arrival {
    /// Has a QEMU that was started on a node wait for the guest.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub(crate) fn begin((console, mut monitor): (Console, Monitor), at: usize, uri: &str) -> Result<Self> {
        set_return_path(&mut monitor)?;
        monitor.run("migrate-incoming", json!({ "uri": uri }))?;
        Ok(Self { console, monitor, at })
    }

    /// Waits until all of the guest is there.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait_complete(&mut self) -> Result<()> {
        let deadline = Instant::now() + MOVE_LIMIT;
        loop {
            let status = self.monitor.run("query-status", json!({}))?;
            if status.get("status").and_then(Value::as_str) != Some("inmigrate") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the guest does not arrive: {status}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its console, for how it has ended.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }
}

/// The guest, wherever it is.
pub struct MovingGuest {
    /// To talk to it.
    pub guest: Guest,
    /// The monitor of the QEMU that it is in.
    pub monitor: Monitor,
    pub(crate) at: usize,
    /// The QEMU that it has left, where it stands still.
    pub(crate) left: Option<Console>,
}

/// How the guest came from one node to the other.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    /// When QEMU was told.
    pub began: SystemTime,
    /// When the guest was stopped at the source, as QEMU there tells.
    pub stopped: SystemTime,
    /// When QEMU at the target let it go on.
    pub resumed: SystemTime,
    /// How long it stood still, as QEMU at the source counts it.
    pub downtime: Duration,
    /// What went over the wire, in bytes.
    pub transferred: u64,
    /// How often QEMU looked for memory that had changed meanwhile.
    pub rounds: u64,
}

impl Journey {
    /// How long the guest stood still by all that QEMU tells: the source counts from before the stop, and not what the target does last.
    pub fn standstill(&self) -> Duration {
        self.downtime.max(self.resumed.duration_since(self.stopped).unwrap_or_default())
    }
}

impl MovingGuest {
    /// The node it is at.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Moves to the other node, and returns how that went.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn move_over(&mut self, lab: &Lab) -> Result<Journey> {
        self.end_source();
        let arrival = lab.prepare(1 - self.at, Start::Arrive)?;
        let began = self.depart(&arrival)?;
        let left = self.wait_left()?;
        self.arrive(arrival, began, &left)
    }

    /// Ends the QEMU that the guest has left; until then it holds its port.
    pub fn end_source(&mut self) {
        self.left = None;
    }

    /// Tells QEMU to send the guest to where it is awaited, and returns when.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub fn depart(&mut self, to: &Arrival) -> Result<SystemTime> {
        self.depart_by(&uri(to.at))
    }

    /// The same by another way, such as `unix:PATH`.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub fn depart_by(&mut self, uri: &str) -> Result<SystemTime> {
        set_return_path(&mut self.monitor)?;
        let began = SystemTime::now();
        self.monitor.run("migrate", json!({ "uri": uri }))?;
        Ok(began)
    }

    /// How it goes, as QEMU's `query-migrate` tells.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn progress(&mut self) -> Result<Value> {
        self.monitor.run("query-migrate", json!({}))
    }

    /// Waits until QEMU says that the guest is in such a state of its move; returns all that it says then.
    ///
    /// # Errors
    /// The move fails, or comes to another end.
    pub fn wait_until(&mut self, wanted: &str) -> Result<Value> {
        let deadline = Instant::now() + MOVE_LIMIT;
        loop {
            let progress = self.progress()?;
            let status = progress.get("status").and_then(Value::as_str).unwrap_or_default();
            if status == wanted {
                return Ok(progress);
            }
            let is_over = ["completed", "failed", "cancelled"].contains(&status);
            ensure!(!is_over && Instant::now() < deadline, "the guest's move is {progress}, not {wanted}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until QEMU has sent all of the guest; returns what it says then.
    ///
    /// # Errors
    /// The move fails.
    pub fn wait_left(&mut self) -> Result<Value> {
        self.wait_until("completed")
    }

    /// Waits until the guest runs where it was awaited, and goes on with it there. The QEMU before stays until [`MovingGuest::end_source`].
    ///
    /// # Errors
    /// It does not run.
    pub fn arrive(&mut self, arrival: Arrival, began: SystemTime, left: &Value) -> Result<Journey> {
        let Arrival { mut console, mut monitor, at } = arrival;
        let number = |path: &str| left.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let resumed = monitor.wait_for("RESUME", MOVE_LIMIT).with_context(|| console.last_words())?;
        let journey = Journey {
            began,
            stopped: self.monitor.wait_for("STOP", MOVE_LIMIT)?,
            resumed,
            downtime: Duration::from_millis(number("/downtime")),
            transferred: number("/ram/transferred"),
            rounds: number("/ram/dirty-sync-count"),
        };
        console.skip();
        self.left = Some(self.guest.move_to(console));
        self.monitor = monitor;
        self.at = at;
        Ok(journey)
    }

    /// The numbers of the pages of its memory that are not the same in a QEMU where it stands still, having left this one.
    ///
    /// # Errors
    /// The memory cannot be read.
    pub fn pages_that_differ(&mut self, there: &Arrival) -> Result<Vec<u64>> {
        let mut memories = [memory_of(self.guest.console().pid())?, memory_of(there.console.pid())?];
        let mut differ = Vec::new();
        let mut bytes = [vec![0; CHUNK], vec![0; CHUNK]];
        for chunk in 0.. {
            let mut lengths = [0; 2];
            for ((memory, bytes), length) in memories.iter_mut().zip(&mut bytes).zip(&mut lengths) {
                *length = read_full(memory, bytes)?;
            }
            let [one, other] = lengths;
            ensure!(one == other, "the memories are not of the same size");
            if one == 0 {
                break;
            }
            let [here, there] = &bytes;
            let pages = here.chunks(PAGE).zip(there.chunks(PAGE)).take(one / PAGE);
            let first = chunk * (CHUNK / PAGE) as u64;
            differ.extend((first..).zip(pages).filter(|(_, (here, there))| here != there).map(|(page, _)| page));
        }
        Ok(differ)
    }
}

/// A guest's memory, by the process that it is in.
fn memory_of(pid: u32) -> Result<File> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:memory-backend-memfd")) {
            return File::open(path).context("a guest's memory");
        }
    }
    bail!("process {pid} has no guest's memory")
}

/// Fills `bytes` as far as the file goes.
fn read_full(file: &mut File, bytes: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// As libvirt does: the source then knows whether the guest has arrived.
fn set_return_path(monitor: &mut Monitor) -> Result<()> {
    let on = json!({ "capabilities": [{ "capability": "return-path", "state": true }] });
    monitor.run("migrate-set-capabilities", on).map(drop)
}

const PAGE: usize = 4096;
const CHUNK: usize = 1 << 20;

/// The longest that a move may take, on a busy machine.
const MOVE_LIMIT: Duration = Duration::from_secs(120);
