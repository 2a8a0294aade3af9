//! Guest memory: a memfd, mapped, with a simple allocator.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Where guest-physical memory starts.
const GUEST_BASE: u64 = 0x4000_0000;

/// Guest memory of a fixed size. Not shared between threads of the driver.
pub struct Ram {
    file: OwnedFd,
    start: NonNull<u8>,
    size: u64,
    allocated: Cell<u64>,
}

// SAFETY: the mapping belongs to this value; all access goes through it.
unsafe impl Send for Ram {}

impl Ram {
    /// Memory of `size` bytes, in pages of 4 KiB, or of 2 MiB with `huge`.
    ///
    /// # Panics
    /// When the kernel has no memory for it.
    pub fn new(size: u64, huge: bool) -> Self {
        let flags = if huge { MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { MemfdFlags::empty() };
        let file = rustix::fs::memfd_create("guest", flags | MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, size).expect("memory for the guest");
        Self::of_file(file, size)
    }

    /// The first `size` bytes of a file, which has as many.
    ///
    /// # Panics
    /// When the kernel does not map it.
    pub fn of_file(file: OwnedFd, size: u64) -> Self {
        let start = map(file.as_fd(), size).expect("mmap of the guest's memory");
        Self { file, start, size, allocated: Cell::new(0) }
    }

    /// Whether [`Self::of_file`] finds a page for each byte: the kernel does not promise huge pages that it does not have.
    pub fn can_be(file: BorrowedFd<'_>, size: u64) -> bool {
        // SAFETY: what was mapped is unmapped, once.
        map(file, size).is_ok_and(|start| unsafe { rustix::mm::munmap(start.as_ptr().cast(), size as usize) }.is_ok())
    }

    /// The file to share with a backend.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Guest address of the first byte.
    pub fn guest_address(&self) -> u64 {
        GUEST_BASE
    }

    /// User address of the first byte: where it is mapped here.
    pub fn user_address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The user address of a guest address.
    pub fn user(&self, guest: u64) -> u64 {
        guest - GUEST_BASE + self.user_address()
    }

    /// Sets aside `length` bytes with the given alignment, for ever; returns their guest address.
    ///
    /// # Panics
    /// When the memory is used up.
    pub fn allocate(&self, length: u64, align: u64) -> u64 {
        let at = self.allocated.get().next_multiple_of(align);
        assert!(at + length <= self.size, "guest memory of {} bytes is used up", self.size);
        self.allocated.set(at + length);
        GUEST_BASE + at
    }

    /// Makes it as it was when it was new: all zero, nothing set aside.
    pub fn clear(&self) {
        // SAFETY: the whole mapping.
        unsafe { self.start.as_ptr().write_bytes(0, self.size as usize) };
        self.allocated.set(0);
    }

    /// As [`Self::clear`], where nothing can have been written but in these ranges: guest addresses and lengths.
    ///
    /// # Panics
    /// Outside of the memory.
    pub fn clear_only(&self, ranges: &[(u64, u64)]) {
        for &(guest, length) in ranges {
            // SAFETY: `at` checks the range.
            unsafe { self.at(guest, length as usize).write_bytes(0, length as usize) };
        }
        self.allocated.set(0);
    }

    /// Writes bytes at a guest address.
    ///
    /// # Panics
    /// Outside of the memory.
    pub fn write(&self, guest: u64, bytes: &[u8]) {
        // SAFETY: `at` checks the range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(guest, bytes.len()), bytes.len()) }
    }

    /// Reads bytes at a guest address.
    ///
    /// # Panics
    /// Outside of the memory.
    pub fn read(&self, guest: u64, bytes: &mut [u8]) {
        // SAFETY: `at` checks the range.
        unsafe { std::ptr::copy_nonoverlapping(self.at(guest, bytes.len()), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// The first place at which these bytes differ from those at a guest address, to which nobody writes meanwhile.
    ///
    /// # Panics
    /// Outside of the memory.
    pub fn difference(&self, guest: u64, bytes: &[u8]) -> Option<usize> {
        // SAFETY: `at` checks the range; the caller is the only one to write.
        let ours = unsafe { std::slice::from_raw_parts(self.at(guest, bytes.len()), bytes.len()) };
        if ours == bytes {
            return None;
        }
        // Long ones are compared many times as fast as single ones.
        let chunk = ours.chunks(CHUNK).zip(bytes.chunks(CHUNK)).position(|(ours, theirs)| ours != theirs)? * CHUNK;
        let place = ours[chunk..].iter().zip(&bytes[chunk..]).position(|(ours, theirs)| ours != theirs)?;
        Some(chunk + place)
    }

    /// The host pointer of a range.
    ///
    /// # Panics
    /// Outside of the memory.
    pub fn at(&self, guest: u64, length: usize) -> *mut u8 {
        let offset = guest.checked_sub(GUEST_BASE).expect("guest address");
        assert!(offset + length as u64 <= self.size, "guest address {guest:#x}+{length:#x}");
        // SAFETY: inside of the mapping.
        unsafe { self.start.as_ptr().add(offset as usize) }
    }
}

impl Ram {
    /// The same memory mapped once more, for a thread that plays a second processor of the guest.
    ///
    /// # Panics
    /// When the kernel cannot map it.
    pub fn alias(&self) -> Ram {
        let file = self.file.try_clone().expect("a descriptor");
        let ram = Self::of_file(file, self.size);
        ram.allocated.set(self.size);
        ram
    }

    /// Writes eight bytes at once at an aligned guest address, while others read them.
    ///
    /// # Panics
    /// Outside of the memory, or not aligned.
    pub fn store(&self, guest: u64, value: u64) {
        assert!(guest.is_multiple_of(8), "guest address {guest:#x} is not aligned");
        // SAFETY: `at` checks the range; aligned.
        unsafe { self.at(guest, 8).cast::<u64>().write_volatile(value) }
    }
}

fn map(file: BorrowedFd<'_>, size: u64) -> rustix::io::Result<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh shared mapping.
    let start =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), size as usize, protection, MapFlags::SHARED, file, 0) }?;
    NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size as usize) };
    }
}

/// How many bytes are compared at once.
const CHUNK: usize = 256;
