//! Two guests in user-mode Linux that ping each other and run iperf3.
//!
//! Linux's vhost-user driver never connects again ("we don't try to recover from this right now", says its author), so they are booted
//! anew after a kill of culvertd.

use anyhow::Result;
use culvert_system::guest::Guest;
use culvert_system::paths::guest_file;
use culvert_system::uml;

use crate::field::Field;

/// The guests, if there is an image for them.
pub struct Linux {
    guests: Option<[Guest; 2]>,
    talking: bool,
}

impl Linux {
    /// Adds their ports and boots them.
    ///
    /// # Errors
    /// culvertd refuses a port, or a guest does not boot.
    pub fn boot(field: &mut Field) -> Result<Self> {
        if guest_file("linux.uml").is_err() {
            return Ok(Self { guests: None, talking: false });
        }
        for name in NAMES {
            let socket = field.socket(name);
            field.daemon().ctl(&format!("port add {name} --network blue --socket {}", socket.display()))?;
        }
        let mut linux = Self { guests: None, talking: false };
        linux.boot_again(field)?;
        Ok(linux)
    }

    /// Boots them, in the place of those that were there.
    ///
    /// # Errors
    /// A guest does not boot.
    pub fn boot_again(&mut self, field: &Field) -> Result<()> {
        if self.guests.is_none() && guest_file("linux.uml").is_err() {
            return Ok(());
        }
        (self.guests, self.talking) = (None, false);
        let [one, other] = NAMES.map(|name| field.socket(name));
        let mut guests = [uml::boot("linux-1", &one, 21)?, uml::boot("linux-2", &other, 22)?];
        for guest in &mut guests {
            guest.wait_ready()?;
        }
        self.guests = Some(guests);
        self.talk()
    }

    /// Waits for what they talk about, and lets them talk about more.
    ///
    /// # Errors
    /// The other one does not answer.
    pub fn talk(&mut self) -> Result<()> {
        let Some([one, other]) = &mut self.guests else { return Ok(()) };
        if std::mem::replace(&mut self.talking, true) {
            one.finish()?;
        }
        let address = other.address().to_owned();
        one.send(&format!("ping -q -i 0.05 -c 200 {address} >/dev/null; ping -q -c 1 -W 5 {address}"))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.guests.as_ref().map_or(0, |guests| guests.len())
    }
}

const NAMES: [&str; 2] = ["linux-1", "linux-2"];
