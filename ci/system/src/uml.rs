//! A guest in user-mode Linux: native speed without KVM, and a vhost-user frontend that is neither QEMU's nor DPDK's.

use std::path::Path;

use anyhow::Result;

use crate::console::Console;
use crate::guest::Guest;
use crate::paths::peer;
use crate::place::Place;

/// Starts a guest on a socket that culvertd listens on, and returns before it has booted. It speaks modern virtio with one queue pair.
///
/// # Errors
/// The guest image is missing.
pub fn boot(name: &str, socket: &Path, number: u8) -> Result<Guest> {
    boot_in(&Place::default(), name, socket, number)
}

/// As [`boot`], in a place.
///
/// # Errors
/// The guest image is missing.
pub fn boot_in(place: &Place, name: &str, socket: &Path, number: u8) -> Result<Guest> {
    start(place, name, number, &[socket])
}

/// As [`boot_in`], with the newer kernel that ci/peers fetches.
///
/// # Errors
/// It has not been fetched.
pub fn boot_newest(place: &Place, name: &str, socket: &Path, number: u8) -> Result<Guest> {
    start(place, name, number, &[socket, &peer("")?])
}

/// As [`boot_newest`], with a tap of the namespace that it runs in, in place of a vhost-user backend.
///
/// # Errors
/// The newer kernel has not been fetched.
pub fn boot_on_tap(place: &Place, name: &str, tap: &str, number: u8) -> Result<Guest> {
    start(place, name, number, &[Path::new(&format!("tap:{tap}")), &peer("")?])
}

fn start(place: &Place, name: &str, number: u8, arguments: &[&Path]) -> Result<Guest> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../uml-guest");
    Ok(Guest::new(name, number, Console::start_in(place, name, program, arguments)?))
}
