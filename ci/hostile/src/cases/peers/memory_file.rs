//! Guests whose memory is a file of any kind, and ways to take it from under them.
//!
//! A case must not look at a guest's rings or buffers any more once the file is shorter: that would end the case's own process.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use culvert_driver::{Interface, Ram, Shape};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, MemfdFlags};

use crate::guest::{Guest, RECEIVE, TRANSMIT, greet};
use crate::raw_frontend::{RawFrontend, RawRegion, memory_table, request};

/// What guests' memory can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// memfd_create(2), as QEMU's memory-backend-memfd.
    Memfd,
    /// A file on tmpfs.
    Tmpfs,
    /// A file on the file system of /var/tmp: ext4, mostly.
    Disk,
    /// Huge pages of 2 MiB.
    Huge,
}

/// Bytes of a guest's memory.
pub const SIZE: u64 = 0x20_0000;

/// Where the rings end and the buffers begin. culvert-driver lays out the descriptor table, the available and the used ring of
/// the receive ring, the same of the transmit ring, a page or less each, then the buffers.
pub const BUFFERS: u64 = 6 * 4096;

/// A file for a guest's memory; `None` where the machine has no huge pages to give, which is told.
///
/// # Errors
/// There can be no such file.
pub fn file(kind: Kind) -> Result<Option<OwnedFd>> {
    let file = match kind {
        Kind::Memfd => rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC)?,
        Kind::Tmpfs => unnamed(Path::new("/dev/shm"))?,
        Kind::Disk => unnamed(Path::new("/var/tmp"))?,
        Kind::Huge => {
            let Some(file) = unbacked_huge()? else { return Ok(None) };
            if !can_be_mapped(&file) {
                println!("     not played with huge pages, of which the kernel can give none at present");
                return Ok(None);
            }
            return Ok(Some(file));
        }
    };
    rustix::fs::ftruncate(&file, SIZE)?;
    Ok(Some(file))
}

/// Huge pages that nobody has reserved; `None` where the kernel has none, which is told.
///
/// # Errors
/// There can be no such file.
pub fn unbacked_huge() -> Result<Option<OwnedFd>> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    match rustix::fs::memfd_create("hostile", flags) {
        Ok(file) => {
            rustix::fs::ftruncate(&file, SIZE)?;
            Ok(Some(file))
        }
        Err(error) => {
            println!("     not played with huge pages, which this kernel does not have: {error}");
            Ok(None)
        }
    }
}

/// Whether the kernel gives the file's pages to whoever maps it: what cannot be reserved would end our process at the first touch.
fn can_be_mapped(file: &OwnedFd) -> bool {
    Ram::can_be(file.as_fd(), SIZE)
}

fn unnamed(folder: &Path) -> Result<OwnedFd> {
    let name = format!("culvert-hostile-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = folder.join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}

/// Huge pages that are lent to cases: no more than that are taken from the machine, and only while somebody uses them.
pub struct HugePages {
    before: String,
}

const POOL: &str = "/proc/sys/vm/nr_overcommit_hugepages";

impl HugePages {
    /// Lets the kernel give up to so many pages on demand; `None` where it cannot be told to, which is printed.
    pub fn lend(count: u32) -> Option<Self> {
        let before = std::fs::read_to_string(POOL);
        let lent = before.and_then(|before| std::fs::write(POOL, count.to_string()).map(|()| Self { before }));
        lent.inspect_err(|error| println!("     not played with huge pages: {POOL}: {error}")).ok()
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.trim());
    }
}

/// Connects a guest with its memory in a file: the rings in one region, the buffers in another.
///
/// # Errors
/// culvertd refuses it.
pub fn connect(socket: &Path, file: &OwnedFd) -> Result<Guest> {
    let interface = Interface::in_ram(Shape::default(), 1514, Ram::of_file(file.try_clone()?, SIZE));
    let frontend = RawFrontend::connect(socket)?;
    greet(&frontend, 1 << 32 | 1 << 15)?;
    let ram = interface.ram();
    let of = |start: u64, end: u64| RawRegion {
        guest_address: ram.guest_address() + start,
        size: end - start,
        user_address: ram.user_address() + start,
        offset: start,
    };
    let table = memory_table(2, &[of(0, BUFFERS), of(BUFFERS, SIZE)]);
    let files: [BorrowedFd; 2] = [file.as_fd(), file.as_fd()];
    frontend.must(request::SET_MEM_TABLE, &table, &files)?;
    let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
    let guest = Guest { interface, frontend, kicks: [event()?, event()?], calls: [event()?, event()?] };
    guest.start_ring(RECEIVE)?;
    guest.start_ring(TRANSMIT)?;
    Ok(guest)
}

/// Makes the file end at `length`: pages behind it are gone.
///
/// # Errors
/// The kernel's.
pub fn truncate(file: &OwnedFd, length: u64) -> Result<()> {
    Ok(rustix::fs::ftruncate(file, length)?)
}

/// Makes a hole: pages in it are gone, and are zero again when they are touched.
///
/// # Errors
/// The kernel's.
pub fn punch(file: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, start, end - start)?)
}
