//! What goes wrong in one round.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::case::Case;
use crate::cases;
use crate::cases::restart::dice::Dice;
use crate::field::Field;
use crate::runner;

/// One fault.
pub enum Fault {
    /// A hostile case, with the oracle around it.
    Case(Box<Case>),
    /// culvertd is killed, its supervisor as well or not.
    Kill { all: bool },
    /// The configuration file is read again.
    Reload,
    /// A network, a port and a mirror come and go.
    Objects,
    /// A port is captured.
    Capture,
    /// A guest moves to another node.
    Migration,
    /// Another build of culvertd takes over.
    Takeover,
}

impl Fault {
    /// By the dice: half of them hostile cases. In `one_life` none that ends the daemon.
    pub fn choose(dice: &mut Dice, one_life: bool) -> Self {
        loop {
            let fault = Self::any(dice);
            if !(one_life && matches!(fault, Self::Kill { .. } | Self::Takeover)) {
                return fault;
            }
        }
    }

    fn any(dice: &mut Dice) -> Self {
        let count = |length: usize| u64::try_from(length).unwrap_or_default();
        match dice.below(16) {
            0 => Self::Kill { all: dice.one_in(2) },
            1 | 2 => Self::Reload,
            3 | 4 => Self::Objects,
            5 => Self::Capture,
            6 | 7 => Self::Migration,
            8 | 9 => Self::Takeover,
            _ => {
                let hostile: Vec<Case> = cases::all().into_iter().filter(is_for_a_field_in_use).collect();
                let at = usize::try_from(dice.below(count(hostile.len()))).unwrap_or_default();
                hostile.into_iter().nth(at).map_or(Self::Reload, |case| Self::Case(Box::new(case)))
            }
        }
    }

    /// Brings it about, and returns what was seen.
    ///
    /// # Errors
    /// Something is not as it must be.
    pub(super) fn play(&self, stage: &mut Stage) -> Result<String> {
        let Stage { field, linux, traveller, samples } = stage;
        match self {
            Self::Case(case) => {
                let (mut wrong, _) = runner::play_on(case, field);
                // It has started culvertd anew.
                if field.reuse() {
                    samples.next_life();
                    let again = field.clear().and_then(|()| linux.boot_again(field));
                    wrong.extend(again.err().map(|error| format!("{error:#}").into()));
                }
                ensure!(wrong.is_empty(), "{}", runner::sentences(&wrong));
            }
            Self::Kill { all } => {
                field.kill(*all)?;
                samples.next_life();
                linux.boot_again(field)?;
            }
            Self::Reload => field.daemon().console().signal("HUP")?,
            Self::Objects => objects(field)?,
            Self::Capture => {
                let file = field.node().path("soak.pcapng");
                field.daemon().ctl(&format!("capture talker-0 --count 1000 --write {}", file.display()))?;
            }
            Self::Migration => return traveller.travel(),
            // Nobody connects again, and nobody boots.
            Self::Takeover => {
                let gap = field.take_over()?;
                samples.next_life();
                return Ok(format!("a neighbour was {gap:.0?} without a frame"));
            }
        }
        Ok(String::new())
    }
}

fn objects(field: &mut Field) -> Result<()> {
    let socket = field.socket("comes");
    let changes = [
        "network add comes --snooping=true".to_owned(),
        format!("port add comes --network blue --socket {}", socket.display()),
        "mirror add comes --from talker-0,talker-1 --to comes".to_owned(),
        "port set talker-2 --mtu 1500".to_owned(),
        "mirror del comes".to_owned(),
        "port del comes".to_owned(),
        "network del comes".to_owned(),
    ];
    for change in changes {
        field.daemon().ctl(&change).with_context(|| change.clone())?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Cases that leave culvertd running: those of guests, frontends, frames and the control socket.
fn is_for_a_field_in_use(case: &Case) -> bool {
    !case.full && case.row.starts_with(['Q', 'V'])
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Case(case) => write!(f, "{} {}", case.row, case.name),
            Self::Kill { all: true } => f.write_str("kill -9 of culvertd"),
            Self::Kill { all: false } => f.write_str("kill -9 of the daemon"),
            Self::Reload => f.write_str("reload"),
            Self::Objects => f.write_str("network, port and mirror added and removed"),
            Self::Capture => f.write_str("capture"),
            Self::Migration => f.write_str("migration"),
            Self::Takeover => f.write_str("takeover"),
        }
    }
}
