//! The text of the last configuration without mistakes, in the supervisor's keeping: when the daemon has crashed while somebody wrote
//! a file with mistakes, the next daemon goes on with what held before, and no guest waits until the file is corrected.
//!
//! Used by `main` at the start and by the node at each reload. A culvertd that is started finds nothing here: then mistakes end it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::MemfdFlags;

use super::MAX_FILE_BYTES;
use crate::broker::Broker;

/// Keeps the text for the next daemon.
///
/// # Errors
/// There is no memory for it, or the supervisor does not answer.
pub fn keep(broker: &Broker, text: &str) -> io::Result<()> {
    let mut file = File::from(rustix::fs::memfd_create("configuration", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    broker.store(NAME, &[file.into()])
}

/// The text that an earlier daemon has kept.
///
/// # Errors
/// It cannot be read, or the supervisor does not answer.
pub fn take(broker: &Broker) -> io::Result<Option<String>> {
    let Some(kept) = broker.take(NAME)?.into_iter().next() else { return Ok(None) };
    let mut file = File::from(kept);
    file.rewind()?;
    let mut text = String::new();
    file.take(u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX)).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Its name at the supervisor.
const NAME: &str = "configuration";
