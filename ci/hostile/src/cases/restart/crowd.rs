//! Guests with exact books, two and two in talk with each other, and a culvertd that is killed under them: at work, while it
//! starts, and while they connect.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::qemu::Role;
use rustix::process::{Pid, Signal};

use super::dice::Dice;
use super::group::{Group, RECOVERY};
use super::ledger::Ledger;

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The first one, whoever keeps it alive starts it again.
    Supervisor,
    /// Its child.
    Daemon,
}

/// When it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At work: all guests have received since the last start.
    Work,
    /// So long after the start of the last one, whatever has come of that.
    AfterStart(Duration),
}

/// culvertd and its guests.
pub struct Crowd {
    node: Node,
    daemon: Daemon,
    group: Group,
}

impl Crowd {
    /// Starts culvertd with four guests in turn of both roles.
    ///
    /// # Errors
    /// culvertd does not start.
    pub fn new(together: bool) -> Result<Self> {
        let mut node = Node::new()?;
        let mut sockets = Vec::new();
        for number in 0..MEMBERS {
            let role = if number % 2 == 0 { Role::Listen } else { Role::Connect };
            let mac = format!("mac = \"{}\"", Ledger::address(number));
            sockets.push((node.add_guest(&format!("guest-{number}"), role, &mac), role));
        }
        // Sockets first: culvertd looks for those that guests listen on.
        let group = Group::new(&sockets, together)?;
        let mut crowd = Self { daemon: node.start()?, node, group };
        crowd.group.recover()?;
        Ok(crowd)
    }

    /// culvertd.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Its guests.
    pub fn group(&mut self) -> &mut Group {
        &mut self.group
    }

    /// Kills culvertd once, and starts it again if it was the supervisor. Returns when it was killed.
    ///
    /// # Errors
    /// The books are wrong, or culvertd does not come back.
    pub fn kill(&mut self, process: Process, moment: Moment, dice: &mut Dice) -> Result<Instant> {
        let delay = match moment {
            Moment::Work => {
                self.group.recover()?;
                Duration::from_micros(dice.below(20_000))
            }
            Moment::AfterStart(delay) => delay,
        };
        let victim = match process {
            Process::Supervisor => self.daemon.supervisor_pid(),
            Process::Daemon => self.daemon_pid()?,
        };
        let ends = self.group.ends();
        let supervisor = self.daemon.supervisor_pid();
        let killer = killer(victim, (process == Process::Daemon).then_some(supervisor), delay);
        while !killer.is_finished() {
            self.group.turn(true)?;
        }
        let killed = killer.join().map_err(|_| anyhow::anyhow!("the killer failed"))??;
        if process == Process::Daemon {
            let outlived = self.wait_for_end(victim).and_then(|()| self.group.outlive());
            send_signal(supervisor, Signal::CONT)?;
            outlived?;
            self.wait_for_next(victim)?;
            return Ok(killed);
        }
        let deadline = Instant::now() + RECOVERY;
        while self.daemon.console().ended()?.is_none() {
            self.group.turn(true)?;
            ensure!(Instant::now() < deadline, "culvertd cannot be killed");
        }
        self.daemon = self.node.launch()?;
        // The kernel may take a while to end the daemon after its supervisor.
        let deadline = Instant::now() + RECOVERY;
        while moment == Moment::Work && self.group.ends() == ends {
            self.group.turn(true)?;
            ensure!(Instant::now() < deadline, "the guests do not notice that culvertd has ended");
        }
        Ok(killed)
    }

    /// Another build of culvertd takes over; returns the longest time in which no guest received anything meanwhile.
    ///
    /// # Errors
    /// The books are wrong, it does not take over, or a guest was hung up.
    pub fn take_over(&mut self, build: &str) -> Result<Duration> {
        self.group.recover()?;
        let ends = self.group.ends();
        let mut next = self.node.launch_takeover(build)?;
        let deadline = Instant::now() + RECOVERY;
        let (mut longest, mut last, mut arrived) = (Duration::ZERO, Instant::now(), self.group.arrived());
        let mut status = None;
        // For some frames longer.
        let mut left = FRAMES_AFTER;
        while left > 0 {
            self.group.turn(true)?;
            let now = self.group.arrived();
            if now > arrived {
                left = left.saturating_sub(if status.is_some() { now - arrived } else { 0 });
                longest = longest.max(last.elapsed());
                (last, arrived) = (Instant::now(), now);
            }
            if status.is_none() {
                status = self.daemon.console().ended()?;
            }
            if let Some(status) = next.console().ended()? {
                bail!("it does not take over but ends with {status}: {}", next.console().last_words());
            }
            ensure!(Instant::now() < deadline, "it does not take over: {}", next.console().last_words());
        }
        ensure!(status.is_some_and(|status| status.success()), "the old one ended with {status:?}");
        ensure!(self.group.ends() == ends, "a guest was hung up: {}", next.console().last_words());
        self.daemon = next;
        Ok(longest)
    }

    /// Goes on until the kernel has ended a process that nobody has taken note of yet.
    fn wait_for_end(&mut self, process: u32) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        let is_over = || {
            let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
        };
        while !is_over() {
            self.group.turn(true)?;
            ensure!(Instant::now() < deadline, "the daemon cannot be killed");
        }
        Ok(())
    }

    /// Goes on until there is a daemon.
    fn daemon_pid(&mut self) -> Result<u32> {
        self.wait_for_next(0)?;
        Ok(self.daemon.pid())
    }

    /// Goes on until there is another daemon than that process.
    fn wait_for_next(&mut self, before: u32) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        while [0, before].contains(&self.daemon.pid()) {
            self.group.turn(true)?;
            ensure!(
                Instant::now() < deadline,
                "the supervisor starts no daemon: {}",
                self.daemon.console().last_words()
            );
        }
        Ok(())
    }
}

/// Kills a process later, from a thread of its own: nothing else is asked when. `stopped` stops before, so that nothing follows from
/// that until it goes on.
fn killer(process: u32, stopped: Option<u32>, delay: Duration) -> JoinHandle<Result<Instant>> {
    thread::spawn(move || {
        thread::sleep(delay);
        if let Some(stopped) = stopped {
            send_signal(stopped, Signal::STOP)?;
        }
        send_signal(process, Signal::KILL)?;
        Ok(Instant::now())
    })
}

fn send_signal(process: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("no process")?;
    rustix::process::kill_process(pid, signal).or_else(|error| {
        // It may have been killed with its parent.
        if error == rustix::io::Errno::SRCH { Ok(()) } else { Err(error.into()) }
    })
}

/// How many frames come after a takeover before it is over.
const FRAMES_AFTER: u64 = 1000;
/// How many guests.
const MEMBERS: u8 = 4;
