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

use crate::case::{Case, case};

/// The cases of this folder.
pub const CASES: &[Case] = &[
    case(
        "P2",
        "killed-in-the-middle-of-changes",
        "kill -9 while the journal is written and guests share memory: the ports before or after, never between.",
        kills::in_the_middle,
    ),
    case(
        "P7",
        "no-hugepages",
        "Hugepages and memory that are not there: the start says how much it needs, a port fails alone.",
        limits::no_hugepages,
    ),
    case(
        "P9",
        "descriptors-run-out",
        "No descriptor is left: whoever is there stays, nothing spins, a client is let in, and all comes back.",
        limits::descriptors,
    ),
    case(
        "P10",
        "journal-on-a-full-disk",
        "The disk under the journal is full, then read-only: changes are refused, frames pass, then changes are taken again.",
        disks::journal,
    ),
    case(
        "P10",
        "capture-on-a-full-disk",
        "A capture's file finds no room: the capture ends with the reason, frames pass.",
        disks::capture,
    ),
    case(
        "P11",
        "reloads",
        "Bad, half, missing and odd files, fifty signals a second, a port less: what a file does not change loses no frame.",
        reload::reloads,
    ),
    case(
        "P13",
        "wall-clock-jumps",
        "The wall clock jumps an hour both ways: no connection, address or port expires.",
        clock::jumps,
    ),
    case(
        "P15",
        "pod-folder-deleted-before-del",
        "Kubelet deletes a pod's folder before DEL: its port waits, others lose nothing, DEL leaves nothing.",
        leftovers::folder_first,
    ),
    case(
        "P15",
        "two-daemons",
        "A second culvertd with the same socket, state or ports ends with a sentence, and the first one notices nothing.",
        leftovers::two_daemons,
    ),
    case(
        "P15",
        "reboot",
        "After a reboot the state folder is there and /run is empty: ports come back, those of pods that are gone wait.",
        leftovers::reboot,
    ),
];
