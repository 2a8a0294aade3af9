//! Cases of the control socket and paths on the node.
//!
//! - `http2`: bytes that are no requests; `clients`: clients that stall, come in crowds, or may not; `names`: names and paths;
//! - `swaps`: what a pod puts in the place of its files; `folders`: folders that vanish, and other daemons' sockets;
//! - `watchers`: clients that ask for events and read none; `metrics`: the metrics address;
//! - `identity`: pods that ask for another pod's things;
//! - `cni`, `hook`: culvert-cni and culvert-hook, called as nobody should.

mod clients;
mod cni;
mod folders;
mod hook;
mod http2;
mod identity;
mod metrics;
mod names;
mod swaps;
mod watchers;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, Part, case};
use crate::field::Field;
use crate::process::Resources;

/// The cases of this folder.
pub const CASES: &[Case] = &[
    case(
        "C1",
        "frames-that-break-rules",
        "HTTP/2 frames that break a rule each: that connection ends, others are served.",
        http2::frames_that_break_rules,
    ),
    case(
        "C1",
        "rapid-reset",
        "Streams are opened and reset as fast as it goes: the connection ends, others are served meanwhile.",
        http2::rapid_reset,
    ),
    case(
        "C1",
        "continuation-flood",
        "Headers that never end: the connection ends, and no memory is kept.",
        http2::continuation_flood,
    ),
    case(
        "C1",
        "frame-floods",
        "Pings, settings, empty data and windows as fast as it goes: others are served, and no memory is kept.",
        http2::frame_floods,
    ),
    case(
        "C1",
        "messages-that-lie",
        "gRPC and protobuf that lie about themselves: each is refused, and the connection kept.",
        http2::messages_that_lie,
    ),
    case(
        "C2",
        "clients-that-stall",
        "Clients that say nothing, half of it, or never read: they are cut off, and others are served meanwhile.",
        clients::stall,
    ),
    case(
        "C2",
        "watchers-that-read-nothing",
        "Clients ask for all events and read none: changes go on, others get the last events, and no memory is kept.",
        watchers::that_read_nothing,
    ),
    case(
        "C3",
        "a-thousand-clients",
        "One process opens a thousand connections: another one is served.",
        clients::thousand_connections,
    ),
    case(
        "C3",
        "a-hundred-changes-of-one-port",
        "A hundred clients change one port: one after the other, and whoever asks for what is so already gets it.",
        clients::hundred_changes,
    ),
    case(
        "C4",
        "sockets-for-others",
        "Other users find no way in, and folders of everyone's are refused.",
        clients::sockets_for_others,
    ),
    case(
        "C4",
        "readers-change-nothing",
        "Members of the socket's group who are no administrators ask, and change and capture nothing.",
        clients::readers,
    ),
    case(
        "C5",
        "names-and-paths",
        "Names and paths that lead elsewhere, or are none: one rule refuses them, and nothing is made.",
        names::names_and_paths,
    ),
    case(
        "C6",
        "sockets-swapped-in-a-pods-folder",
        "A pod swaps its socket's name all the time, in both roles: nothing outside is touched, nor connected to.",
        swaps::sockets,
    ),
    case(
        "C6",
        "folders-swapped-above-a-socket",
        "A pod swaps the folder above its socket all the time: nothing outside is made or changed.",
        swaps::folders,
    ),
    case(
        "C6",
        "journal-swapped",
        "The journal's names are swapped all the time: nothing is written elsewhere, and changes are kept or refused.",
        swaps::journal,
    ),
    case(
        "C7",
        "pod-folder-vanishes",
        "A pod's folder vanishes, comes back, is mounted over, is another's: the port follows its path, and steals no live socket.",
        folders::vanishes,
    ),
    case(
        "C8",
        "another-pods-tap",
        "A pod asks for another pod's packet socket in all ways: it gets its own or none.",
        identity::another_pods_tap,
    ),
    case(
        "C9",
        "cni-out-of-order",
        "ADD twice, DEL first and twice, killed calls, twenty at once: no orphan is left.",
        cni::out_of_order,
    ),
    case(
        "C10",
        "domains-that-are-none",
        "Domains and VMIs that are broken, huge, or bombs: an error or no change, and the next one is edited.",
        hook::domains_that_are_none,
    ),
    case(
        "C11",
        "clients-of-the-metrics-address",
        "Garbage, floods, slow and deaf clients at the metrics address: each is cut off, others are served, nothing is kept.",
        metrics::clients_as_they_like,
    ),
];

impl Field {
    /// culvertd's control socket.
    pub(crate) fn control_socket(&mut self) -> PathBuf {
        self.node().path("culvertd.sock")
    }
}

/// Does something twice: what the second round leaves has leaked. What the first one leaves may be room that the heap keeps.
pub(crate) fn twice(field: &mut Field, mut round: impl FnMut(&mut Field) -> Result<()>) -> Result<()> {
    field.exempt(Part::Resources, "the case looks itself, after a first round in which the heap may grow");
    round(field)?;
    let settled = |field: &mut Field| -> Result<Resources> {
        // Connections and threads that are about to end.
        thread::sleep(Duration::from_millis(1500));
        Resources::of(field.daemon().pid())
    };
    let before = settled(field)?;
    round(field)?;
    let found = settled(field)?.differences(&before);
    ensure!(found.is_empty(), "{}", found.join("; "));
    Ok(())
}
