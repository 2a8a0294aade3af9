//! testpmd as a switch between pairs of guests, or between a guest and a device.

use std::path::PathBuf;

use anyhow::{Context, Result};
use culvert_system::testpmd::{Testpmd, vhost_device};
use tempfile::TempDir;

use super::{Count, Running, Setup};

/// A running testpmd, and its sockets' folder.
pub struct Switch {
    testpmd: Testpmd,
    _folder: TempDir,
}

/// Starts it in a forwarding mode: port 0 is joined with 1, 2 with 3, and so on.
pub fn start(setup: &Setup, mode: &str, tso: bool) -> Result<(Vec<PathBuf>, Running)> {
    let folder = TempDir::new()?;
    let sockets: Vec<PathBuf> = (0..setup.guests).map(|guest| folder.path().join(guest.to_string())).collect();
    let mut devices: Vec<String> =
        (0..).zip(&sockets).map(|(number, socket)| vhost_device(number, socket, tso)).collect();
    // Ports are joined in pairs, in this order.
    let second = devices.get(1).cloned().filter(|_| setup.nics.len() == 2);
    devices.truncate(if second.is_some() { 1 } else { devices.len() });
    devices.extend(setup.nics.iter().cloned());
    devices.extend(second);
    let place = setup.place(Some(setup.core()));
    let mode = format!("--forward-mode={mode}");
    let testpmd = Testpmd::forward_in(&place, &devices, &[&mode, "--record-core-cycles"])?;
    Ok((sockets, Running::Testpmd(Switch { testpmd, _folder: folder })))
}

impl Switch {
    pub fn pid(&self) -> u32 {
        self.testpmd.pid()
    }

    /// By `--record-core-cycles`: the cycles of bursts that had frames.
    pub fn busy(&mut self) -> Result<Count> {
        let shown = self.testpmd.command("show fwd stats all")?;
        parse(&shown).with_context(|| format!("no cycles in what testpmd shows:\n{shown}"))
    }

    pub fn explain(&mut self) -> String {
        let shown = self.testpmd.command("show fwd stats all").unwrap_or_else(|error| format!("{error:#}"));
        format!("testpmd shows:\n{shown}")
    }
}

/// From "CPU cycles/packet=81.20 (total cycles=162417472 / total RX packets=2000236) at 2600 MHz Clock".
fn parse(shown: &str) -> Option<Count> {
    let line = shown.lines().find(|line| line.contains("cycles/packet="))?;
    let (cycles, rest) = line.split_once("cycles=")?.1.split_once(" / ")?;
    let (packets, rest) = rest.split_once("packets=")?.1.split_once(')')?;
    let clock = rest.split_once("at ")?.1.split_once(" MHz")?.0;
    let number = |text: &str| text.trim().parse::<f64>().ok();
    Some(Count { nanoseconds: number(cycles)? / number(clock)? * 1e3, frames: number(packets)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_found_in_what_testpmd_shows() {
        let shown = "  ++++\n  CPU cycles/packet=81.20 (total cycles=5200 / total RX packets=64) at 2600 MHz Clock\n";
        let busy = parse(shown).unwrap();
        assert_eq!((busy.nanoseconds, busy.frames), (2000.0, 64.0));
    }
}
