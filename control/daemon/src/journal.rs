//! What clients added at run time, kept in the state folder so that it outlives culvertd: all of it, in one small file that
//! is replaced as a whole at each change.
//!
//! The file is written beside the old one, flushed, renamed over it, and the folder flushed (rename(2), fsync(2)): whenever
//! the process or the machine stops, the next start finds the old contents or the new. A first line tells version, length
//! and checksum of the text behind it, which is in the grammar of the configuration file. [`decode`] takes any bytes.
//!
//! `node::live` keeps a change here before it brings it about: what is answered with success is on the disk, and what
//! cannot be kept is not done. [`Disk`] is the file system; tests put one in its place that fails and stops.

pub mod disk;

use std::fmt;
use std::io;
use std::path::Path;

use crate::config::{Objects, read_objects, write_objects};
use disk::Disk;

/// The journal of a state folder.
#[derive(Debug)]
pub struct Journal<D> {
    disk: D,
    /// What the file holds.
    kept: Vec<u8>,
}

/// What the journal held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The objects of clients.
    pub objects: Objects,
    /// What was wrong with the file, which then lies beside itself under another name.
    pub damage: Option<String>,
}

/// Why bytes are no journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The first line is not ours.
    NotAJournal,
    /// A version that this culvertd does not know.
    Version(u32),
    /// Not as many bytes as there were.
    Length,
    /// Other bytes than there were.
    Checksum,
    /// The text has mistakes; the first of them.
    Mistake(String),
}

/// The file's name in the state folder.
pub const FILE: &str = "journal";
/// The name of a file that was damaged.
pub const DAMAGED_FILE: &str = "journal.damaged";
/// The new file, until it is whole.
const NEW_FILE: &str = "journal.new";
/// Largest journal, in bytes.
pub const MAX_BYTES: usize = 8 << 20;

const VERSION: u32 = 1;
const MAGIC: &str = "# culvertd journal";

impl<D: Disk> Journal<D> {
    /// Opens the journal on `disk`. A damaged file is put aside, so that it can be looked at.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(mut disk: D) -> io::Result<(Self, Restored)> {
        let (kept, restored) = match disk.read(FILE, MAX_BYTES)? {
            None => (encode(&Objects::default()), Restored::default()),
            Some(bytes) => match decode(&bytes) {
                Ok(objects) => (bytes, Restored { objects, damage: None }),
                Err(damage) => {
                    disk.rename(FILE, DAMAGED_FILE)?;
                    let damage = Some(format!("{damage}; it lies in {DAMAGED_FILE} now"));
                    (encode(&Objects::default()), Restored { objects: Objects::default(), damage })
                }
            },
        };
        Ok((Self { disk, kept }, restored))
    }

    /// Keeps these objects in the place of those before.
    ///
    /// # Errors
    /// When they cannot be kept: then the old ones still are.
    pub fn store(&mut self, objects: &Objects) -> io::Result<()> {
        let bytes = encode(objects);
        if bytes == self.kept {
            return Ok(());
        }
        if bytes.len() > MAX_BYTES {
            return Err(io::Error::other(format!("all objects together take more than {MAX_BYTES} bytes")));
        }
        match self.replace(&bytes) {
            Ok(()) => {
                self.kept = bytes;
                Ok(())
            }
            Err(error) => {
                // The new file may have its name already, though not for certain: the old contents get it back.
                let kept = std::mem::take(&mut self.kept);
                let _ = self.replace(&kept);
                self.kept = kept;
                Err(error)
            }
        }
    }

    /// Where it is.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(NEW_FILE, bytes)?;
        self.disk.flush(NEW_FILE)?;
        self.disk.rename(NEW_FILE, FILE)?;
        self.disk.flush_folder()
    }
}

/// What the journal of a state folder says at this moment, of whoever has its lock; nothing when it cannot be read.
pub fn peek(state_folder: &Path) -> Objects {
    let bytes = disk::peek(state_folder, FILE, MAX_BYTES).ok().flatten();
    bytes.and_then(|bytes| decode(&bytes).ok()).unwrap_or_default()
}

/// Objects as the bytes of a journal.
pub fn encode(objects: &Objects) -> Vec<u8> {
    let text = write_objects(objects);
    let (length, checksum) = (text.len(), crc32fast::hash(text.as_bytes()));
    format!("{MAGIC} {VERSION} {length} {checksum:08x}\n{text}").into_bytes()
}

/// The objects in the bytes of a journal.
///
/// # Errors
/// Any [`Damage`].
pub fn decode(bytes: &[u8]) -> Result<Objects, Damage> {
    let end = bytes.iter().take(MAX_FIRST_LINE).position(|byte| *byte == b'\n').ok_or(Damage::NotAJournal)?;
    let (first, rest) = bytes.split_at_checked(end).ok_or(Damage::NotAJournal)?;
    let text = rest.get(1..).unwrap_or_default();
    let first = std::str::from_utf8(first).map_err(|_| Damage::NotAJournal)?;
    let numbers = first.strip_prefix(MAGIC).and_then(|numbers| numbers.strip_prefix(' ')).ok_or(Damage::NotAJournal)?;
    let mut numbers = numbers.split(' ');
    let version = numbers.next().and_then(|version| version.parse().ok()).ok_or(Damage::NotAJournal)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let length: usize = numbers.next().and_then(|length| length.parse().ok()).ok_or(Damage::NotAJournal)?;
    let checksum = numbers.next().and_then(|sum| u32::from_str_radix(sum, 16).ok()).ok_or(Damage::NotAJournal)?;
    if length != text.len() {
        return Err(Damage::Length);
    }
    if checksum != crc32fast::hash(text) {
        return Err(Damage::Checksum);
    }
    let text = std::str::from_utf8(text).map_err(|error| Damage::Mistake(error.to_string()))?;
    read_objects(text).map_err(|mistakes| {
        let line = mistakes.first().and_then(|mistake| mistake.line).map_or(0, |line| line.saturating_add(1));
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        Damage::Mistake(format!("line {line}: {first}"))
    })
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAJournal => f.write_str("it is no journal of culvertd"),
            Self::Version(version) => {
                write!(f, "it has version {version}, which a newer culvertd wrote; this one knows {VERSION}")
            }
            Self::Length => f.write_str("it has not the length that it should have"),
            Self::Checksum => f.write_str("its checksum is wrong: the disk did not keep it"),
            Self::Mistake(mistake) => f.write_str(mistake),
        }
    }
}

/// Longest first line, in bytes.
const MAX_FIRST_LINE: usize = 80;

#[cfg(test)]
mod proofs;
