//! The dirty log: a bit for each page of a guest's memory, in memory that the frontend shares with us (vhost-user specification,
//! "Migration"). While a guest moves to another machine its frontend copies all pages, and those again that were marked since it
//! last took the marks out.
//!
//! A mark follows the write that it is of: of a write that came after its mark the frontend may have taken the mark out, and copied the
//! page, in between. Marks are set by an atomic or, since the frontend, other rings and other devices of the guest's change bits
//! beside them. What lies behind the end of the log is not marked: whether the log is large enough is asked before it is used.

#![expect(unsafe_code, reason = "atomic access to memory that a frontend shares")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::call::Call;
use crate::memory::{Mapping, MemoryError, Region};

/// Bytes of a page that one bit stands for.
pub const PAGE_BYTES: u64 = 0x1000;

/// How many bytes a log may have: enough for guest addresses below 128 TiB, so that a sparse file of absurd size does not take our
/// address space.
pub const MAX_LOG_BYTES: u64 = 4 << 30;

/// Pages that one byte stands for.
const PAGES_IN_BYTE: u64 = 8;

/// Why a log was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log has no bytes.
    #[error("the dirty log is empty")]
    Empty,
    /// Offset plus size exceeds 64 bits.
    #[error("the dirty log's offset plus its size overflows")]
    Overflow,
    /// More than [`MAX_LOG_BYTES`].
    #[error("a dirty log of {bytes} bytes, more than {} GiB", MAX_LOG_BYTES >> 30)]
    TooLarge {
        /// That it would have.
        bytes: u64,
    },
    /// The descriptor is not a regular file.
    #[error("the dirty log's descriptor is not a file of memory")]
    NotAFile,
    /// The file is on a file system that can keep us waiting for its bytes.
    #[error("the dirty log is on a network or FUSE file system; share memory by memfd")]
    SlowFile,
    /// The file ends before the log does.
    #[error("the dirty log needs {needed} bytes of its file, which has {available}")]
    ShortFile {
        /// Offset plus size.
        needed: u64,
        /// The file's length.
        available: u64,
    },
    /// The kernel refused to map the file, or to tell about it.
    #[error("the dirty log cannot be mapped: {0}")]
    Map(String),
    /// Too many regions of all guests together.
    #[error("the guests of all ports together have too many memory regions for one more dirty log")]
    NoGuard,
}

impl From<MemoryError> for LogError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Empty(_) => Self::Empty,
            MemoryError::NotAFile(_) => Self::NotAFile,
            MemoryError::SlowFile(_) => Self::SlowFile,
            MemoryError::ShortFile { needed, available, .. } => Self::ShortFile { needed, available },
            MemoryError::Map { reason, .. } => Self::Map(reason),
            MemoryError::NoGuard => Self::NoGuard,
            MemoryError::Overflow(_)
            | MemoryError::Overlap(_)
            | MemoryError::TooMany
            | MemoryError::TooLarge
            | MemoryError::Unknown(_) => Self::Overflow,
        }
    }
}

/// A dirty log, mapped.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    bytes: u64,
    offset: u64,
}

impl DirtyLog {
    /// Maps the `bytes` of a file from `offset` on. This may take as long as the frontend's file likes.
    ///
    /// # Errors
    /// Any [`LogError`]; nothing stays mapped then.
    pub fn map(file: OwnedFd, bytes: u64, offset: u64) -> Result<Self, LogError> {
        if bytes > MAX_LOG_BYTES {
            return Err(LogError::TooLarge { bytes });
        }
        let region = Region { guest_address: 0, size: bytes, user_address: 0, mmap_offset: offset };
        Ok(Self { mapping: Mapping::new(region, file, 1)?, bytes, offset })
    }

    /// The file, and how many bytes of it the log has from which offset on.
    pub fn file(&self) -> (Option<BorrowedFd<'_>>, u64, u64) {
        (self.mapping.file().map(|file| file.as_fd()), self.bytes, self.offset)
    }

    /// How many bytes a log must have so that all guest addresses below `end` have their bits.
    pub fn needed(end: u64) -> u64 {
        end.div_ceil(PAGE_BYTES).div_ceil(PAGES_IN_BYTE)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the log was lost because its file was truncated: what was marked since is known to nobody.
    pub fn faulted(&self) -> bool {
        self.mapping.faulted()
    }

    /// Marks the pages that have any of `length` bytes at a guest address, which were written before. Those that the log does not reach
    /// are left out.
    pub fn mark(&self, address: u64, length: u64) {
        let Some(more) = length.checked_sub(1) else { return };
        // There is a byte at least.
        let end = self.bytes.saturating_mul(PAGES_IN_BYTE);
        let last = (address.saturating_add(more) / PAGE_BYTES).min(end - 1);
        let mut page = address / PAGE_BYTES;
        while page <= last {
            let behind = (page / PAGES_IN_BYTE + 1) * PAGES_IN_BYTE;
            // Those of this byte: from 1 to 8.
            let count = behind.min(last + 1) - page;
            self.set(page / PAGES_IN_BYTE, (0xff_u8 >> (PAGES_IN_BYTE - count)) << (page % PAGES_IN_BYTE));
            page = behind;
        }
    }

    /// Sets bits of the byte at an index that the log has.
    fn set(&self, index: u64, bits: u8) {
        let Some(index) = usize::try_from(index).ok().filter(|_| index < self.bytes) else { return };
        // SAFETY: a byte of the mapping, which is owned; all access to it is atomic, and the frontend's is its own affair.
        let byte = unsafe { AtomicU8::from_ptr(self.mapping.host().add(index)) };
        // Who sees the bit sees what was written before.
        byte.fetch_or(bits, Ordering::AcqRel);
    }
}

/// Where the writes of one ring are logged.
#[derive(Clone, Debug)]
pub struct RingLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// The guest address by which writes to the used ring (of a packed ring: to the device's event area) are logged beside the one that
    /// it has in the memory table, if the frontend has told one (`log_guest_addr` of SET_VRING_ADDR).
    pub used: Option<u64>,
    /// To be signalled when something was marked (SET_LOG_FD).
    pub call: Arc<Call>,
}

impl PartialEq for RingLog {
    /// Whether it is the same log, and the same place.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.log, &other.log) && self.used == other.used
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    fn memfd(bytes: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, bytes).unwrap();
        file
    }

    fn bits(file: &OwnedFd, bytes: usize, offset: u64) -> Vec<u64> {
        let mut read = vec![0; bytes];
        rustix::io::pread(file, &mut read, offset).unwrap();
        let bits = (0..)
            .zip(read)
            .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit));
        bits.collect()
    }

    #[test]
    fn the_pages_of_a_range_are_marked_and_no_others() {
        for (address, length, pages) in [
            (0, 0, vec![]),
            (0, 1, vec![0]),
            (0xfff, 1, vec![0]),
            (0xfff, 2, vec![0, 1]),
            (0x7000, 0x1000, vec![7]),
            (0x7fff, 2, vec![7, 8]),
            (0x3000, 0x1_0000, (3..19).collect()),
            (0x8000, 0x8000, (8..16).collect()),
            // Behind the end, and over it.
            (0x1_f000, 0x8000, vec![31]),
            (0x2_0000, 1, vec![]),
            (u64::MAX, 1, vec![]),
            (0x1_f000, u64::MAX, vec![31]),
            (u64::MAX, u64::MAX, vec![]),
        ] {
            let file = memfd(0x1000);
            let log = DirtyLog::map(file.try_clone().unwrap(), 4, 0).unwrap();
            log.mark(address, length);
            assert_eq!(bits(&file, 0x1000, 0), pages, "{address:#x}+{length:#x}");
        }
    }

    #[test]
    fn marks_are_added_to_what_others_have_marked() {
        let file = memfd(0x1000);
        let log = DirtyLog::map(file.try_clone().unwrap(), 1, 0).unwrap();
        let same = DirtyLog::map(file.try_clone().unwrap(), 1, 0).unwrap();
        log.mark(0x1000, 1);
        same.mark(0x3000, 1);
        log.mark(0x3000, 1);
        assert_eq!(bits(&file, 1, 0), [1, 3]);
    }

    /// hostile V14
    #[test]
    fn a_log_lies_where_it_is_said_whatever_the_offset() {
        for offset in [0, 1, 8, 0x1000, 0x1234] {
            let file = memfd(0x4000);
            let log = DirtyLog::map(file.try_clone().unwrap(), 2, offset).unwrap();
            log.mark(0x2000, 0x1000);
            log.mark(0x9000, 0x1000);
            assert_eq!(bits(&file, 0x4000, 0), [offset * 8 + 2, offset * 8 + 9], "{offset}");
        }
    }

    /// hostile V14
    #[test]
    fn bad_logs_are_refused() {
        let error = |file, bytes, offset| DirtyLog::map(file, bytes, offset).unwrap_err();
        assert_eq!(error(memfd(0x1000), 0, 0), LogError::Empty);
        assert_eq!(error(memfd(0x1000), 8, u64::MAX), LogError::Overflow);
        assert_eq!(error(memfd(0x1000), MAX_LOG_BYTES + 1, 0), LogError::TooLarge { bytes: MAX_LOG_BYTES + 1 });
        assert_eq!(error(memfd(0x1000), 8, 0x0fff), LogError::ShortFile { needed: 0x1007, available: 0x1000 });
        assert_eq!(error(memfd(0), 8, 0), LogError::ShortFile { needed: 8, available: 0 });
        assert_eq!(error(std::fs::File::open("/dev/zero").unwrap().into(), 8, 0), LogError::NotAFile);
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(error(reader.into(), 8, 0), LogError::NotAFile);
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(0x1000).unwrap();
        assert!(matches!(error(std::fs::File::open(path.path()).unwrap().into(), 8, 0), LogError::Map(_)));
    }

    /// hostile V14
    #[test]
    fn a_log_that_is_taken_away_or_has_holes_does_not_end_us() {
        let file = memfd(0x4000);
        let log = DirtyLog::map(file.try_clone().unwrap(), 0x4000, 0).unwrap();
        log.mark(0, u64::MAX);
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, hole, 0, 0x4000).unwrap();
        log.mark(0x5000, 1);
        assert_eq!(bits(&file, 0x4000, 0), [5]);
        assert!(!log.faulted());
        rustix::fs::ftruncate(&file, 0).unwrap();
        log.mark(0, u64::MAX);
        assert!(log.faulted());
    }

    #[test]
    fn how_large_a_log_must_be() {
        for (end, bytes) in [(0, 0), (1, 1), (0x8000, 1), (0x8001, 2), (1 << 30, 0x8000), (u64::MAX, 1 << 49)] {
            assert_eq!(DirtyLog::needed(end), bytes, "{end:#x}");
        }
    }
}
