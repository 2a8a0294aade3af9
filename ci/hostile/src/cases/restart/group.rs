//! Guests with exact books, two and two in talk with each other, whatever becomes of culvertd.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::qemu::Role;

use super::ledger::Ledger;
use super::member::Member;

/// The guests.
pub struct Group {
    members: Vec<Member>,
    /// Whether no frame goes out before all guests are there: then none may be lost.
    together: bool,
    /// What each one's peer had delivered when culvertd ended last.
    marks: Vec<u64>,
    /// How often culvertd has ended so far, as guests saw it.
    ends: u64,
}

impl Group {
    /// Guests numbered from 0 on, an even number of them, each with its socket and role.
    ///
    /// # Errors
    /// A guest cannot listen.
    pub fn new(sockets: &[(PathBuf, Role)], together: bool) -> Result<Self> {
        let member = |(number, (socket, role)): (u8, &(PathBuf, Role))| {
            // One of each two has packed rings: of four that are in turn of both roles, one of each role.
            let is_packed = matches!(number % 4, 1 | 2);
            Member::new(Ledger::new(number, number ^ 1, is_packed), socket, *role)
        };
        let members: Vec<_> = (0..).zip(sockets).map(member).collect::<Result<_>>()?;
        let marks = vec![0; members.len()];
        Ok(Self { members, together, marks, ends: 0 })
    }

    /// Whether no frame goes out before all guests are there.
    pub fn set_together(&mut self, together: bool) {
        self.together = together;
    }

    /// How often culvertd has ended so far, as guests saw it.
    pub fn ends(&self) -> u64 {
        self.ends
    }

    /// How many frames have come so far, at all guests.
    pub fn arrived(&self) -> u64 {
        self.members.iter().map(|member| member.ledger.arrivals().next).sum()
    }

    /// What became of all frames so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for member in &self.members {
            let arrivals = member.ledger.arrivals();
            totals.frames += member.ledger.sent();
            totals.lost += arrivals.lost;
            totals.repeated += arrivals.repeated;
        }
        totals
    }

    /// Goes on until all guests have received a frame since culvertd ended last.
    ///
    /// # Errors
    /// The books are wrong, or a guest receives nothing.
    pub fn recover(&mut self) -> Result<()> {
        let start = Instant::now();
        let waits = |group: &Self| {
            let mut pairs = group.members.iter().zip(&group.marks);
            pairs.any(|(member, mark)| !member.is_enabled() || member.ledger.arrivals().next <= *mark)
        };
        while waits(self) {
            self.turn(true)?;
            ensure!(start.elapsed() < RECOVERY, "a ring is stuck: {}", self.state());
        }
        Ok(())
    }

    /// Waits until all that was sent has come, and compares the books.
    ///
    /// # Errors
    /// A buffer was lost, or a frame without excuse.
    pub fn balance(&mut self) -> Result<Totals> {
        self.recover()?;
        let deadline = Instant::now() + RECOVERY;
        let mut stopped = false;
        while !stopped || self.members.iter().any(|member| member.ledger.first_unfinished() < member.ledger.sent()) {
            self.turn(false)?;
            stopped = true;
            ensure!(Instant::now() < deadline, "buffers do not come back: {}", self.state());
            thread::sleep(Duration::from_millis(1));
        }
        self.exchange(false)?;
        for at in 0..self.members.len() {
            let sent = self.ledger(peer_of(at))?.sent();
            let ledger = &mut self.member(at)?.ledger;
            ledger.give_up(sent)?;
            ledger.balance()?;
        }
        Ok(self.totals())
    }

    /// One look at everything; `sending`: with new frames.
    ///
    /// # Errors
    /// The books are wrong.
    pub fn turn(&mut self, sending: bool) -> Result<()> {
        if self.members.iter().any(Member::is_hung_up) {
            self.ended()?;
        }
        let together = self.together;
        for at in 0..self.members.len() {
            let sent = self.ledger(peer_of(at))?.sent();
            let member = self.member(at)?;
            if !member.is_connected() && member.connect()? && !together {
                member.ledger.excuse(sent);
            }
        }
        let complete = self.members.iter().all(Member::is_connected);
        if complete || !self.together {
            for member in self.members.iter_mut().filter(|member| member.is_connected() && !member.is_enabled()) {
                member.enable();
            }
        }
        self.exchange(sending)
    }

    /// Sends and receives.
    fn exchange(&mut self, sending: bool) -> Result<()> {
        for at in 0..self.members.len() {
            self.member(at)?.ledger.collect()?;
        }
        let together = self.together;
        for at in 0..self.members.len() {
            let peer = self.ledger(peer_of(at))?;
            let (sent, done, next) = (peer.sent(), peer.first_unfinished(), peer.arrivals().next);
            let member = self.member(at)?;
            // Its peer may have found the next culvertd before it does.
            if !member.is_connected() && !together {
                member.ledger.excuse(sent);
            }
            if member.ledger.take_in()? {
                member.kick(0)?;
            }
            // A buffer comes back when its frame has been delivered, or never will be.
            member.ledger.give_up(done)?;
            if sending && member.ledger.send(next) {
                member.kick(1)?;
            }
        }
        Ok(())
    }

    /// The daemon has ended, and no other one is there yet. Connections that outlive it go on; if there is one that does not, all
    /// connect again.
    ///
    /// # Errors
    /// The books are wrong.
    pub fn outlive(&mut self) -> Result<()> {
        if self.members.iter().any(Member::is_hung_up) { self.ended() } else { self.make_up() }
    }

    /// culvertd has ended: all that it did is seen now.
    fn ended(&mut self) -> Result<()> {
        self.ends += 1;
        // Those that were connected have no excuse yet.
        self.make_up()?;
        self.members.iter_mut().for_each(Member::disconnect);
        Ok(())
    }

    /// Makes up the books of an end.
    fn make_up(&mut self) -> Result<()> {
        self.exchange(false)?;
        for at in 0..self.members.len() {
            let again = self.ledger(peer_of(at))?.first_unfinished();
            let member = self.member(at)?;
            member.ledger.ended(again);
            let next = member.ledger.arrivals().next;
            if let Some(mark) = self.marks.get_mut(at) {
                *mark = next;
            }
        }
        Ok(())
    }

    fn state(&self) -> String {
        let one = |member: &Member| {
            let (ledger, connected) = (&member.ledger, member.is_connected());
            let (sent, done) = (ledger.sent(), ledger.first_unfinished());
            format!(
                "[connected {connected}, enabled {}, sent {sent}, done {done}, {:?}]",
                member.is_enabled(),
                ledger.arrivals()
            )
        };
        self.members.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn member(&mut self, at: usize) -> Result<&mut Member> {
        self.members.get_mut(at).context("no such member")
    }

    fn ledger(&self, at: usize) -> Result<&Ledger> {
        Ok(&self.members.get(at).context("no such member")?.ledger)
    }
}

/// What became of all frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames that were sent.
    pub frames: u64,
    /// Frames that were lost.
    pub lost: u64,
    /// Frames that came twice.
    pub repeated: u64,
}

fn peer_of(at: usize) -> usize {
    at ^ 1
}

/// The longest that guests may go without a frame.
pub const RECOVERY: Duration = Duration::from_secs(30);
