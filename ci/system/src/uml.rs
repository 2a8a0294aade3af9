//! A guest in user-mode Linux: native speed without KVM, and a vhost-user frontend that is neither QEMU's nor DPDK's.

use std::path::Path;

use anyhow::{Context, Result};

use crate::console::Console;
use crate::guest::Guest;
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
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../uml-guest");
    let socket = socket.to_str().context("the socket's path is not UTF-8")?;
    Ok(Guest::new(name, number, Console::start_in(place, name, program, &[socket])?))
}
