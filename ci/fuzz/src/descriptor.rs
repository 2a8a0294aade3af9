//! File descriptors of all kinds that a frontend may send, and whether all were closed again.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

/// What a descriptor is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Kind {
    Event,
    /// The guest's memory; a fresh file where there is none.
    Memory,
    ShortFile,
    Pipe,
    Device,
}

pub(crate) fn memory(bytes: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&file, bytes).expect("memory");
    file
}

/// A file of [`COMMON_BYTES`] that nobody truncates, the same for all inputs: to make one takes longer than most of them.
pub(crate) fn common() -> &'static OwnedFd {
    static FILE: LazyLock<OwnedFd> = LazyLock::new(|| memory(COMMON_BYTES));
    &FILE
}

/// A file of [`LOG_BYTES`] for a dirty log, the same for all inputs, which do not truncate it.
pub(crate) fn log() -> &'static OwnedFd {
    static FILE: LazyLock<OwnedFd> = LazyLock::new(|| memory(LOG_BYTES));
    &FILE
}

/// How many bytes [`log`] has.
pub(crate) const LOG_BYTES: u64 = 0x9000;

/// How many bytes [`common`] has.
pub(crate) const COMMON_BYTES: u64 = 0x10_0000;

pub(crate) fn event() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd")
}

/// A new descriptor of that kind.
pub(crate) fn open(kind: Kind, memory_file: &OwnedFd) -> OwnedFd {
    match kind {
        Kind::Event => event(),
        Kind::Memory => memory_file.try_clone().expect("another descriptor"),
        Kind::ShortFile => memory(100),
        Kind::Pipe => std::io::pipe().expect("a pipe").1.into(),
        Kind::Device => File::open("/dev/null").expect("/dev/null").into(),
    }
}

/// The lowest free descriptor number: the same before and after, if all that was opened was closed. (One that was open
/// before and closed meanwhile would show as well.)
pub(crate) fn lowest_free() -> RawFd {
    event().as_raw_fd()
}
