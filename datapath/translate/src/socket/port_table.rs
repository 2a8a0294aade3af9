//! The table by which ports are steered: memory that we share with the kernel's program (`culvert-steer`).

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use culvert_steer::{Fate, TABLE_BYTES, UDP_AT};
use rustix::mm::{MapFlags, ProtFlags};

use crate::forward::Protocol;

/// The table, mapped.
#[derive(Debug)]
pub struct PortTable(NonNull<AtomicU8>);

// SAFETY: the mapping belongs to this value alone, and is only touched by atomic stores and loads.
unsafe impl Send for PortTable {}

impl PortTable {
    /// Maps the table that `table` is the descriptor of.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::InvalidInput`] for what is no table of the kernel's: it could vanish below us.
    pub fn map(table: impl AsFd) -> io::Result<Self> {
        // A file of anybody's could be cut short later. Of those without a name only such a table can be mapped and has
        // that length.
        if rustix::fs::fstatfs(&table)?.f_type != ANONYMOUS_FILES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                TABLE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &table,
                0,
            )
        }?;
        NonNull::new(start.cast()).map(Self).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What becomes of a port, from the next packet on.
    pub fn set(&self, protocol: Protocol, port: u16, fate: Fate) {
        let first = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => UDP_AT,
        };
        // SAFETY: the mapping has `TABLE_BYTES`, and a port of either protocol lies within; it lives as long as `self`.
        let byte = unsafe { self.0.add(first + usize::from(port)).as_ref() };
        if byte.load(Ordering::Relaxed) != fate as u8 {
            byte.store(fate as u8, Ordering::Relaxed);
        }
    }
}

impl Drop for PortTable {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, of this length, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), TABLE_BYTES) };
    }
}

/// The kernel's number of the file system in which BPF's maps are (ANON_INODE_FS_MAGIC of linux/magic.h).
const ANONYMOUS_FILES: i64 = 0x0904_1934;
