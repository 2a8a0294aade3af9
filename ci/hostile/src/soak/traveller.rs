//! A guest in QEMU on two nodes of its own, which moves from one to the other and back while it is pinged, and has connections open.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_system::activity::Activity;
use culvert_system::lab::Lab;
use culvert_system::moving::{Journey, MovingGuest};

/// The guest.
pub struct Traveller {
    // Before its nodes.
    vm: MovingGuest,
    activity: Activity,
    lab: Lab,
    journeys: Vec<Journey>,
}

impl Traveller {
    /// Boots it.
    ///
    /// # Errors
    /// A culvertd does not start, or the guest does not boot.
    pub fn start() -> Result<Self> {
        let lab = Lab::start()?;
        let mut vm = lab.boot()?;
        let activity = Activity::start(&lab, &mut vm.guest)?;
        Ok(Self { vm, activity, lab, journeys: Vec::new() })
    }

    /// Has it move over, and looks what that has cost it. Returns what was seen.
    ///
    /// # Errors
    /// It does not arrive, or has lost more pings than while it stood still.
    pub fn travel(&mut self) -> Result<String> {
        let journey = self.vm.move_over(&self.lab)?;
        thread::sleep(SETTLING);
        self.journeys.push(journey);
        self.activity.check(&journey).with_context(|| self.lab.shown())
    }

    /// Ends it, and looks whether each byte of its connections was right. Returns what was seen.
    ///
    /// # Errors
    /// Something was wrong.
    pub fn end(mut self) -> Result<String> {
        self.vm.end_source();
        let seen =
            self.activity.end(&mut self.vm.guest, &self.journeys, LOST_PERMILLE).with_context(|| self.lab.shown())?;
        self.lab.stop()?;
        Ok(format!("{} journeys; {seen}", self.journeys.len()))
    }
}

/// How long it is watched where it has arrived.
const SETTLING: Duration = Duration::from_secs(1);

/// How many of a thousand pings may be lost while it does not move, on a machine that has other work as well.
const LOST_PERMILLE: u64 = 10;
