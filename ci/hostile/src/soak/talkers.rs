//! Four guests with exact books that talk all the time, in a thread of their own, and connect again whenever they have to.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use culvert_system::qemu::Role;

use crate::cases::restart::group::{Group, Totals};
use crate::cases::restart::ledger::Ledger;
use crate::field::Field;

/// The guests at work.
pub struct Talkers {
    orders: Sender<Order>,
    thread: JoinHandle<Result<Totals>>,
}

enum Order {
    Totals(Sender<Totals>),
    Stop,
}

impl Talkers {
    /// Adds their ports and lets them talk.
    ///
    /// # Errors
    /// culvertd refuses a port.
    pub fn start(field: &mut Field) -> Result<Self> {
        let mut sockets = Vec::new();
        for number in 0..GUESTS {
            let role = if number % 2 == 0 { Role::Listen } else { Role::Connect };
            let name = format!("talker-{number}");
            let (socket, mac) = (field.socket(&name), Ledger::address(number));
            let place = socket.display();
            field
                .daemon()
                .ctl(&format!("port add {name} --network blue --socket {place} --role {} --mac {mac}", role.key()))?;
            sockets.push((socket, role));
        }
        let (orders, inbox) = channel();
        let thread = thread::Builder::new().name("talkers".to_owned()).spawn(move || {
            // Told at once: the run may go on for long.
            talk(&sockets, &inbox).inspect_err(|error| println!("talkers: {error:#}"))
        })?;
        Ok(Self { orders, thread })
    }

    /// What became of all frames so far.
    ///
    /// # Errors
    /// The books are wrong.
    pub fn totals(&self) -> Result<Totals> {
        let (answer, totals) = channel();
        // If the thread has ended there is no answer.
        let _ = self.orders.send(Order::Totals(answer));
        totals.recv().context("the books of a talker are wrong: the end of the run tells")
    }

    /// Ends it, and compares the books.
    ///
    /// # Errors
    /// They are wrong.
    pub fn stop(self) -> Result<Totals> {
        let _ = self.orders.send(Order::Stop);
        self.thread.join().map_err(|_| anyhow!("the talkers have panicked"))?
    }
}

fn talk(sockets: &[(std::path::PathBuf, Role)], inbox: &Receiver<Order>) -> Result<Totals> {
    let mut group = Group::new(sockets, false)?;
    loop {
        group.turn(true)?;
        match inbox.recv_timeout(TICK) {
            Ok(Order::Totals(answer)) => drop(answer.send(group.totals())),
            Ok(Order::Stop) => return group.balance(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("nobody listens any more")),
        }
    }
}

const GUESTS: u8 = 4;

/// A pause between two looks: some ten thousand frames a second.
const TICK: Duration = Duration::from_millis(5);
