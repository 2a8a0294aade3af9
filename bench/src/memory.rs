//! How much memory of its own a switch takes for each guest that is connected. The guests' memory is not counted, nor what a
//! switch reserves at its start, however few or many guests come.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::pair::under_load;
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let options = options.clone();
    Ok(vec![Case::new("64 guests", move |peer| measure(&options, peer))])
}

fn measure(options: &Options, peer: Peer) -> Result<Vec<Figure>> {
    let with = |guests: usize| -> Result<f64> {
        let setup = Setup { guests, ..Setup::pair(options.switch_core(), FRAME_BYTES) };
        under_load(peer, &setup, options.load_core(), |switch| {
            let connect = |(number, socket): (u8, &PathBuf)| {
                LoadGuest::connect(socket, options.rings(), Frames::plain(number, 1, FRAME_BYTES))
            };
            let mut guests = (1..).zip(&switch.sockets).map(connect).collect::<Result<Vec<_>>>()?;
            // Each sends a ring full, so that whatever is made with the first frame is there.
            for guest in &mut guests {
                guest.turn(true)?;
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            kibibytes(switch.pid(), "RssAnon:")
        })
    };
    let (few, many) = (with(FEW)?, with(FEW + MORE)?);
    Ok(vec![
        Figure::cost("for each guest", "KiB", (many - few) / MORE as f64),
        Figure::cost("with two guests", "MiB", few / 1024.0),
    ])
}

/// A line of a process's status (proc(5)).
fn kibibytes(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} of process {pid}"))
}

const FRAME_BYTES: u32 = 64;

const FEW: usize = 2;
const MORE: usize = 64;
