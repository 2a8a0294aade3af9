//! `culvertd --takeover`: another culvertd, perhaps of another version, goes on in the place of the one that runs, and guests do not notice.
//! docs/TAKEOVER.md tells it to administrators; [`crate::supervisor`] drives it.
//!
//! Two supervisors talk to each other, each for its daemon: the *old* one listens beside the control socket ([`path`]), the *new* one
//! connects. In this order:
//!
//! 1. They greet each other ([`message`]). Other versions of the hand-over are refused.
//! 2. The new daemon prepares: configuration, DPDK with memory of its own, workers that have nothing to do. The old one serves.
//! 3. The old daemon stands still: its workers stop at the end of a burst, and nothing is read from frontends. Everything the next one
//!    needs goes to its supervisor, and from there to the new one: connections, sockets, the lock of the state folder, what was learned,
//!    and [`state`]. Here the gap begins.
//! 4. The new daemon takes it up, as after a crash, and moves nothing yet.
//! 5. The old supervisor ends its daemon, and permits the new one to go on. Here the gap ends, and the old supervisor with it.
//!
//! Until step 5 the old supervisor can take it back: it ends the new daemon, for which it has a descriptor, and lets its own go on. Who
//! dies where, and what becomes of it, is in docs/TAKEOVER.md. Each wait has an end.
//!
//! - [`giver`]: the old supervisor's end; [`taker`]: the new one's;
//! - [`process`]: ends and deaths of the other's processes;
//! - [`step`]: where tests kill.

pub mod giver;
pub mod message;
pub mod process;
pub mod state;
pub mod step;
pub mod taker;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the old supervisor listens: beside the control socket.
pub fn path(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.file_name().unwrap_or_default().to_owned();
    name.push(".takeover");
    control_socket.with_file_name(name)
}

/// The version of culvertd, as people and the other culvertd are told. A build for tests has another one.
pub const VERSION: &str =
    if cfg!(feature = "inject") { concat!(env!("CARGO_PKG_VERSION"), "+inject") } else { env!("CARGO_PKG_VERSION") };

/// How long a greeting may take.
pub const GREETING: Duration = Duration::from_secs(5);
/// How long the new daemon may take to prepare: DPDK zeroes its memory.
pub const PREPARATION: Duration = Duration::from_secs(60);
/// How long the old daemon may take to stand still.
pub const FREEZING: Duration = Duration::from_secs(3);
/// How long the new daemon may take to take everything up.
pub const TAKING: Duration = Duration::from_secs(3);
/// How long the last messages may take.
pub const PARTING: Duration = Duration::from_secs(3);
/// By how much the new supervisor waits longer than the old one, so that only one decides.
pub const MARGIN: Duration = Duration::from_secs(2);
