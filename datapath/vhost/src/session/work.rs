//! What a session cannot do itself, because it takes long, and the results.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};
use culvert_guest::{DirtyLog, LogError, Memory, MemoryError, Region};

/// What a request needs done outside of the session.
#[derive(Debug)]
pub enum Work {
    /// Make a memory table: [`MemoryUpdate::map`], result [`Done::Mapped`].
    Map(MemoryUpdate),
    /// Map a dirty log: [`LogUpdate::map`], result [`Done::LogMapped`].
    MapLog(LogUpdate),
    /// Have the workers change rings; if they acknowledge it drop the old table. Result [`Done::Changed`].
    Change {
        /// In order; may be empty.
        changes: Vec<RingChange>,
        /// The memory table that no ring uses any more after the changes.
        retired: Option<Arc<Memory>>,
    },
    /// Tell the network where the guest is (SEND_RARP). Result [`Done::Announced`].
    Announce(MacAddress),
    /// Save or load what is beside the rings. Result [`Done::State`].
    State(StateWish),
}

/// What a frontend wants of a device's state, while all of its rings are stopped (vhost-user, "Migrating back-end state").
#[derive(Debug)]
pub enum StateWish {
    /// Begin to write it into this file, and close that when all is written.
    Save(OwnedFd),
    /// Begin to read it from this file, up to its end.
    Load(OwnedFd),
    /// Tell how that went.
    Check,
}

/// The result of [`Work`].
#[derive(Debug)]
pub enum Done {
    /// Of [`Work::Map`].
    Mapped(Result<Memory, MemoryError>),
    /// Of [`Work::MapLog`].
    LogMapped(Result<DirtyLog, LogError>),
    /// Of [`Work::Change`].
    Changed(Result<Vec<StoppedRing>, Unchanged>),
    /// Of [`Work::Announce`].
    Announced,
    /// Of [`Work::State`]: whether it is done, or has begun.
    State(bool),
}

/// The workers did not acknowledge: the old memory table, which they may still use, comes back.
#[derive(Debug)]
pub struct Unchanged {
    /// Why.
    pub error: Unresponsive,
    /// As it was in the work.
    pub retired: Option<Arc<Memory>>,
}

/// What is to be the dirty log.
#[derive(Debug)]
pub struct LogUpdate {
    /// The file that it is in.
    pub file: OwnedFd,
    /// Bytes of the log.
    pub size: u64,
    /// Where in the file it begins.
    pub offset: u64,
}

impl LogUpdate {
    /// Maps it. This may take long.
    ///
    /// # Errors
    /// It is not one that can be.
    pub fn map(self) -> Result<DirtyLog, LogError> {
        DirtyLog::map(self.file, self.size, self.offset)
    }
}

/// How to make the next memory table.
#[derive(Debug)]
pub enum MemoryUpdate {
    /// From nothing.
    Replace(Vec<(Region, OwnedFd)>),
    /// With a region more.
    Add(Option<Arc<Memory>>, Region, OwnedFd),
    /// With a region less.
    Remove(Option<Arc<Memory>>, Region),
}

impl MemoryUpdate {
    /// Maps the new table. This may take long: with huge pages the kernel may have to make room.
    ///
    /// # Errors
    /// The new table is not one that can be. The old one is untouched in any case.
    pub fn map(self) -> Result<Memory, MemoryError> {
        match self {
            Self::Replace(regions) => Memory::map(regions),
            Self::Add(Some(old), region, file) => old.with_region(region, file),
            Self::Add(None, region, file) => Memory::map(vec![(region, file)]),
            Self::Remove(Some(old), region) => old.without_region(region),
            Self::Remove(None, region) => Err(MemoryError::Unknown(region.guest_address)),
        }
    }
}
