//! Frontends that are killed and guests that reboot, again and again: nothing of them stays. The oracle compares what culvertd has open.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_driver::{Interface, Shape};

use super::dice::Dice;
use crate::field::Field;
use crate::guest::Guest;
use crate::neighbours::{ADDRESSES, ECHO};

/// A few times.
pub fn few(field: &mut Field) -> Result<()> {
    come_and_go(field, 30)
}

/// A thousand times.
pub fn many(field: &mut Field) -> Result<()> {
    come_and_go(field, 1000)
}

/// Killed at each step of its life: after the greeting, with rings stopped, at rest, with frames under way. A killed process and a
/// closed connection are the same for culvertd: the kernel closes what the process had.
fn come_and_go(field: &mut Field, times: u32) -> Result<()> {
    let mut dice = Dice::new(u64::from(times));
    for round in 0..times {
        let shape = Shape { queue_size: 256, ..Shape::default() };
        if dice.one_in(4) {
            drop(Guest::connect_stopped(&field.victim_socket(), shape, 0)?);
            continue;
        }
        let mut guest = field.connect_victim(shape, 0).with_context(|| format!("frontend {round}"))?;
        for _ in 0..dice.below(4) {
            reboot(&mut guest).with_context(|| format!("a reboot with frontend {round}"))?;
        }
        // Some of them are still in the ring when it goes.
        for _ in 0..dice.below(200) {
            guest.send(&echo())?;
        }
        thread::sleep(PAUSE / 2 + Duration::from_micros(dice.below(2000)));
    }
    let mut guest = field.connect_victim(Shape::default(), 0)?;
    guest.send(&echo())?;
    let (_, frame) = guest.receive()?;
    ensure!(frame.get(12..14) == Some(&ECHO[..]), "another frame came: {frame:02x?}");
    Ok(())
}

/// The driver is gone and another kernel's comes: rings are stopped where they are, and start anew at 0.
fn reboot(guest: &mut Guest) -> Result<()> {
    thread::sleep(PAUSE);
    for ring in [0, 1] {
        guest.enable(ring, false)?;
        guest.stop_ring(ring)?;
    }
    let Interface { receive, transmit, .. } = &mut guest.interface;
    receive.reset();
    transmit.reset();
    guest.interface.refill();
    for ring in [0, 1] {
        guest.start_ring(ring)?;
        guest.enable(ring, true)?;
    }
    Ok(())
}

/// A frame that the left neighbour sends back.
fn echo() -> Vec<u8> {
    let [left, _] = ADDRESSES;
    let mut frame = [left.as_slice(), &[2, 0, 0, 0, 9, 9], &ECHO].concat();
    frame.resize(200, 9);
    frame
}

/// Slow enough not to be slowed down for too many messages.
const PAUSE: Duration = Duration::from_millis(30);
