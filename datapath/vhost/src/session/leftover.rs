//! What a session leaves to its caller, because a frontend can make it last.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_guest::call::{Call, Replaced};
use culvert_guest::{DirtyLog, Memory};

/// Something to be done that a frontend can make last as long as it likes.
#[derive(Debug)]
pub enum Leftover {
    /// To be closed.
    Descriptors(Vec<OwnedFd>),
    /// To be closed once no worker signals it any more.
    Call(Replaced),
    /// A dirty log that is out of use, to be unmapped and closed.
    Log(Arc<DirtyLog>),
    /// A memory table that was refused, likewise.
    Memory(Memory),
    /// To be signalled once: an interrupt may be owed from before.
    Owed(Arc<Call>),
}

impl Leftover {
    /// Does it. An interrupt that a frontend makes block is waited for no longer than `limit`, if there is one; that takes
    /// a timer of the calling thread's.
    pub fn finish(self, limit: Option<Duration>) {
        match self {
            Self::Descriptors(descriptors) => drop(descriptors),
            Self::Call(replaced) => replaced.close(),
            Self::Log(log) => drop(log),
            Self::Memory(memory) => drop(memory),
            // A frontend whose descriptor blocks is found out at the next interrupt.
            Self::Owed(call) => drop(limit.map_or_else(|| call.signal(), |limit| call.signal_within(limit))),
        }
    }
}
