//! Cases of faults of processes, machines and disks.
//!
//! - `kills`: killed in the middle of a change; `limits`: no memory, no descriptors; `disks`: full and read-only;
//! - `reload`: configuration files of all kinds; `clock`: a wall clock that jumps;
//! - `leftovers`: what others leave behind: kubelet, a reboot, a second daemon.

mod clock;
mod disks;
mod kills;
mod leftovers;
mod limits;
mod reload;

use anyhow::Result;

use crate::case::Case;
use crate::field::Field;

/// The cases of this folder.
pub const CASES: &[Case] = &[
    case(
        "P2",
        "killed-in-the-middle-of-changes",
        kills::in_the_middle,
        "kill -9 while the journal is written and guests share memory: the ports before or after, never between.",
    ),
    case(
        "P7",
        "no-hugepages",
        limits::no_hugepages,
        "Hugepages and memory that are not there: the start says how much it needs, a port fails alone.",
    ),
    case(
        "P9",
        "descriptors-run-out",
        limits::descriptors,
        "No descriptor is left: whoever is there stays, nothing spins, a client is let in, and all comes back.",
    ),
    case(
        "P10",
        "journal-on-a-full-disk",
        disks::journal,
        "The disk under the journal is full, then read-only: changes are refused, frames pass, then changes are taken again.",
    ),
    case(
        "P10",
        "capture-on-a-full-disk",
        disks::capture,
        "A capture's file finds no room: the capture ends with the reason, frames pass.",
    ),
    case(
        "P11",
        "reloads",
        reload::reloads,
        "Bad, half, missing and odd files, fifty signals a second, a port less: what a file does not change loses no frame.",
    ),
    case(
        "P13",
        "wall-clock-jumps",
        clock::jumps,
        "The wall clock jumps an hour both ways: no connection, address or port expires.",
    ),
    case(
        "P15",
        "pod-folder-deleted-before-del",
        leftovers::folder_first,
        "Kubelet deletes a pod's folder before DEL: its port waits, others lose nothing, DEL leaves nothing.",
    ),
    case(
        "P15",
        "two-daemons",
        leftovers::two_daemons,
        "A second culvertd with the same socket, state or ports ends with a sentence, and the first one notices nothing.",
    ),
    case(
        "P15",
        "reboot",
        leftovers::reboot,
        "After a reboot the state folder is there and /run is empty: ports come back, those of pods that are gone wait.",
    ),
];

const fn case(row: &'static str, name: &'static str, run: fn(&mut Field) -> Result<()>, what: &'static str) -> Case {
    Case { row, name, what, full: false, run }
}
